//! RWKV-4 "Dove" (Peng et al. 2023, arXiv 2305.13048; reference: `att_one` and `ffn_one` of the pip
//! package `rwkv`).
//!
//! Five stages per layer meet the team: the projections, the averages, the output; the
//! channel mix's key and value. Test: `tests/parity_rwkv.rs`.

use super::channel_mix::{self, ChannelMix};
use super::token_shift::{self, Weighs};
use super::{Config, Layer, Norm, Pass, Stack, acts_for};
use crate::Result;
use crate::buffers::{Acts, Panel, Room};
use crate::kernels::forms::GROUP;
use crate::kernels::math::sigmoid;
use crate::kernels::recurrence::{Average, Averaged, weighted_average};
use crate::stage::{Job, project};
use crate::state::{Place, StateLayout};
use crate::team::Split;
use crate::tensor::{Loader, Mat, Vector};

/// The largest exponent before the first token: so low that nothing of it remains (the
/// reference's).
const NO_EXPONENT: f32 = -1e30;

/// The weights of one layer.
pub(crate) struct Rwkv4 {
    ln1: Norm,
    /// Mixing of x with the token before, for k, v, r: (d_model).
    mix_k: Vector,
    mix_v: Vector,
    mix_r: Vector,
    /// (d_att, d_model)
    key: Mat,
    value: Mat,
    receptance: Mat,
    /// (d_model, d_att)
    output: Mat,
    /// w = −exp(time_decay) and u = time_first: (d_att).
    decay: Vector,
    bonus: Vector,
    channel_mix: ChannelMix,
    /// State: the normed x of the token before (d_model).
    shift: Place,
    /// State: numerator, denominator and largest exponent of the average (d_att).
    num: Place,
    den: Place,
    max: Place,
}

/// Reads the layers and describes their state.
pub(super) fn load(
    loader: &Loader<'_>,
    config: &Config,
    state: &mut StateLayout,
) -> Result<Box<dyn Stack>> {
    let layers = (0..config.n_layer)
        .map(|i| Rwkv4::load(loader, config, state, i))
        .collect::<Result<Vec<_>>>()?;
    Ok(Box::new(layers))
}

impl Rwkv4 {
    fn load(
        loader: &Loader<'_>,
        config: &Config,
        state: &mut StateLayout,
        i: usize,
    ) -> Result<Rwkv4> {
        let (c, d_att) = (config.d_model, config.size("d_att")?);
        let at = format!("layers.{i}");
        let vector = |name: &str, n: usize| loader.vector(&format!("{at}.att.{name}"), &[n]);
        let mat = |name: &str, rows: usize, cols: usize| {
            loader.mat(&format!("{at}.att.{name}"), rows, cols)
        };
        Ok(Rwkv4 {
            ln1: Norm::layer(loader, &format!("{at}.ln1"), c, config.float("ln_eps")?)?,
            mix_k: vector("mix_k", c)?,
            mix_v: vector("mix_v", c)?,
            mix_r: vector("mix_r", c)?,
            key: mat("key", d_att, c)?,
            value: mat("value", d_att, c)?,
            receptance: mat("receptance", d_att, c)?,
            output: mat("output", c, d_att)?,
            decay: vector("decay", d_att)?,
            bonus: vector("bonus", d_att)?,
            shift: state.push(i, "att.shift", &[c], 0.0),
            num: state.push(i, "att.wkv_num", &[d_att], 0.0),
            den: state.push(i, "att.wkv_den", &[d_att], 0.0),
            max: state.push(i, "att.wkv_max", &[d_att], NO_EXPONENT),
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
    /// (d_att)
    k: Panel,
    v: Panel,
    r: Panel,
    wkv: Panel,
    gated: Acts,
    /// (d_model)
    y: Panel,
    channel_mix: channel_mix::Scratch,
}

impl Layer for Rwkv4 {
    type Scratch = Scratch;

    fn scratch(layers: &[Rwkv4], room: &Room) -> Scratch {
        let (d_att, d_model) = layers.first().map_or((0, 0), |l| (l.key.rows(), l.key.cols()));
        let panel = |rows: usize| Panel::new(rows, room);
        let acts = |mat: fn(&Rwkv4) -> &Mat| acts_for(room, layers.iter().map(mat));
        Scratch {
            normed: panel(d_model),
            xk: acts(|l| &l.key),
            xv: acts(|l| &l.value),
            xr: acts(|l| &l.receptance),
            k: panel(d_att),
            v: panel(d_att),
            r: panel(d_att),
            wkv: panel(d_att),
            gated: acts(|l| &l.output),
            y: panel(d_model),
            channel_mix: channel_mix::Scratch::new(room, layers.iter().map(|l| &l.channel_mix)),
        }
    }

    fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let columns = pass.batch.columns;
        token_shift::norm_columns(pass, &self.ln1, &mut s.normed);
        // r = R xr, k = K xk, v = V xv.
        let targets =
            [(&*self.mix_k, &mut s.xk), (&*self.mix_v, &mut s.xv), (&*self.mix_r, &mut s.xr)];
        token_shift::mix(pass, &s.normed, self.shift, Weighs::Current, targets);
        token_shift::save(pass, &s.normed, self.shift);
        let jobs = [
            Job::keep(&self.key, &s.xk, &mut s.k),
            Job::keep(&self.value, &s.xv, &mut s.v),
            Job::keep(&self.receptance, &s.xr, &mut s.r),
        ];
        project(pass.team, pass.isa, columns, jobs);
        self.average(pass, s);
        // x = x + O (sigmoid(r) · wkv).
        project(pass.team, pass.isa, columns, [Job::add(&self.output, &s.gated, &mut s.y, pass.x)]);
        self.channel_mix.forward(pass, &mut s.normed, &mut s.y, &mut s.channel_mix);
    }
}

impl Rwkv4 {
    /// sigmoid(r) · wkv, each channel in the piece that owns it.
    fn average(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let Pass { team, states, batch, isa, .. } = pass;
        let (isa, batch) = (*isa, *batch);
        let pieces = team.pieces(3 * self.num.bytes(), batch.columns);
        let split = Split::new(s.wkv.rows(), GROUP, pieces);
        let (k, v, r) = (&s.k, &s.v, &s.r);
        let wkv = s.wkv.share_rows(batch.columns, split);
        let gated = s.gated.share_rows(batch.columns, split);
        let [num, den, max] = states.share_each([self.num, self.den, self.max], split);
        team.run(pieces, &|piece| {
            let (mut wkv, mut gated) = (wkv.take(piece), gated.take(piece));
            let (mut num, mut den, mut max) = (num.take(piece), den.take(piece), max.take(piece));
            let own = wkv.rows();
            let (decay, bonus) = (&self.decay[own.clone()], &self.bonus[own.clone()]);
            for (run, span) in batch.spans.iter().enumerate() {
                let mut state = Average { num: num.get(run), den: den.get(run), max: max.get(run) };
                let averaged = Averaged {
                    k: k.view(span.clone(), own.clone()),
                    v: v.view(span.clone(), own.clone()),
                    decay,
                    bonus,
                    y: wkv.view_mut(span.clone(), own.clone()),
                };
                weighted_average(isa, &mut state, averaged);
            }
            for c in 0..batch.columns {
                let (wkv, r) = (wkv.column(c), r.column(c));
                gated.fill(
                    isa,
                    c,
                    #[inline(always)]
                    |rows, out| {
                        let wkv = &wkv[rows.start - own.start..rows.end - own.start];
                        for (out, (r, wkv)) in out.iter_mut().zip(r[rows].iter().zip(wkv)) {
                            *out = sigmoid(*r) * wkv;
                        }
                    },
                );
            }
        });
    }
}
