//! Elementary functions, from IEEE add, multiply, divide and bit moves alone (and, in
//! [`exp2_negative`], the fused multiply-add), so that every machine gives the same bits.
//!
//! Polynomials: the Cephes library's single-precision `expf` and `tanhf` (Moshier), and the series
//! of the inverse hyperbolic tangent for `log1p`. Errors against f64 are bounded by the tests
//! below. Each function is branch-free (selects only), so that loops over it become vector code.

use super::vector::Vector;

/// Adding and subtracting 1.5·2²³ rounds a small f32 to the nearest integer, ties to even.
pub(super) const ROUND: f32 = 12_582_912.0;

/// eˣ, relative error below 2e-7; 0 below -87.33, saturates at e^88.37.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let clamped = if x > 88.37 { 88.37 } else { x };
    let clamped = if clamped < -87.33 { -87.33 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * 0.693_359_4 - n * -2.121_944_4e-4;
    // The polynomial by Estrin's scheme: as many operations as Horner's, in a chain half as long.
    let r2 = r * r;
    let a = 1.666_666_5e-1 * r + 0.5;
    let b = 8.333_452e-3 * r + 4.166_579_6e-2;
    let c = 1.987_569_1e-4 * r + 1.398_199_9e-3;
    let p = ((c * r2 + b) * r2 + a) * r2 + (r + 1.0);
    if x < -87.33 { 0.0 } else { p * power_of_two(shifted) }
}

/// 2ⁿ, n being the integer that adding [`ROUND`] left in the low bits of `shifted`, in two's
/// complement: n + 127 becomes the exponent field.
#[inline(always)]
pub(super) fn power_of_two(shifted: f32) -> f32 {
    f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// Whether an instruction of every processor of this target does a fused multiply-add.
pub(super) const HAS_MUL_ADD: bool =
    cfg!(any(target_feature = "fma", target_arch = "aarch64", target_arch = "riscv64"));

/// a · b + c, rounded once, in code that is compiled for every processor of this target.
///
/// The C library's function is slow on most systems, and that of MinGW rounds twice.
#[inline(always)]
pub(super) fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    if HAS_MUL_ADD { a.mul_add(b, c) } else { fused_multiply_add(a, b, c) }
}

/// a · b + c, rounded once, where no instruction does it.
///
/// The product of two f32 is exact in f64. Their sum with c is not: what it leaves out makes its
/// last bit odd, so that the rounding to f32 never sees a tie that is none (Boldo & Melquiond 2008,
/// "Emulation of FMA and correctly rounded sums").
#[inline(always)]
pub(super) fn fused_multiply_add(a: f32, b: f32, c: f32) -> f32 {
    let (p, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = p + c;
    let of_c = sum - p;
    let left_out = (p - (sum - of_c)) + (c - of_c);
    // One step up or down, away from zero where both have one sign; none after infinities, which
    // leave out NaN.
    let step = i64::from(left_out > 0.0) - i64::from(left_out < 0.0);
    let step = if sum < 0.0 { -step } else { step };
    let bits = sum.to_bits() as i64;
    f64::from_bits((bits + (step & !-(bits & 1))) as u64) as f32
}

/// 2ˣ for x ≤ 0, relative error below 2e-7 down to -126, where it stops falling (Cephes `exp2f`, by
/// Estrin's scheme).
///
/// Three quarters of the operations of [`exp`], for Mamba-1's scan, which is made of little else.
#[inline(always)]
pub(crate) fn exp2_negative<V: Vector>(x: V) -> V {
    let s = V::splat;
    let x = x.max(s(-126.0));
    let shifted = x.add(s(ROUND));
    let f = x.sub(shifted.sub(s(ROUND)));
    let f2 = f.mul(f);
    let a = f.mul_add(s(6.931_472e-1), s(1.0));
    let b = f.mul_add(s(5.550_332_6e-2), s(2.402_264_8e-1));
    let c = f.mul_add(s(1.339_887_5e-3), s(9.618_437e-3));
    let p = f2.mul_add(s(1.535_336_2e-4), c).mul_add(f2, b).mul_add(f2, a);
    p.mul(shifted.power_of_two())
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// x · sigmoid(x).
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// x Φ(x) as it is approximated with a tangent: x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))
/// (Hendrycks & Gimpel 2016, arXiv 1606.08415, §2).
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    const ROOT: f32 = 0.797_884_6; // √(2/π)
    0.5 * x * (1.0 + tanh(ROOT * (x + 0.044_715 * (x * x * x))))
}

/// x · (1 + erf(x / √2)) / 2 (Hendrycks & Gimpel 2016, arXiv 1606.08415).
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// The error function, absolute error below 2e-7 (Cephes `erff`, `erfcf`).
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let polynomial = |z: f32, p: &[f32]| p.iter().fold(0.0, |sum, c| sum * z + c);
    let a = x.abs();
    let small = x * polynomial(x * x, &ERF);
    // Where it is not taken, the quotient is no matter.
    let q = 1.0 / if a < 1.0 { 1.0 } else { a };
    let z = q * q;
    let near = polynomial(z, &ERFC_TO_2);
    let far = polynomial(z, &ERFC_FROM_2);
    let large = 1.0 - exp(-a * a) * q * if a < 2.0 { near } else { far };
    if a < 1.0 { small } else { large.copysign(x) }
}

/// erf(x) / x below 1, in x².
const ERF: [f32; 7] = [
    7.853_861_4e-5,
    -8.010_194e-4,
    5.188_327_6e-3,
    -2.685_381_2e-2,
    1.128_358_5e-1,
    -3.761_262_6e-1,
    std::f32::consts::FRAC_2_SQRT_PI,
];
/// x e^(x²) erfc(x) from 1 to 2, and from there on, in 1 / x².
const ERFC_TO_2: [f32; 9] = [
    2.326_82e-2,
    -1.387_039_4e-1,
    3.687_424_7e-1,
    -5.824_733e-1,
    6.210_004_6e-1,
    -4.944_515e-1,
    3.404_88e-1,
    -2.741_127e-1,
    5.638_259_4e-1,
];
const ERFC_FROM_2: [f32; 8] = [
    -1.047_766_4e1,
    1.297_72e1,
    -7.495_518_7,
    2.921_019,
    -1.015_265_3,
    4.218_463_4e-1,
    -2.820_767_3e-1,
    5.641_895e-1,
];

/// max(x, 0)².
#[inline(always)]
pub(crate) fn relu_squared(x: f32) -> f32 {
    let y = if x > 0.0 { x } else { 0.0 };
    y * y
}

/// Hyperbolic tangent, relative error below 4e-7.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let z = x * x;
    let p = -5.704_988_7e-3;
    let p = p * z + 2.063_909e-2;
    let p = p * z + -5.373_971_6e-2;
    let p = p * z + 1.333_144_2e-1;
    let p = p * z + -3.333_328e-1;
    let small = p * z * x + x;
    let a = x.abs();
    let large = (1.0 - 2.0 / (exp(a + a) + 1.0)).copysign(x);
    if a < 0.625 { small } else { large }
}

/// ln(1 + eˣ) = max(x, 0) + log1p(e^-|x|), relative error below 1e-6.
#[inline(always)]
pub(crate) fn softplus(x: f32) -> f32 {
    let t = exp(-x.abs());
    // log1p(t) = 2 atanh(s), s = t / (2 + t) ≤ 1/3.
    let s = t / (2.0 + t);
    let z = s * s;
    let p = 1.0 / 15.0;
    let p = p * z + 1.0 / 13.0;
    let p = p * z + 1.0 / 11.0;
    let p = p * z + 1.0 / 9.0;
    let p = p * z + 1.0 / 7.0;
    let p = p * z + 1.0 / 5.0;
    let p = p * z + 1.0 / 3.0;
    let p = p * z + 1.0;
    let positive = if x > 0.0 { x } else { 0.0 };
    positive + (s + s) * p
}

/// ln x, error below 2e-7 of it or of 1, for positive numbers that are not subnormal: x = m 2ⁿ with
/// m between √½ and √2, ln m = 2 atanh((m − 1) / (m + 1)) by its series.
#[inline(always)]
pub(crate) fn ln(x: f32) -> f32 {
    const LOWEST: u32 = 0x3f35_04f3; // √½
    let above = x.to_bits().wrapping_sub(LOWEST);
    let n = (above as i32 >> 23) as f32;
    let m = f32::from_bits((above & 0x007f_ffff) + LOWEST);
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let p = 1.0 / 9.0;
    let p = p * z + 1.0 / 7.0;
    let p = p * z + 1.0 / 5.0;
    let p = p * z + 1.0 / 3.0;
    let log = n * 0.693_359_4 + (n * -2.121_944_4e-4 + ((s + s) * z * p + (s + s)));
    if x.is_nan() { x } else { log }
}

/// ln(softplus(x)), error below 1e-6 of it or of 1; x itself where that is less than -15.
#[inline(always)]
pub(crate) fn ln_softplus(x: f32) -> f32 {
    let near = if x < -15.0 { -15.0 } else { x };
    let log = ln(softplus(near));
    if x < -15.0 { x } else { log }
}

/// sin x and cos x, to f32's last bit or the one beside it, for |x| below 2³¹: reduced to ±π/4 by a
/// quadrant in two parts (Cody & Waite 1980), then Taylor's series, in f64.
pub(crate) fn sin_cos(x: f64) -> (f32, f32) {
    const HIGH: f64 = 1.570_796_326_734_125_6; // π/2 to 33 bits: times a quadrant exact
    const LOW: f64 = 6.077_100_506_506_192e-11;
    let quadrant = (x * std::f64::consts::FRAC_2_PI + 0.5).floor();
    let r = (x - quadrant * HIGH) - quadrant * LOW;
    let r2 = r * r;
    let sin = r
        * (1.0
            + r2 * (-1.0 / 6.0
                + r2 * (1.0 / 120.0
                    + r2 * (-1.0 / 5_040.0 + r2 * (1.0 / 362_880.0 - r2 / 39_916_800.0)))));
    let cos = 1.0
        + r2 * (-0.5
            + r2 * (1.0 / 24.0 + r2 * (-1.0 / 720.0 + r2 * (1.0 / 40_320.0 - r2 / 3_628_800.0))));
    let (sin, cos) = (sin as f32, cos as f32);
    match (quadrant as i64).rem_euclid(4) {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::lanes::{Lanes, WIDTH};

    /// The largest relative error of `f` against `reference` over a dense sweep of [lo, hi].
    fn worst(f: impl Fn(f32) -> f32, reference: impl Fn(f64) -> f64, lo: f32, hi: f32) -> f64 {
        (0..200_000)
            .map(|i| lo + (hi - lo) * (i as f32 / 200_000.0))
            .map(|x| {
                let expected = reference(f64::from(x));
                (f64::from(f(x)) - expected).abs() / expected.abs().max(1e-30)
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn functions_are_accurate() {
        assert!(worst(exp, f64::exp, -87.0, 88.0) < 2e-7);
        assert!(worst(|x| exp2_negative(Lanes::splat(x)).0[0], f64::exp2, -126.0, 0.0) < 2e-7);
        assert!(worst(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), -80.0, 80.0) < 4e-7);
        assert!(worst(silu, |x| x / (1.0 + (-x).exp()), -80.0, 80.0) < 4e-7);
        assert!(worst(tanh, f64::tanh, -20.0, 20.0) < 4e-7);
        assert!(worst(tanh, f64::tanh, -1e-3, 1e-3) < 4e-7);
        let gelu = |x: f64| {
            0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044715 * x * x * x)).tanh())
        };
        assert!(worst(gelu_tanh, gelu, -1.0, 8.0) < 2e-6);
        assert!(worst(|x| 1.0 + gelu_tanh(x), |x| 1.0 + gelu(x), -30.0, -1.0) < 2e-7);
        assert!(worst(softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), -80.0, 80.0) < 1e-6);
    }

    #[test]
    fn logarithms_are_accurate() {
        let exact = |x: f64| (x.max(0.0) + (-x.abs()).exp().ln_1p()).ln();
        for i in 0..200_000 {
            let x = -87.0 + i as f32 * 8.7e-4;
            let (number, near) = (x.exp(), 1.0 + x / 1000.0);
            for (found, expected, error) in [
                (ln(number), f64::from(number).ln(), 2e-7),
                (ln(near), f64::from(near).ln(), 2e-7),
                (ln_softplus(x), exact(f64::from(x)), 1e-6),
            ] {
                let difference = (f64::from(found) - expected).abs();
                assert!(difference < error * expected.abs().max(1.0), "{x}: {found} {expected}");
            }
        }
        assert_eq!((ln(1.0), ln_softplus(-1e30)), (0.0, -1e30));
        assert!(ln_softplus(1e30).is_finite() && ln_softplus(f32::NAN).is_nan());
    }

    #[test]
    #[cfg_attr(
        all(windows, target_env = "gnu"),
        ignore = "MinGW's fmaf, which the library's `mul_add` calls, rounds twice"
    )]
    fn fused_multiply_adds_round_once() {
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        let check = |a: [f32; WIDTH], b: [f32; WIDTH], c: [f32; WIDTH]| {
            let lanes = Lanes(a).mul_add(Lanes(b), Lanes(c));
            for i in 0..WIDTH {
                let (a, b, c) = (a[i], b[i], c[i]);
                assert!(same(fused_multiply_add(a, b, c), a.mul_add(b, c)), "{a} · {b} + {c}");
                assert!(same(lanes.0[i], a.mul_add(b, c)), "{a} · {b} + {c}, in a lane");
            }
        };
        let mut state = 1u64;
        let mut any = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 32) as u32
        };
        // Bits as they come; numbers of one size, whose sums cancel; subnormal results.
        for _ in 0..20_000 {
            let mut bits = || std::array::from_fn(|_| any());
            let [a, b, c]: [[u32; WIDTH]; 3] = [bits(), bits(), bits()];
            check(a.map(f32::from_bits), b.map(f32::from_bits), c.map(f32::from_bits));
            let near = |x: u32| f32::from_bits(x & 0x81ff_ffff | 0x3e00_0000);
            check(a.map(near), b.map(near), c.map(near));
            let small = |x: u32| f32::from_bits(x & 0x81ff_ffff | 0x1e00_0000);
            check(a.map(small), b.map(small), c.map(|x| f32::from_bits(x & 0x80ff_ffff)));
        }
        // 1 + 2⁻¹¹ + 2⁻²⁴ + 2⁻⁷⁰: in f64 a tie. The same among subnormal results.
        let (a, c) = (1.0 + 2f32.powi(-12), 2f32.powi(-70));
        assert_ne!(a.mul_add(a, c), a * a + c);
        check([a; WIDTH], [a; WIDTH], [c; WIDTH]);
        let (a, b, c) = (1.5 * 2f32.powi(-75), 2f32.powi(-75), f32::from_bits(1 << 20));
        check([a; WIDTH], [b; WIDTH], [c; WIDTH]);
        check([a; WIDTH], [-b; WIDTH], [c; WIDTH]);
    }

    #[test]
    fn erf_is_its_series() {
        for i in -50_000..=50_000 {
            let x = f64::from(i as f32 * 1e-4);
            // 2/√π e^(−x²) Σ 2ⁿ x^(2n+1) / (2n + 1)!!, in which nothing cancels.
            let (mut term, mut sum) = (x, x);
            for n in 1..120 {
                term *= 2.0 * x * x / f64::from(2 * n + 1);
                sum += term;
            }
            let exact = sum * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI;
            assert!((f64::from(erf(x as f32)) - exact).abs() < 2e-7, "{x}");
        }
        assert_eq!((erf(30.0), erf(-30.0), gelu(-100.0)), (1.0, -1.0, 0.0));
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn extremes_stay_sane() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::INFINITY) > 2e38);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(sigmoid(-1000.0).max(1e-30), 1e-30);
        assert_eq!(sigmoid(1000.0), 1.0);
        assert_eq!(tanh(1000.0), 1.0);
        assert_eq!(tanh(-1000.0), -1.0);
        assert_eq!(softplus(1000.0), 1000.0);
    }

    #[test]
    fn sines_are_those_of_f64() {
        for i in 0..200_000 {
            let x = f64::from(i) * f64::from(i) * 0.000_037 - 3.0;
            let (sin, cos) = sin_cos(x);
            for (found, exact) in [(sin, x.sin()), (cos, x.cos())] {
                assert!((f64::from(found) - exact).abs() < 7e-8, "{x}: {found} {exact}");
            }
        }
    }
}
