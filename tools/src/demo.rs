//! The demo model that `run` and `chat` use when none is named: `$BROOKLET_MODEL`, or the one
//! inside the program.
//!
//! A program built without the feature `demo` looks for a file instead: in `models/` beside the
//! executable, in `../share/brooklet/models` of an installation, in `models/` of the folders above
//! the executable (a build folder inside a clone), in `./models`. Test: `tests/cli/demo.rs`.

use std::path::{Path, PathBuf};

use brooklet::Model;

use crate::args::EngineArgs;
use crate::failure::Result;

/// The model that was named, else the demo model; [`open`] takes it.
pub(crate) fn model_or_demo(named: Option<&Path>) -> Result<PathBuf> {
    let variable = || std::env::var_os("BROOKLET_MODEL").filter(|path| !path.is_empty());
    match named.map(Path::to_owned).or_else(|| variable().map(PathBuf::from)) {
        Some(path) => Ok(path),
        None => place::demo(),
    }
}

/// Whether [`model_or_demo`] gave the one inside the program.
pub(crate) fn is(path: &Path) -> bool {
    place::is_built_in(path)
}

/// Opens a `.brk` file, or the one inside the program.
pub(crate) fn open(path: &Path, engine: &EngineArgs, quiet: bool) -> Result<Model> {
    if place::is_built_in(path) { place::open(engine, quiet) } else { engine.open(path, quiet) }
}

/// Inside the program.
#[cfg(feature = "demo")]
mod place {
    use std::path::{Path, PathBuf};

    use brooklet::Model;
    use brooklet_formats::brk::BrkFile;

    use crate::args::EngineArgs;
    use crate::failure::Result;

    /// Its name in messages. A file of that name is reached as `./the demo model`.
    const NAME: &str = "the demo model";

    /// Aligned as the weights inside must be, which are used in place.
    #[repr(align(64))]
    struct Aligned<T: ?Sized>(T);

    static MODEL: &Aligned<[u8]> = &Aligned(*include_bytes!("../../models/rwkv7-nano-int8.brk"));

    pub(super) fn demo() -> Result<PathBuf> {
        Ok(NAME.into())
    }

    pub(super) fn is_built_in(path: &Path) -> bool {
        path == Path::new(NAME)
    }

    pub(super) fn open(engine: &EngineArgs, quiet: bool) -> Result<Model> {
        engine
            .on_a_device(|options| Model::from_file(BrkFile::from_bytes(&MODEL.0)?, options), quiet)
    }
}

/// In a file somewhere.
#[cfg(not(feature = "demo"))]
mod place {
    use std::path::{Path, PathBuf};

    use brooklet::Model;

    use crate::args::EngineArgs;
    use crate::failure::{Failure, Result};

    fn nothing() -> Failure {
        Failure::usage(
            "no model was named and no demo model found",
            "type `brooklet run MODEL.brk -p PROMPT`, or set BROOKLET_MODEL",
        )
    }

    pub(super) fn demo() -> Result<PathBuf> {
        folders().iter().find_map(|folder| first_model(folder)).ok_or_else(nothing)
    }

    pub(super) fn is_built_in(_: &Path) -> bool {
        false
    }

    pub(super) fn open(_: &EngineArgs, _: bool) -> Result<Model> {
        Err(nothing())
    }

    fn folders() -> Vec<PathBuf> {
        let mut folders = Vec::new();
        let executable =
            std::env::current_exe().and_then(|path| path.canonicalize()).unwrap_or_default();
        if let Some(folder) = executable.parent() {
            folders.push(folder.join("models"));
            folders.push(folder.join("../share/brooklet/models"));
            folders.extend(folder.ancestors().skip(1).map(|above| above.join("models")));
        }
        folders.push("models".into());
        folders
    }

    /// The first model of a folder, by name.
    fn first_model(folder: &Path) -> Option<PathBuf> {
        let entries = std::fs::read_dir(folder).ok()?;
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths.filter(|path| path.extension().is_some_and(|e| e == "brk") && path.is_file()).min()
    }
}
