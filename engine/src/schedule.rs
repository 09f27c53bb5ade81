//! [`Scheduler`]: many texts at a time, each of which comes and goes when it likes (continuous
//! batching; Yu et al. 2022, Orca, §4.1).
//!
//! A pass has one token of each text that is being written, and fills up with prompts, the oldest
//! first:
//!
//! ```text
//! columns of a pass   a │ b │ c │ d d d d d d d d d d d d
//!                     └ written ┘ └── a prompt's next ──┘
//! ```
//!
//! So whoever writes goes on while others read, the weights are read once for all of them, and a
//! text that has ended makes room at once. The bits do not depend on the company: every text is
//! the one of [`crate::generate::generate`] with the same sampler. What prompts have in common with
//! earlier ones is not read again ([`PrefixCache`]). Not here: who asks (`brooklet batch`, a
//! server). Test: `tests/schedule.rs`.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use crate::engine::{Engine, EngineOptions, Run, Want};
use crate::generate::{Ended, Limits, Piece, Writer};
use crate::model::Model;
use crate::prefix::{Known, PrefixCache, Reading};
use crate::sampler::Sampler;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::text::Text;
use crate::{EngineError, Result};

/// A text that is asked for.
pub struct Request {
    /// What is read first.
    pub prompt: Vec<u32>,
    /// Lengths of beginnings of the prompt that others will share, ascending
    /// ([`PrefixCache::prefill`]).
    pub borders: Vec<usize>,
    /// Where it begins, if not before the first token: a tuned state. Nothing of it is kept for
    /// others.
    pub start: Option<State>,
    /// What chooses its tokens.
    pub sampler: Sampler,
    /// When it ends, but for strings.
    pub limits: Limits<'static>,
    /// Strings that end it.
    pub stops: Vec<String>,
}

impl Request {
    /// A text behind a prompt.
    pub fn new(prompt: Vec<u32>, sampler: Sampler, limits: Limits<'static>) -> Request {
        let (borders, stops) = (Vec::new(), Vec::new());
        Request { prompt, borders, start: None, sampler, limits, stops }
    }
}

/// A text's number: those of one scheduler are all different, and ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What happened to a text.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Its prompt has been read.
    Read(Reading),
    /// A piece is certain.
    Piece(Piece<'a>),
    /// It has ended, or failed: nothing follows.
    Ended(Result<Ended>),
}

/// Reads and writes texts of one model.
///
/// ```
/// use brooklet::generate::Limits;
/// use brooklet::prefix::PrefixCache;
/// use brooklet::sampler::{Sampler, SamplerOptions};
/// use brooklet::schedule::{Event, Request, Scheduler};
/// use brooklet::{EngineOptions, Model, Text};
/// use std::ops::ControlFlow;
///
/// let model = Model::open("../models/rwkv7-nano-int8.brk")?;
/// let text = Text::of(&model)?;
/// let cache = PrefixCache::new(&model, 64 << 20);
/// let mut scheduler = Scheduler::new(&model, &text, &EngineOptions::default(), 8, cache);
/// for prompt in ["Once upon a time", "Once upon a hill"] {
///     let sampler = Sampler::new(SamplerOptions::greedy(), model.n_vocab())?;
///     let prompt = text.prompt(prompt.as_bytes())?;
///     scheduler.submit(Request::new(prompt, sampler, Limits::new(20)))?;
/// }
/// let mut texts = vec![String::new(); 2];
/// let mut tickets = Vec::new();
/// while !scheduler.is_empty() {
///     scheduler.step(|ticket, event| {
///         let i = tickets.iter().position(|known| *known == ticket).unwrap_or(tickets.len());
///         tickets.resize(tickets.len().max(i + 1), ticket);
///         if let Event::Piece(piece) = event {
///             texts[i].push_str(piece.text);
///         }
///         ControlFlow::Continue(())
///     });
/// }
/// assert!(texts.iter().all(|text| !text.is_empty()));
/// # Ok::<(), brooklet::EngineError>(())
/// ```
pub struct Scheduler<'a> {
    engine: Engine,
    text: &'a Text,
    cache: PrefixCache,
    /// The most texts in a pass.
    most: usize,
    waiting: VecDeque<(Ticket, Request)>,
    /// Those in the passes, the oldest first.
    running: Vec<Job<'a>>,
    next: u64,
}

/// A text that is being read or written.
struct Job<'a> {
    ticket: Ticket,
    prompt: Vec<u32>,
    borders: Vec<usize>,
    /// Tokens of the prompt that the state has read.
    at: usize,
    state: State,
    /// Of its beginning; nothing where it is its own.
    known: Option<Known>,
    sampler: Sampler,
    writer: Writer<'a>,
}

impl<'a> Scheduler<'a> {
    /// For up to `most` texts at a time, which wait where there are more; each takes a state.
    pub fn new(
        model: &Model,
        text: &'a Text,
        options: &EngineOptions,
        most: usize,
        cache: PrefixCache,
    ) -> Scheduler<'a> {
        let most = most.max(1);
        let options = options.clone().logits(options.logits.max(most));
        // Prompts shall go on beside so many that are written.
        let chunk = options.chunk.max(most.saturating_add(16));
        let engine = Engine::new(model, &options.chunk(chunk));
        let (waiting, running) = (VecDeque::new(), Vec::new());
        Scheduler { engine, text, cache, most, waiting, running, next: 0 }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.engine.model()
    }

    /// Texts that have not ended: those in the passes and those that wait.
    pub fn len(&self) -> usize {
        self.running.len() + self.waiting.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the next request begins with the next pass.
    pub fn has_room(&self) -> bool {
        self.len() < self.most
    }

    /// What is known of earlier texts.
    pub fn cache(&mut self) -> &mut PrefixCache {
        &mut self.cache
    }

    /// Takes a request.
    ///
    /// # Errors
    /// It has no prompt, a token outside the vocabulary, or a state of another model.
    pub fn submit(&mut self, request: Request) -> Result<Ticket> {
        let model = self.engine.model();
        let n_vocab = model.n_vocab();
        if request.prompt.is_empty() {
            return Err(EngineError::NoTokens);
        }
        if let Some(&id) = request.prompt.iter().find(|&&id| id as usize >= n_vocab) {
            return Err(EngineError::UnknownToken { id, n_vocab });
        }
        if let Some(start) = &request.start {
            start.check(model.fingerprint(), model.state_layout())?;
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        self.waiting.push_back((ticket, request));
        Ok(ticket)
    }

    /// Forgets a text, of which nothing more is heard. Whether it was there.
    pub fn cancel(&mut self, ticket: Ticket) -> bool {
        let before = self.len();
        self.waiting.retain(|(waiting, _)| *waiting != ticket);
        self.running.retain(|job| job.ticket != ticket);
        self.len() < before
    }

    /// One pass. `emit` gets what happened, and ends a text where it breaks.
    ///
    /// A text that fails (it has outgrown the context, say) ends with its error; where a pass fails
    /// as a whole, all its texts do.
    pub fn step(&mut self, mut emit: impl FnMut(Ticket, Event<'_>) -> ControlFlow<()>) {
        self.begin(&mut emit);
        self.drop_overgrown(&mut emit);
        let columns = self.columns();
        let want = |job: &Job<'_>, n: usize| {
            if job.at + n < job.prompt.len() { Want::None } else { Want::Last }
        };
        let pending: Vec<[u32; 1]> =
            self.running.iter().map(|job| [job.writer.ended.pending.unwrap_or_default()]).collect();
        let mut runs: Vec<Run<'_>> = Vec::with_capacity(columns.len());
        for ((job, n), pending) in self.running.iter_mut().zip(&columns).zip(&pending) {
            let want = want(job, *n);
            let tokens = if job.is_reading() { &job.prompt[job.at..job.at + n] } else { pending };
            if *n > 0 {
                runs.push(Run { state: &mut job.state, tokens, want });
            }
        }
        if runs.is_empty() {
            return;
        }
        if let Err(error) = self.engine.forward(&mut runs) {
            return self.fail(&error, &mut emit);
        }
        let mut row = 0;
        let mut ended = Vec::new();
        for (job, n) in self.running.iter_mut().zip(&columns).filter(|(_, n)| **n > 0) {
            let has_logits = want(job, *n) == Want::Last;
            let logits: &[f32] = if has_logits { self.engine.logits(row) } else { &[] };
            row += usize::from(has_logits);
            if job.is_reading() {
                job.at += n;
                job.keep(&mut self.cache, logits);
                if job.is_reading() {
                    continue;
                }
                job.has_read(&mut emit);
            }
            if job.write(logits, &mut emit) {
                ended.push(job.ticket);
            }
        }
        self.running.retain(|job| !ended.contains(&job.ticket));
    }

    /// Lets those that wait begin, while there is room.
    fn begin(&mut self, emit: &mut impl FnMut(Ticket, Event<'_>) -> ControlFlow<()>) {
        while self.running.len() < self.most
            && let Some((ticket, request)) = self.waiting.pop_front()
        {
            let Request { prompt, borders, start, sampler, limits, stops } = request;
            let (snapshot, known) = match start {
                Some(state) => (Snapshot::new(state), None),
                None => {
                    let (snapshot, known) = self.cache.begin(self.engine.model(), &prompt);
                    (snapshot, Some(known))
                }
            };
            let writer = Writer::new(self.text, &limits.stops(&stops));
            let at = known.as_ref().map_or(0, |known| known.reused);
            let state = snapshot.state;
            let mut job = Job { ticket, prompt, borders, at, state, known, sampler, writer };
            // A prompt that is known to its end needs no pass to begin with.
            let has_ended = !job.is_reading() && {
                job.has_read(emit);
                job.write(&snapshot.logits, emit)
            };
            if !has_ended {
                self.running.push(job);
            }
        }
    }

    /// Ends texts for which there is no room any more: the others' pass shall not fail.
    fn drop_overgrown(&mut self, emit: &mut impl FnMut(Ticket, Event<'_>) -> ControlFlow<()>) {
        self.running.retain_mut(|job| {
            let left = if job.is_reading() { job.prompt.len() - job.at } else { 1 };
            match job.state.reserve(left) {
                Ok(()) => true,
                Err(error) => {
                    let _ = emit(job.ticket, Event::Ended(Err(error)));
                    false
                }
            }
        });
    }

    /// The columns that each text gets in the next pass.
    fn columns(&self) -> Vec<usize> {
        let writing = self.running.iter().filter(|job| !job.is_reading()).count();
        let mut left = self.engine.chunk().saturating_sub(writing);
        let each = self.running.iter().map(|job| {
            if !job.is_reading() {
                return 1;
            }
            let end = match &job.known {
                Some(known) => self.cache.next_copy(known, job.at, job.prompt.len(), &job.borders),
                None => job.prompt.len(),
            };
            let n = (end - job.at).min(left);
            left -= n;
            n
        });
        each.collect()
    }

    /// Ends all texts of a pass that failed.
    fn fail(
        &mut self,
        error: &EngineError,
        emit: &mut impl FnMut(Ticket, Event<'_>) -> ControlFlow<()>,
    ) {
        for job in self.running.drain(..) {
            let error = EngineError::Pass { why: error.to_string() };
            let _ = emit(job.ticket, Event::Ended(Err(error)));
        }
    }
}

impl Job<'_> {
    fn is_reading(&self) -> bool {
        self.at < self.prompt.len()
    }

    /// Keeps a copy for others, where one is wanted.
    fn keep(&self, cache: &mut PrefixCache, logits: &[f32]) {
        let Some(known) = &self.known else { return };
        let is_border = self.borders.binary_search(&self.at).is_ok();
        let is_end = !self.is_reading() || is_border || self.at == known.common;
        // A state that a card has lost fails in the next pass.
        if (is_end || cache.is_regular(self.at)) && self.state.fetch().is_ok() {
            let copy = Snapshot::new(self.state.clone());
            let copy = Snapshot { logits: logits.to_vec(), ..copy };
            cache.insert(&self.prompt[..self.at], &copy, is_end);
        }
    }

    /// Tells that the prompt has been read.
    fn has_read(&self, emit: &mut impl FnMut(Ticket, Event<'_>) -> ControlFlow<()>) {
        let all = self.prompt.len();
        let reading = match &self.known {
            Some(known) => known.reading(all),
            None => Reading { computed: all, ..Reading::default() },
        };
        let _ = emit(self.ticket, Event::Read(reading));
    }

    /// Chooses a token, if one is wanted. Whether the text has ended with it.
    fn write(
        &mut self,
        logits: &[f32],
        emit: &mut impl FnMut(Ticket, Event<'_>) -> ControlFlow<()>,
    ) -> bool {
        let Job { ticket, sampler, writer, .. } = self;
        let mut give = |piece: Piece<'_>| Ok::<_, EngineError>(emit(*ticket, Event::Piece(piece)));
        let chosen = match writer.goes_on() {
            true => writer.choose(sampler, logits, &mut give),
            false => Ok(()),
        };
        if chosen.is_ok() && writer.goes_on() {
            return false;
        }
        let ended = chosen.and_then(|()| writer.finish(give));
        let _ = emit(*ticket, Event::Ended(ended));
        true
    }
}
