//! Columns: the same matrix as in tiles, an input's codes of all rows side by side, so that a
//! product can leave out inputs that are zero.
//!
//! Here: where bytes stand, and the way of a tile into columns and back, in plain loops, which are
//! the definition. Not here: the codecs, which know tiles alone, and products. Source: `SPEC.md`,
//! "Columns". Tests: `quant/tests/columns.rs`.

use std::ops::Range;

use super::{TILE_ROWS, TileLayout, VECTOR_BYTES};
use crate::DType;

/// Rows of a column are padded to so many: with 4 bits a cache line, with 8 bits two.
pub const COLUMN_ROWS: usize = 128;

/// Bytes of a line; a byte has the code of one row, or of two that are so many apart.
const LINE_BYTES: usize = VECTOR_BYTES;

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
    /// Of a matrix in columns. The sizes were checked by [`TileLayout::by_columns`].
    pub(super) const fn of(layout: &TileLayout) -> ColumnLayout {
        let rows = layout.rows.next_multiple_of(COLUMN_ROWS);
        let steps = layout.dtype.has_steps();
        let head_bytes = if steps { VECTOR_BYTES + 2 * rows } else { 0 };
        let scale_bytes = if steps { rows } else { 2 * rows };
        let column_bytes = rows * layout.dtype.element_bits() / 8;
        let block_bytes = scale_bytes + layout.group * column_bytes;
        let total_bytes = head_bytes + layout.padded_cols() / layout.group * block_bytes;
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

/// The byte of a row's code within its column, and which half of it: registers of rows come out of
/// four columns whose bytes are interleaved.
const fn place(dtype: DType, row: usize) -> (usize, usize) {
    let half = if dtype.element_bits() == 4 { row / LINE_BYTES % 2 } else { 0 };
    let line = row * dtype.element_bits() / 8 / LINE_BYTES;
    let r = row % LINE_BYTES;
    (LINE_BYTES * line + 16 * (r % 16 / 4) + 4 * (r / 16) + r % 4, half)
}

/// The byte of a code of a tile, and which half of it.
fn place_in_tile(layout: &TileLayout, lane: usize, col: usize) -> (usize, usize) {
    let within = 4 * lane + col % 4;
    if layout.dtype.element_bits() == 4 {
        return (VECTOR_BYTES * (col / 8) + within, col / 4 % 2);
    }
    let (group, c) = (col / layout.group, col % layout.group);
    let pair = group / 2 * layout.pair_bytes() + group % 2 * layout.group_bytes();
    (pair + VECTOR_BYTES * (c / 4) + within, 0)
}

/// What stands in a matrix in columns, and where the same stands in an encoded tile: bytes of steps
/// and scales of some lanes.
fn scales(
    layout: &TileLayout,
    tile: usize,
    lanes: Range<usize>,
) -> impl Iterator<Item = (Range<usize>, usize)> {
    let (of, steps) = (ColumnLayout::of(layout), layout.dtype.has_steps());
    let size = if steps { 1 } else { 2 };
    let (first, n) = (TILE_ROWS * tile + lanes.start, lanes.len());
    let head = steps.then(|| {
        let from = VECTOR_BYTES + 2 * first;
        (from..from + 2 * n, layout.tile_bytes() + 2 * lanes.start)
    });
    let layout = *layout;
    let groups = (0..layout.padded_cols() / layout.group).map(move |group| {
        let from = of.block(group) + size * first;
        let to = if steps {
            layout.tile_bytes() + TILE_ROWS * (2 + group)
        } else {
            let pair = group / 2 * layout.pair_bytes() + 2 * layout.group_bytes();
            pair + 2 * TILE_ROWS * (group % 2)
        };
        (from..from + size * n, to + size * lanes.start)
    });
    head.into_iter().chain(groups)
}

/// Where columns begin.
fn columns(layout: &TileLayout) -> impl Iterator<Item = usize> {
    let (of, group) = (ColumnLayout::of(layout), layout.group);
    (0..layout.padded_cols()).map(move |col| of.column(group, col))
}

/// Overwrites `lanes` of the encoded tile `out` with what the matrix has of them.
pub(super) fn gather(
    layout: &TileLayout,
    matrix: &[u8],
    tile: usize,
    lanes: Range<usize>,
    out: &mut [u8],
) {
    for (from, to) in scales(layout, tile, lanes.clone()) {
        out[to..][..from.len()].copy_from_slice(&matrix[from]);
    }
    for (col, column) in columns(layout).enumerate() {
        for lane in lanes.clone() {
            let (from, half) = place(layout.dtype, TILE_ROWS * tile + lane);
            let code = code(layout.dtype, matrix[column + from], half);
            let (to, half) = place_in_tile(layout, lane, col);
            put(layout.dtype, &mut out[to], half, code);
        }
    }
}

/// Puts an encoded tile into its place in a matrix in columns.
pub(super) fn scatter(layout: &TileLayout, encoded: &[u8], tile: usize, matrix: &mut [u8]) {
    for (to, from) in scales(layout, tile, 0..TILE_ROWS) {
        let bytes = &encoded[from..from + to.len()];
        matrix[to].copy_from_slice(bytes);
    }
    for (col, column) in columns(layout).enumerate() {
        for lane in 0..TILE_ROWS {
            let (from, half) = place_in_tile(layout, lane, col);
            let code = code(layout.dtype, encoded[from], half);
            let (to, half) = place(layout.dtype, TILE_ROWS * tile + lane);
            put(layout.dtype, &mut matrix[column + to], half, code);
        }
    }
}

fn code(dtype: DType, byte: u8, half: usize) -> u8 {
    if dtype.element_bits() == 4 { byte >> (4 * half) & 15 } else { byte }
}

fn put(dtype: DType, byte: &mut u8, half: usize, code: u8) {
    let mask = if dtype.element_bits() == 4 { 15 << (4 * half) } else { 255 };
    *byte = *byte & !mask | code << (4 * half);
}
