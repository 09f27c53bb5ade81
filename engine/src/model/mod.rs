//! Models: the table of architectures, and the trunk that all of them share.
//!
//! A model is an embedding, a stack of layers around a residual stream, a final norm and a head. An
//! architecture is one file beside this one with a type that implements `Layer`, and one row in
//! `ARCHITECTURES`. Equations, names and epsilons follow each file's source; tests:
//! `tests/parity_*.rs` against independent implementations.

mod bonus_heads;
mod channel_mix;
mod config;
mod mamba;
mod mamba1;
mod mamba2;
mod rwkv4;
mod rwkv5;
mod rwkv6;
mod rwkv7;
mod token_shift;

use std::any::Any;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use brooklet_formats::DType;
use brooklet_formats::brk::{BrkFile, Meta, OpenOptions};

use crate::buffers::{Acts, Panel, Room};
use crate::kernels::forms::Forms;
use crate::kernels::{Isa, norm};
use crate::state::{State, StateLayout};
use crate::team::{Buffers, Team};
use crate::tensor::{Loader, Mat, Vector};
use crate::tokenizer::Tokenizer;
use crate::{EngineError, Result};
pub(crate) use config::{Config, MAX_STATE};

/// A row of the table of architectures.
struct Architecture {
    /// Its name in the file.
    name: &'static str,
    /// Reads the layers from the file, and describes their state.
    load: fn(&Loader<'_>, &Config, &mut StateLayout) -> Result<Box<dyn Stack>>,
    /// The final norm.
    norm: fn(&Loader<'_>, &Config) -> Result<Norm>,
}

/// Every architecture that runs.
const ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "rwkv4", load: rwkv4::load, norm: Norm::layer_norm_out },
    Architecture { name: "rwkv5", load: rwkv5::load, norm: Norm::layer_norm_out },
    Architecture { name: "rwkv6", load: rwkv6::load, norm: Norm::layer_norm_out },
    Architecture { name: "rwkv7", load: rwkv7::load, norm: Norm::layer_norm_out },
    Architecture { name: "mamba1", load: mamba1::load, norm: Norm::rms_norm_f },
    Architecture { name: "mamba2", load: mamba2::load, norm: Norm::rms_norm_f },
];

/// One layer of an architecture: weights and, in `forward`, the equations.
pub(crate) trait Layer: Send + Sync + Sized + 'static {
    /// Buffers for the columns of a forward pass, shared by all layers.
    type Scratch: Send + 'static;

    /// Makes the buffers for the columns of `room`.
    fn scratch(layers: &[Self], room: &Room) -> Self::Scratch;

    /// Adds this layer's output to the residual stream `pass.x` and advances its part of every
    /// run's state.
    fn forward(&self, pass: &mut Pass<'_>, scratch: &mut Self::Scratch);
}

/// Layers of one kind, seen without their type.
pub(crate) trait Stack: Send + Sync {
    /// Buffers for the columns of `room`.
    fn scratch(&self, room: &Room) -> Box<dyn Any + Send>;
    /// Runs all layers.
    fn forward(&self, pass: &mut Pass<'_>, scratch: &mut (dyn Any + Send));
}

impl<L: Layer> Stack for Vec<L> {
    fn scratch(&self, room: &Room) -> Box<dyn Any + Send> {
        Box::new(L::scratch(self, room))
    }

    fn forward(&self, pass: &mut Pass<'_>, scratch: &mut (dyn Any + Send)) {
        let scratch = scratch.downcast_mut().expect("the scratch was made by this stack");
        for layer in self {
            layer.forward(pass, scratch);
        }
    }
}

/// How the columns of a forward pass belong to runs.
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    /// Number of columns: the tokens of all runs.
    pub(crate) columns: usize,
    /// The columns of each run; run i owns state i.
    pub(crate) spans: &'a [Range<usize>],
    /// The run of each column.
    pub(crate) runs: &'a [usize],
}

/// What a layer sees of a forward pass.
pub(crate) struct Pass<'a> {
    pub(crate) isa: Isa,
    pub(crate) team: &'a mut Team,
    pub(crate) batch: Batch<'a>,
    /// The residual stream (d_model) of every column.
    pub(crate) x: &'a mut Panel,
    /// The states of the runs.
    pub(crate) states: Buffers<'a>,
}

/// The norm before the head.
pub(crate) enum Norm {
    Layer { weight: Vector, bias: Vector, eps: f32 },
    Rms { weight: Vector, eps: f32 },
}

impl Norm {
    fn layer_norm_out(loader: &Loader<'_>, config: &Config) -> Result<Norm> {
        let eps = match config.optional_float("ln_out_eps")? {
            Some(eps) => eps,
            None => config.float("ln_eps")?,
        };
        Norm::layer(loader, "ln_out", config.d_model, eps)
    }

    fn rms_norm_f(loader: &Loader<'_>, config: &Config) -> Result<Norm> {
        Norm::rms(loader, "norm_f", config.d_model, config.float("norm_eps")?)
    }

    /// The layer norm `name.weight`, `name.bias`.
    pub(crate) fn layer(loader: &Loader<'_>, name: &str, n: usize, eps: f32) -> Result<Norm> {
        let weight = loader.vector(&format!("{name}.weight"), &[n])?;
        let bias = loader.vector(&format!("{name}.bias"), &[n])?;
        Ok(Norm::Layer { weight, bias, eps })
    }

    /// The RMS norm `name.weight`.
    pub(crate) fn rms(loader: &Loader<'_>, name: &str, n: usize, eps: f32) -> Result<Norm> {
        Ok(Norm::Rms { weight: loader.vector(&format!("{name}.weight"), &[n])?, eps })
    }

    /// y = norm(x).
    pub(crate) fn apply(&self, isa: Isa, x: &[f32], y: &mut [f32]) {
        match self {
            Norm::Layer { weight, bias, eps } => norm::layer_norm(isa, x, weight, bias, *eps, y),
            Norm::Rms { weight, eps } => norm::rms_norm(isa, x, weight, *eps, y),
        }
    }
}

/// Fewer or greater demands on how a model is opened.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// Map the file (the default) or copy it into memory.
    pub mmap: bool,
    /// The instruction set; `None` asks the environment and the processor.
    pub isa: Option<Isa>,
    /// What matrix states are kept as, f32 (the default) or f16: half the memory and half the
    /// traffic of a state, rounded after every token. Vectors stay f32, and with them all of
    /// RWKV-4's.
    pub state: DType,
}

impl Default for ModelOptions {
    fn default() -> Self {
        ModelOptions { mmap: true, isa: None, state: DType::F32 }
    }
}

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
    file: BrkFile,
    config: Config,
    isa: Isa,
    stack: Box<dyn Stack>,
    norm: Norm,
    embed: Mat,
    /// Absent when the embedding is the head.
    head: Option<Mat>,
    state_layout: Arc<StateLayout>,
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
    /// states than f32 and f16.
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
            Some(isa) if isa.available() => isa,
            Some(isa) => return Err(EngineError::Isa { name: isa.name().to_owned() }),
            None => Isa::from_env()?,
        };
        let meta = file.meta();
        let architecture =
            ARCHITECTURES.iter().find(|a| a.name == meta.architecture).ok_or_else(|| {
                EngineError::Architecture {
                    file: file.path().to_owned(),
                    found: meta.architecture.clone(),
                    known: ARCHITECTURES.iter().map(|a| a.name).collect::<Vec<_>>().join(", "),
                }
            })?;
        let config = Config::new(&file)?;
        let loader = Loader::new(&file);
        if !matches!(options.state, DType::F32 | DType::F16) {
            return Err(EngineError::NoStateFormat { found: options.state });
        }
        let mut state_layout = StateLayout::new(architecture.name, options.state);
        let stack = (architecture.load)(&loader, &config, &mut state_layout)?;
        if state_layout.len() > MAX_STATE {
            return Err(EngineError::StateSize {
                file: file.path().to_owned(),
                elements: state_layout.len(),
            });
        }
        let norm = (architecture.norm)(&loader, &config)?;
        let embed = loader.mat("embed", config.n_vocab, config.d_model)?;
        let head = loader.optional_mat("head", config.n_vocab, config.d_model)?;
        let state_layout = Arc::new(state_layout);
        log::debug!("{}: {} with {} kernels", file.path().display(), meta.architecture, isa.name());
        Ok(Model(Arc::new(Inner { file, config, isa, stack, norm, embed, head, state_layout })))
    }

    /// The file behind the model.
    pub fn file(&self) -> &BrkFile {
        &self.0.file
    }

    /// What the file says of itself.
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

    /// Number of layers.
    pub fn n_layer(&self) -> usize {
        self.0.config.n_layer
    }

    /// The instruction set its kernels use.
    pub fn isa(&self) -> Isa {
        self.0.isa
    }

    /// A number that tells this model's weights from others'.
    pub fn fingerprint(&self) -> u64 {
        self.0.file.fingerprint()
    }

    /// What stands where in a state of this model.
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

    pub(crate) fn stack(&self) -> &dyn Stack {
        &*self.0.stack
    }

    pub(crate) fn norm(&self) -> &Norm {
        &self.0.norm
    }

    pub(crate) fn embed(&self) -> &Mat {
        &self.0.embed
    }

    pub(crate) fn head(&self) -> &Mat {
        self.0.head.as_ref().unwrap_or(&self.0.embed)
    }
}

/// Room for one projection input of the matrices that will read it.
pub(crate) fn acts_for<'a>(room: &Room, readers: impl IntoIterator<Item = &'a Mat>) -> Acts {
    let mut k = 0;
    let mut forms = Forms::default();
    for mat in readers {
        k = mat.cols();
        forms = forms | mat.forms();
    }
    Acts::new(k, room, forms)
}
