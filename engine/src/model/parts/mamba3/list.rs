//! Mamba-3 as operations. Test: `tests/operations.rs`.

use std::f32::consts::PI;

use super::{Mamba3, padded};
use crate::ops::{
    DecayOp, Formula, Function, HeadsOp, List, NormOp, OfHead, PlacePart, SpinOp, Values, before,
    of, part, rows, weight_of_head,
};

impl Mamba3 {
    /// x += W_out heads(norm(x)), as operations.
    pub(super) fn list_all<'m>(&'m self, list: &mut List<'m>) {
        let Mamba3 { n_head, d_head, n_group, d_state, n_pair, .. } = *self;
        let (input, width) = (self.input.list(list), n_head * d_head);
        let gate = list.project("gate", &self.in_z, input);
        list.map(gate, of(gate).apply(Function::Silu));
        let x = list.project("x", &self.in_x, input);
        let bc = list.project("b c", &self.in_bc, input);
        let rates = list.project("rates", &self.in_rates, input);
        let number = |list: &mut List<'m>, name, f: Formula<'m>| {
            let y = list.values(name, n_head);
            list.map(y, f);
            y
        };
        let dt = (rows(rates, 0) + &self.dt_bias).apply(Function::Softplus);
        let dt = number(list, "dt", dt);
        let a = -rows(rates, n_head).apply(Function::Softplus).or_at_least(self.a_floor);
        let a = number(list, "a", a);
        let lambda = number(list, "lambda", rows(rates, 2 * n_head).apply(Function::Sigmoid));
        // B and C of each head.
        let [b, c] = [
            (["b", "b of heads"], 0, &self.b_norm, &self.b_bias),
            (["c", "c of heads"], n_group * d_state, &self.c_norm, &self.c_bias),
        ]
        .map(|(names, first, weight, bias)| {
            let own = part(bc, (first, d_state), 0, d_state);
            let own = list.place(names[0], (n_group, d_state), [own]);
            list.norm(own, own, NormOp::Rms { weight, eps: self.norm_eps }, d_state);
            let shared =
                PlacePart { share: n_head / n_group, ..part(own, (0, d_state), 0, d_state) };
            let all = list.place(names[1], (n_head, d_state), [shared]);
            list.map(all, of(all) + bias);
            all
        });
        // What the state keeps for the next token: x, B and the angles.
        let kept = self.heads.kept();
        let each = kept.len() / n_head;
        let own_x = part(x, (0, d_head), 0, d_head);
        let mut parts = vec![own_x, part(b, (0, d_state), d_head, d_state)];
        if n_pair > 0 {
            let (step, first) = (dt, d_head + d_state);
            let speed = list.values("speed", n_pair);
            let tanh = rows(rates, 3 * n_head).apply(Function::Tanh);
            list.map(speed, Formula::from(PI) * tanh);
            let y = list.values("angles of heads", 3 * n_head * n_pair);
            list.spin(SpinOp { n_head, n_pair, step, speed, state: kept, first, y });
            [b, c].into_iter().for_each(|x| list.turn_own(x, d_state, y));
            parts.push(part(y, (0, 3 * n_pair), first, n_pair));
        }
        let now = list.place("kept", (n_head, each), parts);
        let last = list.values("kept before", kept.len());
        list.map(last, before(now, kept));
        list.keep(now, kept);
        // Two steps of a token: S = α S + (1 − λ) Δ α B' x'ᵀ, for x', B' of the token before; then
        // S = S + λ Δ B xᵀ, which C reads.
        let alpha = number(list, "alpha", (of(a) * dt).apply(Function::Exp));
        let old = number(list, "old", (Formula::from(1.0) - lambda) * dt * alpha);
        let new = number(list, "new", of(lambda) * dt);
        let one = number(list, "no decay", 1.0.into());
        let mut steps = |name, [first, second]: [Values; 2]| {
            let n = list.rows(first);
            let parts = [(first, 0), (second, padded(n))];
            list.place(name, (1, 2 * padded(n)), parts.map(|(x, to)| part(x, (0, 0), to, n)))
        };
        let both = steps("kept of steps", [last, now]);
        let of_both = |first| OfHead { from: both, first, step: each, share: 1 };
        let r = OfHead::own(steps("c of steps", [c, c]), d_state);
        let scale = steps("scale of steps", [old, new]);
        let decay = DecayOp::PerHead(steps("decay of steps", [alpha, one]));
        let steps = list.values("y of steps", 2 * padded(width));
        let rkv = [r, of_both(d_head), of_both(0)];
        list.heads(HeadsOp {
            scale: Some(scale),
            steps: 2,
            ..self.heads.list(d_state, rkv, decay, steps)
        });
        let y = list.values("heads", width);
        let x = weight_of_head(&self.d, d_head) * x;
        list.map(y, rows(steps, padded(width)) + x);
        if let Some(weight) = &self.gated_norm {
            list.norm(y, y, NormOp::Rms { weight, eps: self.norm_eps }, d_head);
        }
        let gated = list.pack("gated", width, of(y) * gate);
        self.output.list(list, gated);
    }
}
