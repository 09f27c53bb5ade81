//! RWKV-6 "Finch" (Peng et al. 2024, arXiv 2404.05892; reference: `att_one_v6_0` of the pip package
//! `rwkv`).
//!
//! Seven stages per layer meet the team: the first and second halves of the adapters
//! that decide the mixing, the projections, the heads, the output; the channel mix's key and value.
//! Test: `tests/parity_rwkv.rs`.

use super::bonus_heads::{self, BonusHeads, DecayOf};
use super::channel_mix::{self, ChannelMix};
use super::token_shift::{self, Weighs};
use super::{Config, Layer, Norm, Pass, Stack, acts_for};
use crate::Result;
use crate::buffers::{Acts, Panel, Room};
use crate::kernels::forms::GROUP;
use crate::stage::{Activation, Job, project};
use crate::state::{Place, StateLayout};
use crate::team::Split;
use crate::tensor::{Loader, Mat, Vector};

/// The mixture that one projection reads: x + (previous − x) · (base + second · tanh(first · x′)),
/// with x′ a mixture that all five share.
struct DynamicMix {
    /// (d_model)
    base: Vector,
    /// (rank_mix, d_model)
    first: Mat,
    /// (d_model, rank_mix)
    second: Mat,
}

/// The weights of one layer.
pub(crate) struct Rwkv6 {
    ln1: Norm,
    /// Mixing of x with the token before, for the adapters' input: (d_model).
    maa_x: Vector,
    /// For w, k, v, r, g.
    mixes: [DynamicMix; 5],
    /// (rank_decay, d_model), (d_att, rank_decay), (d_att)
    decay_w1: Mat,
    decay_w2: Mat,
    decay_base: Vector,
    /// (d_att, d_model)
    receptance: Mat,
    key: Mat,
    value: Mat,
    gate: Mat,
    /// (d_model, d_att)
    output: Mat,
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
        .map(|i| Rwkv6::load(loader, config, state, i))
        .collect::<Result<Vec<_>>>()?;
    Ok(Box::new(layers))
}

impl Rwkv6 {
    fn load(
        loader: &Loader<'_>,
        config: &Config,
        state: &mut StateLayout,
        i: usize,
    ) -> Result<Rwkv6> {
        let (c, d_att) = (config.d_model, config.size("d_att")?);
        let (rank_mix, rank_decay) = (config.size("rank_mix")?, config.size("rank_decay")?);
        let at = format!("layers.{i}");
        let vector = |name: &str, n: usize| loader.vector(&format!("{at}.att.{name}"), &[n]);
        let mat = |name: &str, rows: usize, cols: usize| {
            loader.mat(&format!("{at}.att.{name}"), rows, cols)
        };
        let mix = |letter: char| -> Result<DynamicMix> {
            Ok(DynamicMix {
                base: vector(&format!("maa_{letter}"), c)?,
                first: mat(&format!("maa_w1.{letter}"), rank_mix, c)?,
                second: mat(&format!("maa_w2.{letter}"), c, rank_mix)?,
            })
        };
        Ok(Rwkv6 {
            ln1: Norm::layer(loader, &format!("{at}.ln1"), c, config.float("ln_eps")?)?,
            maa_x: vector("maa_x", c)?,
            mixes: [mix('w')?, mix('k')?, mix('v')?, mix('r')?, mix('g')?],
            decay_w1: mat("decay_w1", rank_decay, c)?,
            decay_w2: mat("decay_w2", d_att, rank_decay)?,
            decay_base: vector("decay_base", d_att)?,
            receptance: mat("receptance", d_att, c)?,
            key: mat("key", d_att, c)?,
            value: mat("value", d_att, c)?,
            gate: mat("gate", d_att, c)?,
            output: mat("output", c, d_att)?,
            shift: state.push(i, "att.shift", &[c], 0.0),
            heads: BonusHeads::load(loader, config, state, i, d_att)?,
            channel_mix: ChannelMix::load(loader, config, state, i, "maa", Weighs::Previous)?,
        })
    }
}

/// Buffers of one mixture.
struct MixScratch {
    /// (rank_mix): what the first matrix makes, then that as the second's input.
    first: Panel,
    hidden: Acts,
    /// (d_model): what the second matrix makes; the mixture.
    second: Panel,
    x: Acts,
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    /// (d_model)
    normed: Panel,
    /// The adapters' common input.
    xx: Acts,
    mixes: [MixScratch; 5],
    /// (rank_decay)
    decay_first: Panel,
    decay_hidden: Acts,
    /// (d_att)
    decay: Panel,
    y: Panel,
    heads: bonus_heads::Scratch,
    channel_mix: channel_mix::Scratch,
}

impl Layer for Rwkv6 {
    type Scratch = Scratch;

    fn scratch(layers: &[Rwkv6], room: &Room) -> Scratch {
        let sizes =
            |l: &Rwkv6| (l.key.rows(), l.key.cols(), l.mixes[0].first.rows(), l.decay_w1.rows());
        let (d_att, d_model, rank_mix, rank_decay) = layers.first().map_or((0, 0, 0, 0), sizes);
        let panel = |rows: usize| Panel::new(rows, room);
        let acts = |mat: fn(&Rwkv6) -> &Mat| acts_for(room, layers.iter().map(mat));
        let readers: [fn(&Rwkv6) -> &Mat; 5] =
            [|l| &l.decay_w1, |l| &l.key, |l| &l.value, |l| &l.receptance, |l| &l.gate];
        let mix = |i: usize| MixScratch {
            first: panel(rank_mix),
            hidden: acts_for(room, layers.iter().map(|l| &l.mixes[i].second)),
            second: panel(d_model),
            x: acts(readers[i]),
        };
        Scratch {
            normed: panel(d_model),
            xx: acts_for(room, layers.iter().flat_map(|l| l.mixes.iter().map(|mix| &mix.first))),
            mixes: [mix(0), mix(1), mix(2), mix(3), mix(4)],
            decay_first: panel(rank_decay),
            decay_hidden: acts(|l| &l.decay_w2),
            decay: panel(d_att),
            y: panel(d_model),
            heads: bonus_heads::Scratch::new(d_att, room, acts(|l| &l.output)),
            channel_mix: channel_mix::Scratch::new(room, layers.iter().map(|l| &l.channel_mix)),
        }
    }

    fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let columns = pass.batch.columns;
        token_shift::norm_columns(pass, &self.ln1, &mut s.normed);
        self.dynamic_mix(pass, s);
        token_shift::save(pass, &s.normed, self.shift);
        // r = R xr, k = K xk, v = V xv, g = G xg, and the first half of the decay's adapter.
        let [w, k, v, r, g] = &s.mixes;
        let heads = &mut s.heads;
        let jobs = [
            Job::keep(&self.receptance, &r.x, &mut heads.r),
            Job::keep(&self.key, &k.x, &mut heads.k),
            Job::keep(&self.value, &v.x, &mut heads.v),
            Job::keep(&self.gate, &g.x, &mut heads.g),
            Job::prepare(
                &self.decay_w1,
                &w.x,
                &mut s.decay_first,
                Activation::Tanh,
                &mut s.decay_hidden,
            ),
        ];
        project(pass.team, pass.isa, columns, jobs);
        // w = exp(−exp(base + w2 tanh(w1 xw))), the heads.
        let decay = DecayOf::PerToken {
            second: &self.decay_w2,
            hidden: &s.decay_hidden,
            base: &self.decay_base,
            out: &mut s.decay,
        };
        self.heads.forward(pass, decay, heads, true);
        // x = x + O (norm(y) · silu(g)).
        let output = Job::add(&self.output, &s.heads.gated, &mut s.y, pass.x);
        project(pass.team, pass.isa, columns, [output]);
        self.channel_mix.forward(pass, &mut s.normed, &mut s.y, &mut s.channel_mix);
    }
}

impl Rwkv6 {
    /// The five mixtures of x with the token before, in proportions that depend on both.
    fn dynamic_mix(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let xx = [(&*self.maa_x, &mut s.xx)];
        token_shift::mix(pass, &s.normed, self.shift, Weighs::Previous, xx);
        let [w, k, v, r, g] = &mut s.mixes;
        let jobs = [(w, 0), (k, 1), (v, 2), (r, 3), (g, 4)].map(|(mix, i)| {
            let first = &self.mixes[i].first;
            Job::prepare(first, &s.xx, &mut mix.first, Activation::Tanh, &mut mix.hidden)
        });
        project(pass.team, pass.isa, pass.batch.columns, jobs);

        let Pass { team, states, batch, isa, .. } = pass;
        let (isa, batch, normed, states) = (*isa, *batch, &s.normed, &*states);
        let bytes = self.mixes.iter().map(|mix| mix.second.len()).sum();
        let pieces = team.pieces(bytes, batch.columns);
        let split = Split::new(normed.rows(), GROUP, pieces);
        let mixes = s.mixes.each_mut().map(|mix| {
            let second = mix.second.share_rows(batch.columns, split);
            (&mix.hidden, second, mix.x.share_rows(batch.columns, split))
        });
        team.run(pieces, &|piece| {
            for (weights, (hidden, second, x)) in self.mixes.iter().zip(&mixes) {
                let (mut m, mut mixed) = (second.take(piece), x.take(piece));
                weights.second.matmul(isa, hidden, &mut m);
                let start = m.rows().start;
                for c in 0..batch.columns {
                    let x = normed.column(c);
                    let before = token_shift::previous(batch, states, normed, self.shift, c);
                    let m = m.column(c);
                    mixed.fill(
                        isa,
                        c,
                        #[inline(always)]
                        |rows, out| {
                            let own = rows.start - start..rows.end - start;
                            let proportions = weights.base[rows.clone()].iter().zip(&m[own]);
                            let inputs = x[rows.clone()].iter().zip(&before[rows]).zip(proportions);
                            for (out, ((x, before), (base, m))) in out.iter_mut().zip(inputs) {
                                *out = x + (before - x) * (base + m);
                            }
                        },
                    );
                }
            }
        });
    }
}
