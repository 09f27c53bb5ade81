//! [`Backend`]: the device that a model runs on, as its engine sees it.

use super::Run;
use crate::Result;
use crate::buffers::Panel;
use crate::sampler::Rule;
use crate::stage::Batch;
use crate::state::State;

/// The columns of a pass, and those whose logits are wanted.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    pub(super) batch: Batch<'a>,
    pub(super) wanted: &'a [usize],
}

/// A device with buffers for the passes of one model.
pub(super) trait Backend: Send {
    /// Runs a pass over checked columns, and moves the states of `runs` on; their positions are the
    /// engine's.
    ///
    /// # Errors
    /// The device failed: the states are lost, unless it could not begin. Or they were lost before.
    fn forward(&mut self, columns: Columns<'_>, runs: &mut [Run<'_>]) -> Result<()>;

    /// Passes of one token each: the one of `columns`, then those that it chooses itself, which are
    /// put into `chosen`, the last of them unread. `false` where it cannot: nothing has happened.
    ///
    /// # Errors
    /// As those of a pass.
    fn alone(
        &mut self,
        columns: Columns<'_>,
        run: &mut Run<'_>,
        rule: &Rule<'_>,
        chosen: &mut [u32],
    ) -> Result<bool> {
        let _ = (columns, run, rule, chosen);
        Ok(false)
    }

    /// Takes a state back to where it stood before the last [`Backend::alone`], by so many tokens.
    ///
    /// # Errors
    /// The device failed.
    fn back(&mut self, state: &mut State, tokens: usize) -> Result<()> {
        let _ = (state, tokens);
        Ok(())
    }

    /// Row `i` of the last pass's logits.
    fn logits(&self, i: usize) -> &[f32];

    /// The same, to write to.
    fn logits_mut(&mut self, i: usize) -> &mut [f32];

    /// Exchanges the rows of logits for `other`, if they stand in memory that may leave and `other`
    /// is as large. Whether it happened.
    fn exchange_logits(&mut self, other: &mut Panel) -> bool {
        let _ = other;
        false
    }

    /// The residual stream behind the last layer, of a column of the last pass.
    ///
    /// # Errors
    /// The device failed.
    fn x(&self, column: usize) -> Result<&[f32]>;

    /// The most threads it uses, the caller's included.
    fn threads(&self) -> usize;
}
