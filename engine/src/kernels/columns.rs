//! Plain views of columns of f32: what kernels see of a buffer, whoever owns it.
//!
//! A view is a block: the same rows of some columns. Columns count from 0 in it. [`Columns`] reads,
//! [`ColumnsMut`] writes. Tests: below.

use std::marker::PhantomData;
use std::ops::Range;

/// A block of columns, for reading.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    first: *const f32,
    stride: usize,
    len: usize,
    rows: usize,
    values: PhantomData<&'a [f32]>,
}

impl<'a> Columns<'a> {
    /// The `rows` of the `columns` of a buffer whose columns are `stride` values apart.
    pub(crate) fn new(
        values: &'a [f32],
        stride: usize,
        columns: Range<usize>,
        rows: Range<usize>,
    ) -> Columns<'a> {
        assert!(columns.start <= columns.end && columns.end * stride <= values.len());
        assert!(rows.start <= rows.end && rows.end <= stride);
        let first = values.as_ptr().wrapping_add(columns.start * stride + rows.start);
        Columns { first, stride, len: columns.len(), rows: rows.len(), values: PhantomData }
    }

    /// `len` columns that are all the same.
    pub(crate) fn same(values: &'a [f32], len: usize) -> Columns<'a> {
        let (first, rows) = (values.as_ptr(), values.len());
        Columns { first, stride: 0, len, rows, values: PhantomData }
    }

    /// Number of columns.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Values in a column.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Column `c`.
    #[inline(always)]
    pub(crate) fn at(&self, c: usize) -> &'a [f32] {
        assert!(c < self.len);
        // SAFETY: column `c` exists, and all its rows are in the buffer, which is borrowed for 'a
        // (checked when the view was made).
        unsafe { std::slice::from_raw_parts(self.first.add(c * self.stride), self.rows) }
    }
}

/// A block of columns, for writing.
pub(crate) struct ColumnsMut<'a> {
    first: *mut f32,
    stride: usize,
    len: usize,
    rows: usize,
    values: PhantomData<&'a mut [f32]>,
}

impl<'a> ColumnsMut<'a> {
    /// `len` columns of `rows` values, `stride` apart; the first begins at `first`.
    ///
    /// # Safety
    /// For 'a, all these values exist and nobody else has a reference to any of them. Columns do
    /// not overlap: `rows` is at most `stride`.
    pub(crate) unsafe fn from_raw(first: *mut f32, stride: usize, len: usize, rows: usize) -> Self {
        ColumnsMut { first, stride, len, rows, values: PhantomData }
    }

    /// All of `values`, in columns of `rows`.
    #[cfg(any(test, feature = "interpreter"))]
    pub(crate) fn whole(values: &'a mut [f32], rows: usize) -> Self {
        // SAFETY: the columns are those of `values`, which is borrowed as long as the view.
        unsafe { Self::from_raw(values.as_mut_ptr(), rows, values.len() / rows, rows) }
    }

    /// Number of columns.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Values in a column.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Column `c`.
    #[inline(always)]
    pub(crate) fn at(&mut self, c: usize) -> &mut [f32] {
        assert!(c < self.len);
        // SAFETY: column `c` exists, and all its rows are this view's own (the promise of whoever
        // made it); `&mut self` excludes a second reference.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(c * self.stride), self.rows) }
    }

    /// The `columns` of it, for a while.
    pub(crate) fn part(&mut self, columns: Range<usize>) -> ColumnsMut<'_> {
        assert!(columns.start <= columns.end && columns.end <= self.len);
        let first = self.first.wrapping_add(columns.start * self.stride);
        ColumnsMut { first, len: columns.len(), ..*self }
    }

    /// The same for reading, as long as nobody writes.
    pub(crate) fn view(&self) -> Columns<'_> {
        let ColumnsMut { first, stride, len, rows, .. } = *self;
        Columns { first, stride, len, rows, values: PhantomData }
    }

    /// The same for writing, for a while.
    pub(crate) fn view_mut(&mut self) -> ColumnsMut<'_> {
        ColumnsMut { ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_see_their_block() {
        let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let view = Columns::new(&values, 4, 1..3, 1..4);
        assert_eq!((view.len(), view.rows()), (2, 3));
        assert_eq!((view.at(0), view.at(1)), (&[5.0, 6.0, 7.0][..], &[9.0, 10.0, 11.0][..]));
        assert_eq!(Columns::same(&values[..2], 9).at(8), [0.0, 1.0]);
    }

    #[test]
    #[should_panic]
    fn no_view_beyond_the_buffer() {
        Columns::new(&[0.0; 7], 4, 0..2, 0..1);
    }

    #[test]
    #[should_panic]
    fn no_column_beyond_the_view() {
        Columns::new(&[0.0; 8], 4, 0..1, 0..4).at(1);
    }
}
