//! Heads with a delta rule: DeltaNet (Yang et al. 2024, arXiv 2406.06484) and Gated DeltaNet (Yang,
//! Kautz & Hatamizadeh 2024, arXiv 2412.06464, eq. 10; reference: fla `layers/delta_net.py`,
//! `layers/gated_deltanet.py`). Test: `tests/parity_delta.rs`.
//!
//! q and k are l2-normalised. Their lengths are numbers per token and head, so they are not divided
//! by them: k's goes to what is written for it, q's to what is read.

use super::{
    Bias, CausalConv, Head, Heads, Input, InputScratch, MAX_CONV, Output, Part, gate, padded,
};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::columns::Columns;
use crate::kernels::lanes::{dot, update, update2};
use crate::kernels::math::{exp, sigmoid, softplus};
use crate::kernels::norm::inverse_rms;
use crate::kernels::recurrence::{Decay, Delta, Read, Span, linear_attention};
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::stage::{Job, Owned};
use crate::state::StatesShare;
use crate::team::Share;
use crate::tensor::{Matrix, Vector, acts_for};

/// Below the root of q's and k's lengths: fla `modules/l2norm.py`.
const L2_EPS: f32 = 1e-6;

/// Tokens whose numbers stand on the stack while a head passes them.
const TOKENS: usize = 32;

/// The weights of one layer's heads.
pub(crate) struct DeltaHeads<const GATED: bool> {
    n_head: usize,
    n_key_head: usize,
    d_head: usize,
    d_key: usize,
    /// Value head h reads key head h mod n_key_head, not h / (n_head / n_key_head).
    is_tiled: bool,
    input: Input,
    /// (2 n_key_head d_key + n_head d_head, d_model): q, k, v.
    in_qkv: Matrix,
    conv: CausalConv,
    /// (n_head d_head, d_model); absent where y is only normed.
    in_z: Option<Matrix>,
    no_bias: Bias,
    /// (n_head, d_model)
    in_beta: Matrix,
    /// 1, or 2 where eigenvalues may be negative (Grazzi et al. 2024, arXiv 2411.12537).
    beta_scale: f32,
    decay: Option<GatedDecay>,
    /// (d_head)
    out_norm: Vector,
    norm_eps: f32,
    output: Output,
    /// State: S (n_head, d_key, d_head).
    heads: Heads,
}

/// α = exp(A softplus(W x + dt_bias)), one for each head.
struct GatedDecay {
    /// (n_head, d_model)
    in_dt: Matrix,
    /// (n_head) each; A is negative.
    dt_bias: Vector,
    a: Vector,
}

impl<const GATED: bool> Part for DeltaHeads<GATED> {
    const WORD: &'static str = "delta";
    type Scratch = Scratch;

    /// Reads heads with a decay, or without one.
    fn load(source: &Source<'_>) -> Result<Self> {
        let (config, d_model) = (source.config, source.config.d_model);
        let (n_head, n_key_head) = (config.size("n_head")?, config.size("n_key_head")?);
        config.divide(n_head, n_key_head, "n_key_head")?;
        let (d_head, d_key) = (Heads::d_head(config)?, config.size_up_to("d_key", 256)?);
        let d_conv = config.size_up_to("d_conv", MAX_CONV)?;
        let width = n_head * d_head;
        let n_conv = 2 * n_key_head * d_key + width;
        let decay = || -> Result<GatedDecay> {
            Ok(GatedDecay {
                in_dt: source.mat("in_proj.dt", n_head, d_model)?,
                dt_bias: source.vector("dt_bias", n_head)?,
                a: source.vector("A", n_head)?,
            })
        };
        Ok(DeltaHeads {
            n_head,
            n_key_head,
            d_head,
            d_key,
            is_tiled: config.flag("is_tiled")?,
            input: Input::load(source, "norm")?,
            in_qkv: source.mat("in_proj.qkv", n_conv, d_model)?,
            conv: CausalConv::load(source, "in_proj.qkv", n_conv, d_conv)?,
            in_z: if config.flag("has_gate")? {
                Some(source.mat("in_proj.z", width, d_model)?)
            } else {
                None
            },
            no_bias: Bias::default(),
            in_beta: source.mat("in_proj.beta", n_head, d_model)?,
            beta_scale: if config.flag("negative_eigenvalues")? { 2.0 } else { 1.0 },
            decay: if GATED { Some(decay()?) } else { None },
            out_norm: source.vector("out_norm.weight", d_head)?,
            norm_eps: config.float("out_norm_eps")?,
            output: Output::load(source, "out_proj", width)?,
            heads: Heads::load(source, "delta", (width, d_head), d_key)?,
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        let readers = layers.clone().flat_map(|l| {
            let decay = l.decay.as_ref().map(|decay| &decay.in_dt);
            [Some(&l.in_qkv), l.in_z.as_ref(), Some(&l.in_beta), decay].into_iter().flatten()
        });
        let of = |rows: fn(&Self) -> usize| {
            Panel::new(layers.clone().map(rows).max().unwrap_or(0), workspace)
        };
        Scratch {
            input: InputScratch::new(workspace, readers),
            qkv: of(|l| padded(l.in_qkv.rows())),
            gate: of(|l| l.in_z.as_ref().map_or(0, |z| padded(z.rows()))),
            beta: of(|l| l.n_head),
            decay: of(|l| l.decay.as_ref().map_or(0, |_| l.n_head)),
            y: of(|l| l.n_head * l.d_head),
            gated: acts_for(workspace, layers.clone().map(|l| &l.output.weight)),
        }
    }

    /// x += W_out heads(norm(x)).
    fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
        self.inputs(pass, s);
        let Scratch { qkv, gate, beta, decay, y, gated, .. } = s;
        self.heads.forward(
            &mut pass.stages,
            &mut pass.states,
            0,
            Owned { panels: [y], acts: [gated] },
            |_, _, _| {},
            |head| self.head(head, qkv, gate, beta, decay),
        );
        self.output.forward(pass, &s.gated);
    }
}

impl<const GATED: bool> DeltaHeads<GATED> {
    /// (q, k, v) = silu(conv(W x)); gate = silu(z); β = sigmoid(W x); α = exp(A softplus(W x + b)).
    fn inputs(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let (isa, batch, input) = (pass.stages.isa, pass.stages.batch, &s.input.acts);
        let window = pass.states.share(self.conv.window);
        let (convolve, silu, beta, alpha) = (
            |x: &mut Share<'_, f32>, window: StatesShare<'_>| {
                self.conv.forward(isa, batch, x, window);
            },
            |z: &mut Share<'_, f32>| gate(isa, &self.no_bias, z),
            |beta: &mut Share<'_, f32>| self.beta(isa, beta),
            |decay: &mut Share<'_, f32>| self.alpha(isa, decay),
        );
        let jobs = [
            Some(Job::advance(&self.in_qkv, input, &mut s.qkv, window, &convolve)),
            self.in_z.as_ref().map(|z| Job::apply(z, input, &mut s.gate, &silu)),
            Some(Job::apply(&self.in_beta, input, &mut s.beta, &beta)),
            self.decay.as_ref().map(|d| Job::apply(&d.in_dt, input, &mut s.decay, &alpha)),
        ];
        pass.stages.project(jobs.into_iter().flatten());
    }

    fn beta(&self, isa: Isa, beta: &mut Share<'_, f32>) {
        let scale = self.beta_scale;
        simd!(isa, {
            for c in beta.columns() {
                beta.column(c).iter_mut().for_each(|beta| *beta = scale * sigmoid(*beta));
            }
        });
    }

    fn alpha(&self, isa: Isa, decay: &mut Share<'_, f32>) {
        let Some(GatedDecay { dt_bias, a, .. }) = &self.decay else { return };
        let own = decay.rows();
        let (dt_bias, a) = (&dt_bias[own.clone()], &a[own]);
        simd!(isa, {
            for c in decay.columns() {
                update2(decay.column(c), dt_bias, a, |dt, bias, a| exp(a * softplus(dt + bias)));
            }
        });
    }

    /// One head over the tokens of a run.
    fn head(&self, head: Head<'_, 1>, qkv: &Panel, gate: &Panel, beta: &Panel, decay: &Panel) {
        let Head { isa, own, columns, panels: [mut y], mut state } = head;
        let (d_key, head) = (self.d_key, own.start / self.d_head);
        let keys = self.n_key_head * d_key;
        let key_head = match self.is_tiled {
            true => head % self.n_key_head,
            false => head / (self.n_head / self.n_key_head),
        };
        let k = key_head * d_key;
        let scale = 1.0 / (d_key as f32).sqrt();
        for from in (0..columns.len()).step_by(TOKENS) {
            let some = from..columns.len().min(from + TOKENS);
            let columns = columns.start + some.start..columns.start + some.end;
            let view = |rows| qkv.view(columns.clone(), rows);
            let (q, v) = (view(k..k + d_key), view(2 * keys + own.start..2 * keys + own.end));
            let k = view(keys + k..keys + k + d_key);
            let beta = beta.view(columns.clone(), head..head + 1);
            // Of every token: what v is multiplied by, what the reading, what y.
            let (mut to_v, mut to_old, mut to_y) = ([0.0; TOKENS], [0.0; TOKENS], [0.0; TOKENS]);
            simd!(isa, {
                for c in 0..k.len() {
                    let length = 1.0 / (dot(k.at(c), k.at(c)) + L2_EPS).sqrt();
                    to_v[c] = beta.at(c)[0] * length;
                    to_old[c] = -(to_v[c] * length);
                    to_y[c] = scale / (dot(q.at(c), q.at(c)) + L2_EPS).sqrt();
                }
            });
            let number = |x| Columns::new(x, 1, 0..k.len(), 0..1);
            let mut y = y.part(some);
            // S = α S + k̂ (β (v − (α S)ᵀ k̂))ᵀ; y = Sᵀ q, for q̂ = q / |q|, k̂ = k / |k|.
            linear_attention(
                isa,
                &mut state,
                Span {
                    r: q,
                    k,
                    v,
                    scale: Some(number(&to_v)),
                    decay: Decay::PerHead(match &self.decay {
                        Some(_) => decay.view(columns.clone(), head..head + 1),
                        None => Columns::same(&[1.0], k.len()),
                    }),
                    delta: Some(Delta::Rule { factor: number(&to_old) }),
                    read: Read::After,
                    y: y.view_mut(),
                },
            );
            let gate = self.in_z.as_ref().map(|_| gate.view(columns.clone(), own.clone()));
            // y = y / |q| / √d_key; y = y / √(mean(y²) + eps) · w · silu(z).
            simd!(isa, {
                for c in 0..k.len() {
                    let (y, length) = (y.at(c), to_y[c]);
                    y.iter_mut().for_each(|y| *y *= length);
                    let inverse = inverse_rms(y, self.norm_eps);
                    update(y, &self.out_norm, |y, w| y * inverse * w);
                    if let Some(gate) = &gate {
                        update(y, gate.at(c), |y, gate| y * gate);
                    }
                }
            });
        }
    }
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    input: InputScratch,
    /// q, k, v after the convolution (2 n_key_head d_key + n_head d_head)
    qkv: Panel,
    /// silu(z) (n_head d_head)
    gate: Panel,
    /// β, α (n_head)
    beta: Panel,
    decay: Panel,
    /// (n_head d_head)
    y: Panel,
    gated: ActivationBuffer,
}
