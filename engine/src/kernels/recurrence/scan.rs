//! Mamba-1's diagonal scan, sixteen channels at a time (Gu & Dao 2023, arXiv 2312.00752).
//! Tests: below.

use crate::kernels::Isa;
use crate::kernels::columns::{Columns, ColumnsMut};
use crate::kernels::lanes::WIDTH;
use crate::kernels::math::exp2_negative;
use crate::kernels::state::{StateElement, StateKernel, StateSlice};
use crate::kernels::vector::Vector;

/// The inputs of a span of tokens to some blocks of sixteen channels, one column per token.
pub(crate) struct Scan<'a> {
    /// (blocks, d_state, 16), negative.
    pub(crate) a: &'a [f32],
    /// (blocks, 16): how much of x is added to y.
    pub(crate) d: &'a [f32],
    /// (blocks · 16)
    pub(crate) x: Columns<'a>,
    /// B and C of every head (n_head, 2, d_state).
    pub(crate) b_c: Columns<'a>,
    pub(crate) d_state: usize,
    /// Channels of a head, and the first of these channels among those of all heads.
    pub(crate) d_head: usize,
    pub(crate) first: usize,
    /// Δ, overwritten by y (blocks · 16).
    pub(crate) delta_y: ColumnsMut<'a>,
}

/// Mamba-1's scan, token after token (Gu & Dao 2023, eq. 2 with the discretization of §3.3):
/// `h_n ← exp(Δ A_n) h_n + (Δ x) B_n`, `y = Σ_n h_n C_n + D x`, n ascending; Δ A ≤ 0.
///
/// `state` is (blocks, d_state, 16).
pub(crate) fn selective_scan(isa: Isa, state: &mut StateSlice<'_>, scan: Scan<'_>) {
    state.update(isa, scan);
}

impl StateKernel for Scan<'_> {
    /// A block goes through all tokens before the next one, so that its state stays near.
    #[inline(always)]
    fn run<V: Vector, S: StateElement>(self, state: &mut [S]) {
        let Scan { a, d, x, b_c, d_state, d_head, first, mut delta_y } = self;
        let len = d_state * WIDTH;
        let last_head = b_c.rows() / (2 * d_state) - 1;
        for (block, h) in state.chunks_exact_mut(len).enumerate() {
            let at = block * WIDTH;
            let (a, d) = (&a[block * len..][..len], V::load(&d[at..]));
            // The heads of its channels; those that fill up the last block have none.
            let head = |lane: usize| ((first + at + lane) / d_head).min(last_head);
            let of = |head: usize| head * 2 * d_state..(head + 1) * 2 * d_state;
            let is_one = head(0) == head(WIDTH - 1);
            for token in 0..delta_y.len() {
                let x = V::load(&x.at(token)[at..]);
                let delta_y = &mut delta_y.at(token)[at..];
                let b_c = b_c.at(token);
                let delta = V::load(delta_y);
                let y = if is_one {
                    let (b, c) = b_c[of(head(0))].split_at(d_state);
                    let number = |v: &f32| V::splat(*v);
                    step(h, a, delta, x, b.iter().map(number), c.iter().map(number))
                } else {
                    let lanes = |row: usize| {
                        let values: [f32; WIDTH] =
                            std::array::from_fn(|lane| b_c[of(head(lane))][row]);
                        V::load(&values)
                    };
                    step(h, a, delta, x, (0..d_state).map(lanes), (d_state..2 * d_state).map(lanes))
                };
                y.add(d.mul(x)).store(delta_y);
            }
        }
    }
}

/// Sixteen channels and one token, without D. `state` and `a` are (d_state, 16).
#[inline(always)]
fn step<V: Vector, S: StateElement>(
    state: &mut [S],
    a: &[f32],
    delta: V,
    x: V,
    b: impl Iterator<Item = V>,
    c: impl Iterator<Item = V>,
) -> V {
    let rate = delta.mul(V::splat(std::f32::consts::LOG2_E));
    let u = delta.mul(x);
    let mut y = V::splat(0.0);
    for (((h, a), b), c) in state.chunks_exact_mut(WIDTH).zip(a.chunks_exact(WIDTH)).zip(b).zip(c) {
        let decay = exp2_negative(rate.mul(V::load(a)));
        let next = decay.mul_add(S::load(h), u.mul(b));
        S::store(next, h);
        y = next.mul_add(c, y);
    }
    y
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::kernels::lanes::Lanes;
    use crate::kernels::math::mul_add;
    use crate::kernels::recurrence::support::{Format, numbers};

    #[test]
    fn scans_round_after_every_token() {
        for d_head in [32, 16, 10] {
            check_scan::<f32>(d_head);
            check_scan::<f16>(d_head);
        }
    }

    /// Heads of so many channels, the last of which may be a shorter one.
    fn check_scan<S: Format>(d_head: usize) {
        let (n, blocks, tokens) = (5, 2, 7);
        let channels = blocks * WIDTH;
        let a: Vec<f32> = numbers(channels * n, 1).iter().map(|a| -a.abs()).collect();
        let delta: Vec<f32> = numbers(channels * tokens, 2).iter().map(|x| x.abs()).collect();
        let [x, d] = [(channels * tokens, 3), (channels, 4)].map(|(len, seed)| numbers(len, seed));
        let heads = channels.div_ceil(d_head);
        let b_c = numbers(heads * 2 * n * tokens, 5);
        // The equations, a channel at a time.
        let start = S::state(channels * n, 7);
        let (mut expected_state, mut expected) = (start.clone(), vec![0.0; delta.len()]);
        for token in 0..tokens {
            for channel in 0..channels {
                let at = token * channels + channel;
                let mut y = 0.0;
                let b_c = &b_c[(token * heads + channel / d_head) * 2 * n..];
                for j in 0..n {
                    let place = (channel / WIDTH * n + j) * WIDTH + channel % WIDTH;
                    let (h, rate) =
                        (&mut expected_state[place], delta[at] * std::f32::consts::LOG2_E);
                    let decay = exp2_negative(Lanes::splat(rate * a[place])).0[0];
                    let input = delta[at] * x[at] * b_c[j];
                    let next = mul_add(decay, h.value(), input);
                    *h = S::of(next);
                    y = mul_add(next, b_c[n + j], y);
                }
                expected[at] = y + d[channel] * x[at];
            }
        }
        let view = |x, rows| Columns::new(x, rows, 0..tokens, 0..rows);
        for isa in Isa::available() {
            let (mut state, mut y) = (start.clone(), delta.clone());
            let scan = Scan {
                a: &a,
                d: &d,
                x: view(&x, channels),
                b_c: view(&b_c, heads * 2 * n),
                d_state: n,
                d_head,
                first: 0,
                delta_y: ColumnsMut::whole(&mut y, channels),
            };
            selective_scan(isa, &mut S::elements(&mut state), scan);
            assert_eq!(y, expected, "{isa:?}");
            assert_eq!(state, expected_state, "{isa:?}");
        }
    }
}
