//! Causal depthwise convolution of sixteen channels, one token at a time, over a window of the
//! inputs before it.
//!
//! A convolution of `d_conv` taps remembers the last `d_conv − 1` inputs, oldest first; before the
//! first token they are zeros. Source: Gu & Dao 2023 (arXiv 2312.00752, fig. 3), `causal_conv1d`.
//! Test: below.

use super::lanes::WIDTH;
use super::vector::Vector;

/// `y = b + Σ_i w_i · x_{t−d_conv+1+i}`, i ascending (the last tap meets `x`); then the window
/// moves on by one token.
///
/// `window` is (d_conv − 1, 16), `taps` (d_conv, 16).
#[inline(always)]
pub(crate) fn causal_conv<V: Vector>(window: &mut [f32], taps: &[f32], bias: V, x: V) -> V {
    let mut y = bias;
    let (past, last) = taps.split_at(window.len());
    for (at, tap) in (0..window.len()).step_by(WIDTH).zip(past.chunks_exact(WIDTH)) {
        let input = V::load(&window[at..]);
        y = y.add(input.mul(V::load(tap)));
        if at > 0 {
            input.store(&mut window[at - WIDTH..]);
        }
    }
    if let Some(newest) = window.len().checked_sub(WIDTH) {
        x.store(&mut window[newest..]);
    }
    y.add(x.mul(V::load(last)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::lanes::Lanes;

    /// Against the convolution written as one sum over the whole sequence, for one tap to five.
    #[test]
    fn equals_the_whole_sequence() {
        for d_conv in 1..=5 {
            let value = |i: usize| ((i * 7 + 3) % 11) as f32 - 5.0;
            let taps: Vec<f32> = (0..d_conv * WIDTH).map(value).collect();
            let x: Vec<Lanes> =
                (0..7).map(|t| Lanes(std::array::from_fn(|l| value(t * 5 + l)))).collect();
            let mut window = vec![0.0; (d_conv - 1) * WIDTH];
            for t in 0..x.len() {
                let y = causal_conv(&mut window, &taps, Lanes::splat(0.5), x[t]);
                for l in 0..WIDTH {
                    let tap = |back: usize| taps[(d_conv - 1 - back) * WIDTH + l];
                    let sum: f32 =
                        (0..d_conv.min(t + 1)).map(|back| tap(back) * x[t - back].0[l]).sum();
                    assert_eq!(y.0[l], sum + 0.5);
                }
            }
        }
    }
}
