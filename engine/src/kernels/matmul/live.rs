//! Products of a matrix in columns with a few columns of activations: see `columns.rs`.

use std::ops::Range;

use brooklet_formats::quant::{TILE_ROWS, VECTOR_BYTES};

use super::columns::{ColumnProduct, Columns, InColumns, interleave};
use super::integer::{Dot, begin};
use crate::kernels::forms::{GROUP, Packed};
use crate::kernels::simd::{Simd, registers};
use crate::kernels::units::Int8Group;

/// The most columns of activations that look for inputs to leave out: the more there are, the fewer
/// are zero in all of them.
pub(super) const FEW: usize = 8;

/// Lines that are asked for before they are read.
const AHEAD: usize = 96;

/// Lines of scales for a line of codes.
const SCALE_LINES: usize = 2;

/// The inputs of which a bit is set are not zero: of at most 64 codes.
#[inline(always)]
fn nonzero(codes: &[i8]) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    codes.as_chunks::<8>().0.iter().enumerate().fold(0, |bits, (i, codes)| {
        let word = u64::from_le_bytes(codes.map(|code| code as u8));
        let upper = (((word & LOW) + LOW) | word) & !LOW;
        // The upper bits of all bytes, side by side.
        bits | ((upper >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * i)
    })
}

/// The inputs of a block that are not zero in some of the columns of activations.
#[inline(always)]
fn live(x: Packed<'_, Int8Group>, columns: Range<usize>, inputs: Range<usize>) -> u64 {
    let codes = inputs.start % GROUP..inputs.start % GROUP + inputs.len();
    columns.fold(0, |bits, c| bits | nonzero(&x.unit(c, inputs.start / GROUP).codes[codes.clone()]))
}

/// The lines that come, in the order in which memory has them: of each block its scales, then its
/// live columns.
struct Ahead<'a> {
    product: &'a ColumnProduct<'a>,
    /// The lines of a column that are read.
    lines: Range<usize>,
    /// The inputs of a block.
    block: usize,
    /// The first input of this block, and of the next.
    first: usize,
    after: usize,
    /// Those of its inputs that are still to come.
    live: u64,
    /// The next line, and how many follow each other.
    next: *const u8,
    left: usize,
}

impl<'a> Ahead<'a> {
    #[inline(always)]
    fn new<K: InColumns>(product: &'a ColumnProduct<'a>, block: usize) -> Self {
        let next = product.w.bytes.as_ptr();
        let lines = product.lines::<K>();
        Ahead { product, lines, block, first: 0, after: 0, live: 0, next, left: 0 }
    }

    #[inline(always)]
    fn fetch<S: Simd>(&mut self, s: S, n: usize) {
        for _ in 0..n {
            if self.left == 0 && !self.run() {
                return;
            }
            s.prefetch_near(self.next);
            self.next = self.next.wrapping_add(VECTOR_BYTES);
            self.left -= 1;
        }
    }

    /// Goes to the next run of lines; false where there is none.
    #[inline(always)]
    fn run(&mut self) -> bool {
        let Columns { layout, at, bytes, .. } = self.product.w;
        let (start, lines) = if self.live != 0 {
            let input = self.first + self.live.trailing_zeros() as usize;
            self.live &= self.live - 1;
            (at.column(layout.group, input), 1)
        } else if self.after < layout.padded_cols() {
            self.first = self.after;
            self.after += self.block;
            let columns = 0..self.product.y.columns();
            self.live = live(self.product.x, columns, self.first..self.after);
            (at.block(self.first / layout.group), SCALE_LINES)
        } else {
            return false;
        };
        let from = start + lines * VECTOR_BYTES * self.lines.start;
        self.next = bytes.as_ptr().wrapping_add(from);
        self.left = lines * self.lines.len();
        true
    }
}

/// The live inputs of a block by fours: where their codes begin, and their activations. Those that
/// fill up the last four are zeros.
struct Live {
    n: usize,
    at: [[*const u8; 4]; GROUP / 4],
    x: [[[u8; 4]; FEW]; GROUP / 4],
}

impl Live {
    #[inline(always)]
    fn find(&mut self, p: &ColumnProduct<'_>, inputs: Range<usize>) {
        let Columns { layout, at, bytes, .. } = p.w;
        let columns = p.y.columns();
        let mut bits = live(p.x, 0..columns, inputs.clone());
        let first = bytes.as_ptr().wrapping_add(at.column(layout.group, inputs.start));
        let units = &p.x.units()[inputs.start / GROUP * p.x.stride()..][..columns];
        self.n = bits.count_ones() as usize;
        if !self.n.is_multiple_of(4) {
            (self.at[self.n / 4], self.x[self.n / 4]) = ([first; 4], [[0; 4]; FEW]);
        }
        for i in 0..self.n {
            let input = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            self.at[i / 4][i % 4] = first.wrapping_add(input * at.column_bytes);
            for (x, unit) in self.x[i / 4].iter_mut().zip(units) {
                x[i % 4] = unit.codes[(inputs.start + input) % GROUP] as u8;
            }
        }
    }
}

/// The kernel of a few columns.
#[inline(always)]
pub(super) fn few<S: Dot, K: InColumns>(s: S, p: &ColumnProduct<'_>) {
    let (layout, columns) = (p.w.layout, p.y.columns());
    assert!(columns <= FEW);
    for t in 0..p.y.tiles() {
        (0..columns).for_each(|c| p.y.write(t, 0, c, &[0.0; TILE_ROWS]));
    }
    let block = layout.group.min(GROUP);
    let mut ahead = Ahead::new::<K>(p, block);
    ahead.fetch(s, AHEAD);
    let nowhere: *const u8 = std::ptr::null();
    let mut live = Live { n: 0, at: [[nowhere; 4]; GROUP / 4], x: [[[0; 4]; FEW]; GROUP / 4] };
    let mut rows = [[s.splat_bits(0); 4]; GROUP / 4];
    for first in (0..layout.padded_cols()).step_by(block) {
        live.find(p, first..first + block);
        let fours = live.n.div_ceil(4);
        for line in p.lines::<K>() {
            for j in 0..TILE_ROWS / S::LANES {
                let offset = VECTOR_BYTES * line + 4 * S::LANES * j;
                for (i, (rows, at)) in rows.iter_mut().zip(&live.at).take(fours).enumerate() {
                    let codes = registers(
                        #[inline(always)]
                        // SAFETY: a column begins there (`Live::find`), and has all lines of rows.
                        |i| unsafe { s.load(at[i].wrapping_add(offset)) },
                    );
                    *rows = interleave(s, codes);
                    if j == 0 {
                        ahead.fetch(s, (live.n - 4 * i).min(4));
                    }
                }
                if j == 0 {
                    ahead.fetch(s, SCALE_LINES);
                }
                let block = Block { p, first, line, j, live: &live };
                let mut c = 0;
                while c < columns {
                    c += match columns - c {
                        8.. if S::LANES == TILE_ROWS => block.add::<S, K, 8>(s, c, &rows[..fours]),
                        4.. => block.add::<S, K, 4>(s, c, &rows[..fours]),
                        2.. => block.add::<S, K, 2>(s, c, &rows[..fours]),
                        _ => block.add::<S, K, 1>(s, c, &rows[..fours]),
                    };
                }
            }
        }
    }
    if K::HAS_STEPS {
        multiply_steps(s, p);
    }
}

/// The inputs of a block from `first` on, for the `j`-th registers of rows of a line.
struct Block<'a> {
    p: &'a ColumnProduct<'a>,
    first: usize,
    line: usize,
    j: usize,
    live: &'a Live,
}

impl Block<'_> {
    /// Adds the products of `rows`, the interleaved codes of live inputs, to `C` columns of results
    /// from `c` on; returns `C`.
    #[inline(always)]
    fn add<S: Dot, K: InColumns, const C: usize>(
        &self,
        s: S,
        c: usize,
        rows: &[[S::I; 4]],
    ) -> usize {
        let Block { p, first, line, j, live } = *self;
        let Columns { layout, at, bytes, first: first_tile } = p.w;
        let groups = &p.x.units()[first / GROUP * p.x.stride() + c..][..C];
        let start = if layout.group < GROUP { first / (GROUP / 2) % 2 } else { 2 };
        let table = match K::HAS_TABLE {
            // SAFETY: a format with a table has that first, which is a whole line.
            true => s.mask(unsafe { s.load_table(bytes.as_ptr()) }, 0x3f3f_3f3f),
            false => s.splat_bits(0),
        };
        let scales = bytes[at.block(first / layout.group)..][..at.scale_bytes].as_ptr();
        let begin: [S::I; C] = registers(
            #[inline(always)]
            |i| begin::<S, K>(s, &groups[i].starts[start]),
        );
        for i in 0..4 {
            let mut sums = [begin; 2];
            for (rows, x) in rows.iter().zip(&live.x) {
                let operands = K::split(s, table, rows[i]);
                for (i, x) in x[c..c + C].iter().enumerate() {
                    let x = s.splat_bits(u32::from_le_bytes(*x));
                    for half in 0..K::HALVES {
                        sums[half][i] = s.quad::<K>(sums[half][i], operands[half], x);
                    }
                }
            }
            for half in 0..K::HALVES {
                let tile = K::TILES * line + 4 * half + i;
                if !(first_tile..first_tile + p.y.tiles()).contains(&tile) {
                    continue;
                }
                let scales = scales.wrapping_add(K::SCALE * (TILE_ROWS * tile + S::LANES * j));
                // SAFETY: the block has scales of all rows, of which the tile is a part.
                let scale =
                    unsafe { if K::HAS_STEPS { s.load_i8(scales) } else { s.load_f16(scales) } };
                for (i, (sum, group)) in sums[half].iter().zip(groups).enumerate() {
                    let scale = s.mul(scale, s.spread_float(&group.scale));
                    // SAFETY: the tile and the column are the output's: compared above, and in
                    // `few`. Nobody else writes there.
                    unsafe {
                        let y = p.y.at(tile - first_tile, c + i).add(S::LANES * j);
                        let (acc, sum) = (s.float(s.load(y.cast())), s.convert(*sum));
                        s.store(
                            y,
                            match K::HAS_STEPS {
                                true => s.mul_add(sum, scale, acc),
                                false => s.add(acc, s.mul(sum, scale)),
                            },
                        );
                    }
                }
            }
        }
        C
    }
}

/// y = y · step.
#[inline(always)]
fn multiply_steps<S: Simd>(s: S, p: &ColumnProduct<'_>) {
    let steps = p.w.bytes[VECTOR_BYTES..][..2 * p.w.at.rows].as_ptr();
    for t in 0..p.y.tiles() {
        for lane in (0..TILE_ROWS).step_by(S::LANES) {
            let row = TILE_ROWS * (p.w.first + t) + lane;
            // SAFETY: there is a step for each row of the matrix, of which the tile is a part.
            let step = unsafe { s.load_f16(steps.wrapping_add(2 * row)) };
            for c in 0..p.y.columns() {
                // SAFETY: the tile and the column are the output's, whose alone they are.
                unsafe {
                    let y = p.y.at(t, c).add(lane);
                    s.store(y, s.mul(s.float(s.load(y.cast())), step));
                }
            }
        }
    }
}
