//! Models: [`Model`], and what it is made of.
//!
//! A model is a trunk (embedding, final norm, head) around a stack of layers. An architecture is
//! one page in `arch` with a type that implements `Layer`, made of `parts`, and one row in
//! `architectures`. Equations, names and epsilons follow each file's source; tests:
//! `tests/parity_*.rs` against independent implementations.

mod altered;
mod arch;
mod architectures;
mod config;
mod layer;
mod listing;
mod norm;
mod options;
mod parts;
mod pass;
mod trunk;

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use brooklet_formats::DType;
use brooklet_formats::brk::{BrkFile, Meta, Moving, OpenOptions};
use serde_json::{Map, Value};

use crate::buffers::Workspace;
use crate::device::Device;
use crate::kernels::Isa;
use crate::state::{MAX_STATE, Paged, State, StateLayout};
use crate::tensor::{Loader, TensorSpec};
use crate::tokenizer::Tokenizer;
use crate::{EngineError, Result};
use architectures::Architecture;
use config::Config;
use layer::{Layer, Source};
pub(crate) use layer::{Ready, Stack};
use norm::Norm;
pub use options::ModelOptions;
pub(crate) use pass::{Pass, Streams};
pub(crate) use trunk::{Scratch as TrunkScratch, Trunk};

/// An opened model: weights in the mapped file, read-only, cheap to clone, usable from many
/// threads.
///
/// ```
/// let model = brooklet::Model::open("../models/rwkv7-nano-int8.brk")?;
/// assert_eq!((model.meta().architecture.as_str(), model.n_layer()), ("rwkv7", 6));
/// println!("{} tokens, {} bytes of state", model.n_vocab(), model.state_layout().bytes());
/// # Ok::<(), brooklet::EngineError>(())
/// ```
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    /// Its file on its way into huge pages, once a pass has begun that; first, so that it ends
    /// before the others.
    moving: Option<OnceLock<Option<Moving>>>,
    file: BrkFile,
    config: Config,
    isa: Isa,
    stack: Box<dyn Stack>,
    trunk: Trunk,
    state_layout: Arc<StateLayout>,
    device: Device,
    /// Its weights on a card.
    #[cfg(feature = "cuda")]
    loaded: std::sync::OnceLock<Arc<crate::cuda::Loaded>>,
}

impl Model {
    /// Opens the `.brk` file at `path`.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or holds an architecture that this version does not
    /// run.
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        Model::open_with(path, &ModelOptions::default())
    }

    /// [`Model::open`] with options.
    ///
    /// # Errors
    /// As [`Model::open`]; also an instruction set that this machine lacks, or another format for
    /// states than f32, f16 and, of a model with attention, int8.
    pub fn open_with(path: impl AsRef<Path>, options: &ModelOptions) -> Result<Model> {
        let file = BrkFile::open_with(path.as_ref(), OpenOptions { mmap: options.mmap })?;
        Model::from_file(file, options)
    }

    /// The model in an opened file.
    ///
    /// # Errors
    /// As [`Model::open_with`].
    pub fn from_file(file: BrkFile, options: &ModelOptions) -> Result<Model> {
        let isa = match options.isa {
            Some(isa) => isa,
            None => Isa::from_env()?,
        };
        let meta = file.meta();
        let architecture = Architecture::named(&meta.architecture, file.path())?;
        let config = Config::new(file.path(), &meta.config)?;
        if !matches!(options.state, DType::F32 | DType::F16 | DType::Int8) {
            return Err(EngineError::NoStateFormat { found: options.state });
        }
        let (stack, trunk, mut state_layout) =
            architecture.load(&Loader::File(&file), &config, (options.state, options.window))?;
        if let Some(window) = options.window {
            check_window(&file, &state_layout, window)?;
        }
        if state_layout.len() > MAX_STATE {
            return Err(EngineError::StateSize {
                file: file.path().to_owned(),
                elements: state_layout.len(),
                limit: MAX_STATE,
            });
        }
        if options.state == DType::Int8 && state_layout.paged().is_empty() {
            return Err(EngineError::NoKeys { file: file.path().to_owned() });
        }
        state_layout.bound(options.context.unwrap_or(usize::MAX));
        let state_layout = Arc::new(state_layout);
        log::debug!("{}: {} with {} kernels", file.path().display(), meta.architecture, isa.name());
        let device = options.device;
        let inner = Inner {
            // A model on a card reads its file once.
            moving: (options.huge_pages && device == Device::Cpu).then(OnceLock::new),
            file,
            config,
            isa,
            stack,
            trunk,
            state_layout,
            device,
            #[cfg(feature = "cuda")]
            loaded: std::sync::OnceLock::new(),
        };
        let model = Model(Arc::new(inner));
        if device != Device::Cpu {
            // A list that does not exist is said before a card is asked.
            let _list = model.list()?;
            #[cfg(feature = "cuda")]
            if let Device::Cuda(number) = device {
                let loaded = {
                    let card = crate::cuda::Card::open(number)?;
                    crate::cuda::Loaded::new(card, &_list, model.state_layout().bytes())?
                };
                log::debug!(
                    "{}: {} bytes on the card",
                    model.file().path().display(),
                    loaded.bytes()
                );
                let _ = model.0.loaded.set(Arc::new(loaded));
            }
        }
        Ok(model)
    }

    /// The tensors that a model of this architecture and these hyper-parameters takes out of its
    /// file.
    ///
    /// ```
    /// let model = brooklet::Model::open("../models/rwkv7-nano-int8.brk")?;
    /// let meta = model.meta();
    /// let tensors = brooklet::Model::tensors(&meta.architecture, &meta.config)?;
    /// let needed = tensors.iter().filter(|tensor| !tensor.is_optional);
    /// assert!(needed.clone().count() > 100);
    /// assert!(needed.clone().all(|tensor| model.file().tensor(&tensor.name).is_some()));
    /// # Ok::<(), brooklet::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// The architecture is not known, or a hyper-parameter is absent or cannot be.
    pub fn tensors(architecture: &str, config: &Map<String, Value>) -> Result<Vec<TensorSpec>> {
        let file = Path::new("(hyper-parameters)");
        let architecture = Architecture::named(architecture, file)?;
        let asked = RefCell::default();
        let config = Config::new(file, config)?;
        architecture.load(&Loader::Record(&asked), &config, (DType::F32, None))?;
        Ok(without_repeats(asked.into_inner()))
    }

    /// The tensors that layer `layer` takes out of the file.
    pub(crate) fn tensors_of(&self, layer: usize) -> Result<Vec<TensorSpec>> {
        let asked = RefCell::default();
        self.load_layer(layer, &Loader::Record(&asked))?;
        Ok(without_repeats(asked.into_inner()))
    }

    /// Layer `layer` out of `loader`, and the layout of its state alone.
    pub(crate) fn load_layer(
        &self,
        layer: usize,
        loader: &Loader<'_>,
    ) -> Result<(Box<dyn Stack>, StateLayout)> {
        let inner = &*self.0;
        let architecture = Architecture::named(&self.meta().architecture, inner.file.path())?;
        let layout = RefCell::new(StateLayout::new(architecture.name, DType::F32));
        let stack = (architecture.layers)(loader, &inner.config, &layout, layer..layer + 1)?;
        Ok((stack, layout.into_inner()))
    }

    /// The file behind the model.
    pub fn file(&self) -> &BrkFile {
        &self.0.file
    }

    /// The file's metadata.
    pub fn meta(&self) -> &Meta {
        self.0.file.meta()
    }

    /// Tokens in the vocabulary: the length of a row of logits.
    pub fn n_vocab(&self) -> usize {
        self.0.config.n_vocab
    }

    /// Width of the residual stream.
    pub fn d_model(&self) -> usize {
        self.0.config.d_model
    }

    /// The length of texts, in tokens, that the model was trained on, where its file says it. What
    /// it writes may fall apart behind that (see `horizon`).
    pub fn trained_length(&self) -> Option<usize> {
        let of = |name: &str| self.0.config.optional_size(name).ok().flatten();
        of("n_trained").or_else(|| of("n_context"))
    }

    /// Number of layers.
    pub fn n_layer(&self) -> usize {
        self.0.config.n_layer
    }

    /// The processor is about to read its weights: they move into huge pages, if that was asked
    /// for.
    pub(crate) fn settle(&self) {
        if let Some(moving) = &self.0.moving {
            moving.get_or_init(|| self.0.file.into_huge_pages());
        }
    }

    /// Where it runs.
    pub fn device(&self) -> Device {
        self.0.device
    }

    /// Its weights on a card, if it runs on one.
    #[cfg(feature = "cuda")]
    pub(crate) fn loaded(&self) -> Option<&Arc<crate::cuda::Loaded>> {
        self.0.loaded.get()
    }

    /// The instruction set its kernels use.
    pub fn isa(&self) -> Isa {
        self.0.isa
    }

    /// A number that tells this model's weights from others'.
    pub fn fingerprint(&self) -> u64 {
        self.0.file.fingerprint()
    }

    /// The layout of this model's states.
    pub fn state_layout(&self) -> &StateLayout {
        &self.0.state_layout
    }

    /// A new state: before the first token.
    pub fn new_state(&self) -> State {
        State::new(Arc::clone(&self.0.state_layout), self.fingerprint())
    }

    /// The tokenizer that the file carries.
    ///
    /// # Errors
    /// The file carries one that cannot be read.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::from_meta(self.meta().tokenizer.kind.name(), &self.0.file.tokenizer_blob()?)
    }

    /// The layers, with buffers for the columns of `workspace`.
    pub(crate) fn layers(&self, workspace: &Workspace) -> Box<dyn Ready> {
        self.0.stack.ready(workspace)
    }

    /// The panels that go through all layers, with the columns of `workspace`.
    pub(crate) fn streams(&self, workspace: &Workspace) -> Streams {
        Streams::new(self.width(), self.second(), workspace)
    }

    /// Values of a column of the residual stream: d_model, or those of a wider embedding.
    pub(crate) fn width(&self) -> usize {
        self.0.stack.input().unwrap_or(0).max(self.d_model())
    }

    /// Values of the second stream through the layers.
    pub(crate) fn second(&self) -> usize {
        self.0.stack.second()
    }

    pub(crate) fn trunk(&self) -> &Trunk {
        &self.0.trunk
    }
}

/// Each tensor once: parts side by side ask for the same norm.
fn without_repeats(mut tensors: Vec<TensorSpec>) -> Vec<TensorSpec> {
    let mut names = HashSet::new();
    tensors.retain(|tensor| names.insert(tensor.name.clone()));
    tensors
}

/// A window must change something, and see its own token.
fn check_window(file: &BrkFile, layout: &StateLayout, window: usize) -> Result<()> {
    let is_used = |piece: &Paged| piece.window.first > 0;
    if window > 0 && layout.paged().iter().any(is_used) {
        return Ok(());
    }
    Err(EngineError::NoWindow { file: file.path().to_owned(), window })
}
