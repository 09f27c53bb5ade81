//! Gated slot attention (Zhang et al. 2024, arXiv 2409.07146): tokens are written to a few slots
//! that fade; a query's softmax over the slots says how much of each it reads. Reference: fla
//! `layers/gsa.py`. Test: `tests/parity_linear.rs`.

use super::{
    Head, Heads, Input, InputScratch, Output, Part, Projections, Wanted, WideNorm, padded,
};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::math::{exp, softplus};
use crate::kernels::recurrence::{Decay, Read, Slots, Span, linear_attention, shares, slots};
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::{DecayOp, Formula, Function, List, OfHead, SlotsOp, of};
use crate::stage::{Job, Owned};
use crate::team::Share;
use crate::tensor::{Matrix, acts_for};

/// The weights of one layer's heads.
pub(crate) struct SlotHeads {
    d_key: usize,
    d_head: usize,
    n_slot: usize,
    /// Heads that share keys, values and slots' decays.
    group: usize,
    input: Input,
    /// q (n_head d_key), k (n_key_head d_key), v (n_key_head d_head)
    qkv: Projections<3>,
    /// (n_key_head n_slot, d_model)
    in_f: Matrix,
    /// ln α = ln sigmoid(f) / divisor.
    divisor: f32,
    norm: WideNorm,
    output: Output,
    /// State: keys in slots (n_head, d_key, n_slot).
    keys: Heads,
    /// State: values in slots (n_head, n_slot, d_head).
    values: Heads,
}

impl Part for SlotHeads {
    const WORD: &'static str = "slots";
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<SlotHeads> {
        let config = source.config;
        let n_head = config.size("n_head")?;
        let n_key_head = config.optional_size("n_key_head")?.unwrap_or(n_head);
        let group = config.divide(n_head, n_key_head, "n_key_head")?;
        let (d_head, d_key) = (Heads::d_head(config)?, config.size_up_to("d_key", 256)?);
        let eps = config.float("out_norm_eps")?;
        let n_slot = config.size_up_to("n_slot", 256)?;
        let wanted = |name, conv, rows| Wanted { name, conv: Some(conv), rows, is_silu: true };
        Ok(SlotHeads {
            d_key,
            d_head,
            n_slot,
            group,
            input: Input::load(source, "norm")?,
            qkv: Projections::load(
                source,
                [
                    wanted("in_proj.q", "conv_q", n_head * d_key),
                    wanted("in_proj.k", "conv_k", n_key_head * d_key),
                    wanted("in_proj.v", "conv_v", n_key_head * d_head),
                ],
            )?,
            in_f: source.mat("in_proj.f", n_key_head * n_slot, config.d_model)?,
            divisor: config.float("decay_divisor")?,
            norm: WideNorm::load(source, n_head * d_head, eps)?.after_silu(),
            output: Output::load(source, "out_proj", n_head * d_head)?,
            keys: Heads::load(source, "slot_keys", (n_head * n_slot, n_slot), d_key)?,
            values: Heads::load(source, "slot_values", (n_head * d_head, d_head), n_slot)?,
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        let readers = layers.clone().flat_map(|l| l.qkv.readers().chain([&l.in_f]));
        let of = |rows: fn(&Self) -> usize| {
            Panel::new(padded(layers.clone().map(rows).max().unwrap_or(0)), workspace)
        };
        let width = layers.clone().map(|l| l.output.weight.cols()).max().unwrap_or(0);
        let n_slots = layers.clone().map(|l| width / l.d_head * l.n_slot).max().unwrap_or(0);
        Scratch {
            input: InputScratch::new(workspace, readers),
            q: of(|l| l.qkv.rows(0)),
            k: of(|l| l.qkv.rows(1)),
            v: of(|l| l.qkv.rows(2)),
            share: of(|l| l.in_f.rows()),
            decay: of(|l| l.in_f.rows()),
            read: Panel::new(n_slots, workspace),
            y: Panel::new(width, workspace),
            normed: acts_for(workspace, layers.map(|l| &l.output.weight)),
        }
    }

    fn read(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let SlotHeads { d_key, d_head, n_slot, group, .. } = *self;
        let input = self.input.list(list);
        let [q, k, v] = [(0, "q"), (1, "k"), (2, "v")].map(|of| self.qkv.list(list, of, input));
        let share = list.project("share", &self.in_f, input);
        let decay = list.values("decay", list.rows(share));
        let rate = -(-of(share)).apply(Function::Softplus) / self.divisor;
        list.map(decay, rate.apply(Function::Exp));
        list.map(share, Formula::from(1.0) - decay);
        let shared = |from, step| OfHead { from, first: 0, step, share: group };
        // S = S diag(α) + k (1 − α)ᵀ; read = softmax(Sᵀ q).
        let n_head = self.output.weight.cols() / d_head;
        let read = list.values("read", n_head * n_slot);
        list.slots(SlotsOp {
            n_head,
            n_key: d_key,
            n_slot,
            state: self.keys.state(),
            q: OfHead::own(q, d_key),
            k: shared(k, d_key),
            share: shared(share, n_slot),
            decay: shared(decay, n_slot),
            y: read,
        });
        // S = diag(α) S + (1 − α) vᵀ; y = Sᵀ read.
        let rkv = [OfHead::own(read, n_slot), shared(share, n_slot), shared(v, d_head)];
        let y = list.values("heads", n_head * d_head);
        let decay = DecayOp::PerKey(shared(decay, n_slot));
        list.heads(self.values.list(n_slot, rkv, decay, y));
        let normed = self.norm.list(list, y, None);
        self.output.list(list, normed);
    }

    /// x += W_out norm(silu(heads(norm(x)))).
    fn add(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let isa = pass.stages.isa;
        let Scratch { input, q, k, v, share, decay, read, y, normed } = s;
        let fade = |share: &mut Share<'_, f32>, decay: &mut Share<'_, f32>| {
            self.fade(isa, share, decay);
        };
        let f = Job::apply_with(&self.in_f, &input.acts, &mut *share, &mut *decay, &fade);
        let panels = [Some(&mut *q), Some(&mut *k), Some(&mut *v)];
        self.qkv.forward(pass, &input.acts, panels, [f]);
        let (stages, states) = (&mut pass.stages, &mut pass.states);
        let inputs = [&*q, k, v, share, decay];
        let owned = Owned { panels: [&mut *read], acts: [] };
        let head = |head: Head<'_, 1>| self.slots(head, inputs);
        self.keys.forward(stages, states, 0, owned, |_, _, _| {}, head);
        let owned = Owned { panels: [&mut *y], acts: [] };
        let head = |head: Head<'_, 1>| self.values(head, inputs, read);
        self.values.forward(stages, states, 0, owned, |_, _, _| {}, head);
        self.norm.forward(pass, y, None, normed);
        self.output.forward(pass, &s.normed);
    }
}

impl SlotHeads {
    /// α = sigmoid(f)^(1 / divisor) and 1 − α.
    fn fade(&self, isa: Isa, share: &mut Share<'_, f32>, decay: &mut Share<'_, f32>) {
        simd!(isa, {
            for c in share.columns() {
                for (share, decay) in share.column(c).iter_mut().zip(decay.column(c)) {
                    *decay = exp(-softplus(-*share) / self.divisor);
                    *share = 1.0 - *decay;
                }
            }
        });
    }

    /// Of one head: how much of each slot a query reads.
    fn slots(&self, head: Head<'_, 1>, [q, k, _, share, decay]: [&Panel; 5]) {
        let Head { isa, own, columns, panels: [mut read], mut state, .. } = head;
        let (head, n) = (own.start / self.n_slot, self.n_slot);
        let shared = head / self.group;
        // S = S diag(α) + k (1 − α)ᵀ; read = softmax(Sᵀ q).
        slots(
            isa,
            &mut state,
            Slots {
                q: q.view(columns.clone(), head * self.d_key..(head + 1) * self.d_key),
                k: k.view(columns.clone(), shared * self.d_key..(shared + 1) * self.d_key),
                share: share.view(columns.clone(), shared * n..(shared + 1) * n),
                decay: decay.view(columns.clone(), shared * n..(shared + 1) * n),
                scores: read.view_mut(),
            },
        );
        (0..read.len()).for_each(|c| shares(isa, read.at(c)));
    }

    /// Of one head: y = Sᵀ read, for S = diag(α) S + (1 − α) vᵀ.
    fn values(&self, head: Head<'_, 1>, [_, _, v, share, decay]: [&Panel; 5], read: &Panel) {
        let Head { isa, own, columns, panels: [mut y], mut state, .. } = head;
        let (d, n) = (self.d_head, self.n_slot);
        let head = own.start / d;
        let shared = head / self.group;
        linear_attention(
            isa,
            &mut state,
            Span {
                r: read.view(columns.clone(), head * n..(head + 1) * n),
                k: share.view(columns.clone(), shared * n..(shared + 1) * n),
                v: v.view(columns.clone(), shared * d..(shared + 1) * d),
                scale: None,
                decay: Decay::PerKey(decay.view(columns, shared * n..(shared + 1) * n)),
                delta: None,
                read: Read::After,
                y: y.view_mut(),
            },
        );
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
    /// 1 − α and α (n_key_head n_slot)
    share: Panel,
    decay: Panel,
    /// (n_head n_slot)
    read: Panel,
    /// (n_head d_head)
    y: Panel,
    normed: ActivationBuffer,
}
