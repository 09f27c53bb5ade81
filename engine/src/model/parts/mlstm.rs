//! xLSTM's matrix memory, mLSTM (Beck et al. 2024, arXiv 2405.04517, eq. 19–27), as xLSTM-7B has it
//! (Beck et al. 2025, arXiv 2503.13427; reference: transformers `models/xlstm/modeling_xlstm.py`).
//!
//! Exponential gates are kept relative to m, the largest exponent so far: a head's decay and the
//! factor of what is written are ready before its span of linear attention runs; the normaliser
//! runs beside it. Test: `tests/parity_linear.rs`.

use super::{Head, Heads, Input, InputScratch, Output, Part};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::columns::Columns;
use crate::kernels::lanes::{dot, update};
use crate::kernels::math::{exp, sigmoid, softplus, tanh};
use crate::kernels::norm::layer_norm_in_place;
use crate::kernels::recurrence::{Decay, Read, Span, linear_attention};
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::{
    DecayOp, Formula, Function, HeadsOp, List, NormOp, OfHead, before, of, of_head, part, rows,
};
use crate::stage::{Job, Owned};
use crate::team::Share;
use crate::tensor::{Matrix, Vector, acts_for};

/// Tokens whose numbers stand on the stack while a head passes them.
const TOKENS: usize = 32;
/// The largest head of keys.
const MAX_KEY: usize = 512;

/// The weights of one layer's heads.
pub(crate) struct Mlstm {
    n_head: usize,
    d_head: usize,
    d_key: usize,
    input: Input,
    /// (2 n_head d_key + n_head d_head, d_model): q, k, v.
    in_qkv: Matrix,
    /// (2 n_head, d_model): the gates of input and of forgetting, and their biases.
    in_gates: Matrix,
    gates_bias: Vector,
    /// The bound of the gates' values.
    gate_cap: f32,
    /// (n_head d_head, d_model)
    in_z: Matrix,
    /// (n_head d_head) each
    out_norm: Vector,
    out_norm_bias: Vector,
    norm_eps: f32,
    /// Added to what a head's reading is divided by.
    eps: f32,
    output: Output,
    /// State: C (n_head, d_key, d_head); of each head n (d_key) and m.
    heads: Heads,
}

impl Part for Mlstm {
    const WORD: &'static str = "mlstm";
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<Mlstm> {
        let (config, d_model) = (source.config, source.config.d_model);
        let n_head = config.size("n_head")?;
        let (d_head, d_key) = (Heads::d_head(config)?, config.size_up_to("d_key", MAX_KEY)?);
        let width = n_head * d_head;
        Ok(Mlstm {
            n_head,
            d_head,
            d_key,
            input: Input::load(source, "norm")?,
            in_qkv: source.mat("in_proj.qkv", 2 * n_head * d_key + width, d_model)?,
            in_gates: source.mat("in_proj.gates", 2 * n_head, d_model)?,
            gates_bias: source.vector("in_proj.gates.bias", 2 * n_head)?,
            gate_cap: config.float("gate_cap")?,
            in_z: source.mat("in_proj.z", width, d_model)?,
            out_norm: source.vector("out_norm.weight", width)?,
            out_norm_bias: source.vector("out_norm.bias", width)?,
            norm_eps: config.float("norm_eps")?,
            eps: config.float("read_eps")?,
            output: Output::load(source, "out_proj", width)?,
            heads: Heads::load(source, "mlstm", (width, d_head), d_key)?.with(
                source,
                "norm",
                d_key + 1,
            ),
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        let readers = layers.clone().flat_map(|l| [&l.in_qkv, &l.in_gates, &l.in_z]);
        let of = |rows: fn(&Self) -> usize| {
            Panel::new(layers.clone().map(rows).max().unwrap_or(0), workspace)
        };
        Scratch {
            input: InputScratch::new(workspace, readers),
            qkv: of(|l| l.in_qkv.rows()),
            gates: of(|l| l.in_gates.rows()),
            z: of(|l| l.in_z.rows()),
            y: of(|l| l.in_z.rows()),
            gated: acts_for(workspace, layers.clone().map(|l| &l.output.weight)),
        }
    }

    fn read(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
    }

    /// x += W_out heads(norm(x)).
    fn add(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let (isa, input) = (pass.stages.isa, &s.input.acts);
        let gate = |z: &mut Share<'_, f32>| {
            simd!(isa, {
                for c in z.columns() {
                    z.column(c).iter_mut().for_each(|z| *z = sigmoid(*z));
                }
            });
        };
        pass.stages.project([
            Job::keep(&self.in_qkv, input, &mut s.qkv),
            Job::apply(&self.in_gates, input, &mut s.gates, &|gates| self.gates(isa, gates)),
            Job::apply(&self.in_z, input, &mut s.z, &gate),
        ]);
        let Scratch { qkv, gates, z, y, gated, .. } = s;
        self.heads.forward(
            &mut pass.stages,
            &mut pass.states,
            0,
            Owned { panels: [y], acts: [gated] },
            |_, _, _| {},
            |head| self.head(head, qkv, gates, z),
        );
        self.output.forward(pass, &s.gated);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let Mlstm { n_head, d_head, d_key, gate_cap, .. } = *self;
        let (input, keys) = (self.input.list(list), n_head * d_key);
        let qkv = list.project("qkv", &self.in_qkv, input);
        let gates = list.project("gates", &self.in_gates, input);
        let gated = ((of(gates) + &self.gates_bias) / gate_cap).apply(Function::Tanh);
        list.map(gates, Formula::from(gate_cap) * gated);
        let z = list.project("z", &self.in_z, input);
        list.map(z, of(z).apply(Function::Sigmoid));
        let number = |list: &mut List<'m>, name| list.values(name, n_head);
        let forget = number(list, "forget");
        list.map(forget, -(-rows(gates, n_head)).apply(Function::Softplus));
        // The largest exponent and the normaliser are folded where a state has them: what stands in
        // each other's place there is no matter.
        let kept = self.heads.kept();
        let each = kept.len() / n_head;
        let [m, n, old] = ["m", "n", "m before"].map(|name| list.values(name, kept.len()));
        let aged = of_head(forget, each) + before(m, kept);
        list.fold(m, aged.with(of_head(gates, each), Function::Max));
        list.map(old, before(m, kept));
        let last = |from| [part(from, (d_key, each), 0, 1)];
        let next = list.place("m of heads", (n_head, 1), last(m));
        let old = list.place("m of heads before", (n_head, 1), last(old));
        let [keeps, writes, least] = ["keeps", "writes", "least"].map(|name| number(list, name));
        list.map(keeps, (of(forget) + old - next).apply(Function::Exp));
        list.map(writes, (rows(gates, 0) - next).apply(Function::Exp));
        list.map(least, (-of(next)).apply(Function::Exp));
        // C = keep C + write k vᵀ; y = Cᵀ q.
        let of_qkv = |first, step| OfHead { from: qkv, first, step, share: 1 };
        let rkv = [of_qkv(0, d_key), of_qkv(keys, d_key), of_qkv(2 * keys, d_head)];
        let y = list.values("heads", n_head * d_head);
        list.heads(HeadsOp {
            scale: Some(writes),
            ..self.heads.list(d_key, rkv, DecayOp::PerHead(keeps), y)
        });
        // n = keep n + write k; y = y / max(|n · q|, e^−m) / √d_key, normed and gated.
        let k = list.place("k kept", (n_head, each), [part(qkv, (keys, d_key), 0, d_key)]);
        let new = of_head(writes, each) * k;
        list.fold(n, of_head(keeps, each) * before(n, kept) + new);
        let own = part(n, (0, each), 0, d_key);
        let of_heads = list.place("n of heads", (n_head, d_key), [own]);
        let scale = 1.0 / (d_key as f32).sqrt();
        let read = list.sum("n q", of(of_heads) * rows(qkv, 0), (keys, d_key));
        list.map(read, of(read) * scale);
        let divisor = of(read).with(-of(read), Function::Max).with(of(least), Function::Max);
        list.map(read, Formula::from(scale) / (divisor + self.eps));
        list.map(y, of(y) * of_head(read, d_head));
        let norm =
            NormOp::Layer { weight: &self.out_norm, bias: &self.out_norm_bias, eps: self.norm_eps };
        list.norm(y, y, norm, d_head);
        let all = list.place("kept", (n_head, each), [own, part(m, (d_key, each), d_key, 1)]);
        list.keep(all, kept);
        let gated = list.pack("gated", n_head * d_head, of(y) * z);
        self.output.list(list, gated);
    }
}

impl Mlstm {
    /// cap · tanh((x + bias) / cap).
    fn gates(&self, isa: Isa, gates: &mut Share<'_, f32>) {
        let (own, cap) = (gates.rows(), self.gate_cap);
        simd!(isa, {
            for c in gates.columns() {
                update(gates.column(c), &self.gates_bias[own.clone()], |x, b| {
                    cap * tanh((x + b) / cap)
                });
            }
        });
    }

    /// One head over the tokens of a run.
    fn head(&self, head: Head<'_, 1>, qkv: &Panel, gates: &Panel, z: &Panel) {
        let Head { isa, own, columns, panels: [mut y], mut state, kept, .. } = head;
        let (n_head, d_key, head) = (self.n_head, self.d_key, own.start / self.d_head);
        let keys = n_head * d_key;
        let (n, m) = kept[..d_key + 1].split_at_mut(d_key);
        let m = &mut m[0];
        let scale = 1.0 / (d_key as f32).sqrt();
        for from in (0..columns.len()).step_by(TOKENS) {
            let some = from..columns.len().min(from + TOKENS);
            let columns = columns.start + some.start..columns.start + some.end;
            let view = |at, n| qkv.view(columns.clone(), at..at + n);
            let (q, k) = (view(head * d_key, d_key), view(keys + head * d_key, d_key));
            // Of every token: what the state keeps, what v is multiplied by, the least divisor.
            let (mut keeps, mut writes, mut least) = ([0.0; TOKENS], [0.0; TOKENS], [0.0; TOKENS]);
            for (c, column) in columns.clone().enumerate() {
                let gates = gates.column(column);
                let (input, forget) = (gates[head], -softplus(-gates[n_head + head]));
                let aged = forget + *m;
                let next = if aged > input { aged } else { input };
                (keeps[c], writes[c], least[c]) = (exp(aged - next), exp(input - next), exp(-next));
                *m = next;
            }
            let number = |x| Columns::new(x, 1, 0..some.len(), 0..1);
            let mut y = y.part(some.clone());
            // C = keep C + write k vᵀ; y = Cᵀ q.
            linear_attention(
                isa,
                &mut state,
                Span {
                    r: q,
                    k,
                    v: view(2 * keys + own.start, self.d_head),
                    scale: Some(number(&writes)),
                    decay: Decay::PerHead(number(&keeps)),
                    delta: None,
                    read: Read::After,
                    y: y.view_mut(),
                },
            );
            let z = z.view(columns.clone(), own.clone());
            let (w, b) = (&self.out_norm[own.clone()], &self.out_norm_bias[own.clone()]);
            // n = keep n + write k; y = y / max(|n · q|, e^−m) / √d_key, normed and gated.
            simd!(isa, {
                for c in 0..q.len() {
                    update(n, k.at(c), |n, k| keeps[c] * n + writes[c] * k);
                    let read = (dot(n, q.at(c)) * scale).abs();
                    let divisor = if read > least[c] { read } else { least[c] };
                    let factor = scale / (divisor + self.eps);
                    let y = y.at(c);
                    y.iter_mut().for_each(|y| *y *= factor);
                    layer_norm_in_place(y, w, b, self.norm_eps);
                    update(y, z.at(c), |y, z| y * z);
                }
            });
        }
    }
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    input: InputScratch,
    qkv: Panel,
    /// (2 n_head)
    gates: Panel,
    /// (n_head d_head) each
    z: Panel,
    y: Panel,
    gated: ActivationBuffer,
}
