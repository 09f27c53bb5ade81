//! The list, executed on the processor as plainly as it can be done: what every list is tested
//! with, and what a device's kernels are compared with.
//!
//! Products and recurrences are the scalar definitions of `kernels`. Pieces run in the worst order
//! that the stages allow: each chain's last piece first, and the prelude again before every piece.
//! Not here: speed. Test: `tests/operations.rs` over all architectures.

mod attention;
mod cells;
mod chosen;
mod experts;
mod past;
mod place;
mod slots;
mod states;

use std::ops::Range;

use super::formula::Term;
use super::{
    AverageOp, ConvOp, DecayOp, DeltaOp, Formula, HeadsOp, List, NormOp, OfHead, Op, Plan, ScanOp,
    Values, padded,
};
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::columns::{Columns as Viewed, ColumnsMut};
use crate::kernels::conv::{Convolution, causal_conv};
use crate::kernels::forms::GROUP;
use crate::kernels::lanes::{WIDTH, sum_of, update};
use crate::kernels::norm::{inverse_rms, layer_norm_in_place};
use crate::kernels::recurrence::{
    Average, Averaged, Decay, Delta, Read, Scan, Span, linear_attention, selective_scan,
    weighted_average,
};
use crate::stage::Batch;
use crate::state::RunStates;
use crate::team::Split;

/// Blocks that stages are made for: more pieces than a small model has rows would be the same.
const BLOCKS: usize = 4;

/// The buffers of a list.
pub(crate) struct Host {
    values: Vec<Panel>,
    inputs: Vec<ActivationBuffer>,
    /// Of activations of several experts how many, else 0.
    slots: Vec<usize>,
}

/// One pass: the columns, their states, and which logits are wanted.
pub(crate) struct Columns<'a, 'b> {
    pub(crate) batch: Batch<'a>,
    pub(crate) wanted: &'a [usize],
    pub(crate) states: RunStates<'b>,
}

impl Host {
    /// Buffers of `list` for the columns of `workspace`.
    pub(crate) fn new(list: &List<'_>, workspace: &Workspace) -> Host {
        let values = list.values.iter().map(|buffer| Panel::new(buffer.rows, workspace));
        let slots: Vec<usize> =
            list.inputs.iter().map(|b| b.each.map_or(0, |each| b.rows / padded(each))).collect();
        let inputs = list.inputs.iter().zip(&slots).map(|(b, slots)| {
            workspace.times((*slots).max(1), |columns| {
                ActivationBuffer::new(b.each.unwrap_or(b.rows), columns, b.forms)
            })
        });
        Host { values: values.collect(), inputs: inputs.collect(), slots }
    }

    /// Row `i` of the logits.
    pub(crate) fn column(&self, y: Values, i: usize) -> &[f32] {
        self.values[y.0].column(i)
    }

    /// Row `i` of the logits.
    pub(crate) fn column_mut(&mut self, y: Values, i: usize) -> &mut [f32] {
        self.values[y.0].column_mut(i)
    }

    /// Runs all operations.
    pub(crate) fn run(&mut self, list: &List<'_>, columns: &mut Columns<'_, '_>) {
        self.positional(list, columns);
        let mut n = columns.batch.columns;
        let plan = if n == 1 { Plan::one(132) } else { Plan::many(BLOCKS) };
        for stage in list.stages(&plan) {
            let is_gather = |op: &usize| matches!(list.ops[*op], Op::Gather { .. });
            let mut all = stage.prelude.iter().chain(stage.chains.iter().flat_map(|c| &c.ops));
            if all.any(is_gather) {
                n = columns.wanted.len();
            }
            for chain in stage.chains.iter().rev() {
                for piece in (0..chain.pieces).rev() {
                    for op in &stage.prelude {
                        self.op(&list.ops[*op], (0, 1), n, columns);
                    }
                    for op in &chain.ops {
                        self.op(&list.ops[*op], (piece, chain.pieces), n, columns);
                    }
                }
            }
            if stage.chains.is_empty() {
                for op in &stage.prelude {
                    self.op(&list.ops[*op], (0, 1), n, columns);
                }
            }
        }
    }

    /// One piece of an operation on the first `n` columns.
    fn op(&mut self, op: &Op<'_>, piece: (usize, usize), n: usize, pass: &mut Columns<'_, '_>) {
        let isa = Isa::scalar();
        match op {
            Op::Embed { table, y } => {
                for (c, token) in pass.batch.tokens.iter().enumerate() {
                    let y = &mut self.values[y.0].column_mut(c)[..table.cols()];
                    table.row(*token as usize, y);
                }
            }
            Op::Gather { x, y } => {
                for (i, c) in pass.wanted.iter().enumerate() {
                    let x = self.values[x.0].column(*c).to_vec();
                    self.values[y.0].column_mut(i).copy_from_slice(&x);
                }
            }
            Op::Map { f, y } | Op::Fold { f, y } => {
                let own = self.own(*y, piece);
                for c in 0..n {
                    let new = self.elements(f, own.clone(), c, pass);
                    self.values[y.0].column_mut(c)[own.clone()].copy_from_slice(&new);
                }
            }
            Op::Sum { f, over, y } => {
                for c in 0..n {
                    for i in self.own(*y, piece) {
                        let all = self.elements(f, i * over..(i + 1) * over, c, pass);
                        self.values[y.0].column_mut(c)[i] = sum_of(&all, |x| x);
                    }
                }
            }
            Op::Norm { x, norm, over, y } => {
                for c in 0..n {
                    for at in self.own(*y, piece).step_by(*over) {
                        let own = at..at + over;
                        let mut new = self.values[x.0].column(c)[own.clone()].to_vec();
                        apply_norm(norm, &mut new, own.clone());
                        self.values[y.0].column_mut(c)[own].copy_from_slice(&new);
                    }
                }
            }
            Op::Pack { f, y } if self.slots[y.0] > 0 => {
                self.pack_of_experts((f, *y), (n, piece), pass);
            }
            Op::Pack { f, y } => {
                let k = self.inputs[y.0].k();
                let split = Split::new(k, GROUP, piece.1);
                let own = split.range(piece.0);
                let all: Vec<Vec<f32>> =
                    (0..n).map(|c| self.elements(f, own.start..own.end.min(k), c, pass)).collect();
                let shared = self.inputs[y.0].share_rows(n, split);
                let mut acts = shared.take(piece.0);
                for (c, all) in all.iter().enumerate() {
                    acts.fill(isa, c, |rows, out| {
                        out.copy_from_slice(&all[rows.start - own.start..rows.end - own.start]);
                    });
                }
            }
            Op::Project { w, x, y } => {
                let rows = self.values[y.0].rows();
                let shared = self.values[y.0].share_rows(n, Split::new(rows, WIDTH, piece.1));
                w.matmul(isa, &self.inputs[x.0], &mut shared.take(piece.0));
            }
            Op::Keep { x, state } => {
                let own = self.own(*x, piece);
                for (run, span) in pass.batch.spans.iter().enumerate() {
                    let last = &self.values[x.0].column(span.end - 1)[own.clone()];
                    pass.states.get_mut(run, *state)[own.clone()].copy_from_slice(last);
                }
            }
            Op::Conv(conv) => self.conv(conv, piece, pass),
            Op::Heads(heads) => {
                let (first, end) = bounds(heads.n_head, piece);
                (first..end).for_each(|head| self.head(heads, head, pass));
            }
            Op::Scan(scan) => self.scan(scan, piece, pass),
            Op::Average(average) => self.average(average, piece, pass),
            Op::Turn(turn) => self.turn(turn, piece, n),
            Op::Remember(remember) => self.remember(remember, piece, pass),
            Op::Attend(attend) => self.attend(attend, piece, pass),
            Op::Exact(exact) => self.exact(exact, piece, n),
            Op::Choose(choose) => self.choose(choose, n),
            Op::Experts(experts) => self.experts(experts, piece, n),
            Op::Slots(slots) => {
                let (first, end) = bounds(slots.n_head, piece);
                (first..end).for_each(|head| self.slots(slots, head, pass));
            }
            Op::Spin(spin) => {
                let (first, end) = bounds(spin.n_head, piece);
                (first..end).for_each(|head| self.spin(spin, head, pass));
            }
            Op::Levels(levels) => {
                let (first, end) = bounds(levels.n_head, piece);
                (first..end).for_each(|head| self.levels(levels, head, pass));
            }
            Op::Spread(spread) => self.spread(spread, piece, n),
            Op::Mesa(mesa) => {
                let (first, end) = bounds(mesa.n_head, piece);
                (first..end).for_each(|head| self.mesa(mesa, head, pass));
            }
            Op::Cells(cells) => self.cells(cells, pass),
            Op::Ngrams(ngrams) => self.ngrams(ngrams, pass),
            Op::Best(best) => self.best(best, pass),
            Op::Past(past) => self.past(past, piece, pass),
            Op::HeadConvs(convs) => self.head_convs(convs, piece, n),
            Op::Place(place) => self.place(place, piece, n),
            Op::Blocks(blocks) => self.blocks(blocks, piece, n),
        }
    }

    /// The rows of a piece.
    fn own(&self, y: Values, piece: (usize, usize)) -> Range<usize> {
        let (first, end) = bounds(self.values[y.0].rows(), piece);
        first..end
    }

    /// The elements of a formula.
    fn elements(
        &self,
        f: &Formula<'_>,
        rows: Range<usize>,
        c: usize,
        pass: &Columns<'_, '_>,
    ) -> Vec<f32> {
        let value = |i: usize, term: &Term<'_>| match *term {
            Term::Values { from, first, each } => self.values[from.0].column(c)[first + i / each],
            Term::Weights { from, each } => from[i / each],
            Term::Number(number) => number,
            Term::Before { from, state } => {
                let run = pass.batch.runs[c];
                match pass.batch.spans[run].start == c {
                    true => pass.states.get(run, state)[i],
                    false => self.values[from.0].column(c - 1)[i],
                }
            }
        };
        rows.map(|i| f.value(|term| value(i, term))).collect()
    }

    /// The rows of some columns, one column behind the other.
    fn block(
        &self,
        x: Values,
        columns: impl Iterator<Item = usize>,
        rows: &Range<usize>,
    ) -> Vec<f32> {
        let panel = &self.values[x.0];
        columns.flat_map(|c| panel.column(c)[rows.clone()].to_vec()).collect()
    }

    /// Overwrites what [`Host::block`] gives.
    fn set_block(
        &mut self,
        y: Values,
        columns: impl Iterator<Item = usize>,
        rows: &Range<usize>,
        new: &[f32],
    ) {
        for (c, new) in columns.zip(new.chunks_exact(rows.len())) {
            self.values[y.0].column_mut(c)[rows.clone()].copy_from_slice(new);
        }
    }

    fn conv(&mut self, conv: &ConvOp<'_>, piece: (usize, usize), pass: &mut Columns<'_, '_>) {
        let (n, tap) = (conv.bias.len(), conv.n_tap());
        for (run, span) in pass.batch.spans.iter().enumerate() {
            for at in self.own(conv.y, piece).step_by(WIDTH) {
                let (own, of) = (at..at + WIDTH, at % n..at % n + WIDTH);
                let columns = self.seen(conv.seen.map(|seen| (seen, at / n)), span);
                let mut x = self.block(conv.y, columns.iter().copied(), &own);
                let windows = pass.states.get_mut(run, conv.window);
                let convolution = Convolution {
                    windows: &mut windows[own.start * (tap - 1)..own.end * (tap - 1)],
                    taps: &conv.taps[of.start * tap..of.end * tap],
                    bias: &conv.bias[of],
                    x: ColumnsMut::whole(&mut x, WIDTH),
                };
                causal_conv(Isa::scalar(), convolution);
                self.set_block(conv.y, columns.into_iter(), &own, &x);
            }
        }
    }

    /// The columns of a run where number `i` of a buffer is not 0; without one all.
    fn seen(&self, seen: Option<(Values, usize)>, span: &Range<usize>) -> Vec<usize> {
        let is_seen =
            |c: &usize| seen.is_none_or(|(seen, i)| self.values[seen.0].column(*c)[i] != 0.0);
        span.clone().filter(is_seen).collect()
    }

    fn head(&mut self, heads: &HeadsOp<'_>, head: usize, pass: &mut Columns<'_, '_>) {
        let HeadsOp { n_key, n_value, steps, .. } = *heads;
        for (run, span) in pass.batch.spans.iter().enumerate() {
            let seen = self.seen(heads.seen.map(|(seen, each)| (seen, head / each)), span);
            // Steps of a token are as columns of their own.
            let gather = |of: OfHead, n: usize| -> Vec<f32> {
                let (panel, at) = (&self.values[of.from.0], of.at(head));
                let own = panel.rows() / steps;
                let each = seen.iter().flat_map(|c| (0..steps).map(move |step| (*c, step)));
                each.flat_map(|(c, step)| &panel.column(c)[step * own + at..][..n])
                    .copied()
                    .collect()
            };
            let number = |x: Values| gather(OfHead::own(x, 1), 1);
            let columns = seen.len() * steps;
            let [r, k] = [heads.r, heads.k].map(|of| gather(of, n_key));
            let (v, scale) = (gather(heads.v, n_value), heads.scale.map(number));
            let decay = match heads.decay {
                DecayOp::PerHead(decay) => number(decay),
                DecayOp::PerKey(decay) => gather(decay, n_key),
            };
            let delta = heads.delta.map(|delta| match delta {
                DeltaOp::General { a, b } => [gather(a, n_key), gather(b, n_key)],
                DeltaOp::Rule { factor } => [number(factor), Vec::new()],
            });
            let view = |x, n| Viewed::new(x, n, 0..columns, 0..n);
            let mut y = vec![0.0; columns * n_value];
            let of_span = Span {
                r: view(&r, n_key),
                k: view(&k, n_key),
                v: view(&v, n_value),
                scale: scale.as_ref().map(|scale| view(scale, 1)),
                decay: match heads.decay {
                    DecayOp::PerHead(_) => Decay::PerHead(view(&decay, 1)),
                    DecayOp::PerKey(_) => Decay::PerKey(view(&decay, n_key)),
                },
                delta: heads.delta.zip(delta.as_ref()).map(|(delta, [a, b])| match delta {
                    DeltaOp::General { .. } => {
                        Delta::General { a: view(a, n_key), b: view(b, n_key) }
                    }
                    DeltaOp::Rule { .. } => Delta::Rule { factor: view(a, 1) },
                }),
                read: match heads.bonus {
                    None => Read::After,
                    Some(bonus) => Read::Before { bonus: &bonus[head * n_key..][..n_key] },
                },
                y: ColumnsMut::whole(&mut y, n_value),
            };
            let shared = pass.states.share(heads.state);
            let mut share = shared.take(0);
            let mut state = share.elements(run);
            let own = head * n_key * n_value..(head + 1) * n_key * n_value;
            linear_attention(Isa::scalar(), &mut state.part(own), of_span);
            let own = self.values[heads.y.0].rows() / steps;
            if heads.seen.is_some() {
                let nothing = vec![0.0; span.len() * n_value];
                let rows = head * n_value..(head + 1) * n_value;
                self.set_block(heads.y, span.clone(), &rows, &nothing);
            }
            for (c, y) in seen.into_iter().zip(y.chunks_exact(steps * n_value)) {
                for (step, y) in y.chunks_exact(n_value).enumerate() {
                    let at = step * own + head * n_value;
                    self.values[heads.y.0].column_mut(c)[at..at + n_value].copy_from_slice(y);
                }
            }
        }
    }

    fn scan(&mut self, scan: &ScanOp<'_>, piece: (usize, usize), pass: &mut Columns<'_, '_>) {
        let own = self.own(scan.x, piece);
        let states = own.start * scan.d_state..own.end * scan.d_state;
        for (run, span) in pass.batch.spans.iter().enumerate() {
            let mut delta_y = self.block(scan.delta_y, span.clone(), &own);
            let b_c = &self.values[scan.b_c.0];
            let of_span = Scan {
                a: &scan.a[states.clone()],
                d: &scan.d[own.clone()],
                x: self.values[scan.x.0].view(span.clone(), own.clone()),
                b_c: b_c.view(span.clone(), 0..b_c.rows()),
                d_state: scan.d_state,
                d_head: scan.d_head,
                first: own.start,
                delta_y: ColumnsMut::whole(&mut delta_y, own.len()),
            };
            let shared = pass.states.share(scan.state);
            let mut share = shared.take(0);
            let mut state = share.elements(run);
            selective_scan(Isa::scalar(), &mut state.part(states.clone()), of_span);
            self.set_block(scan.delta_y, span.clone(), &own, &delta_y);
        }
    }

    fn average(
        &mut self,
        average: &AverageOp<'_>,
        piece: (usize, usize),
        pass: &mut Columns<'_, '_>,
    ) {
        let own = self.own(average.y, piece);
        for (run, span) in pass.batch.spans.iter().enumerate() {
            let mut y = vec![0.0; span.len() * own.len()];
            let shared = pass.states.share_each(average.state);
            let mut shares = shared.each_ref().map(|shared| shared.take(0));
            let [num, den, max] = shares.each_mut().map(|share| &mut share.get(run)[own.clone()]);
            let averaged = Averaged {
                k: self.values[average.k.0].view(span.clone(), own.clone()),
                v: self.values[average.v.0].view(span.clone(), own.clone()),
                decay: &average.decay[own.clone()],
                bonus: &average.bonus[own.clone()],
                y: ColumnsMut::whole(&mut y, own.len()),
            };
            weighted_average(Isa::scalar(), &mut Average { num, den, max }, averaged);
            self.set_block(average.y, span.clone(), &own, &y);
        }
    }
}

/// Where the part of a piece of `n` begins and ends.
fn bounds(n: usize, (piece, pieces): (usize, usize)) -> (usize, usize) {
    debug_assert!(n.is_multiple_of(pieces), "{n} in {pieces} pieces");
    (n * piece / pieces, n * (piece + 1) / pieces)
}

/// x = norm(x), which are the elements `own`.
fn apply_norm(norm: &NormOp<'_>, x: &mut [f32], own: Range<usize>) {
    match norm {
        NormOp::Layer { weight, bias, eps } => {
            layer_norm_in_place(x, &weight[own.clone()], &bias[own], *eps);
        }
        NormOp::Rms { weight, eps } => {
            let inverse = inverse_rms(x, *eps);
            let weight = if weight.len() == x.len() { *weight } else { &weight[own] };
            update(x, weight, |x, w| x * inverse * w);
        }
    }
}
