//! Products with a matrix in columns: an input's codes of all rows stand side by side, so that
//! those of inputs that are zero are never read. Of what squared ReLUs leave, four fifths are.
//!
//! A few columns of activations walk over the inputs that are not zero in one of them:
//!
//! ```text
//! for each block of inputs:                       32 or 64, those that share both scales
//!     live = inputs that are not zero, by fours
//!     for each line of the rows:                  64 bytes: 64 rows of int8, 128 of int4
//!         sum = −bias · Σx
//!         for each four live inputs:
//!             interleave their bytes: four codes of a row are a lane, as in a tile
//!             sum += operands · x                 exact integers: `Dot::quad`
//!         y += sum · (scale · x_scale)            as `integer.rs` and `steps.rs` add
//! y = y · step                                    formats with steps
//! ```
//!
//! Memory is read in runs, a live column's rows, and what comes is asked for line by line, always as
//! far [`Ahead`]: in bursts it would come later than all of the matrix. More columns of activations
//! leave no input out: a few tiles are put together at a time, in the cache, and multiplied as tiles
//! are. The bits are those of tiles either way: a zero adds nothing to an exact sum. Not here: where
//! bytes stand (`brooklet_formats::quant::columns`). Test: `tests/columns.rs`.

use std::ops::Range;

use brooklet_formats::quant::{ColumnLayout, TileLayout};

use super::codes::{Codes, Int4, Int8};
use super::product::Output;
use crate::kernels::forms::Packed;
use crate::kernels::simd::Simd;
use crate::kernels::units::Int8Group;

/// A matrix in columns, from one of its tiles on.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    pub(super) layout: &'a TileLayout,
    pub(super) at: ColumnLayout,
    pub(super) bytes: &'a [u8],
    pub(super) first: usize,
}

impl<'a> Columns<'a> {
    /// The matrix of that layout from tile `first` on.
    ///
    /// # Panics
    /// It is not in columns, or not whole: a bug in whoever mapped it.
    pub(crate) fn new(layout: &'a TileLayout, bytes: &'a [u8], first: usize) -> Self {
        let at = layout.columns().expect("a matrix in columns");
        assert_eq!(bytes.len(), at.total_bytes);
        Columns { layout, at, bytes, first }
    }
}

/// `y[c] = W x[c]`; lengths have been checked.
pub(super) struct ColumnProduct<'a> {
    pub(super) w: Columns<'a>,
    pub(super) x: Packed<'a, Int8Group>,
    pub(super) y: Output<'a>,
}

impl ColumnProduct<'_> {
    /// The lines of its rows.
    pub(super) fn lines<K: InColumns>(&self) -> Range<usize> {
        self.w.first / K::TILES..(self.w.first + self.y.tiles()).div_ceil(K::TILES)
    }
}

/// An integer format that matrices in columns have.
pub(super) trait InColumns: Codes {
    /// Rows whose codes share a byte: 64 apart.
    const HALVES: usize = 8 / Self::BITS;

    /// Tiles of a line.
    const TILES: usize = 4 * Self::HALVES;

    /// Bytes of a row's scale.
    const SCALE: usize = if Self::HAS_STEPS { 1 } else { 2 };

    /// The operands of the rows of a register of interleaved bytes, of each half.
    fn split<S: Simd>(s: S, table: S::I, v: S::I) -> [S::I; 2];
}

impl InColumns for Int4 {
    #[inline(always)]
    fn split<S: Simd>(s: S, table: S::I, v: S::I) -> [S::I; 2] {
        s.lookup_nibbles(table, v)
    }
}

impl InColumns for Int8 {
    #[inline(always)]
    fn split<S: Simd>(_: S, _: S::I, v: S::I) -> [S::I; 2] {
        [v, v]
    }
}

/// Four registers of bytes as four registers of lanes: of lane r of the i-th, the bytes of row
/// 16i + r.
#[inline(always)]
pub(super) fn interleave<S: Simd>(s: S, [a, b, c, d]: [S::I; 4]) -> [S::I; 4] {
    let ([ab, above_ab], [cd, above_cd]) = (s.interleave_bytes(a, b), s.interleave_bytes(c, d));
    let ([p, q], [u, v]) = (s.interleave_halves(ab, cd), s.interleave_halves(above_ab, above_cd));
    [p, q, u, v]
}
