//! The integer formats with f16 scales on registers: exact dot products of the columns that share
//! both scales, then one multiplication by these.
//!
//! ```text
//! for each pair of groups:
//!     for each group of the pair:                      w_scale[row]
//!         for each block of the group:                 x_scale[column]
//!             sum = −bias · Σx
//!             for each step of the block:              32 columns
//!                 sum += operands · x                  exact integers: `Dot::dot`
//!             acc += (sum as f32) · (w_scale · x_scale)
//! ```
//!
//! A *block* is as long as the shorter of a group of weights and one of activations: one step where
//! groups of weights have 32 columns, two elsewhere. Here: that loop (`scalar.rs` defines its
//! order). Not here: scales under steps (`steps.rs`), what codes stand for (`codes.rs`), and the
//! dot product itself, which each instruction set does its own way ([`Dot`]).

use std::marker::PhantomData;

use brooklet_formats::quant::{MAX_GROUP, VECTOR_BYTES};

use super::codes::Codes;
use super::product::Product;
use super::steps;
use super::walk::{Block, Rows, Scales, Shape, Task, in_order, walk};
use crate::kernels::forms::GROUP;
use crate::kernels::simd::{Simd, registers};
use crate::kernels::units::Int8Group;

/// Columns of a step: the smallest group of weights, half a group of activations.
pub(super) const STEP: usize = GROUP / 2;

/// Blocks of a pair: two groups of at most [`MAX_GROUP`] columns.
const MAX_BLOCKS: usize = 2 * MAX_GROUP / GROUP;

/// The integer dot product of an instruction set.
pub(super) trait Dot: Rows {
    /// Whether it multiplies operands of up to 255 as they are. If not, it takes the bias of 128
    /// off them itself.
    const WIDE: bool;

    /// The number in all lanes.
    #[inline(always)]
    fn spread(self, number: &i32) -> Self::I {
        self.splat_bits(*number as u32)
    }

    /// The number in all lanes.
    #[inline(always)]
    fn spread_float(self, number: &f32) -> Self::F {
        self.splat(*number)
    }

    /// `sums` += Σ operand · x over a [`STEP`] of columns, for `R` registers of rows and `C`
    /// columns of activations ([`columns`] of `x`); `codes` is where the first register's begin,
    /// and `table` is for their operands.
    ///
    /// # Safety
    /// * The step's vectors of codes can be read, for `R` registers of rows.
    /// * The step's activations of `C` columns can be read, aligned to quads.
    unsafe fn dot<K: Codes, const R: usize, const C: usize>(
        self,
        table: Self::I,
        codes: *const u8,
        x: *const i8,
        sums: &mut [[Self::I; R]; C],
    );

    /// Each lane's sum + its four operands · its four activations.
    fn quad<K: Codes>(self, sum: Self::I, operands: Self::I, x: Self::I) -> Self::I;
}

/// The place in the group of column `c` that `x` is in the first column's: those groups are
/// neighbours ([`Unit::ADJACENT`](crate::kernels::units::Unit::ADJACENT)).
#[inline(always)]
pub(super) fn column<T>(x: *const T, c: usize) -> *const T {
    x.wrapping_byte_add(c * size_of::<Int8Group>())
}

/// [`column`] of `C` columns.
#[inline(always)]
pub(super) fn columns<T, const C: usize>(x: *const T) -> [*const T; C] {
    registers(
        #[inline(always)]
        |c| column(x, c),
    )
}

/// The kernel of the integer format `K`.
#[inline(always)]
pub(super) fn integer<S: Dot, K: Codes, const MOST: usize>(s: S, product: &Product<'_, Int8Group>) {
    walk::<S, Integer<K>, MOST>(s, product);
}

struct Integer<K>(PhantomData<K>);

impl<S: Dot, K: Codes> Block<S> for Integer<K> {
    type X = Int8Group;

    #[inline(always)]
    fn run<const R: usize, const C: usize>(s: S, task: &Task<'_, Int8Group, R, C>) {
        if K::HAS_STEPS {
            steps::block::<S, K, R, C>(s, task);
        } else if task.shape.group < GROUP {
            all_pairs::<S, K, 1, R, C>(s, task);
        } else {
            all_pairs::<S, K, 2, R, C>(s, task);
        }
    }
}

/// The whole of k, in blocks of `STEPS` steps.
#[inline(always)]
fn all_pairs<S: Dot, K: Codes, const STEPS: usize, const R: usize, const C: usize>(
    s: S,
    task: &Task<'_, Int8Group, R, C>,
) {
    let (shape, x) = (task.shape, task.product().x());
    let mut at = Cursor::<K, STEPS> {
        codes: task.codes::<S>(),
        scales: task.scales::<S>(),
        x: x.as_ptr().wrapping_add(task.column()),
        width: x.stride(),
        blocks: shape.group.div_ceil(GROUP),
        format: PhantomData,
    };
    let mut acc = task.begin(s);
    for pair in 0..shape.pairs {
        task.fetch(s, pair * task.lines..(pair + 1) * task.lines);
        // SAFETY: there are `pairs` pairs of codes and scales in the tile, and activations for all
        // of them in each of the task's columns: `Product::new` has compared them.
        unsafe {
            if in_order::<S>(C) {
                at.codes_then_scales(s, &mut acc);
            } else {
                at.block_by_block(s, &mut acc);
            }
        }
        at.next_pair(&shape);
    }
    for (c, acc) in acc.iter().enumerate() {
        for (r, acc) in acc.iter().enumerate() {
            task.store(s, r, c, *acc);
        }
    }
}

/// Where the loop over pairs stands.
struct Cursor<K, const STEPS: usize> {
    /// The first register's codes of the block that comes next.
    codes: *const u8,
    /// The scales of this pair.
    scales: Scales,
    /// The group of activations that the next block meets, of the first column.
    x: *const Int8Group,
    /// From one group of a column to its next; those of the other columns stand between.
    width: usize,
    /// Blocks of a group.
    blocks: usize,
    format: PhantomData<K>,
}

impl<K: Codes, const STEPS: usize> Cursor<K, STEPS> {
    /// One pair, of many columns: each block's sums are scaled at once.
    ///
    /// # Safety
    /// The pair exists, with `R` registers of rows, and the `C` columns' activations for it.
    #[inline(always)]
    unsafe fn block_by_block<S: Dot, const R: usize, const C: usize>(
        &mut self,
        s: S,
        acc: &mut [[S::F; R]; C],
    ) {
        for half in 0..2 {
            // SAFETY: the pair and its activations exist: promised (Safety).
            // Two groups of `blocks` blocks are all of it, and their scales stand behind them.
            unsafe {
                let w_scale = self.scales.of(s, half);
                for _ in 0..self.blocks {
                    let sums = self.sums(s, half, self.x);
                    add(s, w_scale, &sums, self.x, acc);
                    self.next_block(half);
                }
            }
        }
    }

    /// One pair, of few columns: first the codes of both groups, then their scales. Few columns
    /// wait for memory, and a processor fetches ahead much better what is read in the order in
    /// which it lies there.
    ///
    /// # Safety
    /// As [`Cursor::block_by_block`].
    #[inline(always)]
    unsafe fn codes_then_scales<S: Dot, const R: usize, const C: usize>(
        &mut self,
        s: S,
        acc: &mut [[S::F; R]; C],
    ) {
        let mut sums = [[[s.splat_bits(0); R]; C]; MAX_BLOCKS];
        let sums = &mut sums[..2 * self.blocks];
        // SAFETY: the pair and its activations exist: promised (Safety).
        // Two groups of `blocks` blocks are all of it, and their scales stand behind them.
        unsafe {
            for (b, sums) in sums.iter_mut().enumerate() {
                // Two blocks of one step meet one group of activations.
                let group = if STEPS == 1 { 0 } else { b };
                *sums = self.sums(s, b, self.x.add(group * self.width));
            }
            for (half, sums) in sums.chunks_exact(self.blocks).enumerate() {
                for sums in sums {
                    let w_scale = self.scales.of(s, half);
                    add(s, w_scale, sums, self.x, acc);
                    self.next_block(half);
                }
            }
        }
    }

    /// Σ q·x over the block at `codes`, which is left behind. Of one step, it is the `half`-th of
    /// its group of activations.
    ///
    /// # Safety
    /// The block's codes and activations exist.
    #[inline(always)]
    unsafe fn sums<S: Dot, const R: usize, const C: usize>(
        &mut self,
        s: S,
        half: usize,
        x: *const Int8Group,
    ) -> [[S::I; R]; C] {
        let (first, start) = if STEPS == 1 { (half, half) } else { (0, 2) };
        // SAFETY: the block's codes, of `STEPS` steps, and activations exist: promised (Safety).
        // A group of activations has three starts and two steps of codes, aligned to quads.
        unsafe {
            let starts = (&raw const (*x).starts).cast::<i32>().add(start);
            let mut sums = [[begin::<S, K>(s, &*starts); R]; C];
            for (c, sums) in sums.iter_mut().enumerate().skip(1) {
                *sums = [begin::<S, K>(s, &*column(starts, c)); R];
            }
            for step in first..first + STEPS {
                let x = (&raw const (*x).codes).cast::<i8>().add(STEP * step);
                // Formats with f16 scales have no table.
                s.dot::<K, R, C>(s.splat_bits(0), self.codes, x, &mut sums);
                self.codes = self.codes.add(K::STEP_BYTES);
            }
            sums
        }
    }

    /// Goes on to the activations of the next block; this one is in group `half` of the pair.
    #[inline(always)]
    fn next_block(&mut self, half: usize) {
        // Two blocks of one step meet one group of activations.
        let groups = if STEPS == 1 { half } else { 1 };
        self.x = self.x.wrapping_add(groups * self.width);
    }

    /// Goes past the scales.
    #[inline(always)]
    fn next_pair(&mut self, shape: &Shape) {
        self.codes = self.codes.wrapping_add(VECTOR_BYTES);
        self.scales = self.scales.next(shape);
    }
}

/// Where the sums of a block begin, −bias · Σx, of which `start` is −32 · Σx; 0 if the bias is
/// taken off otherwise.
#[inline(always)]
pub(super) fn begin<S: Dot, K: Codes>(s: S, start: &i32) -> S::I {
    match K::BIAS {
        8 => s.shift_right::<2>(s.spread(start)),
        16 => s.shift_right::<1>(s.spread(start)),
        32 => s.spread(start),
        _ if S::WIDE => s.shift_left::<2>(s.spread(start)),
        _ => s.splat_bits(0),
    }
}

/// acc = acc + (sums as f32) · (w_scale · x_scale).
///
/// # Safety
/// `C` columns' groups of activations stand from `x` on.
#[inline(always)]
unsafe fn add<S: Simd, const R: usize, const C: usize>(
    s: S,
    w_scale: [S::F; R],
    sums: &[[S::I; R]; C],
    x: *const Int8Group,
    acc: &mut [[S::F; R]; C],
) {
    for (c, (acc, sums)) in acc.iter_mut().zip(sums).enumerate() {
        // SAFETY: `C` columns' groups stand from `x` on: promised (Safety); `c` is below `C`.
        let x_scale = s.splat(unsafe { (*x.add(c)).scale });
        for ((acc, sum), w_scale) in acc.iter_mut().zip(sums).zip(w_scale) {
            *acc = s.add(*acc, s.mul(s.convert(*sum), s.mul(w_scale, x_scale)));
        }
    }
}

/// Activations 4j.. of a step, in every lane.
///
/// # Safety
/// They can be read at `x`, aligned to quads.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn quad<S: Simd>(s: S, x: *const i8, j: usize) -> S::I {
    // SAFETY: quad `j` can be read, and is aligned as one: promised (Safety).
    s.splat_bits(unsafe { *x.cast::<u32>().add(j) })
}

/// The same pointer, in a register of its own: the compiler would rather add an index to a base in
/// every instruction that reads memory, and Intel's processors split such an instruction in two.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn in_one_register<T>(mut pointer: *const T) -> *const T {
    // SAFETY: the text is a comment: no instruction, which leaves the pointer as it was.
    unsafe {
        std::arch::asm!("/* {0} */", inout(reg) pointer,
            options(pure, readonly, nostack, preserves_flags));
    }
    pointer
}
