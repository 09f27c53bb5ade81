//! Operations of attention: rotary positions, what a state keeps of tokens, what queries read.
//!
//! Angles depend on nothing but a token's position: whoever executes a list fills their buffers
//! before a pass ([`Positional`]). Keys and values stand in the pages of a state
//! (`kernels/kept.rs`), 64 tokens each; where a window moves on, a pass has at most 64 tokens of a
//! run, because pages are used again. Not here: equations (`model/parts/attention`).

use super::{List, Op, Values};
use crate::kernels::relative::growth;
use crate::kernels::rope;
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
    /// (heads of keys, d_head); none of blocks.
    pub(crate) v: Option<Values>,
    /// State: the pages of the layer.
    pub(crate) pages: PagesRef,
    /// Tokens of a block: the last one's column has what is kept of it. 1: each token is one.
    pub(crate) block: usize,
}

/// [`Op::Attend`]: see `kernels/attention.rs`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttendOp<'m> {
    /// Scaled already (heads, d_head).
    pub(crate) q: Values,
    /// Heads that share keys and values.
    pub(crate) group: usize,
    /// State: the pages of the layer.
    pub(crate) pages: PagesRef,
    /// What is added to scores for the distance.
    pub(crate) relative: Option<RelativeOp<'m>>,
    /// The blocks of tokens that are seen, where not all are, ascending, infinities behind them;
    /// and tokens of a block.
    pub(crate) chosen: Option<(Values, usize)>,
    /// (heads, d_head)
    pub(crate) y: Values,
}

/// Scores by distance: see `kernels/relative.rs`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RelativeOp<'m> {
    /// (heads, n)
    pub(crate) mix: Values,
    pub(crate) n: usize,
    /// (n, distances)
    pub(crate) profiles: &'m [f32],
}

/// What depends on nothing but a token's position.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Positional {
    /// cos, then sin, of the angles with these frequencies, of the first token of its block.
    Angles { frequencies: Vec<f32>, block: usize },
    /// Of blocks of so many tokens: 0 for the first one's, else 1; then 0 for the last one's, else
    /// 1.
    Within { block: usize },
    /// The factor of scores that grow with the text.
    Growth { floor: f32, alpha: f32 },
}

impl Positional {
    /// Values of a token.
    pub(crate) fn rows(&self) -> usize {
        match self {
            Positional::Angles { frequencies, .. } => 2 * frequencies.len(),
            Positional::Within { .. } => 2,
            Positional::Growth { .. } => 1,
        }
    }

    /// Those of the token at `position`.
    pub(crate) fn fill(&self, position: usize, values: &mut [f32]) {
        match self {
            Positional::Angles { frequencies, block } => {
                rope::angles(frequencies, position / block * block, values);
            }
            Positional::Within { block } => {
                let is_in = |position: usize| f32::from(!position.is_multiple_of(*block));
                [values[0], values[1]] = [is_in(position), is_in(position + 1)];
            }
            Positional::Growth { floor, alpha } => {
                values[0] = growth((*floor, *alpha), position + 1);
            }
        }
    }
}

impl<'m> List<'m> {
    /// The buffer of rotary angles with these frequencies, of blocks of so many tokens, which
    /// layers share.
    pub(crate) fn angles(&mut self, frequencies: &[f32], block: usize) -> Values {
        self.positional("angles", Positional::Angles { frequencies: frequencies.to_vec(), block })
    }

    /// The buffer of what depends on nothing but a token's position, which layers share.
    pub(crate) fn positional(&mut self, name: &'static str, new: Positional) -> Values {
        if let Some((values, _)) = self.positional.iter().find(|(_, of)| *of == new) {
            return *values;
        }
        let values = self.own_values(name, new.rows());
        self.positional.push((values, new));
        values
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
    pub(crate) fn attend(&mut self, attend: AttendOp<'m>) {
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
            Op::Remember(RememberOp { k, v, pages, block }) => {
                let (d, n) = (pages.d_head, pages.n_head() * pages.d_head);
                let is_whole = v.is_none_or(|v| self.rows(v) == n);
                holds(is_head(d) && *block > 0 && is_whole, "values to keep")?;
                holds([n, d].contains(&self.rows(*k)), "keys to keep")
            }
            Op::Attend(AttendOp { q, group, pages, relative, chosen, y }) => {
                let heads = pages.n_head() * group;
                let n = heads * pages.d_head;
                holds(is_head(pages.d_head) && self.rows(*q) == n, "queries")?;
                if let Some(RelativeOp { mix, n, profiles }) = relative {
                    holds(*n > 0 && profiles.len().is_multiple_of(*n), "profiles of distances")?;
                    holds(self.rows(*mix) == heads * n, "how profiles are mixed")?;
                }
                holds(chosen.is_none_or(|(_, size)| size > 0), "tokens of a block")?;
                holds(self.rows(*y) == n, "what queries read")
            }
            _ => Ok(()),
        }
    }
}
