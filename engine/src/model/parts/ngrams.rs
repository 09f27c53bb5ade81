//! Embeddings of the n-grams that end at a token, found by hashes of their tokens' numbers, for
//! every copy of the residual stream (Cheng et al. 2026, arXiv 2601.07372, §2, as Qwen4-Exp has
//! them; reference: transformers `models/qwen4_exp/modular_qwen4_exp.py`): each copy weighs them by
//! how near they are to it, and a convolution follows, whose taps stand some tokens apart (those
//! between them are 0 here). Test: `tests/parity_experts.rs`, below.

use super::hyper::{n_stream, rms_each};
use super::{CausalConv, MAX_CONV, padded};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::forms::GROUP;
use crate::kernels::lanes::{dot, update};
use crate::kernels::math::sigmoid;
use crate::kernels::ngrams::{Hashes as View, MAX_NGRAM};
use crate::kernels::norm::inverse_rms;
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::{Formula, Function, List, NormOp, Values, of, of_head, part};
use crate::stage::{Cut, Job, Owned, Piece};
use crate::state::SlotRef;
use crate::tensor::{Matrix, Vector, acts_for};

/// The most n-grams of a token.
const MAX_HEADS: usize = 1024;
/// The most rows of a table.
const MAX_ROWS: usize = u32::MAX as usize;
/// The least gate before its root.
const LEAST_GATE: f32 = 1e-6;

/// The weights of one layer's n-grams.
pub(crate) struct Ngrams {
    hashes: Hashes,
    d_model: usize,
    width: usize,
    /// (rows, d_ngrams / heads)
    table: Matrix,
    /// (n_stream d_model, d_ngrams)
    key: Matrix,
    /// (d_model, d_ngrams)
    value: Matrix,
    /// (n_stream d_model) each
    key_norm: Vector,
    query_norm: Vector,
    conv_norm: Vector,
    norm_eps: f32,
    conv: CausalConv,
    /// State: the last tokens, oldest first (longest n-gram − 1).
    tokens: SlotRef,
}

/// Where the n-grams of a token stand in the table.
struct Hashes {
    /// Of the last token, of the one before it, …
    multipliers: Vec<i64>,
    /// Of each head: those of pairs, then those of triples, …
    heads: Vec<[i64; 2]>,
    /// The token that ends a text; it stands before the first, too.
    end: i64,
}

/// Rows and the first row of each head.
fn pairs(
    sizes: impl IntoIterator<Item = i64>,
    offsets: impl IntoIterator<Item = i64>,
) -> Vec<[i64; 2]> {
    sizes.into_iter().zip(offsets).map(<[i64; 2]>::from).collect()
}

impl Hashes {
    fn load(source: &Source<'_>) -> Result<Hashes> {
        let (config, layer) = (source.config, source.layer);
        let [multipliers, sizes, offsets] = ["ngram_multipliers", "ngram_sizes", "ngram_offsets"]
            .map(|name| config.whole_numbers(name, layer));
        let (multipliers, sizes, offsets) = (multipliers?, sizes?, offsets?);
        let orders = multipliers.len().saturating_sub(1);
        if orders == 0 || multipliers.len() > MAX_NGRAM {
            return Err(config.misfit("ngram_multipliers", "2 to 16 of them for such a layer"));
        }
        let is_cut = sizes.is_empty() || !sizes.len().is_multiple_of(orders);
        if is_cut || sizes.len() > MAX_HEADS || sizes.iter().any(|size| *size < 1) {
            let expected = "positive numbers, equally many for each length of an n-gram";
            return Err(config.misfit("ngram_sizes", expected));
        }
        if offsets.len() != sizes.len() || offsets.iter().any(|offset| *offset < 0) {
            return Err(config.misfit("ngram_offsets", "as many as there are of ngram_sizes"));
        }
        let end = config.float("eos_token")?;
        if end.fract() != 0.0 || !(0.0..config.n_vocab as f32).contains(&end) {
            return Err(config.misfit("eos_token", "a token"));
        }
        Ok(Hashes { multipliers, heads: pairs(sizes, offsets), end: end as i64 })
    }

    /// Rows that a table must have, in whole multiples of `of`.
    fn rows(&self, of: usize) -> Option<usize> {
        let mut ends = self.heads.iter().map(|[size, offset]| size.checked_add(*offset));
        let end = ends.try_fold(0, |most: i64, end| Some(most.max(end?)))?;
        let rows = usize::try_from(end).ok()?.checked_next_multiple_of(of)?;
        (rows <= MAX_ROWS).then_some(rows)
    }

    /// How they are looked up.
    fn view(&self) -> View<'_> {
        View { multipliers: &self.multipliers, heads: &self.heads, end: self.end }
    }
}

impl Ngrams {
    /// The word of layers that have some, in the list `embedding_types`.
    const WORD: &'static str = "ngrams";

    /// Those of the layer, if it has some.
    pub(crate) fn load(source: &Source<'_>) -> Result<Option<Ngrams>> {
        let config = source.config;
        if config.optional_word("embedding_types", source.layer)? != Some(Ngrams::WORD) {
            return Ok(None);
        }
        let (hashes, d_model, d_ngrams) =
            (Hashes::load(source)?, config.d_model, config.size("d_ngrams")?);
        let width = n_stream(source)? * d_model;
        let rows = hashes.rows(config.size("ngram_rows")?);
        let rows = rows.ok_or_else(|| config.misfit("ngram_sizes", "rows of a table"))?;
        let cols = config.divide(d_ngrams, hashes.heads.len(), "d_ngrams")?;
        let d_conv = config.size_up_to("d_ngram_conv", MAX_CONV)?;
        let norm = |name: &str| source.vector(&format!("ngrams.{name}_norm.weight"), width);
        Ok(Some(Ngrams {
            d_model,
            width,
            table: source.table("ngrams.table", rows, cols)?,
            key: source.mat("ngrams.key", width, d_ngrams)?,
            value: source.mat("ngrams.value", d_model, d_ngrams)?,
            key_norm: norm("key")?,
            query_norm: norm("query")?,
            conv_norm: norm("conv")?,
            norm_eps: config.float("norm_eps")?,
            conv: CausalConv::load(source, ("ngrams.conv", "ngrams"), width, d_conv)?,
            tokens: source.state("tokens", &[hashes.multipliers.len() - 1], hashes.end as f32),
            hashes,
        }))
    }

    /// Buffers for those of all layers.
    pub(crate) fn scratch<'a>(
        workspace: &Workspace,
        all: impl Iterator<Item = &'a Ngrams> + Clone,
    ) -> Scratch {
        let of = |rows: fn(&Ngrams) -> usize| {
            Panel::new(all.clone().map(rows).max().unwrap_or(0), workspace)
        };
        Scratch {
            ngrams: of(|n| n.key.cols()),
            acts: acts_for(workspace, all.clone().flat_map(|n| [&n.key, &n.value])),
            key: of(|n| n.width),
            value: of(|n| n.d_model),
            y: of(|n| padded(n.width)),
        }
    }

    /// X += v + silu(conv(norm(v))), v being the n-grams' value times the gate of each copy.
    pub(crate) fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.look_up(pass, s);
        let Scratch { acts, key, value, y, .. } = s;
        pass.stages.project([Job::keep(&self.key, acts, key), Job::keep(&self.value, acts, value)]);
        let columns = pass.stages.batch.columns;
        let owned = Owned { panels: [&mut pass.streams.second, &mut *key, &mut *y], acts: [] };
        pass.stages.columns(columns, owned, |piece| {
            let Piece { isa, own, panels: [mut x, mut key, mut y], .. } = piece;
            let (d, eps) = (self.d_model, self.norm_eps);
            for c in own {
                let x = &mut x.column(c)[..self.width];
                let key = &mut key.column(c)[..self.width];
                let y = &mut y.column(c)[..self.width];
                // The normed copies, as queries.
                rms_each(isa, x, (&self.query_norm, eps), d, y);
                let each = key.chunks_exact_mut(d).zip(self.key_norm.chunks_exact(d));
                simd!(isa, {
                    for ((key, weight), query) in each.zip(y.chunks_exact_mut(d)) {
                        let inverse = inverse_rms(key, eps);
                        update(key, weight, |key, w| key * inverse * w);
                        let gate = dot(key, query) / (d as f32).sqrt();
                        let root = gate.abs().max(LEAST_GATE).sqrt();
                        let gate = sigmoid(if gate == 0.0 { 0.0 } else { root.copysign(gate) });
                        update(query, value.column(c), |_, value| gate * value);
                    }
                    update(x, y, |x, y| x + y);
                });
                key.copy_from_slice(y);
                rms_each(isa, key, (&self.conv_norm, eps), d, y);
            }
        });
        let cut = Cut { rows: padded(self.width), unit: GROUP, bytes: 0 };
        let owned = Owned { panels: [&mut *y], acts: [] };
        let window = [self.conv.window];
        pass.stages.rows_and_states(cut, owned, &mut pass.states, window, |piece| {
            let Piece { isa, batch, panels: [mut y], states: [window], .. } = piece;
            self.conv.forward(isa, batch, &mut y, window);
        });
        let owned = Owned { panels: [&mut pass.streams.second], acts: [] };
        pass.stages.columns(columns, owned, |piece| {
            let Piece { isa, own, panels: [mut x], .. } = piece;
            for c in own {
                simd!(isa, update(&mut x.column(c)[..self.width], y.column(c), |x, y| x + y));
            }
        });
    }

    /// The same as operations, `copies` being X.
    pub(crate) fn list<'m>(&'m self, list: &mut List<'m>, copies: Values) {
        let (n, d, eps) = (self.width / self.d_model, self.d_model, self.norm_eps);
        let found = list.ngrams("n-grams", (&self.table, self.hashes.view(), self.tokens));
        let input = list.pack("n-grams input", list.rows(found), of(found));
        let key = list.project("n-grams key", &self.key, input);
        let value = list.project("n-grams value", &self.value, input);
        let query = list.values("n-grams query", self.width);
        for (y, x, weight) in [(query, copies, &self.query_norm), (key, key, &self.key_norm)] {
            list.norm(y, x, NormOp::Rms { weight, eps }, d);
        }
        let near = list.sum("n-grams near", of(key) * query, (self.width, d));
        list.map(near, of(near) / (d as f32).sqrt());
        // A number's sign: what it becomes between −1 and 1 by factors that no number is too small
        // for.
        let sign = list.values("n-grams sign", n);
        list.map(sign, (of(near) * f32::MAX * f32::MAX).at_least(-1.0).at_most(1.0));
        let root = (-of(near)).with(near, Function::Max).or_at_least(LEAST_GATE);
        let gate = list.values("n-grams gate", n);
        list.map(gate, (root.apply(Function::Sqrt) * sign).apply(Function::Sigmoid));
        let each = list.place("n-grams values", (n, d), [part(value, (0, 0), 0, d)]);
        list.map(query, of_head(gate, d) * each);
        list.map(copies, of(copies) + query);
        let normed = list.values("n-grams normed", self.width);
        list.norm(normed, query, NormOp::Rms { weight: &self.conv_norm, eps }, d);
        let whole = [part(normed, (0, 0), 0, self.width)];
        let y = list.place("n-grams behind", (1, padded(self.width)), whole);
        self.conv.list(list, y);
        list.map(copies, of(copies) + Formula::from(y));
    }

    /// The rows of every column's n-grams, as the input of projections.
    fn look_up(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let (batch, states) = (pass.stages.batch, &pass.states);
        let owned = Owned { panels: [&mut s.ngrams], acts: [&mut s.acts] };
        pass.stages.columns(batch.columns, owned, |piece| {
            let Piece { isa, own, panels: [mut ngrams], acts: [mut acts], .. } = piece;
            for c in own {
                let (run, ngrams) = (batch.runs[c], &mut ngrams.column(c)[..self.key.cols()]);
                let (first, before) = (batch.spans[run].start, states.get(run, self.tokens));
                let back = |j: usize| match c.checked_sub(j).filter(|at| *at >= first) {
                    Some(at) => i64::from(batch.tokens[at]),
                    None => before[before.len() + (c - first) - j] as i64,
                };
                let rows = self.hashes.view().rows_of(back);
                for (row, ngram) in rows.zip(ngrams.chunks_exact_mut(self.table.cols())) {
                    self.table.row(row, ngram);
                }
                acts.fill(
                    isa,
                    c,
                    #[inline(always)]
                    |rows, out| out.copy_from_slice(&ngrams[rows]),
                );
            }
        });
        for (run, span) in batch.spans.iter().enumerate() {
            let before = pass.states.get_mut(run, self.tokens);
            let new = &batch.tokens[span.end - span.len().min(before.len())..span.end];
            before.copy_within(new.len().., 0);
            let at = before.len() - new.len();
            before[at..].iter_mut().zip(new).for_each(|(x, token)| *x = *token as f32);
        }
    }
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    /// (d_ngrams)
    ngrams: Panel,
    acts: ActivationBuffer,
    /// (n_stream d_model)
    key: Panel,
    /// (d_model)
    value: Panel,
    /// (n_stream d_model, padded)
    y: Panel,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the reference counts: products wrap, remainders are not negative, and nothing before the
    /// end of a text counts.
    #[test]
    fn rows_of_ngrams() {
        let (m, sizes) = ([i64::MAX / 3, 12_345_678_901, 77], [53, 59, 61, 67]);
        let offsets = [0, 53, 112, 173];
        let heads = pairs(sizes, offsets);
        let hashes = Hashes { multipliers: m.to_vec(), heads, end: 2 };
        let rows = |text: [i64; 3]| hashes.view().rows_of(|j| text[2 - j]).collect::<Vec<_>>();
        let expected = |[a, b, c]: [i64; 3]| -> Vec<usize> {
            let product = |x: i64, m: i64| i128::from(x) * i128::from(m);
            let wrapped = |x: i128| x as i64;
            let two = wrapped(product(c, m[0])) ^ wrapped(product(b, m[1]));
            let mixed = [two, two ^ wrapped(product(a, m[2]))];
            let row = |i: usize| mixed[i / 2].rem_euclid(sizes[i]) + offsets[i];
            (0..4).map(|i| row(i) as usize).collect()
        };
        for text in [[5, 7, 9], [200, 100, 271], [0, 0, 0], [2, 5, 9], [5, 7, 2]] {
            assert_eq!(rows(text), expected(text), "{text:?}");
        }
        assert_eq!(rows([5, 2, 9]), expected([2, 2, 9]));
        assert_ne!(rows([5, 2, 9]), expected([5, 2, 9]));
        assert_eq!(hashes.rows(8), Some(240));
    }
}
