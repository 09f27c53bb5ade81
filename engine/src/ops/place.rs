//! Operations that lay values out anew, head by head, and products of a head's own values.

use super::{Formula, List, Op, Values};

/// [`Op::Place`]: of every head some elements of buffers, one part behind the other; zero where no
/// part is.
#[derive(Clone, Debug)]
pub(crate) struct PlaceOp {
    pub(crate) heads: usize,
    /// At most [`PARTS`].
    pub(crate) parts: Vec<PlacePart>,
    /// (heads, own)
    pub(crate) y: Values,
}

/// The most parts of a head.
pub(crate) const PARTS: usize = 3;

/// Elements of a buffer: of head h number i is element `first + h / share · step + i · by`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlacePart {
    pub(crate) from: Values,
    pub(crate) first: usize,
    pub(crate) step: usize,
    pub(crate) by: usize,
    /// Heads that have the same elements.
    pub(crate) share: usize,
    /// Where they go in a head's own, and how many there are.
    pub(crate) to: usize,
    pub(crate) n: usize,
}

impl PlacePart {
    /// The element of y's head `head` at `i` of its own, if it is of this part.
    pub(super) fn at(&self, head: usize, i: usize) -> Option<usize> {
        let i = i.checked_sub(self.to).filter(|i| *i < self.n)?;
        Some(self.first + head / self.share * self.step + i * self.by)
    }
}

/// [`Op::Blocks`]: y = W x + bias, blocks of so many channels each for itself, in the order of
/// inputs; the sum begins with the bias.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlocksOp<'m> {
    /// Channels of a block.
    pub(crate) d: usize,
    /// (blocks, d inputs, d outputs)
    pub(crate) w: &'m [f32],
    /// (blocks · d)
    pub(crate) bias: &'m [f32],
    pub(crate) x: Values,
    pub(crate) y: Values,
}

/// A part of values that stand head behind head: `n` of each, from `first` on.
pub(crate) fn part(from: Values, (first, step): (usize, usize), to: usize, n: usize) -> PlacePart {
    PlacePart { from, first, step, by: 1, share: 1, to, n }
}

impl<'m> List<'m> {
    /// The buffer `name` of `own` values for each head, which the parts give.
    pub(crate) fn place(
        &mut self,
        name: &'static str,
        (heads, own): (usize, usize),
        parts: impl Into<Vec<PlacePart>>,
    ) -> Values {
        let y = self.values(name, heads * own);
        self.ops.push(Op::Place(PlaceOp { heads, parts: parts.into(), y }));
        y
    }

    /// y = f, element by element, column after column: y may stand in f as it was before.
    pub(crate) fn fold(&mut self, y: Values, f: impl Into<Formula<'m>>) {
        self.ops.push(Op::Fold { f: f.into(), y });
    }

    /// Blocks of channels, each with a matrix of its own.
    pub(crate) fn blocks(&mut self, blocks: BlocksOp<'m>) {
        self.ops.push(Op::Blocks(blocks));
    }

    /// Why such an operation does not fit.
    pub(super) fn check_place(&self, op: &Op<'_>) -> Result<(), &'static str> {
        let holds = |is_so: bool, why| if is_so { Ok(()) } else { Err(why) };
        match op {
            Op::Place(PlaceOp { heads, parts, y }) => {
                let own = self.rows(*y).checked_div(*heads).unwrap_or(0);
                holds(own > 0 && self.rows(*y) == heads * own, "heads of their own")?;
                holds(parts.len() <= PARTS, "parts of a head")?;
                parts.iter().try_for_each(|part| {
                    holds(part.n > 0 && part.share > 0, "a part's heads")?;
                    let last = part.at(heads - 1, part.to + part.n - 1);
                    holds(last.is_some_and(|at| at < self.rows(part.from)), "elements of a part")?;
                    holds(part.to + part.n <= own, "a part's place")
                })
            }
            Op::Blocks(BlocksOp { d, w, bias, x, y }) => {
                let n = self.rows(*y);
                holds(*d > 0 && n.is_multiple_of(*d), "blocks of channels")?;
                holds(w.len() == n * d && bias.len() == n, "weights of blocks")?;
                holds(self.rows(*x) >= n, "what blocks read")
            }
            _ => Ok(()),
        }
    }
}
