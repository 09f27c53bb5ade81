//! Products with a matrix in columns: an input's codes of all rows stand side by side, so that
//! those of inputs that are zero are never read. Of what squared ReLUs leave, four fifths are.
//!
//! A few columns of activations walk over the inputs that are not zero in one of them:
//!
//! ```text
//! for each block of inputs:                       32 or 64, those that share both scales
//!     live = inputs that are not zero, by fours
//!     for each line of the rows:                  64 bytes: 64 rows of int8, 128 of int4
//!         sum = −bias · Σx
//!         for each four live inputs:
//!             interleave their bytes: four codes of a row are a lane, as in a tile
//!             sum += operands · x                 exact integers: `Dot::quad`
//!         y += sum · (scale · x_scale)            as `integer.rs` and `steps.rs` add
//! y = y · step                                    formats with steps
//! ```
//!
//! Memory is read in runs, a live column's rows, and what comes is asked for line by line, always as
//! far [`Ahead`]: in bursts it would come later than all of the matrix. More columns of activations
//! leave no input out: a few tiles are put together at a time, in the cache, and multiplied as tiles
//! are. The bits are those of tiles either way: a zero adds nothing to an exact sum. Not here: where
//! bytes stand (`brooklet_formats::quant::columns`). Test: `tests/columns.rs`.

use std::cell::RefCell;
use std::ops::Range;

use brooklet_formats::quant::{self, ColumnLayout, TILE_ROWS, TileLayout, VECTOR_BYTES};
use brooklet_formats::zeroed::Zeroed;

use super::codes::{Codes, Int4, Int8};
use super::integer::{Dot, begin};
use super::product::{Output, Product, Tiles};
use super::{Kernels, matmul, misfit};
use crate::kernels::forms::{Activations, GROUP, Packed};
use crate::kernels::isa::{Isa, Set};
use crate::kernels::simd::{Simd, registers};
use crate::kernels::units::Int8Group;

/// The most columns of activations that look for inputs to leave out: the more there are, the fewer
/// are zero in all of them.
const FEW: usize = 8;

/// Lines that are asked for before they are read.
const AHEAD: usize = 64;

/// How many columns ahead a line is asked for, where tiles are put together.
const PUT_AHEAD: usize = 32;

/// Lines of scales for a line of codes.
const SCALE_LINES: usize = 2;

/// A matrix in columns, from one of its tiles on.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    layout: &'a TileLayout,
    at: ColumnLayout,
    bytes: &'a [u8],
    first: usize,
}

impl<'a> Columns<'a> {
    /// The matrix of that layout from tile `first` on.
    ///
    /// # Panics
    /// It is not in columns, or not whole: a bug in whoever mapped it.
    pub(crate) fn new(layout: &'a TileLayout, bytes: &'a [u8], first: usize) -> Self {
        let at = layout.columns().expect("a matrix in columns");
        assert_eq!(bytes.len(), at.total_bytes);
        Columns { layout, at, bytes, first }
    }
}

/// `y[c] = W x[c]`; lengths have been checked.
pub(super) struct ColumnProduct<'a> {
    w: Columns<'a>,
    x: Packed<'a, Int8Group>,
    y: Output<'a>,
}

/// An integer format that matrices in columns have.
pub(super) trait InColumns: Codes {
    /// Rows whose codes share a byte: 64 apart.
    const HALVES: usize = 8 / Self::BITS;

    /// Tiles of a line.
    const TILES: usize = 4 * Self::HALVES;

    /// Bytes of a row's scale.
    const SCALE: usize = if Self::HAS_STEPS { 1 } else { 2 };

    /// The operands of the rows of a register of interleaved bytes, of each half.
    fn split<S: Simd>(s: S, table: S::I, v: S::I) -> [S::I; 2];
}

impl InColumns for Int4 {
    #[inline(always)]
    fn split<S: Simd>(s: S, table: S::I, v: S::I) -> [S::I; 2] {
        s.lookup_nibbles(table, v)
    }
}

impl InColumns for Int8 {
    #[inline(always)]
    fn split<S: Simd>(_: S, _: S::I, v: S::I) -> [S::I; 2] {
        [v, v]
    }
}

/// `y[c] = W x[c]` for the tiles and columns of `y`: overwrites them.
///
/// # Panics
/// Lengths or forms do not fit: a bug in the model that calls it.
pub(crate) fn by_columns(isa: Isa, w: Columns<'_>, x: Activations<'_>, y: Output<'_>) {
    let dtype = w.layout.dtype;
    let Activations::Int8(groups) = x else { misfit(dtype, x) };
    assert!(w.first + y.tiles() <= w.layout.n_tiles());
    assert!(w.layout.padded_cols() <= groups.values() && y.columns() <= groups.len());
    let product = ColumnProduct { w, x: groups, y };
    match isa.set() {
        Set::Scalar | Set::Portable => product.in_tiles(
            1,
            |w, tile, room| quant::take_tile(w.layout, w.bytes, tile, room),
            |tiles, x, y| matmul(isa, tiles, Activations::Int8(x), y),
        ),
        #[cfg(target_arch = "x86_64")]
        Set::Avx2(s) => on_registers(s, product),
        #[cfg(target_arch = "x86_64")]
        Set::AvxVnni(s) => on_registers(s, product),
        #[cfg(target_arch = "x86_64")]
        Set::Avx512(s) => on_registers(s, product),
        #[cfg(target_arch = "aarch64")]
        Set::Neon(s) => on_registers(s, product),
        #[cfg(target_arch = "aarch64")]
        Set::NeonDotprod(s) => on_registers(s, product),
        #[cfg(target_arch = "aarch64")]
        Set::NeonI8mm(s) => on_registers(s, product),
    }
}

/// The table of formats.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn on_registers(set: impl Kernels, product: ColumnProduct<'_>) {
    match product.w.layout.dtype {
        brooklet_formats::DType::Int4 => of_format::<Int4>(set, product),
        _ => of_format::<Int8>(set, product),
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn of_format<K: InColumns>(set: impl Kernels, product: ColumnProduct<'_>) {
    if product.y.columns() <= FEW {
        return set.few_columns::<K>(&product);
    }
    product.in_tiles(
        K::TILES,
        |w, tile, room| set.line_in_tiles::<K>(w, tile / K::TILES, room),
        |tiles, x, y| set.integer_product::<K>(&Product::new(tiles, x, y)),
    );
}

impl ColumnProduct<'_> {
    /// Multiplies tiles, `n` at a time, that `put` puts together: into their codes, then what the
    /// sheet of scales has of each.
    fn in_tiles(
        mut self,
        n: usize,
        put: impl Fn(Columns<'_>, usize, &mut [u8]),
        multiply: impl Fn(Tiles<'_>, Packed<'_, Int8Group>, Output<'_>),
    ) {
        thread_local! {
            static ROOM: RefCell<Zeroed<u8>> = RefCell::new(Zeroed::new(0));
        }
        let Columns { layout, bytes, first, .. } = self.w;
        let (end, len) = (first + self.y.tiles(), n * layout.encoded_bytes());
        ROOM.with_borrow_mut(|room| {
            if room.len() < len {
                *room = Zeroed::new(len);
            }
            let room = &mut room[..len];
            for from in (first / n * n..end).step_by(n) {
                put(self.w, from, room);
                let part = from.max(first)..(from + n).min(end);
                let (codes, scales) = room.split_at(n * layout.tile_bytes());
                let table = quant::table(layout, bytes);
                let tiles = Tiles::put_together(layout, codes, table, scales);
                let tiles = tiles.part(part.start - from, part.len());
                multiply(tiles, self.x, self.y.part(part.start - first, part.len()));
            }
        });
    }

    /// The lines of its rows.
    fn lines<K: InColumns>(&self) -> Range<usize> {
        self.w.first / K::TILES..(self.w.first + self.y.tiles()).div_ceil(K::TILES)
    }
}

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
            s.prefetch(self.next);
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

/// The live inputs of a block by fours: where their codes begin, and their activations in `C`
/// columns. Those that fill up the last four are zeros.
struct Fours<const C: usize> {
    at: [[*const u8; 4]; GROUP / 4],
    x: [[u32; C]; GROUP / 4],
    live: usize,
}

impl<const C: usize> Fours<C> {
    #[inline(always)]
    fn find(&mut self, p: &ColumnProduct<'_>, c: usize, inputs: Range<usize>) {
        let Columns { layout, at, bytes, .. } = p.w;
        let mut bits = live(p.x, c..c + C, inputs.clone());
        let first = bytes.as_ptr().wrapping_add(at.column(layout.group, inputs.start));
        let codes: [_; C] = registers(
            #[inline(always)]
            |i| &p.x.unit(c + i, inputs.start / GROUP).codes,
        );
        self.live = bits.count_ones() as usize;
        for (at_four, x_four) in self.at.iter_mut().zip(&mut self.x).take(self.live.div_ceil(4)) {
            let mut x = [0; C];
            let mut last = first;
            for (i, place) in at_four.iter_mut().enumerate() {
                if bits != 0 {
                    let input = bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    last = first.wrapping_add(input * at.column_bytes);
                    for (x, codes) in x.iter_mut().zip(codes) {
                        let code = codes[(inputs.start + input) % GROUP] as u8;
                        *x |= u32::from(code) << (8 * i);
                    }
                }
                *place = last;
            }
            *x_four = x;
        }
    }
}

/// Four registers of bytes as four registers of lanes: of lane r of the i-th, the bytes of row
/// 16i + r.
#[inline(always)]
fn interleave<S: Simd>(s: S, [a, b, c, d]: [S::I; 4]) -> [S::I; 4] {
    let ([ab, above_ab], [cd, above_cd]) = (s.interleave_bytes(a, b), s.interleave_bytes(c, d));
    let ([p, q], [u, v]) = (s.interleave_halves(ab, cd), s.interleave_halves(above_ab, above_cd));
    [p, q, u, v]
}

/// The kernel of a few columns.
#[inline(always)]
pub(super) fn few<S: Dot, K: InColumns>(s: S, p: &ColumnProduct<'_>) {
    let (layout, columns) = (p.w.layout, p.y.columns());
    for t in 0..p.y.tiles() {
        (0..columns).for_each(|c| p.y.write(t, 0, c, &[0.0; TILE_ROWS]));
    }
    let block = layout.group.min(GROUP);
    let mut ahead = Ahead::new::<K>(p, block);
    ahead.fetch(s, AHEAD);
    for first in (0..layout.padded_cols()).step_by(block) {
        let inputs = first..first + block;
        let mut c = 0;
        while c < columns {
            let at = Block { p, c, inputs: inputs.clone() };
            c += match columns - c {
                4.. if S::LANES == TILE_ROWS => at.add::<S, K, 4>(s, &mut ahead),
                3 if S::LANES == TILE_ROWS => at.add::<S, K, 3>(s, &mut ahead),
                2.. => at.add::<S, K, 2>(s, &mut ahead),
                _ => at.add::<S, K, 1>(s, &mut ahead),
            };
        }
    }
    if K::HAS_STEPS {
        multiply_steps(s, p);
    }
}

/// A block of inputs, for some columns of activations from `c` on.
struct Block<'a> {
    p: &'a ColumnProduct<'a>,
    c: usize,
    inputs: Range<usize>,
}

impl Block<'_> {
    /// Adds its products to `C` columns of results; returns `C`.
    #[inline(always)]
    fn add<S: Dot, K: InColumns, const C: usize>(&self, s: S, ahead: &mut Ahead<'_>) -> usize {
        let nothing: *const u8 = std::ptr::null();
        let mut fours = Fours { at: [[nothing; 4]; GROUP / 4], x: [[0; C]; GROUP / 4], live: 0 };
        fours.find(self.p, self.c, self.inputs.clone());
        // Sums of both halves at once, where there are registers for them.
        let whole = K::HALVES == 1 || 4 * K::HALVES * C <= S::LANES;
        for line in self.p.lines::<K>() {
            for j in 0..TILE_ROWS / S::LANES {
                // The first columns of activations read from memory, the others from the cache.
                let ahead = &mut (self.c == 0 && j == 0).then_some(&mut *ahead);
                if whole && K::HALVES == 2 {
                    self.line::<S, K, C, 0, 2>(s, &fours, (line, j), ahead);
                } else {
                    self.line::<S, K, C, 0, 1>(s, &fours, (line, j), ahead);
                    if K::HALVES == 2 {
                        self.line::<S, K, C, 1, 1>(s, &fours, (line, j), &mut None);
                    }
                }
            }
        }
        C
    }

    /// The same of the `j`-th register of a line, `H` halves from half `FROM` on.
    #[inline(always)]
    fn line<S: Dot, K: InColumns, const C: usize, const FROM: usize, const H: usize>(
        &self,
        s: S,
        fours: &Fours<C>,
        (line, j): (usize, usize),
        ahead: &mut Option<&mut Ahead<'_>>,
    ) {
        let Block { p, c, ref inputs } = *self;
        let Columns { layout, at, bytes, first } = p.w;
        let half = inputs.start / (GROUP / 2) % 2;
        let start = if inputs.len() == GROUP { 2 } else { half };
        let groups: [&Int8Group; C] = registers(
            #[inline(always)]
            |i| p.x.unit(c + i, inputs.start / GROUP),
        );
        // SAFETY: a format with steps has its table first, which is a whole line.
        let table = match K::HAS_TABLE {
            true => s.mask(unsafe { s.load_table(bytes.as_ptr()) }, 0x3f3f_3f3f),
            false => s.splat_bits(0),
        };
        let starts: [S::I; C] = registers(
            #[inline(always)]
            |i| begin::<S, K>(s, &groups[i].starts[start]),
        );
        let mut sums = [[starts; 4]; H];
        let offset = VECTOR_BYTES * line + 4 * S::LANES * j;
        for (i, (at, x)) in fours.at.iter().zip(&fours.x).take(fours.live.div_ceil(4)).enumerate() {
            let codes = registers(
                #[inline(always)]
                // SAFETY: a column begins there (`Fours::find`), and has all lines of its rows.
                |i| unsafe { s.load(at[i].wrapping_add(offset)) },
            );
            let x: [S::I; C] = registers(
                #[inline(always)]
                |i| s.splat_bits(x[i]),
            );
            for (tile, codes) in interleave(s, codes).into_iter().enumerate() {
                let operands = K::split(s, table, codes);
                for (sums, operands) in sums.iter_mut().zip(&operands[FROM..]) {
                    for (sum, x) in sums[tile].iter_mut().zip(x) {
                        *sum = s.quad::<K>(*sum, *operands, x);
                    }
                }
            }
            if let Some(ahead) = ahead {
                ahead.fetch(s, (fours.live - 4 * i).min(4));
            }
        }
        if let Some(ahead) = ahead {
            ahead.fetch(s, SCALE_LINES);
        }
        let block = bytes[at.block(inputs.start / layout.group)..][..at.scale_bytes].as_ptr();
        for (h, sums) in sums.iter().enumerate() {
            for (i, sums) in sums.iter().enumerate() {
                let tile = K::TILES * line + 4 * (FROM + h) + i;
                if !(first..first + p.y.tiles()).contains(&tile) {
                    continue;
                }
                let scales = block.wrapping_add(K::SCALE * (TILE_ROWS * tile + S::LANES * j));
                // SAFETY: the block has scales of all rows, of which the tile is a part.
                let scale =
                    unsafe { if K::HAS_STEPS { s.load_i8(scales) } else { s.load_f16(scales) } };
                for (i, (sum, group)) in sums.iter().zip(&groups).enumerate() {
                    let scale = s.mul(scale, s.splat(group.scale));
                    // SAFETY: the tile and the column are the output's: compared above, and in
                    // `few`. Nobody else writes there.
                    unsafe {
                        let y = p.y.at(tile - first, c + i).add(S::LANES * j);
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
    }
}

/// y = y · step.
#[inline(always)]
fn multiply_steps<S: Simd>(s: S, p: &ColumnProduct<'_>) {
    let steps = p.w.bytes[VECTOR_BYTES..][..2 * p.w.at.rows].as_ptr();
    for t in 0..p.y.tiles() {
        for lane in (0..TILE_ROWS).step_by(S::LANES) {
            // SAFETY: there is a step for each row of the matrix, of which the tile is a part.
            let row = TILE_ROWS * (p.w.first + t) + lane;
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

/// Puts the tiles of a line together: their codes, then what the sheet of scales has of each.
#[inline(always)]
pub(super) fn line_in_tiles<S: Simd, K: InColumns>(
    s: S,
    w: Columns<'_>,
    line: usize,
    room: &mut [u8],
) {
    let Columns { layout, at, bytes, .. } = w;
    let (codes, sheet) = room.split_at_mut(K::TILES * layout.tile_bytes());
    assert!(line * K::TILES < layout.n_tiles());
    let n = 4 * K::HALVES;
    for first in (0..layout.padded_cols()).step_by(n) {
        let column = bytes[at.column(layout.group, first)..][..n * at.column_bytes].as_ptr();
        let (group, within) = (first / layout.group, first % layout.group);
        let pair = group / 2 * layout.pair_bytes() + group % 2 * layout.group_bytes();
        let vector = pair + VECTOR_BYTES * (within / n);
        for lane in (0..TILE_ROWS).step_by(S::LANES) {
            let four = |half: usize| {
                interleave(
                    s,
                    registers(
                        #[inline(always)]
                        |i| {
                            let column = column.wrapping_add((4 * half + i) * at.column_bytes);
                            s.prefetch(column.wrapping_add(PUT_AHEAD * at.column_bytes));
                            // SAFETY: `n` columns stand there, of which the line is a part.
                            unsafe { s.load(column.wrapping_add(VECTOR_BYTES * line + 4 * lane)) }
                        },
                    ),
                )
            };
            let mut put = |tile: usize, v: S::I| {
                let place = &mut codes[tile * layout.tile_bytes() + vector + 4 * lane..];
                let place = place[..4 * S::LANES].as_mut_ptr();
                // SAFETY: a register's bytes stand there.
                unsafe { s.store(place.cast(), s.float(v)) }
            };
            let low = four(0);
            if K::HALVES == 1 {
                (0..4).for_each(|i| put(i, low[i]));
                continue;
            }
            let high = four(1);
            for i in 0..4 {
                let upper = s.shift_left::<4>(s.lower_nibbles(high[i]));
                put(i, s.xor(s.lower_nibbles(low[i]), upper));
                put(4 + i, s.xor(s.upper_nibbles(low[i]), s.mask(high[i], 0xf0f0_f0f0)));
            }
        }
    }
    for t in 0..K::TILES {
        let row = TILE_ROWS * (K::TILES * line + t);
        let size = K::SCALE * TILE_ROWS;
        if K::HAS_STEPS {
            let sheet = &mut sheet[t * layout.scale_bytes()..][..layout.scale_bytes()];
            let (steps, scales) = sheet.split_at_mut(2 * TILE_ROWS);
            steps.copy_from_slice(&bytes[VECTOR_BYTES + 2 * row..][..2 * TILE_ROWS]);
            for (group, scales) in scales.chunks_exact_mut(size).enumerate() {
                scales.copy_from_slice(&bytes[at.block(group) + K::SCALE * row..][..size]);
            }
        } else {
            let tile = &mut codes[t * layout.tile_bytes()..][..layout.tile_bytes()];
            for (p, pair) in tile.chunks_exact_mut(layout.pair_bytes()).enumerate() {
                let scales = pair[2 * layout.group_bytes()..].chunks_exact_mut(size);
                for (half, scales) in scales.enumerate() {
                    let from = at.block(2 * p + half) + K::SCALE * row;
                    scales.copy_from_slice(&bytes[from..][..size]);
                }
            }
        }
    }
}
