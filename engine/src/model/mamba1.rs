//! Mamba-1 (Gu & Dao 2023, arXiv 2312.00752; reference: mamba_ssm `modules/mamba_simple.py`), and
//! Falcon-Mamba.
//!
//! Four stages per layer meet the team when decoding: x and the gate with the convolution, the
//! projection of x to Δ, B and C, the scan, the output; the norms between are taken by columns.
//! Channels are owned by pieces: a channel's convolution, scan and gate stay on one core. Test:
//! `tests/parity_mamba.rs`, `tests/mamba_odd_sizes.rs`.

use super::mamba::{self, Bias, CausalConv, MAX_CONV, Output, normed_input, padded};
use super::{Config, Layer, Norm, Pass, Stack, acts_for};
use crate::Result;
use crate::buffers::{Acts, ActsPart, Panel, Room};
use crate::kernels::Isa;
use crate::kernels::forms::GROUP;
use crate::kernels::lanes::{WIDTH, update};
use crate::kernels::math::softplus;
use crate::kernels::norm::inverse_rms;
use crate::kernels::recurrence::{Scan, selective_scan};
use crate::stage::{column_split, run_columns};
use crate::state::{Place, StateLayout};
use crate::team::{Part, Split};
use crate::tensor::{Loader, Mat, Vector};

/// The weights of one layer. Vectors and A stand in blocks of sixteen channels of d_inner.
pub(crate) struct Mamba1 {
    d_state: usize,
    dt_rank: usize,
    norm: Norm,
    /// (d_inner, d_model)
    in_x: Mat,
    in_z: Mat,
    z_bias: Bias,
    conv: CausalConv,
    /// (dt_rank + 2 d_state, d_inner): Δ's low-rank half, B, C.
    x_proj: Mat,
    /// Falcon-Mamba: the epsilon of weightless RMS norms of those three.
    bcdt_rms_eps: Option<f32>,
    /// (d_inner, dt_rank)
    dt_proj: Mat,
    dt_bias: Vector,
    /// (blocks, d_state, 16), negative.
    a: Vector,
    d: Vector,
    out: Output,
    /// State: h (blocks, d_state, 16).
    ssm: Place,
}

/// Reads the layers and describes their state.
pub(super) fn load(
    loader: &Loader<'_>,
    config: &Config,
    state: &mut StateLayout,
) -> Result<Box<dyn Stack>> {
    let layers = (0..config.n_layer)
        .map(|i| Mamba1::load(loader, config, state, i))
        .collect::<Result<Vec<_>>>()?;
    Ok(Box::new(layers))
}

impl Mamba1 {
    fn load(
        loader: &Loader<'_>,
        config: &Config,
        state: &mut StateLayout,
        i: usize,
    ) -> Result<Mamba1> {
        let (d_model, d_inner) = (config.d_model, config.size("d_inner")?);
        let (d_state, dt_rank) = (config.size("d_state")?, config.size("dt_rank")?);
        let d_conv = config.size_up_to("d_conv", MAX_CONV)?;
        let (at, blocks) = (format!("layers.{i}"), d_inner.div_ceil(WIDTH));
        let mat =
            |name: &str, rows: usize, cols: usize| loader.mat(&format!("{at}.{name}"), rows, cols);
        let vector = |name: &str| loader.vector(&format!("{at}.{name}"), &[padded(d_inner)]);
        Ok(Mamba1 {
            d_state,
            dt_rank,
            norm: Norm::rms(loader, &format!("{at}.norm"), d_model, config.float("norm_eps")?)?,
            in_x: mat("in_proj.x", d_inner, d_model)?,
            in_z: mat("in_proj.z", d_inner, d_model)?,
            z_bias: Bias::load(loader, &format!("{at}.in_proj.z.bias"), d_inner)?,
            conv: CausalConv::load(loader, state, i, "in_proj.x", d_inner, d_conv)?,
            x_proj: mat("x_proj", dt_rank + 2 * d_state, d_inner)?,
            bcdt_rms_eps: config.optional_float("bcdt_rms_eps")?,
            dt_proj: mat("dt_proj", d_inner, dt_rank)?,
            dt_bias: vector("dt_proj.bias")?,
            a: loader.vector(&format!("{at}.A"), &[blocks, d_state, WIDTH])?,
            d: vector("D")?,
            out: Output::load(loader, &at, d_model, d_inner)?,
            ssm: state.push_matrix(i, "ssm", &[blocks, d_state, WIDTH]),
        })
    }
}

/// Buffers of a forward pass, one column per token; (d_inner) each unless said otherwise.
pub(crate) struct Scratch {
    /// (d_model)
    normed: Panel,
    input: Acts,
    /// x, after the convolution.
    x: Panel,
    x_input: Acts,
    /// silu(z)
    gate: Panel,
    /// (dt_rank + 2 d_state)
    dt_b_c: Panel,
    /// (dt_rank)
    dt_low: Acts,
    /// Δ before its bias, then the layer's gated y.
    dt_y: Panel,
    gated: Acts,
    /// (d_model)
    out: Panel,
}

impl Layer for Mamba1 {
    type Scratch = Scratch;

    fn scratch(layers: &[Mamba1], room: &Room) -> Scratch {
        let size = |of: fn(&Mamba1) -> usize| layers.first().map_or(0, of);
        let (d_model, d_inner) = (size(|l| l.in_x.cols()), size(|l| padded(l.in_x.rows())));
        let acts = |mat: fn(&Mamba1) -> &Mat| acts_for(room, layers.iter().map(mat));
        Scratch {
            normed: Panel::new(d_model, room),
            input: acts_for(room, layers.iter().flat_map(|l| [&l.in_x, &l.in_z])),
            x: Panel::new(d_inner, room),
            x_input: acts(|l| &l.x_proj),
            gate: Panel::new(d_inner, room),
            dt_b_c: Panel::new(size(|l| l.x_proj.rows()), room),
            dt_low: acts(|l| &l.dt_proj),
            dt_y: Panel::new(d_inner, room),
            gated: acts(|l| &l.out.weight),
            out: Panel::new(d_model, room),
        }
    }

    fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        normed_input(pass, &self.norm, &mut s.normed, &mut s.input);
        self.inputs(pass, s);
        self.selection(pass, s);
        self.scan(pass, s);
        self.out.add(pass, &s.gated, &mut s.out);
    }
}

impl Mamba1 {
    /// (x, z) = in_proj(norm(x)); x = silu(conv(x)); gate = silu(z).
    fn inputs(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let Pass { team, states, batch, isa, .. } = pass;
        let (isa, batch, columns) = (*isa, *batch, batch.columns);
        let pieces = team.pieces(self.in_x.len() + self.in_z.len(), columns);
        let split = Split::new(s.x.rows(), GROUP, pieces);
        let (x, gate) = (s.x.share_rows(columns, split), s.gate.share_rows(columns, split));
        let x_input = s.x_input.share_rows(columns, split);
        let window = states.share(self.conv.window, split.times(self.conv.window_len()));
        team.run(pieces, &|piece| {
            let (mut x, mut gate, mut x_input) =
                (x.take(piece), gate.take(piece), x_input.take(piece));
            self.in_x.matmul(isa, &s.input, &mut x);
            self.conv.run(isa, batch, &mut x, window.take(piece));
            prepare(isa, &mut x, &mut x_input);
            self.in_z.matmul(isa, &s.input, &mut gate);
            mamba::gate(isa, &self.z_bias, &mut gate);
        });
    }

    /// (Δ's low-rank half, B, C) = x_proj(x).
    fn selection(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let Pass { team, batch, isa, .. } = pass;
        let (isa, columns) = (*isa, batch.columns);
        let pieces = team.pieces(self.x_proj.len(), columns);
        let split = Split::new(s.dt_b_c.rows(), WIDTH, pieces);
        let dt_b_c = s.dt_b_c.share_rows(columns, split);
        team.run(pieces, &|piece| self.x_proj.matmul(isa, &s.x_input, &mut dt_b_c.take(piece)));

        let split = column_split(team, columns);
        let (dt_b_c, dt_low) = (s.dt_b_c.share_columns(split), s.dt_low.share_columns(split));
        run_columns(team, split, &|piece| {
            let (mut dt_b_c, mut dt_low) = (dt_b_c.take(piece), dt_low.take(piece));
            for c in dt_b_c.columns() {
                let (dt, b_c) = dt_b_c.column(c).split_at_mut(self.dt_rank);
                if let Some(eps) = self.bcdt_rms_eps {
                    let (b, c) = b_c[..2 * self.d_state].split_at_mut(self.d_state);
                    for v in [&mut *dt, b, c] {
                        isa.run(
                            #[inline(always)]
                            || rms_norm_in_place(v, eps),
                        );
                    }
                }
                dt_low.fill(
                    isa,
                    c,
                    #[inline(always)]
                    |rows, out| out.copy_from_slice(&dt[rows]),
                );
            }
        });
    }

    /// Δ = softplus(dt_proj Δ_low + bias); h = exp(Δ A) h + Δ B x; y = (C h + D x) · gate.
    fn scan(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let Pass { team, states, batch, isa, .. } = pass;
        let (isa, batch, columns) = (*isa, *batch, batch.columns);
        let pieces = team.pieces(self.dt_proj.len() + self.ssm.bytes(), columns);
        let split = Split::new(s.x.rows(), GROUP, pieces);
        let (x, dt_b_c, gate) = (&s.x, &s.dt_b_c, &s.gate);
        let (dt_y, gated) = (s.dt_y.share_rows(columns, split), s.gated.share_rows(columns, split));
        let state = states.share(self.ssm, split.times(self.d_state));
        team.run(pieces, &|piece| {
            let (mut dt_y, mut gated, mut state) =
                (dt_y.take(piece), gated.take(piece), state.take(piece));
            self.dt_proj.matmul(isa, &s.dt_low, &mut dt_y);
            let own = dt_y.rows();
            isa.run(
                #[inline(always)]
                || {
                    for c in 0..columns {
                        update(dt_y.column(c), &self.dt_bias[own.clone()], |dt, bias| {
                            softplus(dt + bias)
                        });
                    }
                },
            );
            for (run, span) in batch.spans.iter().enumerate() {
                let dt_b_c = |at: usize, n| dt_b_c.view(span.clone(), at..at + n);
                let scan = Scan {
                    a: &self.a[own.start * self.d_state..own.end * self.d_state],
                    d: &self.d[own.clone()],
                    x: x.view(span.clone(), own.clone()),
                    b: dt_b_c(self.dt_rank, self.d_state),
                    c: dt_b_c(self.dt_rank + self.d_state, self.d_state),
                    delta_y: dt_y.view_mut(span.clone(), own.clone()),
                };
                selective_scan(isa, &mut state.elements(run), scan);
            }
            isa.run(
                #[inline(always)]
                || {
                    for c in 0..columns {
                        update(dt_y.column(c), &gate.column(c)[own.clone()], |y, gate| y * gate);
                    }
                },
            );
            prepare(isa, &mut dt_y, &mut gated);
        });
    }
}

/// Prepares this piece's rows of all columns as a projection's input.
fn prepare(isa: Isa, rows: &mut Part<'_, f32>, input: &mut ActsPart<'_>) {
    let start = rows.rows().start;
    for c in rows.columns() {
        let values = rows.column(c);
        input.fill(
            isa,
            c,
            #[inline(always)]
            |rows, out| out.copy_from_slice(&values[rows.start - start..rows.end - start]),
        );
    }
}

/// v = v / √(mean(v²) + eps).
#[inline(always)]
fn rms_norm_in_place(v: &mut [f32], eps: f32) {
    let inverse = inverse_rms(v, eps);
    v.iter_mut().for_each(|v| *v *= inverse);
}
