//! Operations of attention: rotary positions, what a state keeps of tokens, what queries read.
//!
//! Angles depend on nothing but a token's position: whoever executes a list fills their buffers
//! before a pass ([`List::ropes`]). Keys and values stand in the pages of a state
//! (`kernels/kept.rs`), 64 tokens each; where a window moves on, a pass has at most 64 tokens of a
//! run, because pages are used again. Not here: equations (`model/parts/attention`).

use super::{List, Op, Values};
use crate::state::PagesRef;

/// Channels of a head, at most: a latent, and the part of keys that all heads share.
const MAX_HEAD: usize = 1024;

/// [`Op::Turn`]: see `kernels/rope.rs`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TurnOp {
    /// (heads, d_head), in place.
    pub(crate) x: Values,
    pub(crate) d_head: usize,
    /// cos, then sin, of the pairs' angles; or of every head its own ([`Op::Spin`]), which turn
    /// pairs of neighbours.
    pub(crate) angles: Values,
    pub(crate) is_own: bool,
}

impl TurnOp {
    /// Pairs of a head that turn, of `rows` angles.
    pub(crate) fn n_pair(&self, rows: usize, heads: usize) -> usize {
        if self.is_own { rows / 3 / heads } else { rows / 2 }
    }
}

/// [`Op::Remember`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct RememberOp {
    /// (heads of keys, d_head), or (d_head) where all heads have the same keys.
    pub(crate) k: Values,
    /// (heads of keys, d_head)
    pub(crate) v: Values,
    /// State: the pages of the layer.
    pub(crate) pages: PagesRef,
}

/// [`Op::Attend`]: see `kernels/attention.rs`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttendOp {
    /// Scaled already (heads, d_head).
    pub(crate) q: Values,
    /// Heads that share keys and values.
    pub(crate) group: usize,
    /// State: the pages of the layer.
    pub(crate) pages: PagesRef,
    /// (heads, d_head)
    pub(crate) y: Values,
}

impl<'m> List<'m> {
    /// The buffer of rotary angles with these frequencies, which layers share.
    pub(crate) fn angles(&mut self, frequencies: &'m [f32]) -> Values {
        if let Some((angles, _)) = self.ropes.iter().find(|(_, of)| *of == frequencies) {
            return *angles;
        }
        let angles = self.own_values("angles", 2 * frequencies.len());
        self.ropes.push((angles, frequencies));
        angles
    }

    /// The buffers of angles, and their frequencies.
    #[cfg(any(feature = "cuda", feature = "interpreter"))]
    pub(crate) fn ropes(&self) -> &[(Values, &'m [f32])] {
        &self.ropes
    }

    /// The heads of `x` turn.
    pub(crate) fn turn(&mut self, x: Values, d_head: usize, angles: Values) {
        self.ops.push(Op::Turn(TurnOp { x, d_head, angles, is_own: false }));
    }

    /// Neighbours of the heads of `x` turn, by angles of their own.
    pub(crate) fn turn_own(&mut self, x: Values, d_head: usize, angles: Values) {
        self.ops.push(Op::Turn(TurnOp { x, d_head, angles, is_own: true }));
    }

    /// The state keeps keys and values.
    pub(crate) fn remember(&mut self, remember: RememberOp) {
        self.ops.push(Op::Remember(remember));
    }

    /// Heads read what was kept.
    pub(crate) fn attend(&mut self, attend: AttendOp) {
        self.ops.push(Op::Attend(attend));
    }

    /// Why an operation of attention does not fit.
    pub(super) fn check_attention(&self, op: &Op<'_>) -> Result<(), &'static str> {
        let holds = |is_so: bool, why| if is_so { Ok(()) } else { Err(why) };
        let is_head = |d: usize| (1..=MAX_HEAD).contains(&d);
        match op {
            Op::Turn(turn) => {
                let (d, n, angles) = (turn.d_head, self.rows(turn.x), self.rows(turn.angles));
                holds(is_head(d) && n > 0 && n.is_multiple_of(d), "heads to turn")?;
                let n_pair = turn.n_pair(angles, n / d);
                let all = if turn.is_own { 3 * n_pair * (n / d) } else { 2 * n_pair };
                holds(angles == all && 2 * n_pair <= d, "angles of a head")
            }
            Op::Remember(RememberOp { k, v, pages }) => {
                let (d, n) = (pages.d_head, pages.n_head() * pages.d_head);
                holds(is_head(d) && self.rows(*v) == n, "values to keep")?;
                holds([n, d].contains(&self.rows(*k)), "keys to keep")
            }
            Op::Attend(AttendOp { q, group, pages, y }) => {
                let n = pages.n_head() * group * pages.d_head;
                holds(is_head(pages.d_head) && self.rows(*q) == n, "queries")?;
                holds(self.rows(*y) == n, "what queries read")
            }
            _ => Ok(()),
        }
    }
}
