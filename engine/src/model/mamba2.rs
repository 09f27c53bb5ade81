//! Mamba-2 (Dao & Gu 2024, arXiv 2405.21060; reference: mamba_ssm `modules/mamba2.py`).
//!
//! Three stages per layer meet the team when decoding: the projections with the convolution, the
//! heads, the output. Both norms are taken by columns, on the spot for a few and by the team for a
//! prompt's. Test: `tests/parity_mamba.rs`, `tests/mamba_odd_sizes.rs`.

use std::ops::Range;

use super::mamba::{self, Bias, CausalConv, MAX_CONV, Output, normed_input, padded};
use super::{Config, Layer, Norm, Pass, Stack, acts_for};
use crate::Result;
use crate::buffers::{Acts, Panel, Room};
use crate::kernels::lanes::{WIDTH, update, update2};
use crate::kernels::math::{exp, softplus};
use crate::kernels::norm::inverse_rms;
use crate::kernels::recurrence::{Decay, Read, Span, linear_attention};
use crate::model::config::MAX_STATE;
use crate::stage::{column_split, run_columns};
use crate::state::{Place, StateLayout};
use crate::team::{Part, Split};
use crate::tensor::{Loader, Mat, Vector};

/// The largest head.
const MAX_HEAD: usize = 256;

/// The weights of one layer.
pub(crate) struct Mamba2 {
    sizes: Sizes,
    norm: Norm,
    /// (d_inner, d_model)
    in_z: Mat,
    z_bias: Bias,
    /// (d_inner + 2 n_group d_state, d_model): x, B, C.
    in_xbc: Mat,
    conv: CausalConv,
    /// (n_head, d_model)
    in_dt: Mat,
    /// (n_head) each; A is negative.
    dt_bias: Vector,
    a: Vector,
    d: Vector,
    dt_min: f32,
    dt_max: f32,
    /// (d_inner); absent where y is only gated.
    gated_norm: Option<Vector>,
    norm_before_gate: bool,
    norm_eps: f32,
    out: Output,
    /// State: h (n_head, d_state, d_head).
    ssm: Place,
}

/// The sizes of one layer.
#[derive(Clone, Copy)]
struct Sizes {
    d_inner: usize,
    n_head: usize,
    d_head: usize,
    n_group: usize,
    d_state: usize,
}

/// Reads the layers and describes their state.
pub(super) fn load(
    loader: &Loader<'_>,
    config: &Config,
    state: &mut StateLayout,
) -> Result<Box<dyn Stack>> {
    let layers = (0..config.n_layer)
        .map(|i| Mamba2::load(loader, config, state, i))
        .collect::<Result<Vec<_>>>()?;
    Ok(Box::new(layers))
}

impl Mamba2 {
    fn load(
        loader: &Loader<'_>,
        config: &Config,
        state: &mut StateLayout,
        i: usize,
    ) -> Result<Mamba2> {
        let (d_model, d_inner) = (config.d_model, config.size("d_inner")?);
        let d_head = config.size_up_to("d_head", MAX_HEAD)?;
        let n_head = config.divide(d_inner, d_head, "d_head")?;
        let n_group = config.size("n_group")?;
        config.divide(n_head, n_group, "n_group")?;
        let d_state = config.size_up_to("d_state", MAX_STATE / d_inner / config.n_layer)?;
        let d_conv = config.size_up_to("d_conv", MAX_CONV)?;
        let n_conv = d_inner + 2 * n_group * d_state;
        let at = format!("layers.{i}");
        let mat =
            |name: &str, rows: usize, cols: usize| loader.mat(&format!("{at}.{name}"), rows, cols);
        let per_head = |name: &str| loader.vector(&format!("{at}.{name}"), &[n_head]);
        let norm_eps = config.float("norm_eps")?;
        Ok(Mamba2 {
            sizes: Sizes { d_inner, n_head, d_head, n_group, d_state },
            norm: Norm::rms(loader, &format!("{at}.norm"), d_model, norm_eps)?,
            in_z: mat("in_proj.z", d_inner, d_model)?,
            z_bias: Bias::load(loader, &format!("{at}.in_proj.z.bias"), d_inner)?,
            in_xbc: mat("in_proj.xbc", n_conv, d_model)?,
            conv: CausalConv::load(loader, state, i, "in_proj.xbc", n_conv, d_conv)?,
            in_dt: mat("in_proj.dt", n_head, d_model)?,
            dt_bias: per_head("dt_bias")?,
            a: per_head("A")?,
            d: per_head("D")?,
            dt_min: config.optional_float("dt_min")?.unwrap_or(0.0),
            dt_max: config.optional_float("dt_max")?.unwrap_or(f32::INFINITY),
            gated_norm: loader.optional_vector(&format!("{at}.gated_norm.weight"), &[d_inner])?,
            norm_before_gate: config.flag("norm_before_gate")?,
            norm_eps,
            out: Output::load(loader, &at, d_model, d_inner)?,
            ssm: state.push_matrix(i, "ssm", &[n_head, d_state, d_head]),
        })
    }
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    /// (d_model)
    normed: Panel,
    input: Acts,
    /// silu(z) (d_inner)
    gate: Panel,
    /// x, B, C after the convolution (d_inner + 2 n_group d_state)
    xbc: Panel,
    /// Δ, exp(Δ A) (n_head)
    dt: Panel,
    decay: Panel,
    /// (d_inner)
    y: Panel,
    gated: Acts,
    /// (d_model)
    out: Panel,
}

impl Layer for Mamba2 {
    type Scratch = Scratch;

    fn scratch(layers: &[Mamba2], room: &Room) -> Scratch {
        let size = |of: fn(&Mamba2) -> usize| layers.first().map_or(0, of);
        let d_model = size(|l| l.in_z.cols());
        Scratch {
            normed: Panel::new(d_model, room),
            input: acts_for(room, layers.iter().flat_map(|l| [&l.in_z, &l.in_xbc, &l.in_dt])),
            gate: Panel::new(size(|l| padded(l.sizes.d_inner)), room),
            xbc: Panel::new(size(|l| padded(l.in_xbc.rows())), room),
            dt: Panel::new(size(|l| l.sizes.n_head), room),
            decay: Panel::new(size(|l| l.sizes.n_head), room),
            y: Panel::new(size(|l| l.sizes.d_inner), room),
            gated: acts_for(room, layers.iter().map(|l| &l.out.weight)),
            out: Panel::new(d_model, room),
        }
    }

    fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        normed_input(pass, &self.norm, &mut s.normed, &mut s.input);
        self.inputs(pass, s);
        self.heads(pass, s);
        self.gated_norm(pass, s);
        self.out.add(pass, &s.gated, &mut s.out);
    }
}

impl Mamba2 {
    /// (z, x B C, dt) = in_proj(norm(x)); gate = silu(z); (x, B, C) = silu(conv(x B C)); Δ =
    /// clamp(softplus(dt + bias)).
    fn inputs(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let Pass { team, states, batch, isa, .. } = pass;
        let (isa, batch, columns) = (*isa, *batch, batch.columns);
        let bytes = self.in_z.len() + self.in_xbc.len() + self.in_dt.len();
        let pieces = team.pieces(bytes, columns);
        let by_rows = |panel: &Panel| Split::new(panel.rows(), WIDTH, pieces);
        let (gate_rows, xbc_rows, dt_rows) = (by_rows(&s.gate), by_rows(&s.xbc), by_rows(&s.dt));
        let gate = s.gate.share_rows(columns, gate_rows);
        let xbc = s.xbc.share_rows(columns, xbc_rows);
        let (dt, decay) = (s.dt.share_rows(columns, dt_rows), s.decay.share_rows(columns, dt_rows));
        let window = states.share(self.conv.window, xbc_rows.times(self.conv.window_len()));
        team.run(pieces, &|piece| {
            let (mut gate, mut xbc) = (gate.take(piece), xbc.take(piece));
            let (mut dt, mut decay) = (dt.take(piece), decay.take(piece));
            self.in_z.matmul(isa, &s.input, &mut gate);
            mamba::gate(isa, &self.z_bias, &mut gate);
            self.in_xbc.matmul(isa, &s.input, &mut xbc);
            self.conv.run(isa, batch, &mut xbc, window.take(piece));
            self.in_dt.matmul(isa, &s.input, &mut dt);
            let own = dt.rows();
            isa.run(
                #[inline(always)]
                || {
                    for c in 0..columns {
                        let (dt, decay) = (dt.column(c), decay.column(c));
                        update(dt, &self.dt_bias[own.clone()], |dt, b| {
                            self.clamp(softplus(dt + b))
                        });
                        update2(decay, dt, &self.a[own.clone()], |_, dt, a| exp(dt * a));
                    }
                },
            );
        });
    }

    /// Δ within the model's limits.
    #[inline(always)]
    fn clamp(&self, dt: f32) -> f32 {
        let dt = if dt < self.dt_min { self.dt_min } else { dt };
        if dt > self.dt_max { self.dt_max } else { dt }
    }

    /// Per head: h = exp(Δ A) h + (Δ x) Bᵀ; y = h C + D x; and the gate, where it comes before the
    /// norm.
    fn heads(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let Pass { team, states, batch, isa, .. } = pass;
        let (isa, batch, n) = (*isa, *batch, self.sizes.d_head);
        let pieces = team.pieces(self.ssm.bytes(), batch.columns);
        let split = Split::new(self.sizes.d_inner, n, pieces);
        let y = s.y.share_rows(batch.columns, split);
        let state = states.share(self.ssm, split.times(self.sizes.d_state));
        let inputs = Inputs { gate: &s.gate, xbc: &s.xbc, dt: &s.dt, decay: &s.decay };
        team.run(pieces, &|piece| {
            let (mut y, mut state) = (y.take(piece), state.take(piece));
            let own = y.rows();
            for (run, span) in batch.spans.iter().enumerate() {
                let (mut states, len) = (state.elements(run), self.sizes.d_state * n);
                for (i, at) in own.clone().step_by(n).enumerate() {
                    // h = exp(Δ A) h + (Δ x) Bᵀ and y = h C for one head, whose channels begin at
                    // `at`.
                    let head = self.head(at, span.clone(), &inputs, &mut y);
                    linear_attention(isa, &mut states.part(i * len..(i + 1) * len), head);
                }
            }
            isa.run(
                #[inline(always)]
                || {
                    for c in 0..batch.columns {
                        self.skip(own.clone(), c, &inputs, y.column(c));
                    }
                },
            );
        });
    }

    /// The head whose channels begin at `at`, over the columns of one run.
    fn head<'a>(
        &self,
        at: usize,
        columns: Range<usize>,
        inputs: &'a Inputs<'a>,
        y: &'a mut Part<'_, f32>,
    ) -> Span<'a> {
        let Sizes { d_inner, n_head, d_head, n_group, d_state, .. } = self.sizes;
        let (head, own) = (at / d_head, at..at + d_head);
        let b = d_inner + head / (n_head / n_group) * d_state;
        let xbc = |rows: Range<usize>| inputs.xbc.view(columns.clone(), rows);
        Span {
            r: xbc(b + n_group * d_state..b + (n_group + 1) * d_state),
            k: xbc(b..b + d_state),
            v: xbc(own.clone()),
            scale: Some(inputs.dt.view(columns.clone(), head..head + 1)),
            decay: Decay::PerHead(inputs.decay.view(columns.clone(), head..head + 1)),
            delta: None,
            read: Read::After,
            y: y.view_mut(columns.clone(), own),
        }
    }

    /// y = y + D x for the channels `own` of one column; and the gate, where it comes before the
    /// norm.
    #[inline(always)]
    fn skip(&self, own: Range<usize>, c: usize, inputs: &Inputs<'_>, y: &mut [f32]) {
        let n = self.sizes.d_head;
        let (x, gate) = (&inputs.xbc.column(c)[own.clone()], &inputs.gate.column(c)[own.clone()]);
        for ((at, y), x) in own.step_by(n).zip(y.chunks_exact_mut(n)).zip(x.chunks_exact(n)) {
            let d = self.d[at / self.sizes.d_head];
            update(y, x, |y, x| y + d * x);
        }
        if self.gated_norm.is_none() || !self.norm_before_gate {
            update(y, gate, |y, gate| y * gate);
        }
    }

    /// y = y / √(mean(y²) + eps) · w over each group of heads, y gated before it or after it.
    fn gated_norm(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let Pass { team, batch, isa, .. } = pass;
        let (isa, Sizes { d_inner, n_group, .. }) = (*isa, self.sizes);
        let split = column_split(team, batch.columns);
        let gate = &s.gate;
        let (y, gated) = (s.y.share_columns(split), s.gated.share_columns(split));
        run_columns(team, split, &|piece| {
            let (mut y, mut gated) = (y.take(piece), gated.take(piece));
            for c in y.columns() {
                let (y, gate) = (&mut y.column(c)[..d_inner], gate.column(c));
                if let Some(weight) = &self.gated_norm {
                    isa.run(
                        #[inline(always)]
                        || {
                            let n = d_inner / n_group;
                            for (y, weight) in y.chunks_exact_mut(n).zip(weight.chunks_exact(n)) {
                                let inverse = inverse_rms(y, self.norm_eps);
                                update(y, weight, |y, weight| y * inverse * weight);
                            }
                            if self.norm_before_gate {
                                update(y, gate, |y, gate| y * gate);
                            }
                        },
                    );
                }
                gated.fill(
                    isa,
                    c,
                    #[inline(always)]
                    |rows, out| out.copy_from_slice(&y[rows]),
                );
            }
        });
    }
}

/// What the heads read, one column per token.
struct Inputs<'a> {
    gate: &'a Panel,
    xbc: &'a Panel,
    dt: &'a Panel,
    decay: &'a Panel,
}
