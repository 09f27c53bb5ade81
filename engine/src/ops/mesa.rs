//! The operation of heads that solve for what they read (`kernels/recurrence/mesa.rs`).

use super::{List, OfHead, Op, Values};
use crate::kernels::recurrence::MAX_MESA;
use crate::state::SlotRef;

/// [`Op::Mesa`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct MesaOp<'m> {
    pub(crate) n_head: usize,
    /// Keys and values of a head.
    pub(crate) d: usize,
    /// Steps of a token.
    pub(crate) steps: usize,
    /// State: (n_head, 2, d, d).
    pub(crate) state: SlotRef,
    /// (d) of a head each; q and k of length 1.
    pub(crate) q: OfHead,
    pub(crate) k: OfHead,
    pub(crate) v: OfHead,
    /// One of a head each.
    pub(crate) decay: OfHead,
    pub(crate) beta: OfHead,
    /// (n_head, d)
    pub(crate) lambda: &'m [f32],
    /// (n_head, d)
    pub(crate) y: Values,
}

impl<'m> List<'m> {
    /// Heads that solve.
    pub(crate) fn mesa(&mut self, mesa: MesaOp<'m>) {
        self.ops.push(Op::Mesa(mesa));
    }

    /// Why it does not fit.
    pub(super) fn check_mesa(&self, mesa: &MesaOp<'_>) -> Result<(), &'static str> {
        let MesaOp { n_head, d, .. } = *mesa;
        let holds = |is_so: bool, why| if is_so { Ok(()) } else { Err(why) };
        let fits =
            |of: OfHead, n: usize| of.share > 0 && of.at(n_head - 1) + n <= self.rows(of.from);
        holds(n_head > 0 && (1..=MAX_MESA).contains(&d), "heads that solve")?;
        holds(mesa.state.len() == 2 * n_head * d * d, "a state to solve")?;
        holds([mesa.q, mesa.k, mesa.v].iter().all(|of| fits(*of, d)), "what heads solve")?;
        holds([mesa.decay, mesa.beta].iter().all(|of| fits(*of, 1)), "numbers of heads")?;
        holds(mesa.lambda.len() == n_head * d, "a diagonal")?;
        holds(self.rows(mesa.y) == n_head * d, "what was solved")
    }
}
