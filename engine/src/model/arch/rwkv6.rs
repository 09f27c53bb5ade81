//! RWKV-6 "Finch" (Peng et al. 2024, arXiv 2404.05892; reference: `att_one_v6_0` of the pip package
//! `rwkv`).
//!
//! Seven stages per layer meet the team: the first and second halves of the branches that decide
//! the mixing, the projections, the heads, the output; the channel mix's key and value. Test:
//! `tests/parity_rwkv.rs`.

use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::forms::GROUP;
use crate::model::parts::{
    BonusHeads, BonusScratch, ChannelMix, ChannelMixScratch, LowRank, LowRankScratch, Output,
    TokenShift, Weighs,
};
use crate::model::{Layer, Pass, Source};
use crate::ops::{Formula, Function, List, before, of};
use crate::stage::{Activation, Cut, Job, Owned, Piece};
use crate::tensor::{Matrix, Vector, acts_for};

/// The mixture that one projection reads: x + (previous − x) · (base + second · tanh(first · x′)),
/// with x′ a mixture that all five share.
struct DynamicMix {
    /// (d_model)
    base: Vector,
    low_rank: LowRank,
}

/// The weights of one layer.
pub(crate) struct Rwkv6 {
    shift: TokenShift,
    /// Mixing of x with the token before, for the branches' input: (d_model).
    maa_x: Vector,
    /// For w, k, v, r, g.
    mixes: [DynamicMix; 5],
    decay: LowRank,
    /// (keys, d_model) each
    receptance: Matrix,
    key: Matrix,
    /// (d_att, d_model) each
    value: Matrix,
    gate: Matrix,
    output: Output,
    heads: BonusHeads,
    channel_mix: ChannelMix,
}

/// Buffers of a forward pass, one column per token (d_model).
pub(crate) struct Scratch {
    normed: Panel,
    /// The branches' common input.
    xx: ActivationBuffer,
    /// The five proportions.
    mixes: [LowRankScratch; 5],
    /// The mixtures.
    xw: ActivationBuffer,
    xk: ActivationBuffer,
    xv: ActivationBuffer,
    xr: ActivationBuffer,
    xg: ActivationBuffer,
    decay: LowRankScratch,
    heads: BonusScratch,
    channel_mix: ChannelMixScratch,
}

impl Layer for Rwkv6 {
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<Rwkv6> {
        let (config, c) = (source.config, source.config.d_model);
        let d_att = config.size("d_att")?;
        let (rank_mix, rank_decay) = (config.size("rank_mix")?, config.size("rank_decay")?);
        let mat = |name: &str, rows| source.mat(&format!("att.{name}"), rows, c);
        let mix = |letter: char| -> Result<DynamicMix> {
            let [first, second] = [1, 2].map(|half| format!("att.maa_w{half}.{letter}"));
            Ok(DynamicMix {
                base: source.vector(&format!("att.maa_{letter}"), c)?,
                low_rank: LowRank::load(source, [&first, &second], c, rank_mix, c)?,
            })
        };
        let decay = ["att.decay_w1", "att.decay_w2"];
        let heads = BonusHeads::load(source, "decay_base", d_att)?;
        let keys = heads.keys();
        Ok(Rwkv6 {
            shift: TokenShift::load(source, "ln1", "att.shift", Weighs::Previous)?,
            maa_x: source.vector("att.maa_x", c)?,
            mixes: [mix('w')?, mix('k')?, mix('v')?, mix('r')?, mix('g')?],
            decay: LowRank::load(source, decay, keys, rank_decay, c)?,
            receptance: mat("receptance", keys)?,
            key: mat("key", keys)?,
            value: mat("value", d_att)?,
            gate: mat("gate", d_att)?,
            output: Output::load(source, "att.output", d_att)?,
            heads,
            channel_mix: ChannelMix::load(source, "maa", Weighs::Previous, true)?,
        })
    }

    fn scratch(layers: &[Rwkv6], workspace: &Workspace) -> Scratch {
        let acts = |mat: fn(&Rwkv6) -> &Matrix| acts_for(workspace, layers.iter().map(mat));
        let firsts = layers.iter().flat_map(|l| l.mixes.iter().map(|mix| &mix.low_rank.first));
        let (d_model, keys) = layers.first().map_or((0, 0), |l| (l.key.cols(), l.key.rows()));
        Scratch {
            normed: Panel::new(d_model, workspace),
            xx: acts_for(workspace, firsts),
            mixes: std::array::from_fn(|i| {
                LowRankScratch::new(workspace, d_model, layers.iter().map(|l| &l.mixes[i].low_rank))
            }),
            xw: acts(|l| &l.decay.first),
            xk: acts(|l| &l.key),
            xv: acts(|l| &l.value),
            xr: acts(|l| &l.receptance),
            xg: acts(|l| &l.gate),
            decay: LowRankScratch::new(workspace, keys, layers.iter().map(|l| &l.decay)),
            heads: BonusScratch::new(workspace, keys, layers.iter().map(|l| &l.output.weight)),
            channel_mix: ChannelMixScratch::new(workspace, layers.iter().map(|l| &l.channel_mix)),
        }
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let normed = self.shift.list_norm(list, "normed");
        let c = list.rows(normed);
        let xx = list.pack("xx", c, self.shift.mixture(normed, &self.maa_x));
        let [w, k, v, r, g] = &self.mixes;
        let names = [
            (w, ["w low", "w hidden", "w mix", "xw"]),
            (k, ["k low", "k hidden", "k mix", "xk"]),
            (v, ["v low", "v hidden", "v mix", "xv"]),
            (r, ["r low", "r hidden", "r mix", "xr"]),
            (g, ["g low", "g hidden", "g mix", "xg"]),
        ];
        let tanh = Some(Function::Tanh);
        let hidden = names.map(|(mix, [low, hidden, share, mixed])| {
            (mix, mix.low_rank.list_first(list, [low, hidden], xx, tanh), share, mixed)
        });
        // x + (previous − x) · (base + second · hidden).
        let [xw, xk, xv, xr, xg] = hidden.map(|(mix, hidden, share, mixed)| {
            let share = mix.low_rank.list_second(list, share, hidden);
            let share = Formula::from(&mix.base) + share;
            let past = before(normed, self.shift.state());
            list.pack(mixed, c, of(normed) + (past - of(normed)) * share)
        });
        let r = list.project("r", &self.receptance, xr);
        let k = list.project("k", &self.key, xk);
        let v = list.project("v", &self.value, xv);
        let g = list.project("g", &self.gate, xg);
        let fade = self.decay.list_first(list, ["decay low", "decay hidden"], xw, tanh);
        self.shift.list_save(list, normed);
        let fade = self.decay.list_second(list, "decay", fade);
        let gated = self.heads.list(list, [r, k, v], Some(g), Some(fade));
        self.output.list(list, gated);
        self.channel_mix.list(list);
    }

    fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.dynamic_mix(pass, s);
        let heads = &mut s.heads;
        pass.stages.project([
            Job::keep(&self.receptance, &s.xr, &mut heads.r), // r = R xr
            Job::keep(&self.key, &s.xk, &mut heads.k),        // k = K xk
            Job::keep(&self.value, &s.xv, &mut heads.v),      // v = V xv
            Job::keep(&self.gate, &s.xg, &mut heads.g),       // g = G xg
            self.decay.first(&s.xw, Activation::Tanh, &mut s.decay),
        ]);
        // w = exp(−exp(base + w2 tanh(w1 xw))), the heads.
        self.heads.forward(pass, heads, true, Some((&self.decay, &mut s.decay)));
        // x = x + O (norm(y) · silu(g)).
        self.output.forward(pass, &heads.gated);
        self.channel_mix.forward(pass, &mut s.channel_mix);
    }
}

impl Rwkv6 {
    /// The five mixtures of x with the token before, in proportions that depend on both.
    fn dynamic_mix(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.shift.norm(pass, &mut s.normed);
        self.shift.mix(pass, &s.normed, [&self.maa_x], [&mut s.xx]);
        let branches = self.mixes.iter().zip(&mut s.mixes);
        pass.stages.project(
            branches.map(|(mix, scratch)| mix.low_rank.first(&s.xx, Activation::Tanh, scratch)),
        );
        let (normed, states) = (&s.normed, &pass.states);
        let [w, k, v, r, g] = &mut s.mixes;
        let hidden = [&w.hidden, &k.hidden, &v.hidden, &r.hidden, &g.hidden];
        let owned = Owned {
            panels: [&mut w.out, &mut k.out, &mut v.out, &mut r.out, &mut g.out],
            acts: [&mut s.xw, &mut s.xk, &mut s.xv, &mut s.xr, &mut s.xg],
        };
        let bytes = self.mixes.iter().map(|mix| mix.low_rank.second_len()).sum();
        let cut = Cut { rows: normed.rows(), unit: GROUP, bytes };
        pass.stages.rows(cut, owned, |piece| {
            let Piece { isa, batch, own, mut panels, mut acts, .. } = piece;
            let targets = panels.iter_mut().zip(&mut acts);
            for ((mix, hidden), (m, mixed)) in self.mixes.iter().zip(hidden).zip(targets) {
                mix.low_rank.second(isa, hidden, m);
                for c in 0..batch.columns {
                    let x = normed.column(c);
                    let before = self.shift.previous(batch, states, normed, c);
                    let m = m.column(c);
                    mixed.fill(
                        isa,
                        c,
                        #[inline(always)]
                        |rows, out| {
                            let m = &m[rows.start - own.start..rows.end - own.start];
                            let proportions = mix.base[rows.clone()].iter().zip(m);
                            let inputs = x[rows.clone()].iter().zip(&before[rows]).zip(proportions);
                            for (out, ((x, before), (base, m))) in out.iter_mut().zip(inputs) {
                                *out = x + (before - x) * (base + m);
                            }
                        },
                    );
                }
            }
        });
        self.shift.save(pass, &s.normed);
    }
}
