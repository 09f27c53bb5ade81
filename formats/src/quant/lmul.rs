//! L-Mul: multiplication of floats by adding them (Luo & Sun 2024, arXiv 2410.00907).
//!
//! For `x = (1+xm)·2^xe`, `y = (1+ym)·2^ye` with `m` mantissa bits, the paper's formula is
//! `L-Mul(x,y) = (1 + xm + ym + 2^-l(m)) · 2^(xe+ye)`; its hardware is one integer addition of the
//! bit patterns, which differs where the mantissas carry. Here: both, and the product of the `lmul`
//! number format. Not here: the bytes, which are those of `fp8-e4m3`. Tests: `quant/tests.rs`,
//! bit-exact.

/// `l(m)`: `m` for `m ≤ 3`, 3 for `m = 4`, 4 for `m > 4` (the paper's equation 1).
pub const fn offset_exponent(m: u32) -> u32 {
    match m {
        0..=3 => m,
        4 => 3,
        _ => 4,
    }
}

/// `(1 + xm + ym + 2^-l(m)) · 2^(xe+ye)`, the paper's formula; sign = product of signs, zero stays
/// zero.
///
/// `x` and `y` are finite normal numbers (or zero) of `m` mantissa bits, `2 ≤ m ≤ 23`. The result
/// is exact in f64, not rounded to `m` bits.
pub fn lmul_formula(m: u32, x: f64, y: f64) -> f64 {
    if x == 0.0 || y == 0.0 {
        return 0.0;
    }
    let ((xm, xe), (ym, ye)) = (split(x), split(y));
    let offset = power_of_two(-i64::from(offset_exponent(m)));
    let magnitude = (1.0 + xm + ym + offset) * power_of_two(xe + ye);
    if x.is_sign_negative() != y.is_sign_negative() { -magnitude } else { magnitude }
}

/// The paper's integer adder: magnitude bits `x + y − bias + 2^(m−l(m))`; a mantissa carry runs
/// into the exponent, sign = XOR, zero stays zero.
///
/// With `s = xm + ym + 2^-l(m)`: `(1 + s − ⌊s⌋) · 2^(xe+ye+⌊s⌋)`. Arguments as for
/// [`lmul_formula`]; the result has `m` mantissa bits.
///
/// ```
/// use brooklet_formats::quant::lmul::{lmul_adder, lmul_formula};
/// assert_eq!(lmul_formula(3, 1.5, 1.75), 2.375); // 1 + ½ + ¾ + ⅛
/// assert_eq!(lmul_adder(3, 1.5, 1.75), 2.75); // s = 1⅜ carries: 2 · 1⅜
/// ```
pub fn lmul_adder(m: u32, x: f64, y: f64) -> f64 {
    if x == 0.0 || y == 0.0 {
        return 0.0;
    }
    // f64 patterns with the mantissa cut to m bits: the 11-bit exponent is wide enough never to
    // overflow for arguments that come from narrower floats.
    let drop = 52 - m;
    let magnitude = |v: f64| ((v.to_bits() & (u64::MAX >> 1)) >> drop) as i64;
    let sum = magnitude(x) + magnitude(y) - (1023 << m) + (1 << (m - offset_exponent(m)));
    let sign = (x.to_bits() ^ y.to_bits()) & (1 << 63);
    f64::from_bits(sign | ((sum as u64) << drop))
}

/// Mantissa bits of the number format's product: both factors are bf16.
pub const PRODUCT_BITS: u32 = 7;

/// `L-Mul(w, x)` of two bf16 bit patterns, as the `lmul` number format multiplies: `m = 7`,
/// `l(m) = 4`.
///
/// `magnitude = (w & 0x7fff) + (x & 0x7fff) − 127·2^7 + 2^(7−4)`, sign = XOR. The result is a bf16:
/// below the smallest normal it is zero, above the largest finite it is the largest finite; zero if
/// either factor is zero. Subnormal patterns are added as they stand. No factor may be infinite or
/// NaN.
#[inline]
pub fn product_bf16(w: u16, x: u16) -> f32 {
    const BIAS: i32 = 127 << PRODUCT_BITS;
    const OFFSET: i32 = 1 << (PRODUCT_BITS - offset_exponent(PRODUCT_BITS));
    const SMALLEST_NORMAL: i32 = 0x0080;
    const LARGEST_FINITE: i32 = 0x7f7f;
    let (wm, xm) = (i32::from(w & 0x7fff), i32::from(x & 0x7fff));
    let sum = (wm + xm - BIAS + OFFSET).min(LARGEST_FINITE);
    let magnitude = if wm == 0 || xm == 0 || sum < SMALLEST_NORMAL { 0 } else { sum as u32 };
    let sign = u32::from((w ^ x) & 0x8000);
    f32::from_bits((sign | magnitude) << 16)
}

/// `|v| = (1 + mantissa) · 2^exponent` of a finite normal number.
fn split(v: f64) -> (f64, i64) {
    let bits = v.to_bits() & (u64::MAX >> 1);
    let exponent = (bits >> 52) as i64 - 1023;
    (f64::from_bits((bits & ((1 << 52) - 1)) | 1023 << 52) - 1.0, exponent)
}

/// `2^e` for the exponents of normal f64 numbers.
fn power_of_two(e: i64) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}
