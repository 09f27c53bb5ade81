//! Attention as operations: see `ops/attention.rs`. Test: `tests/operations.rs`.

use super::Attention;
use crate::model::parts::padded;
use crate::model::parts::qk_norm::QkNorm;
use crate::ops::{
    AttendOp, Formula, Function, Inputs, List, NormOp, RememberOp, Values, of, of_head, one_of,
    part, rows,
};

impl Attention {
    /// What heads read, as the input of the output's matrix.
    pub(crate) fn list_inner<'m>(&'m self, list: &mut List<'m>) -> Inputs {
        let input = self.input.list(list);
        let names = ["attention q", "attention k", "attention v"];
        let matrices = [&self.in_q, &self.in_k, &self.in_v];
        let mut qkv = [Values::default(); 3];
        for ((y, bias), (name, w)) in
            qkv.iter_mut().zip(&self.biases).zip(names.into_iter().zip(matrices))
        {
            *y = list.project(name, w, input);
            if bias.values().is_some() && self.convs.is_none() {
                list.map(*y, bias.of(*y));
            }
        }
        let [_, k, v] = qkv;
        for (conv, (y, name)) in self.convs.iter().flatten().zip([(k, "conv k"), (v, "conv v")]) {
            let n = list.rows(y);
            let whole = list.place(name, (1, padded(n)), [part(y, (0, 0), 0, n)]);
            conv.list(list, whole);
            list.map(y, rows(whole, 0));
        }
        for (y, adapter) in qkv.iter().zip(self.adapters.iter().flatten()) {
            let names = ["adapter low", "adapter input", "adapter"];
            let more = adapter.list(list, names, input, None);
            list.map(*y, of(*y) + more);
        }
        let gate = self.in_gate.as_ref().map(|w| list.project("attention gate", w, input));
        let [q, k, v] = match &self.compressed {
            None => qkv,
            Some(compressed) => compressed.list(list, qkv),
        };
        if let Some(QkNorm { q: of_q, k: of_k, is_whole }) = &self.qk_norm {
            for (x, weight) in [(q, of_q), (k, of_k)] {
                let over = if *is_whole { list.rows(x) } else { self.d_head };
                list.norm(x, x, NormOp::Rms { weight, eps: self.norm_eps }, over);
            }
        }
        self.rope.list(list, q, self.d_head);
        self.rope.list(list, k, self.d_head);
        let relative = self.relative.as_ref().map(|relative| relative.list(list, input));
        let scale = match &relative {
            Some((_, Some(factor))) => {
                Formula::from(self.scale) * one_of((*factor, 0), list.rows(q))
            }
            _ => self.scale.into(),
        };
        list.map(q, of(q) * scale);
        list.remember(RememberOp { k, v: Some(v), pages: self.pages, block: 1 });
        let chosen = self.index.as_ref().map(|index| index.list(list, (input, &self.rope)));
        let y = list.values("attention", list.rows(q));
        let relative = relative.map(|(relative, _)| relative);
        let (group, pages) = (self.group, self.pages);
        list.attend(AttendOp { q, group, pages, relative, chosen, y });
        let read: Formula<'m> = match gate {
            None => of(y),
            Some(gate) => {
                let each = list.rows(y) / list.rows(gate);
                of(y) * of_head(gate, each).apply(Function::Sigmoid)
            }
        };
        list.pack("attention gated", list.rows(y), read)
    }
}
