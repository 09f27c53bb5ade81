//! RWKV-7 "Goose" (Peng et al. 2025, arXiv 2503.14456; reference: RWKV-LM
//! `RWKV-v7/rwkv_v7_numpy.py`).
//!
//! Equation numbers of the comments follow the steps of that reference. Five stages per layer meet
//! the team: the projections, the heads, the output; the channel mix's key and value. Test:
//! `tests/parity_rwkv.rs`.

use std::ops::Range;

use super::{Config, Layer, Norm, Pass, Stack, acts_for};
use crate::Result;
use crate::buffers::{Acts, Panel, Room};
use crate::kernels::Isa;
use crate::kernels::columns::{Columns, ColumnsMut};
use crate::kernels::forms::GROUP;
use crate::kernels::lanes::{dot, update, update2};
use crate::kernels::math::{exp, sigmoid};
use crate::kernels::norm::layer_norm_in_place;
use crate::kernels::recurrence::{Decay, Delta, Read, Span, linear_attention};
use crate::kernels::stored::Elements;
use crate::model::token_shift::{self, Weighs};
use crate::stage::{Activation, Job, project};
use crate::state::{Place, StateLayout};
use crate::team::{Split, lcm};
use crate::tensor::{Loader, Mat, Vector};

/// e^-½, the bound of the decay's exponent (reference: `exp(-0.606531 * sigmoid(w))`).
const DECAY_BOUND: f32 = 0.606_530_66;
/// The largest head.
const MAX_HEAD: usize = 256;
/// Least norm of a normalized key (torch `normalize`).
const MIN_NORM: f32 = 1e-12;

/// A low-rank branch: `x ↦ second · f(first · x)`.
struct Lora {
    first: Mat,
    second: Mat,
}

impl Lora {
    fn load(
        loader: &Loader<'_>,
        at: &str,
        letter: char,
        rank: usize,
        d_model: usize,
    ) -> Result<Lora> {
        Ok(Lora {
            first: loader.mat(&format!("{at}.att.{letter}1"), rank, d_model)?,
            second: loader.mat(&format!("{at}.att.{letter}2"), d_model, rank)?,
        })
    }
}

/// The weights of one layer. Vectors are (d_model) unless said otherwise.
pub(crate) struct Rwkv7 {
    d_head: usize,
    ln1: Norm,
    ln2: Norm,
    /// Mixing of x with the token before, for r, w, k, v, a, g.
    x_r: Vector,
    x_w: Vector,
    x_k: Vector,
    x_v: Vector,
    x_a: Vector,
    x_g: Vector,
    receptance: Mat,
    key: Mat,
    value: Mat,
    output: Mat,
    w: Lora,
    a: Lora,
    g: Lora,
    /// Value residual; absent in the first layer, whose v is `v_first`.
    v: Option<(Lora, Vector)>,
    w0: Vector,
    a0: Vector,
    k_k: Vector,
    k_a: Vector,
    /// (n_head, d_head)
    r_k: Vector,
    ln_x_weight: Vector,
    ln_x_bias: Vector,
    ln_x_eps: f32,
    ffn_x_k: Vector,
    /// (d_ff, d_model)
    ffn_key: Mat,
    /// (d_model, d_ff)
    ffn_value: Mat,
    /// State: the normed x of the token before (d_model), for each block.
    att_shift: Place,
    ffn_shift: Place,
    /// State: (n_head, d_head keys, d_head values)
    wkv: Place,
}

/// Reads the layers and describes their state.
pub(super) fn load(
    loader: &Loader<'_>,
    config: &Config,
    state: &mut StateLayout,
) -> Result<Box<dyn Stack>> {
    let layers = (0..config.n_layer)
        .map(|i| Rwkv7::load(loader, config, state, i))
        .collect::<Result<Vec<_>>>()?;
    Ok(Box::new(layers))
}

impl Rwkv7 {
    fn load(
        loader: &Loader<'_>,
        config: &Config,
        state: &mut StateLayout,
        i: usize,
    ) -> Result<Rwkv7> {
        let (c, f) = (config.d_model, config.size("d_ff")?);
        let d_head = config.size_up_to("d_head", MAX_HEAD)?;
        let n_head = config.divide(c, d_head, "d_head")?;
        let eps = config.float("ln_eps")?;
        let at = format!("layers.{i}");
        let vector = |name: &str| loader.vector(&format!("{at}.{name}"), &[c]);
        let mat =
            |name: &str, rows: usize, cols: usize| loader.mat(&format!("{at}.{name}"), rows, cols);
        let lora = |letter: char| {
            Lora::load(loader, &at, letter, config.size(&format!("rank_{letter}"))?, c)
        };
        Ok(Rwkv7 {
            d_head,
            ln1: Norm::layer(loader, &format!("{at}.ln1"), c, eps)?,
            ln2: Norm::layer(loader, &format!("{at}.ln2"), c, eps)?,
            x_r: vector("att.x_r")?,
            x_w: vector("att.x_w")?,
            x_k: vector("att.x_k")?,
            x_v: vector("att.x_v")?,
            x_a: vector("att.x_a")?,
            x_g: vector("att.x_g")?,
            receptance: mat("att.receptance", c, c)?,
            key: mat("att.key", c, c)?,
            value: mat("att.value", c, c)?,
            output: mat("att.output", c, c)?,
            w: lora('w')?,
            a: lora('a')?,
            g: lora('g')?,
            v: if i == 0 { None } else { Some((lora('v')?, vector("att.v0")?)) },
            w0: vector("att.w0")?,
            a0: vector("att.a0")?,
            k_k: vector("att.k_k")?,
            k_a: vector("att.k_a")?,
            r_k: vector("att.r_k")?,
            ln_x_weight: vector("att.ln_x.weight")?,
            ln_x_bias: vector("att.ln_x.bias")?,
            ln_x_eps: config.float("ln_x_eps")?,
            ffn_x_k: vector("ffn.x_k")?,
            ffn_key: mat("ffn.key", f, c)?,
            ffn_value: mat("ffn.value", c, f)?,
            att_shift: state.push(i, "att.shift", &[c], 0.0),
            wkv: state.push_matrix(i, "att.wkv", &[n_head, d_head, d_head]),
            ffn_shift: state.push(i, "ffn.shift", &[c], 0.0),
        })
    }
}

/// Buffers of a low-rank branch.
struct LoraScratch {
    /// Its input, then what its first matrix makes of it (rank), then that as the second matrix's
    /// input.
    x: Acts,
    first: Panel,
    hidden: Acts,
    /// (d_model): what the second matrix makes.
    out: Panel,
}

impl LoraScratch {
    /// For branches of one letter; there may be none (the value residual of a model of one layer).
    fn new<'a>(
        room: &Room,
        d_model: usize,
        branches: impl Iterator<Item = &'a Lora> + Clone,
    ) -> LoraScratch {
        let rank = branches.clone().map(|b| b.first.rows()).max().unwrap_or(0);
        LoraScratch {
            x: acts_for(room, branches.clone().map(|b| &b.first)),
            first: Panel::new(rank, room),
            hidden: acts_for(room, branches.map(|b| &b.second)),
            out: Panel::new(d_model, room),
        }
    }
}

/// Buffers of a forward pass, one column per token; (d_model) each unless said otherwise.
pub(crate) struct Scratch {
    normed: Panel,
    xr: Acts,
    xk: Acts,
    xv: Acts,
    w: LoraScratch,
    a: LoraScratch,
    g: LoraScratch,
    s: LoraScratch,
    r: Panel,
    k: Panel,
    v: Panel,
    /// The first layer's v.
    v_first: Panel,
    kk: Panel,
    y: Panel,
    gated: Acts,
    ffn_x: Acts,
    /// (d_ff)
    ffn_k: Panel,
    ffn_hidden: Acts,
}

impl Layer for Rwkv7 {
    type Scratch = Scratch;

    fn scratch(layers: &[Rwkv7], room: &Room) -> Scratch {
        let (d_model, d_ff) = layers.first().map_or((0, 0), |l| (l.key.cols(), l.ffn_key.rows()));
        let panel = || Panel::new(d_model, room);
        let acts = |mat: fn(&Rwkv7) -> &Mat| acts_for(room, layers.iter().map(mat));
        Scratch {
            normed: panel(),
            xr: acts(|l| &l.receptance),
            xk: acts(|l| &l.key),
            xv: acts(|l| &l.value),
            w: LoraScratch::new(room, d_model, layers.iter().map(|l| &l.w)),
            a: LoraScratch::new(room, d_model, layers.iter().map(|l| &l.a)),
            g: LoraScratch::new(room, d_model, layers.iter().map(|l| &l.g)),
            s: LoraScratch::new(
                room,
                d_model,
                layers.iter().filter_map(|l| l.v.as_ref().map(|(lora, _)| lora)),
            ),
            r: panel(),
            k: panel(),
            v: panel(),
            v_first: panel(),
            kk: panel(),
            y: panel(),
            gated: acts(|l| &l.output),
            ffn_x: acts(|l| &l.ffn_key),
            ffn_k: Panel::new(d_ff, room),
            ffn_hidden: acts(|l| &l.ffn_value),
        }
    }

    fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.time_mix(pass, s);
        self.channel_mix(pass, s);
    }
}

impl Rwkv7 {
    fn time_mix(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let columns = pass.batch.columns;
        token_shift::norm_columns(pass, &self.ln1, &mut s.normed);
        let targets = [
            (&*self.x_r, &mut s.xr),
            (&*self.x_k, &mut s.xk),
            (&*self.x_v, &mut s.xv),
            (&*self.x_w, &mut s.w.x),
            (&*self.x_a, &mut s.a.x),
            (&*self.x_g, &mut s.g.x),
        ];
        token_shift::mix(pass, &s.normed, self.att_shift, Weighs::Previous, targets);
        token_shift::save(pass, &s.normed, self.att_shift);

        // r = R xr, k = K xk, v = V xv, and the first halves of w, a, g and the value residual
        // (which reads xv).
        let jobs = [
            Job::keep(&self.receptance, &s.xr, &mut s.r),
            Job::keep(&self.key, &s.xk, &mut s.k),
            Job::keep(&self.value, &s.xv, &mut s.v),
            Job::prepare(&self.w.first, &s.w.x, &mut s.w.first, Activation::Tanh, &mut s.w.hidden),
            Job::prepare(
                &self.a.first,
                &s.a.x,
                &mut s.a.first,
                Activation::Identity,
                &mut s.a.hidden,
            ),
            Job::prepare(
                &self.g.first,
                &s.g.x,
                &mut s.g.first,
                Activation::Sigmoid,
                &mut s.g.hidden,
            ),
        ];
        match &self.v {
            None => project(pass.team, pass.isa, columns, jobs),
            Some((lora, _)) => {
                let [r, k, v, w, a, g] = jobs;
                let vv = Job::prepare(
                    &lora.first,
                    &s.xv,
                    &mut s.s.first,
                    Activation::Identity,
                    &mut s.s.hidden,
                );
                project(pass.team, pass.isa, columns, [r, k, v, w, a, g, vv]);
            }
        }
        self.heads(pass, s);
        project(pass.team, pass.isa, columns, [Job::add(&self.output, &s.gated, &mut s.y, pass.x)]);
    }

    /// The second halves of the branches, the recurrence, its norm and gate, each head on the
    /// piece that owns it.
    fn heads(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let Pass { team, states, batch, isa, .. } = pass;
        let (isa, batch, n) = (*isa, *batch, self.d_head);
        let columns = batch.columns;
        let second = [&self.w, &self.a, &self.g].map(|lora| lora.second.len());
        let pieces = team.pieces(second.iter().sum::<usize>() + self.wkv.bytes(), columns);
        let split = Split::new(s.r.rows(), lcm(n, GROUP), pieces);
        let (r, k, v) = (&s.r, s.k.share_rows(columns, split), s.v.share_rows(columns, split));
        let (w, a) = (s.w.out.share_rows(columns, split), s.a.out.share_rows(columns, split));
        let (g, gate) = (s.g.out.share_rows(columns, split), s.s.out.share_rows(columns, split));
        let (y, v_first) = (s.y.share_rows(columns, split), s.v_first.share_rows(columns, split));
        let (kk, gated) = (s.kk.share_rows(columns, split), s.gated.share_rows(columns, split));
        let state = states.share(self.wkv, split.times(n));
        team.run(pieces, &|piece| {
            let (mut k, mut v, mut w, mut a) =
                (k.take(piece), v.take(piece), w.take(piece), a.take(piece));
            let (mut g, mut gate, mut y) = (g.take(piece), gate.take(piece), y.take(piece));
            let (mut v_first, mut kk, mut gated, mut state) =
                (v_first.take(piece), kk.take(piece), gated.take(piece), state.take(piece));
            self.w.second.matmul(isa, &s.w.hidden, &mut w);
            self.a.second.matmul(isa, &s.a.hidden, &mut a);
            self.g.second.matmul(isa, &s.g.hidden, &mut g);
            if let Some((lora, _)) = &self.v {
                lora.second.matmul(isa, &s.s.hidden, &mut gate);
            }
            let rows = k.rows();
            for c in 0..columns {
                let gates = Gates {
                    w: w.column(c),
                    a: a.column(c),
                    v: v.column(c),
                    v_first: v_first.column(c),
                    residual: gate.column(c),
                };
                isa.run(
                    #[inline(always)]
                    || self.gates(rows.clone(), gates),
                );
            }
            for (run, span) in batch.spans.iter().enumerate() {
                let mut states = state.elements(run);
                for at in (rows.start..rows.end).step_by(n) {
                    let (from, own) = (at - rows.start, at..at + n);
                    let mut state = states.part(from * n..(from + n) * n);
                    let head = Head {
                        r: r.view(span.clone(), own.clone()),
                        k: k.view_mut(span.clone(), own.clone()),
                        v: v.view(span.clone(), own.clone()),
                        w: w.view(span.clone(), own.clone()),
                        a: a.view_mut(span.clone(), own.clone()),
                        kk: kk.view_mut(span.clone(), own.clone()),
                        g: g.view(span.clone(), own.clone()),
                        y: y.view_mut(span.clone(), own.clone()),
                    };
                    self.head(isa, own, head, &mut state);
                }
            }
            for c in 0..columns {
                let y = y.column(c);
                gated.fill(
                    isa,
                    c,
                    #[inline(always)]
                    |own, out| {
                        out.copy_from_slice(&y[own.start - rows.start..own.end - rows.start])
                    },
                );
            }
        });
    }

    /// What every channel in `rows` decides by itself, for one token.
    #[inline(always)]
    fn gates(&self, rows: Range<usize>, g: Gates<'_>) {
        // v = v + (v_first − v) · sigmoid(v0 + …); the first layer sets v_first.
        match &self.v {
            None => g.v_first.copy_from_slice(g.v),
            Some((_, v0)) => {
                update(g.residual, &v0[rows.clone()], |s, v0| sigmoid(v0 + s));
                update2(g.v, g.v_first, g.residual, |v, first, s| v + (first - v) * s);
            }
        }
        // w = exp(−e^−½ · sigmoid(w0 + …)); a = sigmoid(a0 + …).
        update(g.w, &self.w0[rows.clone()], |w, w0| exp(-DECAY_BOUND * sigmoid(w0 + w)));
        update(g.a, &self.a0[rows], |a, a0| sigmoid(a0 + a));
    }

    /// One head over the tokens of a run; `own` are its channels.
    fn head(&self, isa: Isa, own: Range<usize>, mut h: Head<'_>, state: &mut Elements<'_>) {
        let tokens = h.y.len();
        let [k_k, k_a, r_k, weight, bias] =
            [&self.k_k, &self.k_a, &self.r_k, &self.ln_x_weight, &self.ln_x_bias]
                .map(|vector| &vector[own.clone()]);
        isa.run(
            #[inline(always)]
            || {
                for c in 0..tokens {
                    let (k, a, kk) = (h.k.at(c), h.a.at(c), h.kk.at(c));
                    // kk = k · k_k, normalized; the state is read at −kk and written at kk · a.
                    update2(kk, k, k_k, |_, k, k_k| k * k_k);
                    let norm = dot(kk, kk).sqrt();
                    let inverse = 1.0 / if norm > MIN_NORM { norm } else { MIN_NORM };
                    kk.iter_mut().for_each(|kk| *kk = -(*kk * inverse));
                    // k = k · (1 + (a − 1) · k_a).
                    update2(k, a, k_a, |k, a, k_a| k * (1.0 + (a - 1.0) * k_a));
                    update(a, kk, |a, kk| -kk * a);
                }
            },
        );
        // S = S diag(w) − (S kk)(kk · a)ᵀ + v kᵀ; y = S r.
        linear_attention(
            isa,
            state,
            Span {
                r: h.r,
                k: h.k.view(),
                v: h.v,
                scale: None,
                decay: Decay::PerKey(h.w),
                delta: Some(Delta { a: h.kk.view(), b: h.a.view() }),
                read: Read::After,
                y: h.y.view_mut(),
            },
        );
        isa.run(
            #[inline(always)]
            || {
                for c in 0..tokens {
                    let (k, y) = (h.k.at(c), h.y.at(c));
                    // y = (norm(y) + (Σ r · k · r_k) v) · g.
                    update(k, r_k, |k, r_k| k * r_k);
                    let bonus = dot(h.r.at(c), k);
                    layer_norm_in_place(y, weight, bias, self.ln_x_eps);
                    update2(y, h.v.at(c), h.g.at(c), |y, v, g| (y + bonus * v) * g);
                }
            },
        );
    }

    fn channel_mix(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let columns = pass.batch.columns;
        token_shift::norm_columns(pass, &self.ln2, &mut s.normed);
        let target = [(&*self.ffn_x_k, &mut s.ffn_x)];
        token_shift::mix(pass, &s.normed, self.ffn_shift, Weighs::Previous, target);
        token_shift::save(pass, &s.normed, self.ffn_shift);
        // x = x + V relu(K xk)².
        let key = Job::prepare(
            &self.ffn_key,
            &s.ffn_x,
            &mut s.ffn_k,
            Activation::ReluSquared,
            &mut s.ffn_hidden,
        );
        project(pass.team, pass.isa, columns, [key]);
        project(
            pass.team,
            pass.isa,
            columns,
            [Job::add(&self.ffn_value, &s.ffn_hidden, &mut s.y, pass.x)],
        );
    }
}

/// One token's channels of a piece.
struct Gates<'a> {
    w: &'a mut [f32],
    a: &'a mut [f32],
    v: &'a mut [f32],
    v_first: &'a mut [f32],
    /// How much of v_first enters v.
    residual: &'a mut [f32],
}

/// One head over a span of tokens: d_head each.
struct Head<'a> {
    r: Columns<'a>,
    /// Overwritten by the key that the state takes in, then by its product with r_k.
    k: ColumnsMut<'a>,
    v: Columns<'a>,
    w: Columns<'a>,
    /// Overwritten by kk · a.
    a: ColumnsMut<'a>,
    /// Overwritten by −kk.
    kk: ColumnsMut<'a>,
    g: Columns<'a>,
    y: ColumnsMut<'a>,
}
