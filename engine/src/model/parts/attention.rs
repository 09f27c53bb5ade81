//! Attention (Vaswani et al. 2017, arXiv 1706.03762) as hybrids have it: query heads that share
//! heads of keys and values (GQA: Ainslie et al. 2023, arXiv 2305.13245), q and k normed per head
//! or all heads together, rotary positions, and a gate on what comes out, of every channel or of
//! every head; over the whole text, or a window of it (Beltagy et al. 2020, arXiv 2004.05150).
//! Rarely a convolution over keys and over values, scores by distance, and a choice of blocks of
//! tokens.
//! Reference: transformers `models/qwen3_5/modeling_qwen3_5.py`, `models/lfm3/modeling_lfm3.py`.
//! Test: `tests/parity_hybrid.rs`, `tests/windows.rs`.

mod list;

use std::ops::Range;

use super::qk_norm::{QkNorm, norm};
use super::{
    Bias, CausalConv, Compressed, CompressedScratch, Index, IndexScratch, Input, InputScratch,
    LowRank, LowRankScratch, MAX_CONV, Output, Part, Relative, Rope, padded,
};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::attention::Attention as Kernel;
use crate::kernels::columns::ColumnsMut;
use crate::kernels::forms::GROUP;
use crate::kernels::kept::{KeysOrValues, MAX_HEAD, PAGE, remember};
use crate::kernels::lanes::update;
use crate::kernels::math::sigmoid;
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::List;
use crate::stage::{Activation, Cut, Job, Owned, Piece, prepare};
use crate::state::{PagesRef, PagesShare, StatesShare};
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
    /// (n_kv_head d_head, d_model), or (d_head, d_model): one key for all heads of values.
    in_k: Matrix,
    /// (n_kv_head d_head, d_model)
    in_v: Matrix,
    /// Of those three.
    biases: [Bias; 3],
    /// Over keys and values, where there are some.
    convs: Option<[CausalConv; 2]>,
    /// (n_head d_head, d_model), or (n_head, d_model); absent where nothing is gated.
    in_gate: Option<Matrix>,
    /// Absent where q and k are not normed.
    qk_norm: Option<QkNorm>,
    norm_eps: f32,
    rope: Rope,
    relative: Option<Relative>,
    /// Absent where every token is seen, or a window.
    index: Option<Index>,
    /// The factor of scores.
    scale: f32,
    /// Added to q, k and v; of attention that layers share.
    adapters: Option<[LowRank; 3]>,
    /// Convolutions over q and k, and values that come late; absent but in ZAYA.
    compressed: Option<Compressed>,
    pub(crate) output: Output,
    /// State: keys and values of the tokens that it sees.
    pages: PagesRef,
}

/// The word of layers that see a window.
pub(super) const SLIDING: &str = "sliding_attention";

impl Part for Attention {
    const WORD: &'static str = "attention";
    type Scratch = Scratch;

    fn is_called(word: &str) -> bool {
        word == Self::WORD || word == SLIDING
    }

    fn load(source: &Source<'_>) -> Result<Attention> {
        Attention::with(source, Input::load(source, "norm")?)
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        let readers = layers.clone().flat_map(|l| {
            let all = [Some(&l.in_q), Some(&l.in_k), Some(&l.in_v), l.in_gate.as_ref()];
            let adapters = l.adapters.iter().flatten().map(|adapter| &adapter.first);
            let relative = l.relative.iter().map(|relative| &relative.input);
            let index = l.index.iter().map(Index::reader);
            all.into_iter().flatten().chain(adapters).chain(relative).chain(index)
        });
        let of = |rows: fn(&Self) -> usize| {
            Panel::new(layers.clone().map(rows).max().unwrap_or(0), workspace)
        };
        Scratch {
            input: InputScratch::new(workspace, readers),
            q: of(|l| padded(l.in_q.rows())),
            gate: of(|l| l.in_gate.as_ref().map_or(0, |gate| padded(gate.rows()))),
            y: of(|l| l.in_q.rows()),
            k: of(|l| padded(l.in_k.rows())),
            v: of(|l| padded(l.in_v.rows())),
            angles: of(|l| l.rope.rows()),
            adapters: [0, 1, 2].map(|i| {
                let adapters = layers.clone().filter_map(|l| Some(&l.adapters.as_ref()?[i]));
                let rows = adapters.clone().map(LowRank::rows).max().unwrap_or(0);
                LowRankScratch::new(workspace, padded(rows), adapters)
            }),
            mix: of(|l| l.relative.as_ref().map_or(0, |relative| relative.input.rows())),
            factors: of(|l| usize::from(l.relative.is_some())),
            compressed: CompressedScratch::new(
                workspace,
                layers.clone().filter_map(|l| l.compressed.as_ref()),
            ),
            index: Index::scratch(workspace, layers.clone().filter_map(|l| l.index.as_ref())),
            gated: acts_for(workspace, layers.clone().map(|l| &l.output.weight)),
        }
    }

    fn read(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
    }

    /// x += W_out attention(norm(x)).
    fn add(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.inner(pass, s);
        self.output.forward(pass, &s.gated);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let gated = self.list_inner(list);
        self.output.list(list, gated);
    }
}

impl Attention {
    /// That of what `input` reads.
    pub(crate) fn with(source: &Source<'_>, input: Input) -> Result<Attention> {
        Attention::of_sizes(source, input, ["n_attn_head", "n_kv_head", "d_attn_head"])
    }

    /// The layer whose numbers of heads and of heads of keys, and whose size of a head, have these
    /// names.
    pub(super) fn of_sizes(
        source: &Source<'_>,
        input: Input,
        [n_head, n_kv_head, d_head]: [&str; 3],
    ) -> Result<Attention> {
        let (config, d_input) = (source.config, input.width(source.config.d_model));
        let kv_heads = (config.size(n_kv_head)?, n_kv_head);
        let (n_head, n_kv_head) = (config.size(n_head)?, kv_heads.0);
        let group = config.divide(n_head, n_kv_head, kv_heads.1)?;
        let d_head = config.size_up_to(d_head, MAX_HEAD)?;
        let (width, kv_width) = (n_head * d_head, n_kv_head * d_head);
        let key_width = if config.flag("shares_key")? { d_head } else { kv_width };
        let window = match config.optional_word("layer_types", source.layer)? {
            Some(SLIDING) => Some(config.size("window")?),
            _ => None,
        };
        let (index, pages) = Index::load(source, (n_kv_head, d_head), window)?;
        let mat = |name, rows| source.mat(name, rows, d_input);
        let bias = |name, rows| Bias::load(source, name, rows);
        let n_gate = if config.flag("gates_heads")? { n_head } else { width };
        Ok(Attention {
            d_head,
            group,
            input,
            in_q: mat("attn.q", width)?,
            in_k: mat("attn.k", key_width)?,
            in_v: mat("attn.v", kv_width)?,
            biases: [
                bias("attn.q.bias", width)?,
                bias("attn.k.bias", key_width)?,
                bias("attn.v.bias", kv_width)?,
            ],
            convs: if config.flag("has_kv_conv")? {
                let d_conv = config.size_up_to("d_conv", MAX_CONV)?;
                let conv = |name, input, n| CausalConv::load(source, (name, input), n, d_conv);
                Some([conv("k_conv", "attn.k", key_width)?, conv("v_conv", "attn.v", kv_width)?])
            } else {
                None
            },
            in_gate: if config.flag("has_attn_gate")? {
                Some(mat("attn.gate", n_gate)?)
            } else {
                None
            },
            qk_norm: QkNorm::load(source, d_head, [width, key_width])?,
            norm_eps: match config.optional_float("qk_norm_eps")? {
                Some(eps) => eps,
                None => config.float("norm_eps")?,
            },
            rope: Rope::load(source, "attn.rope", d_head)?,
            relative: Relative::load(source, n_head, window)?,
            scale: match config.optional_float("attn_scale")? {
                Some(scale) => scale,
                None => 1.0 / (d_head as f32).sqrt(),
            },
            adapters: None,
            compressed: match config.flag("has_compressed_attention")? {
                true => Some(Compressed::load(source, d_head, [n_head, n_kv_head])?),
                false => None,
            },
            output: Output::load_with_bias(source, "attn.out", width)?
                .normed(source, "post_norm")?,
            pages,
            index,
        })
    }

    /// The same with the adapters of the layer, through `rank` values.
    pub(crate) fn adapted(self, source: &Source<'_>, rank: usize) -> Result<Attention> {
        let load = |name: &str, rows| {
            let halves = [&*format!("{name}.adapter.a"), &*format!("{name}.adapter.b")];
            LowRank::load(source, halves, rows, rank, self.in_q.cols())
        };
        let adapters = [
            load("attn.q", self.in_q.rows())?,
            load("attn.k", self.in_k.rows())?,
            load("attn.v", self.in_v.rows())?,
        ];
        Ok(Attention { adapters: Some(adapters), ..self })
    }

    /// What heads read, as the input of the output's matrix.
    pub(crate) fn inner(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        if let Some(relative) = &self.relative {
            relative.factors(pass, &mut s.factors);
        }
        let (isa, batch, input) = (pass.stages.isa, pass.stages.batch, &s.input.acts);
        let gate = |gate: &mut Share<'_, f32>| {
            simd!(isa, {
                for c in gate.columns() {
                    gate.column(c).iter_mut().for_each(|gate| *gate = sigmoid(*gate));
                }
            });
        };
        let [q, k, v] = self.biases.each_ref().map(|bias| {
            move |x: &mut Share<'_, f32>| {
                let at = x.rows().start;
                simd!(isa, x.columns().for_each(|c| bias.add(at, x.column(c))));
            }
        });
        let mut low = s.adapters.iter_mut();
        let adapters = self.adapters.iter().flatten().zip(&mut low);
        let adapters = adapters.map(|(adapter, s)| adapter.first(input, Activation::Identity, s));
        let factors = &s.factors;
        let mix = self.relative.as_ref().map(|relative| {
            let scale = |mix: &mut Share<'_, f32>| relative.scale(mix, factors);
            (&relative.input, scale)
        });
        let others = [
            Some(Job::apply(&self.in_q, input, &mut s.q, &q)),
            self.in_gate.as_ref().map(|w| Job::apply(w, input, &mut s.gate, &gate)),
            mix.as_ref().map(|(w, scale)| Job::apply(w, input, &mut s.mix, scale)),
        ];
        let index = self.index.as_ref().map(|index| index.project(input, &mut s.index));
        let others = others.into_iter().flatten().chain(adapters).chain(index);
        match &self.convs {
            Some([k, v]) => {
                let windows = pass.states.share_each([k.window, v.window]);
                let convolve = [k, v].map(|conv| {
                    move |x: &mut Share<'_, f32>, window: StatesShare<'_>| {
                        conv.forward(isa, batch, x, window);
                    }
                });
                let [k_window, v_window] = windows;
                let k = Job::advance(&self.in_k, input, &mut s.k, k_window, &convolve[0]);
                let v = Job::advance(&self.in_v, input, &mut s.v, v_window, &convolve[1]);
                pass.stages.project(others.chain([k, v]));
            }
            None => {
                let k = Job::apply(&self.in_k, input, &mut s.k, &k);
                let v = Job::apply(&self.in_v, input, &mut s.v, &v);
                pass.stages.project(others.chain([k, v]));
            }
        }
        if let Some(adapters) = &self.adapters {
            let each = adapters.iter().zip(&mut s.adapters);
            let each = each.zip([&mut s.q, &mut s.k, &mut s.v]);
            pass.stages.project(each.map(|((adapter, s), y)| {
                let LowRankScratch { hidden, out, .. } = s;
                adapter.second_add(hidden, out, y)
            }));
        }
        if let Some(compressed) = &self.compressed {
            let qkv = [&mut s.q, &mut s.k, &mut s.v];
            compressed.forward(pass, qkv, &mut s.compressed);
        }
        self.rope.angles(pass, &mut s.angles);
        if let Some(index) = &self.index {
            index.choose(pass, &self.rope, &s.angles, &mut s.index);
        }
        if let Some(QkNorm { q, k, is_whole: true }) = &self.qk_norm {
            self.whole_norms(pass, [(&mut s.q, q), (&mut s.k, k)]);
        }
        self.heads(pass, s);
    }

    /// The norms of each head, where heads are normed apart.
    fn head_norms(&self) -> Option<&QkNorm> {
        self.qk_norm.as_ref().filter(|norm| !norm.is_whole)
    }

    /// x = x / √(mean(x²) + eps) · w over all heads together.
    fn whole_norms(&self, pass: &mut Pass<'_>, each: [(&mut Panel, &Vector); 2]) {
        for (x, weight) in each {
            let owned = Owned { panels: [x], acts: [] };
            pass.stages.columns(pass.stages.batch.columns, owned, |piece| {
                let Piece { isa, own, panels: [mut x], .. } = piece;
                for c in own {
                    norm(isa, &mut x.column(c)[..weight.len()], weight, self.norm_eps);
                }
            });
        }
    }

    /// All heads: each of keys and values with the query heads that share it.
    fn heads(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let Scratch { q, k, v, gate, angles, mix, factors, index, y, gated, .. } = s;
        let (rows, norms) = (self.in_q.rows(), self.head_norms());
        let unit = self.group * self.d_head;
        let owned = Owned { panels: [y, q], acts: [gated] };
        let cut = Cut { rows, unit: lcm(unit, GROUP), bytes: 0 };
        pass.stages.rows_and_pages(cut, owned, &mut pass.states, self.pages, |piece, mut pages| {
            let Piece { isa, batch, own, panels: [mut y, mut q], acts: [mut gated], .. } = piece;
            for (run, span) in batch.spans.iter().enumerate() {
                for head in pages.heads() {
                    // A ring has room for this many tokens beside those that are seen.
                    for at in span.clone().step_by(PAGE) {
                        let some = at..span.end.min(at + PAGE);
                        let first = pages.position(run) + at - span.start;
                        self.remember(isa, (run, head), (&some, first), [k, v, angles], &mut pages);
                        let rows = head * unit..(head + 1) * unit;
                        let mut q = q.view_mut(some.clone(), rows.clone());
                        for c in 0..q.len() {
                            let factor = self.relative.as_ref().map_or(self.scale, |_| {
                                self.scale * factors.column(some.start + c)[0]
                            });
                            for q in q.at(c).chunks_exact_mut(self.d_head) {
                                let angles = angles.column(some.start + c);
                                self.turn(isa, q, norms.map(|norms| &norms.q), angles);
                                simd!(isa, q.iter_mut().for_each(|q| *q *= factor));
                            }
                        }
                        let mut y = y.view_mut(some.clone(), rows.clone());
                        isa.run_lanes(Kernel {
                            q: q.view(),
                            d_head: self.d_head,
                            first,
                            relative: self.relative.as_ref().map(|relative| {
                                let rows = head * self.group..(head + 1) * self.group;
                                relative.view(mix, some.clone(), rows)
                            }),
                            chosen: self.index.as_ref().map(|own| own.view(index, some.clone())),
                            window: self.pages.window.last,
                            beginning: self.pages.window.first,
                            dtype: self.pages.dtype,
                            page: |page| pages.page(run, head, page),
                            y: y.view_mut(),
                        });
                        if self.in_gate.is_some() {
                            self.gate(isa, rows, gate, (some, &mut y));
                        }
                    }
                }
            }
            debug_assert_eq!(own.len(), pages.heads().len() * unit);
            prepare(isa, &mut y, &mut gated);
        });
    }

    /// y = y · gate, for the heads whose channels are `rows`.
    fn gate(
        &self,
        isa: Isa,
        rows: Range<usize>,
        gate: &Panel,
        (columns, y): (Range<usize>, &mut ColumnsMut<'_>),
    ) {
        let is_per_head = self.in_gate.as_ref().is_some_and(|w| w.rows() < self.in_q.rows());
        let of_each = if is_per_head { self.d_head } else { 1 };
        let gate = gate.view(columns, rows.start / of_each..rows.end / of_each);
        simd!(isa, {
            for c in 0..y.len() {
                if is_per_head {
                    let heads = y.at(c).chunks_exact_mut(self.d_head);
                    heads
                        .zip(gate.at(c))
                        .for_each(|(y, gate)| y.iter_mut().for_each(|y| *y *= gate));
                } else {
                    update(y.at(c), gate.at(c), |y, gate| y * gate);
                }
            }
        });
    }

    /// Writes the keys and values of a head and of some columns of a run to its pages; the first is
    /// the run's token number `first`.
    fn remember(
        &self,
        isa: Isa,
        (run, head): (usize, usize),
        (span, first): (&Range<usize>, usize),
        [k, v, angles]: [&Panel; 3],
        pages: &mut PagesShare<'_>,
    ) {
        let d_head = self.d_head;
        let rows = head * d_head..(head + 1) * d_head;
        let key_rows = if rows.end > self.in_k.rows() { 0..d_head } else { rows.clone() };
        let (k, v) = (k.view(span.clone(), key_rows), v.view(span.clone(), rows));
        let mut key = [0.0; MAX_HEAD];
        let (key, norm) = (&mut key[..d_head], self.head_norms().map(|norms| &norms.k));
        for c in 0..k.len() {
            key.copy_from_slice(k.at(c));
            self.turn(isa, key, norm, angles.column(span.start + c));
            let (page, token) = ((first + c) / PAGE, (first + c) % PAGE);
            let (page, dtype) = (pages.page_mut(run, head, page), self.pages.dtype);
            remember(isa, dtype, page, (token, KeysOrValues::Keys), key);
            remember(isa, dtype, page, (token, KeysOrValues::Values), v.at(c));
        }
    }

    /// x = norm(x); then its pairs turn by their angles.
    fn turn(&self, isa: Isa, x: &mut [f32], weight: Option<&Vector>, angles: &[f32]) {
        if let Some(weight) = weight {
            norm(isa, x, weight, self.norm_eps);
        }
        self.rope.turn(x, angles);
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
    /// Of the adapters of q, k and v.
    adapters: [LowRankScratch; 3],
    compressed: CompressedScratch,
    pub(crate) gated: ActivationBuffer,
    index: IndexScratch,
    /// The numbers of profiles (n_head n_profile), and the factor of scores.
    mix: Panel,
    factors: Panel,
}
