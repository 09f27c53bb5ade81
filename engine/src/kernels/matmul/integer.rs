//! int4 and int8: exact integer dot products of 32 columns, then one multiplication by both scales.
//!
//! Here: the order in which groups are added (`scalar.rs` defines it). Not here: the dot product itself, which each
//! instruction set does its own way ([`Dot`]).

use brooklet_formats::quant::{MAX_GROUP, TileLayout, VECTOR_BYTES};

use super::simd::{Block, Shape, Simd, walk};
use super::{Output, Tiles};
use crate::kernels::acts::Acts;
use crate::kernels::forms::{GROUP, Int8Group};

/// Sums of a pair: two groups of at most [`MAX_GROUP`] columns, 32 at a time.
const MAX_SUMS: usize = 2 * MAX_GROUP / GROUP;

/// How far ahead of themselves these kernels fetch weights when they multiply several columns, in bytes. A single column does
/// without: it reads in order, and fetching ahead by hand costs it up to a quarter of the memory's speed.
const AHEAD: usize = 4096;

/// The integer dot product of an instruction set.
pub(super) trait Dot: Simd {
    /// `Σ q·x` over 32 columns for `R` registers of rows and `C` columns; `codes` is where the first register's begin.
    ///
    /// # Safety
    /// The vectors of the 32 columns (4 of int4, 8 of int8) and the groups exist.
    unsafe fn dot<const INT4: bool, const R: usize, const C: usize>(
        codes: *const u8,
        x: &[*const Int8Group; C],
    ) -> [[Self::I; R]; C];
}

/// The block of int4 or int8; it overwrites its outputs, or goes on from them.
pub(super) struct Integer<const INT4: bool, const GO_ON: bool> {
    shape: Shape,
    x: *const Int8Group,
    /// Groups between columns.
    stride: usize,
}

impl<const INT4: bool, const GO_ON: bool> Integer<INT4, GO_ON> {
    /// For tiles of `layout`, whose first column multiplies element `first` of the activations.
    pub(super) fn new(layout: &TileLayout, x: &Acts, first: usize) -> Self {
        Integer { shape: Shape::of(layout), x: x.int8[first / GROUP..].as_ptr(), stride: x.stride() / GROUP }
    }
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
    let block = Integer::<INT4, false>::new(tiles.layout, x, 0);
    // SAFETY: passed on.
    unsafe { walk::<S, _, MOST>(tiles, y, &block) }
}

impl<S: Dot, const INT4: bool, const GO_ON: bool> Block<S> for Integer<INT4, GO_ON> {
    /// acc = acc + (Σ q·x as f32) · (w_scale · x_scale) per 32 columns.
    #[inline(always)]
    unsafe fn run<const R: usize, const C: usize>(
        &self,
        tile: *const u8,
        first: usize,
        column: usize,
        out: *mut f32,
        out_stride: usize,
    ) {
        let shape = self.shape;
        // SAFETY: offsets stay within the tile (pairs · pair_bytes) and within the columns' padding.
        unsafe {
            let mut x = [self.x; C];
            for (c, x) in x.iter_mut().enumerate() {
                *x = x.add((column + c) * self.stride);
            }
            let mut codes = tile.add(4 * S::LANES * first);
            let mut scales = tile.add(2 * shape.group_bytes + 2 * S::LANES * first);
            let mut acc = [[S::splat(0.0); R]; C];
            if GO_ON {
                for (c, acc) in acc.iter_mut().enumerate() {
                    for (r, acc) in acc.iter_mut().enumerate() {
                        *acc = S::read(out.add(c * out_stride + r * S::LANES));
                    }
                }
            }
            let vectors = if INT4 { 4 } else { 8 };
            let mut sums = [[[S::bits(S::splat(0.0)); R]; C]; MAX_SUMS];
            let one_column = if C == 1 { shape.pairs } else { 0 };
            for _ in 0..one_column {
                // One column waits for memory, and a processor fetches ahead much better what is read in the order in which it
                // lies there: first all sums of a pair, then its scales, which stand behind its codes.
                let sums = &mut sums[..2 * shape.group / GROUP];
                for (g, sums) in sums.iter_mut().enumerate() {
                    *sums = S::dot::<INT4, R, C>(codes, &[x[0].add(g); C]);
                    codes = codes.add(vectors * VECTOR_BYTES);
                }
                for (half, sums) in sums.chunks_exact(shape.group / GROUP).enumerate() {
                    for sums in sums {
                        let x_scale = S::broadcast(&raw const (*x[0]).scale);
                        for (r, (acc, sum)) in acc[0].iter_mut().zip(sums[0]).enumerate() {
                            let w_scale = S::load_f16(scales.add(32 * half + 2 * S::LANES * r));
                            *acc = S::add(*acc, S::mul(S::convert(sum), S::mul(w_scale, x_scale)));
                        }
                        x[0] = x[0].add(1);
                    }
                }
                codes = codes.add(VECTOR_BYTES);
                scales = scales.add(2 * shape.group_bytes + VECTOR_BYTES);
            }
            for _ in one_column..shape.pairs {
                S::prefetch(scales.wrapping_add(AHEAD));
                for half in 0..2 {
                    let mut w_scale = [S::splat(0.0); R];
                    for (r, w_scale) in w_scale.iter_mut().enumerate() {
                        *w_scale = S::load_f16(scales.add(32 * half + 2 * S::LANES * r));
                    }
                    for _ in 0..shape.group / GROUP {
                        for i in 0..vectors {
                            S::prefetch(codes.wrapping_add(AHEAD + i * VECTOR_BYTES));
                        }
                        let sums = S::dot::<INT4, R, C>(codes, &x);
                        for ((acc, sums), x) in acc.iter_mut().zip(sums).zip(&mut x) {
                            let x_scale = S::broadcast(&raw const (**x).scale);
                            for ((acc, sum), w_scale) in acc.iter_mut().zip(sums).zip(w_scale) {
                                *acc = S::add(*acc, S::mul(S::convert(sum), S::mul(w_scale, x_scale)));
                            }
                            *x = x.add(1);
                        }
                        codes = codes.add(vectors * VECTOR_BYTES);
                    }
                }
                codes = codes.add(VECTOR_BYTES);
                scales = scales.add(2 * shape.group_bytes + VECTOR_BYTES);
            }
            for (c, acc) in acc.iter().enumerate() {
                for (r, acc) in acc.iter().enumerate() {
                    S::store(out.add(c * out_stride + r * S::LANES), *acc);
                }
            }
        }
    }
}
