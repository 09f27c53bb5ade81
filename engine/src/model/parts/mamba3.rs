//! Mamba-3 with one input and one output (reference: fla `layers/mamba3.py`, state-spaces
//! `modules/mamba3.py`): no convolution, but each token's input stands in the state twice, as its
//! own and as the one before (the trapezoidal rule), and B and C turn by angles that grow with the
//! text. Test: `tests/parity_mamba.rs`.

mod list;

use std::ops::Range;

use super::{Bias, Head, Heads, Input, InputScratch, Output, Part, gate, nothing, padded};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::columns::Columns;
use crate::kernels::lanes::{update, update2};
use crate::kernels::math::{exp, sigmoid, sin_cos, softplus, tanh};
use crate::kernels::norm::inverse_rms;
use crate::kernels::recurrence::{Decay, Read, Span, linear_attention};
use crate::kernels::rope::{grown, turned};
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::List;
use crate::stage::{Job, Owned};
use crate::team::Share;
use crate::tensor::{Matrix, Vector, acts_for};

/// The largest state of a channel.
const MAX_STATE: usize = 256;

/// The weights of one layer.
pub(crate) struct Mamba3 {
    n_head: usize,
    d_head: usize,
    n_group: usize,
    d_state: usize,
    /// Pairs of B and C that turn.
    n_pair: usize,
    input: Input,
    /// (d_inner, d_model) each
    in_z: Matrix,
    in_x: Matrix,
    /// (2 n_group d_state, d_model): B, C.
    in_bc: Matrix,
    /// (3 n_head + n_pair, d_model): Δ, A, λ, angles.
    in_rates: Matrix,
    /// (n_head)
    dt_bias: Vector,
    /// The least −A.
    a_floor: f32,
    /// (d_state) each
    b_norm: Vector,
    c_norm: Vector,
    /// (n_head d_state) each
    b_bias: Vector,
    c_bias: Vector,
    /// (n_head)
    d: Vector,
    /// (d_inner); absent where y is only gated.
    gated_norm: Option<Vector>,
    norm_eps: f32,
    output: Output,
    /// State: S (n_head, d_state, d_head); of each head the last x (d_head), the last B (d_state)
    /// and the angles (n_pair).
    heads: Heads,
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    input: InputScratch,
    /// silu(z) (d_inner)
    gate: Panel,
    /// (d_inner)
    x: Panel,
    /// (2 n_group d_state)
    bc: Panel,
    /// Δ, A, λ (n_head each), the angles' speeds (n_pair)
    rates: Panel,
    /// (d_inner)
    y: Panel,
    gated: ActivationBuffer,
}

impl Part for Mamba3 {
    const WORD: &'static str = "mamba3";
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<Mamba3> {
        let (config, d_model) = (source.config, source.config.d_model);
        let d_inner = config.size("d_inner")?;
        let d_head = Heads::d_head(config)?;
        let n_head = config.divide(d_inner, d_head, "d_head")?;
        let n_group = config.size("n_group")?;
        config.divide(n_head, n_group, "n_group")?;
        let d_state = config.size_up_to("d_state", MAX_STATE)?;
        let n_pair = match config.optional_size("n_pair")? {
            None => 0,
            Some(_) => config.size_up_to("n_pair", d_state / 2)?,
        };
        let kept = d_head + d_state + n_pair;
        Ok(Mamba3 {
            n_head,
            d_head,
            n_group,
            d_state,
            n_pair,
            input: Input::load(source, "norm")?,
            in_z: source.mat("in_proj.z", d_inner, d_model)?,
            in_x: source.mat("in_proj.x", d_inner, d_model)?,
            in_bc: source.mat("in_proj.bc", 2 * n_group * d_state, d_model)?,
            in_rates: source.mat("in_proj.rates", 3 * n_head + n_pair, d_model)?,
            dt_bias: source.vector("dt_bias", n_head)?,
            a_floor: config.float("a_floor")?,
            b_norm: source.vector("b_norm.weight", d_state)?,
            c_norm: source.vector("c_norm.weight", d_state)?,
            b_bias: source.vector("b_bias", n_head * d_state)?,
            c_bias: source.vector("c_bias", n_head * d_state)?,
            d: source.vector("D", n_head)?,
            gated_norm: source.optional_vector("gated_norm.weight", d_inner)?,
            norm_eps: config.float("norm_eps")?,
            output: Output::load(source, "out_proj", d_inner)?,
            heads: Heads::load(source, "ssm", (d_inner, d_head), d_state)?
                .with(source, "last", kept),
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        let readers = layers.clone().flat_map(|l| [&l.in_z, &l.in_x, &l.in_bc, &l.in_rates]);
        let of = |rows: fn(&Self) -> usize| {
            Panel::new(layers.clone().map(rows).max().unwrap_or(0), workspace)
        };
        Scratch {
            input: InputScratch::new(workspace, readers),
            gate: of(|l| padded(l.in_z.rows())),
            x: of(|l| l.in_x.rows()),
            bc: of(|l| l.in_bc.rows()),
            rates: of(|l| l.in_rates.rows()),
            y: of(|l| l.in_x.rows()),
            gated: acts_for(workspace, layers.clone().map(|l| &l.output.weight)),
        }
    }

    fn read(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        self.list_all(list);
    }

    /// x += W_out heads(norm(x)).
    fn add(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let (isa, input) = (pass.stages.isa, &s.input.acts);
        pass.stages.project([
            Job::apply(&self.in_z, input, &mut s.gate, &|z| gate(isa, &Bias::default(), z)),
            Job::keep(&self.in_x, input, &mut s.x),
            Job::keep(&self.in_bc, input, &mut s.bc),
            Job::apply(&self.in_rates, input, &mut s.rates, &|rates| self.rates(isa, rates)),
        ]);
        let Scratch { gate, x, bc, rates, y, gated, .. } = s;
        self.heads.forward(
            &mut pass.stages,
            &mut pass.states,
            0,
            Owned { panels: [y], acts: [gated] },
            |_, _, _| {},
            |head| self.head(head, x, bc, rates, gate),
        );
        self.output.forward(pass, &s.gated);
    }
}

impl Mamba3 {
    /// Δ = softplus(dt + bias); A = min(−softplus(a), −a_floor); λ = sigmoid(λ); the speeds of
    /// angles = π tanh(angles).
    fn rates(&self, isa: Isa, rates: &mut Share<'_, f32>) {
        let (n, own) = (self.n_head, rates.rows());
        // The rows of a kind that are here.
        let of = |kind: Range<usize>| {
            let start = kind.start.clamp(own.start, own.end);
            start..kind.end.clamp(start, own.end)
        };
        let (dt, a, lambda, angles) =
            (of(0..n), of(n..2 * n), of(2 * n..3 * n), of(3 * n..3 * n + self.n_pair));
        // A share that begins behind the first rows has none of them.
        let dt_bias = &self.dt_bias[dt.start.min(n)..dt.end.min(n)];
        simd!(isa, {
            for c in rates.columns() {
                let rates = rates.column(c);
                let here = |rows: &Range<usize>| rows.start - own.start..rows.end - own.start;
                update(&mut rates[here(&dt)], dt_bias, |x, b| softplus(x + b));
                rates[here(&a)].iter_mut().for_each(|a| *a = -softplus(*a).max(self.a_floor));
                rates[here(&lambda)].iter_mut().for_each(|x| *x = sigmoid(*x));
                let pi = std::f32::consts::PI;
                rates[here(&angles)].iter_mut().for_each(|x| *x = pi * tanh(*x));
            }
        });
    }

    /// One head over the tokens of a run.
    fn head(&self, head: Head<'_, 1>, x: &Panel, bc: &Panel, rates: &Panel, gate: &Panel) {
        let Head { isa, own, columns, panels: [mut y], mut state, kept, .. } = head;
        let (n, head, n_state) = (self.n_head, own.start / self.d_head, self.d_state);
        let of_group = head / (n / self.n_group) * n_state;
        let of_c = self.n_group * n_state + of_group;
        let (last_x, kept) = kept.split_at_mut(self.d_head);
        let (last_b, kept) = kept.split_at_mut(n_state);
        let angles = &mut kept[..self.n_pair];
        let (mut b, mut c) = ([0.0; MAX_STATE], [0.0; MAX_STATE]);
        let (b, c) = (&mut b[..n_state], &mut c[..n_state]);
        for (i, column) in columns.clone().enumerate() {
            let rates = rates.column(column);
            let (dt, a, lambda) = (rates[head], rates[n + head], rates[2 * n + head]);
            for (angle, speed) in angles.iter_mut().zip(&rates[3 * n..]) {
                *angle = grown(*angle, dt * speed);
            }
            let bc = bc.column(column);
            self.normed(isa, &bc[of_group..][..n_state], [&self.b_norm, &self.b_bias], head, b);
            self.normed(isa, &bc[of_c..][..n_state], [&self.c_norm, &self.c_bias], head, c);
            turn(angles, b);
            turn(angles, c);
            let alpha = exp(a * dt);
            let x = x.view(column..column + 1, own.clone());
            let (keep, old, new) = ([alpha], [(1.0 - lambda) * dt * alpha], [lambda * dt]);
            let rows = |x| Columns::new(x, n_state, 0..1, 0..n_state);
            // S = α S + (1 − λ) Δ α B' x'ᵀ + λ Δ B xᵀ; y = Sᵀ C, for x', B' of the token before.
            let before = Span {
                r: rows(c),
                k: rows(last_b),
                v: Columns::new(last_x, self.d_head, 0..1, 0..self.d_head),
                scale: Some(one(&old)),
                decay: Decay::PerHead(one(&keep)),
                delta: None,
                read: Read::After,
                y: y.part(i..i + 1),
            };
            linear_attention(isa, &mut state, before);
            let now = Span {
                r: rows(c),
                k: rows(b),
                v: x,
                scale: Some(one(&new)),
                decay: nothing(1),
                delta: None,
                read: Read::After,
                y: y.part(i..i + 1),
            };
            linear_attention(isa, &mut state, now);
            last_x.copy_from_slice(x.at(0));
            last_b.copy_from_slice(b);
        }
        let (x, gate) = (x.view(columns.clone(), own.clone()), gate.view(columns, own.clone()));
        let d = self.d[head];
        // y = y + D x; y = y / √(mean(y²) + eps) · w; y = y · gate.
        simd!(isa, {
            for c in 0..y.len() {
                let y = y.at(c);
                update(y, x.at(c), |y, x| y + d * x);
                if let Some(weight) = &self.gated_norm {
                    let inverse = inverse_rms(y, self.norm_eps);
                    update(y, &weight[own.clone()], |y, w| y * inverse * w);
                }
                update(y, gate.at(c), |y, gate| y * gate);
            }
        });
    }

    /// out = x / √(mean(x²) + eps) · w + the head's bias.
    fn normed(&self, isa: Isa, x: &[f32], [w, bias]: [&Vector; 2], head: usize, out: &mut [f32]) {
        simd!(isa, {
            let inverse = inverse_rms(x, self.norm_eps);
            update2(out, x, w, |_, x, w| x * inverse * w);
            update(out, &bias[head * self.d_state..], |x, b| x + b);
        });
    }
}

/// One number of one token.
fn one(x: &[f32; 1]) -> Columns<'_> {
    Columns::same(x, 1)
}

/// Turns the pairs (2i, 2i + 1) of `x` by their angles.
fn turn(angles: &[f32], x: &mut [f32]) {
    for (angle, pair) in angles.iter().zip(x.chunks_exact_mut(2)) {
        let (sin, cos) = sin_cos(f64::from(*angle));
        (pair[0], pair[1]) = turned([pair[0], pair[1]], [cos, sin]);
    }
}
