//! `f32`, `f16`, `bf16`: elements without scales, in the same tiles of 16 rows.
//!
//! A lane of 32 bits holds one f32 (vector `j` = column `j`) or two consecutive 16-bit elements
//! (vector `j` = columns `2j`, `2j+1`, the even one in the low half). Rounding is to nearest even.
//! Source: `SPEC.md`, "Float tiles". Tests: `quant/tests.rs`.

use super::{EncodeError, TILE_ROWS, TileLayout, VECTOR_BYTES};
use crate::DType;

/// One element type: its size, its conversions.
pub(super) trait Element {
    const DTYPE: DType;
    /// The largest f32 that rounds to a finite value of the type.
    const LIMIT: f32;
    /// Columns in a lane.
    const PER_LANE: usize;
    /// Packs `PER_LANE` values into a lane.
    fn pack(x: &[f32]) -> u32;
    /// Unpacks a lane into at most `PER_LANE` values.
    fn unpack(lane: u32, out: &mut [f32]);
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Bf16;

impl Element for F32 {
    const DTYPE: DType = DType::F32;
    const LIMIT: f32 = f32::MAX;
    const PER_LANE: usize = 1;

    fn pack(x: &[f32]) -> u32 {
        x[0].to_bits()
    }

    fn unpack(lane: u32, out: &mut [f32]) {
        out[0] = f32::from_bits(lane);
    }
}

impl Element for F16 {
    const DTYPE: DType = DType::F16;
    // Halfway from 65504 to 65536 is 65520, which rounds (to even) to infinity.
    const LIMIT: f32 = 65520.0f32.next_down();
    const PER_LANE: usize = 2;

    fn pack(x: &[f32]) -> u32 {
        pack_halves(x, |x| half::f16::from_f32(x).to_bits())
    }

    fn unpack(lane: u32, out: &mut [f32]) {
        unpack_halves(lane, out, f16_to_f32);
    }
}

impl Element for Bf16 {
    const DTYPE: DType = DType::Bf16;
    // 0x7f7f8000 is halfway from the largest bf16 to infinity.
    const LIMIT: f32 = f32::from_bits(0x7f7f_7fff);
    const PER_LANE: usize = 2;

    fn pack(x: &[f32]) -> u32 {
        pack_halves(x, |x| half::bf16::from_f32(x).to_bits())
    }

    fn unpack(lane: u32, out: &mut [f32]) {
        unpack_halves(lane, out, |bits| f32::from_bits(u32::from(bits) << 16));
    }
}

/// The value of an f16; unlike the `half` crate's conversion it has no branch, so that loops
/// vectorize.
#[inline]
pub(super) fn f16_to_f32(bits: u16) -> f32 {
    // The fields at their f32 places, read with bias 127 instead of 15: 2^112 too small, subnormals
    // alike.
    let magnitude =
        f32::from_bits(u32::from(bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | u32::from(bits & 0x8000) << 16)
}

#[inline]
fn pack_halves(x: &[f32], bits: impl Fn(f32) -> u16) -> u32 {
    u32::from(bits(x[0])) | u32::from(bits(x[1])) << 16
}

#[inline]
fn unpack_halves(lane: u32, out: &mut [f32], value: impl Fn(u16) -> f32) {
    out[0] = value(lane as u16);
    if let Some(second) = out.get_mut(1) {
        *second = value((lane >> 16) as u16);
    }
}

/// Encodes a tile; see [`super::encode_tile`].
pub(super) fn encode<E: Element>(
    layout: &TileLayout,
    rows: &[f32],
    out: &mut [u8],
) -> Result<(), EncodeError> {
    for (r, row) in rows.chunks_exact(layout.padded_cols()).enumerate() {
        let vectors = out.as_chunks_mut::<VECTOR_BYTES>().0;
        for (j, (x, vector)) in row.chunks_exact(E::PER_LANE).zip(vectors).enumerate() {
            for (i, &x) in x.iter().enumerate() {
                EncodeError::check(E::DTYPE, r, E::PER_LANE * j + i, x, E::LIMIT)?;
            }
            vector[4 * r..][..4].copy_from_slice(&E::pack(x).to_le_bytes());
        }
    }
    Ok(())
}

/// Decodes the first `out.len()` columns of one lane of a tile.
pub(super) fn decode_lane<E: Element>(tile: &[u8], lane: usize, out: &mut [f32]) {
    assert!(lane < TILE_ROWS);
    let vectors = tile.as_chunks::<VECTOR_BYTES>().0;
    for (vector, out) in vectors.iter().zip(out.chunks_mut(E::PER_LANE)) {
        let [a, b, c, d] = vector.as_chunks::<4>().0[lane];
        E::unpack(u32::from_le_bytes([a, b, c, d]), out);
    }
}
