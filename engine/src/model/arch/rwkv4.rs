//! RWKV-4 "Dove" (Peng et al. 2023, arXiv 2305.13048; reference: `att_one` and `ffn_one` of the pip
//! package `rwkv`).
//!
//! Five stages per layer meet the team: the projections, the averages, the output; the channel
//! mix's key and value. Test: `tests/parity_rwkv.rs`.

use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::forms::GROUP;
use crate::kernels::lanes::update;
use crate::kernels::math::sigmoid;
use crate::kernels::recurrence::{Average, Averaged, weighted_average};
use crate::kernels::simd::simd;
use crate::model::parts::{ChannelMix, ChannelMixScratch, Output, TokenShift, Weighs};
use crate::model::{Layer, Pass, Source};
use crate::ops::{AverageOp, Function, List, of};
use crate::stage::{Cut, Job, Owned, Piece, prepare};
use crate::state::SlotRef;
use crate::tensor::{Matrix, Vector, acts_for};

/// The largest exponent before the first token: so low that nothing of it remains (the
/// reference's).
const NO_EXPONENT: f32 = -1e30;

/// The weights of one layer.
pub(crate) struct Rwkv4 {
    shift: TokenShift,
    /// Mixing of x with the token before, for k, v, r: (d_model).
    mix_k: Vector,
    mix_v: Vector,
    mix_r: Vector,
    /// (d_att, d_model)
    key: Matrix,
    value: Matrix,
    receptance: Matrix,
    output: Output,
    /// w = −exp(time_decay) and u = time_first: (d_att).
    decay: Vector,
    bonus: Vector,
    /// State: numerator, denominator and largest exponent of the average (d_att).
    num: SlotRef,
    den: SlotRef,
    max: SlotRef,
    channel_mix: ChannelMix,
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    /// (d_model)
    normed: Panel,
    xk: ActivationBuffer,
    xv: ActivationBuffer,
    xr: ActivationBuffer,
    /// (d_att)
    k: Panel,
    v: Panel,
    r: Panel,
    y: Panel,
    gated: ActivationBuffer,
    channel_mix: ChannelMixScratch,
}

impl Layer for Rwkv4 {
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<Rwkv4> {
        let (c, d_att) = (source.config.d_model, source.config.size("d_att")?);
        let mix = |letter: char| source.vector(&format!("att.mix_{letter}"), c);
        let mat = |name: &str| source.mat(&format!("att.{name}"), d_att, c);
        Ok(Rwkv4 {
            shift: TokenShift::load(source, "ln1", "att.shift", Weighs::Current)?,
            mix_k: mix('k')?,
            mix_v: mix('v')?,
            mix_r: mix('r')?,
            key: mat("key")?,
            value: mat("value")?,
            receptance: mat("receptance")?,
            output: Output::load(source, "att.output", d_att)?,
            decay: source.vector("att.decay", d_att)?,
            bonus: source.vector("att.bonus", d_att)?,
            num: source.state("att.wkv_num", &[d_att], 0.0),
            den: source.state("att.wkv_den", &[d_att], 0.0),
            max: source.state("att.wkv_max", &[d_att], NO_EXPONENT),
            channel_mix: ChannelMix::load(source, "mix", Weighs::Current, true)?,
        })
    }

    fn scratch(layers: &[Rwkv4], workspace: &Workspace) -> Scratch {
        let (d_att, d_model) = layers.first().map_or((0, 0), |l| (l.key.rows(), l.key.cols()));
        let panel = |rows: usize| Panel::new(rows, workspace);
        let acts = |mat: fn(&Rwkv4) -> &Matrix| acts_for(workspace, layers.iter().map(mat));
        Scratch {
            normed: panel(d_model),
            xk: acts(|l| &l.key),
            xv: acts(|l| &l.value),
            xr: acts(|l| &l.receptance),
            k: panel(d_att),
            v: panel(d_att),
            r: panel(d_att),
            y: panel(d_att),
            gated: acts(|l| &l.output.weight),
            channel_mix: ChannelMixScratch::new(workspace, layers.iter().map(|l| &l.channel_mix)),
        }
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let normed = self.shift.list_norm(list, "normed");
        let c = list.rows(normed);
        let mut mixed = |name, m| list.pack(name, c, self.shift.mixture(normed, m));
        let (xk, xv, xr) =
            (mixed("xk", &self.mix_k), mixed("xv", &self.mix_v), mixed("xr", &self.mix_r));
        let k = list.project("k", &self.key, xk);
        let v = list.project("v", &self.value, xv);
        let r = list.project("r", &self.receptance, xr);
        self.shift.list_save(list, normed);
        let (decay, bonus) = (&*self.decay, &*self.bonus);
        let y = list.values("average", self.key.rows());
        let state = [self.num, self.den, self.max];
        list.average(AverageOp { k, v, decay, bonus, state, y });
        let gated = of(r).apply(Function::Sigmoid) * y;
        let gated = list.pack("gated", self.key.rows(), gated);
        self.output.list(list, gated);
        self.channel_mix.list(list);
    }

    fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let mixes: [&[f32]; 3] = [&self.mix_k, &self.mix_v, &self.mix_r];
        let inputs = [&mut s.xk, &mut s.xv, &mut s.xr];
        self.shift.forward(pass, &mut s.normed, mixes, inputs);
        pass.stages.project([
            Job::keep(&self.key, &s.xk, &mut s.k),        // k = K xk
            Job::keep(&self.value, &s.xv, &mut s.v),      // v = V xv
            Job::keep(&self.receptance, &s.xr, &mut s.r), // r = R xr
        ]);
        self.average(pass, s);
        // x = x + O (sigmoid(r) · wkv).
        self.output.forward(pass, &s.gated);
        self.channel_mix.forward(pass, &mut s.channel_mix);
    }
}

impl Rwkv4 {
    /// sigmoid(r) · wkv, each channel on the piece that owns it.
    fn average(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let (k, v, r, rows) = (&s.k, &s.v, &s.r, s.y.rows());
        let owned = Owned { panels: [&mut s.y], acts: [&mut s.gated] };
        let cut = Cut { rows, unit: GROUP, bytes: 0 };
        let places = [self.num, self.den, self.max];
        pass.stages.rows_and_states(cut, owned, &mut pass.states, places, |piece| {
            let Piece { isa, batch, own, panels: [mut y], acts: [mut gated], states } = piece;
            let [mut num, mut den, mut max] = states;
            for (run, span) in batch.spans.iter().enumerate() {
                let mut state = Average { num: num.get(run), den: den.get(run), max: max.get(run) };
                let averaged = Averaged {
                    k: k.view(span.clone(), own.clone()),
                    v: v.view(span.clone(), own.clone()),
                    decay: &self.decay[own.clone()],
                    bonus: &self.bonus[own.clone()],
                    y: y.view_mut(span.clone(), own.clone()),
                };
                weighted_average(isa, &mut state, averaged);
            }
            simd!(isa, {
                for c in 0..batch.columns {
                    update(y.column(c), &r.column(c)[own.clone()], |y, r| sigmoid(r) * y);
                }
            });
            prepare(isa, &mut y, &mut gated);
        });
    }
}
