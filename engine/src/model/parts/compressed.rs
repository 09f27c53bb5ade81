//! What Compressed Convolutional Attention (Figliolia et al. 2025, arXiv 2510.04476) makes of
//! queries, keys and values before heads read them (reference: transformers
//! `models/zaya/modeling_zaya.py`). A convolution over each channel, then one over each head, run
//! over queries and keys; the mean of a query and its key is added; heads get the same length; half
//! of the values are those of the token before. Test: `tests/parity_experts.rs`.

use super::MAX_CONV;
use crate::Result;
use crate::buffers::{Panel, Workspace};
use crate::kernels::head_convs::HeadConvs;
use crate::model::{Pass, Source};
use crate::ops::{List, PlacePart, Values, part, rows};
use crate::stage::{Batch, Owned, Piece};
use crate::state::{RunStates, SlotRef};
use crate::tensor::Vector;

/// The weights of one layer.
pub(crate) struct Compressed {
    d_head: usize,
    /// Query heads, and those for each head of keys and values.
    n_head: usize,
    group: usize,
    /// Taps of the convolution over channels, the last of the current token (d_conv) each.
    d_conv: usize,
    channels: Vector,
    channels_bias: Vector,
    /// Taps of that over heads: of every channel (d_head, d_heads_conv).
    d_heads_conv: usize,
    heads: Vector,
    heads_bias: Vector,
    /// The length of each head's keys, in that of queries (n_kv_head).
    temperature: Vector,
    /// State: q, k and the later half of v of the last tokens, oldest first.
    window: SlotRef,
    n_window: usize,
}

impl Compressed {
    /// That of so many heads of queries, and of keys and values.
    pub(crate) fn load(
        source: &Source<'_>,
        d_head: usize,
        [n_head, n_kv_head]: [usize; 2],
    ) -> Result<Compressed> {
        let config = source.config;
        let d_conv = config.size_up_to("d_conv", MAX_CONV)?;
        let d_heads_conv = config.size_up_to("d_heads_conv", MAX_CONV)?;
        let width = (n_head + n_kv_head) * d_head;
        let late = config.divide(n_kv_head * d_head, 2, "d_attn_head")?;
        let n_window = (d_conv + d_heads_conv - 2).max(1);
        Ok(Compressed {
            d_head,
            n_head,
            group: config.divide(n_head, n_kv_head, "n_kv_head")?,
            d_conv,
            channels: source.vector("attn.conv.weight", width * d_conv)?,
            channels_bias: source.vector("attn.conv.bias", width)?,
            d_heads_conv,
            heads: source.vector("attn.heads_conv.weight", width * d_head * d_heads_conv)?,
            heads_bias: source.vector("attn.heads_conv.bias", width)?,
            temperature: source.vector("attn.temperature", n_kv_head)?,
            window: source.state("conv", &[n_window, width + late], 0.0),
            n_window,
        })
    }

    /// What is done to heads.
    fn convs(&self) -> HeadConvs<'_> {
        HeadConvs {
            d_head: self.d_head,
            n_head: self.n_head,
            group: self.group,
            d_conv: self.d_conv,
            channels: &self.channels,
            channels_bias: &self.channels_bias,
            d_heads_conv: self.d_heads_conv,
            heads: &self.heads,
            heads_bias: &self.heads_bias,
            temperature: &self.temperature,
        }
    }

    /// q, k and v changed as [`Compressed::forward`] does, as operations.
    pub(crate) fn list<'m>(&'m self, list: &mut List<'m>, [q, k, v]: [Values; 3]) -> [Values; 3] {
        let [n_q, n_k, n_late] = self.widths();
        let (width, steps) = (n_q + n_k, self.n_window);
        let parts = [
            part(q, (0, 0), 0, n_q),
            part(k, (0, 0), n_q, n_k),
            part(v, (n_k - n_late, 0), width, n_late),
        ];
        let now = list.place("attention now", (1, width + n_late), parts);
        let past = list.past("attention past", now, (self.window, steps));
        let y = list.head_convs("attention heads", (self.convs(), past, steps));
        list.map(q, rows(y, 0));
        list.map(k, rows(y, n_q));
        // The later half is that of the token before.
        let last = width * (steps + 1) + steps - 1;
        let late = PlacePart { by: steps + 1, ..part(past, (last, 0), n_k - n_late, n_late) };
        let v = list.place("attention new v", (1, n_k), [part(v, (0, 0), 0, n_k - n_late), late]);
        [q, k, v]
    }

    /// Rows of q and k, and of the values that come a token late.
    fn widths(&self) -> [usize; 3] {
        let kv = self.temperature.len() * self.d_head;
        [self.n_head * self.d_head, kv, kv / 2]
    }

    /// Changes q, k and v of every column.
    pub(crate) fn forward(&self, pass: &mut Pass<'_>, qkv: [&mut Panel; 3], s: &mut Scratch) {
        let [n_q, n_k, n_late] = self.widths();
        let (batch, columns) = (pass.stages.batch, pass.stages.batch.columns);
        let [q, k, v] = qkv;
        let from = [&*q, &*k, &*v];
        pass.stages.columns(columns, Owned { panels: [&mut s.before], acts: [] }, |piece| {
            let Piece { own, panels: [mut before], .. } = piece;
            for c in own {
                let [q, k, v] = from.map(|panel| panel.column(c));
                let (of_q, rest) = before.column(c).split_at_mut(n_q);
                let (of_k, late) = rest.split_at_mut(n_k);
                of_q.copy_from_slice(&q[..n_q]);
                of_k.copy_from_slice(&k[..n_k]);
                late[..n_late].copy_from_slice(&v[n_k - n_late..n_k]);
            }
        });
        let (before, states, convs) = (&s.before, &pass.states, self.convs());
        let owned = Owned { panels: [q, k, v, &mut s.inputs], acts: [] };
        pass.stages.columns(columns, owned, |piece| {
            let Piece { isa, batch, own, panels: [mut q, mut k, mut v, mut inputs], .. } = piece;
            for c in own {
                let back = |steps: usize| self.back(batch, states, before, (c, steps));
                let (q, k) = (&mut q.column(c)[..n_q], &mut k.column(c)[..n_k]);
                convs.means(isa, q, k);
                for (head, x) in q.chunks_exact_mut(self.d_head).enumerate() {
                    convs.convolve(isa, head, back, inputs.column(c), x);
                }
                for (head, x) in k.chunks_exact_mut(self.d_head).enumerate() {
                    convs.convolve(isa, self.n_head + head, back, inputs.column(c), x);
                }
                let v = &mut v.column(c)[..n_k];
                v[n_k - n_late..].copy_from_slice(&back(1)[n_q + n_k..][..n_late]);
            }
        });
        let width = n_q + n_k + n_late;
        for (run, span) in batch.spans.iter().enumerate() {
            let window = pass.states.get_mut(run, self.window);
            let kept = self.n_window.saturating_sub(span.len());
            window.copy_within((self.n_window - kept) * width.., 0);
            let last = span.end - (self.n_window - kept)..span.end;
            for (row, c) in window[kept * width..].chunks_exact_mut(width).zip(last) {
                row.copy_from_slice(&s.before.column(c)[..width]);
            }
        }
    }

    /// q, k and the later half of v of the token so many steps before column `c`.
    fn back<'a>(
        &self,
        batch: Batch<'_>,
        states: &'a RunStates<'_>,
        before: &'a Panel,
        (c, steps): (usize, usize),
    ) -> &'a [f32] {
        let run = batch.runs[c];
        let since = c - batch.spans[run].start;
        if steps <= since {
            return before.column(c - steps);
        }
        let window = states.get(run, self.window);
        let width = window.len() / self.n_window;
        &window[(self.n_window + since - steps) * width..][..width]
    }
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    /// q, k and the later half of v, as they were projected.
    before: Panel,
    /// A head, as its convolution reads it (d_head, d_heads_conv).
    inputs: Panel,
}

impl Scratch {
    pub(crate) fn new<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Compressed> + Clone,
    ) -> Scratch {
        let panel = |rows: fn(&Compressed) -> usize| {
            Panel::new(layers.clone().map(rows).max().unwrap_or(0), workspace)
        };
        Scratch {
            before: panel(|l| l.widths().iter().sum()),
            inputs: panel(|l| l.d_head * l.d_heads_conv),
        }
    }
}
