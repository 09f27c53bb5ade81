//! int4 and int8: exact integer dot products of 32 columns, then one multiplication by both scales.
//!
//! Here: the order in which groups are added (`scalar.rs` defines it). Not here: the dot product itself, which each
//! instruction set does its own way ([`Dot`]).

use brooklet_formats::quant::VECTOR_BYTES;

use super::simd::{Block, Simd, walk};
use super::{Output, Tiles};
use crate::kernels::acts::{Acts, GROUP, Int8Group};

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

struct Integer<'a, const INT4: bool> {
    tiles: Tiles<'a>,
    x: *const Int8Group,
    /// Groups between columns.
    stride: usize,
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
    let block = Integer::<INT4> { tiles, x: x.int8.as_ptr(), stride: x.stride() / GROUP };
    // SAFETY: passed on.
    unsafe { walk::<S, _, MOST>(tiles, y, &block) }
}

impl<S: Dot, const INT4: bool> Block<S> for Integer<'_, INT4> {
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
        let layout = self.tiles.layout;
        let (pairs, group, group_bytes) = (layout.n_pairs(), layout.group, layout.group_bytes());
        // SAFETY: offsets stay within the tile (pairs · pair_bytes) and within the columns' padding.
        unsafe {
            let mut acc = [[S::splat(0.0); R]; C];
            let mut x: [*const Int8Group; C] =
                std::array::from_fn(|c| self.x.add((column + c) * self.stride));
            let mut codes = tile.add(4 * S::LANES * first);
            let mut scales = tile.add(2 * group_bytes + 2 * S::LANES * first);
            for _ in 0..pairs {
                for half in 0..2 {
                    let w_scale: [S::F; R] =
                        std::array::from_fn(|r| S::load_f16(scales.add(32 * half + 2 * S::LANES * r)));
                    for _ in 0..group / GROUP {
                        let sums = S::dot::<INT4, R, C>(codes, &x);
                        for c in 0..C {
                            let x_scale = S::broadcast(&raw const (*x[c]).scale);
                            for r in 0..R {
                                let scale = S::mul(w_scale[r], x_scale);
                                acc[c][r] = S::add(acc[c][r], S::mul(S::convert(sums[c][r]), scale));
                            }
                            x[c] = x[c].add(1);
                        }
                        codes = codes.add(if INT4 { 4 } else { 8 } * VECTOR_BYTES);
                    }
                }
                codes = codes.add(VECTOR_BYTES);
                scales = scales.add(2 * group_bytes + VECTOR_BYTES);
            }
            for (c, acc) in acc.iter().enumerate() {
                for (r, acc) in acc.iter().enumerate() {
                    S::store(out.add(c * out_stride + r * S::LANES), *acc);
                }
            }
        }
    }
}
