//! Heads with a delta rule: DeltaNet (Yang et al. 2024, arXiv 2406.06484), Gated DeltaNet (Yang,
//! Kautz & Hatamizadeh 2024, arXiv 2412.06464, eq. 10), DeltaProduct (Siems et al. 2025, arXiv
//! 2502.10297), Kimi Delta Attention (Kimi Team 2025, arXiv 2510.26692), Comba (Hu et al. 2025,
//! arXiv 2506.02475). Reference: `layers/` of fla. Test: `tests/parity_delta.rs`.
//!
//! q and k are l2-normalised. Their lengths are numbers per token and head, so they are not divided
//! by them: k's goes to what is written for it, q's to what is read.

mod list;

use super::{
    BranchScratch, CausalConv, Forget, Head, HeadGate, Heads, Input, InputScratch, MAX_CONV,
    Output, Part, nothing, padded,
};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::columns::{Columns, ColumnsMut};
use crate::kernels::lanes::{dot, update, update2};
use crate::kernels::math::sigmoid;
use crate::kernels::norm::inverse_rms;
use crate::kernels::recurrence::{Decay, Delta, Read, Span, linear_attention};
use crate::kernels::simd::simd;
use crate::kernels::state::StateSlice;
use crate::model::{Pass, Source};
use crate::ops::List;
use crate::stage::{Job, Owned};
use crate::state::StatesShare;
use crate::team::Share;
use crate::tensor::{Matrix, Vector, acts_for};

/// Below the root of q's and k's lengths: fla `modules/l2norm.py`.
pub(super) const L2_EPS: f32 = 1e-6;

/// Tokens whose numbers stand on the stack while a head passes them.
pub(super) const TOKENS: usize = 32;

/// The most steps of a token, and keys of a head.
const MAX_STEPS: usize = 64;
pub(super) const MAX_KEY: usize = 256;

/// The weights of one layer's heads.
pub(crate) struct DeltaHeads<const GATED: bool> {
    n_head: usize,
    n_key_head: usize,
    d_head: usize,
    d_key: usize,
    /// Value head h reads key head h mod n_key_head, not h / (n_head / n_key_head).
    is_tiled: bool,
    /// Steps of a token, each with a key, values and β of its own; it fades before the first.
    n_step: usize,
    input: Input,
    /// (n_key_head d_key + n_step (n_key_head d_key + n_head d_head), d_model): q, k and v of every
    /// step.
    in_qkv: Matrix,
    conv: CausalConv,
    /// Absent where y is only normed.
    gate: Option<HeadGate>,
    /// (n_step n_head, d_model)
    in_beta: Matrix,
    /// 1, or 2 where eigenvalues may be negative (Grazzi et al. 2024, arXiv 2411.12537).
    beta_scale: f32,
    forget: Option<Forget>,
    correction: Option<Correction>,
    /// (d_head)
    out_norm: Vector,
    norm_eps: f32,
    output: Output,
    /// State: S (n_head, d_key, d_head).
    heads: Heads,
}

/// Comba's: the old state is read by p̂ for p = share k, and q gives some of p away.
struct Correction {
    /// (n_head) each
    share: Vector,
    d: Vector,
}

impl<const GATED: bool> Part for DeltaHeads<GATED> {
    const WORD: &'static str = "delta";
    type Scratch = Scratch;

    /// Reads heads with a decay, or without one.
    fn load(source: &Source<'_>) -> Result<Self> {
        let (config, d_model) = (source.config, source.config.d_model);
        let (n_head, n_key_head) = (config.size("n_head")?, config.size("n_key_head")?);
        config.divide(n_head, n_key_head, "n_key_head")?;
        let (d_head, d_key) = (Heads::d_head(config)?, config.size_up_to("d_key", MAX_KEY)?);
        let d_conv = config.size_up_to("d_conv", MAX_CONV)?;
        let width = n_head * d_head;
        let n_step = match config.optional_size("n_step")? {
            None => 1,
            Some(_) => config.size_up_to("n_step", MAX_STEPS)?,
        };
        let n_conv = n_key_head * d_key + n_step * (n_key_head * d_key + width);
        Ok(DeltaHeads {
            n_head,
            n_key_head,
            d_head,
            d_key,
            is_tiled: config.flag("is_tiled")?,
            n_step,
            input: Input::load(source, "norm")?,
            in_qkv: source.mat("in_proj.qkv", n_conv, d_model)?,
            conv: CausalConv::load(source, ("conv", "in_proj.qkv"), n_conv, d_conv)?,
            gate: HeadGate::load(source, width)?,
            in_beta: source.mat("in_proj.beta", n_step * n_head, d_model)?,
            beta_scale: if config.flag("negative_eigenvalues")? { 2.0 } else { 1.0 },
            forget: if GATED { Some(Forget::load(source, n_head, d_key)?) } else { None },
            correction: if config.flag("has_correction")? {
                Some(Correction {
                    share: source.vector("key_share", n_head)?,
                    d: source.vector("D", n_head)?,
                })
            } else {
                None
            },
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
            let gate = l.gate.as_ref().map(|gate| gate.branch.reader());
            let forget = l.forget.as_ref().map(|forget| forget.branch.reader());
            [Some(&l.in_qkv), gate, Some(&l.in_beta), forget].into_iter().flatten()
        });
        let of = |rows: fn(&Self) -> usize| {
            Panel::new(layers.clone().map(rows).max().unwrap_or(0), workspace)
        };
        Scratch {
            input: InputScratch::new(workspace, readers),
            qkv: of(|l| padded(l.in_qkv.rows())),
            gate: HeadGate::scratch(workspace, layers.clone().filter_map(|l| l.gate.as_ref())),
            beta: of(|l| l.in_beta.rows()),
            decay: Forget::scratch(workspace, layers.clone().filter_map(|l| l.forget.as_ref())),
            y: of(|l| l.n_head * l.d_head),
            gated: acts_for(workspace, layers.clone().map(|l| &l.output.weight)),
        }
    }

    fn read(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
    }

    /// x += W_out heads(norm(x)).
    fn add(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.inputs(pass, s);
        let Scratch { qkv, gate, beta, decay, y, gated, .. } = s;
        self.heads.forward(
            &mut pass.stages,
            &mut pass.states,
            0,
            Owned { panels: [y], acts: [gated] },
            |_, _, _| {},
            |head| self.head(head, qkv, &gate.out, beta, &decay.out),
        );
        self.output.forward(pass, &s.gated);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        self.list_all(list);
    }
}

impl<const GATED: bool> DeltaHeads<GATED> {
    /// (q, k, v) = silu(conv(W x)); β = sigmoid(W x); the gate; α.
    fn inputs(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let (isa, batch, input) = (pass.stages.isa, pass.stages.batch, &s.input.acts);
        let window = pass.states.share(self.conv.window);
        let (convolve, beta) = (
            |x: &mut Share<'_, f32>, window: StatesShare<'_>| {
                self.conv.forward(isa, batch, x, window);
            },
            |beta: &mut Share<'_, f32>| self.beta(isa, beta),
        );
        let (gated, faded) = (
            |z: &mut Share<'_, f32>| self.gate.iter().for_each(|gate| gate.apply(isa, z)),
            |x: &mut Share<'_, f32>| self.forget.iter().for_each(|forget| forget.alpha(isa, x)),
        );
        let (gate, forget) = (self.gate.as_ref(), self.forget.as_ref());
        let jobs = [
            Some(Job::advance(&self.in_qkv, input, &mut s.qkv, window, &convolve)),
            gate.map(|gate| gate.branch.first(input, &mut s.gate, &gated)),
            Some(Job::apply(&self.in_beta, input, &mut s.beta, &beta)),
            forget.map(|forget| forget.branch.first(input, &mut s.decay, &faded)),
        ];
        pass.stages.project(jobs.into_iter().flatten());
        let gate = gate.and_then(|gate| gate.branch.second(&mut s.gate, &gated));
        let forget = forget.and_then(|forget| forget.branch.second(&mut s.decay, &faded));
        if gate.is_some() || forget.is_some() {
            pass.stages.project(gate.into_iter().chain(forget));
        }
    }

    fn beta(&self, isa: Isa, beta: &mut Share<'_, f32>) {
        let scale = self.beta_scale;
        simd!(isa, {
            for c in beta.columns() {
                beta.column(c).iter_mut().for_each(|beta| *beta = scale * sigmoid(*beta));
            }
        });
    }

    /// One head over the tokens of a run.
    fn head(&self, head: Head<'_, 1>, qkv: &Panel, gate: &Panel, beta: &Panel, decay: &Panel) {
        let Head { isa, own, columns, panels: [mut y], mut state, .. } = head;
        let (d_key, head) = (self.d_key, own.start / self.d_head);
        let (keys, values) = (self.n_key_head * d_key, self.n_head * self.d_head);
        let key_head = match self.is_tiled {
            true => head % self.n_key_head,
            false => head / (self.n_head / self.n_key_head),
        };
        let key = key_head * d_key;
        let scale = 1.0 / (d_key as f32).sqrt();
        // The factor of k where the old state is read.
        let share = self.correction.as_ref().map_or(1.0, |correction| correction.share[head]);
        // All steps of a token come before the next token.
        let together = if self.n_step == 1 { TOKENS } else { 1 };
        for from in (0..columns.len()).step_by(together) {
            let some = from..columns.len().min(from + together);
            let columns = columns.start + some.start..columns.start + some.end;
            let view = |at, n| qkv.view(columns.clone(), at..at + n);
            let mut buffer;
            let q = match &self.correction {
                None => view(key, d_key),
                Some(correction) => {
                    buffer = [0.0; TOKENS * MAX_KEY];
                    let pairs = [view(key, d_key), view(keys + key, d_key)];
                    correct(isa, pairs, correction.d[head] * share, &mut buffer);
                    Columns::new(&buffer, d_key, 0..some.len(), 0..d_key)
                }
            };
            let mut y = y.part(some);
            for step in 0..self.n_step {
                let k = view(keys + step * keys + key, d_key);
                let v = view(keys + self.n_step * keys + step * values + own.start, self.d_head);
                let beta_at = step * self.n_head + head;
                let beta = beta.view(columns.clone(), beta_at..beta_at + 1);
                let decay = match &self.forget {
                    Some(forget) if step == 0 => forget.of(decay, columns.clone(), head),
                    _ => nothing(k.len()),
                };
                let tokens = DeltaRule { q, k, v, beta, decay, share, y: y.view_mut() };
                tokens.run(isa, &mut state);
            }
            let gate = self.gate.as_ref().map(|_| gate.view(columns.clone(), own.clone()));
            // y = y / |q| / √d_key; y = y / √(mean(y²) + eps) · w · gate.
            simd!(isa, {
                for c in 0..q.len() {
                    let y = y.at(c);
                    let inverse_length = inverse_length(q.at(c), scale);
                    y.iter_mut().for_each(|y| *y *= inverse_length);
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

/// Some tokens of one head, at most [`TOKENS`].
pub(super) struct DeltaRule<'a> {
    pub(super) q: Columns<'a>,
    pub(super) k: Columns<'a>,
    pub(super) v: Columns<'a>,
    /// (1)
    pub(super) beta: Columns<'a>,
    pub(super) decay: Decay<'a>,
    /// The factor of k where the old state is read.
    pub(super) share: f32,
    /// Overwritten, for a q that is not divided by its length.
    pub(super) y: ColumnsMut<'a>,
}

impl DeltaRule<'_> {
    /// S = α S + k̂ (β (v − (α S)ᵀ p̂))ᵀ; y = Sᵀ q, for p = share k, k̂ = k / |k|, p̂ = p / |p|.
    pub(super) fn run(self, isa: Isa, state: &mut StateSlice<'_>) {
        let DeltaRule { q, k, v, beta, decay, share, y } = self;
        // Of every token: what v is multiplied by, and what the reading.
        let (mut to_v, mut to_old) = ([0.0; TOKENS], [0.0; TOKENS]);
        simd!(isa, {
            for c in 0..k.len() {
                let square = dot(k.at(c), k.at(c));
                to_v[c] = beta.at(c)[0] * (1.0 / (square + L2_EPS).sqrt());
                to_old[c] = -(to_v[c] * (share / (share * share * square + L2_EPS).sqrt()));
            }
        });
        let number = |x| Columns::new(x, 1, 0..k.len(), 0..1);
        linear_attention(
            isa,
            state,
            Span {
                r: q,
                k,
                v,
                scale: Some(number(&to_v)),
                decay,
                delta: Some(Delta::Rule { factor: number(&to_old) }),
                read: Read::After,
                y,
            },
        );
    }
}

/// `scale` / |q|.
#[inline(always)]
pub(super) fn inverse_length(q: &[f32], scale: f32) -> f32 {
    scale / (dot(q, q) + L2_EPS).sqrt()
}

/// out = q − d k, one token behind the other.
fn correct(isa: Isa, [q, k]: [Columns<'_>; 2], d: f32, out: &mut [f32]) {
    simd!(isa, {
        for (c, out) in out.chunks_exact_mut(q.rows()).take(q.len()).enumerate() {
            update2(out, q.at(c), k.at(c), |_, q, k| q - d * k);
        }
    });
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    input: InputScratch,
    /// q, k, v after the convolution
    qkv: Panel,
    /// (n_head d_head)
    gate: BranchScratch,
    /// β (n_step n_head)
    beta: Panel,
    /// α (n_head), or (n_head d_key)
    decay: BranchScratch,
    /// (n_head d_head)
    y: Panel,
    gated: ActivationBuffer,
}
