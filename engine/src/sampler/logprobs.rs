//! Log-probabilities of tokens, and the likeliest of them: what a caller reads from logits.
//!
//! Not here: sampling. The arithmetic is plain IEEE in one order, with logarithm and exponential of
//! our own, so that every machine gives the same bits. Tests: below.

use crate::kernels::math::exp;

/// `ln softmax(logits)[token]`, in nats: how likely the model holds a token, before any option of a
/// sampler.
///
/// -∞ for a token outside `logits`, or whose logit is -∞ or NaN.
///
/// ```
/// use brooklet::sampler::log_softmax;
///
/// let p = log_softmax(&[1.0, 1.0, f32::NEG_INFINITY], 0).exp();
/// assert!((p - 0.5).abs() < 1e-6);
/// ```
pub fn log_softmax(logits: &[f32], token: u32) -> f32 {
    LogSoftmax::of(logits).log_prob(logits, token)
}

/// The tokens of the `k` largest logits (fewer where there are not as many), the largest first, of
/// equal ones the lowest id first; NaN is never among them. With their logits.
///
/// ```
/// use brooklet::sampler::top_k;
///
/// assert_eq!(top_k(&[0.5, 2.0, f32::NAN, 2.0], 2), [(1, 2.0), (3, 2.0)]);
/// ```
pub fn top_k(logits: &[f32], k: usize) -> Vec<(u32, f32)> {
    let before = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    // Both zeros are equal.
    let mut top: Vec<(u32, f32)> =
        (0..).zip(logits).filter(|(_, l)| !l.is_nan()).map(|(id, l)| (id, l + 0.0)).collect();
    if k < top.len() {
        if k == 0 {
            return Vec::new();
        }
        top.select_nth_unstable_by(k - 1, before);
        top.truncate(k);
    }
    top.sort_unstable_by(before);
    top
}

/// `ln Σ exp l` of some logits, for the log-probabilities of several tokens.
#[derive(Clone, Copy, Debug)]
pub struct LogSoftmax {
    max: f32,
    /// `ln Σ exp(l - max)`.
    ln_sum: f64,
}

impl LogSoftmax {
    /// Sums up the logits; NaN counts as -∞.
    pub fn of(logits: &[f32]) -> LogSoftmax {
        let max = super::truncate::max(logits);
        let sum = logits.iter().map(|&logit| f64::from(exp(below(logit, max)))).sum();
        LogSoftmax { max, ln_sum: ln(sum) }
    }

    /// The log-probability of a token, whose logits were summed up. In nats.
    pub fn log_prob(&self, logits: &[f32], token: u32) -> f32 {
        match logits.get(token as usize) {
            Some(&logit) if logit > f32::NEG_INFINITY => {
                (f64::from(below(logit, self.max)) - self.ln_sum) as f32
            }
            _ => f32::NEG_INFINITY,
        }
    }
}

/// `l - max`, 0 for +∞ under a maximum of +∞, -∞ for NaN.
fn below(logit: f32, max: f32) -> f32 {
    match logit {
        _ if logit == max && max > f32::NEG_INFINITY => 0.0,
        _ if logit < max => logit - max,
        _ => f32::NEG_INFINITY,
    }
}

/// The natural logarithm of a normal number above 0, relative error below 1e-15: by the exponent,
/// and the series of the inverse hyperbolic tangent for the mantissa from √½ to √2.
pub(super) fn ln(x: f64) -> f64 {
    const ONE: u64 = 1023 << 52;
    let bits = x.to_bits();
    let (exponent, mantissa) =
        ((bits >> 52) as i64 - 1023, f64::from_bits(bits & ((1 << 52) - 1) | ONE));
    let (exponent, mantissa) = if mantissa > std::f64::consts::SQRT_2 {
        (exponent + 1, mantissa / 2.0)
    } else {
        (exponent, mantissa)
    };
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    // 2 (s + s³/3 + s⁵/5 + …): s² is below 0.0295, so eleven terms leave less than an ulp.
    let series = (0..11).rev().fold(0.0, |sum, i| sum * square + 1.0 / f64::from(2 * i + 1));
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * s * series
}

/// `x^y` for x from 0 to 1 and y from 0 up.
pub(super) fn power(x: f64, y: f32) -> f64 {
    match (x, y) {
        (_, 0.0) => 1.0,
        (_, 1.0) => x,
        // Subnormal numbers have no logarithm here.
        _ if x < f64::MIN_POSITIVE => 0.0,
        _ => f64::from(exp((ln(x) * f64::from(y)) as f32)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_logarithm_is_right() {
        for x in [1.0, 2.0, 0.5, 1e-300, 65536.0, 1.0 + 1e-9, std::f64::consts::SQRT_2, 0.7, 3e200]
        {
            let error = (ln(x) - x.ln()).abs();
            assert!(error <= 4e-16 * x.ln().abs().max(1e-9), "{x}: {error:e}");
        }
        assert_eq!(ln(1.0), 0.0);
    }

    #[test]
    fn odd_logits() {
        let (none, all) = (f32::NEG_INFINITY, f32::INFINITY);
        assert_eq!(log_softmax(&[0.0, none, f32::NAN], 0), 0.0);
        assert_eq!(log_softmax(&[0.0, none, f32::NAN], 1), none);
        assert_eq!(log_softmax(&[0.0, none, f32::NAN], 2), none);
        assert_eq!(log_softmax(&[0.0], 7), none);
        assert_eq!(log_softmax(&[none, none], 0), none);
        assert_eq!(log_softmax(&[], 0), none);
        assert_eq!(log_softmax(&[all, 3.0], 0), 0.0);
        assert_eq!(log_softmax(&[all, 3.0], 1), none);
        assert_eq!(top_k(&[1.0, -0.0, 0.0, none], 9), [(0, 1.0), (1, 0.0), (2, 0.0), (3, none)]);
        assert_eq!(top_k(&[1.0], 0), []);
        assert_eq!(top_k(&[f32::NAN], 1), []);
    }

    proptest! {
        #[test]
        fn as_by_definition(
            logits in proptest::collection::vec(-30.0f32..30.0, 1..200),
            k in 0usize..20,
        ) {
            let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
            for (id, &logit) in (0..).zip(&logits) {
                let expected = f64::from(logit) - sum.ln();
                prop_assert!((f64::from(log_softmax(&logits, id)) - expected).abs() < 4e-6);
            }
            let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
            sorted.truncate(k);
            prop_assert_eq!(top_k(&logits, k), sorted);
        }
    }
}
