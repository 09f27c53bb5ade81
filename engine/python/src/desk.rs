//! [`Desk`]: the engine's session behind Python's, and the logits of it that arrays show.
//!
//! An array shows the memory that the engine computed logits into, without a copy. As long as one
//! does, the next pass does not write there: the engine is given other memory, and the old one
//! belongs to the arrays ([`Kept`]) until the last of them is gone; then it is used again. So an
//! array never changes, in this thread or in another. On a card logits are copied out once. Test:
//! `tests/test_logits.py`.

use std::sync::{Arc, Mutex, PoisonError};

use brooklet::generate::Reason;
use brooklet::{Device, EngineError, EngineOptions, Logits, Model, Session, Snapshot};

use crate::errors::{Failure, Result};
use crate::interrupt::Watch;

/// How a session is set up; it is pickled with it.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) threads: usize,
    pub(crate) chunk: usize,
    /// Tokens that it can go back.
    pub(crate) rollback: usize,
}

/// Memory that arrays show: empty while the engine has it, for which the desk is kept alive.
pub(crate) struct Kept(Mutex<Option<Logits>>);

/// A session, its shown logits, and the token that it was left with.
pub(crate) struct Desk {
    session: Session,
    pub(crate) setup: Setup,
    /// The engine's own memory of logits, if arrays may show it.
    shown: Option<Arc<Kept>>,
    /// Memory that the engine has left to arrays.
    left: Vec<Arc<Kept>>,
    /// The token that was written last, which the session has still to read.
    unread: Option<u32>,
}

/// Logits for an array.
pub(crate) enum Shown {
    /// They stand here, as long as both the desk and this are alive.
    Here { address: usize, len: usize, kept: Arc<Kept> },
    /// A copy: a card's memory is its driver's.
    Copied(Vec<f32>),
}

impl Desk {
    pub(crate) fn new(model: &Model, setup: Setup) -> Desk {
        let options = EngineOptions::new().threads(setup.threads).chunk(setup.chunk);
        let mut session = Session::new(model, &options);
        session.keep_rollback(setup.rollback);
        Desk { session, setup, shown: None, left: Vec::new(), unread: None }
    }

    /// The session, for whatever may write logits: memory that arrays show is left to them first,
    /// and with it the session's logits.
    fn writing(&mut self) -> &mut Session {
        if let Some(kept) = self.shown.take()
            && Arc::strong_count(&kept) > 1
        {
            let mut logits = self.free().unwrap_or_else(|| self.session.new_logits());
            if self.session.exchange_logits(&mut logits) {
                *kept.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(logits);
                self.left.push(kept);
            }
        }
        &mut self.session
    }

    /// Memory that no array shows any more.
    fn free(&mut self) -> Option<Logits> {
        let mut free = None;
        self.left.retain(|kept| {
            if Arc::strong_count(kept) > 1 {
                return true;
            }
            free = kept.0.lock().unwrap_or_else(PoisonError::into_inner).take();
            false
        });
        free
    }

    /// Reads the token that was written last, if it has not been read.
    ///
    /// # Errors
    /// The session's.
    pub(crate) fn settle(&mut self) -> Result<&Session> {
        if let Some(token) = self.unread.take() {
            self.writing().step(token)?;
        }
        Ok(&self.session)
    }

    /// The session where logits are known, which stay.
    ///
    /// # Errors
    /// It has read nothing, or not all.
    pub(crate) fn ready(&mut self) -> Result<&Session> {
        match self.settle()? {
            session if session.has_logits() => Ok(session),
            _ => Err(EngineError::NoLogits.into()),
        }
    }

    /// Leaves the session behind a token that was chosen, unless that ended the text.
    pub(crate) fn leave(&mut self, pending: Option<u32>, reason: Reason) {
        self.unread = pending.filter(|_| !matches!(reason, Reason::End | Reason::Grammar));
    }

    /// Tokens that the sequence has, whether they were read or not.
    pub(crate) fn position(&self) -> u64 {
        self.session.state().position() + u64::from(self.unread.is_some())
    }

    /// Reads tokens, behind the one that was left, and has the logits behind the last.
    ///
    /// # Errors
    /// The session's, or an interruption.
    pub(crate) fn prefill(&mut self, tokens: &[u32]) -> Result<()> {
        if tokens.is_empty() && self.unread.is_some() {
            self.settle()?;
            return Ok(());
        }
        let n_vocab = self.session.model().n_vocab();
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= n_vocab) {
            return Err(EngineError::UnknownToken { id, n_vocab }.into());
        }
        let mut watch = Watch::new();
        let all: Vec<u32> = self.unread.take().into_iter().chain(tokens.iter().copied()).collect();
        self.writing().prefill_with(&all, |_| watch.goes_on())?;
        watch.end()
    }

    /// Reads a token.
    ///
    /// # Errors
    /// The session's.
    pub(crate) fn step(&mut self, token: u32) -> Result<()> {
        self.settle()?;
        self.writing().step(token)?;
        Ok(())
    }

    /// Goes back.
    ///
    /// # Errors
    /// The session's: it cannot go back so far.
    pub(crate) fn rollback(&mut self, tokens: usize) -> Result<()> {
        self.settle()?;
        Ok(self.writing().rollback(tokens)?)
    }

    /// Back to the start.
    pub(crate) fn reset(&mut self) {
        self.unread = None;
        self.writing().reset();
    }

    /// Where the sequence stands, as a value.
    ///
    /// # Errors
    /// The session's: a card has lost its state.
    pub(crate) fn snapshot(&mut self) -> Result<Snapshot> {
        Ok(self.settle()?.snapshot())
    }

    /// Goes on from a snapshot.
    ///
    /// # Errors
    /// It belongs to another model: nothing has happened then.
    pub(crate) fn resume(&mut self, snapshot: &Snapshot) -> Result<()> {
        let session = self.writing();
        session.resume(snapshot)?;
        self.unread = None;
        Ok(())
    }

    /// Does `work` with a session whose logits are known, and are the same afterwards.
    ///
    /// # Errors
    /// It has none, or `work` failed.
    pub(crate) fn beside<T>(&mut self, work: impl FnOnce(&mut Session) -> Result<T>) -> Result<T> {
        let snapshot = self.ready()?.snapshot();
        let session = self.writing();
        if !session.has_logits() {
            session.resume(&snapshot)?;
        }
        work(session)
    }

    /// The logits for an array.
    ///
    /// # Errors
    /// There are none.
    pub(crate) fn show(&mut self) -> Result<Shown> {
        self.ready()?;
        let logits = self.session.logits();
        if self.session.model().device() != Device::Cpu {
            return Ok(Shown::Copied(logits.to_vec()));
        }
        let (address, len) = (logits.as_ptr() as usize, logits.len());
        let kept = self.shown.get_or_insert_with(|| Arc::new(Kept(Mutex::new(None))));
        Ok(Shown::Here { address, len, kept: Arc::clone(kept) })
    }

    /// The logits behind each of some tokens, one row after the other.
    ///
    /// # Errors
    /// The session's, or an interruption.
    pub(crate) fn logits_of_each(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        if tokens.is_empty() {
            return Err(EngineError::NoTokens.into());
        }
        let mut rows: Vec<f32> = Vec::new();
        let values = tokens.len().saturating_mul(self.session.model().n_vocab());
        rows.try_reserve_exact(values).map_err(|_| {
            Failure::Argument(format!("there is no memory for {values} logits: give fewer tokens"))
        })?;
        let mut watch = Watch::new();
        self.settle()?;
        for token in tokens {
            rows.extend_from_slice(self.writing().step(*token)?);
            if !watch.goes_on() {
                break;
            }
        }
        watch.end()?;
        Ok(rows)
    }
}
