//! Rodimus (He et al. 2024, arXiv 2410.06577, eq. 10–13): one state of all channels, whose rows
//! fade and are written by gates with a temperature of their own. Reference: fla
//! `layers/rodimus.py`. Test: `tests/parity_linear.rs`.
//!
//! All values share keys, queries and decays, so that any channels of the state are a head for
//! itself: it is cut into heads that the team can share.

use super::{
    Bias, CausalConv, Head, Heads, Input, InputScratch, LowRank, LowRankScratch, MAX_CONV, Output,
    Part, WideNorm, gate, padded,
};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::forms::GROUP;
use crate::kernels::lanes::{dot, update, update2};
use crate::kernels::math::{exp, ln_softplus, sigmoid, softplus};
use crate::kernels::recurrence::{Decay, Read, Span, linear_attention};
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::{DecayOp, Formula, Function, List, OfHead, of, one_of};
use crate::stage::{Activation, Cut, Job, Owned, Piece, prepare};
use crate::team::Share;
use crate::tensor::{Matrix, Vector, acts_for};

/// The largest head that the state is cut into.
const LARGEST: usize = 64;

/// The weights of one layer.
pub(crate) struct Rodimus {
    d_inner: usize,
    d_key: usize,
    input: Input,
    /// (d_inner, d_model) each
    in_up: Matrix,
    in_z: Matrix,
    conv: CausalConv,
    /// (d_key, d_inner) each
    in_q: Matrix,
    in_k: Matrix,
    /// The gate and its temperature, and their biases (d_key).
    in_gate: (Matrix, Vector),
    in_tau: (Matrix, Vector),
    /// The gate of values, (d_inner, d_inner) through a low rank, and its bias.
    value_gate: LowRank,
    value_bias: Bias,
    /// The least length that a key is divided by.
    key_eps: f32,
    /// (d_inner)
    residual: Vector,
    norm: WideNorm,
    output: Output,
    /// State: S (heads, d_key, d_head).
    heads: Heads,
}

impl Part for Rodimus {
    const WORD: &'static str = "rodimus";
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<Rodimus> {
        let (config, d_model) = (source.config, source.config.d_model);
        let (d_inner, d_key) = (config.size("d_inner")?, config.size("d_key")?);
        let d_head = divisor(d_inner, LARGEST);
        let d_conv = config.size_up_to("d_conv", MAX_CONV)?;
        let keys = |name: &str| source.mat(name, d_key, d_inner);
        let gate = |name: &str| -> Result<(Matrix, Vector)> {
            Ok((keys(name)?, source.vector(&format!("{name}.bias"), d_key)?))
        };
        let rank = config.size("rank_value_gate")?;
        let halves = ["value_gate.a", "value_gate.b"];
        Ok(Rodimus {
            d_inner,
            d_key,
            input: Input::load(source, "mixer_norm")?,
            in_up: source.mat("in_proj.up", d_inner, d_model)?,
            in_z: source.mat("in_proj.z", d_inner, d_model)?,
            conv: CausalConv::load(source, ("conv", "in_proj.up"), d_inner, d_conv)?,
            in_q: keys("inner.q")?,
            in_k: keys("inner.k")?,
            in_gate: gate("inner.gate")?,
            in_tau: gate("inner.tau")?,
            value_gate: LowRank::load(source, halves, d_inner, rank, d_inner)?,
            value_bias: Bias::load(source, "value_gate.bias", d_inner)?,
            key_eps: config.float("key_eps")?,
            residual: source.vector("residual", d_inner)?,
            norm: WideNorm::load(source, d_inner, config.float("norm_eps")?)?,
            output: Output::load(source, "out_proj", d_inner)?,
            heads: Heads::load(source, "linear", (d_inner, d_head), d_key)?,
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        let readers = layers.clone().flat_map(|l| [&l.in_up, &l.in_z]);
        let of_inner = layers.clone().map(|l| &l.value_gate.first);
        let of_shifted = layers.clone().flat_map(|l| [&l.in_q, &l.in_k, &l.in_gate.0, &l.in_tau.0]);
        let size = |of: fn(&Self) -> usize| layers.clone().map(of).max().unwrap_or(0);
        let (inner, key) = (size(|l| l.d_inner), size(|l| l.d_key));
        let panel = |rows| Panel::new(rows, workspace);
        Scratch {
            input: InputScratch::new(workspace, readers),
            u: panel(padded(inner)),
            u_acts: acts_for(workspace, of_inner),
            z: panel(padded(inner)),
            shifted: panel(padded(inner)),
            shifted_acts: acts_for(workspace, of_shifted),
            keys: [(); 4].map(|()| panel(key)),
            v: LowRankScratch::new(workspace, padded(inner), layers.clone().map(|l| &l.value_gate)),
            y: panel(inner),
            normed: acts_for(workspace, layers.map(|l| &l.output.weight)),
        }
    }

    fn read(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
    }

    /// x += W_out norm((Sᵀ q + residual · c) · silu(z)).
    fn add(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let (isa, input) = (pass.stages.isa, &s.input.acts);
        let gated = |z: &mut Share<'_, f32>| gate(isa, &Bias::default(), z);
        pass.stages.project([
            Job::prepare(&self.in_up, input, &mut s.u, Activation::Identity, &mut s.u_acts),
            Job::apply(&self.in_z, input, &mut s.z, &gated),
        ]);
        self.shift(pass, s);
        self.inner(pass, s);
        let Scratch { shifted, z, keys: [q, k, decay, _], v, y, .. } = s;
        let inputs = [&*q, k, decay, &v.out, shifted, z];
        let owned = Owned { panels: [y], acts: [] };
        let (stages, states) = (&mut pass.stages, &mut pass.states);
        self.heads.forward(stages, states, 0, owned, |_, _, _| {}, |h| self.head(h, inputs));
        self.norm.forward(pass, &mut s.y, None, &mut s.normed);
        self.output.forward(pass, &s.normed);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let (input, d_inner) = (self.input.list(list), self.d_inner);
        let [u, shifted] = ["u", "shifted"].map(|name| list.values(name, padded(d_inner)));
        list.project_to(u, &self.in_up, input);
        let z = list.project("z", &self.in_z, input);
        list.map(z, of(z).apply(Function::Silu));
        let of_u = list.pack("u input", d_inner, of(u));
        list.map(shifted, of(u));
        self.conv.list(list, shifted);
        let c = list.pack("shifted input", d_inner, of(shifted));
        let (q, k) = (list.project("q", &self.in_q, c), list.project("k", &self.in_k, c));
        let (in_gate, in_tau) = (&self.in_gate, &self.in_tau);
        let [g, tau] = [("decay", in_gate), ("tau", in_tau)].map(|(name, (w, bias))| {
            let y = list.project(name, w, c);
            list.map(y, of(y) + bias);
            y
        });
        let names = ["value low", "value input", "v"];
        let v = self.value_gate.list(list, names, of_u, None);
        list.map(v, self.value_bias.of(v).apply(Function::Sigmoid) * u);
        // q / √d_key; k / |k| · G^τ; the decay exp(−G τ).
        list.map(q, of(q) * (1.0 / (self.d_key as f32).sqrt()));
        let square = list.sum("k square", of(k) * k, (self.d_key, self.d_key));
        let length = of(square).apply(Function::Sqrt).at_least(self.key_eps);
        list.map(square, Formula::from(1.0) / length);
        list.map(tau, of(tau).apply(Function::Sigmoid));
        let power = (of(tau) * of(g).apply(Function::LnSoftplus)).apply(Function::Exp);
        list.map(k, of(k) * (one_of((square, 0), self.d_key) * power));
        list.map(g, (-of(g).apply(Function::Softplus) * tau).apply(Function::Exp));
        // All heads have the same keys.
        let y = list.values("heads", d_inner);
        let share = d_inner / self.heads.d_head_of();
        let of_all = |from| OfHead { from, first: 0, step: 0, share };
        let rkv = [of_all(q), of_all(k), OfHead::own(v, self.heads.d_head_of())];
        list.heads(self.heads.list(self.d_key, rkv, DecayOp::PerKey(of_all(g)), y));
        list.map(y, (of(y) + of(shifted) * &self.residual) * z);
        let normed = self.norm.list(list, y, None);
        self.output.list(list, normed);
    }
}

impl Rodimus {
    /// c = silu(conv(u)).
    fn shift(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let Scratch { u, shifted, shifted_acts, .. } = s;
        let cut = Cut { rows: shifted.rows(), unit: GROUP, bytes: 0 };
        let owned = Owned { panels: [shifted], acts: [shifted_acts] };
        pass.stages.rows_and_states(cut, owned, &mut pass.states, [self.conv.window], |piece| {
            let Piece { isa, batch, own, panels: [mut c], acts: [mut acts], states: [window] } =
                piece;
            for column in c.columns() {
                c.column(column).copy_from_slice(&u.column(column)[own.clone()]);
            }
            self.conv.forward(isa, batch, &mut c, window);
            prepare(isa, &mut c, &mut acts);
        });
    }

    /// Queries, keys and decays of c; v = sigmoid(W u + bias) · u.
    fn inner(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let Scratch { u, u_acts, shifted_acts: c, keys: [q, k, g, tau], v, .. } = s;
        pass.stages.project([
            Job::keep(&self.in_q, c, q),
            Job::keep(&self.in_k, c, k),
            Job::keep(&self.in_gate.0, c, g),
            Job::keep(&self.in_tau.0, c, tau),
            self.value_gate.first(u_acts, Activation::Identity, v),
        ]);
        let (isa, tau) = (pass.stages.isa, &*tau);
        let LowRankScratch { hidden, out, .. } = v;
        pass.stages.project([self.value_gate.second_apply(hidden, out, &|v| {
            let own = v.rows();
            for c in v.columns() {
                let (v, u) = (v.column(c), &u.column(c)[own.clone()]);
                simd!(isa, {
                    self.value_bias.add(own.start, v);
                    update(v, u, |gate, u| sigmoid(gate) * u);
                });
            }
        })]);
        let owned = Owned { panels: [q, k, g], acts: [] };
        pass.stages.columns(pass.stages.batch.columns, owned, |piece| {
            let Piece { isa, own, panels: [mut q, mut k, mut g], .. } = piece;
            for c in own {
                let keys = 0..self.d_key;
                let [q, k, g] = [&mut q, &mut k, &mut g].map(|x| &mut x.column(c)[keys.clone()]);
                simd!(isa, self.gates(q, k, g, &tau.column(c)[keys]));
            }
        });
    }

    /// Of one token: q = q / √d_key; with G = softplus(g + bias) and τ = sigmoid(tau + bias), k =
    /// k / |k| · G^τ and g = exp(−G τ), its decay.
    #[inline(always)]
    fn gates(&self, q: &mut [f32], k: &mut [f32], g: &mut [f32], tau: &[f32]) {
        let scale = 1.0 / (self.d_key as f32).sqrt();
        q.iter_mut().for_each(|q| *q *= scale);
        let length = dot(k, k).sqrt();
        let inverse = 1.0 / if length < self.key_eps { self.key_eps } else { length };
        let biases = self.in_gate.1.iter().zip(&self.in_tau.1[..]);
        for (((k, g), tau), (g_bias, tau_bias)) in k.iter_mut().zip(g).zip(tau).zip(biases) {
            let (x, tau) = (*g + g_bias, sigmoid(tau + tau_bias));
            *k *= inverse * exp(tau * ln_softplus(x));
            *g = exp(-softplus(x) * tau);
        }
    }

    /// One head over the tokens of a run.
    fn head(&self, head: Head<'_, 1>, [q, k, decay, v, shifted, z]: [&Panel; 6]) {
        let Head { isa, own, columns, panels: [mut y], mut state, .. } = head;
        let [q, k, decay] = [q, k, decay].map(|x| x.view(columns.clone(), 0..self.d_key));
        let [v, shifted, z] = [v, shifted, z].map(|x| x.view(columns.clone(), own.clone()));
        // S = diag(decay) S + k vᵀ; y = Sᵀ q.
        linear_attention(
            isa,
            &mut state,
            Span {
                r: q,
                k,
                v,
                scale: None,
                decay: Decay::PerKey(decay),
                delta: None,
                read: Read::After,
                y: y.view_mut(),
            },
        );
        // y = (y + residual · c) · silu(z).
        let residual = &self.residual[own];
        simd!(isa, {
            for c in 0..y.len() {
                update2(y.at(c), shifted.at(c), residual, |y, c, w| y + c * w);
                update(y.at(c), z.at(c), |y, z| y * z);
            }
        });
    }
}

/// The largest divisor of `n` that is a power of two up to `most`.
fn divisor(n: usize, most: usize) -> usize {
    most.min(1 << n.trailing_zeros())
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    input: InputScratch,
    /// (d_inner)
    u: Panel,
    u_acts: ActivationBuffer,
    z: Panel,
    /// c (d_inner)
    shifted: Panel,
    shifted_acts: ActivationBuffer,
    /// q, k, the gate and then the decay, τ (d_key)
    keys: [Panel; 4],
    /// (d_inner)
    v: LowRankScratch,
    y: Panel,
    normed: ActivationBuffer,
}
