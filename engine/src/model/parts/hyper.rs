//! A residual stream of several copies of the embedding's width, which every part reads and writes
//! through a mix of its own (hyper-connections: Zhu et al. 2024, arXiv 2409.19606, as Qwen4-Exp
//! has them; reference: transformers `models/qwen4_exp/modular_qwen4_exp.py`). The copies stand
//! side by side in the second stream; the first carries what a part reads, then what it adds.
//! Test: `tests/parity_experts.rs`.

use super::{LowRank, LowRankScratch, Part};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::lanes::{update, update2};
use crate::kernels::math::sigmoid;
use crate::kernels::norm::inverse_rms;
use crate::kernels::simd::simd;
use crate::model::{Pass, Source, Streams};
use crate::ops::{Formula, Function, List, NormOp, Values, of, of_head, part, rows};
use crate::stage::{Activation, Job, Owned, Piece};
use crate::team::Share;
use crate::tensor::{Matrix, Vector, acts_for};

/// The most copies.
const MAX_STREAMS: usize = 64;

/// The buffer of the copies.
const COPIES: &str = "residual copies";

/// The number of copies.
pub(crate) fn n_stream(source: &Source<'_>) -> Result<usize> {
    source.config.size_up_to("n_stream", MAX_STREAMS)
}

/// The mix of the copies that one part reads; the 1 / n before what is linear stands in its
/// matrices.
pub(crate) struct HyperConnection {
    n: usize,
    d_model: usize,
    /// (n d_model): an RMS norm of each copy.
    norm: Vector,
    norm_eps: f32,
    /// The weights of the mix, through `rank_mix` values to (n d_model).
    weights: LowRank,
    /// (n, n d_model): how much of what the part adds each copy gets; absent where nothing is
    /// added.
    inject: Option<Matrix>,
}

impl HyperConnection {
    /// The one called `name`.
    pub(crate) fn load(source: &Source<'_>, name: &str) -> Result<HyperConnection> {
        let (n, d_model) = (n_stream(source)?, source.config.d_model);
        let width = n * d_model;
        let halves = [&*format!("{name}.a"), &*format!("{name}.b")];
        Ok(HyperConnection {
            n,
            d_model,
            norm: source.vector(&format!("{name}.norm.weight"), width)?,
            norm_eps: source.config.float("norm_eps")?,
            weights: LowRank::load(source, halves, width, source.config.size("rank_mix")?, width)?,
            inject: None,
        })
    }

    /// The same of a part that adds something.
    pub(crate) fn injecting(self, source: &Source<'_>, name: &str) -> Result<HyperConnection> {
        let inject = source.mat(&format!("{name}.inject"), self.n, self.width())?;
        Ok(HyperConnection { inject: Some(inject), ..self })
    }

    /// Values of all copies.
    pub(crate) fn width(&self) -> usize {
        self.n * self.d_model
    }

    /// Buffers for those of all layers.
    pub(crate) fn scratch<'a>(
        workspace: &Workspace,
        all: impl Iterator<Item = &'a HyperConnection> + Clone,
    ) -> Scratch {
        let width = all.clone().map(HyperConnection::width).max().unwrap_or(0);
        let n = all.clone().map(|mix| mix.n).max().unwrap_or(0);
        let readers =
            all.clone().flat_map(|mix| [&mix.weights.first].into_iter().chain(&mix.inject));
        Scratch {
            normed: Panel::new(width, workspace),
            acts: acts_for(workspace, readers),
            weights: LowRankScratch::new(workspace, width, all.clone().map(|mix| &mix.weights)),
            inject: Panel::new(n, workspace),
        }
    }

    /// Every copy becomes the first stream.
    pub(crate) fn begin(&self, pass: &mut Pass<'_>) {
        let Streams { x, second, .. } = &mut *pass.streams;
        for c in 0..pass.stages.batch.columns {
            second.column_mut(c).chunks_exact_mut(self.d_model).for_each(|copy| {
                copy.copy_from_slice(x.column(c));
            });
        }
    }

    /// x = 1/n Σ sigmoid(W_b silu(W_a X̂)) · X̂ over the copies X̂ = norm(X); the shares of each in
    /// what the part adds, 2 sigmoid(W X̂).
    pub(crate) fn mix(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let (isa, columns) = (pass.stages.isa, pass.stages.batch.columns);
        let Scratch { normed, acts, weights, inject } = s;
        let second = &pass.streams.second;
        let owned = Owned { panels: [&mut *normed], acts: [&mut *acts] };
        pass.stages.columns(columns, owned, |piece| {
            let Piece { isa, own, panels: [mut normed], acts: [mut acts], .. } = piece;
            for c in own {
                let y = &mut normed.column(c)[..self.width()];
                rms_each(isa, second.column(c), (&self.norm, self.norm_eps), self.d_model, y);
                acts.fill(
                    isa,
                    c,
                    #[inline(always)]
                    |rows, out| out.copy_from_slice(&y[rows]),
                );
            }
        });
        let twice = |y: &mut Share<'_, f32>| {
            simd!(isa, {
                for c in y.columns() {
                    y.column(c).iter_mut().for_each(|y| *y = 2.0 * sigmoid(*y));
                }
            });
        };
        let shares = self.inject.as_ref().map(|w| Job::apply(w, acts, inject, &twice));
        let first = self.weights.first(acts, Activation::Silu, weights);
        pass.stages.project([first].into_iter().chain(shares));
        let once = |y: &mut Share<'_, f32>| {
            simd!(isa, {
                for c in y.columns() {
                    y.column(c).iter_mut().for_each(|y| *y = sigmoid(*y));
                }
            });
        };
        let LowRankScratch { hidden, out, .. } = weights;
        pass.stages.project([self.weights.second_apply(hidden, out, &once)]);
        let inverse = 1.0 / self.n as f32;
        let owned = Owned { panels: [&mut pass.streams.x], acts: [] };
        pass.stages.columns(columns, owned, |piece| {
            let Piece { isa, own, panels: [mut x], .. } = piece;
            for c in own {
                let x = &mut x.column(c)[..self.d_model];
                let copies = normed.column(c).chunks_exact(self.d_model);
                let weights = out.column(c).chunks_exact(self.d_model);
                x.fill(0.0);
                simd!(isa, {
                    for (copy, weight) in copies.zip(weights) {
                        update2(x, copy, weight, |x, copy, weight| x + copy * weight);
                    }
                    x.iter_mut().for_each(|x| *x *= inverse);
                });
            }
        });
    }

    /// The copies, each of which becomes the stream, as an operation.
    pub(crate) fn list_begin(&self, list: &mut List<'_>) {
        let each = [part(list.x(), (0, 0), 0, self.d_model)];
        list.place(COPIES, (self.n, self.d_model), each);
    }

    /// [`HyperConnection::mix`] as operations; the shares, where a part adds something.
    pub(crate) fn list_mix<'m>(&'m self, list: &mut List<'m>) -> Option<Values> {
        let (width, d, x) = (self.width(), self.d_model, list.x());
        let (copies, normed) = (self.list_copies(list), list.values("mix normed", width));
        list.norm(normed, copies, NormOp::Rms { weight: &self.norm, eps: self.norm_eps }, d);
        let input = list.pack("mix input", width, of(normed));
        let shares = self.inject.as_ref().map(|w| {
            let shares = list.project("mix shares", w, input);
            list.map(shares, Formula::from(2.0) * of(shares).apply(Function::Sigmoid));
            shares
        });
        let names = ["mix low", "mix hidden", "mix weights"];
        let weights = self.weights.list(list, names, input, Some(Function::Silu));
        list.map(weights, of(weights).apply(Function::Sigmoid));
        list.map(x, 0.0);
        for copy in 0..self.n {
            let own = rows(normed, copy * d) * rows(weights, copy * d);
            list.map(x, of(x) + own);
        }
        list.map(x, of(x) * (1.0 / self.n as f32));
        shares
    }

    /// [`HyperConnection::around`] as operations.
    pub(crate) fn list_around<'m, P: Part>(&'m self, list: &mut List<'m>, of_part: &'m P) {
        let (shares, x) = (self.list_mix(list), list.x());
        let before = list.copy_stream();
        list.map(x, 0.0);
        list.reading(before, |list| of_part.list(list));
        if let Some(shares) = shares {
            let (n, d, copies) = (self.n, self.d_model, self.list_copies(list));
            let each = list.place("mix of part", (n, d), [part(x, (0, 0), 0, d)]);
            list.map(copies, of(copies) + of_head(shares, d) * each);
        }
    }

    /// Values of the copies, as operations know them.
    pub(crate) fn list_copies(&self, list: &mut List<'_>) -> Values {
        list.values(COPIES, self.width())
    }

    /// X += share · part(x).
    pub(crate) fn around<P: Part>(
        &self,
        pass: &mut Pass<'_>,
        (part, scratch): (&P, &mut P::Scratch),
        s: &mut Scratch,
    ) {
        self.mix(pass, s);
        part.read(pass, scratch);
        let columns = pass.stages.batch.columns;
        pass.streams.x.clear(columns);
        part.add(pass, scratch);
        let Streams { x, second, .. } = &mut *pass.streams;
        pass.stages.columns(columns, Owned { panels: [second], acts: [] }, |piece| {
            let Piece { isa, own, panels: [mut second], .. } = piece;
            for c in own {
                let copies = second.column(c)[..self.width()].chunks_exact_mut(self.d_model);
                simd!(isa, {
                    for (copy, share) in copies.zip(s.inject.column(c)) {
                        update(copy, x.column(c), |copy, x| copy + share * x);
                    }
                });
            }
        });
    }
}

/// y = x / √(mean(x²) + eps) · w, of every `d` values for themselves.
pub(super) fn rms_each(isa: Isa, x: &[f32], (weight, eps): (&[f32], f32), d: usize, y: &mut [f32]) {
    y.copy_from_slice(x);
    simd!(isa, {
        for (y, weight) in y.chunks_exact_mut(d).zip(weight.chunks_exact(d)) {
            let inverse = inverse_rms(y, eps);
            update(y, weight, |y, w| y * inverse * w);
        }
    });
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    /// (n d_model)
    normed: Panel,
    acts: ActivationBuffer,
    weights: LowRankScratch,
    /// (n)
    inject: Panel,
}
