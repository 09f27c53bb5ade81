//! [`Frequencies`]: a distribution as whole numbers, of which no token has 0 and that sum to 2³¹.
//!
//! They are `1 + ⌊(2³¹ − V) · w / W⌋`, where `w = e^(l − max l)` as a whole number of 2⁻³² and `W`
//! is the sum of those; the likeliest token has what is left. The 1 costs at most V/2³¹ of the
//! distribution, which is 4·10⁻⁵ bits a token for V = 65536. Test: below.

use crate::kernels::math::exp;
use crate::{EngineError, Result};

/// Binary digits of the sum.
pub(super) const BITS: u32 = 31;

/// The sum.
const TOTAL: u32 = 1 << BITS;

/// A token's own part of the whole: where it begins, and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) start: u32,
    pub(super) size: u32,
}

/// A distribution over a vocabulary.
pub(super) struct Frequencies {
    /// By token.
    sizes: Vec<u32>,
    weights: Vec<f32>,
}

impl Frequencies {
    /// For so many tokens.
    pub(super) fn new(n_vocab: usize) -> Frequencies {
        Frequencies { sizes: vec![0; n_vocab], weights: vec![0.0; n_vocab] }
    }

    /// Takes over the distribution that these logits stand for.
    ///
    /// # Errors
    /// One of them is not finite, or they are so many that they cannot have a part each.
    pub(super) fn set(&mut self, logits: &[f32]) -> Result<()> {
        let mut max = f32::MIN;
        let mut sum = 0.0;
        for logit in logits {
            max = if *logit > max { *logit } else { max };
            // Finite only where all are.
            sum += logit * 0.0;
        }
        let n = self.sizes.len();
        if sum != 0.0 || logits.len() != n || n == 0 || n > TOTAL as usize / 2 {
            return Err(EngineError::NotFinite);
        }
        for (weight, logit) in self.weights.iter_mut().zip(logits) {
            *weight = exp(logit - max);
        }
        // Whole numbers below 2³³ and their sum below 2⁵³: exact, in any order.
        let whole = |weight: f32| (f64::from(weight) * (1u64 << 32) as f64).floor();
        let all: f64 = self.weights.iter().map(|weight| whole(*weight)).sum();
        // A little less, so that roundings never make the sum more.
        let scale = f64::from(TOTAL - n as u32) / all * (1.0 - 1e-12);
        let (mut left, mut likeliest) = (TOTAL, 0);
        for (i, (size, weight)) in self.sizes.iter_mut().zip(&self.weights).enumerate() {
            *size = 1 + (whole(*weight) * scale) as u32;
            left -= *size;
            if *weight > self.weights[likeliest] {
                likeliest = i;
            }
        }
        self.sizes[likeliest] += left;
        Ok(())
    }

    /// The part of a token, which is in the vocabulary.
    pub(super) fn range_of(&self, token: u32) -> Part {
        let token = token as usize;
        Part { start: self.sizes[..token].iter().sum(), size: self.sizes[token] }
    }

    /// The token in whose part a number below the sum stands.
    pub(super) fn token_at(&self, at: u32) -> (u32, Part) {
        let mut start = 0;
        for (token, &size) in self.sizes.iter().enumerate() {
            if at - start < size {
                return (token as u32, Part { start, size });
            }
            start += size;
        }
        // Not reached: they sum to 2³¹.
        (0, self.range_of(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fill_the_whole_in_proportion() {
        let mut rng = fastrand::Rng::with_seed(5);
        for n in [1, 2, 300, 65536] {
            let mut frequencies = Frequencies::new(n);
            for spread in [0.0, 1.0, 30.0, 1e30] {
                let logits: Vec<f32> = (0..n).map(|_| spread * (rng.f32() - 0.5)).collect();
                frequencies.set(&logits).expect("finite");
                let total: u64 = frequencies.sizes.iter().map(|size| u64::from(*size)).sum();
                assert_eq!(total, u64::from(TOTAL), "{n} {spread}");
                let max = logits.iter().copied().fold(f32::MIN, f32::max);
                let weights = logits.iter().map(|l| f64::from(l - max).exp());
                let all: f64 = weights.clone().sum();
                for (i, (size, weight)) in frequencies.sizes.iter().zip(weights).enumerate() {
                    assert!(*size > 0);
                    let (found, expected) = (f64::from(*size) / f64::from(TOTAL), weight / all);
                    // The likeliest has the rest, which is less than one a token.
                    let most = 1e-5 * expected + 2.0 * n as f64 / f64::from(TOTAL);
                    assert!(
                        (found - expected).abs() < most,
                        "{n} {spread} {i}: {found} {expected}"
                    );
                }
                let token = rng.usize(..n) as u32;
                let part = frequencies.range_of(token);
                for at in [part.start, part.start + part.size - 1] {
                    assert_eq!(frequencies.token_at(at), (token, part));
                }
            }
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                assert!(frequencies.set(&vec![bad; n]).is_err());
            }
        }
    }
}
