//! RWKV-7 "Goose" (Peng et al. 2025, arXiv 2503.14456; reference: RWKV-LM
//! `RWKV-v7/rwkv_v7_numpy.py`).
//!
//! Five stages per layer meet the team: the projections, the heads, the output; the channel mix's
//! key and value. Test: `tests/parity_rwkv.rs`.

use std::ops::Range;

use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::lanes::{dot, update, update2};
use crate::kernels::math::{exp, sigmoid};
use crate::kernels::norm::layer_norm_in_place;
use crate::kernels::recurrence::{Decay, Delta, Read, Span, linear_attention};
use crate::kernels::simd::simd;
use crate::model::parts::{
    ChannelMix, ChannelMixScratch, Head, Heads, LowRank, LowRankScratch, Output, TokenShift, Weighs,
};
use crate::model::{Layer, Pass, Source};
use crate::ops::{DecayOp, DeltaOp, Formula, Function, HeadsOp, List, NormOp, OfHead, of, of_head};
use crate::stage::{Activation, Job, Owned};
use crate::tensor::{Matrix, Vector, acts_for};

/// e^-½, the bound of the decay's exponent (reference: `exp(-0.606531 * sigmoid(w))`).
const DECAY_BOUND: f32 = 0.606_530_66;
/// Least norm of a normalized key (torch `normalize`).
const MIN_NORM: f32 = 1e-12;

/// The weights of one layer. Matrices are (d_model, d_model), vectors (d_model).
pub(crate) struct Rwkv7 {
    shift: TokenShift,
    /// Mixing of x with the token before, for r, w, k, v, a, g.
    x_r: Vector,
    x_w: Vector,
    x_k: Vector,
    x_v: Vector,
    x_a: Vector,
    x_g: Vector,
    receptance: Matrix,
    key: Matrix,
    value: Matrix,
    output: Output,
    w: LowRank,
    a: LowRank,
    g: LowRank,
    /// How much of v_first enters v; absent in the first layer, whose v is v_first.
    v: Option<(LowRank, Vector)>,
    w0: Vector,
    a0: Vector,
    k_k: Vector,
    k_a: Vector,
    r_k: Vector,
    ln_x_weight: Vector,
    ln_x_bias: Vector,
    ln_x_eps: f32,
    /// State: (n_head, d_head keys, d_head values).
    heads: Heads,
    channel_mix: ChannelMix,
}

/// Buffers of a forward pass, one column per token (d_model).
pub(crate) struct Scratch {
    normed: Panel,
    xr: ActivationBuffer,
    xk: ActivationBuffer,
    xv: ActivationBuffer,
    xw: ActivationBuffer,
    xa: ActivationBuffer,
    xg: ActivationBuffer,
    w: LowRankScratch,
    a: LowRankScratch,
    g: LowRankScratch,
    v_gate: LowRankScratch,
    r: Panel,
    k: Panel,
    v: Panel,
    kk: Panel,
    y: Panel,
    gated: ActivationBuffer,
    channel_mix: ChannelMixScratch,
}

/// The number of [`Panels`].
const PANELS: usize = 9;

/// The panels of the heads: d_model rows, one column per token. `y` becomes the output's input.
struct Panels<T> {
    y: T,
    k: T,
    v: T,
    kk: T,
    w: T,
    a: T,
    g: T,
    v_gate: T,
    v_first: T,
}

impl<T> Panels<T> {
    /// `y` is the first, as [`Heads::forward`] asks.
    fn in_order(self) -> [T; PANELS] {
        let Panels { y, k, v, kk, w, a, g, v_gate, v_first } = self;
        [y, k, v, kk, w, a, g, v_gate, v_first]
    }

    /// The panels as [`Panels::in_order`] put them.
    #[inline(always)]
    fn named([y, k, v, kk, w, a, g, v_gate, v_first]: [T; PANELS]) -> Self {
        Panels { y, k, v, kk, w, a, g, v_gate, v_first }
    }
}

impl Layer for Rwkv7 {
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<Rwkv7> {
        let (config, c) = (source.config, source.config.d_model);
        let d_head = Heads::d_head(config)?;
        let vector = |name: &str| source.vector(&format!("att.{name}"), c);
        let mat = |name: &str| source.mat(&format!("att.{name}"), c, c);
        let low_rank = |letter: char| {
            let [first, second] = [1, 2].map(|half| format!("att.{letter}{half}"));
            LowRank::load(source, [&first, &second], c, config.size(&format!("rank_{letter}"))?, c)
        };
        Ok(Rwkv7 {
            shift: TokenShift::load(source, "ln1", "att.shift", Weighs::Previous)?,
            x_r: vector("x_r")?,
            x_w: vector("x_w")?,
            x_k: vector("x_k")?,
            x_v: vector("x_v")?,
            x_a: vector("x_a")?,
            x_g: vector("x_g")?,
            receptance: mat("receptance")?,
            key: mat("key")?,
            value: mat("value")?,
            output: Output::load(source, "att.output", c)?,
            w: low_rank('w')?,
            a: low_rank('a')?,
            g: low_rank('g')?,
            v: if source.layer == 0 { None } else { Some((low_rank('v')?, vector("v0")?)) },
            w0: vector("w0")?,
            a0: vector("a0")?,
            k_k: vector("k_k")?,
            k_a: vector("k_a")?,
            r_k: vector("r_k")?,
            ln_x_weight: vector("ln_x.weight")?,
            ln_x_bias: vector("ln_x.bias")?,
            ln_x_eps: config.float("ln_x_eps")?,
            heads: Heads::load(source, "att.wkv", (c, d_head), d_head)?,
            channel_mix: ChannelMix::load(source, "x", Weighs::Previous, false)?,
        })
    }

    fn scratch(layers: &[Rwkv7], workspace: &Workspace) -> Scratch {
        let d_model = layers.first().map_or(0, |l| l.key.cols());
        let panel = || Panel::new(d_model, workspace);
        let acts = |mat: fn(&Rwkv7) -> &Matrix| acts_for(workspace, layers.iter().map(mat));
        let low_rank = |of: fn(&Rwkv7) -> &LowRank| {
            LowRankScratch::new(workspace, d_model, layers.iter().map(of))
        };
        // The branch of v's gate reads what the value does.
        let gates = layers.iter().filter_map(|l| l.v.as_ref()).map(|(v, _)| &v.first);
        let of_v = layers.iter().map(|l| &l.value).chain(gates);
        let v_gates = layers.iter().filter_map(|l| l.v.as_ref().map(|(low_rank, _)| low_rank));
        Scratch {
            normed: panel(),
            xr: acts(|l| &l.receptance),
            xk: acts(|l| &l.key),
            xv: acts_for(workspace, of_v),
            xw: acts(|l| &l.w.first),
            xa: acts(|l| &l.a.first),
            xg: acts(|l| &l.g.first),
            w: low_rank(|l| &l.w),
            a: low_rank(|l| &l.a),
            g: low_rank(|l| &l.g),
            v_gate: LowRankScratch::new(workspace, d_model, v_gates),
            r: panel(),
            k: panel(),
            v: panel(),
            kk: panel(),
            y: panel(),
            gated: acts(|l| &l.output.weight),
            channel_mix: ChannelMixScratch::new(workspace, layers.iter().map(|l| &l.channel_mix)),
        }
    }

    fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.projections(pass, s);
        self.heads(pass, s);
        self.output.forward(pass, &s.gated);
        self.channel_mix.forward(pass, &mut s.channel_mix);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        self.list_time_mix(list);
        self.channel_mix.list(list);
    }

    fn second(&self) -> usize {
        self.value.rows()
    }
}

impl Rwkv7 {
    /// The time mix as operations.
    fn list_time_mix<'m>(&'m self, list: &mut List<'m>) {
        let (c, d_head) = (self.key.cols(), self.heads.d_head_of());
        let normed = self.shift.list_norm(list, "normed");
        let mut mixed = |name, m| list.pack(name, c, self.shift.mixture(normed, m));
        let (xr, xk, xv) = (mixed("xr", &self.x_r), mixed("xk", &self.x_k), mixed("xv", &self.x_v));
        let (xw, xa, xg) = (mixed("xw", &self.x_w), mixed("xa", &self.x_a), mixed("xg", &self.x_g));
        let r = list.project("r", &self.receptance, xr);
        let k = list.project("k", &self.key, xk);
        let v = list.project("v", &self.value, xv);
        let (tanh, sigmoid) = (Some(Function::Tanh), Some(Function::Sigmoid));
        let w_hidden = self.w.list_first(list, ["w low", "w hidden"], xw, tanh);
        let a_hidden = self.a.list_first(list, ["a low", "a hidden"], xa, None);
        let g_hidden = self.g.list_first(list, ["g low", "g hidden"], xg, sigmoid);
        let gate = self.v.as_ref().map(|(gate, v0)| {
            let hidden = gate.list_first(list, ["v low", "v hidden"], xv, None);
            (gate, hidden, v0)
        });
        self.shift.list_save(list, normed);
        let w = self.w.list_second(list, "w", w_hidden);
        let a = self.a.list_second(list, "a", a_hidden);
        let g = self.g.list_second(list, "g", g_hidden);
        let v_first = list.values("v first", c);
        match gate {
            None => list.map(v_first, of(v)),
            Some((gate, hidden, v0)) => {
                let gate = gate.list_second(list, "v gate", hidden);
                let gate = (Formula::from(v0) + gate).apply(Function::Sigmoid);
                list.map(v, of(v) + (of(v_first) - v) * gate);
            }
        }
        let fade = (Formula::from(&self.w0) + w).apply(Function::Sigmoid);
        list.map(w, (Formula::from(-DECAY_BOUND) * fade).apply(Function::Exp));
        list.map(a, (Formula::from(&self.a0) + a).apply(Function::Sigmoid));
        let kk = list.values("kk", c);
        list.map(kk, of(k) * &self.k_k);
        let square = list.sum("kk square", of(kk) * kk, (c, d_head));
        let norm = of_head(square, d_head).apply(Function::Sqrt).or_at_least(MIN_NORM);
        list.map(kk, -(of(kk) * (Formula::from(1.0) / norm)));
        list.map(k, of(k) * (Formula::from(1.0) + (of(a) - 1.0) * &self.k_a));
        list.map(a, -of(kk) * a);
        let y = list.values("heads", c);
        let own = |values| OfHead::own(values, d_head);
        list.heads(HeadsOp {
            delta: Some(DeltaOp::General { a: own(kk), b: own(a) }),
            ..self.heads.list(d_head, [r, k, v].map(own), DecayOp::PerKey(own(w)), y)
        });
        let bonus = list.sum("bonus", of(r) * (of(k) * &self.r_k), (c, d_head));
        let (weight, bias) = (&*self.ln_x_weight, &*self.ln_x_bias);
        list.norm(y, y, NormOp::Layer { weight, bias, eps: self.ln_x_eps }, d_head);
        let gated = list.pack("gated", c, (of(y) + of_head(bonus, d_head) * v) * g);
        self.output.list(list, gated);
    }

    /// r, k, v, and the first halves of w, a, g and the gate of v_first.
    fn projections(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.shift.forward(
            pass,
            &mut s.normed,
            [&self.x_r, &self.x_k, &self.x_v, &self.x_w, &self.x_a, &self.x_g],
            [&mut s.xr, &mut s.xk, &mut s.xv, &mut s.xw, &mut s.xa, &mut s.xg],
        );
        let v_gate = self
            .v
            .as_ref()
            .map(|(low_rank, _)| low_rank.first(&s.xv, Activation::Identity, &mut s.v_gate));
        let jobs = [
            Job::keep(&self.receptance, &s.xr, &mut s.r), // r = R xr
            Job::keep(&self.key, &s.xk, &mut s.k),        // k = K xk
            Job::keep(&self.value, &s.xv, &mut s.v),      // v = V xv
            self.w.first(&s.xw, Activation::Tanh, &mut s.w),
            self.a.first(&s.xa, Activation::Identity, &mut s.a),
            self.g.first(&s.xg, Activation::Sigmoid, &mut s.g),
        ];
        pass.stages.project(jobs.into_iter().chain(v_gate));
    }

    /// The second halves, the gates of every channel, and the heads.
    fn heads(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let Pass { stages, states, streams } = pass;
        let Scratch { r, k, v, kk, y, w, a, g, v_gate, gated, .. } = s;
        let (w_hidden, a_hidden, g_hidden) = (&w.hidden, &a.hidden, &g.hidden);
        let v_hidden = &v_gate.hidden;
        let (w, a, g, v_gate) = (&mut w.out, &mut a.out, &mut g.out, &mut v_gate.out);
        let panels = Panels { y, k, v, kk, w, a, g, v_gate, v_first: &mut streams.second };
        self.heads.forward(
            stages,
            states,
            self.second_len(),
            Owned { panels: panels.in_order(), acts: [gated] },
            |isa, own, panels| {
                let Panels { v, w, a, g, v_gate, v_first, .. } = Panels::named(panels.each_mut());
                self.w.second(isa, w_hidden, w);
                self.a.second(isa, a_hidden, a);
                self.g.second(isa, g_hidden, g);
                if let Some((low_rank, _)) = &self.v {
                    low_rank.second(isa, v_hidden, v_gate);
                }
                simd!(isa, {
                    for c in v.columns() {
                        let (v, v_first) = (v.column(c), v_first.column(c));
                        self.value_residual(own.clone(), v, v_first, v_gate.column(c));
                        self.gates(own.clone(), w.column(c), a.column(c));
                    }
                });
            },
            |head| self.head(head, r),
        );
    }

    /// Bytes of the second halves.
    fn second_len(&self) -> usize {
        let v = self.v.as_ref().map_or(0, |(v, _)| v.second_len());
        [&self.w, &self.a, &self.g].iter().fold(v, |sum, branch| sum + branch.second_len())
    }

    /// v = v + (v_first − v) · sigmoid(v0 + …); the first layer's v is v_first.
    #[inline(always)]
    fn value_residual(
        &self,
        own: Range<usize>,
        v: &mut [f32],
        v_first: &mut [f32],
        gate: &mut [f32],
    ) {
        match &self.v {
            None => v_first.copy_from_slice(v),
            Some((_, v0)) => {
                update(gate, &v0[own], |gate, v0| sigmoid(v0 + gate));
                update2(v, v_first, gate, |v, first, gate| v + (first - v) * gate);
            }
        }
    }

    /// w = exp(−e^−½ · sigmoid(w0 + …)); a = sigmoid(a0 + …).
    #[inline(always)]
    fn gates(&self, own: Range<usize>, w: &mut [f32], a: &mut [f32]) {
        update(w, &self.w0[own.clone()], |w, w0| exp(-DECAY_BOUND * sigmoid(w0 + w)));
        update(a, &self.a0[own], |a, a0| sigmoid(a0 + a));
    }

    /// One head over the tokens of a run.
    fn head(&self, head: Head<'_, PANELS>, r: &Panel) {
        let Head { isa, own, columns, panels, mut state, .. } = head;
        let Panels { mut y, mut k, v, mut kk, w, mut a, g, .. } = Panels::named(panels);
        let (r, v, w, g) = (r.view(columns.clone(), own.clone()), v.view(), w.view(), g.view());
        let [k_k, k_a, r_k] = [&self.k_k, &self.k_a, &self.r_k].map(|vector| &vector[own.clone()]);
        let (weight, bias) = (&self.ln_x_weight[own.clone()], &self.ln_x_bias[own]);
        simd!(isa, {
            for c in 0..columns.len() {
                let (k, kk, a) = (k.at(c), kk.at(c), a.at(c));
                update2(kk, k, k_k, |_, k, k_k| k * k_k); // kk = k · k_k
                let norm = dot(kk, kk).sqrt(); // kk = −kk / |kk|
                let inverse = 1.0 / if norm > MIN_NORM { norm } else { MIN_NORM };
                kk.iter_mut().for_each(|kk| *kk = -(*kk * inverse));
                // k = k (1 + (a − 1) k_a)
                update2(k, a, k_a, |k, a, k_a| k * (1.0 + (a - 1.0) * k_a));
                update(a, kk, |a, kk| -kk * a); // a = kk · a
            }
        });
        // S = S diag(w) − (S kk)(kk · a)ᵀ + v kᵀ; y = S r.
        linear_attention(
            isa,
            &mut state,
            Span {
                r,
                k: k.view(),
                v,
                scale: None,
                decay: Decay::PerKey(w),
                delta: Some(Delta::General { a: kk.view(), b: a.view() }),
                read: Read::After,
                y: y.view_mut(),
            },
        );
        simd!(isa, {
            for c in 0..columns.len() {
                let (y, k) = (y.at(c), k.at(c));
                update(k, r_k, |k, r_k| k * r_k); // bonus = Σ r · k · r_k
                let bonus = dot(r.at(c), k);
                layer_norm_in_place(y, weight, bias, self.ln_x_eps);
                // y = (norm(y) + bonus v) g
                update2(y, v.at(c), g.at(c), |y, v, g| (y + bonus * v) * g);
            }
        });
    }
}
