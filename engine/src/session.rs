//! A session: one conversation with a model. It owns an [`Engine`], a [`State`] and the last
//! logits.

use crate::engine::{Engine, EngineOptions, Run, Want};
use crate::model::Model;
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
}

impl Session {
    /// A session at the start of a sequence.
    pub fn new(model: &Model, options: &EngineOptions) -> Session {
        Session { engine: Engine::new(model, options), state: model.new_state(), current: false }
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
        self.read(tokens, |_, read, _| progress(read))
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
        let read = self.read(tokens, |engine, read, columns| {
            let first = if pooling == Pooling::Mean { 0 } else { columns - 1 };
            for column in first..columns {
                if engine.hidden(column, &mut hidden).is_ok() {
                    sum.iter_mut().zip(&hidden).for_each(|(sum, h)| *sum += f64::from(*h));
                }
            }
            progress(read)
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

    /// Reads `tokens` in chunks; after each calls `each(engine, tokens read, tokens of the chunk)`
    /// and goes on if it is true.
    fn read(
        &mut self,
        tokens: &[u32],
        mut each: impl FnMut(&Engine, usize, usize) -> bool,
    ) -> Result<usize> {
        if tokens.is_empty() {
            return Err(EngineError::NoTokens);
        }
        let n_vocab = self.engine.model().n_vocab();
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= n_vocab) {
            return Err(EngineError::UnknownToken { id, n_vocab });
        }
        let mut read = 0;
        for chunk in tokens.chunks(self.engine.chunk()) {
            read += chunk.len();
            let want = if read == tokens.len() { Want::Last } else { Want::None };
            self.engine.forward(&mut [Run { state: &mut self.state, tokens: chunk, want }])?;
            self.current = want == Want::Last;
            if !each(&self.engine, read, chunk.len()) {
                break;
            }
        }
        Ok(read)
    }

    /// Reads one token and returns the logits after it.
    ///
    /// # Errors
    /// The token is outside the vocabulary.
    pub fn step(&mut self, token: u32) -> Result<&[f32]> {
        self.engine.forward(&mut [Run {
            state: &mut self.state,
            tokens: &[token],
            want: Want::Last,
        }])?;
        self.current = true;
        Ok(self.logits())
    }

    /// The logits of the last step or prefill: `n_vocab` values; zeros before the first.
    pub fn logits(&self) -> &[f32] {
        self.engine.logits(0)
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
        self.current = false;
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
        self.current = false;
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
            self.current = true;
        }
        Ok(self.current)
    }

    /// Back to the start of a sequence.
    pub fn reset(&mut self) {
        self.state.reset();
        self.current = false;
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.engine.model()
    }

    /// The engine, for forward passes over other states; the session's logits are not its own any
    /// more afterwards.
    pub fn engine(&mut self) -> &mut Engine {
        self.current = false;
        &mut self.engine
    }
}
