//! A panel: columns of f32, one per token of a forward pass, padded so that a matrix's tiles fit.

use std::ops::Range;

use brooklet_formats::zeroed::Zeroed;
use bytemuck::{cast_slice, cast_slice_mut};

use super::Workspace;
use crate::kernels::columns::Columns;
use crate::kernels::lanes::{Lanes, WIDTH};
use crate::team::{Segment, Segments, Shared, Split};

/// Up to `columns` columns of `rows` values; each column starts on a cache line of its own.
pub(crate) struct Panel {
    rows: usize,
    stride: usize,
    values: Zeroed<Lanes>,
}

impl Panel {
    /// The columns of `workspace`, of `rows` values each, all zero.
    pub(crate) fn new(rows: usize, workspace: &Workspace) -> Panel {
        // An odd number of cache lines: columns a power of two apart would compete for the same
        // lines of the cache.
        let stride = (rows.div_ceil(WIDTH) | 1) * WIDTH;
        Panel { rows, stride, values: workspace.zeroed(stride / WIDTH) }
    }

    /// Values in a column.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Whether another panel is as large.
    pub(crate) fn is_like(&self, other: &Panel) -> bool {
        (self.rows, self.values.len()) == (other.rows, other.values.len())
    }

    /// Column `c`.
    #[inline]
    pub(crate) fn column(&self, c: usize) -> &[f32] {
        &cast_slice(&self.values)[c * self.stride..][..self.rows]
    }

    /// Column `c`.
    #[inline]
    pub(crate) fn column_mut(&mut self, c: usize) -> &mut [f32] {
        &mut cast_slice_mut(&mut self.values)[c * self.stride..][..self.rows]
    }

    /// Copies the first `columns` columns of `from`, which has as many rows.
    pub(crate) fn copy(&mut self, from: &Panel, columns: usize) {
        for c in 0..columns {
            self.column_mut(c).copy_from_slice(from.column(c));
        }
    }

    /// Makes the first `columns` columns zero.
    pub(crate) fn clear(&mut self, columns: usize) {
        (0..columns).for_each(|c| self.column_mut(c).fill(0.0));
    }

    /// The `rows` of the `columns`.
    pub(crate) fn view(&self, columns: Range<usize>, rows: Range<usize>) -> Columns<'_> {
        Columns::new(cast_slice(&self.values), self.stride, columns, rows)
    }

    /// Shares the first `columns` columns by rows.
    pub(crate) fn share_rows(&mut self, columns: usize, split: Split) -> Shared<'_, f32> {
        Shared::rows(cast_slice_mut(&mut self.values), self.stride, columns, split)
    }

    /// Shares segments of columns, each by rows.
    pub(crate) fn share_segments<'a>(&'a mut self, segments: &'a [Segment]) -> Segments<'a, f32> {
        Segments::rows(cast_slice_mut(&mut self.values), self.stride, segments, [1, 1])
    }

    /// Shares whole columns.
    pub(crate) fn share_columns(&mut self, split: Split) -> Shared<'_, f32> {
        Shared::columns(cast_slice_mut(&mut self.values), self.stride, split)
    }
}
