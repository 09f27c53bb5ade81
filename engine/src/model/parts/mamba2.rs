//! Mamba-2 (Dao & Gu 2024, arXiv 2405.21060; reference: mamba_ssm `modules/mamba2.py`), alone or as
//! the mixer of a hybrid; with levels, log-linear Mamba-2 (Guo et al. 2025, arXiv 2506.04761).
//!
//! Three stages per layer meet the team when decoding: the projections with the convolution, the
//! heads, the output. Both norms are taken by columns, on the spot for a few and by the team for a
//! prompt's. Test: `tests/parity_mamba.rs`, `tests/mamba_odd_sizes.rs`, `tests/parity_hybrid.rs`.

use std::ops::Range;

use super::mamba1::{list_without_small, without_small};
use super::{
    Bias, CausalConv, Head, Heads, Input, InputScratch, LevelWeights, MAX_CONV, Output, Part, gate,
    padded,
};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::lanes::{update, update2};
use crate::kernels::math::{exp, softplus};
use crate::kernels::norm::inverse_rms;
use crate::kernels::recurrence::{
    Decay, Levels, Read, Span, linear_attention, log_linear_attention,
};
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::{
    DecayOp, Function, HeadsOp, LevelsOp, List, NormOp, OfHead, of, rows, weight_of_head,
};
use crate::stage::{Job, Owned, Piece};
use crate::state::MAX_STATE;
use crate::team::Share;
use crate::tensor::{Matrix, Vector, acts_for};

/// The weights of one layer.
pub(crate) struct Mamba2 {
    sizes: Sizes,
    input: Input,
    /// (d_inner, d_model)
    in_z: Matrix,
    z_bias: Bias,
    /// (d_inner + 2 n_group d_state, d_model): x, B, C.
    in_xbc: Matrix,
    conv: CausalConv,
    /// (n_head, d_model)
    in_dt: Matrix,
    /// (n_head) each; A is negative.
    dt_bias: Vector,
    a: Vector,
    d: Vector,
    /// (n_head): a smaller Δ is 0, in files that were made for longer texts.
    dt_least: Option<Vector>,
    dt_min: f32,
    dt_max: f32,
    /// (d_inner); absent where y is only gated.
    gated_norm: Option<Vector>,
    norm_before_gate: bool,
    norm_eps: f32,
    output: Output,
    /// Absent where a head has one state.
    levels: Option<LevelWeights>,
    /// State: h (n_head, d_state, d_head), or one for each level (n_head, n_level d_state, d_head).
    heads: Heads,
}

/// The sizes of one layer.
#[derive(Clone, Copy)]
struct Sizes {
    d_inner: usize,
    n_head: usize,
    d_head: usize,
    n_group: usize,
    /// Groups that are normed each for themselves.
    n_norm: usize,
    d_state: usize,
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    input: InputScratch,
    /// silu(z) (d_inner)
    gate: Panel,
    /// x, B, C after the convolution (d_inner + 2 n_group d_state)
    xbc: Panel,
    /// Δ, exp(Δ A) (n_head)
    dt: Panel,
    decay: Panel,
    /// (n_head n_level)
    levels: Panel,
    /// (d_inner)
    y: Panel,
    gated: ActivationBuffer,
}

impl Part for Mamba2 {
    const WORD: &'static str = "mamba2";
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<Mamba2> {
        let (config, d_model) = (source.config, source.config.d_model);
        let d_inner = config.size("d_inner")?;
        let d_head = Heads::d_head(config)?;
        let n_head = config.divide(d_inner, d_head, "d_head")?;
        let n_group = config.size("n_group")?;
        config.divide(n_head, n_group, "n_group")?;
        let n_norm = if config.flag("wide_norm")? { 1 } else { n_group };
        let levels = LevelWeights::load(source, n_head)?;
        let n_level = levels.as_ref().map_or(1, |levels| levels.n_level);
        let most = MAX_STATE / d_inner / config.n_layer / n_level;
        let d_state = config.size_up_to("d_state", most)?;
        let d_conv = config.size_up_to("d_conv", MAX_CONV)?;
        let n_conv = d_inner + 2 * n_group * d_state;
        Ok(Mamba2 {
            sizes: Sizes { d_inner, n_head, d_head, n_group, n_norm, d_state },
            input: Input::load(source, "norm")?,
            in_z: source.mat("in_proj.z", d_inner, d_model)?,
            z_bias: Bias::load(source, "in_proj.z.bias", d_inner)?,
            in_xbc: source.mat("in_proj.xbc", n_conv, d_model)?,
            conv: CausalConv::load(source, ("conv", "in_proj.xbc"), n_conv, d_conv)?,
            in_dt: source.mat("in_proj.dt", n_head, d_model)?,
            dt_bias: source.vector("dt_bias", n_head)?,
            a: source.vector("A", n_head)?,
            d: source.vector("D", n_head)?,
            dt_least: source.optional_vector("dt_least", n_head)?,
            dt_min: config.optional_float("dt_min")?.unwrap_or(0.0),
            dt_max: config.optional_float("dt_max")?.unwrap_or(f32::INFINITY),
            gated_norm: source.optional_vector("gated_norm.weight", d_inner)?,
            norm_before_gate: config.flag("norm_before_gate")?,
            norm_eps: config.float("norm_eps")?,
            output: Output::load_with_bias(source, "out_proj", d_inner)?,
            levels,
            heads: Heads::load(source, "ssm", (d_inner, d_head), n_level * d_state)?,
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        let size = |of: fn(&Mamba2) -> usize| layers.clone().next().map_or(0, of);
        let levels = layers.clone().filter_map(|l| l.levels.as_ref());
        let readers = layers.clone().flat_map(|l| [&l.in_z, &l.in_xbc, &l.in_dt]);
        let readers = readers.chain(levels.clone().map(|levels| &levels.in_levels));
        Scratch {
            input: InputScratch::new(workspace, readers),
            gate: Panel::new(size(|l| padded(l.sizes.d_inner)), workspace),
            xbc: Panel::new(size(|l| padded(l.in_xbc.rows())), workspace),
            dt: Panel::new(size(|l| l.sizes.n_head), workspace),
            decay: Panel::new(size(|l| l.sizes.n_head), workspace),
            levels: LevelWeights::scratch(workspace, levels),
            y: Panel::new(size(|l| l.sizes.d_inner), workspace),
            gated: acts_for(workspace, layers.clone().map(|l| &l.output.weight)),
        }
    }

    fn read(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
    }

    fn add(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.inputs(pass, s);
        self.heads.forward(
            &mut pass.stages,
            &mut pass.states,
            0,
            Owned { panels: [&mut s.y], acts: [] },
            |_, _, _| {},
            |head| self.head(head, &s.xbc, &s.gate, [&s.dt, &s.decay, &s.levels]),
        );
        self.gated_norm(pass, s);
        self.output.forward(pass, &s.gated);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let Sizes { d_inner, n_head, d_head, n_group, n_norm, d_state } = self.sizes;
        let input = self.input.list(list);
        let gate = list.project("gate", &self.in_z, input);
        list.map(gate, self.z_bias.of(gate).apply(Function::Silu));
        let xbc = list.values("xbc", padded(self.in_xbc.rows()));
        list.project_to(xbc, &self.in_xbc, input);
        self.conv.list(list, xbc);
        let dt = list.project("dt", &self.in_dt, input);
        let step = (of(dt) + &self.dt_bias).apply(Function::Softplus);
        list.map(dt, step.at_least(self.dt_min).at_most(self.dt_max));
        if let Some(least) = &self.dt_least {
            list_without_small(list, dt, least);
        }
        let decay = list.values("decay", n_head);
        list.map(decay, (of(dt) * &self.a).apply(Function::Exp));
        // h = exp(Δ A) h + (Δ x) Bᵀ; y = h C.
        let share = n_head / n_group;
        let of_group = |first| OfHead { from: xbc, first, step: d_state, share };
        let k = of_group(d_inner);
        let r = of_group(d_inner + n_group * d_state);
        let y = list.values("heads", d_inner);
        let v = OfHead::own(xbc, d_head);
        match &self.levels {
            None => list.heads(HeadsOp {
                scale: Some(dt),
                ..self.heads.list(d_state, [r, k, v], DecayOp::PerHead(decay), y)
            }),
            Some(levels) => {
                let weights = levels.list(list, input);
                list.levels(LevelsOp {
                    n_head,
                    n_key: d_state,
                    n_value: d_head,
                    n_level: levels.n_level,
                    state: self.heads.state(),
                    r,
                    k,
                    v,
                    scale: dt,
                    decay,
                    weights,
                    y,
                });
            }
        }
        list.map(y, of(y) + weight_of_head(&self.d, d_head) * rows(xbc, 0));
        if self.gated_norm.is_none() || !self.norm_before_gate {
            list.map(y, of(y) * gate);
        }
        let mut gated = of(y);
        if let Some(weight) = &self.gated_norm {
            let normed = list.values("heads normed", d_inner);
            let norm = NormOp::Rms { weight, eps: self.norm_eps };
            list.norm(normed, y, norm, d_inner / n_norm);
            gated = if self.norm_before_gate { of(normed) * gate } else { of(normed) };
        }
        let gated = list.pack("gated", d_inner, gated);
        self.output.list(list, gated);
    }
}

impl Mamba2 {
    /// (z, x B C, dt) = in_proj(norm(x)); gate = silu(z); (x, B, C) = silu(conv(x B C)); Δ =
    /// clamp(softplus(dt + bias)).
    fn inputs(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let (isa, batch, input) = (pass.stages.isa, pass.stages.batch, &s.input.acts);
        let window = pass.states.share(self.conv.window);
        let weigh = |x: &mut Share<'_, f32>| self.levels.iter().for_each(|l| l.apply(isa, x));
        let levels = self.levels.as_ref();
        let levels = levels.map(|l| Job::apply(&l.in_levels, input, &mut s.levels, &weigh));
        pass.stages.project(
            [
                Job::apply(&self.in_z, input, &mut s.gate, &|z| gate(isa, &self.z_bias, z)),
                Job::advance(&self.in_xbc, input, &mut s.xbc, window, &|x, window| {
                    self.conv.forward(isa, batch, x, window);
                }),
                Job::apply_with(&self.in_dt, input, &mut s.dt, &mut s.decay, &|dt, decay| {
                    self.steps(isa, dt, decay);
                }),
            ]
            .into_iter()
            .chain(levels),
        );
    }

    /// Δ = clamp(softplus(dt + bias)) and exp(Δ A).
    fn steps(&self, isa: Isa, dt: &mut Share<'_, f32>, decay: &mut Share<'_, f32>) {
        let own = dt.rows();
        simd!(isa, {
            for c in dt.columns() {
                let (dt, decay) = (dt.column(c), decay.column(c));
                update(dt, &self.dt_bias[own.clone()], |dt, b| self.clamp(softplus(dt + b)));
                if let Some(least) = &self.dt_least {
                    update(dt, &least[own.clone()], without_small);
                }
                update2(decay, dt, &self.a[own.clone()], |_, dt, a| exp(dt * a));
            }
        });
    }

    /// Δ within the model's limits.
    #[inline(always)]
    fn clamp(&self, dt: f32) -> f32 {
        let dt = if dt < self.dt_min { self.dt_min } else { dt };
        if dt > self.dt_max { self.dt_max } else { dt }
    }

    /// One head over the tokens of a run; the gate, too, where it comes before the norm.
    fn head(&self, head: Head<'_, 1>, xbc: &Panel, gate: &Panel, [dt, decay, levels]: [&Panel; 3]) {
        let Head { isa, own, columns, panels: [mut y], position, mut state, .. } = head;
        let Sizes { d_inner, n_head, d_head, n_group, d_state, .. } = self.sizes;
        let head = own.start / d_head;
        let b = d_inner + head / (n_head / n_group) * d_state;
        let xbc = |rows: Range<usize>| xbc.view(columns.clone(), rows);
        let [dt, decay] = [dt, decay].map(|x| x.view(columns.clone(), head..head + 1));
        let (x, d) = (xbc(own.clone()), self.d[head]);
        let (k, r) = (xbc(b..b + d_state), xbc(b + n_group * d_state..b + (n_group + 1) * d_state));
        // h = exp(Δ A) h + (Δ x) Bᵀ; y = h C.
        let span = Span {
            r,
            k,
            v: x,
            scale: Some(dt),
            decay: Decay::PerHead(decay),
            delta: None,
            read: Read::After,
            y: y.view_mut(),
        };
        match &self.levels {
            None => linear_attention(isa, &mut state, span),
            Some(LevelWeights { n_level, .. }) => {
                let weights = levels.view(columns.clone(), head * n_level..(head + 1) * n_level);
                let Span { r, k, v, y, .. } = span;
                let first = position;
                let span = Levels { r, k, v, scale: dt, decay, weights, first, y };
                log_linear_attention(isa, &mut state, span);
            }
        }
        let gate = gate.view(columns.clone(), own);
        simd!(isa, {
            for c in 0..y.len() {
                update(y.at(c), x.at(c), |y, x| y + d * x); // y = y + D x
                if self.gated_norm.is_none() || !self.norm_before_gate {
                    update(y.at(c), gate.at(c), |y, gate| y * gate);
                }
            }
        });
    }

    /// y = y / √(mean(y²) + eps) · w over each group of heads, y gated before it or after it.
    fn gated_norm(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let Sizes { d_inner, n_norm, .. } = self.sizes;
        let gate = &s.gate;
        let owned = Owned { panels: [&mut s.y], acts: [&mut s.gated] };
        pass.stages.columns(pass.stages.batch.columns, owned, |piece| {
            let Piece { isa, own, panels: [mut y], acts: [mut gated], .. } = piece;
            for c in own {
                let (y, gate) = (&mut y.column(c)[..d_inner], gate.column(c));
                if let Some(weight) = &self.gated_norm {
                    simd!(isa, {
                        let n = d_inner / n_norm;
                        for (y, weight) in y.chunks_exact_mut(n).zip(weight.chunks_exact(n)) {
                            let inverse = inverse_rms(y, self.norm_eps);
                            update(y, weight, |y, weight| y * inverse * weight);
                        }
                        if self.norm_before_gate {
                            update(y, gate, |y, gate| y * gate);
                        }
                    });
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
}
