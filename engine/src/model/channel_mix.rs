//! The channel mix of RWKV-4, 5 and 6 (Peng et al. 2023, arXiv 2305.13048; reference: `ffn_one` and
//! `ffn_one_v6` of the pip package `rwkv`): a squared-ReLU network whose output a receptance gates.
//! RWKV-7's has no gate. Test: `tests/parity_rwkv.rs`.

use super::token_shift::{self, Weighs};
use super::{Config, Norm, Pass, acts_for};
use crate::Result;
use crate::buffers::{Acts, Panel, Room};
use crate::stage::{Activation, Job, project};
use crate::state::{Place, StateLayout};
use crate::tensor::{Loader, Mat, Vector};

/// The weights of one layer's channel mix.
pub(super) struct ChannelMix {
    ln2: Norm,
    weighs: Weighs,
    /// Mixing of x with the token before, for k and r: (d_model).
    mix_k: Vector,
    mix_r: Vector,
    /// (d_ff, d_model)
    key: Mat,
    /// (d_model, d_model)
    receptance: Mat,
    /// (d_model, d_ff)
    value: Mat,
    /// State: the normed x of the token before (d_model).
    shift: Place,
}

impl ChannelMix {
    /// Reads the channel mix of layer `i`, whose mixing vectors are called `mix`_k and `mix`_r.
    pub(super) fn load(
        loader: &Loader<'_>,
        config: &Config,
        state: &mut StateLayout,
        i: usize,
        mix: &str,
        weighs: Weighs,
    ) -> Result<ChannelMix> {
        let (c, f) = (config.d_model, config.size("d_ff")?);
        let at = format!("layers.{i}");
        Ok(ChannelMix {
            ln2: Norm::layer(loader, &format!("{at}.ln2"), c, config.float("ln_eps")?)?,
            weighs,
            mix_k: loader.vector(&format!("{at}.ffn.{mix}_k"), &[c])?,
            mix_r: loader.vector(&format!("{at}.ffn.{mix}_r"), &[c])?,
            key: loader.mat(&format!("{at}.ffn.key"), f, c)?,
            receptance: loader.mat(&format!("{at}.ffn.receptance"), c, c)?,
            value: loader.mat(&format!("{at}.ffn.value"), c, f)?,
            shift: state.push(i, "ffn.shift", &[c], 0.0),
        })
    }

    /// x += sigmoid(R xr) · V relu(K xk)². `normed` and `y` are (d_model) buffers.
    pub(super) fn forward(
        &self,
        pass: &mut Pass<'_>,
        normed: &mut Panel,
        y: &mut Panel,
        s: &mut Scratch,
    ) {
        let columns = pass.batch.columns;
        token_shift::norm_columns(pass, &self.ln2, normed);
        let targets = [(&*self.mix_k, &mut s.xk), (&*self.mix_r, &mut s.xr)];
        token_shift::mix(pass, normed, self.shift, self.weighs, targets);
        token_shift::save(pass, normed, self.shift);
        let jobs = [
            Job::prepare(&self.key, &s.xk, &mut s.k, Activation::ReluSquared, &mut s.hidden),
            Job::keep(&self.receptance, &s.xr, &mut s.r),
        ];
        project(pass.team, pass.isa, columns, jobs);
        let value = Job::add_gated(&self.value, &s.hidden, y, &s.r, pass.x);
        project(pass.team, pass.isa, columns, [value]);
    }
}

/// Buffers of a forward pass, one column per token.
pub(super) struct Scratch {
    /// (d_model)
    xk: Acts,
    xr: Acts,
    r: Panel,
    /// (d_ff)
    k: Panel,
    hidden: Acts,
}

impl Scratch {
    pub(super) fn new<'a>(
        room: &Room,
        layers: impl Iterator<Item = &'a ChannelMix> + Clone,
    ) -> Scratch {
        let (d_ff, d_model) =
            layers.clone().next().map_or((0, 0), |l| (l.key.rows(), l.key.cols()));
        Scratch {
            xk: acts_for(room, layers.clone().map(|l| &l.key)),
            xr: acts_for(room, layers.clone().map(|l| &l.receptance)),
            r: Panel::new(d_model, room),
            k: Panel::new(d_ff, room),
            hidden: acts_for(room, layers.map(|l| &l.value)),
        }
    }
}
