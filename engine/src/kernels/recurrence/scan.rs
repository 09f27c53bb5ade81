//! Mamba-1's diagonal scan, sixteen channels and one token (Gu & Dao 2023, arXiv 2312.00752).
//! Tests: below.

use crate::kernels::lanes::WIDTH;
use crate::kernels::math::exp2_negative;
use crate::kernels::stored::Stored;
use crate::kernels::vector::Vector;

/// Mamba-1's scan of sixteen channels over one token (Gu & Dao 2023, eq. 2 with the discretization
/// of §3.3): `h_n ← exp(Δ A_n) h_n + (Δ x) B_n`, `y = Σ_n h_n C_n`, n ascending; Δ A ≤ 0.
///
/// `state` and `a` are (d_state, 16); `b` and `c` have `d_state` values.
#[inline(always)]
pub(crate) fn selective_scan<V: Vector, S: Stored>(
    state: &mut [S],
    a: &[f32],
    delta: V,
    x: V,
    b: &[f32],
    c: &[f32],
) -> V {
    let rate = delta.mul(V::splat(std::f32::consts::LOG2_E));
    let u = delta.mul(x);
    let mut y = V::splat(0.0);
    for (((h, a), b), c) in state.chunks_exact_mut(WIDTH).zip(a.chunks_exact(WIDTH)).zip(b).zip(c) {
        let decay = exp2_negative(rate.mul(V::load(a)));
        let next = decay.mul_add(S::load(h), u.mul(V::splat(*b)));
        S::store(next, h);
        y = next.mul_add(V::splat(*c), y);
    }
    y
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::kernels::Isa;
    use crate::kernels::lanes::Lanes;
    use crate::kernels::recurrence::support::{Format, numbers};
    use crate::kernels::stored::StateKernel;

    /// Mamba-1's scan, token after token: every instruction set, and a state that is rounded after
    /// each.
    struct Scan<'a> {
        a: &'a [f32],
        inputs: &'a [f32],
        y: &'a mut [f32],
    }

    impl StateKernel for Scan<'_> {
        #[inline(always)]
        fn run<V: Vector, S: Stored>(self, state: &mut [S]) {
            let n = self.a.len() / WIDTH;
            let tokens = self.inputs.chunks_exact(2 * (WIDTH + n));
            for (token, y) in tokens.zip(self.y.chunks_exact_mut(WIDTH)) {
                let (delta, x) = token.split_at(WIDTH);
                let (b, c) = token[2 * WIDTH..].split_at(n);
                selective_scan(state, self.a, V::load(delta), V::load(x), b, c).store(y);
            }
        }
    }

    #[test]
    fn scans_round_after_every_token() {
        check_scan::<f32>();
        check_scan::<f16>();
    }

    fn check_scan<S: Format>() {
        let (n, tokens) = (5, 7);
        let a: Vec<f32> = numbers(n * WIDTH, 1).iter().map(|a| -a.abs()).collect();
        let mut inputs = numbers(tokens * 2 * (WIDTH + n), 2);
        for token in inputs.chunks_exact_mut(2 * (WIDTH + n)) {
            token[..WIDTH].iter_mut().for_each(|delta| *delta = delta.abs());
        }
        // The equations, a channel at a time.
        let start = S::state(n * WIDTH, 3);
        let (mut expected_state, mut expected) = (start.clone(), vec![0.0; tokens * WIDTH]);
        for (token, y) in inputs.chunks_exact(2 * (WIDTH + n)).zip(expected.chunks_exact_mut(WIDTH))
        {
            for channel in 0..WIDTH {
                let (delta, x) = (token[channel], token[WIDTH + channel]);
                for j in 0..n {
                    let (b, c) = (token[2 * WIDTH + j], token[2 * WIDTH + n + j]);
                    let (h, rate) = (
                        &mut expected_state[j * WIDTH + channel],
                        delta * std::f32::consts::LOG2_E,
                    );
                    let decay = exp2_negative(Lanes::splat(rate * a[j * WIDTH + channel])).0[0];
                    let next = decay.mul_add(h.value(), delta * x * b);
                    *h = S::of(next);
                    y[channel] = next.mul_add(c, y[channel]);
                }
            }
        }
        for isa in Isa::ALL.iter().filter(|isa| isa.available()) {
            let (mut state, mut y) = (start.clone(), vec![0.0; tokens * WIDTH]);
            S::elements(&mut state).update(*isa, Scan { a: &a, inputs: &inputs, y: &mut y });
            assert_eq!(y, expected, "{isa:?}");
            assert_eq!(state, expected_state, "{isa:?}");
        }
    }
}
