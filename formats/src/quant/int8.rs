//! `int8`: `x ≈ q · scale`, `q` in −127..=127, one f16 scale per row and group.
//!
//! `scale = absmax / 127` rounded to f16, one step up if that would push the largest code past
//! 127½; `q = round_to_even(x / scale)`. The byte is biased, `q + 128`, as `vpdpbusd` wants one
//! unsigned side. Source: `SPEC.md`, "int8". Tests: `quant/tests.rs` (bound
//! `abs(x̂ − x) ≤ scale / 2`).

use half::f16;

use super::tile::{GroupCodec, Lanes};
use super::{TILE_ROWS, VECTOR_BYTES};

/// Added to a code to store it as an unsigned byte.
pub const BIAS: i32 = 128;

/// The largest magnitude that has a scale: the largest code times the largest f16.
pub(crate) const MAX_ABS: f32 = 127.0 * 65504.0;

pub(super) struct Int8;

impl GroupCodec for Int8 {
    const MAX_CODE: f32 = 127.0;

    fn encode(block: &[Lanes], absmax: &Lanes, codes: &mut [u8]) -> [f16; TILE_ROWS] {
        let scales = absmax.map(scale);
        // A scale of 0 leaves only zeros (or weights below half the smallest scale): code 0.
        let divisors = scales.map(|s| if s == f16::ZERO { f32::INFINITY } else { s.to_f32() });
        encode_bytes(block, codes, |x, lane| biased(x / divisors[lane]));
        scales
    }

    fn decode_lane(codes: &[u8], lane: usize, scale: f32, out: &mut [f32]) {
        decode_bytes(codes, lane, out, |code| value(code, scale));
    }
}

/// The stored code of `x / scale`.
fn biased(x: f32) -> u8 {
    (round_to_even(x).clamp(-127.0, 127.0) as i32 + BIAS) as u8
}

/// The stored code of `x` under a scale.
pub(crate) fn code(x: f32, scale: f16) -> u8 {
    biased(if scale == f16::ZERO { 0.0 } else { x / scale.to_f32() })
}

/// The value of a stored code.
#[inline]
pub(crate) fn value(code: u8, scale: f32) -> f32 {
    (i32::from(code) - BIAS) as f32 * scale
}

/// The f16 scale of a group whose largest magnitude is `absmax ≤` [`MAX_ABS`].
pub(crate) fn scale(absmax: f32) -> f16 {
    let scale = f16::from_f32(absmax / 127.0);
    if absmax > 127.5 * scale.to_f32() { next_up(scale) } else { scale }
}

/// The next larger f16 of a non-negative, finite one.
pub(super) fn next_up(x: f16) -> f16 {
    f16::from_bits(x.to_bits() + 1)
}

/// Rounds to the nearest integer, ties to even, for `abs(x) < 2^22`; vectorizes on every target.
#[inline(always)]
pub(super) fn round_to_even(x: f32) -> f32 {
    // Adding 1.5 · 2^23 leaves no bits for the fraction.
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT) - SHIFT
}

/// Byte `64·j + 4·r + i` = code of column `4j + i`, row `r`.
#[inline]
pub(super) fn encode_bytes(block: &[Lanes], codes: &mut [u8], code: impl Fn(f32, usize) -> u8) {
    let vectors = codes.as_chunks_mut::<VECTOR_BYTES>().0;
    for (columns, vector) in block.as_chunks::<4>().0.iter().zip(vectors) {
        for (i, column) in columns.iter().enumerate() {
            for (lane, &x) in column.iter().enumerate() {
                vector[4 * lane + i] = code(x, lane);
            }
        }
    }
}

/// The reverse of [`encode_bytes`] for one lane.
#[inline]
pub(super) fn decode_bytes(codes: &[u8], lane: usize, out: &mut [f32], value: impl Fn(u8) -> f32) {
    let vectors = codes.as_chunks::<VECTOR_BYTES>().0;
    for (vector, out) in vectors.iter().zip(out.as_chunks_mut::<4>().0) {
        *out = vector.as_chunks::<4>().0[lane].map(&value);
    }
}
