//! Stages of a list: which operations may run side by side.
//!
//! A device waits for all of its blocks between stages, which takes as long as a block takes to
//! read some tens of KB of weights: the number of stages decides how fast a token is. A stage is
//!
//! ```text
//! prelude    small operations that every block computes for itself: a norm, low-rank roundings
//! chains     each cut into pieces by rows. A piece runs all operations of its chain on its rows,
//!            and needs nothing that another piece of the stage writes
//! ```
//!
//! An operation reads *own* rows of a buffer (element i for element i, or those of its head) or
//! *all* of them. It joins the chains whose rows it reads as its own, as long as the fewer pieces
//! that are left do not cost more than a stage of its own. Not here: who computes which piece.
//! Test: `host.rs` runs all pieces in another order; below.

use std::collections::HashMap;

use super::formula::Term;
use super::{
    AttendOp, AverageOp, BlocksOp, ChooseOp, ConvOp, DecayOp, DeltaOp, ExactOp, ExpertsOp, Formula,
    HeadsOp, Inputs, List, OfHead, Op, PlaceOp, RememberOp, ScanOp, TurnOp, Values,
};
use crate::kernels::forms::GROUP;
use crate::kernels::lanes::WIDTH;
use crate::state::SlotRef;

/// Bytes that a block reads in the time of a step of a formula for one element.
const STEP_BYTES: usize = 4;
/// Rows of a piece of a chain that reads no matrix, at least, where there are so many.
const LEAST_ROWS: usize = 64;
/// Bytes that a head reads of its pages, as far as anybody knows.
const ATTEND_BYTES: usize = 256 << 10;
/// Steps of a formula that choosing experts takes for each of them.
const CHOICE_STEPS: usize = 8;
/// The most elements of a norm that every block computes for itself.
const REPEATED_NORM: usize = 1 << 14;

/// For whom stages are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Blocks of the device.
    pub(crate) blocks: usize,
    /// Bytes of weights that a block reads in the time of a stage's end.
    stage_bytes: usize,
    /// The most steps of formulas in an operation that every block computes for itself.
    repeated_steps: usize,
    /// The most elements of such a map or sum, unless it reads others of its kind.
    repeated_elements: usize,
    /// Blocks share columns, too: they repeat nothing, an operation that goes through the columns
    /// of a run has a chain to itself, and one that reads the column before waits for it.
    is_wide: bool,
}

impl Plan {
    /// Of passes of many columns.
    pub(crate) fn many(blocks: usize) -> Plan {
        let (repeated_steps, repeated_elements) = (0, 0);
        Plan { blocks, stage_bytes: 64 << 10, repeated_steps, repeated_elements, is_wide: true }
    }

    /// Of passes of one column, where a block computes only what its own pieces read, and the end
    /// of a stage is most of it.
    pub(crate) fn one(blocks: usize) -> Plan {
        let (stage_bytes, repeated_steps) = (20 << 10, 1 << 17);
        Plan { blocks, stage_bytes, repeated_steps, repeated_elements: 128, is_wide: false }
    }
}

/// Operations that run side by side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stage {
    /// Operations that every block computes for itself, by number. Repeating them changes nothing.
    pub(crate) prelude: Vec<usize>,
    pub(crate) chains: Vec<Chain>,
}

/// Operations by number, all of whose rows are cut into so many equal pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) ops: Vec<usize>,
    pub(crate) pieces: usize,
    /// Bytes of its matrices and states, and what its formulas take.
    pub(crate) bytes: usize,
}

/// Something that operations read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Thing {
    Values(Values),
    Inputs(Inputs),
    /// The cache line of a state where it begins.
    State(usize),
    /// A layer's pages: their kind, and the line where it begins in each.
    Pages((usize, usize)),
}

/// Reads, writes and costs of an operation.
#[derive(Debug, Default)]
struct Access {
    /// Each with whether a piece reads its own rows alone.
    reads: Vec<(Thing, bool)>,
    writes: Vec<Thing>,
    /// The most pieces that it can be cut into.
    pieces: usize,
    bytes: usize,
    /// Every block may compute it for itself: at all, and if it reads nothing of the kind.
    is_small: bool,
    is_alone_small: bool,
    /// Its last piece has fewer rows: where there is more than one, nothing joins it.
    is_uneven: bool,
    /// It goes through the columns of a run one after the other.
    is_serial: bool,
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
    fn needs(&self, other: &Access) -> bool {
        other.writes.iter().any(|thing| self.reads(*thing))
    }

    /// Whether it reads of what `other` writes its own rows alone.
    fn needs_own(&self, other: &Access) -> bool {
        let is_own = |(thing, own): &(Thing, bool)| *own || !other.writes.contains(thing);
        self.reads.iter().all(is_own)
    }

    /// Whether it writes what `other` reads or writes.
    fn disturbs(&self, other: &Access) -> bool {
        self.writes.iter().any(|thing| other.reads(*thing) || other.writes.contains(thing))
    }

    /// Whether another piece of it may disturb `other` in a chain with it.
    fn disturbs_all(&self, other: &Access) -> bool {
        let is_all = |thing: &Thing| other.reads.contains(&(*thing, false));
        self.writes.iter().any(is_all)
    }

    /// Whether it writes what it reads.
    fn disturbs_own(&self) -> bool {
        self.writes.iter().any(|thing| self.reads(*thing))
    }

    fn state(&mut self, slot: SlotRef) {
        self.reads.push((slot.into(), true));
        self.writes.push(slot.into());
    }

    fn values(&mut self, values: Values, own: bool) {
        self.reads.push((Thing::Values(values), own));
    }
}

impl<'m> List<'m> {
    /// What operation `i` reads, each with whether a piece reads its own rows alone, and what it
    /// writes.
    pub(crate) fn touched(&self, i: usize) -> (Vec<(Thing, bool)>, Vec<Thing>) {
        let access = self.access(&self.ops[i], &Plan::many(1));
        (access.reads, access.writes)
    }

    /// The stages of the list. An operation comes as early as what it reads and overwrites lets it.
    pub(crate) fn stages(&self, plan: &Plan) -> Vec<Stage> {
        let access: Vec<Access> = self.ops.iter().map(|op| self.access(op, plan)).collect();
        let mut stages: Vec<Stage> = Vec::new();
        // The last stages that read and that write a thing.
        let mut touched: HashMap<Thing, [Option<usize>; 2]> = HashMap::new();
        let mut first = 0;
        for (i, op) in access.iter().enumerate() {
            // Columns are others behind it.
            if matches!(self.ops[i], Op::Gather { .. }) {
                first = stages.len();
            }
            let of = |thing: &Thing| touched.get(thing).copied().unwrap_or_default();
            let needed = op.reads.iter().filter_map(|(thing, _)| of(thing)[1]);
            let disturbed = op.writes.iter().flat_map(|thing| of(thing).into_iter().flatten());
            let earliest = needed.chain(disturbed).fold(first, usize::max);
            let mut at = earliest;
            while at == stages.len() || !place(&mut stages[at], i, &access, plan) {
                if at == stages.len() {
                    stages.push(Stage::default());
                } else {
                    at += 1;
                }
            }
            op.reads.iter().for_each(|(thing, _)| {
                let last = &mut touched.entry(*thing).or_default()[0];
                *last = (*last).max(Some(at));
            });
            op.writes.iter().for_each(|thing| {
                let last = &mut touched.entry(*thing).or_default()[1];
                *last = (*last).max(Some(at));
            });
        }
        let of_chain = |chain: &Chain| {
            let rows = chain.ops.iter().map(|op| self.rows_of(&self.ops[*op])).max().unwrap_or(1);
            let is_matrix = |op: &Op<'_>| {
                matches!(op, Op::Project { .. } | Op::Exact(_) | Op::Experts(_) | Op::Blocks(_))
            };
            let matrices = chain.ops.iter().any(|op| is_matrix(&self.ops[*op]));
            if matrices { chain.pieces } else { coarse(chain.pieces, rows / LEAST_ROWS) }
        };
        for chain in stages.iter_mut().flat_map(|stage| &mut stage.chains) {
            chain.pieces = of_chain(chain);
        }
        stages
    }

    /// The rows that an operation writes.
    fn rows_of(&self, op: &Op<'_>) -> usize {
        match op {
            Op::Embed { y, .. }
            | Op::Gather { y, .. }
            | Op::Map { y, .. }
            | Op::Fold { y, .. }
            | Op::Place(PlaceOp { y, .. })
            | Op::Blocks(BlocksOp { y, .. })
            | Op::Sum { y, .. }
            | Op::Norm { y, .. }
            | Op::Project { y, .. }
            | Op::Conv(ConvOp { y, .. })
            | Op::Heads(HeadsOp { y, .. })
            | Op::Scan(ScanOp { delta_y: y, .. })
            | Op::Average(AverageOp { y, .. }) => self.rows(*y),
            Op::Keep { x, .. } | Op::Turn(TurnOp { x, .. }) => self.rows(*x),
            Op::Remember(RememberOp { v, .. }) => self.rows(*v),
            Op::Attend(AttendOp { y, .. }) | Op::Exact(ExactOp { y, .. }) => self.rows(*y),
            Op::Choose(ChooseOp { chosen, .. }) => self.rows(*chosen),
            Op::Experts(ExpertsOp { y, sum, .. }) => self.rows(sum.map_or(*y, |(_, into)| into)),
            Op::Pack { y, .. } => self.k(*y),
        }
    }

    fn access(&self, op: &Op<'m>, plan: &Plan) -> Access {
        let rows = |values: Values| self.rows(values);
        let mut a = Access { is_alone_small: true, ..Access::default() };
        a.is_serial = matches!(
            op,
            Op::Fold { .. }
                | Op::Keep { .. }
                | Op::Conv(_)
                | Op::Heads(_)
                | Op::Scan(_)
                | Op::Average(_)
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
                a.state(conv.window);
                a.bytes = 2 * conv.window.bytes();
                a.writes.push(Thing::Values(conv.y));
                a.pieces = rows(conv.y) / WIDTH;
            }
            Op::Heads(heads) => {
                let n = heads.n_head;
                let mut of_head = |of: OfHead| {
                    let is_own = of.first == 0 && of.share == 1 && rows(of.from) == of.step * n;
                    a.values(of.from, is_own && heads.steps == 1);
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
                a.state(heads.state);
                a.bytes = 2 * heads.state.bytes();
                a.writes.push(Thing::Values(heads.y));
                a.pieces = n;
            }
            Op::Scan(scan) => {
                a.values(scan.x, true);
                a.values(scan.delta_y, true);
                a.values(scan.b_c, false);
                a.state(scan.state);
                a.bytes = 2 * scan.state.bytes();
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
                a.values(turn.angles, false);
                a.writes.push(Thing::Values(turn.x));
                a.pieces = rows(turn.x) / turn.d_head;
                a.bytes = 2 * rows(turn.x) * STEP_BYTES;
            }
            Op::Remember(RememberOp { k, v, pages }) => {
                a.values(*k, rows(*k) == rows(*v));
                a.values(*v, true);
                a.writes.push(Thing::Pages(pages.place()));
                a.pieces = pages.n_head();
                a.bytes = rows(*v) * STEP_BYTES;
            }
            // Heads that share keys stand in different pieces: they wait for those that keep them.
            Op::Attend(AttendOp { q, group, pages, y }) => {
                a.values(*q, true);
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
                    let is_own = part.first + (part.n - 1) * part.by < part.step;
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

/// Puts operation `i` into the stage, if it can be there.
fn place(stage: &mut Stage, i: usize, access: &[Access], plan: &Plan) -> bool {
    let (op, blocks) = (&access[i], plan.blocks);
    let any = |ops: &[usize], is_so: &dyn Fn(&Access) -> bool| {
        ops.iter().any(|other| is_so(&access[*other]))
    };
    let is_needed = |chain: &Chain| any(&chain.ops, &|other| op.needs(other));
    let is_disturbed = |chain: &Chain| any(&chain.ops, &|other| op.disturbs(other));
    let needs_chain = stage.chains.iter().any(is_needed);
    let disturbs_chain = stage.chains.iter().any(is_disturbed);
    let needs_prelude = any(&stage.prelude, &|other| op.needs(other));
    // In the prelude: blocks that repeat it at different times must not disturb each other, so that
    // it writes nothing that was touched there before.
    let disturbs_prelude = any(&stage.prelude, &|other| op.disturbs(other));
    let is_few = op.pieces < blocks || needs_prelude;
    let is_small = op.is_small && (op.is_alone_small || needs_prelude);
    let is_repeatable = is_small && !disturbs_prelude && !op.disturbs_own();
    if is_repeatable && is_few && !needs_chain && !disturbs_chain {
        stage.prelude.push(i);
        return true;
    }
    if disturbs_prelude {
        return false;
    }
    // In a chain: with all chains whose rows it reads as its own, disturbing no other.
    let (joined, others): (Vec<Chain>, Vec<Chain>) =
        stage.chains.iter().cloned().partition(is_needed);
    let is_own =
        |chain: &Chain| !any(&chain.ops, &|other| !op.needs_own(other) || op.disturbs_all(other));
    if others.iter().any(is_disturbed) || !joined.iter().all(is_own) {
        return false;
    }
    let has_serial = || joined.iter().any(|chain| any(&chain.ops, &|other| other.is_serial));
    if plan.is_wide && !joined.is_empty() && (op.is_serial || has_serial()) {
        return false;
    }
    let pieces = joined.iter().fold(op.pieces, |pieces, chain| gcd(pieces, chain.pieces));
    let is_uneven = op.is_uneven || joined.iter().any(|chain| any(&chain.ops, &|o| o.is_uneven));
    // In one piece, if that is not too much.
    let pieces = if is_uneven && !joined.is_empty() { 1 } else { pieces };
    let bytes = joined.iter().fold(op.bytes, |bytes, chain| bytes + chain.bytes);
    let before: usize = joined.iter().map(|chain| load(chain.bytes, chain.pieces, blocks)).sum();
    let before = before + load(op.bytes, op.pieces, blocks);
    if !joined.is_empty() && load(bytes, pieces, blocks) > before + plan.stage_bytes {
        return false;
    }
    let mut ops: Vec<usize> = joined.into_iter().flat_map(|chain| chain.ops).collect();
    ops.sort_unstable();
    ops.push(i);
    stage.chains = others;
    stage.chains.push(Chain { ops, pieces, bytes });
    true
}

/// Pieces of an operation on rows: whole tiles where they are rows of some.
fn fine(rows: usize) -> usize {
    if rows.is_multiple_of(WIDTH) { rows / WIDTH } else { rows }
}

/// Bytes that the busiest block reads.
fn load(bytes: usize, pieces: usize, blocks: usize) -> usize {
    bytes.div_ceil(pieces).saturating_mul(pieces.div_ceil(blocks))
}

/// The most equal pieces, whole ones of so many `pieces`, that are `most` at most; one at least.
fn coarse(pieces: usize, most: usize) -> usize {
    (1..=most.clamp(1, pieces)).rev().find(|n| pieces.is_multiple_of(*n)).unwrap_or(1)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests;
