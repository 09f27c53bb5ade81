//! Norms over one column, each with the crate's fixed summation order ([`super::lanes::sum_of`]).

use super::isa::Isa;
use super::lanes::sum_of;
use super::simd::simd;

/// y = (x − mean) / √(var + eps) · w + b over the whole slice.
///
/// `x`, `w`, `b` and `y` have the same length; the variance is the biased one (Ba et al. 2016, eq.
/// 3–4).
pub(crate) fn layer_norm(isa: Isa, x: &[f32], w: &[f32], b: &[f32], eps: f32, y: &mut [f32]) {
    simd!(isa, {
        let (mean, inverse) = moments(x, eps);
        for ((y, x), (w, b)) in y.iter_mut().zip(x).zip(w.iter().zip(b)) {
            *y = (x - mean) * inverse * w + b;
        }
    });
}

/// [`layer_norm`] of a head, in place, on the instruction set that it is called from.
#[inline(always)]
pub(crate) fn layer_norm_in_place(x: &mut [f32], w: &[f32], b: &[f32], eps: f32) {
    let (mean, inverse) = moments(x, eps);
    for (x, (w, b)) in x.iter_mut().zip(w.iter().zip(b)) {
        *x = (*x - mean) * inverse * w + b;
    }
}

/// The mean, and 1 / √(var + eps).
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sum_of(x, |v| v) / n;
    let variance = sum_of(x, |v| (v - mean) * (v - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// y = x / √(mean(x²) + eps) · w (Zhang & Sennrich 2019, eq. 4).
pub(crate) fn rms_norm(isa: Isa, x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) {
    simd!(isa, {
        let inverse = inverse_rms(x, eps);
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = x * inverse * w;
        }
    });
}

/// 1 / √(mean(x²) + eps).
#[inline(always)]
pub(crate) fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of(x, |v| v * v) / x.len() as f32 + eps).sqrt()
}
