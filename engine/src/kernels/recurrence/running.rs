//! Keys that are normalised over time: each is its share in the sum of all exponentials so far
//! (Qin et al. 2024, arXiv 2405.21022: LightNet). Test: below.

use crate::kernels::Isa;
use crate::kernels::columns::ColumnsMut;
use crate::kernels::math::{exp, softplus};
use crate::kernels::simd::simd;

/// The keys of a span of tokens, one column per token.
pub(crate) struct Running<'a> {
    /// State: ln Σ eᵏ of each channel; [`NOTHING`] before the first token.
    pub(crate) sum: &'a mut [f32],
    /// k, overwritten by eᵏ / Σ eᵏ.
    pub(crate) k: ColumnsMut<'a>,
    /// Overwritten by the share that older tokens keep.
    pub(crate) decay: ColumnsMut<'a>,
}

/// The logarithm of an empty sum, for all that is added to it.
pub(crate) const NOTHING: f32 = -1e38;

/// sum′ = ln(e^sum + eᵏ), k ← e^(k − sum′), decay = e^(sum − sum′), token after token.
pub(crate) fn running(isa: Isa, Running { sum, mut k, mut decay }: Running<'_>) {
    simd!(isa, {
        for c in 0..k.len() {
            for ((sum, k), decay) in sum.iter_mut().zip(k.at(c)).zip(decay.at(c)) {
                let larger = if *sum > *k { *sum } else { *k };
                let next = larger + softplus(-(*sum - *k).abs());
                *decay = exp(*sum - next);
                *k = exp(*k - next);
                *sum = next;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::recurrence::support::numbers;

    /// After any number of tokens a channel's shares are those of a softmax over them.
    #[test]
    fn shares_are_those_of_a_softmax() {
        let (n, tokens) = (21, 9);
        let keys: Vec<f32> = numbers(n * tokens, 5).iter().map(|k| k * 30.0).collect();
        let mut bits: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let (mut sum, mut k, mut decay) = (vec![NOTHING; n], keys.clone(), keys.clone());
            for part in [0..4, 4..tokens] {
                let part = part.start * n..part.end * n;
                let [k, decay] =
                    [&mut k[part.clone()], &mut decay[part]].map(|x| ColumnsMut::whole(x, n));
                running(isa, Running { sum: &mut sum, k, decay });
            }
            for i in 0..n {
                let all: f64 = (0..tokens).map(|t| f64::from(keys[t * n + i]).exp()).sum();
                for t in 0..tokens {
                    let later = (t + 1..tokens).map(|t| f64::from(decay[t * n + i]));
                    let share = f64::from(k[t * n + i]) * later.product::<f64>();
                    let expected = f64::from(keys[t * n + i]).exp() / all;
                    assert!((share - expected).abs() < 1e-5 * expected.max(1e-3), "{isa:?}");
                }
            }
            let bits = bits.get_or_insert_with(|| k.clone());
            assert_eq!(k, *bits, "{isa:?}");
        }
    }
}
