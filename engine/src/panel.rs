//! A panel: columns of f32, one per token of a forward pass, padded so that a matrix's tiles fit.

use crate::team::{Shared, Split};

/// Up to `columns` columns of `rows` values; each column starts on a 64-byte boundary's multiple of 16 values.
pub(crate) struct Panel {
    rows: usize,
    stride: usize,
    values: Vec<f32>,
}

impl Panel {
    /// Room for `columns` columns of `rows` values, all zero.
    pub(crate) fn new(rows: usize, columns: usize) -> Panel {
        let stride = rows.next_multiple_of(16);
        Panel { rows, stride, values: vec![0.0; stride * columns] }
    }

    /// Values in a column.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Column `c`.
    #[inline]
    pub(crate) fn column(&self, c: usize) -> &[f32] {
        &self.values[c * self.stride..][..self.rows]
    }

    /// Column `c`.
    #[inline]
    pub(crate) fn column_mut(&mut self, c: usize) -> &mut [f32] {
        &mut self.values[c * self.stride..][..self.rows]
    }

    /// Shares the first `columns` columns by rows.
    pub(crate) fn share_rows(&mut self, columns: usize, split: Split) -> Shared<'_, f32> {
        Shared::rows(&mut self.values, self.stride, columns, split)
    }

    /// Shares whole columns.
    pub(crate) fn share_columns(&mut self, split: Split) -> Shared<'_, f32> {
        Shared::columns(&mut self.values, self.stride, split)
    }
}
