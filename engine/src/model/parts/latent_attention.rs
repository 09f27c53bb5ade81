//! Attention over latents (MLA: DeepSeek-AI 2024, arXiv 2405.04434, §2.1): a token leaves one
//! normed latent and one key part that all heads share. Keys and values are projections of the
//! latent; queries are taken through the keys' projection instead, and the values' comes after the
//! sum, so that nothing is expanded. Reference: transformers `models/kimi_linear`,
//! `models/bailing_hybrid`. Test: `tests/parity_experts.rs`.
//!
//! A head's columns stand side by side, head after head, as those of an expert do: its projections
//! are one of many in a stage.

mod list;

use std::ops::Range;

use super::{Input, InputScratch, Output, Part, Rope};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::attention::Attention as Kernel;
use crate::kernels::forms::GROUP;
use crate::kernels::kept::{self, KeysOrValues, PAGE};
use crate::kernels::lanes::update;
use crate::kernels::math::sigmoid;
use crate::kernels::norm::inverse_rms;
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::List;
use crate::stage::{GroupPiece, Groups, Job, Owned, Piece};
use crate::state::PagesRef;
use crate::team::{Segment, Share, Split};
use crate::tensor::{ExpertMatrices, Matrix, Vector, acts_for};

/// The largest latent, and the largest shared part of a key.
const MAX_LATENT: usize = 4096;
const MAX_ROPE: usize = 256;

/// The weights of one layer's attention.
pub(crate) struct LatentAttention {
    n_head: usize,
    /// Of a query and a key: its own part, and the shared one.
    d_nope: usize,
    d_rope: usize,
    d_value: usize,
    input: Input,
    /// (n_head (d_nope + d_rope), d_model), or of a lower rank.
    in_q: Matrix,
    /// The lower rank's matrix (rank, d_model) and norm (rank).
    q_low: Option<(Matrix, Vector)>,
    /// (d_latent + d_rope, d_model)
    in_kv: Matrix,
    kv_norm: Vector,
    /// The epsilon of both norms.
    norm_eps: f32,
    /// (n_head, d_model); absent where heads are not gated.
    in_gate: Option<Matrix>,
    /// (d_latent, d_nope) of each head
    keys: ExpertMatrices,
    /// (d_value, d_latent) of each head
    values: ExpertMatrices,
    rope: Rope,
    /// Whether the pairs that turn are neighbours.
    has_adjacent_pairs: bool,
    /// The factor of scores.
    scale: f32,
    output: Output,
    /// State: latent and shared key part of every token, as the key and the value of one head.
    pages: PagesRef,
}

impl Part for LatentAttention {
    const WORD: &'static str = "attention";
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<LatentAttention> {
        let (config, d_model) = (source.config, source.config.d_model);
        let (n_head, d_nope) = (config.size("n_attn_head")?, config.size("d_nope")?);
        let d_rope = config.size_up_to("d_rope", MAX_ROPE)?;
        let (d_value, d_latent) =
            (config.size("d_value")?, config.size_up_to("d_kv_latent", MAX_LATENT)?);
        let q_low = match config.optional_size("d_q_latent")? {
            None => None,
            Some(rank) => {
                let norm = source.vector("attn.q_norm.weight", rank)?;
                Some((source.mat("attn.q_low", rank, d_model)?, norm))
            }
        };
        let q_cols = q_low.as_ref().map_or(d_model, |(low, _)| low.rows());
        Ok(LatentAttention {
            n_head,
            d_nope,
            d_rope,
            d_value,
            input: Input::load(source, "norm")?,
            in_q: source.mat("attn.q", n_head * (d_nope + d_rope), q_cols)?,
            q_low,
            in_kv: source.mat("attn.kv", d_latent + d_rope, d_model)?,
            kv_norm: source.vector("attn.kv_norm.weight", d_latent)?,
            norm_eps: config.float("latent_norm_eps")?,
            in_gate: match config.flag("has_attn_gate")? {
                true => Some(source.mat("attn.gate", n_head, d_model)?),
                false => None,
            },
            keys: source.experts("attn.keys", n_head, d_latent, d_nope)?,
            values: source.experts("attn.values", n_head, d_value, d_latent)?,
            rope: Rope::load(source, "attn.rope", d_rope)?,
            has_adjacent_pairs: config.flag("has_adjacent_pairs")?,
            scale: 1.0 / ((d_nope + d_rope) as f32).sqrt(),
            output: Output::load(source, "attn.out", n_head * d_value)?,
            pages: source.pages(1, d_latent + d_rope, None)?,
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        let readers = layers.clone().flat_map(|l| {
            let q = l.q_low.as_ref().map_or(&l.in_q, |(low, _)| low);
            [q, &l.in_kv].into_iter().chain(&l.in_gate)
        });
        let most = |rows: fn(&Self) -> usize| layers.clone().map(rows).max().unwrap_or(0);
        let of = |rows: fn(&Self) -> usize| Panel::new(most(rows), workspace);
        Scratch {
            input: InputScratch::new(workspace, readers),
            low: of(|l| l.q_low.as_ref().map_or(0, |(low, _)| low.rows())),
            low_input: acts_for(
                workspace,
                layers.clone().filter(|l| l.q_low.is_some()).map(|l| &l.in_q),
            ),
            q: of(|l| l.in_q.rows()),
            kv: of(|l| l.in_kv.rows()),
            gate: of(|l| l.in_gate.as_ref().map_or(0, Matrix::rows)),
            angles: of(|l| l.rope.rows()),
            y: of(|l| l.output.weight.cols()),
            gated: acts_for(workspace, layers.clone().map(|l| &l.output.weight)),
            of_heads: workspace.times(most(|l| l.n_head), |places| OfHeads {
                segments: places.list(),
                own: acts_for(places, layers.clone().map(|l| l.keys.all())),
                queries: Panel::new(most(|l| l.in_kv.rows()), places),
                sums: Panel::new(most(|l| l.in_kv.rows()), places),
                latents: acts_for(places, layers.clone().map(|l| l.values.all())),
                y: Panel::new(most(|l| l.d_value), places),
            }),
        }
    }

    fn read(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
    }

    /// x += W_out attention(norm(x)).
    fn add(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.inputs(pass, s);
        self.rope.angles(pass, &mut s.angles);
        self.queries(pass, s);
        let longest = pass.stages.batch.spans.iter().map(Range::len).max().unwrap_or(0);
        // A ring has room for this many tokens beside those that are seen.
        for at in (0..longest).step_by(PAGE) {
            self.remember(pass, s, at);
            self.attend(pass, s, at);
        }
        self.outputs(pass, s);
        self.output.forward(pass, &s.gated);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        self.list_all(list);
    }
}

impl LatentAttention {
    /// (q, latent, shared key part, gate) = W x, q maybe through a lower rank.
    fn inputs(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let (isa, x) = (pass.stages.isa, &s.input.acts);
        let gate = |gate: &mut Share<'_, f32>| {
            simd!(isa, {
                for c in gate.columns() {
                    gate.column(c).iter_mut().for_each(|gate| *gate = sigmoid(*gate));
                }
            });
        };
        let q = match &self.q_low {
            Some((low, _)) => Job::keep(low, x, &mut s.low),
            None => Job::keep(&self.in_q, x, &mut s.q),
        };
        let jobs = [
            Some(q),
            Some(Job::keep(&self.in_kv, x, &mut s.kv)),
            self.in_gate.as_ref().map(|w| Job::apply(w, x, &mut s.gate, &gate)),
        ];
        pass.stages.project(jobs.into_iter().flatten());
        let Some((_, norm)) = &self.q_low else { return };
        let owned = Owned { panels: [&mut s.low], acts: [&mut s.low_input] };
        pass.stages.columns(pass.stages.batch.columns, owned, |piece| {
            let Piece { isa, own, panels: [mut low], acts: [mut input], .. } = piece;
            for c in own {
                let low = &mut low.column(c)[..norm.len()];
                self.norm(isa, low, norm);
                input.fill(
                    isa,
                    c,
                    #[inline(always)]
                    |rows, out| out.copy_from_slice(&low[rows]),
                );
            }
        });
        pass.stages.project([Job::keep(&self.in_q, &s.low_input, &mut s.q)]);
    }

    /// Of every head and column: its own part of q, through the projection of keys.
    fn queries(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let columns = pass.stages.batch.columns;
        let OfHeads { segments, own, queries, .. } = &mut s.of_heads;
        let (q, d_q) = (&s.q, self.d_nope + self.d_rope);
        let owned = Owned { panels: [], acts: [&mut *own] };
        pass.stages.columns(self.n_head * columns, owned, |piece| {
            let Piece { isa, own: places, acts: [mut own], .. } = piece;
            for place in places {
                let q = &q.column(place % columns)[place / columns * d_q..][..self.d_nope];
                own.fill(
                    isa,
                    place,
                    #[inline(always)]
                    |rows, out| out.copy_from_slice(&q[rows]),
                );
            }
        });
        segments.clear();
        segments.extend((0..self.n_head).map(|head| Segment {
            columns: head * columns..(head + 1) * columns,
            split: Split::new(0, GROUP, 1),
        }));
        let bytes = self.keys.all().bytes_per_rows(GROUP);
        let owned = Owned { panels: [queries], acts: [] };
        let groups = Groups { segments, rows: self.keys.rows(), bytes, owned };
        pass.stages.project_groups([], groups, |piece| {
            let GroupPiece { isa, first, panels: [mut queries], .. } = piece;
            self.keys.matmul(isa, first / columns, (&*own, first), &mut queries);
        });
    }

    /// Writes what the tokens from `at` on of every run leave, a page of them at most, to the
    /// pages.
    fn remember(&self, pass: &mut Pass<'_>, s: &mut Scratch, at: usize) {
        let (isa, batch) = (pass.stages.isa, pass.stages.batch);
        let (d_key, d_latent) = (self.in_kv.rows(), self.kv_norm.len());
        let shared = pass.states.share_pages(self.pages);
        let mut pages = shared.take(0);
        for (run, span) in batch.spans.iter().enumerate() {
            for c in (span.start + at..span.end).take(PAGE) {
                let token = pages.position(run) + c - span.start;
                let left = &mut s.kv.column_mut(c)[..d_key];
                let (latent, key) = left.split_at_mut(d_latent);
                self.norm(isa, latent, &self.kv_norm);
                self.turn(key, s.angles.column(c));
                let page = pages.page_mut(run, 0, token / PAGE);
                for part in [KeysOrValues::Keys, KeysOrValues::Values] {
                    kept::remember(isa, self.pages.dtype, page, (token % PAGE, part), left);
                }
            }
        }
    }

    /// Of every head and of those tokens: Σ softmax(q · k) latent.
    fn attend(&self, pass: &mut Pass<'_>, s: &mut Scratch, at: usize) {
        let OfHeads { queries, sums, latents, .. } = &mut s.of_heads;
        let (q, angles, batch) = (&s.q, &s.angles, pass.stages.batch);
        let (d_key, d_latent, columns) = (self.in_kv.rows(), self.kv_norm.len(), batch.columns);
        let pages = pass.states.view_pages(self.pages);
        let owned = Owned { panels: [queries, sums], acts: [latents] };
        pass.stages.columns(self.n_head * columns, owned, |piece| {
            let Piece { isa, own, panels: [mut queries, mut sums], acts: [mut latents], .. } =
                piece;
            for place in own {
                let (head, c) = (place / columns, place % columns);
                let (run, token) = (batch.runs[c], c - batch.spans[batch.runs[c]].start);
                if token / PAGE != at / PAGE {
                    continue;
                }
                let shared = head * (self.d_nope + self.d_rope) + self.d_nope;
                let query = &mut queries.column(place)[..d_key];
                query[d_latent..].copy_from_slice(&q.column(c)[shared..][..self.d_rope]);
                self.turn(&mut query[d_latent..], angles.column(c));
                simd!(isa, query.iter_mut().for_each(|q| *q *= self.scale));
                isa.run_lanes(Kernel {
                    relative: None,
                    chosen: None,
                    q: queries.view_mut(place..place + 1, 0..d_key).view(),
                    d_head: d_key,
                    first: pages.position(run) + token,
                    window: self.pages.window.last,
                    beginning: self.pages.window.first,
                    dtype: self.pages.dtype,
                    page: |page| pages.page(run, 0, page),
                    y: sums.view_mut(place..place + 1, 0..d_key),
                });
                let sum = &*sums.column(place);
                latents.fill(
                    isa,
                    place,
                    #[inline(always)]
                    |rows, out| out.copy_from_slice(&sum[rows]),
                );
            }
        });
    }

    /// y = W_v latent of every head, times its gate; all heads of a column side by side.
    fn outputs(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let columns = pass.stages.batch.columns;
        let OfHeads { segments, latents, y: of_heads, .. } = &mut s.of_heads;
        let bytes = self.values.all().bytes_per_rows(GROUP);
        let owned = Owned { panels: [&mut *of_heads], acts: [] };
        let groups = Groups { segments, rows: self.d_value, bytes, owned };
        pass.stages.project_groups([], groups, |piece| {
            let GroupPiece { isa, first, panels: [mut y], .. } = piece;
            self.values.matmul(isa, first / columns, (&*latents, first), &mut y);
        });
        let (gate, of_heads) = (&s.gate, &*of_heads);
        let owned = Owned { panels: [&mut s.y], acts: [&mut s.gated] };
        pass.stages.columns(columns, owned, |piece| {
            let Piece { isa, own, panels: [mut y], acts: [mut gated], .. } = piece;
            for c in own {
                let y = &mut y.column(c)[..self.n_head * self.d_value];
                for (head, y) in y.chunks_exact_mut(self.d_value).enumerate() {
                    let from = of_heads.column(head * columns + c);
                    let gate = self.in_gate.as_ref().map_or(1.0, |_| gate.column(c)[head]);
                    simd!(isa, update(y, from, |_, from| from * gate));
                }
                gated.fill(
                    isa,
                    c,
                    #[inline(always)]
                    |rows, out| out.copy_from_slice(&y[rows]),
                );
            }
        });
    }

    /// x = x / √(mean(x²) + eps) · w.
    fn norm(&self, isa: Isa, x: &mut [f32], weight: &[f32]) {
        simd!(isa, {
            let inverse = inverse_rms(x, self.norm_eps);
            update(x, weight, |x, w| x * inverse * w);
        });
    }

    /// Turns the pairs of a shared part; those of neighbours come apart, in queries as in keys.
    fn turn(&self, x: &mut [f32], angles: &[f32]) {
        if self.has_adjacent_pairs {
            let mut pairs = [0.0; MAX_ROPE];
            let half = x.len() / 2;
            for (i, pair) in x.chunks_exact(2).enumerate() {
                (pairs[i], pairs[half + i]) = (pair[0], pair[1]);
            }
            x[..2 * half].copy_from_slice(&pairs[..2 * half]);
        }
        self.rope.turn(x, angles);
    }
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    input: InputScratch,
    /// (d_q_latent)
    low: Panel,
    low_input: ActivationBuffer,
    /// (n_head (d_nope + d_rope))
    q: Panel,
    /// (d_latent + d_rope)
    kv: Panel,
    /// (n_head)
    gate: Panel,
    /// cos, then sin (n_rot / 2)
    angles: Panel,
    /// (n_head d_value)
    y: Panel,
    gated: ActivationBuffer,
    of_heads: OfHeads,
}

/// Buffers with one column for each head and token: head after head.
struct OfHeads {
    /// The columns of each head.
    segments: Vec<Segment>,
    /// (d_nope)
    own: ActivationBuffer,
    /// (d_latent + d_rope) both
    queries: Panel,
    sums: Panel,
    /// (d_latent)
    latents: ActivationBuffer,
    /// (d_value)
    y: Panel,
}
