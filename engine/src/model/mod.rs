//! Models: the table of architectures, and [`Model`].
//!
//! A model is a trunk (embedding, final norm, head) around a stack of layers. An architecture is
//! one page in `arch` with a type that implements `Layer`, made of `parts`, and one row in
//! `ARCHITECTURES`. Equations, names and epsilons follow each file's source; tests:
//! `tests/parity_*.rs` against independent implementations.

mod altered;
mod arch;
mod config;
mod layer;
mod norm;
mod parts;
mod pass;
mod trunk;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use brooklet_formats::DType;
use brooklet_formats::brk::{BrkFile, Meta, Moving, OpenOptions};
use serde_json::{Map, Value};

use crate::buffers::Workspace;
use crate::device::Device;
use crate::kernels::Isa;
use crate::ops::{List, Listing, Names, Unlisted};
use crate::state::{MAX_STATE, Paged, SlotRef, State, StateLayout};
use crate::tensor::{Loader, TensorSpec};
use crate::tokenizer::Tokenizer;
use crate::{EngineError, Result};
use arch::{Ahead, Beside, Block, Cells, Either, GRU, LSTM, Single};
use config::Config;
use layer::{Layer, Source, load};
pub(crate) use layer::{Ready, Stack};
use norm::Norm;
use parts::{
    Attention, CONSTANT, Convolved, DeltaHeads, Experts, GatedMlp, Hgrn, LatentAttention,
    LinearHeads, Mamba1, Mamba2, Mamba3, Memories, MesaHeads, Mlstm, OWN, RUNNING, ReluMlp, RgLru,
    Rodimus, Scaled, ShortConv, SlotHeads, TIED, Windowed,
};
pub(crate) use pass::{Pass, Streams};
pub(crate) use trunk::{Scratch as TrunkScratch, Trunk};

/// Reads some layers of a model.
type Load = fn(&Loader<'_>, &Config, &RefCell<StateLayout>, Range<usize>) -> Result<Box<dyn Stack>>;

/// A row of the table of architectures.
struct Architecture {
    /// Its name in the file.
    name: &'static str,
    /// Reads the layers from the file, and describes their state.
    layers: Load,
    /// The final norm.
    norm: fn(&Loader<'_>, &Config) -> Result<Norm>,
}

/// Every architecture that runs.
const ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "rwkv4", layers: load::<arch::Rwkv4>, norm: Trunk::ln_out },
    Architecture { name: "rwkv5", layers: load::<arch::Rwkv5>, norm: Trunk::ln_out },
    Architecture { name: "rwkv6", layers: load::<arch::Rwkv6>, norm: Trunk::ln_out },
    Architecture { name: "rwkv7", layers: load::<arch::Rwkv7>, norm: Trunk::ln_out },
    Architecture { name: "lstm", layers: load::<Cells<LSTM>>, norm: Trunk::unnormed },
    Architecture { name: "gru", layers: load::<Cells<GRU>>, norm: Trunk::unnormed },
    Architecture { name: "mamba1", layers: load::<Single<Mamba1>>, norm: Trunk::norm_f },
    Architecture { name: "mamba2", layers: load::<Single<Mamba2>>, norm: Trunk::norm_f },
    Architecture {
        name: "log_linear_mamba2",
        layers: load::<Block<Mamba2, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture { name: "mamba3", layers: load::<Single<Mamba3>>, norm: Trunk::norm_f },
    Architecture { name: "xlstm", layers: load::<Block<Mlstm, GatedMlp>>, norm: Trunk::norm_f },
    Architecture { name: "rodimus", layers: load::<Single<Rodimus>>, norm: Trunk::norm_f },
    Architecture {
        name: "rodimus_plus",
        layers: load::<Block<Rodimus, Ahead<Attention, GatedMlp>>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "deltanet",
        layers: load::<Block<DeltaHeads<false>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "gated_deltanet",
        layers: load::<Block<DeltaHeads<true>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "gated_deltaproduct",
        layers: load::<Block<DeltaHeads<true>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "kda",
        layers: load::<Block<DeltaHeads<true>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "kimi_linear",
        layers: load::<Block<Either<DeltaHeads<true>, LatentAttention>, Either<GatedMlp, Experts>>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "bailing_hybrid",
        layers: load::<Block<Either<DeltaHeads<true>, LatentAttention>, Either<GatedMlp, Experts>>>,
        norm: Trunk::norm_f,
    },
    Architecture { name: "mom", layers: load::<Block<Memories, GatedMlp>>, norm: Trunk::norm_f },
    Architecture {
        name: "mesa_net",
        layers: load::<Block<MesaHeads, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "comba",
        layers: load::<Block<DeltaHeads<true>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "gla",
        layers: load::<Block<LinearHeads<OWN>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "hgrn2",
        layers: load::<Block<LinearHeads<TIED>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "retnet",
        layers: load::<Block<LinearHeads<CONSTANT>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "minimax",
        layers: load::<Block<Either<LinearHeads<CONSTANT>, Attention>, Experts>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "lightnet",
        layers: load::<Block<LinearHeads<RUNNING>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture { name: "hgrn", layers: load::<Block<Hgrn, GatedMlp>>, norm: Trunk::norm_f },
    Architecture { name: "gsa", layers: load::<Block<SlotHeads, GatedMlp>>, norm: Trunk::norm_f },
    Architecture {
        name: "granitemoehybrid",
        layers: load::<Block<Either<Mamba2, Attention>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "granitemoehybrid_moe",
        layers: load::<Block<Either<Mamba2, Attention>, Experts>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "bamba",
        layers: load::<Block<Either<Mamba2, Attention>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "falcon_h1",
        layers: load::<Block<Beside<Mamba2, Attention>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "zaya",
        layers: load::<Block<Scaled<Attention>, Scaled<Experts>>>,
        norm: Trunk::norm_f,
    },
    Architecture { name: "zamba", layers: load::<arch::Zamba<Mamba1>>, norm: Trunk::norm_f },
    Architecture { name: "zamba2", layers: load::<arch::Zamba<Mamba2>>, norm: Trunk::norm_f },
    Architecture {
        name: "olmo_hybrid",
        layers: load::<Block<Either<DeltaHeads<true>, Attention>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "nemotron_h",
        layers: load::<Single<Either<Mamba2, Either<Attention, Either<ReluMlp, Experts>>>>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "jamba",
        layers: load::<Block<Either<Mamba1, Attention>, Either<GatedMlp, Experts>>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "lfm2",
        layers: load::<Block<Either<ShortConv, Attention>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "lfm3",
        layers: load::<Block<Either<ShortConv, Attention>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "recurrent_gemma",
        layers: load::<Block<Either<RgLru, Attention>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "samba",
        layers: load::<Block<Either<Mamba1, Attention>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "lfm2_moe",
        layers: load::<Block<Either<ShortConv, Attention>, Either<GatedMlp, Experts>>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "qwen3_5",
        layers: load::<Block<Either<DeltaHeads<true>, Attention>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "qwen3_5_moe",
        layers: load::<Block<Either<DeltaHeads<true>, Attention>, Experts>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "lara_mini",
        layers: load::<Block<Either<DeltaHeads<true>, Attention>, Experts>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "inkling",
        layers: load::<
            Block<Convolved<Either<Windowed, Attention>>, Convolved<Either<GatedMlp, Experts>>>,
        >,
        norm: Trunk::norm_f,
    },
    Architecture { name: "qwen4_exp", layers: load::<arch::Qwen4>, norm: Trunk::unnormed },
    Architecture {
        name: "qwen3_next",
        layers: load::<Block<Either<DeltaHeads<true>, Attention>, Either<GatedMlp, Experts>>>,
        norm: Trunk::norm_f,
    },
];

impl Architecture {
    /// The one that `file` names.
    fn named(name: &str, file: &Path) -> Result<&'static Architecture> {
        ARCHITECTURES.iter().find(|a| a.name == name).ok_or_else(|| EngineError::Architecture {
            file: file.to_owned(),
            found: name.to_owned(),
            known: ARCHITECTURES.iter().map(|a| a.name).collect::<Vec<_>>().join(", "),
        })
    }

    /// Takes everything out of `loader`.
    fn load(
        &self,
        loader: &Loader<'_>,
        config: &Config,
        (state, window): (DType, Option<usize>),
    ) -> Result<(Box<dyn Stack>, Trunk, StateLayout)> {
        let layout = RefCell::new(StateLayout::new(self.name, state).with_window(window));
        let stack = (self.layers)(loader, config, &layout, 0..config.n_layer)?;
        let d_embed = stack.input().unwrap_or(config.d_model);
        let trunk = Trunk::load(loader, config, d_embed, (self.norm)(loader, config)?)?;
        Ok((stack, trunk, layout.into_inner()))
    }
}

/// Each tensor once: parts side by side ask for the same norm.
fn without_repeats(mut tensors: Vec<TensorSpec>) -> Vec<TensorSpec> {
    let mut names = HashSet::new();
    tensors.retain(|tensor| names.insert(tensor.name.clone()));
    tensors
}

/// Options for opening a model.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ModelOptions {
    /// Map the file (the default) or copy it into memory.
    pub mmap: bool,
    /// The instruction set; `None` asks the environment and the processor.
    pub isa: Option<Isa>,
    /// The format of matrix states, and of keys and values of attention. f32 (the default); f16:
    /// half the memory and half the traffic, matrices rounded after every token; int8, for models
    /// with attention: keys and values with one scale for each token and head, matrices in f16.
    /// Vectors stay f32, and with them all of RWKV-4's.
    pub state: DType,
    /// The most tokens of a text that a model with attention takes, if fewer than its file says. A
    /// state grows as tokens come, so that this bounds its memory.
    pub context: Option<usize>,
    /// Where layers attend to every token, they attend to the last so many instead, and to the
    /// first four (Xiao et al. 2023, arXiv 2309.17453; keys keep the positions that they have in
    /// the text). A state is of constant size then and a text of any length, at an error: what
    /// lies between is forgotten.
    pub window: Option<usize>,
    /// Where it runs.
    pub device: Device,
    /// A large mapped file that lies in small pages moves into huge pages of this process's memory
    /// while the processor runs it, if as much again is left: read faster, and no longer shared
    /// with other processes. Linux; off.
    pub huge_pages: bool,
}

impl Default for ModelOptions {
    fn default() -> Self {
        ModelOptions {
            mmap: true,
            isa: None,
            state: DType::F32,
            context: None,
            window: None,
            device: Device::Cpu,
            huge_pages: false,
        }
    }
}

impl ModelOptions {
    /// The defaults; options are set one after the other: `ModelOptions::new().state(DType::F16)`.
    pub fn new() -> Self {
        Self::default()
    }

    setters! { mmap: bool, state: DType, device: Device, huge_pages: bool }
    optional_setters! { isa: Isa, context: usize, window: usize }
}

/// A window must change something, and see its own token.
fn check_window(file: &BrkFile, layout: &StateLayout, window: usize) -> Result<()> {
    let is_used = |piece: &Paged| piece.window.first > 0;
    if window > 0 && layout.paged().iter().any(is_used) {
        return Ok(());
    }
    Err(EngineError::NoWindow { file: file.path().to_owned(), window })
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
            moving: options.huge_pages.then(OnceLock::new),
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

    /// A forward pass as operations.
    ///
    /// # Errors
    /// A part of it has none.
    pub(crate) fn list(&self) -> Result<List<'_>> {
        let unlisted =
            |Unlisted(part)| EngineError::NotListed { file: self.file().path().to_owned(), part };
        if self.width() != self.d_model() {
            return Err(unlisted(Unlisted("embeddings of another width")));
        }
        let mut list = List::default();
        self.trunk().list_embed(&mut list, self.width());
        self.0.stack.list(&mut list).map_err(unlisted)?;
        self.trunk().list_logits(&mut list);
        if let Err(misfit) = list.check() {
            log::debug!("{}: {misfit:?}", self.meta().architecture);
            return Err(unlisted(Unlisted("layers of these sizes")));
        }
        Ok(list)
    }

    /// A forward pass as operations, for people: one a line, in stages for a device with so many
    /// blocks (multiprocessors of a card).
    ///
    /// ```
    /// let model = brooklet::Model::open("../models/rwkv7-nano-int8.brk")?;
    /// assert!(model.operations(132)?.contains("sum of 64 each"));
    /// # Ok::<(), brooklet::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// A part of it has none, and runs on the processor alone.
    pub fn operations(&self, blocks: usize) -> Result<String> {
        let names = FileNames::new(self);
        Ok(Listing { list: &self.list()?, names: &names, blocks: blocks.max(1) }.to_string())
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

/// The names that a model's file and its states have for what a list refers to.
struct FileNames<'a> {
    tensors: HashMap<*const u8, &'a str>,
    layout: &'a StateLayout,
}

impl FileNames<'_> {
    fn new(model: &Model) -> FileNames<'_> {
        let tensors = model.file().tensors().iter().filter_map(|info| {
            let tensor = model.file().tensor(&info.name)?;
            Some((tensor.bytes.as_ptr(), &*info.name))
        });
        FileNames { tensors: tensors.collect(), layout: model.state_layout() }
    }
}

impl Names for FileNames<'_> {
    fn tensor(&self, first: *const u8) -> &str {
        self.tensors.get(&first).copied().unwrap_or("part of a tensor")
    }

    fn slot(&self, slot: SlotRef) -> String {
        let place = |line: usize| self.layout.slots().iter().find(|slot| slot.starts_at(line));
        let slot = place(slot.lines().start);
        slot.map_or(String::new(), |slot| format!("state {}.{}", slot.layer, slot.name))
    }
}
