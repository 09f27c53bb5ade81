//! One buffer of a stage, handed to its pieces in disjoint parts.
//!
//! [`Shared`] is the buffer, [`Share`] the share of one piece; [`Segments`] is a buffer of which
//! runs of columns are cut each for themselves. Tests: in `mod.rs`.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use brooklet_formats::quant::TILE_ROWS;

use super::{MAX_PIECES, Split};
use crate::kernels::columns::ColumnsMut;
use crate::kernels::matmul::Output;

/// Which parts have been taken.
#[derive(Default)]
pub(crate) struct Taken([AtomicU64; MAX_PIECES.div_ceil(64)]);

impl Taken {
    /// Takes the part of `piece` of `pieces`.
    ///
    /// # Panics
    /// It was taken before, or there is no such piece: a bug in the stage.
    pub(crate) fn once(&self, piece: usize, pieces: usize) {
        assert!(piece < pieces && piece < MAX_PIECES);
        let bit = 1 << (piece % 64);
        let before = self.0[piece / 64].fetch_or(bit, Ordering::Relaxed);
        assert!(before & bit == 0, "a part is taken once");
    }
}

/// The direction in which a [`Shared`] buffer is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Axis {
    Rows,
    Columns,
}

/// A mutable buffer whose parts are handed to the pieces of one stage, each part once.
///
/// The buffer is a matrix of columns, each `stride` elements long; a part is a block of it (see
/// [`Share`]).
pub(crate) struct Shared<'a, T> {
    base: *mut T,
    stride: usize,
    columns: usize,
    axis: Axis,
    split: Split,
    taken: Taken,
    buffer: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Shared` only hands out disjoint `&mut` parts, each to one taker; that needs `T: Send`.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Shares the first `columns` columns of `buffer`; each piece gets the rows that `split` gives
    /// it, in every column.
    pub(crate) fn rows(buffer: &'a mut [T], stride: usize, columns: usize, split: Split) -> Self {
        assert!(split.len <= stride);
        Shared::new(buffer, stride, columns, Axis::Rows, split)
    }

    /// Shares whole columns of `buffer`: each piece gets the columns that `split` gives it.
    pub(crate) fn columns(buffer: &'a mut [T], stride: usize, split: Split) -> Self {
        Shared::new(buffer, stride, split.len, Axis::Columns, split)
    }

    fn new(buffer: &'a mut [T], stride: usize, columns: usize, axis: Axis, split: Split) -> Self {
        assert!(columns * stride <= buffer.len());
        let base = buffer.as_mut_ptr();
        Shared { base, stride, columns, axis, split, taken: Taken::default(), buffer: PhantomData }
    }

    /// The part of `piece`.
    ///
    /// # Panics
    /// It was taken before: a bug in the stage.
    pub(crate) fn take(&self, piece: usize) -> Share<'_, T> {
        self.taken.once(piece, self.split.pieces());
        let own = self.split.range(piece);
        let is_last = own.end == self.split.len;
        let (rows, columns) = match self.axis {
            Axis::Rows => (own, 0..self.columns),
            Axis::Columns => (0..self.stride, own),
        };
        Share { base: self.base, stride: self.stride, columns, rows, is_last, buffer: PhantomData }
    }
}

/// Columns of a buffer that are cut by rows for themselves.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) columns: Range<usize>,
    pub(crate) split: Split,
}

/// A mutable buffer of which every piece of a stage gets a part of every segment.
pub(crate) struct Segments<'a, T> {
    base: *mut T,
    stride: usize,
    segments: &'a [Segment],
    axis: Axis,
    /// Elements of the splits that are one of the buffer, and of the buffer that are one of a row
    /// or, where what the buffer calls rows are columns, of a column.
    per: usize,
    times: usize,
    pieces: usize,
    taken: Taken,
    buffer: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Segments` only hands out disjoint `&mut` parts, each to one taker; that needs
// `T: Send`.
unsafe impl<T: Send> Sync for Segments<'_, T> {}

impl<'a, T> Segments<'a, T> {
    /// Shares `buffer`, of columns that are `stride` long: of every `per` elements of a segment's
    /// split `times` rows.
    pub(crate) fn rows(
        buffer: &'a mut [T],
        stride: usize,
        segments: &'a [Segment],
        [per, times]: [usize; 2],
    ) -> Self {
        Segments::new(buffer, stride, segments, Axis::Rows, [per, times])
    }

    /// The same where rows and columns of `buffer` have changed places: of every `per` elements of
    /// a segment's split a whole run of `times` elements for each of its columns.
    pub(crate) fn turned(
        buffer: &'a mut [T],
        stride: usize,
        segments: &'a [Segment],
        [per, times]: [usize; 2],
    ) -> Self {
        Segments::new(buffer, stride, segments, Axis::Columns, [per, times])
    }

    fn new(
        buffer: &'a mut [T],
        stride: usize,
        segments: &'a [Segment],
        axis: Axis,
        [per, times]: [usize; 2],
    ) -> Self {
        let pieces = segments.first().map_or(1, |segment| segment.split.pieces());
        let mut end = 0;
        for Segment { columns, split } in segments {
            assert!(end <= columns.start && columns.start <= columns.end);
            assert_eq!(split.pieces(), pieces);
            end = columns.end;
            let rows = split.per(per).len();
            match axis {
                Axis::Rows => assert!(rows * times <= stride && end * stride <= buffer.len()),
                Axis::Columns => assert!(end * times <= stride && rows * stride <= buffer.len()),
            }
        }
        let (base, taken) = (buffer.as_mut_ptr(), Taken::default());
        Segments { base, stride, segments, axis, per, times, pieces, taken, buffer: PhantomData }
    }

    /// The parts of `piece`.
    ///
    /// # Panics
    /// They were taken before: a bug in the stage.
    pub(crate) fn take(&self, piece: usize) -> SegmentsShare<'_, T> {
        self.taken.once(piece, self.pieces);
        SegmentsShare { of: self, piece }
    }
}

/// What one piece of a stage has of a [`Segments`] buffer.
pub(crate) struct SegmentsShare<'a, T> {
    of: &'a Segments<'a, T>,
    piece: usize,
}

impl<T> SegmentsShare<'_, T> {
    /// Its part of segment `i`.
    pub(crate) fn segment(&mut self, i: usize) -> Share<'_, T> {
        let &Segments { base, stride, axis, per, times, .. } = self.of;
        let Segment { columns, split } = &self.of.segments[i];
        let own = split.per(per).range(self.piece);
        let is_last = split.range(self.piece).end == split.len();
        // Pieces have other rows of a segment, and segments other columns: parts are disjoint, and
        // `&mut self` keeps one of a piece's at a time.
        let (rows, columns) = match axis {
            Axis::Rows => (own.start * times..own.end * times, columns.clone()),
            Axis::Columns => (columns.start * times..columns.end * times, own),
        };
        Share { base, stride, columns, rows, is_last, buffer: PhantomData }
    }
}

/// A block of a [`Shared`] or [`Segments`] buffer (`rows` of each of `columns`), of one piece of
/// one stage.
pub(crate) struct Share<'a, T> {
    base: *mut T,
    stride: usize,
    columns: Range<usize>,
    rows: Range<usize>,
    /// No other part lies behind this one.
    is_last: bool,
    buffer: PhantomData<&'a mut [T]>,
}

impl<T> Share<'_, T> {
    /// The elements this part covers in each of its columns.
    pub(crate) fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// The columns this part covers.
    pub(crate) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// This part's elements of column `c`.
    #[inline]
    pub(crate) fn column(&mut self, c: usize) -> &mut [T] {
        assert!(self.columns.contains(&c));
        // SAFETY: `rows` lies within `stride`, `c` within the buffer's columns (checked when
        // shared); parts are disjoint.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.base.add(c * self.stride + self.rows.start),
                self.rows.len(),
            )
        }
    }
}

impl Share<'_, f32> {
    /// The `rows` (counted as in the whole buffer) of the `columns` of this part.
    ///
    /// # Panics
    /// The part does not have them: a bug in the stage.
    pub(crate) fn view_mut(&mut self, columns: Range<usize>, rows: Range<usize>) -> ColumnsMut<'_> {
        for (inner, outer) in [(&columns, &self.columns), (&rows, &self.rows)] {
            assert!(outer.start <= inner.start && inner.start <= inner.end);
            assert!(inner.end <= outer.end);
        }
        let first = self.base.wrapping_add(columns.start * self.stride + rows.start);
        // SAFETY: the block is in this part (checked above), which nobody else has; `&mut self`
        // excludes a second reference. A part's rows are at most its stride (checked when shared).
        unsafe { ColumnsMut::from_raw(first, self.stride, columns.len(), rows.len()) }
    }

    /// This part as a product's output: its whole tiles of 16 rows, in its columns. The last tile
    /// may reach past `rows`, into padding that belongs to no other part.
    ///
    /// # Panics
    /// The part does not hold whole tiles: a bug in the stage.
    pub(crate) fn tiles(&mut self) -> Output<'_> {
        let tiles = self.rows.len().div_ceil(TILE_ROWS);
        // A piece without rows may stand at the end of a matrix that does not end with a tile.
        if tiles > 0 {
            assert!(self.rows.start.is_multiple_of(TILE_ROWS));
            assert!(self.rows.len().is_multiple_of(TILE_ROWS) || self.is_last);
            assert!(self.rows.start + tiles * TILE_ROWS <= self.stride);
        }
        // SAFETY: `rows.start` lies within the stride, and the columns within the buffer (checked
        // when shared); whole tiles of rows are this part's in every column, and what follows the
        // last part's rows within the stride is nobody's; `&mut self` excludes a second output.
        unsafe {
            let base = self.base.wrapping_add(self.columns.start * self.stride + self.rows.start);
            Output::from_raw(base, self.stride, self.columns.len(), tiles)
        }
    }
}
