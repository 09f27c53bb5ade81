//! Slots, executed: see `ops/slots.rs`.

use super::{Columns, Host};
use crate::kernels::Isa;
use crate::kernels::columns::ColumnsMut;
use crate::kernels::recurrence::{Slots, shares, slots};
use crate::ops::{OfHead, SlotsOp};

impl Host {
    pub(super) fn slots(&mut self, op: &SlotsOp, head: usize, pass: &mut Columns<'_, '_>) {
        let (isa, size) = (Isa::scalar(), op.n_key * op.n_slot);
        for (run, span) in pass.batch.spans.iter().enumerate() {
            let view = |of: OfHead, n: usize| {
                let at = of.at(head);
                self.values[of.from.0].view(span.clone(), at..at + n)
            };
            let mut y = vec![0.0; span.len() * op.n_slot];
            let of_span = Slots {
                q: view(op.q, op.n_key),
                k: view(op.k, op.n_key),
                share: view(op.share, op.n_slot),
                decay: view(op.decay, op.n_slot),
                scores: ColumnsMut::whole(&mut y, op.n_slot),
            };
            let shared = pass.states.share(op.state);
            let mut share = shared.take(0);
            let mut state = share.elements(run);
            slots(isa, &mut state.part(head * size..(head + 1) * size), of_span);
            y.chunks_exact_mut(op.n_slot).for_each(|scores| shares(isa, scores));
            self.set_block(op.y, span.clone(), &(head * op.n_slot..(head + 1) * op.n_slot), &y);
        }
    }
}
