//! Heads of one token as moves. See `token_moves.rs`.

use brooklet_formats::DType;

use super::program::Addresses;
use super::token::{Block, Planner, ROOM, THREADS, range};
use super::token_moves::{Mine, of_state};
use super::token_words::{MoveKind, Spot};
use crate::ops::{DecayOp, DeltaOp, HeadsOp, OfHead};

/// Keys that a thread of `token_heads.cuh` reads at once, and numbers that are seen at once.
const KEYS: u32 = 16;
const SEEN: u32 = 4096;
/// Keys and values of a head at most: with more there is no room for what is seen of sixteen keys.
pub(super) const HEAD_SIDE: usize = (SEEN / KEYS) as usize;
// Five numbers of each key, two of each value, and what is seen.
const _: () = assert!(4 * (7 * HEAD_SIDE + SEEN as usize) <= ROOM);

/// What `divided` in `token.cuh` takes for a divisor.
fn inverse(n: u32) -> u32 {
    if n == 1 { 0 } else { (1_u64 << 32).div_ceil(n.into()) as u32 }
}

impl<'m, A: Addresses> Planner<'_, 'm, A> {
    /// The words of a block's heads; their states come near, where nothing else touches them.
    pub(super) fn heads(
        &self,
        block: &mut Block,
        (item, is_far): Mine,
        heads: &HeadsOp<'m>,
        waits: bool,
        side: (usize, usize),
    ) {
        let list = self.encoder.list;
        let range = range(item.pieces, heads.n_head);
        let numbers = |of: OfHead| {
            let spot = self.values_of(block, &item, of.from).plus(4 * of.first as i64);
            (spot, of.step as u32, of.share as u32)
        };
        let none = (Spot::None, 0, 1);
        let (decay, per_key) = match heads.decay {
            DecayOp::PerHead(values) => (numbers(OfHead::own(values, 1)), 0),
            DecayOp::PerKey(of) => (numbers(of), 1),
        };
        let (a, b, factor, delta) = match heads.delta {
            None => (none, none, Spot::None, 0),
            Some(DeltaOp::General { a, b }) => (numbers(a), numbers(b), Spot::None, 1),
            Some(DeltaOp::Rule { factor }) => (none, none, self.values_of(block, &item, factor), 2),
        };
        let vectors = [numbers(heads.r), numbers(heads.k), numbers(heads.v), decay, a, b];
        let scale = heads.scale.map_or(Spot::None, |scale| self.values_of(block, &item, scale));
        let target = self.target(block, item, heads.y, is_far, list.rows(heads.y));
        let is_half = heads.state.dtype() == DType::F16;
        let each = heads.n_key * heads.n_value * if is_half { 2 } else { 4 };
        let state = of_state(heads.state);
        let mine = state.plus((range.0 * each) as i64);
        let is_alone = self.states.get(&heads.state.into()).is_some_and(|n| *n == 1);
        let bytes = (range.1 - range.0) * each;
        let held = if is_alone && bytes.is_multiple_of(16) {
            self.bring(block, mine, bytes, side)
        } else {
            mine
        };
        let must = waits || block.is_room_used;
        block.words.begin(MoveKind::Heads, must, range, 0);
        block.is_room_used = true;
        let words = &mut block.words;
        words.target(target);
        for (spot, step, share) in vectors {
            words.spot(spot);
            words.u32(step);
            words.u32(inverse(share));
        }
        words.spot(scale);
        words.spot(factor);
        words.spot(heads.bonus.map_or(Spot::None, |bonus| Spot::Far(self.encoder.weights(bonus))));
        words.spot(state);
        words.spot(if let Spot::Near(_) = held { held } else { Spot::None });
        let n_value = heads.n_value as u32;
        let n = [heads.n_key as u32, n_value, u32::from(is_half), per_key, delta];
        let shares =
            [inverse(n_value), THREADS as u32 / n_value, SEEN / n_value / KEYS * KEYS, 0, 0];
        n.into_iter().chain(shares).for_each(|n| words.u32(n));
        words.end();
    }
}

#[cfg(test)]
mod tests {
    use super::{HEAD_SIDE, inverse};

    #[test]
    fn an_inverse_divides_all_that_has_sixteen_bits() {
        for divisor in (1..=HEAD_SIDE as u32).chain([1 << 15, 65535]) {
            let inverse = inverse(divisor);
            let divided = |n: u32| {
                if inverse == 0 { n } else { ((u64::from(n) * u64::from(inverse)) >> 32) as u32 }
            };
            for n in 0..1 << 16 {
                assert_eq!(divided(n), n / divisor, "{n} / {divisor}");
            }
        }
    }
}
