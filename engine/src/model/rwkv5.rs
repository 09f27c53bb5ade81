//! RWKV-5 "Eagle" (Peng et al. 2024, arXiv 2404.05892; reference: `att_one_v5` and `att_one_v5_1`
//! of the pip package `rwkv`).
//!
//! 5.0, 5.1 and 5.2 are one architecture here: the converter expands a decay and bonus per head to
//! its channels, and the gate may be absent (5.0). Five stages per layer meet the team: the
//! projections, the heads, the output; the channel mix's key and value. Test:
//! `tests/parity_rwkv.rs`.

use super::bonus_heads::{self, BonusHeads, DecayOf};
use super::channel_mix::{self, ChannelMix};
use super::token_shift::{self, Weighs};
use super::{Config, Layer, Norm, Pass, Stack, acts_for};
use crate::Result;
use crate::buffers::{Acts, Panel, Room};
use crate::stage::{Job, project};
use crate::state::{Place, StateLayout};
use crate::tensor::{Loader, Mat, Vector};

/// The weights of one layer.
pub(crate) struct Rwkv5 {
    ln1: Norm,
    /// Mixing of x with the token before, for k, v, r: (d_model).
    mix_k: Vector,
    mix_v: Vector,
    mix_r: Vector,
    /// (d_att, d_model)
    receptance: Mat,
    key: Mat,
    value: Mat,
    /// The gate's mixing vector and matrix (d_att, d_model).
    gate: Option<(Vector, Mat)>,
    /// (d_model, d_att)
    output: Mat,
    /// w = exp(−exp(time_decay)): (d_att).
    decay: Vector,
    heads: BonusHeads,
    channel_mix: ChannelMix,
    /// State: the normed x of the token before (d_model).
    shift: Place,
}

/// Reads the layers and describes their state.
pub(super) fn load(
    loader: &Loader<'_>,
    config: &Config,
    state: &mut StateLayout,
) -> Result<Box<dyn Stack>> {
    let layers = (0..config.n_layer)
        .map(|i| Rwkv5::load(loader, config, state, i))
        .collect::<Result<Vec<_>>>()?;
    Ok(Box::new(layers))
}

impl Rwkv5 {
    fn load(
        loader: &Loader<'_>,
        config: &Config,
        state: &mut StateLayout,
        i: usize,
    ) -> Result<Rwkv5> {
        let (c, d_att) = (config.d_model, config.size("d_att")?);
        let at = format!("layers.{i}");
        let vector = |name: &str, n: usize| loader.vector(&format!("{at}.att.{name}"), &[n]);
        let mat = |name: &str, rows: usize, cols: usize| {
            loader.mat(&format!("{at}.att.{name}"), rows, cols)
        };
        let has_gate = config.flag("has_gate")?;
        Ok(Rwkv5 {
            ln1: Norm::layer(loader, &format!("{at}.ln1"), c, config.float("ln_eps")?)?,
            mix_k: vector("mix_k", c)?,
            mix_v: vector("mix_v", c)?,
            mix_r: vector("mix_r", c)?,
            receptance: mat("receptance", d_att, c)?,
            key: mat("key", d_att, c)?,
            value: mat("value", d_att, c)?,
            gate: if has_gate { Some((vector("mix_g", c)?, mat("gate", d_att, c)?)) } else { None },
            output: mat("output", c, d_att)?,
            decay: vector("decay", d_att)?,
            shift: state.push(i, "att.shift", &[c], 0.0),
            heads: BonusHeads::load(loader, config, state, i, d_att)?,
            channel_mix: ChannelMix::load(loader, config, state, i, "mix", Weighs::Current)?,
        })
    }
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    /// (d_model)
    normed: Panel,
    xk: Acts,
    xv: Acts,
    xr: Acts,
    xg: Acts,
    y: Panel,
    heads: bonus_heads::Scratch,
    channel_mix: channel_mix::Scratch,
}

impl Layer for Rwkv5 {
    type Scratch = Scratch;

    fn scratch(layers: &[Rwkv5], room: &Room) -> Scratch {
        let (d_att, d_model) = layers.first().map_or((0, 0), |l| (l.key.rows(), l.key.cols()));
        let acts = |mat: fn(&Rwkv5) -> &Mat| acts_for(room, layers.iter().map(mat));
        Scratch {
            normed: Panel::new(d_model, room),
            xk: acts(|l| &l.key),
            xv: acts(|l| &l.value),
            xr: acts(|l| &l.receptance),
            xg: acts_for(room, layers.iter().filter_map(|l| l.gate.as_ref().map(|(_, gate)| gate))),
            y: Panel::new(d_model, room),
            heads: bonus_heads::Scratch::new(d_att, room, acts(|l| &l.output)),
            channel_mix: channel_mix::Scratch::new(room, layers.iter().map(|l| &l.channel_mix)),
        }
    }

    fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let columns = pass.batch.columns;
        token_shift::norm_columns(pass, &self.ln1, &mut s.normed);
        // r = R xr, k = K xk, v = V xv, g = G xg.
        let targets =
            [(&*self.mix_k, &mut s.xk), (&*self.mix_v, &mut s.xv), (&*self.mix_r, &mut s.xr)];
        token_shift::mix(pass, &s.normed, self.shift, Weighs::Current, targets);
        if let Some((mix_g, _)) = &self.gate {
            token_shift::mix(pass, &s.normed, self.shift, Weighs::Current, [(&**mix_g, &mut s.xg)]);
        }
        token_shift::save(pass, &s.normed, self.shift);
        let jobs = [
            Job::keep(&self.receptance, &s.xr, &mut s.heads.r),
            Job::keep(&self.key, &s.xk, &mut s.heads.k),
            Job::keep(&self.value, &s.xv, &mut s.heads.v),
        ];
        match &self.gate {
            None => project(pass.team, pass.isa, columns, jobs),
            Some((_, gate)) => {
                let [r, k, v] = jobs;
                project(
                    pass.team,
                    pass.isa,
                    columns,
                    [r, k, v, Job::keep(gate, &s.xg, &mut s.heads.g)],
                );
            }
        }
        self.heads.forward(pass, DecayOf::Fixed(&self.decay), &mut s.heads, self.gate.is_some());
        // x = x + O (norm(y) · silu(g)).
        let output = Job::add(&self.output, &s.heads.gated, &mut s.y, pass.x);
        project(pass.team, pass.isa, columns, [output]);
        self.channel_mix.forward(pass, &mut s.normed, &mut s.y, &mut s.channel_mix);
    }
}
