//! RWKV-5 "Eagle" (Peng et al. 2024, arXiv 2404.05892; reference: `att_one_v5` and `att_one_v5_1`
//! of the pip package `rwkv`).
//!
//! 5.0, 5.1 and 5.2 are one architecture here: the converter expands a decay and bonus per head to
//! its channels, and the gate may be absent (5.0). Five stages per layer meet the team: the
//! projections, the heads, the output; the channel mix's key and value. Test:
//! `tests/parity_rwkv.rs`.

use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::model::parts::{
    BonusHeads, BonusScratch, ChannelMix, ChannelMixScratch, Output, TokenShift, Weighs,
};
use crate::model::{Layer, Pass, Source};
use crate::ops::List;
use crate::stage::Job;
use crate::tensor::{Matrix, Vector, acts_for};

/// The weights of one layer.
pub(crate) struct Rwkv5 {
    shift: TokenShift,
    /// Mixing of x with the token before, for k, v, r: (d_model).
    mix_k: Vector,
    mix_v: Vector,
    mix_r: Vector,
    /// (d_att, d_model)
    receptance: Matrix,
    key: Matrix,
    value: Matrix,
    /// The gate's mixing vector and matrix (d_att, d_model).
    gate: Option<(Vector, Matrix)>,
    output: Output,
    /// With w = exp(−exp(time_decay)): (d_att).
    heads: BonusHeads,
    channel_mix: ChannelMix,
}

/// Buffers of a forward pass, one column per token (d_model).
pub(crate) struct Scratch {
    normed: Panel,
    xk: ActivationBuffer,
    xv: ActivationBuffer,
    xr: ActivationBuffer,
    xg: ActivationBuffer,
    heads: BonusScratch,
    channel_mix: ChannelMixScratch,
}

impl Layer for Rwkv5 {
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<Rwkv5> {
        let (config, c) = (source.config, source.config.d_model);
        let d_att = config.size("d_att")?;
        let mix = |letter: char| source.vector(&format!("att.mix_{letter}"), c);
        let mat = |name: &str| source.mat(&format!("att.{name}"), d_att, c);
        let has_gate = config.flag("has_gate")?;
        Ok(Rwkv5 {
            shift: TokenShift::load(source, "ln1", "att.shift", Weighs::Current)?,
            mix_k: mix('k')?,
            mix_v: mix('v')?,
            mix_r: mix('r')?,
            receptance: mat("receptance")?,
            key: mat("key")?,
            value: mat("value")?,
            gate: if has_gate { Some((mix('g')?, mat("gate")?)) } else { None },
            output: Output::load(source, "att.output", d_att)?,
            heads: BonusHeads::load(source, "decay", d_att)?,
            channel_mix: ChannelMix::load(source, "mix", Weighs::Current, true)?,
        })
    }

    fn scratch(layers: &[Rwkv5], workspace: &Workspace) -> Scratch {
        let acts = |mat: fn(&Rwkv5) -> &Matrix| acts_for(workspace, layers.iter().map(mat));
        let gates = layers.iter().filter_map(|l| l.gate.as_ref().map(|(_, gate)| gate));
        let (d_model, d_att) = layers.first().map_or((0, 0), |l| (l.key.cols(), l.key.rows()));
        Scratch {
            normed: Panel::new(d_model, workspace),
            xk: acts(|l| &l.key),
            xv: acts(|l| &l.value),
            xr: acts(|l| &l.receptance),
            xg: acts_for(workspace, gates),
            heads: BonusScratch::new(workspace, d_att, layers.iter().map(|l| &l.output.weight)),
            channel_mix: ChannelMixScratch::new(workspace, layers.iter().map(|l| &l.channel_mix)),
        }
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let normed = self.shift.list_norm(list, "normed");
        let c = list.rows(normed);
        let mut mixed = |name, m| list.pack(name, c, self.shift.mixture(normed, m));
        let (xk, xv, xr) =
            (mixed("xk", &self.mix_k), mixed("xv", &self.mix_v), mixed("xr", &self.mix_r));
        let xg = self.gate.as_ref().map(|(mix, gate)| (mixed("xg", mix), gate));
        let r = list.project("r", &self.receptance, xr);
        let k = list.project("k", &self.key, xk);
        let v = list.project("v", &self.value, xv);
        let g = xg.map(|(xg, gate)| list.project("g", gate, xg));
        self.shift.list_save(list, normed);
        let gated = self.heads.list(list, [r, k, v], g, None);
        self.output.list(list, gated);
        self.channel_mix.list(list);
    }

    fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let mixes: [&[f32]; 3] = [&self.mix_k, &self.mix_v, &self.mix_r];
        self.shift.norm(pass, &mut s.normed);
        self.shift.mix(pass, &s.normed, mixes, [&mut s.xk, &mut s.xv, &mut s.xr]);
        if let Some((mix_g, _)) = &self.gate {
            self.shift.mix(pass, &s.normed, [mix_g], [&mut s.xg]);
        }
        self.shift.save(pass, &s.normed);
        let heads = &mut s.heads;
        let gate = self.gate.as_ref().map(|(_, gate)| Job::keep(gate, &s.xg, &mut heads.g));
        let jobs = [
            Job::keep(&self.receptance, &s.xr, &mut heads.r), // r = R xr
            Job::keep(&self.key, &s.xk, &mut heads.k),        // k = K xk
            Job::keep(&self.value, &s.xv, &mut heads.v),      // v = V xv
        ];
        pass.stages.project(jobs.into_iter().chain(gate)); // g = G xg
        self.heads.forward(pass, heads, self.gate.is_some(), None);
        // x = x + O (norm(y) · silu(g)).
        self.output.forward(pass, &heads.gated);
        self.channel_mix.forward(pass, &mut s.channel_mix);
    }
}
