//! Who does what in a stage: pieces for blocks, what of a prelude these need, and which moves have
//! to wait for others. See `token.rs`.

use super::program::Addresses;
use super::token::{Item, Place, Planner, range};
use crate::ops::{Op, Stage, Thing};

/// Threads of a block (`rows.cuh`).
const THREADS: usize = 512;
/// Bytes that a piece costs beside what it reads.
const PIECE_BYTES: usize = 2 << 10;

impl<A: Addresses> Planner<'_, '_, A> {
    /// Whether a version is read by others than the scope it is written for.
    pub(super) fn escapes(&self, op: usize, thing: Thing) -> bool {
        let here = self.places[op];
        let is_elsewhere = |reader: &usize| {
            let there = self.places[*reader];
            there.stage != here.stage || here.chain.is_some() && there.chain != here.chain
        };
        self.kept.contains(&(op, thing))
            || self.readers.get(&(op, thing)).is_some_and(|all| all.iter().any(is_elsewhere))
    }

    /// The operations of a stage's prelude that `op` needs, and what these need.
    fn needed(&self, op: usize, stage: usize, needed: &mut Vec<usize>) {
        for (thing, _) in &self.touched[op].0 {
            let Some(producer) = self.producers.get(&(op, *thing)) else { continue };
            if self.places[*producer] == (Place { stage, chain: None })
                && !needed.contains(producer)
            {
                needed.push(*producer);
                self.needed(*producer, stage, needed);
            }
        }
    }

    /// What each block does in a stage; of a prelude's operation whether it is written for all.
    pub(super) fn shared(&self, stage: usize, blocks: usize) -> Vec<Vec<(Item, bool)>> {
        let Stage { prelude, chains } = &self.stages[stage];
        // The dearest pieces first, each to the block with the least to do.
        let mut order: Vec<usize> = (0..chains.len()).collect();
        let cost = |chain: &usize| chains[*chain].bytes / chains[*chain].pieces + PIECE_BYTES;
        order.sort_by_key(|chain| std::cmp::Reverse(cost(chain)));
        let mut loads = vec![0; blocks];
        let mut counts = vec![vec![0; chains.len()]; blocks];
        for chain in &order {
            for _ in 0..chains[*chain].pieces {
                let least = (0..blocks).min_by_key(|block| loads[*block]).unwrap_or(0);
                loads[least] += cost(chain);
                counts[least][*chain] += 1;
            }
        }
        let of_chains: Vec<Vec<usize>> = chains
            .iter()
            .map(|chain| {
                let mut needed = Vec::new();
                chain.ops.iter().for_each(|op| self.needed(*op, stage, &mut needed));
                needed
            })
            .collect();
        let mut next = vec![0; chains.len()];
        let mut all: Vec<Vec<(Item, bool)>> = Vec::new();
        for counts in &counts {
            let (mut items, mut needed) = (Vec::new(), Vec::<usize>::new());
            for (i, chain) in chains.iter().enumerate().filter(|(i, _)| counts[*i] > 0) {
                let pieces = (next[i], next[i] + counts[i], chain.pieces);
                next[i] += counts[i];
                let item = |op: &usize| {
                    (Item { op: *op, scope: i + 1, pieces, level: 0, thread: 0 }, true)
                };
                items.extend(chain.ops.iter().map(item));
                needed.extend(&of_chains[i]);
            }
            needed.sort_unstable();
            needed.dedup();
            let item =
                |op: usize| (Item { op, scope: 0, pieces: (0, 1, 1), level: 0, thread: 0 }, false);
            items.extend(needed.into_iter().map(item));
            all.push(items);
        }
        // Someone writes what others read later.
        let escaping = prelude
            .iter()
            .filter(|op| self.touched[**op].1.iter().any(|thing| self.escapes(**op, *thing)));
        for op in escaping {
            let has = |items: &Vec<(Item, bool)>| items.iter().any(|(item, _)| item.op == *op);
            let who = all.iter().position(has).unwrap_or(op % blocks);
            let mut needed = vec![*op];
            self.needed(*op, stage, &mut needed);
            for op in needed {
                if !all[who].iter().any(|(item, _)| item.op == op) {
                    all[who].push((
                        Item { op, scope: 0, pieces: (0, 1, 1), level: 0, thread: 0 },
                        false,
                    ));
                }
            }
            all[who].iter_mut().filter(|(item, _)| item.op == *op).for_each(|(_, far)| *far = true);
        }
        for items in &mut all {
            items.sort_by_key(|(item, _)| (item.op, item.scope));
            self.levels(items);
            let is_project = |op: usize| matches!(self.encoder.list.ops()[op], Op::Project { .. });
            items.sort_by_key(|(item, _)| (item.level, !is_project(item.op)));
        }
        all
    }

    /// Whether the same thread takes an element of both: maps of the same rows, of which the second
    /// reads the first's element by element.
    fn is_one_thread(&self, first: usize, second: usize) -> bool {
        let list = self.encoder.list;
        let (Op::Map { y: a, .. }, Op::Map { y: b, .. }) =
            (&list.ops()[first], &list.ops()[second])
        else {
            return false;
        };
        let shared = |thing: &(Thing, bool), writes: &[Thing]| writes.contains(&thing.0);
        let is_own = |(thing, own): &(Thing, bool)| match thing {
            Thing::Values(values) => *own && list.rows(*values) == list.rows(*a),
            _ => *own,
        };
        let (reads_a, writes_a) = &self.touched[first];
        let (reads_b, writes_b) = &self.touched[second];
        list.rows(*a) == list.rows(*b)
            && reads_b.iter().filter(|r| shared(r, writes_a)).all(is_own)
            && reads_a.iter().filter(|r| shared(r, writes_b)).all(is_own)
    }

    fn levels(&self, items: &mut [(Item, bool)]) {
        let ops = self.encoder.list.ops();
        let mut next_thread = 0;
        for i in 0..items.len() {
            let item = items[i].0;
            let (reads, writes) = &self.touched[item.op];
            let is_copied = item.scope > 0
                && reads.iter().any(|(thing, _)| self.is_copied(item, *thing).is_some());
            let mut level = usize::from(is_copied);
            // Those before it that may have its threads, of which it takes the last one's.
            let touches = |before: &Item| {
                let (reads_before, writes_before) = &self.touched[before.op];
                (before.scope == item.scope || before.scope == 0 || item.scope == 0)
                    && (reads.iter().any(|(thing, _)| writes_before.contains(thing))
                        || writes.iter().any(|thing| {
                            writes_before.contains(thing)
                                || reads_before.iter().any(|(read, _)| read == thing)
                        }))
            };
            let is_one = |before: &Item| {
                before.scope == item.scope && self.is_one_thread(before.op, item.op)
            };
            let before: Vec<Item> =
                items[..i].iter().map(|(item, _)| *item).filter(touches).collect();
            let last = before.iter().filter(|before| is_one(before)).max_by_key(|b| b.level);
            let thread = match last {
                Some(last) => last.thread,
                None => next_thread,
            };
            for before in &before {
                let one = is_one(before) && before.thread == thread;
                level = level.max(before.level + usize::from(!one));
            }
            items[i].0.level = level;
            if let Op::Map { y, .. } = &ops[item.op] {
                items[i].0.thread = thread;
                let (begin, end) = range(item.pieces, self.encoder.list.rows(*y));
                if last.is_none() {
                    next_thread = (next_thread + (end - begin).next_multiple_of(32)) % THREADS;
                }
            }
        }
    }

    /// Who wrote what an operation reads, if that was an earlier stage and is copied near.
    pub(super) fn is_copied(&self, item: Item, thing: Thing) -> Option<usize> {
        let Thing::Values(values) = thing else { return None };
        let ops = self.encoder.list.ops();
        let Place { stage, chain: Some(chain) } = self.places[item.op] else { return None };
        let is_short = |op: &&usize| match &ops[**op] {
            Op::Map { .. } | Op::Sum { .. } | Op::Pack { .. } | Op::Heads(_) | Op::Conv(_) => true,
            Op::Norm { over, .. } => *over <= 256,
            _ => false,
        };
        // All of the chain that read it find it there: each must read its own rows.
        let reads = |op: &&usize| self.touched[**op].0.iter().any(|(read, _)| *read == thing);
        let mut readers = self.stages[stage].chains[chain].ops.iter().filter(reads);
        let is_own = |op: &usize| self.touched[*op].0.iter().all(|(t, own)| *t != thing || *own);
        if !readers.clone().all(is_own) || !readers.any(|op| is_short(&op)) {
            return None;
        }
        let producer = *self.producers.get(&(item.op, thing))?;
        let (begin, end) = range(item.pieces, self.encoder.list.rows(values));
        // A number that all pieces share is none of theirs.
        let is_whole = end > begin && begin.is_multiple_of(4) && (end - begin).is_multiple_of(4);
        let is_here = self.places[producer].stage == self.places[item.op].stage;
        (!is_here && is_whole && end - begin <= 4 * THREADS).then_some(producer)
    }
}
