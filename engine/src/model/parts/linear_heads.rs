//! Heads of linear attention without a delta term, with a decay for every key: GLA (Yang et al.
//! 2023, arXiv 2312.06635, eq. 3) and HGRN2 (Qin et al. 2024, arXiv 2404.07904), whose keys are
//! what its decay leaves. Reference: fla `layers/gla.py`, `layers/hgrn2.py`. Test:
//! `tests/parity_linear.rs`.

use super::{
    Bias, Branch, BranchScratch, Head, HeadGate, Heads, Input, InputScratch, Output, Part, padded,
    wide_norm,
};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::lanes::update;
use crate::kernels::math::{exp, sigmoid, silu, softplus};
use crate::kernels::norm::inverse_rms;
use crate::kernels::recurrence::{Decay, Read, Span, linear_attention};
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::stage::{Job, Owned};
use crate::team::Share;
use crate::tensor::{Matrix, Vector, acts_for};

/// The weights of one layer's heads; `TIED`: keys are what the decay leaves.
pub(crate) struct LinearHeads<const TIED: bool> {
    d_head: usize,
    d_key: usize,
    input: Input,
    /// (n_head d_key, d_model) each; the second is the decay's where it is tied to keys.
    in_q: Matrix,
    in_k: Matrix,
    /// (n_head d_head, d_model)
    in_v: Matrix,
    forget: Forget,
    gate: Option<HeadGate>,
    /// Of a head, or of all channels.
    out_norm: Vector,
    norm_eps: f32,
    output: Output,
    /// State: S (n_head, d_key, d_head).
    heads: Heads,
}

/// Where the decays α come from.
enum Forget {
    /// α = sigmoid(W x + bias)^(1 / divisor), ln α being at least so much.
    Own { branch: Branch, bias: Bias, divisor: f32, least: f32 },
    /// α = least + (1 − least) sigmoid(W_k x), k = 1 − α, with `least` (n_head d_key).
    Tied { least: Vector },
}

impl<const TIED: bool> Part for LinearHeads<TIED> {
    const WORD: &'static str = "linear";
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<Self> {
        let (config, d_model) = (source.config, source.config.d_model);
        let n_head = config.size("n_head")?;
        let (d_head, d_key) = (Heads::d_head(config)?, config.size_up_to("d_key", 256)?);
        let (width, keys) = (n_head * d_head, n_head * d_key);
        let own = || -> Result<Forget> {
            Ok(Forget::Own {
                branch: Branch::load(source, "in_proj.dt", "rank_decay", keys)?,
                bias: Bias::load(source, "dt_bias", keys)?,
                divisor: config.float("decay_divisor")?,
                least: config.optional_float("least_log_decay")?.unwrap_or(f32::MIN),
            })
        };
        Ok(LinearHeads {
            d_head,
            d_key,
            input: Input::load(source, "norm")?,
            in_q: source.mat("in_proj.q", keys, d_model)?,
            in_k: source.mat("in_proj.k", keys, d_model)?,
            in_v: source.mat("in_proj.v", width, d_model)?,
            forget: if TIED {
                Forget::Tied { least: source.vector("least_decay", keys)? }
            } else {
                own()?
            },
            gate: HeadGate::load(source, width)?,
            out_norm: source.vector("out_norm.weight", if TIED { width } else { d_head })?,
            norm_eps: config.float("out_norm_eps")?,
            output: Output::load(source, "out_proj", width)?,
            heads: Heads::load(source, "linear", (width, d_head), d_key)?,
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        let branches = layers.clone().filter_map(|l| match &l.forget {
            Forget::Own { branch, .. } => Some(branch),
            Forget::Tied { .. } => None,
        });
        let readers = layers.clone().flat_map(|l| {
            let gate = l.gate.as_ref().map(|gate| gate.branch.reader());
            [Some(&l.in_q), Some(&l.in_k), Some(&l.in_v), gate].into_iter().flatten()
        });
        let readers = readers.chain(branches.clone().map(Branch::reader));
        let rows = |rows: fn(&Self) -> usize| layers.clone().map(rows).max().unwrap_or(0);
        let (keys, width) = (padded(rows(|l| l.in_q.rows())), rows(|l| l.in_v.rows()));
        Scratch {
            input: InputScratch::new(workspace, readers),
            q: Panel::new(keys, workspace),
            k: Panel::new(keys, workspace),
            v: Panel::new(width, workspace),
            decay: Branch::scratch(workspace, keys, branches),
            gate: HeadGate::scratch(workspace, layers.clone().filter_map(|l| l.gate.as_ref())),
            y: Panel::new(width, workspace),
            normed: acts_for(workspace, layers.clone().map(|l| &l.output.weight)),
        }
    }

    fn read(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
    }

    /// x += W_out heads(norm(x)).
    fn add(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.inputs(pass, s);
        let Scratch { q, k, v, decay, gate, y, normed, .. } = s;
        let (stages, states) = (&mut pass.stages, &mut pass.states);
        let inputs = [&*q, k, v, &decay.out, &gate.out];
        if TIED {
            let owned = Owned { panels: [&mut *y], acts: [] };
            self.heads.forward(stages, states, 0, owned, |_, _, _| {}, |h| self.head(h, inputs));
            wide_norm(pass, y, (&self.out_norm, self.norm_eps), normed);
        } else {
            let owned = Owned { panels: [y], acts: [normed] };
            self.heads.forward(stages, states, 0, owned, |_, _, _| {}, |h| self.head(h, inputs));
        }
        self.output.forward(pass, &s.normed);
    }
}

impl<const TIED: bool> LinearHeads<TIED> {
    /// q, k, v, α and the gate.
    fn inputs(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let (isa, input) = (pass.stages.isa, &s.input.acts);
        let query = |q: &mut Share<'_, f32>| {
            simd!(isa, {
                for c in q.columns() {
                    q.column(c).iter_mut().for_each(|q| *q = silu(*q));
                }
            });
        };
        let tied = |k: &mut Share<'_, f32>, decay: &mut Share<'_, f32>| self.tied(isa, k, decay);
        let own = |decay: &mut Share<'_, f32>| self.alpha(isa, decay);
        let gated = |z: &mut Share<'_, f32>| self.gate.iter().for_each(|gate| gate.apply(isa, z));
        let (k, decay) = match &self.forget {
            Forget::Own { branch, .. } => {
                let k = Job::keep(&self.in_k, input, &mut s.k);
                (k, Some(branch.first(input, &mut s.decay, &own)))
            }
            Forget::Tied { .. } => {
                (Job::apply_with(&self.in_k, input, &mut s.k, &mut s.decay.out, &tied), None)
            }
        };
        let jobs = [
            Some(if TIED {
                Job::apply(&self.in_q, input, &mut s.q, &query)
            } else {
                Job::keep(&self.in_q, input, &mut s.q)
            }),
            Some(k),
            Some(Job::keep(&self.in_v, input, &mut s.v)),
            self.gate.as_ref().map(|gate| gate.branch.first(input, &mut s.gate, &gated)),
            decay,
        ];
        pass.stages.project(jobs.into_iter().flatten());
        let gate = self.gate.as_ref().and_then(|gate| gate.branch.second(&mut s.gate, &gated));
        let decay = match &self.forget {
            Forget::Own { branch, .. } => branch.second(&mut s.decay, &own),
            Forget::Tied { .. } => None,
        };
        if gate.is_some() || decay.is_some() {
            pass.stages.project(gate.into_iter().chain(decay));
        }
    }

    /// α of the projection's values.
    fn alpha(&self, isa: Isa, x: &mut Share<'_, f32>) {
        let Forget::Own { bias, divisor, least, .. } = &self.forget else { return };
        let at = x.rows().start;
        simd!(isa, {
            for c in x.columns() {
                let x = x.column(c);
                bias.add(at, x);
                x.iter_mut().for_each(|x| *x = exp((-softplus(-*x) / divisor).max(*least)));
            }
        });
    }

    /// α, and k of it.
    fn tied(&self, isa: Isa, k: &mut Share<'_, f32>, decay: &mut Share<'_, f32>) {
        let Forget::Tied { least } = &self.forget else { return };
        let least = &least[k.rows().start.min(least.len())..];
        simd!(isa, {
            for c in k.columns() {
                let keys = k.column(c).iter_mut().zip(decay.column(c));
                for ((k, decay), least) in keys.zip(least) {
                    // 1 − sigmoid(x) = sigmoid(−x), which does not cancel.
                    *decay = least + (1.0 - least) * sigmoid(*k);
                    *k = (1.0 - least) * sigmoid(-*k);
                }
            }
        });
    }

    /// One head over the tokens of a run.
    fn head(&self, head: Head<'_, 1>, [q, k, v, decay, gate]: [&Panel; 5]) {
        let Head { isa, own, columns, panels: [mut y], mut state, .. } = head;
        let (d_key, at) = (self.d_key, own.start / self.d_head * self.d_key);
        let [q, k, decay] = [q, k, decay].map(|x| x.view(columns.clone(), at..at + d_key));
        // S = diag(α) S + k vᵀ; y = Sᵀ q.
        linear_attention(
            isa,
            &mut state,
            Span {
                r: q,
                k,
                v: v.view(columns.clone(), own.clone()),
                scale: None,
                decay: Decay::PerKey(decay),
                delta: None,
                read: Read::After,
                y: y.view_mut(),
            },
        );
        let gate = self.gate.as_ref().map(|_| gate.view(columns.clone(), own));
        let scale = 1.0 / (d_key as f32).sqrt();
        // y = y / √d_key; y = y / √(mean(y²) + eps) · w · gate, here or over all heads.
        simd!(isa, {
            for c in 0..y.len() {
                let y = y.at(c);
                y.iter_mut().for_each(|y| *y *= scale);
                if !TIED {
                    let inverse = inverse_rms(y, self.norm_eps);
                    update(y, &self.out_norm, |y, w| y * inverse * w);
                    if let Some(gate) = &gate {
                        update(y, gate.at(c), |y, gate| y * gate);
                    }
                }
            }
        });
    }
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    input: InputScratch,
    /// (n_head d_key)
    q: Panel,
    k: Panel,
    /// (n_head d_head)
    v: Panel,
    /// (n_head d_key)
    decay: BranchScratch,
    /// (n_head d_head)
    gate: BranchScratch,
    y: Panel,
    normed: ActivationBuffer,
}
