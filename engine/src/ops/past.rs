//! Operations that look back: columns before each one, and what heads make of theirs.

use super::{List, Op, Values};
use crate::kernels::head_convs::HeadConvs;
use crate::state::SlotRef;

/// [`Op::Past`]: for each element its last `steps` values and its own, oldest first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PastOp {
    pub(crate) x: Values,
    /// State: the last columns, oldest first (steps, rows of x).
    pub(crate) window: SlotRef,
    pub(crate) steps: usize,
    /// (rows of x, steps + 1)
    pub(crate) y: Values,
}

/// [`Op::HeadConvs`]: see `kernels/head_convs.rs`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadConvsOp<'m> {
    pub(crate) convs: HeadConvs<'m>,
    /// Heads of queries, then of keys, each channel with this many values before its own: what
    /// [`Op::Past`] gives.
    pub(crate) x: Values,
    pub(crate) steps: usize,
    /// (heads, d_head)
    pub(crate) y: Values,
}

/// Inputs of a head, at most: a card keeps them in the memory of a block.
const MAX_INPUTS: usize = 3840;

impl<'m> List<'m> {
    /// The buffer `name` of the last `steps` columns of x and its own, which the state keeps.
    pub(crate) fn past(
        &mut self,
        name: &'static str,
        x: Values,
        (window, steps): (SlotRef, usize),
    ) -> Values {
        let y = self.values(name, self.rows(x) * (steps + 1));
        self.ops.push(Op::Past(PastOp { x, window, steps, y }));
        y
    }

    /// The buffer `name` of heads by their means and convolutions.
    pub(crate) fn head_convs(
        &mut self,
        name: &'static str,
        (convs, x, steps): (HeadConvs<'m>, Values, usize),
    ) -> Values {
        let heads = convs.n_head + convs.temperature.len();
        let y = self.values(name, heads * convs.d_head);
        self.ops.push(Op::HeadConvs(HeadConvsOp { convs, x, steps, y }));
        y
    }

    /// Why such an operation does not fit.
    pub(super) fn check_past(&self, op: &Op<'_>) -> Result<(), &'static str> {
        let holds = |is_so: bool, why| if is_so { Ok(()) } else { Err(why) };
        match op {
            Op::Past(PastOp { x, window, steps, y }) => {
                let n = self.rows(*x);
                holds(*steps > 0 && window.len() == steps * n, "columns that are kept")?;
                holds(self.rows(*y) == (steps + 1) * n, "columns before")
            }
            Op::HeadConvs(HeadConvsOp { convs, x, steps, y }) => {
                let (d, n_key) = (convs.d_head, convs.temperature.len());
                let n = (convs.n_head + n_key) * d;
                holds(convs.n_head == n_key * convs.group, "heads that share keys")?;
                holds(self.rows(*y) == n && n <= self.rows(*x) / (steps + 1), "heads")?;
                holds(convs.d_conv > 0 && convs.d_heads_conv > 0, "taps of heads")?;
                holds(convs.n_back() <= *steps, "columns that heads look back to")?;
                let inputs = d * convs.d_heads_conv;
                holds((1..=MAX_INPUTS).contains(&inputs), "inputs of a head")?;
                let has = |w: &[f32], each: usize| w.len() == n * each;
                holds(has(convs.channels, convs.d_conv), "taps of channels")?;
                holds(has(convs.channels_bias, 1) && has(convs.heads_bias, 1), "biases of heads")?;
                holds(has(convs.heads, inputs), "weights of heads")
            }
            _ => Ok(()),
        }
    }
}
