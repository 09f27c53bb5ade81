//! The real-gated linear recurrent unit of Griffin (De et al. 2024, arXiv 2402.19427, eq. 1-4) as
//! RecurrentGemma has it: `x += W_out (gelu(W_y x̂) · lru(conv(W_x x̂)))`. Reference: transformers
//! `models/recurrent_gemma/modeling_recurrent_gemma.py`. Test: `tests/parity_hybrid.rs`.

use super::{Bias, CausalConv, Input, InputScratch, MAX_CONV, Output, Part, padded};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::columns::{Columns, ColumnsMut};
use crate::kernels::forms::GROUP;
use crate::kernels::lanes::update;
use crate::kernels::math::{exp, gelu_tanh, sigmoid, tanh};
use crate::kernels::recurrence::{Leaky, leaky};
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::{BlocksOp, Formula, Function, List, before, of, one_of, rows};
use crate::stage::{Cut, Job, Owned, Piece, prepare};
use crate::state::{SlotRef, StatesShare};
use crate::team::{Share, lcm};
use crate::tensor::{Matrix, Vector, acts_for};

/// The weights of one layer, over d_lru channels.
pub(crate) struct RgLru {
    input: Input,
    /// (d_lru, d_model) each
    in_x: Matrix,
    in_y: Matrix,
    y_bias: Bias,
    conv: CausalConv,
    /// Channels of a block.
    d_block: usize,
    /// (n_block, d_block inputs, d_block outputs), and (d_lru): of the input's gate, of the
    /// decay's.
    gates: [(Vector, Vector); 2],
    /// ln a where the decay's gate is 1 (d_lru), negative.
    rate: Vector,
    output: Output,
    /// State: h (d_lru).
    state: SlotRef,
}

impl Part for RgLru {
    const WORD: &'static str = "recurrent";
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<RgLru> {
        let (config, d_model) = (source.config, source.config.d_model);
        let (d_lru, n_block) = (config.size("d_lru")?, config.size("n_block")?);
        let d_block = config.divide(d_lru, n_block, "n_block")?;
        let gate = |name: &str| -> Result<(Vector, Vector)> {
            let weights = source.vector(&format!("lru.{name}_gate"), d_lru * d_block)?;
            Ok((weights, source.vector(&format!("lru.{name}_gate.bias"), d_lru)?))
        };
        Ok(RgLru {
            input: Input::load(source, "norm")?,
            in_x: source.mat("lru.in_x", d_lru, d_model)?,
            in_y: source.mat("lru.in_y", d_lru, d_model)?,
            y_bias: Bias::load(source, "lru.in_y.bias", d_lru)?,
            conv: CausalConv::load(
                source,
                ("conv", "lru.in_x"),
                d_lru,
                config.size_up_to("d_conv", MAX_CONV)?,
            )?,
            d_block,
            gates: [gate("input")?, gate("decay")?],
            rate: source.vector("lru.rate", d_lru)?,
            output: Output::load_with_bias(source, "lru.out", d_lru)?,
            state: source.state("lru", &[d_lru], 0.0),
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        let d_lru = layers.clone().next().map_or(0, |l| l.in_x.rows());
        let readers = layers.clone().flat_map(|l| [&l.in_x, &l.in_y]);
        Scratch {
            input: InputScratch::new(workspace, readers),
            x: Panel::new(padded(d_lru), workspace),
            y: Panel::new(padded(d_lru), workspace),
            decay: Panel::new(d_lru, workspace),
            h: Panel::new(d_lru, workspace),
            gated: acts_for(workspace, layers.map(|l| &l.output.weight)),
        }
    }

    fn read(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
    }

    fn add(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.inputs(pass, s);
        self.recurrence(pass, s);
        self.output.forward(pass, &s.gated);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let (input, n) = (self.input.list(list), self.rate.len());
        let x = list.values("x", padded(n));
        list.project_to(x, &self.in_x, input);
        self.conv.list(list, x);
        let y = list.project("y gate", &self.in_y, input);
        list.map(y, self.y_bias.of(y).apply(Function::GeluTanh));
        let [i, r] = ["i", "r"].map(|name| list.values(name, n));
        for (y, (w, bias)) in [i, r].into_iter().zip(&self.gates) {
            list.blocks(BlocksOp { d: self.d_block, w, bias, x, y });
        }
        list.map(r, Formula::from(&self.rate) * of(r).apply(Function::Sigmoid));
        // The first token of a text comes as it is: there sin(0) = 0.
        let angles = list.angles(FIRST, 1);
        let first = list.values("is first", 1);
        let later = (rows(angles, 1) * LARGE).at_most(1.0);
        list.map(first, Formula::from(1.0) - later);
        let t = list.values("t", n);
        list.map(t, (-of(r)).apply(Function::Tanh));
        let share = ((of(t) + t) / (Formula::from(1.0) + t)).apply(Function::Sqrt);
        list.map(t, share.with(one_of((first, 0), n), Function::Max));
        list.map(i, of(t) * (of(i).apply(Function::Sigmoid) * x));
        list.map(r, of(r).apply(Function::Exp));
        // h = a h + √(1 − a²) (i · x); y · h.
        let h = list.values("h", n);
        list.fold(h, of(r) * before(h, self.state) + i);
        list.keep(h, self.state);
        let gated = list.pack("gated", n, of(h) * y);
        self.output.list(list, gated);
    }
}

/// A frequency by which no angle comes back to 0 in a text, and what makes its sines 1 at least.
const FIRST: &[f32] = &[1e-9];
const LARGE: f32 = 1e30;

impl RgLru {
    /// x = conv(W_x x̂ + b); y = gelu(W_y x̂ + b).
    fn inputs(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let (isa, batch, input) = (pass.stages.isa, pass.stages.batch, &s.input.acts);
        let window = pass.states.share(self.conv.window);
        pass.stages.project([
            Job::advance(
                &self.in_x,
                input,
                &mut s.x,
                window,
                &|x: &mut Share<'_, f32>, window: StatesShare<'_>| {
                    self.conv.forward(isa, batch, x, window);
                },
            ),
            Job::apply(&self.in_y, input, &mut s.y, &|y| {
                let at = y.rows().start;
                simd!(isa, {
                    for c in y.columns() {
                        let y = y.column(c);
                        self.y_bias.add(at, y);
                        y.iter_mut().for_each(|y| *y = gelu_tanh(*y));
                    }
                });
            }),
        ]);
    }

    /// h = a h + √(1 − a²) (i · x); y · h.
    fn recurrence(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let Scratch { x, y, decay, h, gated, .. } = s;
        let cut = Cut {
            rows: h.rows(),
            unit: lcm(self.d_block, GROUP),
            bytes: 2 * self.gates[0].0.len() * size_of::<f32>(),
        };
        let owned = Owned { panels: [h, decay], acts: [gated] };
        let (x, y) = (&*x, &*y);
        pass.stages.rows_and_states(cut, owned, &mut pass.states, [self.state], |piece| {
            let Piece { isa, batch, own, panels: [mut h, mut decay], acts: [mut gated], .. } =
                piece;
            let [mut states] = piece.states;
            for (run, span) in batch.spans.iter().enumerate() {
                let at_beginning = states.position(run) == 0;
                for at in own.clone().step_by(self.d_block) {
                    let rows = at..at + self.d_block;
                    let x = x.view(span.clone(), rows.clone());
                    let decay = decay.view_mut(span.clone(), rows.clone());
                    let h = h.view_mut(span.clone(), rows);
                    self.gate(isa, at, x, at_beginning, decay, h);
                }
                let decay = decay.view_mut(span.clone(), own.clone());
                let mut x = h.view_mut(span.clone(), own.clone());
                let state = Leaky { decay: decay.view(), h: states.get(run), x: x.view_mut() };
                leaky(isa, state);
                let y = y.view(span.clone(), own.clone());
                simd!(isa, (0..x.len()).for_each(|c| update(x.at(c), y.at(c), |h, y| h * y)));
            }
            prepare(isa, &mut h, &mut gated);
        });
    }

    /// a = exp(rate r) and √(1 − a²) (i x), with i, r = sigmoid(W x + b), of the block whose
    /// channels begin at `at`. The first token of a text comes as it is.
    fn gate(
        &self,
        isa: Isa,
        at: usize,
        x: Columns<'_>,
        at_beginning: bool,
        mut decay: ColumnsMut<'_>,
        mut h: ColumnsMut<'_>,
    ) {
        let (own, each) = (at..at + self.d_block, self.d_block);
        let [(to_i, i_bias), (to_r, r_bias)] = &self.gates;
        let [to_i, to_r] = [to_i, to_r].map(|w| &w[at * each..][..each * each]);
        simd!(isa, {
            for c in 0..x.len() {
                let (x, i, r) = (x.at(c), h.at(c), decay.at(c));
                i.copy_from_slice(&i_bias[own.clone()]);
                r.copy_from_slice(&r_bias[own.clone()]);
                let rows = to_i.chunks_exact(each).zip(to_r.chunks_exact(each));
                for (x, (to_i, to_r)) in x.iter().zip(rows) {
                    update(i, to_i, |i, w| i + x * w);
                    update(r, to_r, |r, w| r + x * w);
                }
                update(r, &self.rate[own.clone()], |r, rate| rate * sigmoid(r));
                // 1 − exp(−2z) = 2 tanh(z) / (1 + tanh(z)), which does not cancel.
                let is_first = at_beginning && c == 0;
                for ((i, r), x) in i.iter_mut().zip(&*r).zip(x) {
                    let t = tanh(-*r);
                    let share = if is_first { 1.0 } else { ((t + t) / (1.0 + t)).sqrt() };
                    *i = share * (sigmoid(*i) * x);
                }
                r.iter_mut().for_each(|r| *r = exp(*r));
            }
        });
    }
}

/// Buffers of a forward pass, one column per token (d_lru).
pub(crate) struct Scratch {
    input: InputScratch,
    x: Panel,
    y: Panel,
    decay: Panel,
    /// The inputs of the recurrence, then its results.
    h: Panel,
    gated: ActivationBuffer,
}
