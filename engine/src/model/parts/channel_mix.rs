//! The channel mix of RWKV (Peng et al. 2023, arXiv 2305.13048; reference: `ffn_one`, `ffn_one_v6`
//! of the pip package `rwkv`, and RWKV-LM's `rwkv_v7_numpy.py`): a squared-ReLU network, whose
//! output a receptance gates in versions 4 to 6. Test: `tests/parity_rwkv.rs`.

use super::{TokenShift, Weighs};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::model::{Pass, Source};
use crate::ops::{Function, List, of};
use crate::stage::{Activation, Job, Product};
use crate::tensor::{Matrix, Vector, acts_for};

/// The weights of one layer's channel mix.
pub(crate) struct ChannelMix {
    shift: TokenShift,
    /// Mixing of x with the token before: (d_model).
    mix_k: Vector,
    /// (d_ff, d_model)
    key: Matrix,
    /// (d_model, d_ff)
    value: Matrix,
    /// Mixing vector and matrix (d_model, d_model) of the receptance.
    receptance: Option<(Vector, Matrix)>,
}

impl ChannelMix {
    /// Reads a channel mix whose mixing vectors are called `ffn.{mix}_k` and, where it has a
    /// receptance, `ffn.{mix}_r`.
    pub(crate) fn load(
        source: &Source<'_>,
        mix: &str,
        weighs: Weighs,
        has_receptance: bool,
    ) -> Result<ChannelMix> {
        let (c, f) = (source.config.d_model, source.config.size("d_ff")?);
        let mixing = |letter: char| source.vector(&format!("ffn.{mix}_{letter}"), c);
        let receptance =
            || -> Result<_> { Ok((mixing('r')?, source.mat("ffn.receptance", c, c)?)) };
        Ok(ChannelMix {
            shift: TokenShift::load(source, "ln2", "ffn.shift", weighs)?,
            mix_k: mixing('k')?,
            key: source.mat("ffn.key", f, c)?,
            value: source.mat("ffn.value", c, f)?,
            receptance: if has_receptance { Some(receptance()?) } else { None },
        })
    }

    /// The same as [`ChannelMix::forward`], as operations.
    pub(crate) fn list<'m>(&'m self, list: &mut List<'m>) {
        let x = list.x();
        let (c, normed) = (list.rows(x), self.shift.list_norm(list, "ffn normed"));
        let xk = list.pack("ffn xk", c, self.shift.mixture(normed, &self.mix_k));
        let xr = self.receptance.as_ref().map(|(mix, receptance)| {
            let xr = list.pack("ffn xr", c, self.shift.mixture(normed, mix));
            list.project("ffn r", receptance, xr)
        });
        let k = list.project("ffn k", &self.key, xk);
        self.shift.list_save(list, normed);
        let hidden = of(k).apply(Function::ReluSquared);
        let hidden = list.pack("ffn hidden", self.key.rows(), hidden);
        let y = list.project("y", &self.value, hidden);
        list.map(
            x,
            match xr {
                None => of(x) + y,
                Some(r) => of(x) + of(r).apply(Function::Sigmoid) * y,
            },
        );
    }

    /// x += V relu(K xk)², times sigmoid(R xr) where there is a receptance.
    pub(crate) fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        match &self.receptance {
            None => self.shift.forward(pass, &mut s.normed, [&self.mix_k], [&mut s.xk]),
            Some((mix_r, _)) => {
                let inputs = [&mut s.xk, &mut s.xr];
                self.shift.forward(pass, &mut s.normed, [&self.mix_k, mix_r], inputs);
            }
        }
        // hidden = relu(K xk)²
        let f = Activation::ReluSquared;
        pass.stages.project([Job::prepare(&self.key, &s.xk, &mut s.k, f, &mut s.hidden)]);
        let (x, y) = (&mut pass.streams.x, &mut pass.streams.y);
        pass.stages.project([match &self.receptance {
            // x = x + V hidden
            None => Job::add(&self.value, &s.hidden, y, x),
            // x = x + sigmoid(R xr) · V hidden
            Some((_, receptance)) => Job::add_gated(
                Product { w: &self.value, x: &s.hidden, y },
                Product { w: receptance, x: &s.xr, y: &mut s.r },
                x,
            ),
        }]);
    }
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    /// (d_model)
    normed: Panel,
    xk: ActivationBuffer,
    xr: ActivationBuffer,
    r: Panel,
    /// (d_ff)
    k: Panel,
    hidden: ActivationBuffer,
}

impl Scratch {
    pub(crate) fn new<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a ChannelMix> + Clone,
    ) -> Scratch {
        let (d_ff, d_model) =
            layers.clone().next().map_or((0, 0), |l| (l.key.rows(), l.key.cols()));
        let receptances =
            layers.clone().filter_map(|l| l.receptance.as_ref().map(|(_, matrix)| matrix));
        Scratch {
            normed: Panel::new(d_model, workspace),
            xk: acts_for(workspace, layers.clone().map(|l| &l.key)),
            r: Panel::new(receptances.clone().next().map_or(0, Matrix::rows), workspace),
            xr: acts_for(workspace, receptances),
            k: Panel::new(d_ff, workspace),
            hidden: acts_for(workspace, layers.map(|l| &l.value)),
        }
    }
}
