//! A mixture of memories (Du et al. 2025, arXiv 2502.13685): heads of Gated DeltaNet with several
//! states. A router chooses those that a token writes and reads; one more may be for all tokens.
//! Each has convolutions of its own, and sees its own tokens only, as if they stood side by side.
//! Reference: fla `layers/mom.py`. Test: `tests/parity_linear.rs`.

mod list;

use std::ops::Range;

use super::delta_heads::{DeltaRule, MAX_KEY, TOKENS, inverse_length};
use super::router::{Router, Scratch as RouterScratch};
use super::{
    BranchScratch, Head, HeadGate, Heads, Input, InputScratch, MAX_CONV, Output, Part, padded,
};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::conv::{Convolution, causal_conv};
use crate::kernels::forms::GROUP;
use crate::kernels::lanes::{WIDTH, update};
use crate::kernels::math::{exp, sigmoid, silu, softplus};
use crate::kernels::norm::inverse_rms;
use crate::kernels::recurrence::Decay;
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::List;
use crate::stage::{Cut, Job, Owned, Piece, prepare};
use crate::state::SlotRef;
use crate::team::{Share, lcm};
use crate::tensor::{ExpertMatrices, Matrix, Vector, acts_for};

/// The weights of one layer's memories.
pub(crate) struct Memories {
    n_head: usize,
    d_head: usize,
    d_key: usize,
    /// Memories; those of the router, and maybe one for all tokens behind them.
    n_memory: usize,
    input: Input,
    router: Router,
    /// q (n_head d_key), of all memories; k, and v (n_head d_head), of each, or of all.
    inputs: [Shifted; 3],
    /// (n_head, d_model) of each, or of all.
    in_beta: Matrix,
    in_dt: Matrix,
    /// (n_head) both; A is negative.
    dt_bias: Vector,
    a: Vector,
    gate: Option<HeadGate>,
    /// (d_head)
    out_norm: Vector,
    norm_eps: f32,
    output: Output,
    /// State: S (n_memory n_head, d_key, d_head).
    heads: Heads,
}

/// A projection and the convolution behind it.
struct Shifted {
    /// (rows, d_model) each
    matrices: ExpertMatrices,
    d_conv: usize,
    /// (blocks, d_conv, 16)
    taps: Vector,
    /// (blocks, 16)
    bias: Vector,
    /// State: the last inputs of each memory, oldest first (n_memory, blocks, d_conv − 1, 16).
    windows: SlotRef,
}

impl Shifted {
    fn load(
        source: &Source<'_>,
        (matrix, conv): (&str, &'static str),
        (n, rows): (usize, usize),
        n_memory: usize,
    ) -> Result<Shifted> {
        let (blocks, d_conv) =
            (rows.div_ceil(WIDTH), source.config.size_up_to("d_conv", MAX_CONV)?);
        Ok(Shifted {
            matrices: source.experts(matrix, n, rows, source.config.d_model)?,
            d_conv,
            taps: source.tensor(&format!("{conv}.weight"), &[blocks, d_conv, WIDTH])?,
            bias: source.vector(&format!("{conv}.bias"), padded(rows))?,
            windows: source.state(conv, &[n_memory, blocks, d_conv - 1, WIDTH], 0.0),
        })
    }
}

impl Part for Memories {
    const WORD: &'static str = "memories";
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<Memories> {
        let (config, d_model) = (source.config, source.config.d_model);
        let n_head = config.size("n_head")?;
        let (d_head, d_key) = (Heads::d_head(config)?, config.size_up_to("d_key", MAX_KEY)?);
        let (width, keys) = (n_head * d_head, n_head * d_key);
        let router = Router::load(source, 0)?;
        let n_memory = router.n_expert + usize::from(config.flag("has_shared_memory")?);
        let n_own = if config.flag("shares_projections")? { 1 } else { n_memory };
        let shifted = |names, n, rows| Shifted::load(source, names, (n, rows), n_memory);
        Ok(Memories {
            n_head,
            d_head,
            d_key,
            n_memory,
            input: Input::load(source, "norm")?,
            router,
            inputs: [
                shifted(("in_proj.q", "conv_q"), 1, keys)?,
                shifted(("in_proj.k", "conv_k"), n_own, keys)?,
                shifted(("in_proj.v", "conv_v"), n_own, width)?,
            ],
            in_beta: source.mat("in_proj.beta", n_own * n_head, d_model)?,
            in_dt: source.mat("in_proj.dt", n_own * n_head, d_model)?,
            dt_bias: source.vector("dt_bias", n_head)?,
            a: source.vector("A", n_head)?,
            gate: HeadGate::load(source, width)?,
            out_norm: source.vector("out_norm.weight", d_head)?,
            norm_eps: config.float("out_norm_eps")?,
            output: Output::load(source, "out_proj", width)?,
            heads: Heads::load(source, "delta", (n_memory * width, d_head), d_key)?,
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        let readers = layers.clone().flat_map(|l| {
            let gate = l.gate.as_ref().map(|gate| gate.branch.reader());
            let inputs = l.inputs.iter().map(|input| input.matrices.all());
            inputs.chain([&l.in_beta, &l.in_dt]).chain(gate)
        });
        let of = |rows: &dyn Fn(&Self) -> usize| {
            Panel::new(layers.clone().map(rows).max().unwrap_or(0), workspace)
        };
        Scratch {
            input: InputScratch::new(workspace, readers),
            router: RouterScratch::new(workspace, layers.clone().map(|l| &l.router)),
            inputs: [0, 1, 2].map(|i| of(&|l| l.inputs[i].matrices.all().rows())),
            shifted: [0, 1, 2].map(|i| of(&|l| l.n_memory * padded(l.inputs[i].matrices.rows()))),
            beta: of(&|l| l.in_beta.rows()),
            decay: of(&|l| l.in_dt.rows()),
            gate: HeadGate::scratch(workspace, layers.clone().filter_map(|l| l.gate.as_ref())),
            y: of(&|l| l.n_memory * l.n_head * l.d_head),
            sum: of(&|l| l.n_head * l.d_head),
            gated: acts_for(workspace, layers.clone().map(|l| &l.output.weight)),
        }
    }

    fn read(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        self.list_all(list);
    }

    /// x += W_out norm(Σ w memory(norm(x))).
    fn add(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.router.forward(pass, &s.input.normed, &mut s.router);
        self.inputs(pass, s);
        for i in 0..self.inputs.len() {
            self.shift(pass, i, &s.inputs[i], &mut s.shifted[i], &s.router);
        }
        let Scratch { router, shifted, beta, decay, gate, y, sum, gated, .. } = s;
        self.heads.forward(
            &mut pass.stages,
            &mut pass.states,
            0,
            Owned { panels: [&mut *y], acts: [] },
            |_, _, _| {},
            |head| self.head(head, shifted, [beta, decay], router),
        );
        self.sum(pass, [y, &gate.out], router, sum, gated);
        self.output.forward(pass, &s.gated);
    }
}

impl Memories {
    /// What memory `memory` counts for the token of column `c`, if it sees it.
    fn weight(&self, router: &RouterScratch, c: usize, memory: usize) -> Option<f32> {
        if memory >= self.router.n_expert {
            return Some(1.0);
        }
        let chosen = &router.chosen.column(c)[..self.router.n_used()];
        let place = chosen.iter().position(|chosen| *chosen == memory as f32)?;
        Some(router.weights.column(c)[place])
    }

    /// Calls `f` with the columns of `span` that the memory sees, as many at once as stand side by
    /// side, but at most [`TOKENS`].
    fn seen(
        &self,
        router: &RouterScratch,
        span: Range<usize>,
        memory: usize,
        mut f: impl FnMut(Range<usize>),
    ) {
        let is_seen = |c: usize| self.weight(router, c, memory).is_some();
        let mut from = span.start;
        while from < span.end {
            let end = (from..span.end.min(from + TOKENS)).find(|c| !is_seen(*c));
            let end = end.unwrap_or(span.end.min(from + TOKENS));
            if from < end {
                f(from..end);
            }
            from = end.max(from + 1);
        }
    }

    /// The projections; β = sigmoid(W x); α = exp(A softplus(W x + dt_bias)); the gate.
    fn inputs(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let (isa, input) = (pass.stages.isa, &s.input.acts);
        let beta = |beta: &mut Share<'_, f32>| {
            simd!(isa, {
                for c in beta.columns() {
                    beta.column(c).iter_mut().for_each(|beta| *beta = sigmoid(*beta));
                }
            });
        };
        let faded = |x: &mut Share<'_, f32>| {
            let own = x.rows();
            for c in x.columns() {
                for (x, row) in x.column(c).iter_mut().zip(own.clone()) {
                    let head = row % self.n_head;
                    *x = exp(self.a[head] * softplus(*x + self.dt_bias[head]));
                }
            }
        };
        let gated = |z: &mut Share<'_, f32>| self.gate.iter().for_each(|gate| gate.apply(isa, z));
        let inputs = self.inputs.iter().zip(&mut s.inputs);
        let inputs = inputs.map(|(own, panel)| Job::keep(own.matrices.all(), input, panel));
        let gate = self.gate.as_ref();
        let jobs = [
            Some(Job::apply(&self.in_beta, input, &mut s.beta, &beta)),
            Some(Job::apply(&self.in_dt, input, &mut s.decay, &faded)),
            gate.map(|gate| gate.branch.first(input, &mut s.gate, &gated)),
        ];
        pass.stages.project(inputs.chain(jobs.into_iter().flatten()));
        if let Some(job) = gate.and_then(|gate| gate.branch.second(&mut s.gate, &gated)) {
            pass.stages.project([job]);
        }
    }

    /// `out` = silu(conv(x)) of every memory's own tokens.
    fn shift(
        &self,
        pass: &mut Pass<'_>,
        i: usize,
        x: &Panel,
        out: &mut Panel,
        router: &RouterScratch,
    ) {
        let own = &self.inputs[i];
        let (rows, d_conv) = (padded(own.matrices.rows()), own.d_conv);
        let n_own = own.matrices.all().rows() / rows;
        let cut = Cut { rows: self.n_memory * rows, unit: WIDTH, bytes: 0 };
        let owned = Owned { panels: [out], acts: [] };
        pass.stages.rows_and_states(cut, owned, &mut pass.states, [own.windows], |piece| {
            let Piece { isa, batch, own: piece, panels: [mut out], states: [mut windows], .. } =
                piece;
            for (run, span) in batch.spans.iter().enumerate() {
                let windows = windows.get(run);
                let mut at = piece.start;
                while at < piece.end {
                    let (memory, from) = (at / rows, at % rows);
                    let to = rows.min(from + piece.end - at);
                    let source = memory % n_own * rows;
                    let first = at - piece.start;
                    let window = (d_conv - 1) * first..(d_conv - 1) * (first + to - from);
                    let channels = at..at + to - from;
                    self.seen(router, span.clone(), memory, |columns| {
                        let x = x.view(columns.clone(), source + from..source + to);
                        let mut y = out.view_mut(columns, channels.clone());
                        (0..x.len()).for_each(|c| y.at(c).copy_from_slice(x.at(c)));
                        causal_conv(
                            isa,
                            Convolution {
                                windows: &mut windows[window.clone()],
                                taps: &own.taps[from * d_conv..to * d_conv],
                                bias: &own.bias[from..to],
                                x: y.view_mut(),
                            },
                        );
                        simd!(isa, {
                            for c in 0..y.len() {
                                y.at(c).iter_mut().for_each(|y| *y = silu(*y));
                            }
                        });
                    });
                    at += to - from;
                }
            }
        });
    }

    /// One head of one memory over the tokens of a run that it sees.
    fn head(
        &self,
        head: Head<'_, 1>,
        [q, k, v]: &[Panel; 3],
        [beta, decay]: [&Panel; 2],
        router: &RouterScratch,
    ) {
        let Head { isa, own, columns, panels: [mut y], mut state, .. } = head;
        let (d_key, d_head) = (self.d_key, self.d_head);
        let (memory, head) = (own.start / d_head / self.n_head, own.start / d_head % self.n_head);
        let [_, keys, values] =
            self.inputs.each_ref().map(|input| memory * padded(input.matrices.rows()));
        let row = memory % (self.in_beta.rows() / self.n_head) * self.n_head + head;
        let scale = 1.0 / (d_key as f32).sqrt();
        let (keys, values) = (keys + head * d_key, values + head * d_head);
        self.seen(router, columns.clone(), memory, |some| {
            let mut y = y.part(some.start - columns.start..some.end - columns.start);
            let q = q.view(some.clone(), keys..keys + d_key);
            let tokens = DeltaRule {
                q,
                k: k.view(some.clone(), keys..keys + d_key),
                v: v.view(some.clone(), values..values + d_head),
                beta: beta.view(some.clone(), row..row + 1),
                decay: Decay::PerHead(decay.view(some, row..row + 1)),
                share: 1.0,
                y: y.view_mut(),
            };
            tokens.run(isa, &mut state);
            simd!(isa, {
                for c in 0..q.len() {
                    let inverse_length = inverse_length(q.at(c), scale);
                    y.at(c).iter_mut().for_each(|y| *y *= inverse_length);
                }
            });
        });
    }

    /// `out` = norm(Σ w y) · gate, over the memories that a token sees.
    fn sum(
        &self,
        pass: &mut Pass<'_>,
        [y, gate]: [&Panel; 2],
        router: &RouterScratch,
        sum: &mut Panel,
        out: &mut ActivationBuffer,
    ) {
        let (d_head, width) = (self.d_head, self.n_head * self.d_head);
        let cut = Cut { rows: width, unit: lcm(d_head, GROUP), bytes: 0 };
        pass.stages.rows(cut, Owned { panels: [sum], acts: [out] }, |piece| {
            let Piece { isa, own, panels: [mut sum], acts: [mut out], .. } = piece;
            for c in sum.columns() {
                sum.column(c).fill(0.0);
                for memory in 0..self.n_memory {
                    let Some(weight) = self.weight(router, c, memory) else { continue };
                    let own = memory * width + own.start..memory * width + own.end;
                    let (sum, y) = (sum.column(c), &y.column(c)[own]);
                    simd!(isa, update(sum, y, |sum, y| sum + weight * y));
                }
                self.norm(isa, sum.column(c), (own.clone(), gate.column(c)));
            }
            prepare(isa, &mut sum, &mut out);
        });
    }

    /// y = y / √(mean(y²) + eps) · w · gate, head by head, in the rows `own` of the gate's.
    fn norm(&self, isa: Isa, y: &mut [f32], (own, gate): (Range<usize>, &[f32])) {
        simd!(isa, {
            for (y, at) in y.chunks_exact_mut(self.d_head).zip(own.step_by(self.d_head)) {
                let inverse = inverse_rms(y, self.norm_eps);
                update(y, &self.out_norm, |y, w| y * inverse * w);
                if self.gate.is_some() {
                    update(y, &gate[at..at + self.d_head], |y, gate| y * gate);
                }
            }
        });
    }
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    input: InputScratch,
    router: RouterScratch,
    /// q, k, v as they are projected; behind the convolutions, of every memory.
    inputs: [Panel; 3],
    shifted: [Panel; 3],
    /// β and α (n_head) of each memory, or of all.
    beta: Panel,
    decay: Panel,
    /// (n_head d_head)
    gate: BranchScratch,
    /// (n_memory n_head d_head)
    y: Panel,
    /// (n_head d_head)
    sum: Panel,
    gated: ActivationBuffer,
}
