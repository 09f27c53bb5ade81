//! Parts of tiles, put together of a matrix in columns: see `columns.rs`.

use std::ops::Range;

use brooklet_formats::quant::{TILE_ROWS, TileLayout, VECTOR_BYTES};

use super::columns::{Columns, InColumns, interleave};
use crate::kernels::simd::{Simd, registers};

/// Columns that stand side by side, of any group.
const RUN: usize = 32;

/// Some inputs of some lines of rows, and where their tiles go: codes, and what the sheet of scales
/// has of them.
pub(super) struct Put<'a> {
    pub(super) w: Columns<'a>,
    pub(super) lines: Range<usize>,
    pub(super) inputs: Range<usize>,
    /// Of these inputs alone.
    pub(super) layout: &'a TileLayout,
    pub(super) codes: &'a mut [u8],
    pub(super) sheet: &'a mut [u8],
    /// Whether nobody has fetched them.
    pub(super) fetches: bool,
}

/// The inputs that are put together next, which come while others are multiplied.
pub(super) struct Fetch<'a> {
    pub(super) w: Columns<'a>,
    pub(super) lines: Range<usize>,
    pub(super) inputs: Range<usize>,
}

impl Fetch<'_> {
    /// Fetches the `i`-th of `n` equal shares.
    #[inline(always)]
    pub(super) fn run<S: Simd>(&self, s: S, i: usize, n: usize) {
        let Columns { layout, at, bytes, .. } = self.w;
        let runs = self.inputs.len() / RUN;
        for run in runs * i / n..runs * (i + 1) / n {
            let first = at.column(layout.group, self.inputs.start + RUN * run);
            for column in 0..RUN {
                let column = bytes.as_ptr().wrapping_add(first + column * at.column_bytes);
                for line in self.lines.clone() {
                    s.prefetch(column.wrapping_add(VECTOR_BYTES * line));
                }
            }
        }
    }
}

impl Put<'_> {
    /// Puts the tiles together, in the order in which memory has them.
    #[inline(always)]
    pub(super) fn run<S: Simd, K: InColumns>(mut self, s: S) {
        for first in (0..self.inputs.len()).step_by(4 * K::HALVES) {
            if first.is_multiple_of(self.layout.group) {
                self.scales::<S, K>(s, first / self.layout.group);
            }
            self.codes::<S, K>(s, first);
        }
        if K::HAS_STEPS {
            let bytes = self.w.bytes;
            let row = K::TILES * TILE_ROWS * self.lines.start;
            for (t, sheet) in self.sheet.chunks_exact_mut(self.layout.scale_bytes()).enumerate() {
                if t < K::TILES * self.lines.len() {
                    let from = VECTOR_BYTES + 2 * (row + TILE_ROWS * t);
                    sheet[..2 * TILE_ROWS].copy_from_slice(&bytes[from..][..2 * TILE_ROWS]);
                }
            }
        }
    }

    /// The columns of a vector of the tiles, from the `first`-th input on.
    #[inline(always)]
    fn codes<S: Simd, K: InColumns>(&mut self, s: S, first: usize) {
        let Columns { layout: whole, at, bytes, .. } = self.w;
        let (layout, n) = (self.layout, 4 * K::HALVES);
        let column = at.column(whole.group, self.inputs.start + first);
        let columns = bytes[column..][..n * at.column_bytes].as_ptr();
        let (group, within) = (first / layout.group, first % layout.group);
        let pair = group / 2 * layout.pair_bytes() + group % 2 * layout.group_bytes();
        let vector = pair + VECTOR_BYTES * (within / n);
        for i in 0..if self.fetches { n } else { 0 } {
            for line in self.lines.clone() {
                let line = columns.wrapping_add(i * at.column_bytes + VECTOR_BYTES * line);
                s.prefetch(line.wrapping_add(at.block_bytes));
            }
        }
        let tile_bytes = layout.tile_bytes();
        assert!(self.lines.len() * K::TILES * tile_bytes <= self.codes.len());
        assert!(vector + VECTOR_BYTES <= tile_bytes);
        for (tile, line) in self.lines.clone().enumerate() {
            for lane in (0..TILE_ROWS).step_by(S::LANES) {
                let from = columns.wrapping_add(VECTOR_BYTES * line + 4 * lane);
                let to = self.codes.as_mut_ptr();
                let to = to.wrapping_add(K::TILES * tile * tile_bytes + vector + 4 * lane);
                // SAFETY: `n` columns stand there, of which the line is a part.
                // The lines' tiles have their places, and the vector has its in each: asserted.
                unsafe {
                    let low = interleave(
                        s,
                        registers(
                            #[inline(always)]
                            |i| s.load(from.wrapping_add(i * at.column_bytes)),
                        ),
                    );
                    if K::HALVES == 1 {
                        for (i, low) in low.iter().enumerate() {
                            s.store(to.add(i * tile_bytes).cast(), s.float(*low));
                        }
                        continue;
                    }
                    let high = interleave(
                        s,
                        registers(
                            #[inline(always)]
                            |i| s.load(from.wrapping_add((4 + i) * at.column_bytes)),
                        ),
                    );
                    for i in 0..4 {
                        let upper = s.shift_left::<4>(s.lower_nibbles(high[i]));
                        let lower = s.xor(s.lower_nibbles(low[i]), upper);
                        s.store(to.add(i * tile_bytes).cast(), s.float(lower));
                        let upper = s.xor(s.upper_nibbles(low[i]), s.mask(high[i], 0xf0f0_f0f0));
                        s.store(to.add((4 + i) * tile_bytes).cast(), s.float(upper));
                    }
                }
            }
        }
    }

    /// The scales of the `group`-th group.
    #[inline(always)]
    fn scales<S: Simd, K: InColumns>(&mut self, s: S, group: usize) {
        let (Columns { at, bytes, .. }, layout) = (self.w, self.layout);
        let size = K::SCALE * TILE_ROWS;
        let n = K::TILES * self.lines.len();
        let block = at.block(self.inputs.start / layout.group + group);
        let scales = &bytes[block + size * K::TILES * self.lines.start..][..size * n];
        for line in scales.chunks(VECTOR_BYTES) {
            s.prefetch(line.as_ptr().wrapping_add(at.block_bytes));
        }
        for (t, scales) in scales.chunks_exact(size).enumerate() {
            let to = match K::HAS_STEPS {
                true => &mut self.sheet[t * layout.scale_bytes() + size * (2 + group)..],
                false => {
                    let pair = group / 2 * layout.pair_bytes() + 2 * layout.group_bytes();
                    &mut self.codes[t * layout.tile_bytes() + pair + size * (group % 2)..]
                }
            };
            to[..size].copy_from_slice(scales);
        }
    }
}
