//! Codecs: rows of f32 to tiles and back, one file per number format.
//!
//! Here: the choice of the codec by format, and what all of them share. The scalar code of this
//! module is the definition; the engine's kernels are tested against it. Not here: products with
//! activations. Source: `SPEC.md`, "Number formats". Tests: `quant/tests.rs` and beside each codec.

mod column_layout;
mod columns;
mod encode_error;
pub mod fine;
pub mod float;
pub mod fp8;
pub mod int4_v1;
pub mod int8;
pub mod lmul;
pub mod tile;
mod tiles;
mod vectorized;

#[cfg(test)]
mod tests;

pub use column_layout::{COLUMN_ROWS, ColumnLayout};
pub use encode_error::EncodeError;
pub use tile::{Lanes, MAX_GROUP, TILE_ROWS, TileLayout, VECTOR_BYTES};
pub(crate) use tiles::Tiles;
pub use tiles::{encode_tiles, encode_tiles_with};
#[cfg(feature = "convert")]
pub(crate) use vectorized::vectorized;

use crate::DType;

/// Encodes 16 rows into one tile.
///
/// `rows` is row-major, `(16, padded_cols)`, zeros where the matrix has no row or column; `out` is
/// overwritten, `encoded_bytes` long: the tile, then what the sheet of scales has of it. Fails on a
/// weight that is not finite or that the format cannot hold, naming its row in this tile and its
/// column; `out` is unspecified then.
///
/// Error bounds, with `x̂` the decoded value, `a` the largest magnitude of the group, `s` its scale
/// and `ε = 2^-10`:
///
/// | format | bound on `abs(x̂ − x)` |
/// |---|---|
/// | `f32` | 0 |
/// | `f16` | `2^-11 · abs(x)`, at least `2^-25` |
/// | `bf16` | `2^-8 · abs(x)` (half a unit of 8 bits), at least `2^-134` |
/// | `int8` | `s / 2`, `s ≤ a/127 · (1 + ε) + 2^-24` |
/// | `int4-v1` | least squares: the group's sum of squares is no more than that of plain `a/7` |
/// | `int4`, `int5`, `int6` | least squares, near the best scale and step |
/// | `fp8-e4m3`, `lmul` | `2^-4 · abs(x)`, at least `ε · s`, `s ≤ a/448 · (1 + ε) + 2^-24` |
/// | `fp8-e5m2` | `2^-3 · abs(x)`, at least `2^-17 · s`, `s ≤ a/57344 · (1 + ε) + 2^-24` |
///
/// # Panics
/// If a slice does not have the length that `layout` gives.
pub fn encode_tile(layout: &TileLayout, rows: &[f32], out: &mut [u8]) -> Result<(), EncodeError> {
    assert_eq!(rows.len(), layout.tile_floats(), "rows of a tile");
    assert_eq!(out.len(), layout.encoded_bytes(), "bytes of a tile");
    match layout.dtype {
        DType::F32 => float::encode::<float::F32>(layout, rows, out),
        DType::F16 => float::encode::<float::F16>(layout, rows, out),
        DType::Bf16 => float::encode::<float::Bf16>(layout, rows, out),
        DType::Int8 => tile::encode_groups::<int8::Int8>(layout, rows, out),
        DType::Int4V1 => tile::encode_groups::<int4_v1::Int4V1>(layout, rows, out),
        DType::Int4 | DType::Int5 | DType::Int6 => fine::encode(layout, rows, None, out),
        DType::Fp8E4m3 | DType::Lmul => tile::encode_groups::<fp8::E4m3>(layout, rows, out),
        DType::Fp8E5m2 => tile::encode_groups::<fp8::E5m2>(layout, rows, out),
    }
}

/// The sheet of scales behind the tiles of a matrix, without the scales: see
/// [`TileLayout::sheet_bytes`].
pub(crate) fn sheet_head(layout: &TileLayout) -> &'static [u8] {
    const INT4: [u8; VECTOR_BYTES] = fine::stored_table();
    const NONE: [u8; VECTOR_BYTES] = [0; VECTOR_BYTES];
    match layout.dtype {
        DType::Int4 => &INT4,
        dtype if dtype.has_steps() => &NONE,
        _ => &[],
    }
}

/// Puts an encoded tile into its place in a whole matrix.
///
/// # Panics
/// If a slice does not have the length that `layout` gives, or there is no such tile.
pub fn place_tile(layout: &TileLayout, encoded: &[u8], tile: usize, matrix: &mut [u8]) {
    assert_eq!(encoded.len(), layout.encoded_bytes(), "bytes of a tile");
    assert_eq!(matrix.len(), layout.total_bytes(), "bytes of a matrix");
    let head = sheet_head(layout);
    if layout.by_columns {
        matrix[..head.len()].copy_from_slice(head);
        return columns::scatter(layout, encoded, tile, matrix);
    }
    let (codes, scales) = encoded.split_at(layout.tile_bytes());
    let (tiles, sheet) = matrix.split_at_mut(layout.n_tiles() * layout.tile_bytes());
    tiles[tile * codes.len()..][..codes.len()].copy_from_slice(codes);
    let (table, sheet) = sheet.split_at_mut(head.len());
    table.copy_from_slice(head);
    sheet[tile * scales.len()..][..scales.len()].copy_from_slice(scales);
}

/// Overwrites `encoded` with tile number `tile` of a whole matrix, as [`encode_tile`] writes it.
///
/// # Panics
/// If a slice does not have the length that `layout` gives, or there is no such tile.
pub fn take_tile(layout: &TileLayout, matrix: &[u8], tile: usize, encoded: &mut [u8]) {
    assert_eq!(encoded.len(), layout.encoded_bytes(), "bytes of a tile");
    if layout.by_columns {
        assert_eq!(matrix.len(), layout.total_bytes(), "bytes of a matrix");
        return columns::gather(layout, matrix, tile, 0..TILE_ROWS, encoded);
    }
    let (codes, scales) = layout.tile(matrix, tile);
    encoded[..codes.len()].copy_from_slice(codes);
    encoded[codes.len()..].copy_from_slice(scales);
}

/// The values of codes that a whole matrix has, of a format with steps.
pub fn table<'a>(layout: &TileLayout, matrix: &'a [u8]) -> &'a [u8] {
    let table = VECTOR_BYTES.min(layout.sheet_bytes());
    match layout.by_columns {
        true => &matrix[..table],
        false => &layout.split(matrix).1[..table],
    }
}

/// Decodes tile number `tile` of a whole matrix into 16 rows, `(16, padded_cols)` row-major,
/// padding included.
///
/// # Panics
/// If a slice does not have the length that `layout` gives, or there is no such tile.
pub fn decode_tile(layout: &TileLayout, matrix: &[u8], tile: usize, rows: &mut [f32]) {
    assert_eq!(rows.len(), layout.tile_floats(), "rows of a tile");
    let rows = rows.chunks_exact_mut(layout.padded_cols()).enumerate();
    if layout.by_columns {
        let mut encoded = vec![0; layout.encoded_bytes()];
        take_tile(layout, matrix, tile, &mut encoded);
        let (table, parts) = (table(layout, matrix), encoded.split_at(layout.tile_bytes()));
        return rows.for_each(|(lane, row)| decode_lane(layout, table, parts, lane, row));
    }
    let (table, parts) = (table(layout, matrix), layout.tile(matrix, tile));
    rows.for_each(|(lane, row)| decode_lane(layout, table, parts, lane, row));
}

/// Decodes one row of a whole matrix: `out[c] = W[row, c]`, `cols` values.
///
/// This is the embedding lookup of every token; it reads one lane of each vector of one tile.
///
/// # Panics
/// If `row` is not below `layout.rows`, or a slice does not have the length that `layout` gives.
pub fn decode_row(layout: &TileLayout, matrix: &[u8], row: usize, out: &mut [f32]) {
    assert!(row < layout.rows, "row {row} of {}", layout.rows);
    assert_eq!(out.len(), layout.cols, "columns of a row");
    let (tile, lane) = (row / TILE_ROWS, row % TILE_ROWS);
    if layout.by_columns {
        assert_eq!(matrix.len(), layout.total_bytes(), "bytes of a matrix");
        let mut encoded = vec![0; layout.encoded_bytes()];
        columns::gather(layout, matrix, tile, lane..lane + 1, &mut encoded);
        let parts = encoded.split_at(layout.tile_bytes());
        return decode_lane(layout, table(layout, matrix), parts, lane, out);
    }
    decode_lane(layout, table(layout, matrix), layout.tile(matrix, tile), lane, out);
}

/// Decodes the first `out.len()` columns of one lane of a tile: its bytes, and those that the sheet
/// has of it, under the matrix's table.
fn decode_lane(
    layout: &TileLayout,
    table: &[u8],
    (tile, scales): (&[u8], &[u8]),
    lane: usize,
    out: &mut [f32],
) {
    match layout.dtype {
        DType::F32 => float::decode_lane::<float::F32>(tile, lane, out),
        DType::F16 => float::decode_lane::<float::F16>(tile, lane, out),
        DType::Bf16 => float::decode_lane::<float::Bf16>(tile, lane, out),
        DType::Int8 => tile::decode_lane::<int8::Int8>(layout, tile, lane, out),
        DType::Int4V1 => tile::decode_lane::<int4_v1::Int4V1>(layout, tile, lane, out),
        DType::Fp8E4m3 | DType::Lmul => tile::decode_lane::<fp8::E4m3>(layout, tile, lane, out),
        DType::Fp8E5m2 => tile::decode_lane::<fp8::E5m2>(layout, tile, lane, out),
        DType::Int4 | DType::Int5 | DType::Int6 => {
            fine::decode_lane(layout, table, (tile, scales), lane, out);
        }
    }
}
