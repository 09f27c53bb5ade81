//! Heads that solve for what they read: MesaNet (von Oswald et al. 2025, arXiv 2506.05233).
//! Reference: fla `layers/mesa_net.py`. Test: `tests/parity_delta.rs`.

use super::{
    BranchScratch, CausalConv, Head, HeadGate, Heads, Input, InputScratch, MAX_CONV, Output, Part,
    padded,
};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::columns::Columns;
use crate::kernels::lanes::{dot, update};
use crate::kernels::math::sigmoid;
use crate::kernels::norm::inverse_rms;
use crate::kernels::recurrence::{MAX_MESA, Mesa, mesa};
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::{Formula, Function, List, MesaOp, NormOp, OfHead, of, of_head, rows};
use crate::stage::{Job, Owned};
use crate::state::StatesShare;
use crate::team::Share;
use crate::tensor::{Matrix, Vector, acts_for};

/// Below the root of q's and k's lengths: fla `modules/l2norm.py`.
const L2_EPS: f32 = 1e-6;
/// Tokens whose queries and keys stand on the stack while a head passes them.
const TOKENS: usize = 8;
/// The most steps of a token: fla's default is 30.
const MAX_STEPS: usize = 256;

/// The weights of one layer's heads.
pub(crate) struct MesaHeads {
    n_head: usize,
    d_head: usize,
    n_step: usize,
    input: Input,
    /// (2 n_head d_head, d_model): q and k.
    in_qk: Matrix,
    conv: CausalConv,
    /// (n_head d_head, d_model)
    in_v: Matrix,
    /// (2 n_head, d_model): β and the decay, and their biases.
    in_gates: Matrix,
    gates_bias: Vector,
    /// (n_head d_head)
    lambda: Vector,
    /// Absent where y is only normed.
    gate: Option<HeadGate>,
    /// (d_head)
    out_norm: Vector,
    norm_eps: f32,
    output: Output,
    /// State: K, then M (n_head, 2 d_head, d_head).
    heads: Heads,
}

impl Part for MesaHeads {
    const WORD: &'static str = "mesa";
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<MesaHeads> {
        let (config, d_model) = (source.config, source.config.d_model);
        let (n_head, d_head) = (config.size("n_head")?, config.size_up_to("d_head", MAX_MESA)?);
        let d_conv = config.size_up_to("d_conv", MAX_CONV)?;
        let width = n_head * d_head;
        Ok(MesaHeads {
            n_head,
            d_head,
            n_step: config.size_up_to("n_solver_step", MAX_STEPS)?,
            input: Input::load(source, "norm")?,
            in_qk: source.mat("in_proj.qk", 2 * width, d_model)?,
            conv: CausalConv::load(source, ("conv", "in_proj.qk"), 2 * width, d_conv)?,
            in_v: source.mat("in_proj.v", width, d_model)?,
            in_gates: source.mat("in_proj.gates", 2 * n_head, d_model)?,
            gates_bias: source.vector("in_proj.gates.bias", 2 * n_head)?,
            lambda: source.vector("lambda", width)?,
            gate: HeadGate::load(source, width)?,
            out_norm: source.vector("out_norm.weight", d_head)?,
            norm_eps: config.float("norm_eps")?,
            output: Output::load(source, "out_proj", width)?,
            heads: Heads::load(source, "mesa", (width, d_head), 2 * d_head)?,
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        let readers = layers.clone().flat_map(|l| {
            let gate = l.gate.as_ref().map(|gate| gate.branch.reader());
            [Some(&l.in_qk), Some(&l.in_v), Some(&l.in_gates), gate].into_iter().flatten()
        });
        let of = |rows: fn(&Self) -> usize| {
            Panel::new(layers.clone().map(rows).max().unwrap_or(0), workspace)
        };
        Scratch {
            input: InputScratch::new(workspace, readers),
            qk: of(|l| padded(l.in_qk.rows())),
            v: of(|l| l.in_v.rows()),
            gates: of(|l| l.in_gates.rows()),
            z: HeadGate::scratch(workspace, layers.clone().filter_map(|l| l.gate.as_ref())),
            y: of(|l| l.in_v.rows()),
            gated: acts_for(workspace, layers.clone().map(|l| &l.output.weight)),
        }
    }

    fn read(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let (n_head, d) = (self.n_head, self.d_head);
        let (input, width) = (self.input.list(list), n_head * d);
        let qk = list.values("qk", padded(2 * width));
        list.project_to(qk, &self.in_qk, input);
        self.conv.list(list, qk);
        let v = list.project("v", &self.in_v, input);
        let gates = list.project("gates", &self.in_gates, input);
        list.map(gates, (of(gates) + &self.gates_bias).apply(Function::Sigmoid));
        let gate = self.gate.as_ref().map(|gate| gate.list(list, input));
        // q / |q| and k / |k|.
        let square = list.sum("qk square", rows(qk, 0) * rows(qk, 0), (2 * width, d));
        let length = (of_head(square, d) + L2_EPS).apply(Function::Sqrt);
        let units = list.values("qk of length 1", 2 * width);
        list.map(units, rows(qk, 0) * (Formula::from(1.0) / length));
        let y = list.values("heads", width);
        let of_head = |from, first, step| OfHead { from, first, step, share: 1 };
        list.mesa(MesaOp {
            n_head,
            d,
            steps: self.n_step,
            state: self.heads.state(),
            q: of_head(units, 0, d),
            k: of_head(units, width, d),
            v: of_head(v, 0, d),
            decay: of_head(gates, n_head, 1),
            beta: of_head(gates, 0, 1),
            lambda: &self.lambda,
            y,
        });
        list.norm(y, y, NormOp::Rms { weight: &self.out_norm, eps: self.norm_eps }, d);
        let gated = gate.map_or(of(y), |gate| of(y) * gate);
        let gated = list.pack("gated", width, gated);
        self.output.list(list, gated);
    }

    /// x += W_out heads(norm(x)).
    fn add(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let (isa, batch, input) = (pass.stages.isa, pass.stages.batch, &s.input.acts);
        let window = pass.states.share(self.conv.window);
        let convolve = |x: &mut Share<'_, f32>, window: StatesShare<'_>| {
            self.conv.forward(isa, batch, x, window);
        };
        let gates = |gates: &mut Share<'_, f32>| self.gates(isa, gates);
        let gated = |z: &mut Share<'_, f32>| self.gate.iter().for_each(|gate| gate.apply(isa, z));
        let jobs = [
            Some(Job::advance(&self.in_qk, input, &mut s.qk, window, &convolve)),
            Some(Job::keep(&self.in_v, input, &mut s.v)),
            Some(Job::apply(&self.in_gates, input, &mut s.gates, &gates)),
            self.gate.as_ref().map(|gate| gate.branch.first(input, &mut s.z, &gated)),
        ];
        pass.stages.project(jobs.into_iter().flatten());
        if let Some(z) = self.gate.as_ref().and_then(|gate| gate.branch.second(&mut s.z, &gated)) {
            pass.stages.project([z]);
        }
        let Scratch { qk, v, gates, z, y, gated, .. } = s;
        self.heads.forward(
            &mut pass.stages,
            &mut pass.states,
            0,
            Owned { panels: [y], acts: [gated] },
            |_, _, _| {},
            |head| self.head(head, [qk, v, gates, &z.out]),
        );
        self.output.forward(pass, &s.gated);
    }
}

impl MesaHeads {
    /// β, and e^(log sigmoid(x + bias)): sigmoids both.
    fn gates(&self, isa: Isa, gates: &mut Share<'_, f32>) {
        let own = gates.rows();
        simd!(isa, {
            for c in gates.columns() {
                update(gates.column(c), &self.gates_bias[own.clone()], |x, b| sigmoid(x + b));
            }
        });
    }

    /// One head over the tokens of a run.
    fn head(&self, head: Head<'_, 1>, [qk, v, gates, z]: [&Panel; 4]) {
        let Head { isa, own, columns, panels: [mut y], mut state, .. } = head;
        let (d_head, head) = (self.d_head, own.start / self.d_head);
        for from in (0..columns.len()).step_by(TOKENS) {
            let some = from..columns.len().min(from + TOKENS);
            let columns = columns.start + some.start..columns.start + some.end;
            let mut units = [[0.0; TOKENS * MAX_MESA]; 2];
            for (unit, at) in units.iter_mut().zip([0, self.n_head * d_head]) {
                let x = qk.view(columns.clone(), at + own.start..at + own.end);
                for (c, unit) in unit.chunks_exact_mut(d_head).take(some.len()).enumerate() {
                    simd!(isa, {
                        let inverse = 1.0 / (dot(x.at(c), x.at(c)) + L2_EPS).sqrt();
                        update(unit, x.at(c), |_, x| x * inverse);
                    });
                }
            }
            let [q, k] =
                units.each_ref().map(|x| Columns::new(x, d_head, 0..some.len(), 0..d_head));
            let gate = |at: usize| gates.view(columns.clone(), at..at + 1);
            let mut y = y.part(some);
            mesa(
                isa,
                &mut state,
                Mesa {
                    q,
                    k,
                    v: v.view(columns.clone(), own.clone()),
                    decay: gate(self.n_head + head),
                    beta: gate(head),
                    lambda: &self.lambda[own.clone()],
                    steps: self.n_step,
                    y: y.view_mut(),
                },
            );
            let z = self.gate.as_ref().map(|_| z.view(columns.clone(), own.clone()));
            // y = y / √(mean(y²) + eps) · w · gate.
            simd!(isa, {
                for c in 0..y.len() {
                    let y = y.at(c);
                    let inverse = inverse_rms(y, self.norm_eps);
                    update(y, &self.out_norm, |y, w| y * inverse * w);
                    if let Some(z) = &z {
                        update(y, z.at(c), |y, z| y * z);
                    }
                }
            });
        }
    }
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    input: InputScratch,
    /// q, k after the convolution (2 n_head d_head)
    qk: Panel,
    /// (n_head d_head)
    v: Panel,
    /// (2 n_head)
    gates: Panel,
    /// (n_head d_head)
    z: BranchScratch,
    y: Panel,
    gated: ActivationBuffer,
}
