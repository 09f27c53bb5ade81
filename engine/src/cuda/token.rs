//! The program of one token: what each block does in each stage, word by word.
//!
//! A pass of one column waits for memory and for other blocks, never for arithmetic. So each block
//! has a list of its own for each stage, of *moves*: its pieces of the stage's chains and, of the
//! prelude, what these read. Values that only this block reads stand *near*, in its own memory;
//! weights of the next stage come there while a stage runs. `token.cuh` has the words,
//! `token_words.rs` writes them; the order of stages is that of `Plan::one`.
//!
//! ```text
//! pieces   the dearest first, each to the block with the least to do; a block's pieces of a chain
//!          are a range
//! levels   moves that need nothing of each other stand side by side; a level waits for the one
//!          before it. Products of a level run together
//! near     a value that a move of the same block reads, and nobody else: never far
//! ring     what is brought near for a stage lies at one end, for the next stage at the other
//! ```
//!
//! Not here: what an operation is (`program.rs` encodes those that have no move of their own), the
//! kernel. Test: `tests/operations.rs` on a card.

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::thread;

use super::program::{Addresses, Encoder};
use super::token_projects::is_integer;
use super::token_words::{CACHE_ONLY, Fetch, MoveKind, NEXT_BYTES_AT, Spot, Words};
use crate::kernels::lanes::WIDTH;
use crate::ops::{Op, Plan, Stage, Thing};

/// Threads of a block (`rows.cuh`).
pub(super) const THREADS: usize = 512;
/// Bytes of the sums of a part of sixteen rows (`product.cuh`).
pub(super) const PART: usize = 128;
/// Bytes that operations of `run.cu` work in (`rows.cuh`).
pub(super) const ROOM: usize = 240 * PART;

/// How a block's own memory is divided: parts of products, near values, two tasks, the ring.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rooms {
    pub(super) parts: usize,
    pub(super) near: usize,
    pub(super) task: usize,
    pub(super) ring: usize,
}

impl Rooms {
    /// At most, for blocks that have so many bytes; copies need cards that make them by themselves.
    pub(super) fn most(bytes: usize, copies: bool) -> Rooms {
        let task = 8 << 10;
        let parts = if bytes >= 160 << 10 { 64 << 10 } else { 30 << 10 };
        let near = if bytes >= 160 << 10 { 56 << 10 } else { 16 << 10 };
        let rest = bytes.saturating_sub(parts + near + 2 * task);
        Rooms { parts, near, task, ring: if copies { rest } else { 0 } }
    }

    /// With no more than `used` of each, and the rest for the ring.
    fn shrunk(self, used: Rooms) -> Rooms {
        let (parts, near) = (used.parts.max(ROOM).next_multiple_of(128), used.near);
        let (near, task) = (near.next_multiple_of(128), used.task.next_multiple_of(128));
        let spared = self.parts - parts + self.near - near + 2 * (self.task - task);
        let ring = if self.ring > 0 { (self.ring + spared) / 128 * 128 } else { 0 };
        Rooms { parts, near, task, ring }
    }

    pub(super) fn near_at(self) -> usize {
        self.parts
    }

    /// Where tasks lie.
    pub(super) fn tasks_at(self) -> usize {
        self.parts + self.near
    }

    fn ring_at(self) -> usize {
        self.tasks_at() + 2 * self.task
    }

    /// All of it.
    pub(super) fn bytes(self) -> usize {
        self.ring_at() + self.ring
    }
}

/// A program of one token.
#[derive(Debug, Default)]
pub(super) struct TokenProgram {
    pub(super) words: Vec<u8>,
    /// Of each block where its first task lies, and its bytes.
    pub(super) starts: Vec<u64>,
    pub(super) stages: usize,
    /// The first whose columns are those whose logits are wanted.
    pub(super) first_wanted: usize,
    pub(super) rooms: Rooms,
}

/// Where an operation is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) stage: usize,
    /// None: in the prelude.
    pub(super) chain: Option<usize>,
}

/// An operation of a block's stage: on some pieces of its chain, or of a prelude on all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub(super) op: usize,
    /// 0 the prelude, else a range of pieces.
    pub(super) scope: usize,
    /// Pieces from … to … of …
    pub(super) pieces: (usize, usize, usize),
    pub(super) level: usize,
    /// Of a map the thread that takes its first element.
    pub(super) thread: usize,
}

/// What an operation reads, each with whether a piece reads its own rows alone; what it writes.
pub(super) type Touched = (Vec<(Thing, bool)>, Vec<Thing>);

/// What a list says once about all of its blocks.
pub(super) struct Planner<'a, 'm, A> {
    pub(super) encoder: &'a Encoder<'a, 'm, A>,
    pub(super) stages: Vec<Stage>,
    pub(super) places: Vec<Place>,
    pub(super) touched: Vec<Touched>,
    /// Who wrote what an operation reads.
    pub(super) producers: HashMap<(usize, Thing), usize>,
    /// Who reads what it writes.
    pub(super) readers: HashMap<(usize, Thing), Vec<usize>>,
    /// Versions that are read behind the last stage.
    pub(super) kept: Vec<(usize, Thing)>,
    /// States that one operation alone touches.
    pub(super) states: HashMap<Thing, usize>,
    pub(super) rooms: Rooms,
    /// What each block does of each stage.
    shares: Vec<Vec<Vec<(Item, bool)>>>,
}

/// A block's stage on its way.
pub(super) struct Block {
    pub(super) words: Words,
    /// Versions that stand near, by who wrote them and for which scope.
    pub(super) near: Vec<(usize, Thing, usize, i64)>,
    pub(super) near_used: usize,
    pub(super) parts_used: usize,
    /// Something works in the room of the parts since all threads waited.
    pub(super) is_room_used: bool,
    fetches: Vec<Fetch>,
    pub(super) ring_used: usize,
}

impl<'m, A: Addresses> Encoder<'_, 'm, A> {
    /// The program of one token for so many blocks that have so many bytes of their own; none if it
    /// does not fit.
    pub(super) fn token(&self, blocks: usize, rooms: Rooms) -> Option<TokenProgram> {
        let mut planner = Planner::new(self, blocks, rooms);
        let (_, used) = planner.program(blocks)?;
        planner.rooms = rooms.shrunk(used);
        planner.program(blocks).map(|(program, _)| program)
    }

    /// The most bytes of a list's program: a task of each block and stage fills its room.
    pub(super) fn most_of_token(&self, blocks: usize, rooms: Rooms) -> usize {
        let stages = self.list.stages(&Plan::one(blocks)).len();
        blocks * (stages * rooms.task + size_of::<[u64; 2]>())
    }
}

impl<'a, 'm, A: Addresses> Planner<'a, 'm, A> {
    fn new(encoder: &'a Encoder<'a, 'm, A>, blocks: usize, rooms: Rooms) -> Self {
        let list = encoder.list;
        let stages = list.stages(&Plan::one(blocks));
        let n = list.ops().len();
        let mut places = vec![Place { stage: 0, chain: None }; n];
        for (stage, of) in stages.iter().enumerate() {
            of.prelude.iter().for_each(|op| places[*op] = Place { stage, chain: None });
            for (chain, of) in of.chains.iter().enumerate() {
                of.ops.iter().for_each(|op| places[*op] = Place { stage, chain: Some(chain) });
            }
        }
        let touched: Vec<_> = (0..n).map(|op| list.touched(op)).collect();
        let (mut producers, mut readers) = (HashMap::new(), HashMap::<_, Vec<usize>>::new());
        let (mut last, mut states) = (HashMap::new(), HashMap::new());
        for (op, (reads, writes)) in touched.iter().enumerate() {
            for (thing, _) in reads {
                if let Some(producer) = last.get(thing) {
                    producers.insert((op, *thing), *producer);
                    readers.entry((*producer, *thing)).or_default().push(op);
                }
            }
            for thing in writes {
                last.insert(*thing, op);
                if let Thing::State(_) = thing {
                    *states.entry(*thing).or_insert(0) += 1;
                }
            }
        }
        let kept = [list.logits(), list.x()].map(Thing::Values);
        let kept = kept.into_iter().filter_map(|thing| Some((*last.get(&thing)?, thing))).collect();
        let shares = Vec::new();
        let mut planner = Planner {
            encoder,
            stages,
            places,
            touched,
            producers,
            readers,
            kept,
            states,
            rooms,
            shares,
        };
        planner.shares =
            (0..planner.stages.len()).map(|stage| planner.shared(stage, blocks)).collect();
        planner
    }

    /// The program, and the rooms that it uses.
    fn program(&self, blocks: usize) -> Option<(TokenProgram, Rooms)> {
        let mut program = TokenProgram { rooms: self.rooms, ..TokenProgram::default() };
        program.stages = self.stages.len();
        let ops = self.encoder.list.ops();
        let is_wanted = |op: &usize| matches!(ops[*op], Op::Gather { .. });
        let all = |stage: &Stage| {
            stage.prelude.iter().chain(stage.chains.iter().flat_map(|c| &c.ops)).any(is_wanted)
        };
        program.first_wanted = self.stages.iter().position(all).unwrap_or(self.stages.len());
        let mut used = Rooms::default();
        for of_block in self.tasks(blocks)? {
            // The stage before asks for what one reads.
            let (mut tasks, mut fetches) = (Vec::new(), Vec::new());
            for done in of_block {
                used.parts = used.parts.max(done.parts_used);
                used.near = used.near.max(done.near_used);
                tasks.push(done.words);
                fetches.push(done.fetches);
            }
            fetches.push(Vec::new());
            let first = program.words.len();
            let mut before = None;
            for (stage, words) in tasks.into_iter().enumerate() {
                let task = words.task(&fetches[stage + 1]);
                used.task = used.task.max(task.len());
                if task.len() > self.rooms.task {
                    return None;
                }
                if let Some(before) = before {
                    let at: usize = before;
                    let bytes = (task.len() as u32).to_le_bytes();
                    program.words[at + NEXT_BYTES_AT..at + NEXT_BYTES_AT + 4]
                        .copy_from_slice(&bytes);
                } else {
                    program.starts.extend([first as u64, task.len() as u64]);
                }
                before = Some(program.words.len());
                program.words.extend(task);
            }
        }
        Some((program, used))
    }

    /// The tasks of all blocks, stage by stage; none if one does not fit. Some ten thousand of them
    /// are written side by side.
    fn tasks(&self, blocks: usize) -> Option<Vec<Vec<Block>>> {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(blocks).max(1);
        let part = move |i: usize| -> Option<Vec<_>> {
            (blocks * i / threads..blocks * (i + 1) / threads).map(|b| self.tasks_of(b)).collect()
        };
        thread::scope(|scope| {
            let spawn = |i| (i, thread::Builder::new().spawn_scoped(scope, move || part(i)));
            let others: Vec<_> = (1..threads).map(spawn).collect();
            let mut all = part(0)?;
            for (i, other) in others {
                all.extend(match other {
                    Ok(other) => other.join().unwrap_or_else(|panic| resume_unwind(panic))?,
                    // There are no more threads.
                    Err(_) => part(i)?,
                });
            }
            Some(all)
        })
    }

    fn tasks_of(&self, block: usize) -> Option<Vec<Block>> {
        let mut ring_before = 0;
        let stages = self.shares.iter().enumerate();
        stages
            .map(|(stage, shares)| {
                let done = self.block(stage, &shares[block], ring_before)?;
                ring_before = done.ring_used;
                Some(done)
            })
            .collect()
    }

    /// Copies near, all at once, what the block's pieces read of earlier stages.
    fn copies(&self, block: &mut Block, items: &[(Item, bool)]) {
        let mut copies: Vec<(u64, i64, usize)> = Vec::new();
        for (item, _) in items.iter().filter(|(item, _)| item.scope > 0) {
            for (thing, _) in &self.touched[item.op].0 {
                let Thing::Values(values) = *thing else { continue };
                let Some(producer) = self.is_copied(*item, *thing) else { continue };
                let is_it = |v: &(usize, Thing, usize, i64)| {
                    (v.0, v.1, v.2) == (producer, *thing, item.scope)
                };
                if block.near.iter().any(is_it) {
                    continue;
                }
                let (begin, end) = range(item.pieces, self.encoder.list.rows(values));
                let as_producer = Item { op: producer, ..*item };
                let bytes = 4 * (end - begin).next_multiple_of(WIDTH);
                let first = 4 * begin as i64;
                let Some(at) = self.take(block, as_producer, *thing, bytes, first) else {
                    continue;
                };
                let from = self.encoder.values(values).first.wrapping_add_signed(first);
                copies.push((from, at + first, end - begin));
            }
        }
        if copies.is_empty() {
            return;
        }
        block.words.begin(MoveKind::Copy, false, (0, copies.len()), 0);
        for (from, to, n) in copies {
            block.words.spot(Spot::Far(from));
            block.words.u32(to as u32);
            block.words.u32(n as u32);
        }
        block.words.end();
    }

    /// A block's words of a stage; none if they do not fit.
    fn block(&self, stage: usize, items: &[(Item, bool)], ring_before: usize) -> Option<Block> {
        let mut block = Block {
            words: Words::default(),
            near: Vec::new(),
            near_used: 0,
            parts_used: 0,
            is_room_used: false,
            fetches: Vec::new(),
            ring_used: 0,
        };
        let is_first = stage == 0;
        self.copies(&mut block, items);
        let (mut level, mut at) = (0, 0);
        while at < items.len() {
            let (item, is_far) = items[at];
            let waits = item.level != level;
            level = item.level;
            if waits {
                block.is_room_used = false;
            }
            let op = &self.encoder.list.ops()[item.op];
            if let Op::Project { w, .. } = op
                && is_integer(w)
            {
                let together = items[at..].iter().take_while(|(other, _)| {
                    other.level == level
                        && matches!(&self.encoder.list.ops()[other.op],
                            Op::Project { w, .. } if is_integer(w))
                });
                let n = together.count();
                let side = (stage % 2, if is_first { usize::MAX } else { ring_before });
                self.projects(&mut block, &items[at..at + n], waits, side)?;
                at += n;
                continue;
            }
            let side = (stage % 2, if is_first { usize::MAX } else { ring_before });
            self.move_of(&mut block, (item, is_far), waits, side);
            at += 1;
        }
        Some(block)
    }

    /// Room in the ring for so many bytes.
    fn ring(&self, block: &mut Block, bytes: usize, (side, before): (usize, usize)) -> Option<u32> {
        let most = self.rooms.ring.checked_sub(before)?;
        let most = most.min(self.rooms.ring * 3 / 4);
        if block.ring_used + bytes > most {
            return None;
        }
        let at =
            if side == 0 { block.ring_used } else { self.rooms.ring - block.ring_used - bytes };
        block.ring_used += bytes;
        Some((self.rooms.ring_at() + at) as u32)
    }

    /// Asks for bytes: near where there is room, else into the card's cache. Where they are then.
    pub(super) fn bring(
        &self,
        block: &mut Block,
        from: Spot,
        bytes: usize,
        side: (usize, usize),
    ) -> Spot {
        if self.rooms.ring == 0 || side.1 == usize::MAX || bytes == 0 {
            return from;
        }
        if let Some(to) = self.ring(block, bytes, side) {
            block.fetches.push(Fetch { from, to, bytes: bytes as u32 });
            return Spot::Near(i64::from(to));
        }
        self.ahead(block, from, bytes);
        from
    }

    /// Asks for bytes into the card's cache.
    pub(super) fn ahead(&self, block: &mut Block, from: Spot, bytes: usize) {
        let down = match from {
            Spot::Far(at) => (at % 16) as usize,
            _ => 0,
        };
        let bytes = (bytes + down).next_multiple_of(16) as u32;
        if self.rooms.ring > 0 {
            block.fetches.push(Fetch { from: from.plus(-(down as i64)), to: CACHE_ONLY, bytes });
        }
    }
}

/// The part of `n` that pieces from … to … of … are.
pub(super) fn range((from, to, of): (usize, usize, usize), n: usize) -> (usize, usize) {
    (n / of * from, n / of * to)
}
