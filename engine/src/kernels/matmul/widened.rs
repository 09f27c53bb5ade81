//! f16 with many columns: each part of a tile is widened to f32 once, and multiplied with all of
//! them from the first-level cache. The conversion shares units with multiply-adds, and blocks of
//! eight columns would repeat it for each.
//!
//! ```text
//! for each tile, and for the next COLUMNS columns:
//!     for each PART of k:
//!         widen the part
//!         for the next 8 columns: chains += part · x          between parts, chains are in memory
//!     y = even chain + odd chain
//! ```
//!
//! The order of every sum is that of `float.rs`, which has few columns. Test: `tests.rs`.

use brooklet_formats::quant::{TILE_ROWS, VECTOR_BYTES};

use super::product::Product;
use crate::kernels::simd::{Simd, registers};

/// Fewer columns are no faster so.
const FEWEST: usize = 32;

/// Columns of weights that are widened at once: 16 KB, which leave room for activations.
const PART: usize = 256;

/// Columns of activations with which a part is multiplied.
const COLUMNS: usize = 64;

/// Two columns of a tile: those of each register of rows are neighbours, as its halves.
const PAIR: usize = 2 * TILE_ROWS;

#[repr(align(64))]
struct Aligned<T>(T);

/// The kernel, of at most `MOST` columns at once. Says whether there are enough columns for it.
#[inline(always)]
pub(super) fn widened<S: Simd, const MOST: usize>(s: S, product: &Product<'_, f32>) -> bool {
    let (tiles, x, y) = (product.tiles(), product.x(), product.y());
    if y.columns() < FEWEST {
        return false;
    }
    let mut wide = Aligned([0.0; TILE_ROWS * PART]);
    let mut chains = Aligned([[0.0; PAIR]; COLUMNS]);
    for (t, tile) in tiles.iter().enumerate() {
        for first in (0..y.columns()).step_by(COLUMNS) {
            let columns = COLUMNS.min(y.columns() - first);
            let chains = &mut chains.0[..columns];
            chains.as_flattened_mut().fill(0.0);
            for (p, part) in tile.chunks(2 * TILE_ROWS * PART).enumerate() {
                let wide = &mut wide.0[..part.len() / 2];
                widen(s, part, wide);
                let mut ahead = Ahead::new(part, columns);
                let mut c = 0;
                while c < columns {
                    ahead.fetch(s);
                    let at = x.as_ptr().wrapping_add((first + c) * x.stride() + PART * p);
                    let (left, chains) = (columns - c, &mut chains[c..]);
                    // SAFETY: these columns are the product's, of whose activations there are as
                    // many as weights (`Product::new`).
                    c += unsafe {
                        match left {
                            8.. if MOST >= 8 => add::<S, 8>(s, wide, at, x.stride(), chains),
                            4.. => add::<S, 4>(s, wide, at, x.stride(), chains),
                            2.. => add::<S, 2>(s, wide, at, x.stride(), chains),
                            _ => add::<S, 1>(s, wide, at, x.stride(), chains),
                        }
                    };
                }
            }
            for (c, chains) in chains.iter().enumerate() {
                y.write(t, 0, first + c, &sums(s, chains));
            }
        }
    }
    true
}

/// The bytes behind a part, which are fetched while it is multiplied.
struct Ahead {
    next: *const u8,
    /// Cache lines for each block of columns.
    lines: usize,
}

impl Ahead {
    fn new(part: &[u8], columns: usize) -> Ahead {
        let lines = (part.len() / VECTOR_BYTES).div_ceil(columns.div_ceil(8));
        Ahead { next: part.as_ptr_range().end, lines }
    }

    #[inline(always)]
    fn fetch<S: Simd>(&mut self, s: S) {
        for _ in 0..self.lines {
            s.prefetch(self.next);
            self.next = self.next.wrapping_add(VECTOR_BYTES);
        }
    }
}

/// Overwrites `wide` with the numbers of `part`.
#[inline(always)]
fn widen<S: Simd>(s: S, part: &[u8], wide: &mut [f32]) {
    for (part, wide) in part.chunks_exact(2 * S::LANES).zip(wide.chunks_exact_mut(S::LANES)) {
        // SAFETY: the part's piece has a register's f16, and `wide`'s its f32.
        unsafe { s.store(wide.as_mut_ptr(), s.load_f16(part.as_ptr())) }
    }
}

/// `chains` += w · x for `C` columns; returns `C`.
///
/// # Safety
/// `C` columns of activations for all of `wide` can be read from `x` on, `stride` apart.
#[inline(always)]
unsafe fn add<S: Simd, const C: usize>(
    s: S,
    wide: &[f32],
    x: *const f32,
    stride: usize,
    chains: &mut [[f32; PAIR]],
) -> usize {
    let chains = &mut chains[..C];
    for r in 0..TILE_ROWS / S::LANES {
        let mut sums = [[s.splat(0.0); 2]; C];
        for (sums, chains) in sums.iter_mut().zip(&*chains) {
            *sums = halves(s, chains, r);
        }
        for (i, w) in wide.as_chunks().0.iter().enumerate() {
            let w = halves(s, w, r);
            for (c, sums) in sums.iter_mut().enumerate() {
                let x = x.wrapping_add(c * stride + 2 * i);
                // SAFETY: a pair of activations can be read: promised (Safety). It need not be
                // aligned, and any bits are an f64.
                let pair = s.splat_pair(unsafe { x.cast::<f64>().read_unaligned() });
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = s.mul_add(w, pair, *sum);
                }
            }
        }
        for (sums, chains) in sums.iter().zip(&mut *chains) {
            let chains = &mut chains[2 * S::LANES * r..][..2 * S::LANES];
            for (sum, chain) in sums.iter().zip(chains.chunks_exact_mut(S::LANES)) {
                // SAFETY: the chain has a register's lanes.
                unsafe { s.store(chain.as_mut_ptr(), *sum) }
            }
        }
    }
    C
}

/// The halves of register `r` of rows.
#[inline(always)]
fn halves<S: Simd>(s: S, pair: &[f32; PAIR], r: usize) -> [S::F; 2] {
    let pair = &pair[2 * S::LANES * r..][..2 * S::LANES];
    registers(
        #[inline(always)]
        // SAFETY: both halves, a register each, are in the slice.
        |half| s.float(unsafe { s.load(pair[S::LANES * half..].as_ptr().cast()) }),
    )
}

/// Even columns + odd columns, of each row.
#[inline(always)]
fn sums<S: Simd>(s: S, chains: &[f32; PAIR]) -> [f32; TILE_ROWS] {
    let mut rows = [0.0; TILE_ROWS];
    for (r, rows) in rows.chunks_exact_mut(S::LANES).enumerate() {
        let [even, odd] = halves(s, chains, r);
        // SAFETY: these are a register's rows.
        unsafe { s.store(rows.as_mut_ptr(), s.add_pairs(even, odd)) }
    }
    rows
}
