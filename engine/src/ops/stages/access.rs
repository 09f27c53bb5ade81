//! What an operation reads, writes and costs, for the stages that it may stand in.

use super::super::formula::Term;
use super::super::{
    AttendOp, BestOp, BlocksOp, DecayOp, DeltaOp, ExpertsOp, Formula, HeadConvsOp, List, OfHead,
    Op, PastOp, PlaceOp, RememberOp, Values,
};
use super::{Plan, Thing};
use crate::kernels::forms::GROUP;
use crate::kernels::lanes::WIDTH;
use crate::state::SlotRef;

/// Bytes that a block reads in the time of a step of a formula for one element.
const STEP_BYTES: usize = 4;
/// Bytes that a head reads of its pages, as far as anybody knows.
const ATTEND_BYTES: usize = 256 << 10;
/// Steps of a formula that choosing experts takes for each of them.
const CHOICE_STEPS: usize = 8;
/// Steps of a formula that a sine or cosine of an angle takes.
const SPIN_STEPS: usize = 16;
/// The most elements of a norm that every block computes for itself.
const REPEATED_NORM: usize = 1 << 14;

/// Reads, writes and costs of an operation.
#[derive(Debug, Default)]
pub(super) struct Access {
    /// Each with whether a piece reads its own rows alone.
    pub(super) reads: Vec<(Thing, bool)>,
    pub(super) writes: Vec<Thing>,
    /// The most pieces that it can be cut into.
    pub(super) pieces: usize,
    pub(super) bytes: usize,
    /// Every block may compute it for itself: at all, and if it reads nothing of the kind.
    pub(super) is_small: bool,
    pub(super) is_alone_small: bool,
    /// Its last piece has fewer rows: where there is more than one, nothing joins it.
    pub(super) is_uneven: bool,
    /// It goes through the columns of a run one after the other.
    pub(super) is_serial: bool,
    /// It multiplies by a matrix.
    pub(super) is_product: bool,
}

impl From<SlotRef> for Thing {
    fn from(slot: SlotRef) -> Thing {
        Thing::State(slot.lines().start)
    }
}

impl Access {
    fn reads(&self, thing: Thing) -> bool {
        self.reads.iter().any(|(read, _)| *read == thing)
    }

    /// Whether it reads what `other` writes.
    pub(super) fn needs(&self, other: &Access) -> bool {
        other.writes.iter().any(|thing| self.reads(*thing))
    }

    /// Whether it reads of what `other` writes its own rows alone.
    pub(super) fn needs_own(&self, other: &Access) -> bool {
        let is_own = |(thing, own): &(Thing, bool)| *own || !other.writes.contains(thing);
        self.reads.iter().all(is_own)
    }

    /// Whether it writes what `other` reads or writes.
    pub(super) fn disturbs(&self, other: &Access) -> bool {
        self.writes.iter().any(|thing| other.reads(*thing) || other.writes.contains(thing))
    }

    /// Whether another piece of it may disturb `other` in a chain with it.
    pub(super) fn disturbs_all(&self, other: &Access) -> bool {
        let is_all = |thing: &Thing| other.reads.contains(&(*thing, false));
        self.writes.iter().any(is_all)
    }

    /// Whether it writes what it reads.
    pub(super) fn disturbs_own(&self) -> bool {
        self.writes.iter().any(|thing| self.reads(*thing))
    }

    fn state(&mut self, slot: SlotRef) {
        self.reads.push((slot.into(), true));
        self.writes.push(slot.into());
    }

    /// A state that is read and written whole, which is what the operation costs.
    fn whole_state(&mut self, slot: SlotRef) {
        self.state(slot);
        self.bytes = 2 * slot.bytes();
    }

    fn values(&mut self, values: Values, own: bool) {
        self.reads.push((Thing::Values(values), own));
    }
}

impl<'m> List<'m> {
    /// What an operation reads, writes and costs.
    pub(super) fn access(&self, op: &Op<'m>, plan: &Plan) -> Access {
        let rows = |values: Values| self.rows(values);
        // Whether each of so many heads has rows of its own.
        let is_own =
            |of: OfHead, n: usize| of.first == 0 && of.share == 1 && rows(of.from) == of.step * n;
        let mut a = Access { is_alone_small: true, ..Access::default() };
        a.is_product = matches!(op, Op::Project { .. });
        a.is_serial = matches!(
            op,
            Op::Fold { .. }
                | Op::Keep { .. }
                | Op::Conv(_)
                | Op::Heads(_)
                | Op::Scan(_)
                | Op::Average(_)
                | Op::Slots(_)
                | Op::Spin(_)
                | Op::Levels(_)
                | Op::Mesa(_)
                | Op::Past(_)
                | Op::Ngrams(_)
                | Op::Cells(_)
        );
        match op {
            Op::Embed { y, .. } => {
                a.writes.push(Thing::Values(*y));
                (a.pieces, a.is_small) = (1, true);
            }
            Op::Gather { x, y } => {
                a.values(*x, true);
                a.writes.push(Thing::Values(*y));
                (a.pieces, a.is_small) = (fine(rows(*y)), true);
            }
            Op::Map { f, y } | Op::Fold { f, y } => {
                self.formula(&mut a, f, rows(*y));
                a.writes.push(Thing::Values(*y));
                let steps = rows(*y) * f.steps().len();
                (a.pieces, a.bytes) = (fine(rows(*y)), steps * STEP_BYTES);
                a.is_small = steps <= plan.repeated_steps;
                a.is_alone_small = rows(*y) <= plan.repeated_elements;
            }
            Op::Sum { f, over, y } => {
                self.formula(&mut a, f, rows(*y) * over);
                a.writes.push(Thing::Values(*y));
                let steps = rows(*y) * over * f.steps().len();
                (a.pieces, a.bytes) = (rows(*y), steps * STEP_BYTES);
                a.is_small = steps <= plan.repeated_steps;
                a.is_alone_small = rows(*y) * over <= plan.repeated_elements;
            }
            Op::Norm { x, over, y, .. } => {
                a.values(*x, true);
                a.writes.push(Thing::Values(*y));
                (a.pieces, a.is_small) = (rows(*y) / over, rows(*y) <= REPEATED_NORM);
            }
            Op::Pack { f, y } => {
                let k = self.k(*y);
                self.formula(&mut a, f, k);
                a.writes.push(Thing::Inputs(*y));
                a.pieces = if k.is_multiple_of(GROUP) { k / GROUP } else { 1 };
                let steps = k * f.steps().len();
                a.bytes = steps * STEP_BYTES;
                a.is_small = steps <= plan.repeated_steps;
            }
            Op::Project { w, x, y } => {
                a.reads.push((Thing::Inputs(*x), false));
                a.writes.push(Thing::Values(*y));
                a.is_uneven = !rows(*y).is_multiple_of(WIDTH);
                a.pieces = rows(*y).div_ceil(WIDTH);
                a.bytes = w.len();
            }
            Op::Keep { x, state } => {
                a.values(*x, true);
                a.writes.push((*state).into());
                a.pieces = fine(rows(*x));
            }
            Op::Conv(conv) => {
                a.values(conv.y, true);
                conv.seen.iter().for_each(|seen| a.values(*seen, false));
                a.whole_state(conv.window);
                a.writes.push(Thing::Values(conv.y));
                a.pieces = rows(conv.y) / WIDTH;
            }
            Op::Heads(heads) => {
                let n = heads.n_head;
                let mut of_head = |of: OfHead| {
                    a.values(of.from, heads.steps == 1 && is_own(of, n));
                };
                [heads.r, heads.k, heads.v].into_iter().for_each(&mut of_head);
                if let DecayOp::PerKey(decay) = heads.decay {
                    of_head(decay);
                }
                if let Some(DeltaOp::General { a, b }) = heads.delta {
                    [a, b].into_iter().for_each(&mut of_head);
                }
                let mut number =
                    |values: Values| a.values(values, rows(values) == n && heads.steps == 1);
                heads.scale.into_iter().for_each(&mut number);
                if let DecayOp::PerHead(decay) = heads.decay {
                    number(decay);
                }
                if let Some(DeltaOp::Rule { factor }) = heads.delta {
                    number(factor);
                }
                heads.seen.iter().for_each(|(seen, _)| a.values(*seen, false));
                a.whole_state(heads.state);
                a.writes.push(Thing::Values(heads.y));
                a.pieces = n;
            }
            Op::Slots(slots) => {
                for of in [slots.q, slots.k, slots.share, slots.decay] {
                    a.values(of.from, is_own(of, slots.n_head));
                }
                a.whole_state(slots.state);
                a.writes.push(Thing::Values(slots.y));
                a.pieces = slots.n_head;
            }
            Op::Spin(spin) => {
                a.values(spin.step, true);
                a.values(spin.speed, false);
                a.reads.push((spin.state.into(), true));
                a.writes.push(Thing::Values(spin.y));
                a.pieces = spin.n_head;
                a.bytes = rows(spin.y) * SPIN_STEPS * STEP_BYTES;
            }
            Op::Levels(levels) => {
                for of in [levels.r, levels.k, levels.v] {
                    a.values(of.from, is_own(of, levels.n_head));
                }
                a.values(levels.scale, true);
                a.values(levels.decay, true);
                a.values(levels.weights, rows(levels.weights) == levels.n_head * levels.n_level);
                a.whole_state(levels.state);
                a.writes.push(Thing::Values(levels.y));
                a.pieces = levels.n_head;
            }
            Op::Spread(spread) => {
                a.values(spread.chosen, false);
                a.values(spread.from, false);
                a.writes.push(Thing::Values(spread.y));
                (a.pieces, a.bytes) = (rows(spread.y), rows(spread.y) * STEP_BYTES);
            }
            Op::Mesa(mesa) => {
                for of in [mesa.q, mesa.k, mesa.v, mesa.decay, mesa.beta] {
                    a.values(of.from, is_own(of, mesa.n_head));
                }
                a.whole_state(mesa.state);
                // Every step reads the half with keys.
                a.bytes += mesa.steps * mesa.state.bytes() / 2;
                a.writes.push(Thing::Values(mesa.y));
                a.pieces = mesa.n_head;
            }
            Op::Past(PastOp { x, window, steps, y }) => {
                a.values(*x, true);
                a.state(*window);
                a.writes.push(Thing::Values(*y));
                (a.pieces, a.bytes) = (fine(rows(*x)), rows(*x) * steps * STEP_BYTES);
            }
            Op::Cells(cells) => {
                a.values(cells.x, false);
                a.state(cells.hidden);
                cells.kept.into_iter().for_each(|kept| a.state(kept));
                a.writes.extend([cells.before, cells.y].map(Thing::Values));
                a.writes.push(Thing::Inputs(cells.input));
                (a.pieces, a.bytes) = (1, cells.w.len());
            }
            Op::Ngrams(ngrams) => {
                a.state(ngrams.tokens);
                a.writes.push(Thing::Values(ngrams.y));
                (a.pieces, a.bytes) = (1, rows(ngrams.y) * STEP_BYTES);
            }
            Op::Best(BestOp { q, pages, y, .. }) => {
                a.values(*q, false);
                a.reads.push((Thing::Pages(pages.place()), false));
                a.writes.push(Thing::Values(*y));
                (a.pieces, a.bytes) = (1, ATTEND_BYTES);
            }
            // A head of keys reads the queries of its group.
            Op::HeadConvs(HeadConvsOp { convs, x, y, .. }) => {
                a.values(*x, false);
                a.writes.push(Thing::Values(*y));
                (a.pieces, a.bytes) = (rows(*y) / convs.d_head, size_of_val(convs.heads));
            }
            Op::Scan(scan) => {
                a.values(scan.x, true);
                a.values(scan.delta_y, true);
                a.values(scan.b_c, false);
                a.whole_state(scan.state);
                a.writes.push(Thing::Values(scan.delta_y));
                a.pieces = rows(scan.x) / WIDTH;
            }
            Op::Average(average) => {
                a.values(average.k, true);
                a.values(average.v, true);
                average.state.into_iter().for_each(|slot| a.state(slot));
                a.writes.push(Thing::Values(average.y));
                a.pieces = fine(rows(average.y));
            }
            Op::Turn(turn) => {
                a.values(turn.x, true);
                a.values(turn.angles, turn.is_own);
                a.writes.push(Thing::Values(turn.x));
                a.pieces = rows(turn.x) / turn.d_head;
                a.bytes = 2 * rows(turn.x) * STEP_BYTES;
            }
            Op::Remember(RememberOp { k, v, pages, .. }) => {
                let n = pages.n_head() * pages.d_head;
                a.values(*k, rows(*k) == n);
                v.iter().for_each(|v| a.values(*v, true));
                a.writes.push(Thing::Pages(pages.place()));
                a.pieces = pages.n_head();
                a.bytes = n * STEP_BYTES;
            }
            // Heads that share keys stand in different pieces: they wait for those that keep them.
            Op::Attend(AttendOp { q, group, pages, relative, chosen, y }) => {
                a.values(*q, true);
                relative.iter().for_each(|relative| a.values(relative.mix, true));
                chosen.iter().for_each(|(blocks, _)| a.values(*blocks, false));
                a.reads.push((Thing::Pages(pages.place()), false));
                a.writes.push(Thing::Values(*y));
                a.pieces = group * pages.n_head();
                a.bytes = a.pieces * ATTEND_BYTES;
            }
            Op::Exact(exact) => {
                a.values(exact.x, false);
                a.writes.push(Thing::Values(exact.y));
                a.pieces = rows(exact.y) / WIDTH;
                a.bytes = size_of_val(exact.w);
            }
            Op::Place(PlaceOp { heads, parts, y }) => {
                for part in parts {
                    let is_own = part.share == 1 && part.first + (part.n - 1) * part.by < part.step;
                    a.values(part.from, is_own && rows(part.from) == heads * part.step);
                }
                a.writes.push(Thing::Values(*y));
                (a.pieces, a.bytes) = (*heads, rows(*y) * STEP_BYTES);
            }
            Op::Blocks(BlocksOp { d, w, x, y, .. }) => {
                a.values(*x, rows(*x) == rows(*y));
                a.writes.push(Thing::Values(*y));
                (a.pieces, a.bytes) = (rows(*y) / d, size_of_val(*w));
            }
            Op::Choose(choose) => {
                a.values(choose.scores, false);
                a.writes.extend([choose.chosen, choose.weights].map(Thing::Values));
                let steps = choose.n_expert * CHOICE_STEPS;
                (a.pieces, a.bytes) = (1, steps * STEP_BYTES);
                a.is_small = steps <= plan.repeated_steps;
            }
            Op::Experts(ExpertsOp { w, n, chosen, x, y, sum }) => {
                chosen.iter().for_each(|chosen| a.values(*chosen, false));
                a.reads.push((Thing::Inputs(*x), false));
                a.writes.push(Thing::Values(*y));
                a.pieces = rows(*y) / WIDTH;
                let rows_of_all = n * w.rows();
                a.bytes = w.all().bytes_per_rows(WIDTH) * rows_of_all.div_ceil(WIDTH);
                // A piece takes its rows of every expert.
                if let Some((weights, into)) = sum {
                    a.values(*weights, false);
                    a.values(*into, true);
                    a.writes.push(Thing::Values(*into));
                    a.pieces = rows(*into) / WIDTH;
                }
            }
        }
        if plan.is_wide {
            a.is_small = false;
            let before: Vec<Values> =
                op.formula()
                    .into_iter()
                    .flat_map(Formula::terms)
                    .filter_map(|term| {
                        if let Term::Before { from, .. } = term { Some(from) } else { None }
                    })
                    .collect();
            let is_before =
                |thing: &Thing| before.iter().any(|from| *thing == Thing::Values(*from));
            a.reads
                .iter_mut()
                .filter(|(thing, _)| is_before(thing))
                .for_each(|(_, own)| *own = false);
        }
        a
    }

    /// Adds the reads of the formula of `n` elements.
    fn formula(&self, a: &mut Access, f: &Formula<'_>, n: usize) {
        for term in f.terms() {
            match term {
                Term::Values { from, first, each } => {
                    a.values(from, first == 0 && self.rows(from) * each == n);
                }
                Term::Before { from, state } => {
                    a.values(from, self.rows(from) == n);
                    a.reads.push((state.into(), state.len() == n));
                }
                Term::Weights { .. } | Term::Number(_) => {}
            }
        }
    }
}

/// Pieces of an operation on rows: whole tiles where they are rows of some.
fn fine(rows: usize) -> usize {
    if rows.is_multiple_of(WIDTH) { rows / WIDTH } else { rows }
}
