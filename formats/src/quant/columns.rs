//! Columns: the same matrix as in tiles, an input's codes of all rows side by side, so that a
//! product can leave out inputs that are zero.
//!
//! Here: the way of a tile into columns and back, in plain loops, which are the definition. Not
//! here: the codecs, which know tiles alone, and products. Source: `SPEC.md`, "Columns". Tests:
//! `quant/tests/columns.rs`.

use std::ops::Range;

use super::{ColumnLayout, TILE_ROWS, TileLayout, VECTOR_BYTES};
use crate::DType;

/// Bytes of a line; a byte has the code of one row, or of two that are so many apart.
const LINE_BYTES: usize = VECTOR_BYTES;

/// Where the bytes of a matrix are, if it stands in columns.
fn of(layout: &TileLayout) -> ColumnLayout {
    layout.columns().expect("a matrix in columns")
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
    let (at, steps) = (of(layout), layout.dtype.has_steps());
    let size = if steps { 1 } else { 2 };
    let (first, n) = (TILE_ROWS * tile + lanes.start, lanes.len());
    let head = steps.then(|| {
        let from = VECTOR_BYTES + 2 * first;
        (from..from + 2 * n, layout.tile_bytes() + 2 * lanes.start)
    });
    let layout = *layout;
    let groups = (0..layout.padded_cols() / layout.group).map(move |group| {
        let from = at.block(group) + size * first;
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
    let (at, group) = (of(layout), layout.group);
    (0..layout.padded_cols()).map(move |col| at.column(group, col))
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
