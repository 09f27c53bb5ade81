//! Operations that look back, executed: see `ops/past.rs`.

use super::{Columns, Host, bounds};
use crate::kernels::Isa;
use crate::ops::{HeadConvsOp, PastOp};

impl Host {
    pub(super) fn past(&mut self, op: &PastOp, piece: (usize, usize), pass: &mut Columns<'_, '_>) {
        let PastOp { x, window, steps, y } = *op;
        let (own, n) = (self.own(x, piece), self.values[x.0].rows());
        for (run, span) in pass.batch.spans.iter().enumerate() {
            for i in own.clone() {
                let kept = pass.states.get_mut(run, window);
                let before = (0..steps).map(|step| kept[step * n + i]);
                let new = span.clone().map(|c| self.values[x.0].column(c)[i]);
                let all: Vec<f32> = before.chain(new).collect();
                for (c, last) in span.clone().zip(all.windows(steps + 1)) {
                    self.values[y.0].column_mut(c)[i * (steps + 1)..][..=steps]
                        .copy_from_slice(last);
                }
                let last = &all[all.len() - steps..];
                last.iter().enumerate().for_each(|(step, x)| kept[step * n + i] = *x);
            }
        }
    }

    pub(super) fn head_convs(&mut self, op: &HeadConvsOp<'_>, piece: (usize, usize), n: usize) {
        let (isa, convs) = (Isa::scalar(), op.convs);
        let (d, n_key) = (convs.d_head, convs.temperature.len());
        let n_q = convs.n_head * d;
        let (first, end) = bounds(convs.n_head + n_key, piece);
        let mut inputs = vec![0.0; d * convs.d_heads_conv];
        for c in 0..n {
            let past = self.values[op.x.0].column(c);
            // Columns of their own again, the current one first.
            let columns: Vec<Vec<f32>> = (0..=op.steps)
                .map(|step| past.iter().skip(op.steps - step).step_by(op.steps + 1).copied())
                .map(Iterator::collect)
                .collect();
            let mut new = columns[0][..n_q + n_key * d].to_vec();
            let (q, k) = new.split_at_mut(n_q);
            convs.means(isa, q, k);
            for head in first..end {
                let x = &mut new[head * d..(head + 1) * d];
                convs.convolve(isa, head, |steps| &columns[steps][..], &mut inputs, x);
                self.values[op.y.0].column_mut(c)[head * d..(head + 1) * d].copy_from_slice(x);
            }
        }
    }
}
