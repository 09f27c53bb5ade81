//! The geometry of a matrix in columns. Not here: the way there (`columns`), and the numbers of a
//! matrix (`tile`). Source: `SPEC.md`, "Columns". Test: `quant/tests/columns.rs`.

use crate::DType;

/// Rows of a column are padded to so many: with 4 bits a cache line, with 8 bits two.
pub const COLUMN_ROWS: usize = 128;

/// Bytes of the table of values.
const TABLE_BYTES: usize = 64;

/// Where the bytes of a matrix in columns are.
///
/// ```text
/// matrix   int4: [64 bytes: table of values][f16 steps of all rows], then blocks
/// block    of a group of columns: [scales of all rows][codes of column 0][codes of column 1] …
/// codes    lines of 64 bytes: 64 rows of int8, 128 of int4
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnLayout {
    /// Rows, padded.
    pub rows: usize,
    /// Bytes of the table and the steps.
    pub head_bytes: usize,
    /// Bytes of the scales of a group.
    pub scale_bytes: usize,
    /// Bytes of a column's codes.
    pub column_bytes: usize,
    /// Bytes of a group's scales and codes.
    pub block_bytes: usize,
    /// Bytes of all groups, and of what stands before them.
    pub total_bytes: usize,
}

impl ColumnLayout {
    /// Of a matrix of `rows` by `cols`, which is whole groups. [`TileLayout::by_columns`] has
    /// checked the sizes.
    ///
    /// [`TileLayout::by_columns`]: super::TileLayout::by_columns
    pub(super) const fn new(dtype: DType, rows: usize, cols: usize, group: usize) -> ColumnLayout {
        let rows = rows.next_multiple_of(COLUMN_ROWS);
        let steps = dtype.has_steps();
        let head_bytes = if steps { TABLE_BYTES + 2 * rows } else { 0 };
        let scale_bytes = if steps { rows } else { 2 * rows };
        let column_bytes = rows * dtype.element_bits() / 8;
        let block_bytes = scale_bytes + group * column_bytes;
        let total_bytes = head_bytes + cols / group * block_bytes;
        ColumnLayout { rows, head_bytes, scale_bytes, column_bytes, block_bytes, total_bytes }
    }

    /// The first byte of a group's scales.
    pub const fn block(&self, group: usize) -> usize {
        self.head_bytes + group * self.block_bytes
    }

    /// The first byte of a column's codes; groups have so many columns.
    pub const fn column(&self, group: usize, col: usize) -> usize {
        self.block(col / group) + self.scale_bytes + col % group * self.column_bytes
    }
}

/// Whether matrices of that format can stand in columns.
pub(super) const fn has_columns(dtype: DType) -> bool {
    matches!(dtype, DType::Int4 | DType::Int8)
}
