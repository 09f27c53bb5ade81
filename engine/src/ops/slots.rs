//! The operation of slots that take keys as they fade (`kernels/recurrence/slots.rs`).

use super::{List, OfHead, Op, Values};
use crate::state::SlotRef;

/// [`Op::Slots`]: S ← S diag(decay) + k shareᵀ, y = softmax(Sᵀ q).
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotsOp {
    pub(crate) n_head: usize,
    pub(crate) n_key: usize,
    pub(crate) n_slot: usize,
    /// State: (n_head, n_key, n_slot).
    pub(crate) state: SlotRef,
    /// (n_key) of a head each.
    pub(crate) q: OfHead,
    pub(crate) k: OfHead,
    /// (n_slot) of a head each.
    pub(crate) share: OfHead,
    pub(crate) decay: OfHead,
    /// (n_head, n_slot)
    pub(crate) y: Values,
}

impl List<'_> {
    /// Heads with slots.
    pub(crate) fn slots(&mut self, slots: SlotsOp) {
        self.ops.push(Op::Slots(slots));
    }

    /// Why it does not fit.
    pub(super) fn check_slots(&self, slots: &SlotsOp) -> Result<(), &'static str> {
        let SlotsOp { n_head, n_key, n_slot, .. } = *slots;
        let holds = |is_so: bool, why| if is_so { Ok(()) } else { Err(why) };
        let fits =
            |of: OfHead, n: usize| of.share > 0 && of.at(n_head - 1) + n <= self.rows(of.from);
        holds(n_head > 0 && slots.state.len() == n_head * n_key * n_slot, "slots' state")?;
        holds(self.rows(slots.y) == n_head * n_slot, "slots' shares")?;
        holds(fits(slots.q, n_key) && fits(slots.k, n_key), "slots' keys")?;
        holds(fits(slots.share, n_slot) && fits(slots.decay, n_slot), "slots' decays")
    }
}
