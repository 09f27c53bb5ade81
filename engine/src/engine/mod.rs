//! The engine: runs forward passes of one model with a thread team and scratch memory of its own.
//!
//! A forward pass takes a batch of *runs*: each is a state, a span of tokens and which logits are
//! wanted. Decoding (one run, one token), prompts (one run, many), batched decoding and scoring are
//! the same code, and give the same bits. After the first pass nothing is allocated
//! (`tests/allocations.rs`).

mod alone;
mod backend;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "interpreter")]
mod interpreter;
mod logits;
#[cfg(any(feature = "cuda", feature = "interpreter"))]
mod verify;

use std::ops::Range;

use crate::buffers::Workspace;
#[cfg(feature = "cuda")]
use crate::cuda::CardPlan;
use crate::device::Device;
#[cfg(any(feature = "cuda", feature = "interpreter"))]
use crate::kernels::kept::PAGE;
use crate::model::Model;
use crate::stage::Batch;
use crate::state::State;
use crate::team::Team;
use crate::{EngineError, Result};
use backend::{Backend, Columns};
use cpu::Cpu;
pub use logits::Logits;

/// Tokens of a forward pass when nothing else is asked for.
pub const DEFAULT_CHUNK: usize = 64;
/// The same where a card reads them, unless another number is asked for.
#[cfg(feature = "cuda")]
const CARD_CHUNK: usize = 512;

/// The most tokens of a pass on a card. It reads its weights in some microseconds: it is busy with
/// more columns than a processor.
#[cfg(feature = "cuda")]
fn card_chunk(options: &EngineOptions) -> usize {
    if options.chunk == DEFAULT_CHUNK { CARD_CHUNK } else { options.chunk.max(1) }
}

/// How an [`Engine`] is set up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EngineOptions {
    /// The most threads, the caller's included; 0 means one per processor that this process may
    /// use. More than those never run, and fewer while more do not pay (a busy machine).
    pub threads: usize,
    /// The most tokens in one forward pass, of all runs together.
    pub chunk: usize,
    /// The most rows of logits in one forward pass.
    pub logits: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions { threads: 0, chunk: DEFAULT_CHUNK, logits: 1 }
    }
}

impl EngineOptions {
    /// The defaults; options are set one after the other: `EngineOptions::new().threads(2)`.
    pub fn new() -> Self {
        Self::default()
    }

    setters! { threads: usize, chunk: usize, logits: usize }
}

impl EngineOptions {
    /// A team of so many threads.
    pub(crate) fn team(&self) -> Team {
        let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Team::new(if self.threads == 0 { processors() } else { self.threads })
    }
}

/// Which logits of a run are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// None: the run only advances its state.
    None,
    /// Those after its last token.
    Last,
    /// Those after every token.
    All,
    /// Those after the last so many tokens; all, where it has fewer.
    Tail(usize),
}

/// One sequence's part in a forward pass.
pub struct Run<'a> {
    /// Where the sequence stands; advanced in place.
    pub state: &'a mut State,
    /// Its next tokens, at least one.
    pub tokens: &'a [u32],
    /// Which logits to compute.
    pub want: Want,
}

/// Runs forward passes of one model.
///
/// ```
/// use brooklet::{Engine, EngineOptions, Model, Run, Want};
///
/// let model = Model::open("../models/rwkv7-nano-int8.brk")?;
/// let mut engine = Engine::new(&model, &EngineOptions::new().logits(2));
/// let (mut a, mut b) = (model.new_state(), model.new_state());
/// engine.forward(&mut [
///     Run { state: &mut a, tokens: &[1, 2, 3], want: Want::Last },
///     Run { state: &mut b, tokens: &[4], want: Want::Last },
/// ])?; // both read the weights once
/// assert_ne!(engine.logits(0), engine.logits(1));
/// # Ok::<(), brooklet::EngineError>(())
/// ```
pub struct Engine {
    model: Model,
    backend: Box<dyn Backend>,
    chunk: usize,
    max_logits: usize,
    tokens: Vec<u32>,
    spans: Vec<Range<usize>>,
    runs: Vec<usize>,
    wanted: Vec<usize>,
}

impl Engine {
    /// An engine for `model`. Its memory is allocated here, its threads start with the first
    /// forward pass.
    pub fn new(model: &Model, options: &EngineOptions) -> Engine {
        Engine::make(model, model.device(), options, Workspace::new).0
    }

    /// The bytes that [`Engine::new`] would allocate, scratch of the forward pass and its logits,
    /// and those that its threads take when they first multiply by matrices in columns. Of a model
    /// on a card those of the machine's memory; [`Engine::card_plan`] has the card's.
    pub fn memory(model: &Model, options: &EngineOptions) -> usize {
        Engine::make(model, model.device(), options, Workspace::plan).1
    }

    /// What `model` would take, or takes, of a card's memory: where it runs does not matter, and no
    /// card is asked unless it runs on one.
    ///
    /// # Errors
    /// No card runs it: its layers have sizes that operations do not take.
    #[cfg(feature = "cuda")]
    pub fn card_plan(model: &Model, options: &EngineOptions) -> Result<CardPlan> {
        let size = model.loaded().map_or(cuda::Size::TYPICAL, |loaded| loaded.card().size());
        let list = model.list()?;
        cuda::plan(&list, model.state_layout().bytes(), card_chunk(options), size)
    }

    /// Lets the device that `model` runs on read some tokens, and this processor the same, and
    /// compares every bit of their logits: a card's driver compiles kernels anew for each kind of
    /// card, and nobody has tried all. It takes as long as some six tokens on the processor, and 70
    /// where a model has attention; no time where the processor runs it.
    ///
    /// ```
    /// let model = brooklet::Model::open("../models/rwkv7-nano-int8.brk")?;
    /// brooklet::Engine::verify(&model)?;
    /// # Ok::<(), brooklet::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// A logit differs; or the device failed.
    pub fn verify(model: &Model) -> Result<()> {
        match model.device() {
            Device::Cpu => Ok(()),
            #[cfg(any(feature = "cuda", feature = "interpreter"))]
            _ => verify::verify(model),
        }
    }

    /// A number for all that [`Engine::verify`] depends on: the model's file, the card's kind, its
    /// driver, the kernels. Whoever remembers it need not verify again; none on the processor.
    ///
    /// ```
    /// let model = brooklet::Model::open("../models/rwkv7-nano-int8.brk")?;
    /// assert_eq!(brooklet::Engine::verified_as(&model), None);
    /// # Ok::<(), brooklet::EngineError>(())
    /// ```
    pub fn verified_as(model: &Model) -> Option<u64> {
        #[cfg(feature = "cuda")]
        if let Some(loaded) = model.loaded() {
            let both = [model.fingerprint(), loaded.card().identity()].map(u64::to_le_bytes);
            return Some(xxhash_rust::xxh3::xxh3_64(both.as_flattened()));
        }
        let _ = model;
        None
    }

    /// Free bytes of the memory of the card that `model` runs on; none where it runs elsewhere.
    ///
    /// # Errors
    /// The card does not say.
    #[cfg(feature = "cuda")]
    pub fn card_free(model: &Model) -> Result<Option<usize>> {
        model.loaded().map(|loaded| loaded.card().free()).transpose()
    }

    /// An engine on this processor, wherever the model runs.
    #[cfg(any(feature = "cuda", feature = "interpreter"))]
    fn on_processor(model: &Model, options: &EngineOptions) -> Engine {
        Engine::make(model, Device::Cpu, options, Workspace::new).0
    }

    fn make(
        model: &Model,
        device: Device,
        options: &EngineOptions,
        workspace: fn(usize) -> Workspace,
    ) -> (Engine, usize) {
        let chunk = match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => card_chunk(options),
            _ => options.chunk.max(1),
        };
        // A list keeps all keys of a pass before it reads any.
        #[cfg(any(feature = "cuda", feature = "interpreter"))]
        let chunk = match device {
            Device::Cpu => chunk,
            _ if model.state_layout().has_rings() => chunk.min(PAGE),
            _ => chunk,
        };
        let max_logits = options.logits.clamp(1, chunk);
        let (columns, rows) = (workspace(chunk), workspace(max_logits));
        let backend: Box<dyn Backend> = match device {
            Device::Cpu => Box::new(Cpu::new(model, options, (&columns, &rows))),
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => Box::new(cuda::Cuda::new(model, (chunk, max_logits))),
            #[cfg(feature = "interpreter")]
            Device::Interpreter => Box::new(interpreter::Interpreter::new(model, &columns)),
        };
        let own = match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => cuda::Cuda::bytes(model, (chunk, max_logits)),
            _ => Cpu::bytes(model, chunk, backend.threads()),
        };
        let engine = Engine {
            model: model.clone(),
            backend,
            chunk,
            max_logits,
            tokens: columns.list(),
            spans: columns.list(),
            runs: columns.list(),
            wanted: columns.list(),
        };
        (engine, columns.bytes() + rows.bytes() + own)
    }

    /// The model it runs.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The most tokens in one forward pass.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// The most rows of logits in one forward pass.
    pub fn max_logits(&self) -> usize {
        self.max_logits
    }

    /// The most threads it uses, the caller's included.
    pub fn threads(&self) -> usize {
        self.backend.threads()
    }

    /// One forward pass. Afterwards [`Engine::logits`] has one row for every position wanted, in
    /// the order of the runs.
    ///
    /// # Errors
    /// A run has no tokens, a token outside the vocabulary, or a state of another model or number
    /// format; or the batch has more tokens or rows of logits than the engine was made for. Nothing
    /// has happened to any state then. A device can also fail in the middle of a pass: the states
    /// of its runs are lost then, and every use of them says so until they are reset.
    pub fn forward(&mut self, runs: &mut [Run<'_>]) -> Result<()> {
        self.plan(runs)?;
        let columns = self.tokens.len();
        if columns == 0 {
            return Ok(());
        }
        for run in &mut *runs {
            run.state.reserve(run.tokens.len())?;
        }
        let batch = Batch { columns, spans: &self.spans, runs: &self.runs, tokens: &self.tokens };
        self.backend.forward(Columns { batch, wanted: &self.wanted }, runs)?;
        for run in runs {
            run.state.advance(run.tokens.len());
        }
        Ok(())
    }

    /// Row `i` of the logits of the last forward pass: `n_vocab` values.
    pub fn logits(&self, i: usize) -> &[f32] {
        self.backend.logits(i)
    }

    /// Memory for as many rows of logits, for [`Engine::exchange_logits`].
    pub fn new_logits(&self) -> Logits {
        Logits::new(self.model.n_vocab(), self.max_logits)
    }

    /// Exchanges the memory that the logits stand in, without a copy: `other` has those of the last
    /// pass then, where [`Engine::logits`] had them, and the engine has `other`'s until the next.
    /// False, and nothing has happened, where `other` is an engine's with other sizes, or where the
    /// memory belongs to a card's driver.
    pub fn exchange_logits(&mut self, other: &mut Logits) -> bool {
        self.backend.exchange_logits(&mut other.0)
    }

    /// The hidden state after a token of the last forward pass, behind the final norm: what the
    /// head sees there. Costs one norm. `column` counts the tokens of all runs in their order,
    /// `out` has `d_model` values.
    ///
    /// # Errors
    /// The last pass had no such token, or a card failed.
    ///
    /// # Panics
    /// `out` has another length.
    pub fn hidden(&self, column: usize, out: &mut [f32]) -> Result<()> {
        if column >= self.tokens.len() {
            return Err(EngineError::NoSuchColumn { column, limit: self.tokens.len() });
        }
        assert_eq!(out.len(), self.model.d_model());
        self.model.trunk().hidden(self.model.isa(), self.backend.x(column)?, out);
        Ok(())
    }

    /// Row `i` of the logits.
    pub(crate) fn logits_mut(&mut self, i: usize) -> &mut [f32] {
        self.backend.logits_mut(i)
    }

    /// Lays the runs' tokens out as columns, after checking them.
    fn plan(&mut self, runs: &[Run<'_>]) -> Result<()> {
        self.tokens.clear();
        self.spans.clear();
        self.runs.clear();
        self.wanted.clear();
        let columns = runs.iter().map(|run| run.tokens.len()).fold(0, usize::saturating_add);
        let rows = |run: &Run<'_>| match run.want {
            Want::None => 0,
            Want::Last => 1,
            Want::All => run.tokens.len(),
            Want::Tail(n) => run.tokens.len().min(n),
        };
        let logits = runs.iter().map(rows).fold(0, usize::saturating_add);
        if columns > self.chunk {
            return Err(EngineError::BatchSize {
                what: "tokens",
                found: columns,
                limit: self.chunk,
            });
        }
        if logits > self.max_logits {
            return Err(EngineError::BatchSize {
                what: "rows of logits",
                found: logits,
                limit: self.max_logits,
            });
        }
        let n_vocab = self.model.n_vocab();
        for run in runs {
            if run.tokens.is_empty() {
                return Err(EngineError::NoTokens);
            }
            run.state.check(self.model.fingerprint(), self.model.state_layout())?;
            if let Some(&id) = run.tokens.iter().find(|&&id| id as usize >= n_vocab) {
                return Err(EngineError::UnknownToken { id, n_vocab });
            }
        }
        for (i, run) in runs.iter().enumerate() {
            let start = self.tokens.len();
            self.tokens.extend_from_slice(run.tokens);
            let end = self.tokens.len();
            self.spans.push(start..end);
            self.runs.extend((start..end).map(|_| i));
            self.wanted.extend(end - rows(run)..end);
        }
        Ok(())
    }
}
