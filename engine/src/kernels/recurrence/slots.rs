//! The first half of gated slot attention (Zhang et al. 2024, arXiv 2409.07146, eq. 8): keys are
//! written to slots that fade, and a query sees how near each is. Test: below.

use crate::kernels::Isa;
use crate::kernels::columns::{Columns, ColumnsMut};
use crate::kernels::lanes::sum_of;
use crate::kernels::math::exp;
use crate::kernels::simd::simd;
use crate::kernels::state::{StateElement, StateKernel, StateSlice};
use crate::kernels::vector::Vector;

/// The inputs of a span of tokens to one head, one column per token.
pub(crate) struct Slots<'a> {
    /// (d_key) each
    pub(crate) q: Columns<'a>,
    pub(crate) k: Columns<'a>,
    /// How much of the key a slot takes, and how much it keeps (n_slot each).
    pub(crate) share: Columns<'a>,
    pub(crate) decay: Columns<'a>,
    /// Overwritten (n_slot).
    pub(crate) scores: ColumnsMut<'a>,
}

/// Scores become shares: softmax over the slots of a head.
pub(crate) fn shares(isa: Isa, scores: &mut [f32]) {
    simd!(isa, {
        let largest = scores.iter().fold(f32::NEG_INFINITY, |m, s| if *s > m { *s } else { m });
        scores.iter_mut().for_each(|s| *s = exp(*s - largest));
        let inverse = 1.0 / sum_of(scores, |s| s);
        scores.iter_mut().for_each(|s| *s *= inverse);
    });
}

/// S ← S diag(decay) + k shareᵀ, scores = Sᵀ q, token after token; `state` is (d_key, n_slot).
pub(crate) fn slots(isa: Isa, state: &mut StateSlice<'_>, span: Slots<'_>) {
    state.update(isa, span);
}

impl StateKernel for Slots<'_> {
    #[inline(always)]
    fn run<V: Vector, S: StateElement>(mut self, state: &mut [S]) {
        let n = self.share.rows();
        assert!(state.len() == n * self.k.rows());
        for c in 0..self.scores.len() {
            let (share, decay, scores) = (self.share.at(c), self.decay.at(c), self.scores.at(c));
            scores.fill(0.0);
            let keys = self.k.at(c).iter().zip(self.q.at(c));
            for (row, (k, q)) in state.chunks_exact_mut(n).zip(keys) {
                for (((s, share), decay), score) in
                    row.iter_mut().zip(share).zip(decay).zip(&mut *scores)
                {
                    let next = s.value() * decay + k * share;
                    *s = S::of(next);
                    *score += next * q;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::kernels::recurrence::support::{Format, numbers};

    #[test]
    fn slots_round_after_every_token() {
        check::<f32>();
        check::<f16>();
    }

    fn check<S: Format>() {
        let (d, n, tokens) = (3, 18, 5);
        let [q, k] = [1, 2].map(|seed| numbers(d * tokens, seed));
        let [share, decay] = [3, 4].map(|seed| numbers(n * tokens, seed));
        let start = S::state(d * n, 5);
        let (mut expected, mut state) = (vec![0.0f32; n * tokens], start.clone());
        for t in 0..tokens {
            for i in 0..d {
                for m in 0..n {
                    let s = &mut state[i * n + m];
                    let next = s.value() * decay[t * n + m] + k[t * d + i] * share[t * n + m];
                    *s = S::of(next);
                    expected[t * n + m] += next * q[t * d + i];
                }
            }
        }
        let view = |x, rows| Columns::new(x, rows, 0..tokens, 0..rows);
        for isa in Isa::available() {
            let (mut found, mut kept) = (vec![0.0; n * tokens], start.clone());
            let span = Slots {
                q: view(&q, d),
                k: view(&k, d),
                share: view(&share, n),
                decay: view(&decay, n),
                scores: ColumnsMut::whole(&mut found, n),
            };
            slots(isa, &mut S::elements(&mut kept), span);
            assert_eq!(found, expected, "{isa:?}");
            assert_eq!(kept, state, "{isa:?}");
        }
    }
}
