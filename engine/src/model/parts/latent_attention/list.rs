//! Latent attention as operations. Test: `tests/operations.rs`.

use super::LatentAttention;
use crate::kernels::lanes::WIDTH;
use crate::ops::{
    AttendOp, ExpertsOp, Function, List, NormOp, PlacePart, RememberOp, Values, of, of_head,
    padded, part,
};

impl LatentAttention {
    /// x += W_out attention(norm(x)), as operations.
    pub(super) fn list_all<'m>(&'m self, list: &mut List<'m>) {
        let LatentAttention { n_head, d_nope, d_rope, d_value, scale, .. } = *self;
        let (d_latent, d_key) = (self.kv_norm.len(), self.in_kv.rows());
        let input = self.input.list(list);
        let norm = |weight| NormOp::Rms { weight, eps: self.norm_eps };
        let of_q = match &self.q_low {
            None => input,
            Some((low, weight)) => {
                let low = list.project("q low", low, input);
                list.norm(low, low, norm(weight), list.rows(low));
                list.pack("q low input", list.rows(low), of(low))
            }
        };
        let q = list.project("q", &self.in_q, of_q);
        // What a token leaves.
        let left = list.project("kv", &self.in_kv, input);
        let latent = list.place("latent", (1, d_latent), [part(left, (0, 0), 0, d_latent)]);
        list.norm(latent, latent, norm(&self.kv_norm), d_latent);
        let shared = self.list_turned(list, "key turned", (1, left), (d_latent, d_key));
        let left = [part(latent, (0, 0), 0, d_latent), part(shared, (0, 0), d_latent, d_rope)];
        let left = list.place("left", (1, d_key), left);
        list.remember(RememberOp { k: left, v: Some(left), pages: self.pages, block: 1 });
        // Queries, through the projection of keys.
        let own = part(q, (0, d_nope + d_rope), 0, d_nope);
        let own = list.place("q own", (n_head, padded(d_nope)), [own]);
        let own = list.pack_of_experts("q own input", (n_head, d_nope), of(own));
        let each = |rows: usize| rows.next_multiple_of(WIDTH);
        let of_each = |w, x, y| ExpertsOp { w, n: n_head, chosen: None, x, y, sum: None };
        let through = list.values("q latent", n_head * each(d_latent));
        list.experts(of_each(&self.keys, own, through));
        let turned = self.list_turned(list, "q turned", (n_head, q), (d_nope, d_nope + d_rope));
        let query = [
            part(through, (0, each(d_latent)), 0, d_latent),
            part(turned, (0, d_rope), d_latent, d_rope),
        ];
        let query = list.place("query", (n_head, d_key), query);
        list.map(query, of(query) * scale);
        let sums = list.values("sums", n_head * d_key);
        let all = AttendOp {
            q: query,
            group: n_head,
            pages: self.pages,
            relative: None,
            chosen: None,
            y: sums,
        };
        list.attend(all);
        // y = W_v latent of every head, times its gate.
        let read = part(sums, (0, d_key), 0, d_latent);
        let read = list.place("read", (n_head, padded(d_latent)), [read]);
        let read = list.pack_of_experts("read input", (n_head, d_latent), of(read));
        let y = list.values("values", n_head * each(d_value));
        list.experts(of_each(&self.values, read, y));
        let y = part(y, (0, each(d_value)), 0, d_value);
        let y = list.place("y", (n_head, d_value), [y]);
        let gated = match &self.in_gate {
            None => of(y),
            Some(w) => {
                let gate = list.project("gate", w, input);
                of(y) * of_head(gate, d_value).apply(Function::Sigmoid)
            }
        };
        let gated = list.pack("gated", n_head * d_value, gated);
        self.output.list(list, gated);
    }

    /// The shared parts of heads of `step` values, from `first` on, which turn, as operations.
    fn list_turned<'m>(
        &'m self,
        list: &mut List<'m>,
        name: &'static str,
        (n_head, x): (usize, Values),
        (first, step): (usize, usize),
    ) -> Values {
        let (d, half) = (self.d_rope, self.d_rope / 2);
        let all = part(x, (first, step), 0, d);
        let turned = if self.has_adjacent_pairs {
            // Those of neighbours come apart.
            let pairs =
                [0, 1].map(|i| PlacePart { first: first + i, by: 2, to: i * half, n: half, ..all });
            list.place(name, (n_head, d), pairs)
        } else {
            list.place(name, (n_head, d), [all])
        };
        self.rope.list(list, turned, d);
        turned
    }
}
