//! Attention (Vaswani et al. 2017, arXiv 1706.03762) as hybrids have it: query heads that share
//! heads of keys and values (GQA: Ainslie et al. 2023, arXiv 2305.13245), q and k normed per head,
//! rotary positions (Su et al. 2021, arXiv 2104.09864) on the first channels of a head, and a gate
//! on what comes out. Reference: transformers `models/qwen3_5/modeling_qwen3_5.py`. Test:
//! `tests/parity_hybrid.rs`.

use std::ops::Range;

use super::{Input, InputScratch, Output, Part, padded};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::attention::{Attention as Kernel, MAX_HEAD, PAGE};
use crate::kernels::forms::GROUP;
use crate::kernels::lanes::{WIDTH, update};
use crate::kernels::math::{sigmoid, sin_cos};
use crate::kernels::norm::inverse_rms;
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::stage::{Cut, Job, Owned, Piece, prepare};
use crate::state::{PagesRef, PagesShare};
use crate::team::{Share, lcm};
use crate::tensor::{Matrix, Vector, acts_for};

/// The weights of one layer's attention.
pub(crate) struct Attention {
    d_head: usize,
    /// Query heads for each head of keys and values.
    group: usize,
    input: Input,
    /// (n_head d_head, d_model)
    in_q: Matrix,
    /// (n_kv_head d_head, d_model) each
    in_k: Matrix,
    in_v: Matrix,
    /// (n_head d_head, d_model); absent where nothing is gated.
    in_gate: Option<Matrix>,
    /// (d_head) each; absent where q and k are not normed.
    q_norm: Option<Vector>,
    k_norm: Option<Vector>,
    norm_eps: f32,
    /// Of the channels i and i + n_rot / 2: (n_rot / 2); absent where nothing turns.
    rope: Option<Vector>,
    /// The factor of scores.
    scale: f32,
    output: Output,
    /// State: keys and values of every token.
    pages: PagesRef,
}

impl Part for Attention {
    const WORD: &'static str = "attention";
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<Attention> {
        let (config, d_model) = (source.config, source.config.d_model);
        let (n_head, n_kv_head) = (config.size("n_attn_head")?, config.size("n_kv_head")?);
        let group = config.divide(n_head, n_kv_head, "n_kv_head")?;
        let d_head = config.size_up_to("d_attn_head", MAX_HEAD)?;
        config.divide(d_head, WIDTH, "d_attn_head")?;
        let (width, kv_width) = (n_head * d_head, n_kv_head * d_head);
        let n_rot = config.optional_size("n_rot")?.unwrap_or(0);
        let norm = |name| -> Result<Option<Vector>> {
            Ok(if config.flag("has_qk_norm")? { Some(source.vector(name, d_head)?) } else { None })
        };
        let mat = |name, rows| source.mat(name, rows, d_model);
        Ok(Attention {
            d_head,
            group,
            input: Input::load(source, "norm")?,
            in_q: mat("attn.q", width)?,
            in_k: mat("attn.k", kv_width)?,
            in_v: mat("attn.v", kv_width)?,
            in_gate: if config.flag("has_attn_gate")? {
                Some(mat("attn.gate", width)?)
            } else {
                None
            },
            q_norm: norm("attn.q_norm.weight")?,
            k_norm: norm("attn.k_norm.weight")?,
            norm_eps: config.float("norm_eps")?,
            rope: match n_rot.min(d_head) / 2 {
                0 => None,
                pairs => Some(source.vector("attn.rope", pairs)?),
            },
            scale: match config.optional_float("attn_scale")? {
                Some(scale) => scale,
                None => 1.0 / (d_head as f32).sqrt(),
            },
            output: Output::load(source, "attn.out", width)?,
            pages: source.pages(n_kv_head, d_head)?,
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        let readers = layers.clone().flat_map(|l| {
            let all = [Some(&l.in_q), Some(&l.in_k), Some(&l.in_v), l.in_gate.as_ref()];
            all.into_iter().flatten()
        });
        let of = |rows: fn(&Self) -> usize| {
            Panel::new(layers.clone().map(rows).max().unwrap_or(0), workspace)
        };
        Scratch {
            input: InputScratch::new(workspace, readers),
            q: of(|l| l.in_q.rows()),
            gate: of(|l| l.in_gate.as_ref().map_or(0, |gate| padded(gate.rows()))),
            y: of(|l| l.in_q.rows()),
            k: of(|l| l.in_k.rows()),
            v: of(|l| l.in_v.rows()),
            angles: of(|l| l.rope.as_ref().map_or(0, |rope| 2 * rope.len())),
            gated: acts_for(workspace, layers.clone().map(|l| &l.output.weight)),
        }
    }

    /// x += W_out attention(norm(x)).
    fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
        let (isa, input) = (pass.stages.isa, &s.input.acts);
        let gate = |gate: &mut Share<'_, f32>| {
            simd!(isa, {
                for c in gate.columns() {
                    gate.column(c).iter_mut().for_each(|gate| *gate = sigmoid(*gate));
                }
            });
        };
        let jobs = [
            Some(Job::keep(&self.in_q, input, &mut s.q)),
            Some(Job::keep(&self.in_k, input, &mut s.k)),
            Some(Job::keep(&self.in_v, input, &mut s.v)),
            self.in_gate.as_ref().map(|w| Job::apply(w, input, &mut s.gate, &gate)),
        ];
        pass.stages.project(jobs.into_iter().flatten());
        self.angles(pass, &mut s.angles);
        self.heads(pass, s);
        self.output.forward(pass, &s.gated);
    }
}

impl Attention {
    /// cos and sin of every pair's angle at the position of each column.
    fn angles(&self, pass: &mut Pass<'_>, angles: &mut Panel) {
        let Some(rope) = &self.rope else { return };
        let (batch, states) = (pass.stages.batch, &pass.states);
        let owned = Owned { panels: [angles], acts: [] };
        pass.stages.columns(batch.columns, owned, |piece| {
            let Piece { own, panels: [mut angles], .. } = piece;
            for c in own {
                let run = batch.runs[c];
                let position = (states.position(run) + c - batch.spans[run].start) as f64;
                let (cos, sin) = angles.column(c).split_at_mut(rope.len());
                for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(&rope[..]) {
                    (*sin, *cos) = sin_cos(position * f64::from(*frequency));
                }
            }
        });
    }

    /// All heads: each of keys and values with the query heads that share it.
    fn heads(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let Scratch { q, k, v, gate, angles, y, gated, .. } = s;
        let rows = self.in_q.rows();
        let unit = self.group * self.d_head;
        let owned = Owned { panels: [y, q], acts: [gated] };
        let cut = Cut { rows, unit: lcm(unit, GROUP), bytes: 0 };
        pass.stages.rows_and_pages(cut, owned, &mut pass.states, self.pages, |piece, mut pages| {
            let Piece { isa, batch, own, panels: [mut y, mut q], acts: [mut gated], .. } = piece;
            for (run, span) in batch.spans.iter().enumerate() {
                for head in pages.heads() {
                    self.remember(isa, (run, head), span, [k, v, angles], &mut pages);
                    let first = pages.position(run);
                    for at in (head * unit..(head + 1) * unit).step_by(self.d_head) {
                        let rows = at..at + self.d_head;
                        let mut q = q.view_mut(span.clone(), rows.clone());
                        for c in 0..q.len() {
                            let angles = angles.column(span.start + c);
                            self.turn(isa, q.at(c), &self.q_norm, angles);
                            simd!(isa, q.at(c).iter_mut().for_each(|q| *q *= self.scale));
                        }
                        let mut y = y.view_mut(span.clone(), rows.clone());
                        isa.run_lanes(Kernel {
                            q: q.view(),
                            first,
                            window: usize::MAX,
                            page: |page| pages.page(run, head, page),
                            y: y.view_mut(),
                        });
                        if self.in_gate.is_some() {
                            let gate = gate.view(span.clone(), rows);
                            simd!(isa, {
                                for c in 0..y.len() {
                                    update(y.at(c), gate.at(c), |y, gate| y * gate);
                                }
                            });
                        }
                    }
                }
            }
            debug_assert_eq!(own.len(), pages.heads().len() * unit);
            prepare(isa, &mut y, &mut gated);
        });
    }

    /// Writes the keys and values of a head and the columns of a run to its pages.
    fn remember(
        &self,
        isa: Isa,
        (run, head): (usize, usize),
        span: &Range<usize>,
        [k, v, angles]: [&Panel; 3],
        pages: &mut PagesShare<'_>,
    ) {
        let (d_head, first) = (self.d_head, pages.position(run));
        let rows = head * d_head..(head + 1) * d_head;
        let (k, v) = (k.view(span.clone(), rows.clone()), v.view(span.clone(), rows));
        let mut key = [0.0; MAX_HEAD];
        let key = &mut key[..d_head];
        for c in 0..k.len() {
            key.copy_from_slice(k.at(c));
            self.turn(isa, key, &self.k_norm, angles.column(span.start + c));
            let (page, token) = ((first + c) / PAGE, (first + c) % PAGE);
            let (keys, values) = pages.page_mut(run, head, page).split_at_mut(d_head * PAGE);
            for (keys, key) in keys.chunks_exact_mut(PAGE).zip(&*key) {
                keys[token] = *key;
            }
            values[token * d_head..][..d_head].copy_from_slice(v.at(c));
        }
    }

    /// x = norm(x); then its pairs (i, i + n_rot / 2) turn by their angles.
    fn turn(&self, isa: Isa, x: &mut [f32], norm: &Option<Vector>, angles: &[f32]) {
        simd!(isa, {
            if let Some(weight) = norm {
                let inverse = inverse_rms(x, self.norm_eps);
                update(x, weight, |x, w| x * inverse * w);
            }
        });
        let Some(rope) = &self.rope else { return };
        let (cos, sin) = angles.split_at(rope.len());
        let (a, b) = x[..2 * rope.len()].split_at_mut(rope.len());
        for ((a, b), (cos, sin)) in a.iter_mut().zip(b).zip(cos.iter().zip(sin)) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    input: InputScratch,
    /// (n_head d_head)
    q: Panel,
    gate: Panel,
    y: Panel,
    /// (n_kv_head d_head)
    k: Panel,
    v: Panel,
    /// cos, then sin (n_rot / 2)
    angles: Panel,
    gated: ActivationBuffer,
}
