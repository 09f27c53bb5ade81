//! A session: one conversation with a model. It owns an [`Engine`], a [`State`] and the last
//! logits.

mod ahead;
mod alone;

use crate::engine::{Engine, EngineOptions, Logits, Run, Want};
use crate::horizon::{Horizon, Keeper};
use crate::model::Model;
use crate::rollback::Rollback;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::{EngineError, Result};

/// Which hidden states make an embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The one after the last token.
    Last,
    /// The mean of those after every token.
    Mean,
}

/// One sequence of tokens and where it stands.
///
/// ```
/// use brooklet::{EngineOptions, Model, Session};
///
/// let model = Model::open("../models/rwkv7-nano-int8.brk")?;
/// let mut session = Session::new(&model, &EngineOptions::default());
/// let logits = session.prefill(&[1, 2, 3])?.to_vec();
/// session.reset();
/// session.prefill(&[1, 2])?;
/// assert_eq!(session.step(3)?, logits); // the same bits, however the tokens come
/// # Ok::<(), brooklet::EngineError>(())
/// ```
pub struct Session {
    engine: Engine,
    state: State,
    /// Whether the logits are those after the last token that `state` has read.
    current: bool,
    /// Their row of the engine's.
    row: usize,
    /// The way back, where it is wanted.
    rollback: Option<Rollback>,
    /// What keeps the state fresh, where that is wanted.
    keeper: Option<Keeper>,
}

impl Session {
    /// A session at the start of a sequence.
    pub fn new(model: &Model, options: &EngineOptions) -> Session {
        let (engine, state) = (Engine::new(model, options), model.new_state());
        Session { engine, state, current: false, row: 0, rollback: None, keeper: None }
    }

    /// Keeps what it takes to go back at most `tokens` tokens ([`Session::rollback`]) from now on;
    /// 0 is the default. Takes up to [`Session::rollback_bytes`], and the time of copying a state
    /// for every token.
    pub fn keep_rollback(&mut self, tokens: usize) {
        self.rollback = (tokens > 0).then(|| Rollback::new(tokens));
    }

    /// Keeps the state within a horizon from here on, or leaves it alone. No guesses are made for
    /// such a session, and a state that is made anew is not gone back behind.
    ///
    /// # Errors
    /// A number outside its range.
    pub fn keep_within(&mut self, horizon: Horizon) -> Result<()> {
        let keeper = Keeper::new(horizon)?;
        self.keeper = (!horizon.is_off()).then_some(keeper);
        Ok(())
    }

    /// The most memory that going back `tokens` tokens takes, but for pages of attention.
    pub fn rollback_bytes(model: &Model, tokens: usize) -> usize {
        let logits = model.n_vocab() * size_of::<f32>();
        let each = model.state_layout().bytes().saturating_add(logits);
        if tokens == 0 { 0 } else { each.saturating_mul(Rollback::marks(tokens)) }
    }

    /// How many tokens [`Session::rollback`] can go back now: those read since
    /// [`Session::keep_rollback`], since the state was exchanged or reset, and no more than asked
    /// for.
    pub fn rollback_reach(&self) -> usize {
        self.rollback.as_ref().map_or(0, Rollback::reach)
    }

    /// Goes back `n` tokens: the state, and the logits, have the same bits as before those were
    /// read. Costs the copy of a state, and for more than eight tokens back at most a pass over
    /// seven of them; inside a prompt, over the rest of a chunk.
    ///
    /// # Errors
    /// It cannot go back so far: nothing has happened then. Or a device failed.
    pub fn rollback(&mut self, n: usize) -> Result<()> {
        let reach = self.rollback_reach();
        if n > reach {
            return Err(EngineError::Rollback { tokens: n, reach });
        }
        if n == 0 {
            return Ok(());
        }
        let Some((mark, again)) = self.rollback.as_mut().and_then(|rollback| rollback.back(n))
        else {
            return Err(EngineError::Rollback { tokens: n, reach });
        };
        self.state.clone_from(&mark.state);
        (self.current, self.row) = (!mark.logits.is_empty() && again.is_empty(), 0);
        if self.current {
            self.engine.logits_mut(0).copy_from_slice(&mark.logits);
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.forget(n + again.len());
        }
        if !again.is_empty() {
            let Session { engine, state, keeper, .. } = self;
            read_chunks((engine, state, keeper), again, Want::Last, |_| Ok(true))?;
            self.current = true;
        }
        Ok(())
    }

    /// Whether [`Session::logits`] are those after the last token that was read: not before the
    /// first, nor after another state was put in, nor when a prompt was left in the middle.
    pub fn has_logits(&self) -> bool {
        self.current
    }

    /// Keeps the state as it is now, where there is to be a way back: `tokens`, which all belong to
    /// the sequence, after the last time.
    pub(crate) fn mark(&mut self, tokens: &[u32]) -> Result<()> {
        if let Some(rollback) = &mut self.rollback {
            self.state.fetch()?;
            let logits = self.current.then(|| self.engine.logits(self.row));
            rollback.mark(tokens, &self.state, logits);
        }
        Ok(())
    }

    /// Begins the way back here, unless it has begun.
    fn begin_rollback(&mut self) -> Result<()> {
        if self.rollback.as_ref().is_some_and(|rollback| !rollback.has_begun()) {
            self.mark(&[])?;
        }
        Ok(())
    }

    /// The state is another one now, without logits.
    fn exchanged(&mut self) {
        (self.current, self.row) = (false, 0);
        if let Some(rollback) = &mut self.rollback {
            rollback.clear();
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.reset();
        }
    }

    /// Takes the memory for `tokens` more tokens now, where a state grows with them (attention);
    /// otherwise it is taken for 64 at a time, as they come.
    ///
    /// # Errors
    /// They do not fit the model's context, or there is no memory for them.
    pub fn reserve(&mut self, tokens: usize) -> Result<()> {
        self.state.reserve(tokens)
    }

    /// Reads `tokens`, in chunks, and returns the logits after the last one.
    ///
    /// # Errors
    /// No tokens, or one outside the vocabulary.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        self.prefill_with(tokens, |_| true)?;
        Ok(self.logits())
    }

    /// [`Session::prefill`] that calls `progress(tokens read)` after each chunk and stops when it
    /// returns false. Returns the number of tokens read; the logits are there only when all were.
    ///
    /// # Errors
    /// No tokens, or one outside the vocabulary.
    pub fn prefill_with(
        &mut self,
        tokens: &[u32],
        mut progress: impl FnMut(usize) -> bool,
    ) -> Result<usize> {
        self.read(tokens, Want::Last, |_, read, _| Ok(progress(read)))
    }

    /// [`Session::prefill_with`] that also makes an embedding of the tokens: the hidden state
    /// behind the final norm, after the last of them or as the mean over all. Costs no second pass;
    /// the logits are there as well.
    ///
    /// `out` has `d_model` values; it is written only when all tokens were read.
    ///
    /// # Errors
    /// No tokens, or one outside the vocabulary.
    ///
    /// # Panics
    /// `out` has another length.
    pub fn embed_with(
        &mut self,
        tokens: &[u32],
        pooling: Pooling,
        out: &mut [f32],
        mut progress: impl FnMut(usize) -> bool,
    ) -> Result<usize> {
        let mut hidden = vec![0.0; self.model().d_model()];
        assert_eq!(out.len(), hidden.len());
        // Summed token by token in f64: the same for any chunk length.
        let mut sum = vec![0.0_f64; hidden.len()];
        let read = self.read(tokens, Want::Last, |engine, read, columns| {
            let first = if pooling == Pooling::Mean { 0 } else { columns - 1 };
            for column in first..columns {
                engine.hidden(column, &mut hidden)?;
                sum.iter_mut().zip(&hidden).for_each(|(sum, h)| *sum += f64::from(*h));
            }
            Ok(progress(read))
        })?;
        if read == tokens.len() {
            match pooling {
                Pooling::Last => out.copy_from_slice(&hidden),
                Pooling::Mean => out
                    .iter_mut()
                    .zip(&sum)
                    .for_each(|(out, sum)| *out = (sum / read as f64) as f32),
            }
        }
        Ok(read)
    }

    /// Reads `tokens` in chunks, of which the last wants `last`; after each calls `each(engine,
    /// tokens read, tokens of the chunk)` and goes on if it is true.
    pub(crate) fn read(
        &mut self,
        tokens: &[u32],
        last: Want,
        mut each: impl FnMut(&Engine, usize, usize) -> Result<bool>,
    ) -> Result<usize> {
        if tokens.is_empty() {
            return Err(EngineError::NoTokens);
        }
        let n_vocab = self.engine.model().n_vocab();
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= n_vocab) {
            return Err(EngineError::UnknownToken { id, n_vocab });
        }
        self.begin_rollback()?;
        let Session { engine, state, current, row, rollback, keeper } = self;
        let mut read = 0;
        read_chunks((engine, state, keeper), tokens, last, |chunk| {
            read += chunk.tokens.len();
            (*current, *row) = (chunk.want != Want::None, 0);
            if let Some(rollback) = rollback {
                chunk.state.fetch()?;
                let logits = current.then(|| chunk.engine.logits(0));
                // Behind a state that was made anew there is no way back.
                let tokens = if chunk.is_renewed { &[] } else { chunk.tokens };
                if chunk.is_renewed {
                    rollback.clear();
                }
                rollback.mark(tokens, chunk.state, logits);
            }
            each(chunk.engine, read, chunk.tokens.len())
        })?;
        Ok(read)
    }

    /// Reads one token and returns the logits after it.
    ///
    /// # Errors
    /// The token is outside the vocabulary.
    pub fn step(&mut self, token: u32) -> Result<&[f32]> {
        self.read(&[token], Want::Last, |_, _, _| Ok(true))?;
        Ok(self.logits())
    }

    /// The logits of the last step or prefill: `n_vocab` values; zeros before the first. Whether
    /// they are those of where the sequence stands now, [`Session::has_logits`] says.
    pub fn logits(&self) -> &[f32] {
        self.engine.logits(self.row)
    }

    /// Memory for logits, for [`Session::exchange_logits`].
    pub fn new_logits(&self) -> Logits {
        self.engine.new_logits()
    }

    /// Exchanges the memory that the logits stand in ([`Engine::exchange_logits`]): those of the
    /// last step or prefill are in `other` then, at the address that they had, and the session has
    /// none until it reads again. Whether it happened.
    pub fn exchange_logits(&mut self, other: &mut Logits) -> bool {
        let exchanged = self.row == 0 && self.engine.exchange_logits(other);
        self.current &= !exchanged;
        exchanged
    }

    /// Where the sequence stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Goes on from `state` instead (a clone of an earlier one, say).
    ///
    /// # Errors
    /// The state belongs to another model, or is kept in another number format.
    pub fn set_state(&mut self, state: State) -> Result<()> {
        state.check(self.model().fingerprint(), self.model().state_layout())?;
        self.state = state;
        self.exchanged();
        Ok(())
    }

    /// Exchanges the session's state for `state`, without a copy: one session can serve many
    /// conversations.
    ///
    /// # Errors
    /// The state belongs to another model, or is kept in another number format.
    pub fn swap_state(&mut self, state: &mut State) -> Result<()> {
        state.check(self.model().fingerprint(), self.model().state_layout())?;
        std::mem::swap(&mut self.state, state);
        self.exchanged();
        Ok(())
    }

    /// Where the sequence stands, as a value: a clone of the state, and the logits after it if they
    /// are known. Tokens that the session has not read, the sampler and a note are the caller's to
    /// add.
    pub fn snapshot(&self) -> Snapshot {
        let logits = if self.current { self.logits().to_vec() } else { Vec::new() };
        Snapshot { logits, ..Snapshot::new(self.state.clone()) }
    }

    /// Goes on from a snapshot: takes its state over, reads what is unread of it, and has the
    /// logits again. Returns false where the snapshot gives none: the next thing to do is then a
    /// prefill.
    ///
    /// # Errors
    /// The state belongs to another model or is kept in another number format, or an unread token
    /// is outside the vocabulary. Nothing has happened then.
    pub fn resume(&mut self, snapshot: &Snapshot) -> Result<bool> {
        let n_vocab = self.engine.model().n_vocab();
        if let Some(&id) = snapshot.unread().iter().find(|&&id| id as usize >= n_vocab) {
            return Err(EngineError::UnknownToken { id, n_vocab });
        }
        self.set_state(snapshot.state.clone())?;
        if !snapshot.unread().is_empty() {
            self.prefill(snapshot.unread())?;
        } else if snapshot.logits.len() == n_vocab {
            self.engine.logits_mut(0).copy_from_slice(&snapshot.logits);
            (self.current, self.row) = (true, 0);
        }
        Ok(self.current)
    }

    /// Back to the start of a sequence.
    pub fn reset(&mut self) {
        self.state.reset();
        self.exchanged();
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.engine.model()
    }

    /// Passes of the engine over other states, which begin where the session stands: `work` gets
    /// its state and logits, which are there again afterwards.
    ///
    /// # Errors
    /// The session has no logits, or `work` failed.
    pub(crate) fn beside<T>(
        &mut self,
        work: impl FnOnce(&mut Engine, &State, &[f32]) -> Result<T>,
    ) -> Result<T> {
        if !self.current {
            return Err(EngineError::NoLogits);
        }
        self.state.fetch()?;
        let logits = self.logits().to_vec();
        let done = work(&mut self.engine, &self.state, &logits);
        self.engine.logits_mut(0).copy_from_slice(&logits);
        self.row = 0;
        done
    }

    /// The engine, for forward passes over other states; the session's logits are not its own any
    /// more afterwards.
    pub fn engine(&mut self) -> &mut Engine {
        (self.current, self.row) = (false, 0);
        &mut self.engine
    }
}

/// Behind a chunk of tokens.
struct Chunk<'a> {
    engine: &'a Engine,
    state: &'a State,
    tokens: &'a [u32],
    want: Want,
    /// The state was made anew before they were read.
    is_renewed: bool,
}

/// Reads tokens, as many in a pass as the engine takes; the last of the passes wants `last`, the
/// others nothing. Goes on while `each` is true.
fn read_chunks(
    (engine, state, keeper): (&mut Engine, &mut State, &mut Option<Keeper>),
    tokens: &[u32],
    last: Want,
    mut each: impl FnMut(Chunk<'_>) -> Result<bool>,
) -> Result<()> {
    let mut left = tokens;
    while !left.is_empty() {
        let (mut n, mut is_renewed) = (left.len().min(engine.chunk()), false);
        if let Some(keeper) = keeper {
            is_renewed = keeper.before(engine, state)?;
            n = n.min(keeper.room(state));
        }
        let (tokens, rest) = left.split_at(n);
        left = rest;
        let want = if left.is_empty() { last } else { Want::None };
        engine.forward(&mut [Run { state: &mut *state, tokens, want }])?;
        if let Some(keeper) = keeper {
            keeper.after(tokens);
        }
        if !each(Chunk { engine, state, tokens, want, is_renewed })? {
            break;
        }
    }
    Ok(())
}
