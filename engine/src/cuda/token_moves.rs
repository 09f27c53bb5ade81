//! Operations as moves of one token: what of them stands near, what far. See `token.rs`.

use super::program::{Addresses, groups, line};
use super::structs::{CardOp, INT8_GROUP};
use super::token::{Block, Item, Planner, ROOM, range};
use super::token_heads::HEAD_SIDE;
use super::token_words::{MoveKind, Spot, Target};
use crate::kernels::forms::GROUP;
use crate::kernels::lanes::WIDTH;
use crate::ops::{Formula, Inputs, NormOp, Op, Term, Thing, Values};
use crate::state::SlotRef;

/// Norms of so many elements are those of heads.
const SHORT_NORM: usize = 256;

/// A block's part of an operation, and whether it writes for all.
pub(super) type Mine = (Item, bool);

impl<'m, A: Addresses> Planner<'_, 'm, A> {
    /// Where an operation finds element 0 of what it reads.
    pub(super) fn find(
        &self,
        near: &[(usize, Thing, usize, i64)],
        item: &Item,
        thing: Thing,
    ) -> Option<i64> {
        let producer = *self.producers.get(&(item.op, thing))?;
        let is_it = |v: &&(usize, Thing, usize, i64)| {
            (v.0, v.1) == (producer, thing) && (v.2 == item.scope || v.2 == 0)
        };
        near.iter().find(is_it).map(|v| v.3)
    }

    pub(super) fn values_of(&self, block: &Block, item: &Item, values: Values) -> Spot {
        match self.find(&block.near, item, Thing::Values(values)) {
            Some(at) => Spot::Near(at),
            None => Spot::Far(self.encoder.values(values).first),
        }
    }

    /// Activations as int8, f32, bf16.
    pub(super) fn inputs_of(
        &self,
        near: &[(usize, Thing, usize, i64)],
        item: &Item,
        inputs: Inputs,
    ) -> [Spot; 3] {
        let far = self.encoder.inputs(inputs);
        let Some(first) = self.find(near, item, Thing::Inputs(inputs)) else {
            return [far.int8, far.f32, far.bf16]
                .map(|at| if at == 0 { Spot::None } else { Spot::Far(at) });
        };
        let mut at = first;
        let groups = groups(self.encoder.list.k(inputs)) as i64;
        [(far.int8, INT8_GROUP), (far.f32, 4 * GROUP), (far.bf16, 2 * GROUP)].map(|(is, bytes)| {
            if is == 0 {
                return Spot::None;
            }
            let here = Spot::Near(at);
            at += groups * bytes as i64;
            here
        })
    }

    /// Bytes near for a version; where it began for an earlier one of the same scope, if it did.
    pub(super) fn take(
        &self,
        block: &mut Block,
        item: Item,
        thing: Thing,
        bytes: usize,
        before: i64,
    ) -> Option<i64> {
        let is_same = |v: &&(usize, Thing, usize, i64)| (v.1, v.2) == (thing, item.scope);
        let at = match block.near.iter().find(is_same) {
            Some(v) => v.3,
            None => {
                let bytes = bytes.next_multiple_of(16);
                if block.near_used + bytes > self.rooms.near {
                    return None;
                }
                block.near_used += bytes;
                (self.rooms.near_at() + block.near_used - bytes) as i64 - before
            }
        };
        block.near.push((item.op, thing, item.scope, at));
        Some(at)
    }

    /// Whether a move of this block reads the version.
    pub(super) fn is_read_here(&self, item: Item, thing: Thing) -> bool {
        let here = self.places[item.op];
        self.readers.get(&(item.op, thing)).is_some_and(|readers| {
            readers.iter().any(|reader| {
                let there = self.places[*reader];
                there.stage == here.stage && (item.scope == 0 || there == here)
            })
        })
    }

    /// Where an operation writes its rows, `rows` of them in all with what pads them.
    pub(super) fn target(
        &self,
        block: &mut Block,
        item: Item,
        values: Values,
        is_far: bool,
        rows: usize,
    ) -> Target {
        let thing = Thing::Values(values);
        let far = Spot::Far(self.encoder.values(values).first);
        let (begin, end) = range(item.pieces, rows);
        let near = if self.is_read_here(item, thing) {
            let bytes = 4 * (end - begin).next_multiple_of(WIDTH);
            self.take(block, item, thing, bytes, 4 * begin as i64)
        } else {
            None
        };
        let must = self.is_read_here(item, thing) && near.is_none();
        let is_far = is_far && self.escapes(item.op, thing) || must;
        [near.map_or(Spot::None, Spot::Near), if is_far { far } else { Spot::None }]
    }

    /// The words of an operation's part.
    pub(super) fn move_of(&self, block: &mut Block, mine: Mine, waits: bool, side: (usize, usize)) {
        let (item, is_far) = mine;
        let list = self.encoder.list;
        match &list.ops()[item.op] {
            // It has one column: what was before stands in the state.
            Op::Map { f, y } | Op::Fold { f, y } => {
                let range = range(item.pieces, list.rows(*y));
                let spots = self.terms(block, &item, f, range, side);
                let target = self.target(block, item, *y, is_far, list.rows(*y));
                block.words.begin(MoveKind::Map, waits, range, item.thread);
                block.words.target(target);
                self.expression(block, f, &spots);
                block.words.end();
            }
            Op::Sum { f, over, y } => {
                let range = range(item.pieces, list.rows(*y));
                let all = (range.0 * over, range.1 * over);
                let spots = self.terms(block, &item, f, all, side);
                let target = self.target(block, item, *y, is_far, list.rows(*y));
                block.words.begin(MoveKind::Sum, waits, range, *over);
                block.words.target(target);
                self.expression(block, f, &spots);
                block.words.end();
            }
            Op::Pack { f, y } => self.pack(block, item, (f, *y), waits, side),
            Op::Norm { x, norm, over, y } => {
                let groups = range(item.pieces, list.rows(*y) / over);
                let from = self.values_of(block, &item, *x);
                let target = self.target(block, item, *y, is_far, list.rows(*y));
                let weights = |weights: &[f32]| Spot::Far(self.encoder.weights(weights));
                let (weight, bias, eps, how) = match norm {
                    NormOp::Layer { weight, bias, eps } => (*weight, Some(*bias), *eps, 1),
                    NormOp::Rms { weight, eps } => {
                        (*weight, None, *eps, if weight.len() == *over { 2 } else { 0 })
                    }
                };
                let mine = if how == 2 { (0, *over) } else { (groups.0 * over, groups.1 * over) };
                let weight = self.vector(block, weights(weight), mine, side);
                let bias =
                    bias.map_or(Spot::None, |bias| self.vector(block, weights(bias), mine, side));
                let is_long = *over > SHORT_NORM
                    && over.is_multiple_of(4 * WIDTH)
                    && groups.1 == groups.0 + 1
                    && long_norm_bytes(*over) <= ROOM
                    && [from, weight, bias].iter().chain(&target).all(|spot| spot.is_whole());
                // It works in the room of parts.
                let waits = waits || is_long && block.is_room_used;
                block.is_room_used |= is_long;
                let how = how | if is_long { 4 } else { 0 };
                block.words.begin(MoveKind::Norm, waits, groups, *over);
                block.words.target(target);
                block.words.spot(from);
                block.words.spot(weight);
                block.words.spot(bias);
                block.words.f32(eps);
                block.words.u32(how);
                block.words.end();
            }
            Op::Keep { x, state } => {
                let range = range(item.pieces, list.rows(*x));
                let from = self.values_of(block, &item, *x);
                block.words.begin(MoveKind::Keep, waits, range, 0);
                block.words.spot(from);
                block.words.spot(of_state(*state));
                block.words.end();
            }
            Op::Conv(conv) if conv.seen.is_none() => {
                let range = range(item.pieces, list.rows(conv.y));
                let from = self.values_of(block, &item, conv.y);
                let taps = conv.n_tap();
                let target = self.target(block, item, conv.y, is_far, list.rows(conv.y));
                let weights = |weights: &[f32]| Spot::Far(self.encoder.weights(weights));
                let of = |each: usize| (range.0 * each, range.1 * each);
                let window = of_state(conv.window);
                let tap = self.vector(block, weights(conv.taps), of(taps), side);
                let bias = self.vector(block, weights(conv.bias), of(1), side);
                self.ahead(
                    block,
                    window.plus(4 * of(taps - 1).0 as i64),
                    4 * (range.1 - range.0) * (taps - 1),
                );
                block.words.begin(MoveKind::Conv, waits, range, taps);
                block.words.target(target);
                block.words.spot(from);
                block.words.spot(tap);
                block.words.spot(bias);
                block.words.spot(window);
                block.words.end();
            }
            Op::Heads(heads)
                if heads.steps == 1
                    && heads.seen.is_none()
                    && heads.n_key.is_multiple_of(16)
                    && heads.n_key <= HEAD_SIDE
                    && heads.n_value <= HEAD_SIDE =>
            {
                self.heads(block, mine, heads, waits, side);
            }
            _ => self.other(block, mine),
        }
    }

    fn pack(
        &self,
        block: &mut Block,
        item: Item,
        (f, y): (&Formula<'m>, Inputs),
        waits: bool,
        side: (usize, usize),
    ) {
        let k = self.encoder.list.k(y);
        let far = self.encoder.inputs(y);
        let thing = Thing::Inputs(y);
        let own = k.div_ceil(GROUP);
        let mut range = range(item.pieces, own);
        let all = (range.0 * GROUP, (range.1 * GROUP).min(k));
        let spots = self.terms(block, &item, f, all, side);
        let sizes = [(far.int8, INT8_GROUP), (far.f32, 4 * GROUP), (far.bf16, 2 * GROUP)];
        let bytes: usize = sizes.iter().filter(|s| s.0 != 0).map(|s| s.1 * groups(k)).sum();
        if item.scope == 0 && !self.escapes(item.op, thing) {
            // With what pads it.
            if self.take(block, item, thing, bytes, 0).is_some() {
                range.1 = groups(k);
            }
        }
        let as_reader = block.near.iter().find(|v| (v.0, v.1) == (item.op, thing)).map(|v| v.3);
        let mut at = as_reader;
        let targets = sizes.map(|(is, bytes)| match (&mut at, is) {
            (_, 0) => Spot::None,
            (None, far) => Spot::Far(far),
            (Some(at), _) => {
                let here = Spot::Near(*at);
                *at += (groups(k) * bytes) as i64;
                here
            }
        });
        block.words.begin(MoveKind::Pack, waits, range, k);
        targets.into_iter().for_each(|spot| block.words.spot(spot));
        block.words.u32(u32::from(self.is_by_four(f, k, &spots)));
        block.words.u32(0);
        self.expression(block, f, &spots);
        block.words.end();
    }

    /// Elements from … to … of a vector that no stage writes soon: near, if they can be.
    pub(super) fn vector(
        &self,
        block: &mut Block,
        from: Spot,
        (begin, end): (usize, usize),
        side: (usize, usize),
    ) -> Spot {
        if side.1 == usize::MAX || end <= begin {
            return from;
        }
        let (first, bytes) = (4 * begin as i64, 4 * (end - begin));
        let mine = from.plus(first);
        let is_whole = bytes.is_multiple_of(16)
            && matches!(mine, Spot::Far(_) | Spot::State(_))
            && mine.is_whole();
        if is_whole {
            self.bring(block, mine, bytes, side).plus(-first)
        } else {
            self.ahead(block, mine, bytes);
            from
        }
    }

    /// Where the terms of a formula stand, of which elements from … to … are read.
    fn terms(
        &self,
        block: &mut Block,
        item: &Item,
        f: &Formula<'m>,
        range: (usize, usize),
        side: (usize, usize),
    ) -> Vec<(Spot, u32, f32)> {
        f.terms()
            .map(|term| match term {
                Term::Number(number) => (Spot::None, 0, number),
                Term::Weights { from, each } => {
                    let mut spot = Spot::Far(self.encoder.weights(from));
                    if each == 1 && range.1 <= from.len() {
                        spot = self.vector(block, spot, range, side);
                    }
                    (spot, each_of(each), 0.0)
                }
                Term::Values { from, first, each } => {
                    let spot = self.values_of(block, item, from);
                    (spot.plus(4 * first as i64), each_of(each), 0.0)
                }
                // The state changes in a stage behind this one.
                Term::Before { state, .. } => {
                    let is_alone = self.states.get(&state.into()).is_some_and(|n| *n == 1);
                    let spot = of_state(state);
                    let is_here = is_alone && range.1 <= state.len();
                    let spot = if is_here { self.vector(block, spot, range, side) } else { spot };
                    (spot, 1, 0.0)
                }
            })
            .collect()
    }

    /// Whether four activations side by side can be read at once (`PackMove`).
    fn is_by_four(&self, f: &Formula<'m>, k: usize, terms: &[(Spot, u32, f32)]) -> bool {
        let is_whole = |(spot, each, _): &(Spot, u32, f32)| match *each {
            0 => true,
            1 => spot.is_whole(),
            each => (3..=32).contains(&each),
        };
        let CardOp { formula, .. } = self.encoder.formula(f, &mut Vec::new());
        formula != u32::MAX && k.is_multiple_of(4) && terms.iter().all(is_whole)
    }

    fn expression(&self, block: &mut Block, f: &Formula<'m>, terms: &[(Spot, u32, f32)]) {
        let CardOp { steps, formula, .. } = self.encoder.formula(f, &mut Vec::new());
        let words = &mut block.words;
        words.u32(formula);
        words.u32(terms.len() as u32);
        steps.into_iter().for_each(|n| words.u64(n));
        for (spot, each, number) in terms {
            words.spot(*spot);
            words.u32(*each);
            words.f32(*number);
        }
    }
}

/// Where a slot of a state begins.
pub(super) fn of_state(slot: SlotRef) -> Spot {
    Spot::State(64 * u64::from(line(slot)))
}

/// Bytes of the lanes of a long norm (`token_rows.cuh`).
fn long_norm_bytes(n: usize) -> usize {
    let apart = (n / 16 + 27) / 32 * 32 + 4;
    4 * 16 * apart
}

/// Elements that share a value, as a card divides by them.
fn each_of(each: usize) -> u32 {
    match each {
        0 => 1,
        each if each.is_power_of_two() => 1 + each.trailing_zeros(),
        each => 256 + each as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_divided_by_shifts_where_they_can_be() {
        assert_eq!([1, 2, 64, 80].map(each_of), [1, 2, 7, 336]);
    }
}
