//! Where a model comes from: a `.brk` file, a checkpoint by way of a conversion, or the demo model
//! inside this module; and on which device it is opened.
//!
//! Not here: the conversion (`conversion`), and the cache folder (`brooklet_cached`). Test:
//! `tests/test_model.py`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use brooklet::{Device, Engine, EngineError, Model, ModelOptions, Text};
use brooklet_cached::{DTYPE, Place, checkpoint_at};
use brooklet_formats::DType;
use brooklet_formats::brk::BrkFile;
use brooklet_formats::checkpoint::Checkpoint;
use brooklet_formats::convert::ConvertOptions;
use pyo3::prelude::*;

use crate::conversion::{self, Progress};
use crate::devices;
use crate::errors::{Failure, Result};
use crate::held::Held;
use crate::model::Opened;

/// A state of this many bytes is large.
const LARGE_STATE: u64 = 256 << 20;

/// All that it takes to open a model again, in another process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    /// The `.brk` file; none for the demo model.
    pub(crate) file: Option<PathBuf>,
    pub(crate) device: String,
    pub(crate) state: String,
    pub(crate) context: Option<usize>,
    pub(crate) window: Option<usize>,
    pub(crate) mmap: bool,
    pub(crate) threads: usize,
    pub(crate) allow_large_state: bool,
}

/// The demo model, aligned as the weights inside must be, which are used in place.
#[repr(align(64))]
struct Aligned<T: ?Sized>(T);

static DEMO: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../models/rwkv7-nano-int8.brk"));

/// How checkpoints are converted on the way.
pub(crate) struct Conversion {
    pub(crate) dtype: Option<DType>,
    pub(crate) cache: Option<PathBuf>,
    pub(crate) progress: Option<Py<PyAny>>,
}

/// The file of a model that somebody names: a checkpoint is converted, unless that was done before.
///
/// # Errors
/// It is a checkpoint and cannot be converted, or it is none and a number format was asked for.
pub(crate) fn file_of(path: &Path, conversion: Conversion) -> Result<PathBuf> {
    match checkpoint_at(path)? {
        Some(checkpoint) => converted(path, &checkpoint, conversion),
        None if conversion.dtype.is_some() && path.exists() => Err(Failure::Argument(format!(
            "{}: this is no checkpoint, its number formats stay: leave dtype away",
            path.display()
        ))),
        None => Ok(path.to_owned()),
    }
}

fn converted(path: &Path, checkpoint: &Checkpoint, conversion: Conversion) -> Result<PathBuf> {
    let dtype = conversion.dtype.unwrap_or(DTYPE);
    let folder = conversion.cache.or_else(brooklet_cached::folder).ok_or_else(|| {
        Failure::File("there is no cache folder: set XDG_CACHE_HOME, or give cache".to_owned())
    })?;
    let place = Place::new(folder, path, checkpoint, dtype);
    let file = place.file();
    if place.is_there() {
        return Ok(file);
    }
    place.make_folder().map_err(|error| {
        let folder = place.folder().display();
        Failure::File(format!("cannot create the cache folder {folder}: {error}"))
    })?;
    // Whatever has the name there and is no model is ours, damaged.
    let options = ConvertOptions { force: true, ..ConvertOptions::new(dtype) };
    let mut progress = Progress::new(conversion.progress);
    match conversion::rounded(path, &file, &options, &mut progress) {
        // Another process has made it, and the system replaces no file that is in use.
        Err(Failure::Engine(_)) if place.is_there() => {}
        done => drop(done?),
    }
    place.remove_older();
    Ok(file)
}

/// The models that are open, for those who unpickle what belongs to them.
static OPEN: Mutex<Option<HashMap<Origin, Weak<Opened>>>> = Mutex::new(None);

/// Opens a model. `shared` takes one that is open already.
///
/// # Errors
/// The engine's.
pub(crate) fn open(origin: Origin, shared: bool) -> Result<Arc<Opened>> {
    if shared && let Some(opened) = known(&origin) {
        return Ok(opened);
    }
    let model = on_a_device(&origin)?;
    check_state(&model, &origin)?;
    let text = Text::of(&model)?;
    let opened = Arc::new(Opened { model, text, origin, scorer: Held::new(None) });
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let open = open.get_or_insert_default();
    open.retain(|_, opened| opened.strong_count() > 0);
    open.insert(opened.origin.clone(), Arc::downgrade(&opened));
    Ok(opened)
}

fn known(origin: &Origin) -> Option<Arc<Opened>> {
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.as_ref()?.get(origin)?.upgrade()
}

fn on_a_device(origin: &Origin) -> Result<Model> {
    let state = DType::parse(&origin.state).ok_or_else(|| {
        Failure::Argument(format!("state {:?}: expected f32, f16 or int8", origin.state))
    })?;
    let open = |device: Device| -> Result<Model, EngineError> {
        let options = ModelOptions::new()
            .mmap(origin.mmap)
            .state(state)
            .context(origin.context)
            .window(origin.window)
            .device(device);
        let model = match &origin.file {
            Some(file) => Model::open_with(file, &options)?,
            None => Model::from_file(BrkFile::from_bytes(&DEMO.0)?, &options)?,
        };
        Engine::verify(&model)?;
        Ok(model)
    };
    devices::open(&origin.device, open)
}

/// Refuses a model whose state is large, and larger than the model: a small file that asks for much
/// memory is a mistake or an attack.
fn check_state(model: &Model, origin: &Origin) -> Result<()> {
    let (state, file) = (model.state_layout().bytes() as u64, model.file().file_len());
    if origin.allow_large_state || state < LARGE_STATE || state < file {
        return Ok(());
    }
    Err(Failure::File(format!(
        "{}: its state takes {state} bytes, though the file has only {file}: if the model is meant \
         to be so, say allow_large_state=True",
        model.file().path().display()
    )))
}
