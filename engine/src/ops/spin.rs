//! The operation of angles that grow as a text goes on (`kernels/rope.rs`).

use super::{List, Op, Values};
use crate::state::SlotRef;

/// [`Op::Spin`]: angle ← (angle + step · speed) mod 2π, pair by pair of every head, and its cosine
/// and sine. The state keeps angles among what else heads keep, but somebody else writes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpinOp {
    pub(crate) n_head: usize,
    pub(crate) n_pair: usize,
    /// (n_head)
    pub(crate) step: Values,
    /// (n_pair)
    pub(crate) speed: Values,
    /// State: (n_head, so many), and where a head's angles begin in it.
    pub(crate) state: SlotRef,
    pub(crate) first: usize,
    /// Angles, cosines, sines (n_head, 3, n_pair).
    pub(crate) y: Values,
}

impl List<'_> {
    /// Angles grow.
    pub(crate) fn spin(&mut self, spin: SpinOp) {
        self.ops.push(Op::Spin(spin));
    }

    /// Why it does not fit.
    pub(super) fn check_spin(&self, spin: &SpinOp) -> Result<(), &'static str> {
        let SpinOp { n_head, n_pair, first, .. } = *spin;
        let holds = |is_so: bool, why| if is_so { Ok(()) } else { Err(why) };
        let each = spin.state.len().checked_div(n_head).unwrap_or(0);
        holds(n_pair > 0 && spin.state.len() == n_head * each, "heads of angles")?;
        holds(first + n_pair <= each, "angles in a state")?;
        holds(self.rows(spin.step) == n_head && self.rows(spin.speed) == n_pair, "speeds")?;
        holds(self.rows(spin.y) == 3 * n_head * n_pair, "angles of heads")
    }
}
