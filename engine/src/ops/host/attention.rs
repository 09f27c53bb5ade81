//! Attention, executed: see `ops/attention.rs`.

use super::{Columns, Host, bounds};
use crate::kernels::Isa;
use crate::kernels::attention::Attention;
use crate::kernels::chosen::Chosen;
use crate::kernels::columns::ColumnsMut;
use crate::kernels::kept::{KeysOrValues, PAGE, remember};
use crate::kernels::relative::Relative;
use crate::kernels::rope;
use crate::ops::{AttendOp, List, RelativeOp, RememberOp, TurnOp};

impl Host {
    /// Fills the buffers of what depends on positions alone.
    pub(super) fn positional(&mut self, list: &List<'_>, pass: &Columns<'_, '_>) {
        for (values, of) in &list.positional {
            for (run, span) in pass.batch.spans.iter().enumerate() {
                for c in span.clone() {
                    let position = pass.states.position(run) + c - span.start;
                    of.fill(position, self.values[values.0].column_mut(c));
                }
            }
        }
    }

    pub(super) fn turn(&mut self, turn: &TurnOp, piece: (usize, usize), n: usize) {
        let own = self.own(turn.x, piece);
        for c in 0..n {
            let angles = self.values[turn.angles.0].column(c).to_vec();
            let x = self.values[turn.x.0].column_mut(c);
            let n_pair = turn.n_pair(angles.len(), x.len() / turn.d_head);
            let first = own.start / turn.d_head;
            for (i, x) in x[own.clone()].chunks_exact_mut(turn.d_head).enumerate() {
                if !turn.is_own {
                    rope::turn(x, &angles);
                    continue;
                }
                let (cos, sin) = angles[(3 * (first + i) + 1) * n_pair..].split_at(n_pair);
                for (pair, (cos, sin)) in x.chunks_exact_mut(2).zip(cos.iter().zip(sin)) {
                    (pair[0], pair[1]) = rope::turned([pair[0], pair[1]], [*cos, *sin]);
                }
            }
        }
    }

    pub(super) fn remember(
        &mut self,
        op: &RememberOp,
        piece: (usize, usize),
        pass: &mut Columns<'_, '_>,
    ) {
        let RememberOp { k, v, pages, block } = *op;
        let (d, (first, end)) = (pages.d_head, bounds(pages.n_head(), piece));
        for (run, span) in pass.batch.spans.iter().enumerate() {
            let shared = pass.states.share_pages(pages);
            let mut share = shared.take(0);
            for (head, c) in (first..end).flat_map(|head| span.clone().map(move |c| (head, c))) {
                let position = share.position(run) + c - span.start;
                if !(position + 1).is_multiple_of(block) {
                    continue;
                }
                let token = position / block;
                let page = share.page_mut(run, head, token / PAGE);
                for (part, x) in [(KeysOrValues::Keys, Some(k)), (KeysOrValues::Values, v)] {
                    let Some(x) = x else { continue };
                    let x = self.values[x.0].column(c);
                    // All heads may have the same keys.
                    let at = if x.len() == d { 0 } else { head * d };
                    let isa = Isa::scalar();
                    remember(isa, pages.dtype, page, (token % PAGE, part), &x[at..at + d]);
                }
            }
        }
    }

    pub(super) fn attend(
        &mut self,
        op: &AttendOp<'_>,
        piece: (usize, usize),
        pass: &mut Columns<'_, '_>,
    ) {
        let AttendOp { q, group, pages, relative, chosen, y } = *op;
        let (d, (first, end)) = (pages.d_head, bounds(group * pages.n_head(), piece));
        for (run, span) in pass.batch.spans.iter().enumerate() {
            let shared = pass.states.share_pages(pages);
            let share = shared.take(0);
            for head in first..end {
                let rows = head * d..(head + 1) * d;
                let mut q = self.block(q, span.clone(), &rows);
                let mut new = vec![0.0; q.len()];
                Isa::scalar().run_lanes(Attention {
                    q: ColumnsMut::whole(&mut q, d).view(),
                    d_head: d,
                    first: share.position(run),
                    relative: relative.map(|RelativeOp { mix, n, profiles }| Relative {
                        mix: self.values[mix.0].view(span.clone(), head * n..(head + 1) * n),
                        n,
                        profiles,
                    }),
                    chosen: chosen.map(|(blocks, size)| {
                        let blocks = &self.values[blocks.0];
                        Chosen { blocks: blocks.view(span.clone(), 0..blocks.rows()), size }
                    }),
                    window: pages.window.last,
                    beginning: pages.window.first,
                    dtype: pages.dtype,
                    page: |page| share.page(run, head / group, page),
                    y: ColumnsMut::whole(&mut new, d),
                });
                self.set_block(y, span.clone(), &rows, &new);
            }
        }
    }
}
