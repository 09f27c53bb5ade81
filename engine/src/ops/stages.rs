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

mod access;

use std::collections::HashMap;

use access::Access;

use super::{
    AttendOp, AverageOp, BestOp, BlocksOp, CellsOp, ChooseOp, ConvOp, ExactOp, ExpertsOp,
    HeadConvsOp, HeadsOp, Inputs, LevelsOp, List, MesaOp, NgramsOp, Op, PastOp, PlaceOp,
    RememberOp, ScanOp, SlotsOp, SpinOp, SpreadOp, TurnOp, Values,
};

/// Rows of a piece of a chain that reads no matrix, at least, where there are so many.
const LEAST_ROWS: usize = 64;

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
                matches!(
                    op,
                    Op::Project { .. }
                        | Op::Exact(_)
                        | Op::Experts(_)
                        | Op::Blocks(_)
                        | Op::HeadConvs(_)
                )
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
            | Op::Slots(SlotsOp { y, .. })
            | Op::Spin(SpinOp { y, .. })
            | Op::Levels(LevelsOp { y, .. })
            | Op::Spread(SpreadOp { y, .. })
            | Op::Mesa(MesaOp { y, .. })
            | Op::HeadConvs(HeadConvsOp { y, .. })
            | Op::Ngrams(NgramsOp { y, .. })
            | Op::Cells(CellsOp { y, .. })
            | Op::Best(BestOp { y, .. })
            | Op::Blocks(BlocksOp { y, .. })
            | Op::Sum { y, .. }
            | Op::Norm { y, .. }
            | Op::Project { y, .. }
            | Op::Conv(ConvOp { y, .. })
            | Op::Heads(HeadsOp { y, .. })
            | Op::Scan(ScanOp { delta_y: y, .. })
            | Op::Average(AverageOp { y, .. }) => self.rows(*y),
            Op::Keep { x, .. } | Op::Turn(TurnOp { x, .. }) | Op::Past(PastOp { x, .. }) => {
                self.rows(*x)
            }
            Op::Remember(RememberOp { k, v, .. }) => self.rows(v.unwrap_or(*k)),
            Op::Attend(AttendOp { y, .. }) | Op::Exact(ExactOp { y, .. }) => self.rows(*y),
            Op::Choose(ChooseOp { chosen, .. }) => self.rows(*chosen),
            Op::Experts(ExpertsOp { y, sum, .. }) => self.rows(sum.map_or(*y, |(_, into)| into)),
            Op::Pack { y, .. } => self.k(*y),
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
    // Many columns are much to multiply: what would leave half of the blocks without a piece of it
    // comes later.
    let has_product = |chain: &Chain| any(&chain.ops, &|other| other.is_product);
    let is_narrowed = |chain: &Chain| has_product(chain) && 2 * pieces <= chain.pieces.min(blocks);
    if plan.is_wide && joined.iter().any(is_narrowed) {
        return false;
    }
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
