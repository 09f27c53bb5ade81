//! What Compressed Convolutional Attention (Figliolia et al. 2025, arXiv 2510.04476) makes of the
//! queries and keys of a token: the mean of a query and its key, to which a convolution over each
//! channel, then one over each head, are added; heads of one length. Test:
//! `tests/parity_experts.rs`, `tests/operations.rs`.

use super::isa::Isa;
use super::lanes::{dot, sum_of, update};
use super::simd::simd;

/// The shortest length that a head is divided by.
const LEAST_LENGTH: f32 = f32::EPSILON;

/// The weights of one layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadConvs<'a> {
    pub(crate) d_head: usize,
    /// Query heads, and those for each head of keys.
    pub(crate) n_head: usize,
    pub(crate) group: usize,
    /// Taps of the convolution over channels, the last of the current token (d_conv) each.
    pub(crate) d_conv: usize,
    pub(crate) channels: &'a [f32],
    pub(crate) channels_bias: &'a [f32],
    /// Taps of that over heads: of every channel (d_head, d_heads_conv).
    pub(crate) d_heads_conv: usize,
    pub(crate) heads: &'a [f32],
    pub(crate) heads_bias: &'a [f32],
    /// The length of each head's keys, in that of queries (n_kv_head).
    pub(crate) temperature: &'a [f32],
}

impl HeadConvs<'_> {
    /// Tokens before the current one that are looked back to.
    pub(crate) fn n_back(&self) -> usize {
        self.d_conv + self.d_heads_conv - 2
    }

    /// q = (q + k) / 2 for each query head; k = the mean of those of its group.
    pub(crate) fn means(&self, isa: Isa, q: &mut [f32], k: &mut [f32]) {
        let d = self.d_head;
        simd!(isa, {
            for (q, k) in q.chunks_exact_mut(self.group * d).zip(k.chunks_exact_mut(d)) {
                q.chunks_exact_mut(d).for_each(|q| update(q, k, |q, k| (q + k) * 0.5));
                k.fill(0.0);
                q.chunks_exact(d).for_each(|q| update(k, q, |k, q| k + q));
                k.iter_mut().for_each(|k| *k /= self.group as f32);
            }
        });
    }

    /// x = x + both convolutions of the head, then of the length √d_head, keys by temperature.
    /// Queries and keys of the token so many steps before are `back` of that; `inputs` is workspace
    /// (d_head, d_heads_conv).
    pub(crate) fn convolve<'a>(
        &self,
        isa: Isa,
        head: usize,
        back: impl Fn(usize) -> &'a [f32],
        inputs: &mut [f32],
        x: &mut [f32],
    ) {
        let (d, taps, d_conv) = (self.d_head, self.d_heads_conv, self.d_conv);
        let rows = head * d..(head + 1) * d;
        let inputs = &mut inputs[..d * taps];
        for (input, bias) in inputs.chunks_exact_mut(taps).zip(&self.channels_bias[rows.clone()]) {
            input.fill(*bias);
        }
        // The convolution over channels of the token that each tap of the other meets.
        let weights = &self.channels[rows.start * d_conv..rows.end * d_conv];
        for (tap, i) in (0..taps).flat_map(|tap| (0..d_conv).map(move |i| (tap, i))) {
            let x = &back(taps - 1 - tap + d_conv - 1 - i)[rows.clone()];
            let weights = weights.iter().skip(i).step_by(d_conv);
            for ((input, w), x) in inputs.chunks_exact_mut(taps).zip(weights).zip(x) {
                input[tap] += w * x;
            }
        }
        simd!(isa, {
            let weights = self.heads[rows.start * d * taps..].chunks_exact(d * taps);
            for ((x, w), bias) in x.iter_mut().zip(weights).zip(&self.heads_bias[rows]) {
                *x += dot(w, inputs) + bias;
            }
            let length = sum_of(x, |x| x * x).sqrt();
            let length = if length < LEAST_LENGTH { LEAST_LENGTH } else { length };
            let scale = (d as f32).sqrt() / length;
            let scale = match head.checked_sub(self.n_head) {
                Some(head) => scale * self.temperature[head],
                None => scale,
            };
            x.iter_mut().for_each(|x| *x *= scale);
        });
    }
}
