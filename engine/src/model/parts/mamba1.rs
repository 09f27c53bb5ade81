//! Mamba-1 (Gu & Dao 2023, arXiv 2312.00752; reference: mamba_ssm `modules/mamba_simple.py`), and
//! Falcon-Mamba's and Jamba's, which norm Δ, B and C.
//!
//! Four stages per layer meet the team when decoding: x and the gate with the convolution, the
//! projection of x to Δ, B and C, the scan, the output; the norms between are taken by columns.
//! A channel's convolution, scan and gate stay with the piece that owns it. Test:
//! `tests/parity_mamba.rs`, `tests/mamba_odd_sizes.rs`.

use super::{Bias, CausalConv, Input, InputScratch, MAX_CONV, Output, Part, gate, padded};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::forms::GROUP;
use crate::kernels::lanes::{WIDTH, update};
use crate::kernels::math::softplus;
use crate::kernels::norm::inverse_rms;
use crate::kernels::recurrence::{Scan, selective_scan};
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::{Formula, Function, List, ScanOp, Values, of, of_head, rows};
use crate::stage::{Cut, Job, Owned, Piece, prepare};
use crate::state::SlotRef;
use crate::tensor::{Matrix, Vector, acts_for};

/// The weights of one layer. Vectors and A stand in blocks of sixteen channels of d_inner.
pub(crate) struct Mamba1 {
    d_state: usize,
    /// Channels that share Δ's low-rank half, B and C: all of them but in Zamba.
    d_head: usize,
    dt_rank: usize,
    input: Input,
    /// (d_inner, d_model)
    in_x: Matrix,
    in_z: Matrix,
    z_bias: Bias,
    conv: CausalConv,
    /// (dt_rank + 2 d_state, d_inner): Δ's low-rank half, B, C; of several heads, B and C of each.
    x_proj: Matrix,
    /// The epsilon of RMS norms of those three, where there are such; Jamba's have weights.
    bcdt_rms_eps: Option<f32>,
    bcdt_norm: Option<Vector>,
    /// (d_inner, dt_rank)
    dt_proj: Matrix,
    dt_bias: Vector,
    /// A smaller Δ is 0, in files that were made for longer texts.
    dt_least: Option<Vector>,
    /// (blocks, d_state, 16), negative.
    a: Vector,
    d: Vector,
    output: Output,
    /// State: h (blocks, d_state, 16).
    ssm: SlotRef,
}

/// Buffers of a forward pass, one column per token; (d_inner) each unless said otherwise.
pub(crate) struct Scratch {
    input: InputScratch,
    /// x, after the convolution.
    x: Panel,
    x_input: ActivationBuffer,
    /// silu(z)
    gate: Panel,
    /// (dt_rank + 2 d_state)
    dt_b_c: Panel,
    /// (dt_rank)
    dt_low: ActivationBuffer,
    /// Δ before its bias, then the layer's gated y.
    dt_y: Panel,
    gated: ActivationBuffer,
}

impl Part for Mamba1 {
    const WORD: &'static str = "mamba1";
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<Mamba1> {
        let (config, d_model) = (source.config, source.config.d_model);
        let d_inner = config.size("d_inner")?;
        let (d_state, dt_rank) = (config.size("d_state")?, config.size("dt_rank")?);
        let d_conv = config.size_up_to("d_conv", MAX_CONV)?;
        let n_head = config.optional_size("n_scan_head")?.unwrap_or(1);
        let bcdt_rms_eps = config.optional_float("bcdt_rms_eps")?;
        if n_head > 1 && bcdt_rms_eps.is_some() {
            return Err(config.misfit("n_scan_head", "1 where B and C are normed"));
        }
        let d_head = config.divide(d_inner, n_head, "n_scan_head")?;
        let blocks = d_inner.div_ceil(WIDTH);
        let vector = |name: &str| source.vector(name, padded(d_inner));
        Ok(Mamba1 {
            d_state,
            d_head,
            dt_rank,
            input: Input::load(source, "norm")?,
            in_x: source.mat("in_proj.x", d_inner, d_model)?,
            in_z: source.mat("in_proj.z", d_inner, d_model)?,
            z_bias: Bias::load(source, "in_proj.z.bias", d_inner)?,
            conv: CausalConv::load(source, ("conv", "in_proj.x"), d_inner, d_conv)?,
            x_proj: source.mat("x_proj", dt_rank + 2 * n_head * d_state, d_inner)?,
            bcdt_rms_eps,
            bcdt_norm: source.optional_vector("bcdt_norm.weight", dt_rank + 2 * d_state)?,
            dt_proj: source.mat("dt_proj", d_inner, dt_rank)?,
            dt_bias: vector("dt_proj.bias")?,
            dt_least: source.optional_vector("dt_least", padded(d_inner))?,
            a: source.tensor("A", &[blocks, d_state, WIDTH])?,
            d: vector("D")?,
            output: Output::load_with_bias(source, "out_proj", d_inner)?,
            ssm: source.matrix_state("ssm", &[blocks, d_state, WIDTH]),
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        let size = |of: fn(&Mamba1) -> usize| layers.clone().next().map_or(0, of);
        let d_inner = size(|l| padded(l.in_x.rows()));
        let acts = |mat: fn(&Mamba1) -> &Matrix| acts_for(workspace, layers.clone().map(mat));
        Scratch {
            input: InputScratch::new(workspace, layers.clone().flat_map(|l| [&l.in_x, &l.in_z])),
            x: Panel::new(d_inner, workspace),
            x_input: acts(|l| &l.x_proj),
            gate: Panel::new(d_inner, workspace),
            dt_b_c: Panel::new(size(|l| l.x_proj.rows()), workspace),
            dt_low: acts(|l| &l.dt_proj),
            dt_y: Panel::new(d_inner, workspace),
            gated: acts(|l| &l.output.weight),
        }
    }

    fn read(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
    }

    fn add(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.inputs(pass, s);
        self.selection(pass, s);
        self.scan(pass, s);
        self.output.forward(pass, &s.gated);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let (d_inner, d_state, dt_rank) = (self.in_x.rows(), self.d_state, self.dt_rank);
        let input = self.input.list(list);
        let x = list.values("conv x", padded(d_inner));
        list.project_to(x, &self.in_x, input);
        self.conv.list(list, x);
        let x_input = list.pack("x input", d_inner, of(x));
        let gate = list.values("gate", padded(d_inner));
        list.project_to(gate, &self.in_z, input);
        list.map(gate, self.z_bias.of(gate).apply(Function::Silu));
        // (Δ's low-rank half, B, C) = x_proj(x), maybe normed.
        let all = list.project("dt b c", &self.x_proj, x_input);
        let n = list.rows(all) - dt_rank;
        let [mut dt, mut b_c] = [0, dt_rank].map(|first| rows(all, first));
        if let Some(eps) = self.bcdt_rms_eps {
            let of_dt = list.sum("dt square", dt.clone() * dt.clone(), (dt_rank, dt_rank));
            let of_b_c = list.sum("b c square", b_c.clone() * b_c.clone(), (n, d_state));
            let inverse = |square, n: usize| {
                let mean = of_head(square, n) / n as f32;
                Formula::from(1.0) / (mean + eps).apply(Function::Sqrt)
            };
            dt = dt * inverse(of_dt, dt_rank);
            b_c = b_c * inverse(of_b_c, d_state);
        }
        if let (Some(weight), true) = (&self.bcdt_norm, self.bcdt_rms_eps.is_some()) {
            let (of_dt, of_b_c) = weight.split_at(dt_rank);
            (dt, b_c) = (dt * of_dt, b_c * of_b_c);
        }
        let dt = list.pack("dt low", dt_rank, dt);
        let both = list.values("b c", n);
        list.map(both, b_c);
        // Δ = softplus(dt_proj Δ_low + bias); y = scan · gate.
        let delta_y = list.values("delta y", padded(d_inner));
        list.project_to(delta_y, &self.dt_proj, dt);
        list.map(delta_y, (of(delta_y) + &self.dt_bias).apply(Function::Softplus));
        if let Some(least) = &self.dt_least {
            list_without_small(list, delta_y, least);
        }
        let (a, d, d_head, state) = (&*self.a, &*self.d, self.d_head, self.ssm);
        list.scan(ScanOp { a, d, x, b_c: both, d_state, d_head, state, delta_y });
        let gated = list.pack("gated", d_inner, of(delta_y) * gate);
        self.output.list(list, gated);
    }
}

impl Mamba1 {
    /// (x, z) = in_proj(norm(x)); x = silu(conv(x)); gate = silu(z).
    fn inputs(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let (input, window) = (&s.input.acts, self.conv.window);
        let bytes = self.in_x.len() + self.in_z.len();
        let cut = Cut { rows: s.x.rows(), unit: GROUP, bytes };
        let owned = Owned { panels: [&mut s.x, &mut s.gate], acts: [&mut s.x_input] };
        pass.stages.rows_and_states(cut, owned, &mut pass.states, [window], |piece| {
            let Piece { isa, batch, panels: [mut x, mut z], acts: [mut x_input], .. } = piece;
            let [window] = piece.states;
            self.in_x.matmul(isa, input, &mut x);
            self.conv.forward(isa, batch, &mut x, window);
            prepare(isa, &mut x, &mut x_input);
            self.in_z.matmul(isa, input, &mut z);
            gate(isa, &self.z_bias, &mut z);
        });
    }

    /// (Δ's low-rank half, B, C) = x_proj(x).
    fn selection(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        pass.stages.project([Job::keep(&self.x_proj, &s.x_input, &mut s.dt_b_c)]);
        let owned = Owned { panels: [&mut s.dt_b_c], acts: [&mut s.dt_low] };
        pass.stages.columns(pass.stages.batch.columns, owned, |piece| {
            let Piece { isa, own, panels: [mut dt_b_c], acts: [mut dt_low], .. } = piece;
            for c in own {
                let (dt, b_c) = dt_b_c.column(c).split_at_mut(self.dt_rank);
                if let Some(eps) = self.bcdt_rms_eps {
                    let (b, c) = b_c[..2 * self.d_state].split_at_mut(self.d_state);
                    for v in [&mut *dt, b, c] {
                        simd!(isa, rms_norm_in_place(v, eps));
                    }
                    if let Some(weight) = &self.bcdt_norm {
                        let (of_dt, of_b_c) = weight.split_at(self.dt_rank);
                        simd!(isa, {
                            update(dt, of_dt, |v, w| v * w);
                            update(b_c, of_b_c, |v, w| v * w);
                        });
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
        let (x, dt_b_c, gate, dt_low) = (&s.x, &s.dt_b_c, &s.gate, &s.dt_low);
        let d_state = self.d_state;
        let cut = Cut { rows: x.rows(), unit: GROUP, bytes: self.dt_proj.len() };
        let owned = Owned { panels: [&mut s.dt_y], acts: [&mut s.gated] };
        pass.stages.rows_and_states(cut, owned, &mut pass.states, [self.ssm], |piece| {
            let Piece { isa, batch, own, panels: [mut dt_y], acts: [mut gated], .. } = piece;
            let [mut h] = piece.states;
            self.dt_proj.matmul(isa, dt_low, &mut dt_y);
            simd!(isa, {
                for c in 0..batch.columns {
                    update(dt_y.column(c), &self.dt_bias[own.clone()], |dt, bias| {
                        softplus(dt + bias)
                    });
                    if let Some(least) = &self.dt_least {
                        update(dt_y.column(c), &least[own.clone()], without_small);
                    }
                }
            });
            for (run, span) in batch.spans.iter().enumerate() {
                let scan = Scan {
                    a: &self.a[own.start * d_state..own.end * d_state],
                    d: &self.d[own.clone()],
                    x: x.view(span.clone(), own.clone()),
                    b_c: dt_b_c.view(span.clone(), self.dt_rank..dt_b_c.rows()),
                    d_state,
                    d_head: self.d_head,
                    first: own.start,
                    delta_y: dt_y.view_mut(span.clone(), own.clone()),
                };
                selective_scan(isa, &mut h.elements(run), scan);
            }
            simd!(isa, {
                for c in 0..batch.columns {
                    update(dt_y.column(c), &gate.column(c)[own.clone()], |y, gate| y * gate);
                }
            });
            prepare(isa, &mut dt_y, &mut gated);
        });
    }
}

/// Δ, or 0 where it is smaller than the least: the channel's state stays as it is, and takes
/// nothing in (LongMamba's token filter, arXiv 2504.16053, eq. 9).
#[inline(always)]
pub(super) fn without_small(dt: f32, least: f32) -> f32 {
    if dt < least { 0.0 } else { dt }
}

/// The same of all elements of `dt`, as operations.
pub(super) fn list_without_small<'m>(list: &mut List<'m>, dt: Values, least: &'m Vector) {
    list.map(dt, formula_without_small(&of(dt), least.into()));
}

/// The same of a Δ that is not negative: times 1, or 0 where the sign of what is over the least
/// says so; 0 · ∞ is no number, and counts as 1.
fn formula_without_small<'m>(dt: &Formula<'m>, least: Formula<'m>) -> Formula<'m> {
    let over = (dt.clone() - least) * f32::INFINITY;
    dt.clone() * over.with(1.0, Function::Min).or_at_least(0.0)
}

/// v = v / √(mean(v²) + eps).
#[inline(always)]
fn rms_norm_in_place(v: &mut [f32], eps: f32) {
    let inverse = inverse_rms(v, eps);
    v.iter_mut().for_each(|v| *v *= inverse);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Term;

    #[test]
    fn the_formula_leaves_out_the_same_steps() {
        let term = |term: &Term<'_>| match term {
            Term::Number(number) => *number,
            _ => unreachable!("numbers alone"),
        };
        let numbers = [0.0, 1e-45, 1e-3, 0.5, 0.500_000_06, 7.0, f32::MAX, f32::INFINITY];
        for (dt, least) in numbers.iter().flat_map(|dt| numbers.map(|least| (*dt, least))) {
            let found = formula_without_small(&dt.into(), least.into()).value(term);
            assert_eq!(found.to_bits(), without_small(dt, least).to_bits(), "{dt} {least}");
        }
    }
}
