//! Heads of linear attention without a delta term: GLA (Yang et al. 2023, arXiv 2312.06635, eq. 3)
//! with a decay for every key, HGRN2 (Qin et al. 2024, arXiv 2404.07904), whose keys are what its
//! decay leaves, RetNet (Sun et al. 2023, arXiv 2307.08621, eq. 6) with a constant decay and rotary
//! positions, LightNet (Qin et al. 2024, arXiv 2405.21022), whose keys are shares of all so far.
//! Reference: fla `layers/gla.py`, `layers/hgrn2.py`, `layers/multiscale_retention.py`,
//! `layers/lightnet.py`. Test: `tests/parity_linear.rs`.

use super::{
    Bias, Branch, BranchScratch, Head, HeadGate, Heads, Input, InputScratch, Output, Part,
    Projections, Rope, Wanted, WideNorm, padded,
};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::columns::Columns;
use crate::kernels::forms::GROUP;
use crate::kernels::lanes::update;
use crate::kernels::math::{exp, sigmoid, softplus};
use crate::kernels::norm::inverse_rms;
use crate::kernels::recurrence::{Decay, NOTHING, Read, Running, Span, linear_attention, running};
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::{DecayOp, Formula, Function, Inputs, List, NormOp, OfHead, Values, before, of};
use crate::stage::{Cut, Job, Owned, Piece};
use crate::state::SlotRef;
use crate::team::Share;
use crate::tensor::{Vector, acts_for};

/// Where the decays of heads come from, as the table of architectures says it: a projection of
/// their own; that of the keys; nothing but the head's number; the sum of all keys' exponentials.
pub(crate) const OWN: u8 = 0;
pub(crate) const TIED: u8 = 1;
pub(crate) const CONSTANT: u8 = 2;
pub(crate) const RUNNING: u8 = 3;

/// The weights of one layer's heads.
pub(crate) struct LinearHeads<const DECAY: u8> {
    d_head: usize,
    d_key: usize,
    /// Heads that share a key, its values and its decay.
    group: usize,
    input: Input,
    /// q (n_head d_key), k (n_key_head d_key), v (n_key_head d_head); k is the decay's where that
    /// is tied to keys.
    qkv: Projections<3>,
    rope: Rope,
    forget: Forget,
    gate: Option<HeadGate>,
    norm: Norm,
    /// The factor of q.
    scale: f32,
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
    /// α (n_head).
    Constant(Vector),
    /// State: ln Σ eᵏ (n_key_head d_key).
    Running(SlotRef),
}

/// The norm behind the heads.
enum Norm {
    /// Of each: (d_head), epsilon.
    PerHead(Vector, f32),
    Wide(WideNorm),
}

impl<const DECAY: u8> Part for LinearHeads<DECAY> {
    const WORD: &'static str = "linear";
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<Self> {
        let config = source.config;
        let n_head = config.size("n_head")?;
        let n_key_head = config.optional_size("n_key_head")?.unwrap_or(n_head);
        let group = config.divide(n_head, n_key_head, "n_key_head")?;
        let (d_head, d_key) = (Heads::d_head(config)?, config.size_up_to("d_key", 256)?);
        let (width, keys) = (n_head * d_head, n_key_head * d_key);
        let qkv = [
            ("in_proj.q", "conv_q", n_head * d_key, config.flag("silu_q")? || DECAY == TIED),
            ("in_proj.k", "conv_k", keys, config.flag("silu_k")?),
            ("in_proj.v", "conv_v", n_key_head * d_head, config.flag("silu_v")?),
        ];
        let qkv = qkv.map(|(name, conv, rows, is_silu)| {
            let conv = (DECAY != TIED).then_some(conv);
            Wanted { name, conv, rows, is_silu }
        });
        Ok(LinearHeads {
            d_head,
            d_key,
            group,
            input: Input::load(source, "norm")?,
            qkv: Projections::load(source, qkv)?,
            rope: Rope::optional(source, "rope", d_key)?,
            forget: match DECAY {
                OWN => Forget::Own {
                    branch: Branch::load(source, "in_proj.dt", "rank_decay", keys)?,
                    bias: Bias::load(source, "dt_bias", keys)?,
                    divisor: config.float("decay_divisor")?,
                    least: config.optional_float("least_log_decay")?.unwrap_or(f32::MIN),
                },
                TIED => Forget::Tied { least: source.vector("least_decay", keys)? },
                CONSTANT => Forget::Constant(source.vector("decay", n_head)?),
                _ => Forget::Running(source.state("sum", &[keys], NOTHING)),
            },
            gate: HeadGate::load(source, width)?,
            norm: if DECAY == TIED || config.flag("wide_norm")? {
                Norm::Wide(WideNorm::load(source, width, config.float("out_norm_eps")?)?)
            } else {
                let weight = source.vector("out_norm.weight", d_head)?;
                Norm::PerHead(weight, config.float("out_norm_eps")?)
            },
            scale: match config.optional_float("query_scale")? {
                Some(scale) => scale,
                None => 1.0 / (d_key as f32).sqrt(),
            },
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
            _ => None,
        });
        let gates = layers.clone().filter_map(|l| l.gate.as_ref());
        let readers = layers.clone().flat_map(|l| l.qkv.readers());
        let readers = readers.chain(gates.clone().map(|gate| gate.branch.reader()));
        let readers = readers.chain(branches.clone().map(Branch::reader));
        let rows = |rows: fn(&Self) -> usize| layers.clone().map(rows).max().unwrap_or(0);
        let panel = |rows| Panel::new(padded(rows), workspace);
        let keys = rows(|l| l.qkv.rows(1));
        Scratch {
            input: InputScratch::new(workspace, readers),
            q: panel(rows(|l| l.qkv.rows(0))),
            k: panel(keys),
            v: panel(rows(|l| l.qkv.rows(2))),
            angles: Panel::new(rows(|l| l.rope.rows()), workspace),
            decay: Branch::scratch(workspace, padded(keys), branches),
            gate: HeadGate::scratch(workspace, gates),
            y: Panel::new(rows(|l| l.output.weight.cols()), workspace),
            normed: acts_for(workspace, layers.clone().map(|l| &l.output.weight)),
        }
    }

    fn read(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
    }

    /// x += W_out heads(norm(x)).
    fn add(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.inputs(pass, s);
        self.turn(pass, s);
        self.share(pass, s);
        let Scratch { q, k, v, decay, gate, y, normed, .. } = s;
        let (stages, states) = (&mut pass.stages, &mut pass.states);
        let inputs = [&*q, k, v, &decay.out, &gate.out];
        match &self.norm {
            Norm::PerHead(..) => {
                let owned = Owned { panels: [y], acts: [normed] };
                let head = |head: Head<'_, 1>| self.head(head, inputs);
                self.heads.forward(stages, states, 0, owned, |_, _, _| {}, head);
            }
            Norm::Wide(norm) => {
                let owned = Owned { panels: [&mut *y], acts: [] };
                let head = |head: Head<'_, 1>| self.head(head, inputs);
                self.heads.forward(stages, states, 0, owned, |_, _, _| {}, head);
                norm.forward(pass, y, self.gate.as_ref().map(|_| &gate.out), normed);
            }
        }
        self.output.forward(pass, &s.normed);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let LinearHeads { d_head, d_key, group, .. } = *self;
        let input = self.input.list(list);
        let [q, k, v] = [(0, "q"), (1, "k"), (2, "v")].map(|of| self.qkv.list(list, of, input));
        self.rope.list(list, q, d_key);
        self.rope.list(list, k, d_key);
        let of_keys = |from| OfHead { from, first: 0, step: d_key, share: group };
        let (k, decay) = self.list_decay(list, input, k);
        let decay = match self.forget {
            Forget::Constant(_) => DecayOp::PerHead(decay),
            _ => DecayOp::PerKey(of_keys(decay)),
        };
        // S = diag(α) S + k vᵀ; y = Sᵀ q · scale.
        let y = list.values("heads", self.output.weight.cols());
        let v = OfHead { from: v, first: 0, step: d_head, share: group };
        let rkv = [OfHead::own(q, d_key), of_keys(k), v];
        list.heads(self.heads.list(d_key, rkv, decay, y));
        list.map(y, of(y) * self.scale);
        let gate = self.gate.as_ref().map(|gate| gate.list(list, input));
        let gated = match &self.norm {
            Norm::PerHead(weight, eps) => {
                list.norm(y, y, NormOp::Rms { weight, eps: *eps }, d_head);
                let gated = gate.map_or(of(y), |gate| of(y) * gate);
                list.pack("gated", list.rows(y), gated)
            }
            Norm::Wide(norm) => norm.list(list, y, gate),
        };
        self.output.list(list, gated);
    }
}

impl<const DECAY: u8> LinearHeads<DECAY> {
    /// Keys as they are written, and what a state keeps, as operations.
    fn list_decay<'m>(&'m self, list: &mut List<'m>, input: Inputs, k: Values) -> (Values, Values) {
        match &self.forget {
            Forget::Own { branch, bias, divisor, least } => {
                let decay = branch.list(list, ["dt low", "dt hidden", "decay"], input);
                let rate = -(-bias.of(decay)).apply(Function::Softplus) / *divisor;
                list.map(decay, rate.at_least(*least).apply(Function::Exp));
                (k, decay)
            }
            Forget::Tied { least } => {
                // 1 − sigmoid(x) = sigmoid(−x), which does not cancel.
                let decay = list.values("decay", list.rows(k));
                let rest = || Formula::from(1.0) - least;
                list.map(decay, Formula::from(least) + rest() * of(k).apply(Function::Sigmoid));
                list.map(k, rest() * (-of(k)).apply(Function::Sigmoid));
                (k, decay)
            }
            Forget::Constant(constant) => {
                let decay = list.values("decay", constant.len());
                list.map(decay, constant);
                (k, decay)
            }
            Forget::Running(slot) => {
                // sum′ = ln(e^sum + eᵏ), k = e^(k − sum′), decay = e^(sum − sum′).
                let [sum, share, decay] =
                    ["sum", "shares", "decay"].map(|name| list.values(name, slot.len()));
                let old = || before(sum, *slot);
                let apart = (old() - k).with(of(k) - old(), Function::Max);
                let next = old().with(k, Function::Max) + (-apart).apply(Function::Softplus);
                list.fold(sum, next);
                list.map(decay, (old() - sum).apply(Function::Exp));
                list.map(share, (of(k) - sum).apply(Function::Exp));
                list.keep(sum, *slot);
                (share, decay)
            }
        }
    }

    /// q, k, v, α and the gate.
    fn inputs(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let (isa, input) = (pass.stages.isa, &s.input.acts);
        let tied = |k: &mut Share<'_, f32>, decay: &mut Share<'_, f32>| self.tied(isa, k, decay);
        let own = |decay: &mut Share<'_, f32>| self.alpha(isa, decay);
        let gated = |z: &mut Share<'_, f32>| self.gate.iter().for_each(|gate| gate.apply(isa, z));
        let (k, decay) = match &self.forget {
            Forget::Own { branch, .. } => {
                (Some(&mut s.k), Some(branch.first(input, &mut s.decay, &own)))
            }
            Forget::Tied { .. } => {
                let [_, keys, _] = self.qkv.matrices();
                let job = Job::apply_with(keys, input, &mut s.k, &mut s.decay.out, &tied);
                (None, Some(job))
            }
            Forget::Constant(_) | Forget::Running(_) => (Some(&mut s.k), None),
        };
        let gate = self.gate.as_ref();
        let gate = gate.map(|gate| gate.branch.first(input, &mut s.gate, &gated));
        let panels = [Some(&mut s.q), k, Some(&mut s.v)];
        self.qkv.forward(pass, input, panels, gate.into_iter().chain(decay));
        let gate = self.gate.as_ref().and_then(|gate| gate.branch.second(&mut s.gate, &gated));
        let decay = match &self.forget {
            Forget::Own { branch, .. } => branch.second(&mut s.decay, &own),
            _ => None,
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

    /// q and k turn by the angles of their positions.
    fn turn(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        if self.rope.rows() == 0 {
            return;
        }
        self.rope.angles(pass, &mut s.angles);
        let (angles, rows) = (&s.angles, [self.qkv.rows(0), self.qkv.rows(1)]);
        let owned = Owned { panels: [&mut s.q, &mut s.k], acts: [] };
        pass.stages.columns(pass.stages.batch.columns, owned, |piece| {
            let Piece { own, mut panels, .. } = piece;
            for c in own {
                for (panel, rows) in panels.iter_mut().zip(rows) {
                    for x in panel.column(c)[..rows].chunks_exact_mut(self.d_key) {
                        self.rope.turn(x, angles.column(c));
                    }
                }
            }
        });
    }

    /// Keys become shares of all so far, and α the share that older ones keep.
    fn share(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let Forget::Running(sum) = self.forget else { return };
        let cut = Cut { rows: sum.len(), unit: GROUP, bytes: 0 };
        let owned = Owned { panels: [&mut s.k, &mut s.decay.out], acts: [] };
        pass.stages.rows_and_states(cut, owned, &mut pass.states, [sum], |piece| {
            let Piece { isa, batch, own, panels: [mut k, mut decay], states: [mut sum], .. } =
                piece;
            for (run, span) in batch.spans.iter().enumerate() {
                let k = k.view_mut(span.clone(), own.clone());
                let decay = decay.view_mut(span.clone(), own.clone());
                running(isa, Running { sum: sum.get(run), k, decay });
            }
        });
    }

    /// One head over the tokens of a run.
    fn head(&self, head: Head<'_, 1>, [q, k, v, decay, gate]: [&Panel; 5]) {
        let Head { isa, own, columns, panels: [mut y], mut state, .. } = head;
        let (d_head, d_key, head) = (self.d_head, self.d_key, own.start / self.d_head);
        let shared = head / self.group;
        let keys = shared * d_key..(shared + 1) * d_key;
        // S = diag(α) S + k vᵀ; y = Sᵀ q.
        linear_attention(
            isa,
            &mut state,
            Span {
                r: q.view(columns.clone(), head * d_key..(head + 1) * d_key),
                k: k.view(columns.clone(), keys.clone()),
                v: v.view(columns.clone(), shared * d_head..(shared + 1) * d_head),
                scale: None,
                decay: match &self.forget {
                    Forget::Constant(decay) => {
                        Decay::PerHead(Columns::same(&decay[head..head + 1], columns.len()))
                    }
                    _ => Decay::PerKey(decay.view(columns.clone(), keys)),
                },
                delta: None,
                read: Read::After,
                y: y.view_mut(),
            },
        );
        let gate = self.gate.as_ref().map(|_| gate.view(columns.clone(), own));
        let scale = self.scale;
        // y = y · scale; y = y / √(mean(y²) + eps) · w · gate, here or over all heads.
        simd!(isa, {
            for c in 0..y.len() {
                let y = y.at(c);
                y.iter_mut().for_each(|y| *y *= scale);
                if let Norm::PerHead(weight, eps) = &self.norm {
                    let inverse = inverse_rms(y, *eps);
                    update(y, weight, |y, w| y * inverse * w);
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
    /// (n_key_head d_key), (n_key_head d_head)
    k: Panel,
    v: Panel,
    /// cos, then sin
    angles: Panel,
    /// (n_key_head d_key)
    decay: BranchScratch,
    /// (n_head d_head)
    gate: BranchScratch,
    y: Panel,
    normed: ActivationBuffer,
}
