//! Who does what in a stage: units of a buffer (tiles, heads, columns), cut into contiguous parts
//! of equal cost.

use std::ops::Range;

/// Which elements of a buffer each piece owns: `len` elements in units of `unit`, the last one
/// maybe shorter.
///
/// Several buffers of one stage may be split together ([`Split::among`]): their units stand in one
/// row, each with its cost, and the row is cut into equal costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    pub(super) len: usize,
    unit: usize,
    pieces: usize,
    /// Cost of one unit, of all units before this buffer's, and of the whole stage.
    cost: usize,
    before: usize,
    total: usize,
}

impl Split {
    /// `len` elements in units of `unit`, shared equally by `pieces` pieces.
    pub(crate) fn new(len: usize, unit: usize, pieces: usize) -> Split {
        Split::among(len, unit, pieces, 1, 0, len.div_ceil(unit.max(1)))
    }

    /// As [`Split::new`], as one buffer of a stage of cost `total`: a unit costs `cost`, the
    /// buffers before it `before`.
    pub(crate) fn among(
        len: usize,
        unit: usize,
        pieces: usize,
        cost: usize,
        before: usize,
        total: usize,
    ) -> Split {
        Split { len, unit: unit.max(1), pieces: pieces.max(1), cost: cost.max(1), before, total }
    }

    /// The elements of `piece`: whole units, contiguous, ascending with the piece.
    pub(crate) fn range(&self, piece: usize) -> Range<usize> {
        self.bound(piece)..self.bound(piece + 1)
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Number of pieces it is for.
    pub(crate) fn pieces(&self) -> usize {
        self.pieces
    }

    /// The same split of a buffer that holds `by` elements for every one of this one.
    pub(crate) fn times(&self, by: usize) -> Split {
        Split { len: self.len * by, unit: self.unit * by, ..*self }
    }

    /// The same split of a buffer that holds one element for every `by` of this one.
    pub(crate) fn per(&self, by: usize) -> Split {
        assert!(self.unit.is_multiple_of(by));
        Split { len: self.len.div_ceil(by), unit: self.unit / by, ..*self }
    }

    fn bound(&self, piece: usize) -> usize {
        if piece >= self.pieces {
            return self.len;
        }
        let target = self.total * piece / self.pieces;
        (target.saturating_sub(self.before).div_ceil(self.cost) * self.unit).min(self.len)
    }
}

/// Least common multiple: the unit that is whole in both `a` and `b`.
pub(crate) fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x.max(1) * b
}
