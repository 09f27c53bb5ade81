//! Codecs: rows of f32 to tiles and back, one file per number format.
//!
//! Here: the choice of the codec by format, and what all of them share. The scalar code of this
//! module is the definition; the engine's kernels are tested against it. Not here: products with
//! activations. Source: `SPEC.md`, "Number formats". Tests: `quant/tests.rs` and beside each codec.

mod encode_error;
pub mod float;
pub mod fp8;
pub mod int4;
pub mod int8;
pub mod lmul;
pub mod tile;

#[cfg(test)]
mod tests;

pub use encode_error::EncodeError;
pub use tile::{MAX_GROUP, TILE_ROWS, TileLayout, VECTOR_BYTES};

use crate::DType;

/// Encodes 16 rows into one tile.
///
/// `rows` is row-major, `(16, padded_cols)`, zeros where the matrix has no row or column; `out` is
/// overwritten, `tile_bytes` long. Fails on a weight that is not finite or that the format cannot
/// hold, naming its row in this tile and its column; `out` is unspecified then.
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
/// | `int4` | least squares: the group's sum of squares is no more than that of plain `a/7` |
/// | `fp8-e4m3`, `lmul` | `2^-4 · abs(x)`, at least `ε · s`, `s ≤ a/448 · (1 + ε) + 2^-24` |
/// | `fp8-e5m2` | `2^-3 · abs(x)`, at least `2^-17 · s`, `s ≤ a/57344 · (1 + ε) + 2^-24` |
///
/// # Panics
/// If a slice does not have the length that `layout` gives.
pub fn encode_tile(layout: &TileLayout, rows: &[f32], out: &mut [u8]) -> Result<(), EncodeError> {
    assert_eq!(rows.len(), layout.tile_floats(), "rows of a tile");
    assert_eq!(out.len(), layout.tile_bytes(), "bytes of a tile");
    match layout.dtype {
        DType::F32 => float::encode::<float::F32>(layout, rows, out),
        DType::F16 => float::encode::<float::F16>(layout, rows, out),
        DType::Bf16 => float::encode::<float::Bf16>(layout, rows, out),
        DType::Int8 => tile::encode_groups::<int8::Int8>(layout, rows, out),
        DType::Int4 => tile::encode_groups::<int4::Int4>(layout, rows, out),
        DType::Fp8E4m3 | DType::Lmul => tile::encode_groups::<fp8::E4m3>(layout, rows, out),
        DType::Fp8E5m2 => tile::encode_groups::<fp8::E5m2>(layout, rows, out),
    }
}

/// Decodes one tile into 16 rows, `(16, padded_cols)` row-major, padding included.
///
/// # Panics
/// If a slice does not have the length that `layout` gives.
pub fn decode_tile(layout: &TileLayout, tile: &[u8], rows: &mut [f32]) {
    assert_eq!(tile.len(), layout.tile_bytes(), "bytes of a tile");
    assert_eq!(rows.len(), layout.tile_floats(), "rows of a tile");
    match layout.dtype {
        DType::F32 => float::decode::<float::F32>(layout, tile, rows),
        DType::F16 => float::decode::<float::F16>(layout, tile, rows),
        DType::Bf16 => float::decode::<float::Bf16>(layout, tile, rows),
        DType::Int8 => tile::decode_groups::<int8::Int8>(layout, tile, rows),
        DType::Int4 => tile::decode_groups::<int4::Int4>(layout, tile, rows),
        DType::Fp8E4m3 | DType::Lmul => tile::decode_groups::<fp8::E4m3>(layout, tile, rows),
        DType::Fp8E5m2 => tile::decode_groups::<fp8::E5m2>(layout, tile, rows),
    }
}

/// Decodes one row of a whole matrix: `out[c] = W[row, c]`, `cols` values.
///
/// This is the embedding lookup of every token; it reads one lane of each vector of one tile.
///
/// # Panics
/// If `row` is not below `layout.rows`, or a slice does not have the length that `layout` gives.
pub fn decode_row(layout: &TileLayout, matrix: &[u8], row: usize, out: &mut [f32]) {
    assert_eq!(matrix.len(), layout.total_bytes(), "bytes of a matrix");
    assert!(row < layout.rows, "row {row} of {}", layout.rows);
    assert_eq!(out.len(), layout.cols, "columns of a row");
    let tile = &matrix[row / TILE_ROWS * layout.tile_bytes()..][..layout.tile_bytes()];
    let lane = row % TILE_ROWS;
    match layout.dtype {
        DType::F32 => float::decode_lane::<float::F32>(tile, lane, out),
        DType::F16 => float::decode_lane::<float::F16>(tile, lane, out),
        DType::Bf16 => float::decode_lane::<float::Bf16>(tile, lane, out),
        DType::Int8 => tile::decode_lane::<int8::Int8>(layout, tile, lane, out),
        DType::Int4 => tile::decode_lane::<int4::Int4>(layout, tile, lane, out),
        DType::Fp8E4m3 | DType::Lmul => tile::decode_lane::<fp8::E4m3>(layout, tile, lane, out),
        DType::Fp8E5m2 => tile::decode_lane::<fp8::E5m2>(layout, tile, lane, out),
    }
}
