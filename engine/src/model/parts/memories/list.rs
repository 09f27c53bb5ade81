//! A mixture of memories as operations. Test: `tests/operations.rs`.

use super::{Memories, Shifted, padded};
use crate::model::parts::delta_heads::L2_EPS;
use crate::ops::{
    ConvOp, DecayOp, DeltaOp, Formula, Function, HeadsOp, Inputs, List, NormOp, OfHead, Values, of,
    of_head, one_of, part, rows,
};

impl Memories {
    /// x += W_out norm(Σ w memory(norm(x))), as operations.
    pub(super) fn list_all<'m>(&'m self, list: &mut List<'m>) {
        let Memories { n_head, d_head, d_key, n_memory, .. } = *self;
        let (n, width) = (n_memory * n_head, n_head * d_head);
        let (normed, input) = self.input.list_both(list);
        let [_, chosen, weights] = self.router.list(list, normed);
        // Of every memory whether it sees the token, and what it counts.
        let ones = list.values("ones of the chosen", self.router.n_used());
        list.map(ones, 1.0);
        let of_all = (self.router.n_expert, n_memory);
        let seen = list.spread("seen", [chosen, ones], of_all);
        let weights = list.spread("weights of memories", [chosen, weights], of_all);
        let [q, k, v] = [
            (["q", "q of memories", "q shifted"], &self.inputs[0]),
            (["k", "k of memories", "k shifted"], &self.inputs[1]),
            (["v", "v of memories", "v shifted"], &self.inputs[2]),
        ]
        .map(|(names, shifted)| self.list_shift(list, names, shifted, (input, seen)));
        // β = sigmoid(W x); α = exp(A softplus(W x + dt_bias)).
        let n_own = self.in_beta.rows() / n_head;
        let [a, bias] = [
            (["a", "a of memories"], &self.a),
            (["dt bias", "dt bias of memories"], &self.dt_bias),
        ]
        .map(|(names, weights)| {
            let own = list.values(names[0], n_head);
            list.map(own, weights);
            list.place(names[1], (n_own, n_head), [part(own, (0, 0), 0, n_head)])
        });
        let beta = list.project("beta", &self.in_beta, input);
        list.map(beta, of(beta).apply(Function::Sigmoid));
        let decay = list.project("decay", &self.in_dt, input);
        let step = (of(decay) + bias).apply(Function::Softplus);
        list.map(decay, (of(a) * step).apply(Function::Exp));
        let [beta, decay] = [("beta of memories", beta), ("decay of memories", decay)]
            .map(|(name, x)| self.list_each(list, name, x, n_head));
        // S = α S + k̂ (β (v − (α S)ᵀ k̂))ᵀ; y = Sᵀ q / |q| / √d_key.
        let length = |square| (of_head(square, 1) + L2_EPS).apply(Function::Sqrt);
        let square =
            |list: &mut List<'m>, name, x: Values| list.sum(name, of(x) * x, (n * d_key, d_key));
        let k_square = square(list, "k square", k);
        let [to_v, to_old] = ["to v", "to old"].map(|name| list.values(name, n));
        list.map(to_v, of(beta) * (Formula::from(1.0) / length(k_square)));
        list.map(to_old, -(of(to_v) * (Formula::from(1.0) / length(k_square))));
        let y = list.values("heads", n * d_head);
        let rkv = [(q, d_key), (k, d_key), (v, d_head)].map(|(x, n)| OfHead::own(x, n));
        list.heads(HeadsOp {
            scale: Some(to_v),
            delta: Some(DeltaOp::Rule { factor: to_old }),
            seen: Some((seen, n_head)),
            ..self.heads.list(d_key, rkv, DecayOp::PerHead(decay), y)
        });
        let q_square = square(list, "q square", q);
        let scale = Formula::from(1.0 / (d_key as f32).sqrt());
        let q_inverse = list.values("q inverse", n);
        list.map(q_inverse, scale / length(q_square));
        list.map(y, of(y) * of_head(q_inverse, d_head));
        // Those that do not see the token add 0 · 0.
        let sum = list.values("sum of memories", width);
        list.map(sum, 0.0);
        for memory in 0..n_memory {
            let own = one_of((weights, memory), width) * rows(y, memory * width);
            list.map(sum, of(sum) + own);
        }
        list.norm(sum, sum, NormOp::Rms { weight: &self.out_norm, eps: self.norm_eps }, d_head);
        let gate = self.gate.as_ref().map(|gate| gate.list(list, input));
        let gated = gate.map_or(of(sum), |gate| of(sum) * gate);
        let gated = list.pack("gated", width, gated);
        self.output.list(list, gated);
    }

    /// The values that each memory has, `n` of them, of its own or of all.
    fn list_each(&self, list: &mut List<'_>, name: &'static str, x: Values, n: usize) -> Values {
        match list.rows(x) == self.n_memory * n {
            true => x,
            false => list.place(name, (self.n_memory, n), [part(x, (0, 0), 0, n)]),
        }
    }

    /// silu(conv(W x)) of every memory's own tokens.
    fn list_shift<'m>(
        &self,
        list: &mut List<'m>,
        names: [&'static str; 3],
        shifted: &'m Shifted,
        (input, seen): (Inputs, Values),
    ) -> Values {
        let own = shifted.matrices.rows();
        let y = list.project(names[0], shifted.matrices.all(), input);
        let y = self.list_each(list, names[1], y, padded(own));
        let (taps, bias, window) = (&*shifted.taps, &*shifted.bias, shifted.windows);
        list.conv(ConvOp { taps, bias, window, y, seen: Some(seen) });
        list.map(y, of(y).apply(Function::Silu));
        match own == padded(own) {
            true => y,
            false => {
                list.place(names[2], (self.n_memory, own), [part(y, (0, padded(own)), 0, own)])
            }
        }
    }
}
