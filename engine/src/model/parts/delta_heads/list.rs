//! Heads with a delta rule as operations. Test: `tests/operations.rs`.

use super::{Correction, DeltaHeads, L2_EPS, padded};
use crate::ops::{
    DecayOp, DeltaOp, Formula, Function, HeadsOp, List, NormOp, OfHead, PlacePart, Values, of,
    of_head, part, rows, weight_of_head,
};

impl<const GATED: bool> DeltaHeads<GATED> {
    /// x += W_out heads(norm(x)), as operations.
    pub(super) fn list_all<'m>(&'m self, list: &mut List<'m>) {
        let DeltaHeads { n_head, n_key_head, d_head, d_key, .. } = *self;
        let input = self.input.list(list);
        let qkv = list.values("qkv", padded(self.in_qkv.rows()));
        list.project_to(qkv, &self.in_qkv, input);
        self.conv.list(list, qkv);
        let gate = self.gate.as_ref().map(|gate| gate.list(list, input));
        let beta = list.project("beta", &self.in_beta, input);
        list.map(beta, Formula::from(self.beta_scale) * of(beta).apply(Function::Sigmoid));
        let decay = match &self.forget {
            Some(forget) => forget.list(list, input),
            None => {
                let all = list.values("no decay", n_head);
                list.map(all, 1.0);
                DecayOp::PerHead(all)
            }
        };
        // S = α S + k̂ (β (v − (α S)ᵀ p̂))ᵀ; y = Sᵀ q.
        let n_step = self.n_step;
        let values = (1 + n_step) * n_key_head * d_key;
        // Value heads that share key heads in turns have copies of them, or those that correct.
        let has_copies = n_head > n_key_head && (self.is_tiled || self.correction.is_some());
        let (qk, n_key_head) = match has_copies {
            true => (self.list_copies(list, qkv), n_head),
            false => (qkv, n_key_head),
        };
        let (keys, share) = (n_key_head * d_key, n_head / n_key_head);
        let [q, k] = [0, keys].map(|first| rows(qk, first));
        let of_keys = |from, first| OfHead { from, first, step: d_key, share };
        let square = list.sum("k square", k.clone() * k.clone(), (n_step * keys, d_key));
        let length = |square: Formula<'m>| (square + L2_EPS).apply(Function::Sqrt);
        let to_v = list.values("to v", n_step * n_head);
        let k_inverse = Formula::from(1.0) / length(of_head(square, share));
        list.map(to_v, of(beta) * k_inverse);
        let to_old = list.values("to old", n_step * n_head);
        let (mut r, mut q_read) = (of_keys(qk, 0), q.clone());
        let reading = match &self.correction {
            None => Formula::from(1.0) / length(of_head(square, share)),
            Some(Correction { share, d }) => {
                let corrected = list.values("q corrected", keys);
                let given = weight_of_head(d, d_key) * weight_of_head(share, d_key);
                list.map(corrected, q - given * k);
                (r, q_read) = (of_keys(corrected, 0), of(corrected));
                let shares = list.values("key shares", n_head);
                list.map(shares, share);
                let shares = match n_step {
                    1 => shares,
                    _ => list.place(
                        "key shares of steps",
                        (n_step, n_head),
                        [part(shares, (0, 0), 0, n_head)],
                    ),
                };
                let share = || of(shares);
                share() / length(share() * share() * square)
            }
        };
        list.map(to_old, -(of(to_v) * reading));
        let y = list.values("heads", n_head * d_head);
        let v = OfHead { from: qkv, first: values, step: d_head, share: 1 };
        let heads = HeadsOp {
            scale: Some(to_v),
            delta: Some(DeltaOp::Rule { factor: to_old }),
            ..self.heads.list(d_key, [r, of_keys(qk, keys), v], decay, y)
        };
        if n_step == 1 {
            list.heads(heads);
        } else {
            self.list_steps(list, (qkv, values), (qk, share), heads, [to_v, to_old]);
        }
        // y = y / |q| / √d_key; y = y / √(mean(y²) + eps) · w · gate.
        let q_square = list.sum("q square", q_read.clone() * q_read, (keys, d_key));
        let scale = Formula::from(1.0 / (d_key as f32).sqrt());
        let q_inverse = scale / length(of_head(q_square, d_head * share));
        list.map(y, of(y) * q_inverse);
        let norm = NormOp::Rms { weight: &self.out_norm, eps: self.norm_eps };
        list.norm(y, y, norm, d_head);
        let gated = gate.map_or(of(y), |gate| of(y) * gate);
        let gated = list.pack("gated", n_head * d_head, gated);
        self.output.list(list, gated);
    }

    /// The same of several steps for each token, which fades before the first.
    fn list_steps<'m>(
        &self,
        list: &mut List<'m>,
        (qkv, values): (Values, usize),
        (qk, share): (Values, usize),
        heads: HeadsOp<'m>,
        [to_v, to_old]: [Values; 2],
    ) {
        let DeltaHeads { n_step, n_head, d_head, d_key, .. } = *self;
        let (keys, width) = (n_head / share * d_key, n_head * d_head);
        let mut each = |name, (from, first, step): (Values, usize, usize), n: usize| {
            list.place(name, (n_step, padded(n)), [part(from, (first, step), 0, n)])
        };
        let of_keys = |from| OfHead { from, first: 0, step: d_key, share };
        let r = of_keys(each("q of steps", (heads.r.from, 0, 0), keys));
        let k = of_keys(each("k of steps", (qk, keys, keys), keys));
        let v = each("v of steps", (qkv, values, width), width);
        let [scale, factor] = [("to v of steps", to_v), ("to old of steps", to_old)]
            .map(|(name, from)| each(name, (from, 0, n_head), n_head));
        let (decay, n) = match heads.decay {
            DecayOp::PerHead(decay) => (decay, n_head),
            DecayOp::PerKey(of) => (of.from, n_head * d_key),
        };
        let rest = (n_step - 1) * padded(n);
        let ones = list.values("no decay of steps", rest);
        list.map(ones, 1.0);
        let decays = [part(decay, (0, 0), 0, n), part(ones, (0, 0), padded(n), rest)];
        let decays = list.place("decay of steps", (1, n_step * padded(n)), decays);
        let y = list.values("y of steps", n_step * padded(width));
        list.heads(HeadsOp {
            r,
            k,
            v: OfHead::own(v, d_head),
            scale: Some(scale),
            decay: match heads.decay {
                DecayOp::PerHead(_) => DecayOp::PerHead(decays),
                DecayOp::PerKey(of) => DecayOp::PerKey(OfHead { from: decays, ..of }),
            },
            delta: Some(DeltaOp::Rule { factor }),
            y,
            steps: n_step,
            ..heads
        });
        list.map(heads.y, rows(y, (n_step - 1) * padded(width)));
    }

    /// Queries, then keys of every step, of every value head, of those that stand in `qkv`.
    fn list_copies<'m>(&self, list: &mut List<'m>, qkv: Values) -> Values {
        let DeltaHeads { n_step, n_head, n_key_head, d_key, .. } = *self;
        let (keys, share) = (n_key_head * d_key, n_head / n_key_head);
        // In turns of all key heads, or one key head behind the other.
        let (heads, own) = if self.is_tiled { (share, keys) } else { (n_head, d_key) };
        let copies = PlacePart { share, ..part(qkv, (0, own), 0, own) };
        list.place("qk of heads", ((1 + n_step) * heads, own), [copies])
    }
}
