//! Operations of one token that have no move of their own: those of `run.cu`, with pointers to
//! where their values stand. See `token_moves.rs`.

use std::mem::offset_of;

use super::program::Addresses;
use super::structs::{CardInputs, CardOfHead, CardOp, CardValues};
use super::token::{Block, Item, Planner, range};
use super::token_moves::Mine;
use super::token_words::{MoveKind, Spot, formula_number};
use crate::kernels::lanes::WIDTH;
use crate::ops::{DecayOp, DeltaOp, Inputs, Op, Thing, Values};

impl<A: Addresses> Planner<'_, '_, A> {
    /// One place for what an operation of `run.cu` writes: near, if nobody else reads it.
    fn single(&self, block: &mut Block, item: Item, values: Values) -> Spot {
        let thing = Thing::Values(values);
        let far = Spot::Far(self.encoder.values(values).first);
        // What it changes in place stays where it is.
        let reads = self.encoder.list.touched(item.op).0;
        if reads.iter().any(|(read, _)| *read == thing) {
            return match self.find(&block.near, &item, thing) {
                Some(at) => {
                    block.near.push((item.op, thing, item.scope, at));
                    Spot::Near(at)
                }
                None => far,
            };
        }
        if self.escapes(item.op, thing) || !self.is_read_here(item, thing) {
            return far;
        }
        let (begin, end) = range(item.pieces, self.encoder.list.rows(values));
        let bytes = 4 * (end - begin).next_multiple_of(WIDTH);
        self.take(block, item, thing, bytes, 4 * begin as i64).map_or(far, Spot::Near)
    }

    /// Values that others read, too, if they stand near.
    fn copied(&self, item: Item, spot: Spot, values: Values) -> Option<(Spot, Values)> {
        let is_far = spot == Spot::Far(self.encoder.values(values).first);
        (self.escapes(item.op, Thing::Values(values)) && !is_far).then_some((spot, values))
    }

    /// An operation of `run.cu`.
    pub(super) fn other(&self, block: &mut Block, (item, is_far): Mine) {
        let list = self.encoder.list;
        let op = &list.ops()[item.op];
        let card = self.encoder.op(op, &mut Vec::new());
        let mut elsewhere = Vec::new();
        let values_at = offset_of!(CardValues, first);
        let y_at = offset_of!(CardOp, y) + values_at;
        let x_at = offset_of!(CardOp, x) + values_at;
        let head_at = |field: usize| field + offset_of!(CardOfHead, from);
        let of = |values: &Values| self.values_of(block, &item, *values);
        // What it writes; others may have to find it, too.
        let mut copied = None;
        let mut write = |block: &mut Block, values| {
            let spot = self.single(block, item, values);
            copied = self.copied(item, spot, values);
            spot
        };
        let at = offset_of!(CardOp, inputs);
        let forms = [
            at + offset_of!(CardInputs, int8),
            at + offset_of!(CardInputs, f32),
            at + offset_of!(CardInputs, bf16),
        ];
        let inputs = |x: Inputs| forms.into_iter().zip(self.inputs_of(&block.near, &item, x));
        match op {
            Op::Embed { y, .. } | Op::Gather { y, .. } => {
                if let Op::Gather { x, .. } = op {
                    elsewhere.push((x_at, of(x)));
                }
                // Near for this block, and by one block for all.
                let [near, far] = self.target(block, item, *y, is_far, list.rows(*y));
                let places: Vec<Spot> =
                    [near, far].into_iter().filter(|spot| *spot != Spot::None).collect();
                for spot in places {
                    let mut elsewhere = elsewhere.clone();
                    elsewhere.push((y_at, spot));
                    self.other_words(block, item, card, &elsewhere);
                }
                return;
            }
            Op::Project { x, y, .. } => {
                elsewhere.extend(inputs(*x));
                elsewhere.push((y_at, write(block, *y)));
            }
            Op::Scan(scan) => {
                elsewhere.push((x_at, of(&scan.x)));
                elsewhere.push((head_at(offset_of!(CardOp, k)), of(&scan.b_c)));
                elsewhere.push((y_at, write(block, scan.delta_y)));
            }
            Op::Average(average) => {
                elsewhere.push((head_at(offset_of!(CardOp, k)), of(&average.k)));
                elsewhere.push((head_at(offset_of!(CardOp, v)), of(&average.v)));
                elsewhere.push((y_at, write(block, average.y)));
            }
            Op::Heads(heads) => {
                let mut vectors = vec![
                    (offset_of!(CardOp, r), heads.r.from),
                    (offset_of!(CardOp, k), heads.k.from),
                    (offset_of!(CardOp, v), heads.v.from),
                ];
                match heads.decay {
                    DecayOp::PerHead(x) => vectors.push((offset_of!(CardOp, decay), x)),
                    DecayOp::PerKey(of) => vectors.push((offset_of!(CardOp, decay), of.from)),
                }
                match heads.delta {
                    None => {}
                    Some(DeltaOp::General { a, b }) => vectors
                        .extend([(offset_of!(CardOp, a), a.from), (offset_of!(CardOp, b), b.from)]),
                    Some(DeltaOp::Rule { factor }) => {
                        elsewhere.push((offset_of!(CardOp, factor) + values_at, of(&factor)));
                    }
                }
                elsewhere.extend(vectors.iter().map(|(at, values)| (head_at(*at), of(values))));
                if let Some((seen, _)) = heads.seen {
                    elsewhere.push((x_at, of(&seen)));
                }
                if let Some(scale) = heads.scale {
                    elsewhere.push((offset_of!(CardOp, scale) + values_at, of(&scale)));
                }
                elsewhere.push((y_at, write(block, heads.y)));
            }
            Op::Turn(turn) => {
                elsewhere.push((x_at, of(&turn.angles)));
                elsewhere.push((y_at, write(block, turn.x)));
            }
            Op::Remember(remember) => {
                elsewhere.push((head_at(offset_of!(CardOp, k)), of(&remember.k)));
                if let Some(v) = &remember.v {
                    elsewhere.push((head_at(offset_of!(CardOp, v)), of(v)));
                }
            }
            Op::Attend(attend) => {
                elsewhere.push((x_at, of(&attend.q)));
                let more = [
                    (offset_of!(CardOp, scale), attend.relative.map(|relative| relative.mix)),
                    (offset_of!(CardOp, factor), attend.chosen.map(|(blocks, _)| blocks)),
                ];
                let more = more.into_iter().filter_map(|(at, values)| Some((at, values?)));
                elsewhere.extend(more.map(|(at, values)| (at + values_at, of(&values))));
                elsewhere.push((y_at, write(block, attend.y)));
            }
            Op::Place(place) => {
                let fields = [offset_of!(CardOp, r), offset_of!(CardOp, k), offset_of!(CardOp, v)];
                let parts = fields.into_iter().zip(&place.parts);
                elsewhere.extend(parts.map(|(at, part)| (head_at(at), of(&part.from))));
                elsewhere.push((y_at, write(block, place.y)));
            }
            Op::Slots(slots) => {
                let vectors = [
                    (offset_of!(CardOp, r), slots.q),
                    (offset_of!(CardOp, k), slots.k),
                    (offset_of!(CardOp, v), slots.share),
                    (offset_of!(CardOp, decay), slots.decay),
                ];
                elsewhere.extend(vectors.map(|(at, vector)| (head_at(at), of(&vector.from))));
                elsewhere.push((y_at, write(block, slots.y)));
            }
            Op::Conv(conv) => {
                if let Some(seen) = conv.seen {
                    elsewhere.push((x_at, of(&seen)));
                }
                elsewhere.push((y_at, write(block, conv.y)));
            }
            Op::Spread(spread) => {
                elsewhere.push((x_at, of(&spread.chosen)));
                elsewhere.push((offset_of!(CardOp, scale) + values_at, of(&spread.from)));
                elsewhere.push((y_at, write(block, spread.y)));
            }
            Op::Mesa(mesa) => {
                let vectors = [
                    (offset_of!(CardOp, r), mesa.q),
                    (offset_of!(CardOp, k), mesa.k),
                    (offset_of!(CardOp, v), mesa.v),
                    (offset_of!(CardOp, decay), mesa.decay),
                    (offset_of!(CardOp, a), mesa.beta),
                ];
                elsewhere.extend(vectors.map(|(at, vector)| (head_at(at), of(&vector.from))));
                elsewhere.push((y_at, write(block, mesa.y)));
            }
            Op::Spin(spin) => {
                elsewhere.push((x_at, of(&spin.speed)));
                elsewhere.push((offset_of!(CardOp, scale) + values_at, of(&spin.step)));
                elsewhere.push((y_at, write(block, spin.y)));
            }
            Op::Levels(levels) => {
                let vectors = [
                    (offset_of!(CardOp, r), levels.r.from),
                    (offset_of!(CardOp, k), levels.k.from),
                    (offset_of!(CardOp, v), levels.v.from),
                    (offset_of!(CardOp, decay), levels.decay),
                ];
                elsewhere.extend(vectors.map(|(at, values)| (head_at(at), of(&values))));
                elsewhere.push((x_at, of(&levels.weights)));
                elsewhere.push((offset_of!(CardOp, scale) + values_at, of(&levels.scale)));
                elsewhere.push((y_at, write(block, levels.y)));
            }
            Op::Cells(cells) => {
                elsewhere.push((x_at, of(&cells.x)));
                elsewhere.push((offset_of!(CardOp, scale) + values_at, write(block, cells.y)));
            }
            Op::Ngrams(ngrams) => elsewhere.push((y_at, write(block, ngrams.y))),
            Op::Best(best) => {
                elsewhere.push((x_at, of(&best.q)));
                elsewhere.push((y_at, write(block, best.y)));
            }
            Op::Past(past) => {
                elsewhere.push((x_at, of(&past.x)));
                elsewhere.push((y_at, write(block, past.y)));
            }
            Op::HeadConvs(convs) => {
                elsewhere.push((x_at, of(&convs.x)));
                elsewhere.push((y_at, write(block, convs.y)));
            }
            Op::Blocks(blocks) => {
                elsewhere.push((x_at, of(&blocks.x)));
                elsewhere.push((y_at, write(block, blocks.y)));
            }
            Op::Exact(exact) => {
                elsewhere.push((x_at, of(&exact.x)));
                elsewhere.push((y_at, write(block, exact.y)));
            }
            Op::Choose(choose) => {
                elsewhere.push((x_at, of(&choose.scores)));
                // Near for this block, and by one block for all.
                let mut targets = |y| self.target(block, item, y, is_far, list.rows(y));
                let [chosen, weights] = [targets(choose.chosen), targets(choose.weights)];
                let both = chosen.into_iter().zip(weights);
                for (y, w) in both.filter(|both| *both != (Spot::None, Spot::None)) {
                    let mut elsewhere = elsewhere.clone();
                    let weights_at = offset_of!(CardOp, scale) + values_at;
                    elsewhere.extend([(y_at, y), (weights_at, w)]);
                    self.other_words(block, item, card, &elsewhere);
                }
                return;
            }
            Op::Experts(experts) => {
                elsewhere.extend(inputs(experts.x));
                if let Some(chosen) = experts.chosen {
                    elsewhere.push((x_at, of(&chosen)));
                }
                match experts.sum {
                    None => elsewhere.push((y_at, write(block, experts.y))),
                    Some((weights, into)) => {
                        elsewhere.push((offset_of!(CardOp, scale) + values_at, of(&weights)));
                        let factor_at = offset_of!(CardOp, factor) + values_at;
                        elsewhere.push((factor_at, write(block, into)));
                    }
                }
            }
            _ => {}
        }
        self.other_words(block, item, card, &elsewhere);
        if let Some((from, values)) = copied {
            let range = range(item.pieces, list.rows(values));
            let words = &mut block.words;
            words.begin(MoveKind::Map, true, range, 0);
            words.target([Spot::None, Spot::Far(self.encoder.values(values).first)]);
            words.u32(formula_number([1, 0]));
            words.u32(1);
            [1, 0].into_iter().for_each(|n| words.u64(n));
            words.spot(from);
            words.u32(1);
            words.u32(0);
            words.end();
        }
    }

    fn other_words(
        &self,
        block: &mut Block,
        item: Item,
        card: CardOp,
        elsewhere: &[(usize, Spot)],
    ) {
        let (begin, end, of) = item.pieces;
        block.words.begin(MoveKind::Other, true, (begin, end), of);
        block.words.op(card, elsewhere);
        block.words.end();
        block.is_room_used = true;
    }
}
