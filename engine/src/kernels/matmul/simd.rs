//! What the SIMD kernels share: the registers they are written in, and the walk over tiles, rows
//! and columns.
//!
//! An instruction set is a [`Simd`]: a register of 32-bit lanes, lane r belonging to row r of a
//! tile, and some two dozen operations on it. A format is a [`Block`]: the product of a few rows
//! with a few columns, over all of k. Everything here is `inline(always)`, so that it is compiled
//! inside the kernels' functions, which enable the instruction set (`avx512.rs`, `avx_vnni.rs`,
//! `avx2.rs`, `neon.rs`). Tests: `tests.rs`, against `scalar.rs`.

use std::ops::Range;

use brooklet_formats::quant::{TILE_ROWS, TileLayout, VECTOR_BYTES};

use super::{Output, Tiles};
use crate::kernels::isa::Isa;

/// Registers of 32-bit lanes and their operations. Lanes never mix.
///
/// # Safety
/// Every method needs the instruction set; those with pointers need what they read or write to
/// exist, `load` aligned to the register.
pub(super) trait Simd: Sized {
    /// A register of f32.
    type F: Copy;
    /// A register of 32-bit patterns.
    type I: Copy;
    /// Lanes of a register: 16, or 8 or 4 and then two or four registers make a vector of the tile.
    const LANES: usize;
    /// Registers of rows that a block takes at once: of one column, and of several. One column
    /// takes all, so that each cache line is read once; with fewer rows, twice as many columns fit
    /// the registers.
    const AT_ONCE: [usize; 2];

    unsafe fn load(p: *const u8) -> Self::I;
    /// Fetches a cache line into the second level, if the address exists.
    fn prefetch(p: *const u8);
    unsafe fn store(p: *mut f32, v: Self::F);
    /// `LANES` f16, as f32.
    unsafe fn load_f16(p: *const u8) -> Self::F;
    /// One value in all lanes.
    unsafe fn broadcast(p: *const f32) -> Self::F;
    unsafe fn broadcast_bits(p: *const u32) -> Self::I;
    unsafe fn splat(v: f32) -> Self::F;

    unsafe fn bits(v: Self::F) -> Self::I;
    unsafe fn float(v: Self::I) -> Self::F;
    /// i32 to f32.
    unsafe fn convert(v: Self::I) -> Self::F;

    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// a · b + c, in one rounding where the instruction set has that.
    unsafe fn mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F;

    /// c + (upper halves' product), then + (lower halves' product), the halves of a lane being
    /// bf16. Where the instruction set has this, halves below 2⁻¹²⁶ count as zero.
    #[inline(always)]
    unsafe fn dot_bf16(a: Self::I, b: Self::I, c: Self::F) -> Self::F {
        // SAFETY: passed on.
        unsafe { Self::dot_bf16_exact(a, b, c) }
    }
    /// [`Simd::dot_bf16`] with any halves.
    #[inline(always)]
    unsafe fn dot_bf16_exact(a: Self::I, b: Self::I, c: Self::F) -> Self::F {
        // SAFETY: passed on.
        unsafe {
            let c = Self::mul_add(upper::<Self>(a), upper::<Self>(b), c);
            Self::mul_add(lower::<Self>(a), lower::<Self>(b), c)
        }
    }
    /// Whether [`Simd::dot_bf16`] takes halves below 2⁻¹²⁶ for zero.
    const FLUSHES: bool = false;

    unsafe fn add_bits(a: Self::I, b: Self::I) -> Self::I;
    /// The halves of each lane on their own: sums modulo 2¹⁶.
    unsafe fn add_halves(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn mask(v: Self::I, bits: u32) -> Self::I;
    unsafe fn shift_left<const N: u32>(v: Self::I) -> Self::I;
    /// The halves of each lane on their own: shifted left.
    unsafe fn shift_halves_left<const N: u32>(v: Self::I) -> Self::I;
    /// The halves of each lane on their own: shifted right, their sign bits following.
    unsafe fn shift_halves_right<const N: u32>(v: Self::I) -> Self::I;
    /// Whether in any byte none of `bits` is set.
    unsafe fn any_byte_without(v: Self::I, bits: u8) -> bool;
    /// `v` where `test` is neither 0.0 nor −0.0, else 0.
    unsafe fn where_nonzero(v: Self::I, test: Self::F) -> Self::I;
}

/// The bf16 in the upper half of each lane.
#[inline(always)]
pub(super) unsafe fn upper<S: Simd>(v: S::I) -> S::F {
    // SAFETY: the trait's.
    unsafe { S::float(S::mask(v, 0xffff_0000)) }
}

/// The bf16 in the lower half of each lane.
#[inline(always)]
pub(super) unsafe fn lower<S: Simd>(v: S::I) -> S::F {
    // SAFETY: the trait's.
    unsafe { S::float(S::shift_left::<16>(v)) }
}

/// The same pointer, in a register of its own: the compiler would rather add an index to a base in
/// every instruction that reads memory, and Intel's processors split such an instruction in two.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn in_one_register<T>(mut pointer: *const T) -> *const T {
    // SAFETY: no instruction at all.
    unsafe {
        std::arch::asm!("/* {0} */", inout(reg) pointer, options(pure, readonly, nostack, preserves_flags))
    };
    pointer
}

/// The sizes of a tile that blocks need, computed once.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Pairs of groups.
    pub(super) pairs: usize,
    /// Columns of a group.
    pub(super) group: usize,
    /// Bytes of a group's codes.
    pub(super) group_bytes: usize,
    /// Columns of a pair.
    pub(super) pair_columns: usize,
}

impl Shape {
    pub(super) fn of(layout: &TileLayout) -> Shape {
        Shape {
            pairs: layout.n_pairs(),
            group: layout.group,
            group_bytes: layout.group_bytes(),
            pair_columns: layout.pair_cols(),
        }
    }
}

/// What a block computes: some rows of a tile by some columns.
pub(super) struct Task {
    /// The tile.
    pub(super) tile: *const u8,
    /// The first register of its rows.
    pub(super) first: usize,
    /// The first column.
    pub(super) column: usize,
    /// Where the first row's result of the first column goes.
    out: *mut f32,
    /// Floats between columns there.
    stride: usize,
    /// Bytes that are needed soon.
    next: *const u8,
    /// How many cache lines of them to fetch for each pair of groups.
    pub(super) lines: usize,
}

impl Task {
    /// Fetches cache lines `lines` of what is needed soon.
    #[inline(always)]
    pub(super) fn fetch<S: Simd>(&self, lines: Range<usize>) {
        for line in lines {
            S::prefetch(self.next.wrapping_add(line * VECTOR_BYTES));
        }
    }

    /// Writes results: of register r of the rows and column c.
    ///
    /// # Safety
    /// As [`Block::run`].
    #[inline(always)]
    pub(super) unsafe fn store<S: Simd>(&self, r: usize, c: usize, result: S::F) {
        // SAFETY: the caller's.
        unsafe { S::store(self.out.add(c * self.stride + r * S::LANES), result) }
    }
}

/// A kernel's innermost block.
pub(super) trait Block<S: Simd> {
    /// Overwrites the products of `R` registers of rows with `C` columns.
    ///
    /// # Safety
    /// As [`super::Kernel`], for these rows and columns.
    unsafe fn run<const R: usize, const C: usize>(&self, task: &Task);
}

/// Runs `block` on every tile, and there on the columns in order, at most `MOST` at a time.
///
/// # Safety
/// As [`super::Kernel`].
#[inline(always)]
pub(super) unsafe fn walk<S: Simd, B: Block<S>, const MOST: usize>(
    tiles: Tiles<'_>,
    y: Output,
    block: &B,
) {
    let size = tiles.layout.tile_bytes();
    let (lines_of_tile, ahead) = (size / VECTOR_BYTES, Isa::fetch_ahead());
    let passes = y.columns.div_ceil(MOST);
    for (t, tile) in tiles.bytes.chunks_exact(size).enumerate() {
        // What comes next is fetched while this tile is multiplied, a share with every pair of
        // groups. A single column reads everything in order; several read each tile again and
        // again, and meanwhile the next one comes.
        let (mut next, share) = if y.columns == 1 {
            (tile.as_ptr().wrapping_add(ahead), if ahead > 0 { lines_of_tile } else { 0 })
        } else {
            (tile.as_ptr_range().end, lines_of_tile.div_ceil(passes))
        };
        let lines = share.div_ceil(tiles.layout.n_pairs());
        let mut c = 0;
        while c < y.columns {
            // SAFETY: the tile and columns c.. up to the block's width exist; the outputs are the
            // caller's.
            unsafe {
                let out = y.base.add(c * y.stride + t * TILE_ROWS);
                let task = Task {
                    tile: tile.as_ptr(),
                    first: 0,
                    column: c,
                    out,
                    stride: y.stride,
                    next,
                    lines,
                };
                let left = y.columns - c;
                // Sixteen are faster as twice eight than as twelve and four, eight as twice four
                // than as five, two and one: few columns wait for their own sums.
                let divided =
                    if MOST > 8 { (16..20).contains(&left) } else { matches!(left, 6 | 8) };
                c += if !MOST.is_power_of_two() && left >= MOST && !divided {
                    rows::<S, B, MOST>(block, task)
                } else if MOST >= 8 && left >= 8 {
                    rows::<S, B, 8>(block, task)
                } else if MOST >= 4 && left >= 4 {
                    rows::<S, B, 4>(block, task)
                } else if left >= 2 {
                    rows::<S, B, 2>(block, task)
                } else {
                    rows::<S, B, 1>(block, task)
                };
            }
            next = next.wrapping_add(share * VECTOR_BYTES);
        }
    }
}

/// The 16 rows of a tile by `C` columns, [`Simd::AT_ONCE`] registers of rows after the other;
/// returns `C`.
///
/// # Safety
/// As [`Block::run`].
#[inline(always)]
unsafe fn rows<S: Simd, B: Block<S>, const C: usize>(block: &B, mut task: Task) -> usize {
    let at_once = const { S::AT_ONCE[(C > 1) as usize] };
    for first in (0..TILE_ROWS / S::LANES).step_by(at_once) {
        task.first = first;
        // SAFETY: passed on; a tile has 16 rows.
        unsafe {
            match at_once {
                1 => block.run::<1, C>(&task),
                2 => block.run::<2, C>(&task),
                _ => block.run::<4, C>(&task),
            }
            task.out = task.out.add(at_once * S::LANES);
        }
        // What is fetched, the first rows' block has fetched.
        task.lines = 0;
    }
    C
}
