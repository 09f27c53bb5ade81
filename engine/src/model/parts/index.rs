//! The choice of the tokens that attention sees: blocks of consecutive ones, whose keys are means
//! of their tokens' (Yuan et al. 2025, arXiv 2502.11089, §3.3, as Qwen4-Exp has it; reference:
//! transformers `models/qwen4_exp/modular_qwen4_exp.py`). Test: `tests/parity_experts.rs`,
//! `kernels/chosen.rs`.

use std::ops::Range;

use super::Rope;
use super::qk_norm::norm;
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::chosen::{Choose, Chosen};
use crate::kernels::kept::{KeysOrValues, MAX_HEAD, PAGE, remember};
use crate::kernels::lanes::update;
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::{
    BestOp, Inputs, List, NormOp, Positional, RememberOp, Values, before, of, one_of, rows,
};
use crate::stage::{Job, Owned, Piece};
use crate::state::{PagesRef, SlotRef};
use crate::tensor::{Matrix, Vector};

/// The most heads of queries.
const MAX_HEADS: usize = 256;
/// The most tokens of a block.
const MAX_BLOCK: usize = 1 << 12;
/// The most blocks that a token sees.
const MAX_BEST: usize = 1 << 14;

/// The weights of one layer's choice.
pub(crate) struct Index {
    d: usize,
    /// Rows of queries: (n_head d).
    queries: usize,
    /// Tokens of a block.
    size: usize,
    /// Blocks that a token sees.
    n_best: usize,
    /// (n_head d + d, d_model): queries, the key.
    input: Matrix,
    /// (d) each
    q_norm: Vector,
    k_norm: Vector,
    norm_eps: f32,
    /// State: the sum of the keys in the block that is not whole (d).
    open: SlotRef,
    /// State: the keys of whole blocks.
    pages: PagesRef,
}

impl Index {
    /// That of the layer, if the configuration says that there is one; and the pages of the keys
    /// and values of so many heads, which it chooses of.
    pub(super) fn load(
        source: &Source<'_>,
        heads: (usize, usize),
        window: Option<usize>,
    ) -> Result<(Option<Index>, PagesRef)> {
        let config = source.config;
        if window.is_some() || config.optional_size("n_index_head")?.is_none() {
            return Ok((None, source.pages(heads.0, heads.1, window)?));
        }
        let n_head = config.size_up_to("n_index_head", MAX_HEADS)?;
        let d = config.size_up_to("d_index", MAX_HEAD)?;
        let size = config.size_up_to("index_block", MAX_BLOCK)?;
        if config.optional_size("n_rot")?.is_some() {
            config.size_up_to("n_rot", d)?;
        }
        let weight = |name: &str| source.vector(&format!("attn.index.{name}_norm.weight"), d);
        let [of_tokens, pages] = source.pages_with_blocks(heads, (d, size))?;
        let index = Index {
            d,
            queries: n_head * d,
            size,
            n_best: config.size_up_to("n_index_block", MAX_BEST)?,
            input: source.mat("attn.index", (n_head + 1) * d, config.d_model)?,
            q_norm: weight("q")?,
            k_norm: weight("k")?,
            norm_eps: config.float("norm_eps")?,
            open: source.state("open_block", &[d], 0.0),
            pages,
        };
        Ok((Some(index), of_tokens))
    }

    /// The matrix that reads the block's input.
    pub(super) fn reader(&self) -> &Matrix {
        &self.input
    }

    /// Buffers for those of all layers.
    pub(super) fn scratch<'a>(
        workspace: &Workspace,
        all: impl Iterator<Item = &'a Index> + Clone,
    ) -> Scratch {
        let of = |rows: fn(&Index) -> usize| {
            Panel::new(all.clone().map(rows).max().unwrap_or(0), workspace)
        };
        Scratch { qk: of(|i| i.input.rows()), best: of(|i| i.n_best), blocks: of(|i| i.n_best) }
    }

    /// Queries and keys, as a job among the projections.
    pub(super) fn project<'a>(&'a self, x: &'a ActivationBuffer, s: &'a mut Scratch) -> Job<'a> {
        Job::keep(&self.input, x, &mut s.qk)
    }

    /// The blocks that a token sees, as operations, and their tokens.
    pub(super) fn list<'m>(
        &'m self,
        list: &mut List<'m>,
        (input, rope): (Inputs, &Rope),
    ) -> (Values, usize) {
        let (d, eps, size) = (self.d, self.norm_eps, self.size);
        let qk = list.project("index", &self.input, input);
        // The sum of a block's keys begins anew behind its last token.
        let within = list.positional("within block", Positional::Within { block: size });
        let [goes_on, stays] = [0, 1].map(|row| one_of((within, row), d));
        let [sum, open, key] = ["block sum", "block open", "block key"].map(|n| list.values(n, d));
        list.fold(sum, before(sum, self.open) * goes_on + 0.0 + rows(qk, self.queries));
        list.map(open, of(sum) * stays + 0.0);
        list.keep(open, self.open);
        list.map(key, of(sum) / size as f32);
        list.norm(key, key, NormOp::Rms { weight: &self.k_norm, eps }, d);
        rope.list_blocks(list, key, d, size);
        list.remember(RememberOp { k: key, v: None, pages: self.pages, block: size });
        let q = list.values("index q", self.queries);
        list.map(q, rows(qk, 0));
        list.norm(q, q, NormOp::Rms { weight: &self.q_norm, eps }, d);
        rope.list(list, q, d);
        let y = list.values("best blocks", self.n_best);
        list.best(BestOp { q, pages: self.pages, size, y });
        (y, size)
    }

    /// The blocks that each column's token sees; `angles` are those of its position.
    pub(super) fn choose(&self, pass: &mut Pass<'_>, rope: &Rope, angles: &Panel, s: &mut Scratch) {
        self.remember(pass, rope, &mut s.qk);
        let batch = pass.stages.batch;
        let view = pass.states.view_pages(self.pages);
        let owned = Owned { panels: [&mut s.qk, &mut s.best, &mut s.blocks], acts: [] };
        pass.stages.columns(batch.columns, owned, |piece| {
            let Piece { isa, own, panels: [mut qk, mut best, mut blocks], .. } = piece;
            for c in own {
                let q = &mut qk.column(c)[..self.queries];
                for q in q.chunks_exact_mut(self.d) {
                    norm(isa, q, &self.q_norm, self.norm_eps);
                    rope.turn(q, angles.column(c));
                }
                let run = batch.runs[c];
                let seen = view.position(run) + c - batch.spans[run].start + 1;
                isa.run_lanes(Choose {
                    q,
                    d: self.d,
                    n: seen / self.size,
                    dtype: self.pages.dtype,
                    page: |page| view.page(run, 0, page),
                    best: &mut best.column(c)[..self.n_best],
                    blocks: &mut blocks.column(c)[..self.n_best],
                });
            }
        });
    }

    /// Keeps the keys of blocks that become whole: the normed mean of their tokens', turned as at
    /// the position of the first.
    fn remember(&self, pass: &mut Pass<'_>, rope: &Rope, qk: &mut Panel) {
        let (isa, batch) = (pass.stages.isa, pass.stages.batch);
        let mut angles = [0.0; MAX_HEAD];
        let angles = &mut angles[..rope.rows()];
        for (run, span) in batch.spans.iter().enumerate() {
            let position = pass.states.position(run);
            let open = pass.states.get_mut(run, self.open);
            for c in span.clone() {
                let key = &mut qk.column_mut(c)[self.queries..];
                simd!(isa, update(open, key, |open, key| open + key));
                if let Some(block) = self.whole(position + c - span.start) {
                    simd!(isa, update(key, open, |_, open| open / self.size as f32));
                    open.fill(0.0);
                    norm(isa, key, &self.k_norm, self.norm_eps);
                    rope.angles_at(block * self.size, angles);
                    rope.turn(key, angles);
                }
            }
        }
        let all = pass.states.share_pages(self.pages);
        let mut pages = all.take(0);
        for (run, span) in batch.spans.iter().enumerate() {
            for c in span.clone() {
                if let Some(block) = self.whole(pages.position(run) + c - span.start) {
                    let (key, at) = (&qk.column(c)[self.queries..], block % PAGE);
                    let page = pages.page_mut(run, 0, block / PAGE);
                    remember(isa, self.pages.dtype, page, (at, KeysOrValues::Keys), key);
                }
            }
        }
    }

    /// The block that becomes whole with the token at `position`.
    fn whole(&self, position: usize) -> Option<usize> {
        (position + 1).is_multiple_of(self.size).then_some(position / self.size)
    }

    /// What the kernel of attention sees of some columns.
    pub(super) fn view<'a>(&self, s: &'a Scratch, columns: Range<usize>) -> Chosen<'a> {
        Chosen { blocks: s.blocks.view(columns, 0..self.n_best), size: self.size }
    }
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    /// (n_head d + d)
    qk: Panel,
    /// Scores of the best blocks, and their numbers (n_best).
    best: Panel,
    blocks: Panel,
}
