//! Causal depthwise convolution of channels in blocks of sixteen, token after token, over a window
//! of the inputs before.
//!
//! A convolution of `d_conv` taps remembers the last `d_conv − 1` inputs, oldest first; before the
//! first token they are zeros. Source: Gu & Dao 2023 (arXiv 2312.00752, fig. 3), `causal_conv1d`.
//! Test: below.

use super::columns::ColumnsMut;
use super::isa::Isa;
use super::lanes::WIDTH;
use super::vector::{LaneKernel, Vector};

/// A convolution of some blocks of sixteen channels over a span of tokens.
pub(crate) struct Convolution<'a> {
    /// State: (blocks, d_conv − 1, 16).
    pub(crate) windows: &'a mut [f32],
    /// (blocks, d_conv, 16)
    pub(crate) taps: &'a [f32],
    /// (blocks, 16)
    pub(crate) bias: &'a [f32],
    /// The inputs, one column per token, overwritten by what comes of them (blocks · 16).
    pub(crate) x: ColumnsMut<'a>,
}

/// `x_t ← b + Σ_i w_i · x_{t−d_conv+1+i}`, i ascending, for every token; the windows move on.
pub(crate) fn causal_conv(isa: Isa, convolution: Convolution<'_>) {
    isa.run_lanes(convolution);
}

impl LaneKernel for Convolution<'_> {
    /// A block goes through all tokens before the next one, so that its window stays near.
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Convolution { windows, taps, bias, mut x } = self;
        let blocks = x.rows() / WIDTH;
        let (window, tap) = (windows.len() / blocks.max(1), taps.len() / blocks.max(1));
        for block in 0..blocks {
            let window = &mut windows[block * window..][..window];
            let taps = &taps[block * tap..][..tap];
            let bias = V::load(&bias[block * WIDTH..]);
            for token in 0..x.len() {
                let x = &mut x.at(token)[block * WIDTH..];
                step(window, taps, bias, V::load(x)).store(x);
            }
        }
    }
}

/// One block and one token: the last tap meets `x`; then the window moves on.
///
/// `window` is (d_conv − 1, 16), `taps` (d_conv, 16).
#[inline(always)]
fn step<V: Vector>(window: &mut [f32], taps: &[f32], bias: V, x: V) -> V {
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

    /// Against the convolution written as one sum over the whole sequence, for one tap to five,
    /// when the sequence comes in two spans.
    #[test]
    fn equals_the_whole_sequence() {
        const CHANNELS: usize = 2 * WIDTH;
        for d_conv in 1..=5 {
            let value = |i: usize| ((i * 7 + 3) % 11) as f32 - 5.0;
            let taps: Vec<f32> = (0..d_conv * CHANNELS).map(value).collect();
            let (bias, tokens) = ([0.5; CHANNELS], 7);
            let x: Vec<f32> = (0..tokens * CHANNELS).map(|i| value(5 * i)).collect();
            for isa in Isa::available() {
                let mut windows = vec![0.0; (d_conv - 1) * CHANNELS];
                let mut y = x.clone();
                let (first, second) = y.split_at_mut(3 * CHANNELS);
                for span in [first, second] {
                    let (windows, x) = (&mut windows[..], ColumnsMut::whole(span, CHANNELS));
                    causal_conv(isa, Convolution { windows, taps: &taps, bias: &bias, x });
                }
                for (t, y) in y.chunks_exact(CHANNELS).enumerate() {
                    for (channel, y) in y.iter().enumerate() {
                        let (block, lane) = (channel / WIDTH, channel % WIDTH);
                        let tap =
                            |back: usize| taps[((block + 1) * d_conv - 1 - back) * WIDTH + lane];
                        let input = |back: usize| x[(t - back) * CHANNELS + channel];
                        let sum: f32 =
                            (0..d_conv.min(t + 1)).map(|back| tap(back) * input(back)).sum();
                        assert_eq!(*y, sum + 0.5, "{isa:?}");
                    }
                }
            }
        }
    }
}
