//! Passes of one token each between which the device chooses the next token itself, so that the
//! host is asked once for several.
//!
//! Not here: when that may be (`generate.rs`). Test: `tests/alone.rs`.

use super::{Columns, Engine, Run, Want};
use crate::Result;
use crate::sampler::Rule;
use crate::stage::Batch;
use crate::state::State;

impl Engine {
    /// Reads `token`, and behind it tokens that the device chooses by `rule`: one is put into each
    /// place of `chosen`, of which the last is not read; [`Engine::logits`] are those that it was
    /// chosen from. `false` where the device cannot: nothing has happened then.
    ///
    /// # Errors
    /// As [`Engine::forward`]'s.
    pub(crate) fn alone(
        &mut self,
        state: &mut State,
        token: u32,
        rule: &Rule<'_>,
        chosen: &mut [u32],
    ) -> Result<bool> {
        let mut run = Run { state, tokens: &[token], want: Want::Last };
        self.plan(std::slice::from_ref(&run))?;
        // Where a text does not fit its context the host finds the token that is too many.
        if run.state.reserve(chosen.len()).is_err() {
            return Ok(false);
        }
        let batch =
            Batch { columns: 1, spans: &self.spans, runs: &self.runs, tokens: &self.tokens };
        let columns = Columns { batch, wanted: &self.wanted };
        let went = self.backend.alone(columns, &mut run, rule, chosen)?;
        if went {
            run.state.advance(chosen.len());
        }
        Ok(went)
    }

    /// Takes a state back to where it stood before the last [`Engine::alone`], which moved it on by
    /// so many tokens.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn back(&mut self, state: &mut State, tokens: usize) -> Result<()> {
        self.backend.back(state, tokens)
    }
}
