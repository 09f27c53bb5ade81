//! Guesses for a text that is alone in its passes: columns beside its own, which cost little where
//! weights are what takes time. Several texts share the weights already: nothing is guessed.
//!
//! The rule is [`crate::speculate`]'s. A pass is over before the next begins, so that one copy of a
//! state is enough for all texts; where guesses were wrong, the text's state is that copy, and the
//! tokens that were right are unread. Test: `tests/schedule_guesses.rs`.

use std::time::Instant;

use crate::Result;
use crate::engine::Engine;
use crate::speculate::{Draft, Guessed, MAX_GUESSES, Pace};
use crate::state::State;

use super::job::Job;

/// Whoever guesses, and what was guessed for the pass at hand. By default nobody.
#[derive(Default)]
pub(super) struct Guesser {
    drafts: Vec<Box<dyn Draft>>,
    pace: Pace,
    /// The most guesses of a pass.
    most: usize,
    path: Vec<u32>,
    /// Unread tokens, and the guesses behind them.
    ahead: Vec<u32>,
    /// The text's state before the pass.
    base: Option<State>,
    pub(super) guessed: Guessed,
}

impl Guesser {
    pub(super) fn new(drafts: Vec<Box<dyn Draft>>, most: usize, is_always: bool) -> Guesser {
        let pace = if is_always { Pace::always() } else { Pace::default() };
        Guesser { drafts, pace, most: most.min(MAX_GUESSES), ..Guesser::default() }
    }

    /// The guesses of this pass.
    pub(super) fn path(&self) -> &[u32] {
        &self.path
    }

    /// What the text reads in this pass, if anything was guessed.
    pub(super) fn ahead(&self) -> Option<&[u32]> {
        (!self.path.is_empty()).then_some(&self.ahead)
    }

    /// No guesses: there is no text, or more than one.
    pub(super) fn clear(&mut self) {
        self.path.clear();
    }

    /// Guesses what follows a text, which is alone, as far as that pays.
    pub(super) fn guess(&mut self, job: &Job, engine: &Engine) {
        self.path.clear();
        if self.drafts.is_empty() {
            return;
        }
        let unread = job.unread().len();
        let limit = job.state.layout().limit() as u64;
        let left = limit.saturating_sub(job.state.position()).saturating_sub(unread as u64);
        let room = (engine.chunk().saturating_sub(unread))
            .min(engine.max_logits().saturating_sub(1))
            .min(usize::try_from(left).unwrap_or(usize::MAX))
            .min(job.guesses());
        let most = self.pace.guesses((unread, 1), self.most.min(room));
        if most == 0 {
            return;
        }
        let start = Instant::now();
        if let Err(error) = self.ask(job, engine.model().n_vocab(), most) {
            log::warn!("no guesses for a while: {error}");
            self.path.clear();
            self.pace.pause();
        }
        self.pace.guessed(most, start.elapsed());
    }

    /// Asks one after the other, until somebody guesses anything; then keeps a copy of the state.
    fn ask(&mut self, job: &Job, n_vocab: usize, most: usize) -> Result<()> {
        for draft in &mut self.drafts {
            draft.guess(job.tokens(), job.sampler(), most, &mut self.path)?;
            let known = self.path.iter().take(most).take_while(|id| (**id as usize) < n_vocab);
            let known = known.count();
            self.path.truncate(known);
            // Those that the grammar forbids would be wrong.
            self.path.truncate(job.sampler().allowed(&self.path));
            if !self.path.is_empty() {
                break;
            }
        }
        if self.path.is_empty() {
            return Ok(());
        }
        job.state.fetch()?;
        match &mut self.base {
            Some(base) => base.clone_from(&job.state),
            None => self.base = Some(job.state.clone()),
        }
        self.ahead.clear();
        self.ahead.extend_from_slice(job.unread());
        self.ahead.extend_from_slice(&self.path);
        Ok(())
    }

    /// A pass of a text that is alone is over, which wrote.
    pub(super) fn took(&mut self, columns: usize, start: Instant) {
        if self.drafts.is_empty() {
            return;
        }
        self.pace.read(columns, self.path.len(), start.elapsed());
        self.guessed.passes += 1;
        self.guessed.guesses += self.path.len();
        if self.path.is_empty() {
            self.pace.passed(0, 0);
            self.guessed.tokens += 1;
        }
    }

    /// The first `right` guesses were; `state` is what it was before the pass, unless all were, or
    /// there was none. Whether it is behind the pass.
    pub(super) fn passed(&mut self, right: usize, state: &mut State) -> bool {
        self.pace.passed(right, self.path.len());
        self.guessed.right += right;
        self.guessed.tokens += 1 + right;
        match &mut self.base {
            Some(base) if right < self.path.len() => {
                std::mem::swap(base, state);
                false
            }
            _ => true,
        }
    }
}
