//! Angles that grow, heads with levels and heads that solve, executed: see `ops/spin.rs`,
//! `ops/levels.rs`, `ops/mesa.rs`.

use super::{Columns, Host};
use crate::kernels::Isa;
use crate::kernels::columns::ColumnsMut;
use crate::kernels::math::sin_cos;
use crate::kernels::recurrence::{Levels, Mesa, log_linear_attention, mesa};
use crate::kernels::rope;
use crate::ops::{LevelsOp, MesaOp, OfHead, SpinOp};

impl Host {
    pub(super) fn spin(&mut self, op: &SpinOp, head: usize, pass: &Columns<'_, '_>) {
        let SpinOp { n_head, n_pair, .. } = *op;
        let at = op.state.len() / n_head * head + op.first;
        for (run, span) in pass.batch.spans.iter().enumerate() {
            let mut angles = pass.states.get(run, op.state)[at..at + n_pair].to_vec();
            for c in span.clone() {
                let step = self.values[op.step.0].column(c)[head];
                let speed = self.values[op.speed.0].column(c)[..n_pair].to_vec();
                let own = &mut self.values[op.y.0].column_mut(c)[3 * head * n_pair..];
                for (i, (angle, speed)) in angles.iter_mut().zip(speed).enumerate() {
                    *angle = rope::grown(*angle, step * speed);
                    let (sin, cos) = sin_cos(f64::from(*angle));
                    (own[i], own[n_pair + i], own[2 * n_pair + i]) = (*angle, cos, sin);
                }
            }
        }
    }

    pub(super) fn levels(&mut self, op: &LevelsOp, head: usize, pass: &mut Columns<'_, '_>) {
        let LevelsOp { n_key, n_value, n_level, .. } = *op;
        let size = n_level * n_key * n_value;
        for (run, span) in pass.batch.spans.iter().enumerate() {
            let view = |of: OfHead, n: usize| {
                let at = of.at(head);
                self.values[of.from.0].view(span.clone(), at..at + n)
            };
            let mut y = vec![0.0; span.len() * n_value];
            let of_span = Levels {
                r: view(op.r, n_key),
                k: view(op.k, n_key),
                v: view(op.v, n_value),
                scale: view(OfHead::own(op.scale, 1), 1),
                decay: view(OfHead::own(op.decay, 1), 1),
                weights: view(OfHead::own(op.weights, n_level), n_level),
                first: pass.states.position(run),
                y: ColumnsMut::whole(&mut y, n_value),
            };
            let shared = pass.states.share(op.state);
            let mut share = shared.take(0);
            let mut state = share.elements(run);
            let own = head * size..(head + 1) * size;
            log_linear_attention(Isa::scalar(), &mut state.part(own), of_span);
            self.set_block(op.y, span.clone(), &(head * n_value..(head + 1) * n_value), &y);
        }
    }

    pub(super) fn mesa(&mut self, op: &MesaOp<'_>, head: usize, pass: &mut Columns<'_, '_>) {
        let (d, rows) = (op.d, head * op.d..(head + 1) * op.d);
        for (run, span) in pass.batch.spans.iter().enumerate() {
            let view = |of: OfHead, n: usize| {
                let at = of.at(head);
                self.values[of.from.0].view(span.clone(), at..at + n)
            };
            let mut y = vec![0.0; span.len() * d];
            let of_span = Mesa {
                q: view(op.q, d),
                k: view(op.k, d),
                v: view(op.v, d),
                decay: view(op.decay, 1),
                beta: view(op.beta, 1),
                lambda: &op.lambda[rows.clone()],
                steps: op.steps,
                y: ColumnsMut::whole(&mut y, d),
            };
            let shared = pass.states.share(op.state);
            let mut share = shared.take(0);
            let mut state = share.elements(run);
            let own = 2 * head * d * d..2 * (head + 1) * d * d;
            mesa(Isa::scalar(), &mut state.part(own), of_span);
            self.set_block(op.y, span.clone(), &rows, &y);
        }
    }
}
