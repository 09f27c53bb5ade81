//! int4 and int8 matrices in columns: a single column of activations skips the weights whose activation is zero.
//!
//! A channel mix squares what a ReLU leaves, so most of the next projection's input is zero. Codes of a matrix column lie
//! contiguous over all rows (`ColumnLayout`): only those of nonzero activations are read, four at a time, and their bytes
//! interleaved to the quads that integer dot products take. Several columns of activations (a prompt) read everything: a
//! few tiles at a time are put together in the first-level cache for the kernel of tiles. Leaving zeros out of an integer
//! sum is exact, so the bits are those of tiles either way. Tests: `tests.rs`.

use brooklet_formats::quant::columns::BLOCK_ROWS;
use brooklet_formats::quant::{ColumnLayout, MAX_GROUP, TILE_ROWS, VECTOR_BYTES};

use super::integer::{Dot, Integer};
use super::simd::walk;
use super::{Output, Tiles};
use crate::kernels::acts::Acts;
use crate::kernels::forms::{GROUP, Int8Group};

/// Consecutive rows of a matrix in columns.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    pub(super) layout: &'a ColumnLayout,
    /// The whole matrix; 64-byte aligned.
    pub(super) bytes: &'a [u8],
    /// The first row, which begins a strip.
    pub(super) first: usize,
    /// Number of rows, a multiple of 16; not more than the strips of the matrix have from `first` on.
    pub(super) rows: usize,
}

/// A kernel of matrices in columns: overwrites the outputs of all rows and columns; returns the bytes of weights that it did
/// not read.
///
/// # Safety
/// As [`super::Kernel`], with what [`Columns`] says instead of the second point.
pub(crate) type ColumnsKernel = unsafe fn(m: Columns<'_>, x: &Acts, y: Output) -> usize;

/// What an instruction set needs beyond [`Dot`].
pub(super) trait Interleave: Dot {
    /// Register k of the four holds, in lane `4l + e`, the bytes `16l + 4k + e` of the four columns, the first lowest.
    ///
    /// # Safety
    /// As many bytes as a register has exist behind each pointer, aligned to it.
    unsafe fn interleave(columns: [*const u8; 4]) -> [Self::I; 4];

    /// Bit i: activation i is not zero.
    ///
    /// # Safety
    /// [`Simd`](super::simd::Simd)'s.
    unsafe fn nonzero(codes: &[i8; GROUP]) -> u32;

    /// What a sum of products with codes as they are stored starts at: −bias · Σx where the codes are used so.
    ///
    /// # Safety
    /// [`Simd`](super::simd::Simd)'s.
    unsafe fn start<const INT4: bool>(minus_sum: i32) -> Self::I;

    /// sum + the products of four codes and four activations in each lane.
    ///
    /// # Safety
    /// [`Simd`](super::simd::Simd)'s.
    unsafe fn quad<const INT4: bool>(sum: Self::I, codes: Self::I, x: Self::I) -> Self::I;
}

/// Rows whose sums one walk over the columns keeps: runs of 1 KB of int4, and the sums stay in the first-level cache.
const WALK_ROWS: usize = 2048;

/// How many groups ahead weights are fetched: at one or two, memory answers too late.
const AHEAD: usize = 4;

/// The columns of a group of 32 whose activation is not zero, in fours; the last four are filled up with zeros.
struct Active {
    /// Number of fours.
    fours: usize,
    /// Number of columns.
    n: usize,
    columns: [u8; GROUP],
    /// Activations.
    x: [[i8; 4]; GROUP / 4],
}

impl Active {
    #[inline(always)]
    fn of(mut mask: u32, codes: &[i8; GROUP]) -> Active {
        let mut active = Active { fours: 0, n: 0, columns: [0; GROUP], x: [[0; 4]; GROUP / 4] };
        active.n = mask.count_ones() as usize;
        active.fours = active.n.div_ceil(4);
        let first = mask.trailing_zeros() as u8 % GROUP as u8;
        for i in 0..4 * active.fours {
            let left = mask != 0;
            let column = if left { mask.trailing_zeros() as u8 } else { first };
            active.columns[i] = column;
            active.x[i / 4][i % 4] = if left { codes[usize::from(column)] } else { 0 };
            mask &= mask.wrapping_sub(1);
        }
        active
    }
}

/// The kernel of an instruction set.
///
/// # Safety
/// As [`ColumnsKernel`].
#[inline(always)]
pub(super) unsafe fn columns<S: Interleave, const INT4: bool, const MOST: usize>(
    m: Columns<'_>,
    x: &Acts,
    y: Output,
) -> usize {
    // SAFETY: passed on.
    unsafe {
        if y.columns == 1 {
            one::<S, INT4>(m, x, y.base)
        } else {
            several::<S, INT4, MOST>(m, x, y);
            0
        }
    }
}

/// f32 as aligned as vectors are.
#[repr(C, align(64))]
struct Sums([f32; WALK_ROWS]);

/// One column of activations.
///
/// # Safety
/// As [`ColumnsKernel`], for one column.
#[inline(always)]
unsafe fn one<S: Interleave, const INT4: bool>(m: Columns<'_>, x: &Acts, out: *mut f32) -> usize {
    let layout = m.layout;
    let (group, column_bytes) = (layout.tiles().group, layout.column_bytes());
    let groups = layout.tiles().cols.div_ceil(GROUP);
    let mut acc = Sums([0.0; WALK_ROWS]);
    let mut skipped = 0;
    for start in (0..m.rows).step_by(WALK_ROWS) {
        let rows = WALK_ROWS.min(m.rows - start);
        let strips = rows.div_ceil(layout.strip_rows());
        let strip = (m.first + start) / layout.strip_rows();
        let sums = &mut acc.0[..strips * layout.strip_rows()];
        sums.fill(0.0);
        // Where the columns of a group of activations, and their scales, begin.
        let place = |g: usize| {
            let (whole, part) = (g * GROUP / group, g * GROUP % group);
            let codes = whole * layout.group_bytes() + part * column_bytes;
            let scales = whole * layout.group_bytes() + group * column_bytes;
            (codes + strip * VECTOR_BYTES, scales + 2 * strip * layout.strip_rows())
        };
        // Fetches what group `g` will read: no processor guesses that by itself.
        let fetch = |g: usize| {
            let (codes, scales) = place(g);
            let lines = |start: usize, len: usize| {
                for at in (start..start + len).step_by(VECTOR_BYTES) {
                    S::prefetch(m.bytes.as_ptr().wrapping_add(at));
                }
            };
            // SAFETY: the trait's.
            let mut mask = unsafe { S::nonzero(&x.int8[g].codes) };
            while mask != 0 {
                lines(codes + mask.trailing_zeros() as usize * column_bytes, strips * VECTOR_BYTES);
                mask &= mask - 1;
            }
            lines(scales, 2 * strips * layout.strip_rows());
        };
        (0..AHEAD.min(groups)).for_each(fetch);
        for g in 0..groups {
            if g + AHEAD < groups {
                fetch(g + AHEAD);
            }
            let group = &x.int8[g];
            // SAFETY: the trait's.
            let active = Active::of(unsafe { S::nonzero(&group.codes) }, &group.codes);
            skipped += (GROUP - active.n) * strips * VECTOR_BYTES;
            // A scale that is not zero belongs to something: to infinity, when no code shows it.
            if active.n == 0 && group.scale == 0.0 {
                continue;
            }
            let (codes, scales) = place(g);
            // SAFETY: strips and columns exist; the columns of a group of activations that the matrix does not have are zero,
            // so not active. Sums hold all strips.
            unsafe {
                add_group::<S, INT4>(
                    (m.bytes.as_ptr().add(codes), column_bytes),
                    m.bytes.as_ptr().add(scales),
                    &active,
                    group,
                    sums,
                );
            }
        }
        let out_rows = rows / TILE_ROWS;
        for tile in 0..out_rows {
            let (block, l) = (tile * TILE_ROWS / BLOCK_ROWS * BLOCK_ROWS, tile % (BLOCK_ROWS / TILE_ROWS));
            for k in 0..4 {
                let from = &sums[block + 16 * k + 4 * l..][..4];
                // SAFETY: the caller may write all rows.
                unsafe {
                    out.add(start + tile * TILE_ROWS + 4 * k).copy_from_nonoverlapping(from.as_ptr(), 4);
                }
            }
        }
    }
    skipped
}

/// sums = sums + (Σ q·x as f32) · (w_scale · x_scale), rows in the order of the scales.
///
/// # Safety
/// The active columns exist, `columns.1` bytes apart, and scales for all sums, which are a whole number of strips.
#[inline(always)]
unsafe fn add_group<S: Interleave, const INT4: bool>(
    columns: (*const u8, usize),
    scales: *const u8,
    active: &Active,
    x: &Int8Group,
    sums: &mut [f32],
) {
    let nibbles = if INT4 { 2 } else { 1 };
    // SAFETY: the caller's; registers of a strip are whole.
    unsafe {
        let start = S::start::<INT4>(x.minus_sum);
        let x_scale = S::broadcast(&raw const x.scale);
        let mut pointers = [[columns.0; 4]; GROUP / 4];
        for (pointers, columns4) in pointers.iter_mut().zip(active.columns.as_chunks::<4>().0) {
            *pointers = columns4.map(|column| columns.0.add(usize::from(column) * columns.1));
        }
        for (s, sums) in sums.chunks_exact_mut(nibbles * BLOCK_ROWS).enumerate() {
            for part in 0..TILE_ROWS / S::LANES {
                let mut quads = [[start; 4]; 2];
                for (pointers, x) in pointers[..active.fours].iter().zip(&active.x) {
                    let x = S::broadcast_bits(x.as_ptr().cast());
                    let at = s * VECTOR_BYTES + part * 4 * S::LANES;
                    let codes = S::interleave(pointers.map(|p| p.add(at)));
                    for (k, codes) in codes.into_iter().enumerate() {
                        if INT4 {
                            let high = S::shift_halves_right::<4>(codes);
                            quads[0][k] = S::quad::<INT4>(quads[0][k], S::mask(codes, 0x0f0f_0f0f), x);
                            quads[1][k] = S::quad::<INT4>(quads[1][k], S::mask(high, 0x0f0f_0f0f), x);
                        } else {
                            quads[0][k] = S::quad::<INT4>(quads[0][k], codes, x);
                        }
                    }
                }
                for (block, quads) in quads[..nibbles].iter().enumerate() {
                    for (k, quad) in quads.iter().enumerate() {
                        let at = block * BLOCK_ROWS + 16 * k + part * S::LANES;
                        let w_scale = S::load_f16(scales.add(2 * (s * nibbles * BLOCK_ROWS + at)));
                        let sum = sums.as_mut_ptr().add(at);
                        let product = S::mul(S::convert(*quad), S::mul(w_scale, x_scale));
                        S::store(sum, S::add(S::float(S::load(sum.cast())), product));
                    }
                }
            }
        }
    }
}

/// Tiles of a strip at most (int4), and bytes of a pair at most (int8 in groups of 128).
const STRIP_TILES: usize = 8;
const PAIR_BYTES: usize = 2 * TILE_ROWS * MAX_GROUP / 2 + VECTOR_BYTES;

/// A pair of groups of a strip, as tiles: 8 of int4 or 4 of int8.
#[repr(C, align(64))]
struct Pairs([u8; STRIP_TILES * PAIR_BYTES]);

/// Several columns of activations: strip by strip and pair by pair, tiles are put together and multiplied.
///
/// # Safety
/// As [`ColumnsKernel`].
#[inline(always)]
unsafe fn several<S: Interleave, const INT4: bool, const MOST: usize>(m: Columns<'_>, x: &Acts, y: Output) {
    let layout = m.layout;
    let group = layout.tiles().group;
    let mut pairs = Pairs([0; STRIP_TILES * PAIR_BYTES]);
    for c in 0..y.columns {
        // SAFETY: the caller may write all rows and columns.
        unsafe { y.base.add(c * y.stride).write_bytes(0, m.rows) };
    }
    let shape = layout.pair();
    for start in (0..m.rows).step_by(layout.strip_rows()) {
        let tiles = layout.strip_rows().min(m.rows - start) / TILE_ROWS;
        for p in 0..layout.n_groups().div_ceil(2) {
            // SAFETY: strip and groups exist, the activations' padding too; the outputs are the caller's.
            unsafe {
                for g in 0..2 {
                    put_group::<S, INT4>(&m, start, 2 * p + g, g, &mut pairs.0, shape.pair_bytes());
                }
                let tiles = Tiles { layout: &shape, bytes: &pairs.0[..tiles * shape.pair_bytes()] };
                let block = Integer::<INT4, true>::new(&shape, x, p * 2 * group);
                walk::<S, _, MOST>(tiles, Output { base: y.base.add(start), ..y }, &block);
            }
        }
    }
}

/// Writes group number `g` of a strip as the group `half` of the tiles' pairs; a group that the matrix does not have as zeros.
///
/// # Safety
/// The strip that begins `start` rows after the first exists.
#[inline(always)]
unsafe fn put_group<S: Interleave, const INT4: bool>(
    m: &Columns<'_>,
    start: usize,
    g: usize,
    half: usize,
    pairs: &mut [u8],
    pair_bytes: usize,
) {
    let (layout, blocks) = (m.layout, if INT4 { 2 } else { 1 });
    let (group, codes_bytes) = (layout.tiles().group, layout.tiles().group_bytes());
    let scales_at = 2 * codes_bytes + half * 2 * TILE_ROWS;
    if g >= layout.n_groups() {
        for pair in pairs.chunks_exact_mut(pair_bytes) {
            pair[scales_at..][..2 * TILE_ROWS].fill(0);
        }
        return;
    }
    let strip = (m.first + start) / layout.strip_rows();
    let codes = g * layout.group_bytes() + strip * VECTOR_BYTES;
    let column = |c: usize| m.bytes[codes + c * layout.column_bytes()..].as_ptr();
    let columns = if INT4 { 8 } else { 4 };
    for j in 0..group / columns {
        for part in 0..TILE_ROWS / S::LANES {
            // SAFETY: the columns of the group exist, whole vectors of each.
            let four = |c: usize| unsafe {
                S::interleave([c, c + 1, c + 2, c + 3].map(|c| column(c).add(part * 4 * S::LANES)))
            };
            let low = four(columns * j);
            let high = if INT4 { four(columns * j + 4) } else { low };
            for k in 0..4 {
                // SAFETY: the trait's.
                let vectors = unsafe {
                    let (a, b) = (low[k], high[k]);
                    let up = S::mask(S::shift_halves_left::<4>(b), 0xf0f0_f0f0);
                    let down = S::mask(S::shift_halves_right::<4>(a), 0x0f0f_0f0f);
                    let or = |a, b| S::add_bits(a, b);
                    if INT4 {
                        [or(S::mask(a, 0x0f0f_0f0f), up), or(down, S::mask(b, 0xf0f0_f0f0))]
                    } else {
                        [a, a]
                    }
                };
                for (block, vector) in vectors[..blocks].iter().enumerate() {
                    let mut lanes = [[0.0f32; 4]; TILE_ROWS / 4];
                    // SAFETY: sixteen lanes are as many as a register has at most.
                    unsafe { S::store(lanes.as_mut_ptr().cast(), S::float(*vector)) };
                    for (l, chunk) in lanes[..S::LANES / 4].iter().enumerate() {
                        let tile = 4 * block + part * S::LANES / 4 + l;
                        let at = tile * pair_bytes + half * codes_bytes + VECTOR_BYTES * j + 16 * k;
                        pairs[at..at + 16].copy_from_slice(bytemuck::cast_slice(chunk));
                    }
                }
            }
        }
    }
    let scales = g * layout.group_bytes() + group * layout.column_bytes() + 2 * strip * layout.strip_rows();
    let scales = &m.bytes[scales..][..2 * layout.strip_rows()];
    for (tile, pair) in pairs.chunks_exact_mut(pair_bytes).take(4 * blocks).enumerate() {
        for k in 0..4 {
            let from = 2 * (tile / 4 * BLOCK_ROWS + 16 * k + 4 * (tile % 4));
            pair[scales_at + 8 * k..][..8].copy_from_slice(&scales[from..from + 8]);
        }
    }
}
