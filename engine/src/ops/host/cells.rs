//! Cells, executed: see `ops/cells.rs`.

use super::{Columns, Host};
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::forms::GROUP;
use crate::kernels::lanes::{WIDTH, update};
use crate::kernels::recurrence::{gru, lstm};
use crate::ops::CellsOp;
use crate::team::Split;

impl Host {
    pub(super) fn cells(&mut self, op: &CellsOp<'_>, pass: &mut Columns<'_, '_>) {
        let (isa, one) = (Isa::scalar(), Workspace::new(1));
        let (rows, d) = (op.w.rows(), op.w.cols());
        let mut input = ActivationBuffer::new(d, &one, op.w.forms());
        let mut before = Panel::new(rows, &one);
        for (run, span) in pass.batch.spans.iter().enumerate() {
            let mut h = pass.states.get_mut(run, op.hidden).to_vec();
            for c in span.clone() {
                input.share_rows(1, Split::new(d, GROUP, 1)).take(0).fill(isa, 0, |rows, out| {
                    out.copy_from_slice(&h[rows]);
                });
                let shared = before.share_rows(1, Split::new(rows, WIDTH, 1));
                op.w.matmul(isa, &input, &mut shared.take(0));
                if let Some(bias) = op.bias {
                    update(before.column_mut(0), bias, |y, b| y + b);
                }
                let gates = [self.values[op.x.0].column(c), before.column(0)];
                match op.kept {
                    Some(kept) => lstm(isa, gates, pass.states.get_mut(run, kept), &mut h),
                    None => gru(isa, gates, &mut h),
                }
                self.values[op.y.0].column_mut(c).copy_from_slice(&h);
            }
            pass.states.get_mut(run, op.hidden).copy_from_slice(&h);
        }
    }
}
