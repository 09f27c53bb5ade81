//! Operations by the tokens themselves, executed: see `ops/chosen.rs`.

use super::{Columns, Host};
use crate::kernels::Isa;
use crate::kernels::chosen::Choose;
use crate::ops::{BestOp, NgramsOp};

impl Host {
    pub(super) fn ngrams(&mut self, op: &NgramsOp<'_>, pass: &mut Columns<'_, '_>) {
        for (run, span) in pass.batch.spans.iter().enumerate() {
            let before = pass.states.get_mut(run, op.tokens);
            let new = pass.batch.tokens[span.clone()].iter().map(|token| *token as f32);
            let all: Vec<f32> = before.iter().copied().chain(new).collect();
            let n = before.len();
            for (c, at) in span.clone().zip(n..) {
                let rows = op.hashes.rows_of(|j| all[at - j] as i64);
                let y = self.values[op.y.0].column_mut(c);
                for (row, y) in rows.zip(y.chunks_exact_mut(op.table.cols())) {
                    op.table.row(row, y);
                }
            }
            before.copy_from_slice(&all[all.len() - n..]);
        }
    }

    pub(super) fn best(&mut self, op: &BestOp, pass: &mut Columns<'_, '_>) {
        for (run, span) in pass.batch.spans.iter().enumerate() {
            let shared = pass.states.share_pages(op.pages);
            let share = shared.take(0);
            for c in span.clone() {
                let q = self.values[op.q.0].column(c).to_vec();
                let blocks = self.values[op.y.0].column_mut(c);
                Isa::scalar().run_lanes(Choose {
                    q: &q,
                    d: op.pages.d_head,
                    n: (share.position(run) + c - span.start + 1) / op.size,
                    dtype: op.pages.dtype,
                    page: |page| share.page(run, 0, page),
                    best: &mut vec![0.0; blocks.len()],
                    blocks,
                });
            }
        }
    }
}
