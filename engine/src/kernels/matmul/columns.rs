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
use super::product::{Output, Part, Product, Tiles};
use super::{Kernels, matmul, misfit};
use crate::kernels::forms::{Activations, GROUP, Packed};
use crate::kernels::isa::{Isa, Set};
use crate::kernels::simd::{Simd, registers};
use crate::kernels::units::Int8Group;

/// The most columns of activations that look for inputs to leave out: the more there are, the fewer
/// are zero in all of them.
const FEW: usize = 8;

/// Lines that are asked for before they are read.
const AHEAD: usize = 96;

/// Rows and inputs of which tiles are put together at a time: a quarter of a second-level cache.
const ROOM: [usize; 2] = [512, 512];

/// Columns that stand side by side, of any group.
const RUN: usize = 32;

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
        Set::Scalar | Set::Portable => product.in_tiles(|tiles, y| matmul(isa, tiles, x, y)),
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
    product.in_parts::<K>(set);
}

thread_local! {
    /// Where tiles are put together.
    static TILES: RefCell<Zeroed<u8>> = RefCell::new(Zeroed::new(0));
}

/// Calls `f` with room for `len` bytes, of which anything may be in it.
fn with_room(len: usize, f: impl FnOnce(&mut [u8])) {
    TILES.with_borrow_mut(|room| {
        if room.len() < len {
            *room = Zeroed::new(len);
        }
        f(&mut room[..len]);
    });
}

impl ColumnProduct<'_> {
    /// Multiplies tile by tile, put together by the definition.
    fn in_tiles(mut self, multiply: impl Fn(Tiles<'_>, Output<'_>)) {
        let Columns { layout, bytes, first, .. } = self.w;
        with_room(layout.encoded_bytes(), |room| {
            for t in 0..self.y.tiles() {
                quant::take_tile(layout, bytes, first + t, room);
                let (codes, scales) = room.split_at(layout.tile_bytes());
                let table = quant::table(layout, bytes);
                multiply(Tiles::put_together(layout, codes, table, scales), self.y.part(t, 1));
            }
        });
    }

    /// Multiplies parts of some rows by some inputs, put together for all columns of activations.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn in_parts<K: InColumns>(mut self, set: impl Kernels) {
        let Columns { layout, bytes, first, .. } = self.w;
        let all = layout.padded_cols();
        let lines = ROOM[0] / TILE_ROWS / K::TILES;
        let end = first + self.y.tiles();
        for line in self.lines::<K>().step_by(lines) {
            let tiles = first.max(line * K::TILES)..end.min((line + lines) * K::TILES);
            for from in (0..all).step_by(ROOM[1]) {
                let inputs = from..all.min(from + ROOM[1]);
                let part = Part { is_first: from == 0, is_last: inputs.end == all };
                let layout = layout.part(ROOM[0], inputs.len());
                let x = self.x.units_from(from / GROUP);
                let lines = line..tiles.end.div_ceil(K::TILES);
                let next = inputs.end..all.min(inputs.end + ROOM[1]);
                with_room(layout.n_tiles() * layout.encoded_bytes(), |room| {
                    let (codes, sheet) = room.split_at_mut(layout.n_tiles() * layout.tile_bytes());
                    let (w, fetches) = (self.w, from == 0);
                    let fetch = Fetch { w, lines: lines.clone(), inputs: next };
                    let layout = &layout;
                    set.put_together::<K>(Put { w, lines, inputs, layout, codes, sheet, fetches });
                    let table = quant::table(self.w.layout, bytes);
                    let whole = Tiles::put_together(layout, codes, table, sheet);
                    for (i, tile) in tiles.clone().enumerate() {
                        set.fetch(&fetch, i, tiles.len());
                        let y = self.y.part(tile - first, 1);
                        let tile = whole.part(tile - line * K::TILES, 1);
                        set.integer_product::<K>(&Product::part(tile, x, y, part));
                    }
                });
            }
        }
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
        if self.n % 4 != 0 {
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
        // SAFETY: a format with a table has that first, which is a whole line.
        let table = match K::HAS_TABLE {
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

/// Some inputs of some lines of rows, and where their tiles go: codes, and what the sheet of scales
/// has of them.
pub(super) struct Put<'a> {
    w: Columns<'a>,
    lines: Range<usize>,
    inputs: Range<usize>,
    /// Of these inputs alone.
    layout: &'a TileLayout,
    codes: &'a mut [u8],
    sheet: &'a mut [u8],
    /// Whether nobody has fetched them.
    fetches: bool,
}

/// The inputs that are put together next, which come while others are multiplied.
pub(super) struct Fetch<'a> {
    w: Columns<'a>,
    lines: Range<usize>,
    inputs: Range<usize>,
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
            if first % self.layout.group == 0 {
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
                // The tiles of the lines have their places, and the vector has its in each: asserted.
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
