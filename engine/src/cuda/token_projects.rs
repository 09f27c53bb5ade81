//! Products of one token: tiles of matrices as moves that run together, and what of their codes
//! comes near. See `token.rs`.

use brooklet_formats::DType;

use super::program::{Addresses, groups};
use super::token::{Block, Item, PART, Planner, THREADS, range};
use super::token_words::{MoveKind, Spot};
use crate::kernels::lanes::WIDTH;
use crate::ops::Op;
use crate::tensor::Matrix;

impl<A: Addresses> Planner<'_, '_, A> {
    /// Integer products of a level, as many together as there is room for.
    pub(super) fn projects(
        &self,
        block: &mut Block,
        items: &[(Item, bool)],
        waits: bool,
        side: (usize, usize),
    ) -> Option<()> {
        let most = self.rooms.parts / PART;
        // Where the first move of those that run together stands, how many, their parts and rows.
        let (mut first, mut together, mut parts, mut rows) = (None::<usize>, 0, 0, 0);
        let mut waits = waits;
        for (item, _) in items {
            let Op::Project { w, x, y } = &self.encoder.list.ops()[item.op] else { continue };
            let target = self.target(block, *item, *y, true, w.layout().n_tiles() * WIDTH);
            let tiles = w.layout().n_tiles();
            let (begin, end) = range(item.pieces, tiles);
            let layout = w.layout();
            let steps = layout.dtype.has_steps();
            let block_of = if steps { 32 } else { layout.group.min(64) };
            let each = layout.n_pairs() * 2 * layout.group / block_of;
            if each > most {
                return None;
            }
            let card = self.encoder.matrix(w);
            let tile_bytes = layout.tile_bytes();
            let scale_bytes = if steps { 32 + 32 * layout.n_pairs() } else { 0 };
            let mut tile = begin;
            while tile < end {
                if parts + each > most || rows + WIDTH > THREADS {
                    if let Some(at) = first {
                        block.words.put_u32(at + 148, together);
                    }
                    (first, together, parts, rows) = (None, 0, 0, 0);
                }
                let here = ((most - parts) / each).min((THREADS - rows) / WIDTH).min(end - tile);
                let codes = Spot::Far(card.tiles + (tile * tile_bytes) as u64);
                let scales = Spot::Far(card.sheet + 64 + (tile * scale_bytes) as u64);
                let is_fast = matches!(layout.dtype, DType::Int4 | DType::Int8);
                // All of them near, or as many as there is room for.
                let mut here = here;
                let (codes, scales) = if !is_fast {
                    self.ahead(block, codes, here * tile_bytes);
                    (codes, scales)
                } else {
                    let room = self.rooms.ring.min(self.rooms.ring * 3 / 4);
                    let left = room.min(self.rooms.ring.saturating_sub(side.1));
                    let left = left.saturating_sub(block.ring_used);
                    let fit = left / (tile_bytes + scale_bytes);
                    if fit > 0 && fit < here {
                        here = fit;
                    }
                    let near = self.bring(block, codes, here * tile_bytes, side);
                    if steps {
                        (near, self.bring(block, scales, here * scale_bytes, side))
                    } else {
                        (near, scales)
                    }
                };
                let must = first.is_none() && (waits || block.is_room_used);
                block.words.begin(MoveKind::Project, must, (tile, tile + here), parts);
                let at = block.words.len() - 16;
                if first.is_none() {
                    (first, block.is_room_used, waits) = (Some(at), true, false);
                }
                let words = &mut block.words;
                words.u64(card.tiles);
                words.u64(card.sheet);
                [card.format, card.rows, card.cols, card.group, card.pair_bytes, card.pairs]
                    .into_iter()
                    .for_each(|n| words.u32(n));
                let of_x = self.inputs_of(&block.near, item, *x);
                of_x.into_iter().for_each(|spot| block.words.spot(spot));
                let k = self.encoder.list.k(*x);
                let words = &mut block.words;
                words.u32(k as u32);
                words.u32(groups(k) as u32);
                words.target(target);
                words.spot(codes);
                words.spot(scales);
                table(w).into_iter().for_each(|n| words.u32(n));
                words.u32(each as u32);
                words.u32((1u64 << 32).div_ceil(each as u64) as u32);
                words.u32(rows as u32);
                words.u32(0);
                words.u64(0);
                words.end();
                parts += here * each;
                rows += here * WIDTH;
                together += 1;
                tile += here;
                block.parts_used = block.parts_used.max(parts * PART);
            }
        }
        if let Some(at) = first {
            block.words.put_u32(at + 148, together);
        }
        Some(())
    }
}

/// Whether sums of its products are exact.
pub(super) fn is_integer(w: &Matrix) -> bool {
    use DType::*;
    matches!(w.layout().dtype, Int8 | Int4V1 | Int4 | Int5 | Int6)
}

/// The values, plus 32, of int4's codes.
fn table(w: &Matrix) -> [u32; 4] {
    let layout = w.layout();
    if layout.dtype != DType::Int4 {
        return [0; 4];
    }
    let table = w.table();
    let at = |i: usize| u32::from_le_bytes(std::array::from_fn(|j| table[4 * i + j])) & 0x3f3f_3f3f;
    [0, 1, 2, 3].map(at)
}
