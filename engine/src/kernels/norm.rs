//! Norms over one column, each with the crate's fixed summation order ([`super::lanes::sum_of`]).

use super::isa::Isa;
use super::lanes::sum_of;

/// y = (x − mean) / √(var + eps) · w + b over the whole slice.
///
/// `x`, `w`, `b` and `y` have the same length; the variance is the biased one (Ba et al. 2016, eq.
/// 3–4).
pub(crate) fn layer_norm(isa: Isa, x: &[f32], w: &[f32], b: &[f32], eps: f32, y: &mut [f32]) {
    isa.run(
        #[inline(always)]
        || layer_norm_body(x, w, b, eps, y),
    );
}

#[inline(always)]
pub(crate) fn layer_norm_body(x: &[f32], w: &[f32], b: &[f32], eps: f32, y: &mut [f32]) {
    let n = x.len() as f32;
    let mean = sum_of(x, |v| v) / n;
    let variance = sum_of(x, |v| (v - mean) * (v - mean)) / n;
    let inverse = 1.0 / (variance + eps).sqrt();
    for ((y, x), (w, b)) in y.iter_mut().zip(x).zip(w.iter().zip(b)) {
        *y = (x - mean) * inverse * w + b;
    }
}

/// y = x / √(mean(x²) + eps) · w (Zhang & Sennrich 2019, eq. 4).
pub(crate) fn rms_norm(isa: Isa, x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) {
    isa.run(
        #[inline(always)]
        || {
            let inverse = inverse_rms(x, eps);
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y = x * inverse * w;
            }
        },
    );
}

/// 1 / √(mean(x²) + eps).
#[inline(always)]
pub(crate) fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of(x, |v| v * v) / x.len() as f32 + eps).sqrt()
}
