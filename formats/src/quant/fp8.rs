//! `fp8-e4m3` and `fp8-e5m2`: `x ≈ fp8(code) · scale`, one f16 scale per row and group.
//!
//! E4M3 is the OCP "FN" variant (no infinities, NaN at 0x7f and 0xff, largest 448), E5M2 is
//! IEEE-like (largest 57344). `scale = absmax / largest`, rounded up to f16, so that no code
//! saturates. Source: OCP 8-bit Floating Point Specification 1.0; arXiv 2209.05433, table 1. Tests:
//! bit-exact against torch's tables and casts, `quant/tests.rs`.

use half::f16;

use super::TILE_ROWS;
use super::int8::{decode_bytes, encode_bytes, next_up};
use super::tile::{GroupCodec, Lanes};

/// The largest finite E4M3 value.
pub const E4M3_MAX: f32 = 448.0;
/// The largest finite E5M2 value.
pub const E5M2_MAX: f32 = 57344.0;

/// The value of every E4M3 code; 0x7f and 0xff are NaN.
pub static E4M3_VALUES: [f32; 256] = values::<3>();
/// The value of every E5M2 code; 0x7c and 0xfc are infinite, the codes above them NaN.
pub static E5M2_VALUES: [f32; 256] = values::<2>();

/// `e4m3(code)`: sign, 4 exponent bits of bias 7, 3 mantissa bits.
#[inline]
pub fn e4m3_to_f32(code: u8) -> f32 {
    E4M3_VALUES[usize::from(code)]
}

/// `e5m2(code)`: sign, 5 exponent bits of bias 15, 2 mantissa bits.
#[inline]
pub fn e5m2_to_f32(code: u8) -> f32 {
    E5M2_VALUES[usize::from(code)]
}

/// The nearest E4M3 code, ties to even; magnitudes above 448 (and infinities) saturate, NaN stays
/// NaN.
#[inline]
pub fn e4m3_from_f32(x: f32) -> u8 {
    round::<3>(x, 0x7e, 0x7f)
}

/// The nearest E5M2 code, ties to even; magnitudes above 57344 (and infinities) saturate, NaN stays
/// NaN.
#[inline]
pub fn e5m2_from_f32(x: f32) -> u8 {
    round::<2>(x, 0x7b, 0x7f)
}

/// [`e4m3_from_f32`] as torch casts: what rounds above 448 (from 464 on, exclusive) becomes NaN.
#[inline]
pub fn e4m3_from_f32_overflowing(x: f32) -> u8 {
    round::<3>(x, 0x7f, 0x7f)
}

/// [`e5m2_from_f32`] as torch casts: what rounds above 57344 (from 61440 on) becomes infinite.
#[inline]
pub fn e5m2_from_f32_overflowing(x: f32) -> u8 {
    round::<2>(x, 0x7c, 0x7f)
}

/// Exponent bias of an 8-bit float with `M` mantissa bits: `2^(6-M) − 1`.
const fn bias<const M: u32>() -> u32 {
    (1 << (6 - M)) - 1
}

/// Rounds to `M` mantissa bits; codes above `largest` become `largest`, NaN becomes `nan`.
///
/// Branch-free, so that loops over it vectorize: the normal and the subnormal result are both
/// computed.
#[inline]
fn round<const M: u32>(x: f32, largest: u8, nan: u8) -> u8 {
    let sign = (x.to_bits() >> 24) as u8 & 0x80;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    // Normal: add half a unit (less one if the kept part is even), drop 23-M bits, rebase the
    // exponent.
    let drop = 23 - M;
    let even = (magnitude >> drop) & 1;
    let rebase = (127 - bias::<M>()) << M;
    let normal = ((magnitude + (1 << (drop - 1)) - 1 + even) >> drop).wrapping_sub(rebase);
    // Subnormal: an f32 whose unit in the last place is the smallest subnormal rounds by itself.
    let unit = (1 + 127 - bias::<M>() + 23 - M) << 23;
    let subnormal = (f32::from_bits(magnitude) + f32::from_bits(unit)).to_bits().wrapping_sub(unit);
    let smallest_normal = (1 + 127 - bias::<M>()) << 23;
    let code = if magnitude < smallest_normal { subnormal } else { normal };
    let code = if code > u32::from(largest) { largest } else { code as u8 };
    sign | if magnitude > 0x7f80_0000 { nan } else { code }
}

/// The value of every code of an 8-bit float with `M` mantissa bits.
const fn values<const M: u32>() -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = value::<M>(code as u32);
        code += 1;
    }
    table
}

const fn value<const M: u32>(code: u32) -> f32 {
    let (sign, exponent, mantissa) = (code >> 7, (code & 0x7f) >> M, code & ((1 << M) - 1));
    let special = if M == 3 { code & 0x7f == 0x7f } else { exponent == 31 };
    let magnitude = if special {
        if M == 2 && mantissa == 0 { f32::INFINITY } else { f32::NAN }
    } else if exponent == 0 {
        // mantissa · 2^(1 − bias − M), exact
        mantissa as f32 * f32::from_bits((127 + 1 - bias::<M>() - M) << 23)
    } else {
        f32::from_bits(((exponent + 127 - bias::<M>()) << 23) | (mantissa << (23 - M)))
    };
    if sign == 1 { -magnitude } else { magnitude }
}

/// The smallest f16 that is at least `absmax / largest`; 0 only for `absmax = 0`.
fn scale_up(absmax: f32, largest: f32) -> f16 {
    let scale = f16::from_f32(absmax / largest);
    // The product is exact: at most 11 + 3 bits.
    if absmax > largest * scale.to_f32() { next_up(scale) } else { scale }
}

fn encode(
    block: &[Lanes],
    absmax: &Lanes,
    codes: &mut [u8],
    largest: f32,
    round: fn(f32) -> u8,
) -> [f16; TILE_ROWS] {
    let scales = absmax.map(|absmax| scale_up(absmax, largest));
    let divisors = scales.map(|s| if s == f16::ZERO { f32::INFINITY } else { s.to_f32() });
    encode_bytes(block, codes, |x, lane| round(x / divisors[lane]));
    scales
}

pub(super) struct E4m3;
pub(super) struct E5m2;

impl GroupCodec for E4m3 {
    const MAX_CODE: f32 = E4M3_MAX;

    fn encode(block: &[Lanes], absmax: &Lanes, codes: &mut [u8]) -> [f16; TILE_ROWS] {
        encode(block, absmax, codes, E4M3_MAX, e4m3_from_f32)
    }

    fn decode_lane(codes: &[u8], lane: usize, scale: f32, out: &mut [f32]) {
        decode_bytes(codes, lane, out, |code| e4m3_to_f32(code) * scale);
    }
}

impl GroupCodec for E5m2 {
    const MAX_CODE: f32 = E5M2_MAX;

    fn encode(block: &[Lanes], absmax: &Lanes, codes: &mut [u8]) -> [f16; TILE_ROWS] {
        encode(block, absmax, codes, E5M2_MAX, e5m2_from_f32)
    }

    fn decode_lane(codes: &[u8], lane: usize, scale: f32, out: &mut [f32]) {
        decode_bytes(codes, lane, out, |code| e5m2_to_f32(code) * scale);
    }
}
