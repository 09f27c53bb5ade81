//! int4 and int8: exact integer dot products of the columns that share both scales, then one
//! multiplication by these.
//!
//! Here: the order in which groups are added (`scalar.rs` defines it). Not here: the dot product
//! itself, which each instruction set does its own way ([`Dot`]).

use brooklet_formats::quant::{MAX_GROUP, VECTOR_BYTES};

use super::simd::{Block, Shape, Simd, Task, walk};
use super::{Output, Tiles};
use crate::buffers::Acts;
use crate::kernels::forms::{GROUP, Int8Group};

/// Columns of one [`Dot::dot`]: the smallest group of weights, half a group of activations.
const STEP: usize = GROUP / 2;

/// Blocks of a pair: two groups of at most [`MAX_GROUP`] columns.
const MAX_BLOCKS: usize = 2 * MAX_GROUP / GROUP;

/// The integer dot product of an instruction set.
pub(super) trait Dot: Simd {
    /// Where sums of int8 begin, given −8 · Σx: at 16 times that if [`Dot::dot`] takes the codes as
    /// they are stored, 128 too large, else at 0.
    ///
    /// # Safety
    /// The number exists.
    unsafe fn start_int8(start: *const i32) -> Self::I;

    /// `sums` += Σ q·x over 32 columns of weights for `R` registers of rows and `C` columns of
    /// activations ([`columns`] of `x`); `codes` is where the first register's begin.
    ///
    /// # Safety
    /// The vectors of the 32 columns (4 of int4, 8 of int8) and the activations exist.
    unsafe fn dot<const INT4: bool, const R: usize, const C: usize>(
        codes: *const u8,
        x: *const i8,
        sums: &mut [[Self::I; R]; C],
    );
}

/// What stands in the groups of `C` columns where `x` stands in the first one's: those groups are
/// neighbours.
#[inline(always)]
pub(super) fn columns<T, const C: usize>(x: *const T) -> [*const T; C] {
    std::array::from_fn(
        #[inline(always)]
        |c| x.wrapping_byte_add(c * size_of::<Int8Group>()),
    )
}

struct Integer<const INT4: bool> {
    shape: Shape,
    x: *const Int8Group,
    /// From one group of a column to its next; those of the other columns stand between.
    width: usize,
}

/// The kernel of int4 or int8.
///
/// # Safety
/// As [`super::Kernel`].
#[inline(always)]
pub(super) unsafe fn integer<S: Dot, const INT4: bool, const MOST: usize>(
    tiles: Tiles<'_>,
    x: &Acts,
    y: Output,
) {
    let (groups, width) = x.int8();
    let block = Integer::<INT4> { shape: Shape::of(tiles.layout), x: groups.as_ptr(), width };
    // SAFETY: passed on.
    unsafe { walk::<S, _, MOST>(tiles, y, &block) }
}

impl<S: Dot, const INT4: bool> Block<S> for Integer<INT4> {
    #[inline(always)]
    unsafe fn run<const R: usize, const C: usize>(&self, task: &Task) {
        // SAFETY: passed on.
        unsafe {
            if self.shape.group < GROUP {
                self.product::<S, R, C, true>(task);
            } else {
                self.product::<S, R, C, false>(task);
            }
        }
    }
}

impl<const INT4: bool> Integer<INT4> {
    /// Bytes of 16 rows by [`STEP`] columns of codes.
    const STEP_BYTES: usize = if INT4 { 4 } else { 8 } * VECTOR_BYTES;

    /// acc = acc + (Σ q·x as f32) · (w_scale · x_scale) per block. `HALVED`: groups of weights are
    /// half as long as those of activations.
    ///
    /// # Safety
    /// As [`Block::run`].
    #[inline(always)]
    unsafe fn product<S: Dot, const R: usize, const C: usize, const HALVED: bool>(
        &self,
        task: &Task,
    ) {
        let shape = self.shape;
        let blocks = shape.group.div_ceil(GROUP);
        // SAFETY: offsets stay within the tile (pairs · pair_bytes) and within the columns'
        // padding.
        unsafe {
            let mut x = self.x.add(task.column);
            let mut codes = task.tile.add(4 * S::LANES * task.first);
            let mut scales = task.tile.add(2 * shape.group_bytes + 2 * S::LANES * task.first);
            let mut acc = [[S::splat(0.0); R]; C];
            for pair in 0..shape.pairs {
                task.fetch::<S>(pair * task.lines..(pair + 1) * task.lines);
                if C == 1 {
                    // One column waits for memory, and a processor fetches ahead much better what
                    // is read in the order in which it lies there: first the codes of both groups,
                    // then their scales.
                    let mut sums = [[[S::bits(S::splat(0.0)); R]; C]; MAX_BLOCKS];
                    let sums = &mut sums[..2 * blocks];
                    for (b, sums) in sums.iter_mut().enumerate() {
                        let x = x.add(if HALVED { 0 } else { b * self.width });
                        *sums = Self::block::<S, R, C, HALVED>(b, &mut codes, x);
                    }
                    for (half, sums) in sums.chunks_exact(blocks).enumerate() {
                        for sums in sums {
                            let w_scale = Self::scales::<S, R>(scales.add(32 * half));
                            Self::add::<S, R, C>(w_scale, sums, x, &mut acc);
                            x = x.add(if HALVED { half } else { 1 } * self.width);
                        }
                    }
                } else {
                    for half in 0..2 {
                        let w_scale = Self::scales::<S, R>(scales.add(32 * half));
                        for _ in 0..blocks {
                            let sums = Self::block::<S, R, C, HALVED>(half, &mut codes, x);
                            Self::add::<S, R, C>(w_scale, &sums, x, &mut acc);
                            x = x.add(if HALVED { half } else { 1 } * self.width);
                        }
                    }
                }
                codes = codes.add(VECTOR_BYTES);
                scales = scales.add(2 * shape.group_bytes + VECTOR_BYTES);
            }
            for (c, acc) in acc.iter().enumerate() {
                for (r, acc) in acc.iter().enumerate() {
                    task.store::<S>(r, c, *acc);
                }
            }
        }
    }

    /// Σ q·x over a block: the columns that share both scales. `half` says which half of the
    /// activations' group, if halved; `codes` is left behind the block.
    ///
    /// # Safety
    /// The block's codes and activations exist, and the processor has the instruction set.
    #[inline(always)]
    unsafe fn block<S: Dot, const R: usize, const C: usize, const HALVED: bool>(
        half: usize,
        codes: &mut *const u8,
        x: *const Int8Group,
    ) -> [[S::I; R]; C] {
        // SAFETY: the caller's.
        unsafe {
            let start = if HALVED { half } else { 2 };
            let starts = (&raw const (*x).starts).cast::<i32>().add(start);
            let mut sums = columns::<_, C>(starts).map(|start| [Self::start::<S>(start); R]);
            for step in if HALVED { half..half + 1 } else { 0..2 } {
                let x = (&raw const (*x).codes).cast::<i8>().add(STEP * step);
                S::dot::<INT4, R, C>(*codes, x, &mut sums);
                *codes = codes.add(Self::STEP_BYTES);
            }
            sums
        }
    }

    /// Where sums of products with codes begin that are stored with a bias: −bias · Σx, of which
    /// `start` is −8 · Σx.
    ///
    /// # Safety
    /// The number exists, and the processor has the instruction set.
    #[inline(always)]
    unsafe fn start<S: Dot>(start: *const i32) -> S::I {
        // SAFETY: passed on.
        unsafe { if INT4 { S::broadcast_bits(start.cast()) } else { S::start_int8(start) } }
    }

    /// The weights' scales of `R` registers of rows; `scales` is where the first register's are.
    ///
    /// # Safety
    /// The scales exist, and the processor has the instruction set.
    #[inline(always)]
    unsafe fn scales<S: Dot, const R: usize>(scales: *const u8) -> [S::F; R] {
        // SAFETY: the caller's.
        std::array::from_fn(
            #[inline(always)]
            |r| unsafe { S::load_f16(scales.add(2 * S::LANES * r)) },
        )
    }

    /// acc = acc + (sums as f32) · (w_scale · x_scale).
    ///
    /// # Safety
    /// The activations exist, and the processor has the instruction set.
    #[inline(always)]
    unsafe fn add<S: Dot, const R: usize, const C: usize>(
        w_scale: [S::F; R],
        sums: &[[S::I; R]; C],
        x: *const Int8Group,
        acc: &mut [[S::F; R]; C],
    ) {
        for (c, (acc, sums)) in acc.iter_mut().zip(sums).enumerate() {
            // SAFETY: the caller's.
            unsafe {
                let x_scale = S::broadcast(&raw const (*x.add(c)).scale);
                for ((acc, sum), w_scale) in acc.iter_mut().zip(sums).zip(w_scale) {
                    *acc = S::add(*acc, S::mul(S::convert(*sum), S::mul(w_scale, x_scale)));
                }
            }
        }
    }
}
