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
//! earlier ones is not read again ([`PrefixCache`]); there may be several caches, of which a text
//! sees one, so that nobody learns from a cache what others have read. A text that is alone may
//! read guesses of what follows it in the same pass ([`Scheduler::guess`]).
//!
//! | module | |
//! |---|---|
//! | `request` | what is asked for, and what is told of it |
//! | `job` | one text's way |
//! | `guess` | guesses for a text that is alone |
//!
//! Not here: who asks (`brooklet batch`, `brooklet serve`). Test: `tests/schedule.rs`,
//! `tests/schedule_guesses.rs`.

mod guess;
mod job;
mod request;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Instant;

use crate::engine::{Engine, EngineOptions, Run, Want};
use crate::model::Model;
use crate::prefix::PrefixCache;
use crate::speculate::{Draft, Guessed, MAX_GUESSES};
use crate::text::Text;
use crate::{EngineError, Result};

use self::guess::Guesser;
use self::job::Job;
pub use self::request::{Event, Request, Ticket};

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
    text: Cow<'a, Text>,
    /// One at least.
    caches: Vec<PrefixCache>,
    /// The most texts in a pass.
    most: usize,
    waiting: VecDeque<(Ticket, Request)>,
    /// Those in the passes, the oldest first.
    running: Vec<Job>,
    guesser: Guesser,
    next: u64,
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
        Scheduler::make(model, Cow::Borrowed(text), options, most, cache)
    }

    /// [`Scheduler::new`] with words of its own, to be kept as long as one likes.
    pub fn owning(
        model: &Model,
        text: Text,
        options: &EngineOptions,
        most: usize,
        cache: PrefixCache,
    ) -> Scheduler<'static> {
        Scheduler::make(model, Cow::Owned(text), options, most, cache)
    }

    fn make<'t>(
        model: &Model,
        text: Cow<'t, Text>,
        options: &EngineOptions,
        most: usize,
        cache: PrefixCache,
    ) -> Scheduler<'t> {
        let most = most.max(1);
        let options = options.clone().logits(options.logits.max(most));
        // Prompts shall go on beside so many that are written.
        let chunk = options.chunk.max(most.saturating_add(MAX_GUESSES + 1));
        let engine = Engine::new(model, &options.chunk(chunk));
        let (waiting, running) = (VecDeque::new(), Vec::new());
        let (caches, guesser) = (vec![cache], Guesser::default());
        Scheduler { engine, text, caches, most, waiting, running, guesser, next: 0 }
    }

    /// Lets `drafts` guess what follows a text that is alone in its passes, up to `most` tokens at
    /// a time, where that pays: the first of them that guesses anything is heard. The text is the
    /// same. A pass gives as many rows of logits as [`EngineOptions::logits`] says, or as many as
    /// there are texts: one more than guesses, or fewer are made.
    pub fn guess(&mut self, drafts: Vec<Box<dyn Draft>>, most: usize) {
        self.guesser = Guesser::new(drafts, most, false);
    }

    /// [`Scheduler::guess`], whether it pays or not.
    pub fn always_guess(&mut self, drafts: Vec<Box<dyn Draft>>, most: usize) {
        self.guesser = Guesser::new(drafts, most, true);
    }

    /// What came of guessing: of texts that were alone.
    pub fn guessed(&self) -> Guessed {
        self.guesser.guessed
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

    /// The texts in the passes; the others wait.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// What is known of earlier texts.
    pub fn cache(&mut self) -> &mut PrefixCache {
        &mut self.caches[0]
    }

    /// Adds a cache that is seen by those texts alone whose requests name its number.
    pub fn add_cache(&mut self, cache: PrefixCache) -> usize {
        self.caches.push(cache);
        self.caches.len() - 1
    }

    /// All caches, by their numbers.
    pub fn caches(&self) -> &[PrefixCache] {
        &self.caches
    }

    /// Takes a request.
    ///
    /// # Errors
    /// It has no prompt, a token outside the vocabulary, a state of another model, or a cache that
    /// there is not.
    pub fn submit(&mut self, request: Request) -> Result<Ticket> {
        let model = self.engine.model();
        let n_vocab = model.n_vocab();
        if request.prompt.is_empty() {
            return Err(EngineError::NoTokens);
        }
        if let Some(&id) = request.prompt.iter().find(|&&id| id as usize >= n_vocab) {
            return Err(EngineError::UnknownToken { id, n_vocab });
        }
        if request.cache >= self.caches.len() {
            let (cache, caches) = (request.cache, self.caches.len());
            return Err(EngineError::NoSuchCache { cache, caches });
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
        let writes_alone = self.guess_alone();
        let start = Instant::now();
        let mut runs: Vec<Run<'_>> = Vec::with_capacity(columns.len());
        for (job, n) in self.running.iter_mut().zip(&columns).filter(|(_, n)| **n > 0) {
            runs.push(match self.guesser.ahead() {
                Some(ahead) => job.run_ahead(ahead, self.guesser.path().len()),
                None => job.run(*n),
            });
        }
        if runs.is_empty() {
            return;
        }
        let read = runs.iter().map(|run| run.tokens.len()).sum();
        if let Err(error) = self.engine.forward(&mut runs) {
            return self.fail(&error, &mut emit);
        }
        if writes_alone {
            self.guesser.took(read, start);
        }
        let (mut row, mut column) = (0, 0);
        let mut ended = Vec::new();
        for (job, n) in self.running.iter_mut().zip(&columns).filter(|(_, n)| **n > 0) {
            let cache = &mut self.caches[job.cache];
            let flow = if self.guesser.ahead().is_some() {
                job.goes_ahead(&mut self.guesser, &self.engine, cache, &mut emit)
            } else {
                let has_logits = job.want(*n) == Want::Last;
                let logits: &[f32] = if has_logits { self.engine.logits(row) } else { &[] };
                row += usize::from(has_logits);
                job.goes_on(*n, (&self.engine, column), logits, cache, &mut emit)
            };
            if flow.is_break() {
                ended.push(job.ticket);
            }
            column += *n;
        }
        self.running.retain(|job| !ended.contains(&job.ticket));
    }

    /// Makes guesses for a text that is alone and is being written. Whether there is such a text.
    fn guess_alone(&mut self) -> bool {
        match &self.running[..] {
            [job] if !job.is_reading() => {
                self.guesser.guess(job, &self.engine);
                true
            }
            _ => {
                self.guesser.clear();
                false
            }
        }
    }

    /// Lets those that wait begin, while there is room.
    fn begin(&mut self, emit: &mut impl FnMut(Ticket, Event<'_>) -> ControlFlow<()>) {
        while self.running.len() < self.most
            && let Some((ticket, request)) = self.waiting.pop_front()
        {
            let cache = &mut self.caches[request.cache];
            let (mut job, logits) =
                Job::new(ticket, request, &self.text, self.engine.model(), cache);
            if job.begins(&logits, cache, emit).is_continue() {
                self.running.push(job);
            }
        }
    }

    /// Ends texts for which there is no room any more: the others' pass shall not fail.
    fn drop_overgrown(&mut self, emit: &mut impl FnMut(Ticket, Event<'_>) -> ControlFlow<()>) {
        self.running.retain_mut(|job| match job.state.reserve(job.unread().len()) {
            Ok(()) => true,
            Err(error) => {
                let _ = emit(job.ticket, Event::Ended(Err(error)));
                false
            }
        });
    }

    /// The columns that each text gets in the next pass.
    fn columns(&self) -> Vec<usize> {
        let writing = self.running.iter().filter(|job| !job.is_reading());
        let writing: usize = writing.map(|job| job.unread().len()).sum();
        let mut left = self.engine.chunk().saturating_sub(writing);
        let each = self.running.iter().map(|job| {
            if !job.is_reading() {
                return job.unread().len();
            }
            let n = (job.next_stop(&self.caches[job.cache]) - job.at).min(left);
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
