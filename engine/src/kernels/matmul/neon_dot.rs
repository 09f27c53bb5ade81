//! The integer formats on NEON: exact dot products of 32 columns, with `sdot`, with `usdot`, or
//! from 16-bit products.
//!
//! The codes of four rows stand in a register, four columns of a row in a lane, and the four
//! activations that meet them come from one lane of a register of sixteen (`sdot` "by element"), so
//! that nothing is broadcast. Operands below 128 are signed bytes as they stand, and the sums start
//! at −bias · Σx; int8 codes lose their bias by `eor`, except for `usdot`, which takes them as they
//! are.
//!
//! Instructions for a block of 16 rows by 32 columns of weights, counted in the objects of an
//! optimized build, in the loops of the dot products; for several columns of activations, per
//! column. Scales add 16 to 20, once for 64 columns:
//!
//! | | int4-v1, 1 column | 2 | 4 | int8, 1 column | 2 | 4 |
//! |---|---:|---:|---:|---:|---:|---:|
//! | `neon` (`smlal`) | 140 | 124 | 114 | 176 | 168 | 164 |
//! | `neon-dotprod` (`sdot`) | 79 | 61 | 49 | 87 | 65 | 54 |
//! | `neon-i8mm` (`sdot`, `usdot`) | 79 | 61 | 49 | 55 | 50 | 43 |
//!
//! `smmla` multiplies two rows by two columns, 8 deep, and so needs rows and columns side by side
//! that lie apart here. In 8 columns of int4-v1 it would save 128 products and cost 64 `zip`s of
//! codes, 32 of activations and 16 of scales. Tests: `tests.rs`.

use std::arch::aarch64::*;
use std::arch::asm;

use super::codes::Codes;
use super::integer::{Dot, columns};
use crate::kernels::simd::Simd;
use crate::kernels::simd::neon::{Base, Dotprod, I8mm, Neon};

/// Each lane's sum + its four operands · the four activations in lane `I` of `x`, both signed.
#[inline(always)]
pub(crate) fn sdot<const I: i32>(
    _s: Neon<Dotprod>,
    mut sum: uint32x4_t,
    operands: uint32x4_t,
    x: int8x16_t,
) -> uint32x4_t {
    // SAFETY: the processor has `sdot` (`_s`), which works on registers.
    unsafe {
        asm!(".arch_extension dotprod", "sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{3}]", inout(vreg) sum,
            in(vreg) operands, in(vreg) x, const I, options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// The same with unsigned operands.
#[inline(always)]
fn usdot<const I: i32>(
    _s: Neon<I8mm>,
    mut sum: uint32x4_t,
    operands: uint32x4_t,
    x: int8x16_t,
) -> uint32x4_t {
    // SAFETY: the processor has `usdot` (`_s`), which works on registers.
    unsafe {
        asm!(".arch_extension i8mm", "usdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{3}]", inout(vreg) sum,
            in(vreg) operands, in(vreg) x, const I, options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// A dot product of four operands.
trait Quads: Simd<I = uint32x4_t> {
    /// Each lane's sum + its four operands · the four activations in lane `I` of `x`.
    fn quads<K: Codes, const I: i32>(
        self,
        sum: uint32x4_t,
        operands: uint32x4_t,
        x: int8x16_t,
    ) -> uint32x4_t;
}

impl Quads for Neon<Dotprod> {
    #[inline(always)]
    fn quads<K: Codes, const I: i32>(
        self,
        sum: uint32x4_t,
        operands: uint32x4_t,
        x: int8x16_t,
    ) -> uint32x4_t {
        let signed = if K::SIGNED { operands } else { without_bias(self, operands) };
        sdot::<I>(self, sum, signed, x)
    }
}

impl Quads for Neon<I8mm> {
    #[inline(always)]
    fn quads<K: Codes, const I: i32>(
        self,
        sum: uint32x4_t,
        operands: uint32x4_t,
        x: int8x16_t,
    ) -> uint32x4_t {
        usdot::<I>(self, sum, operands, x)
    }
}

/// Operands of 0 to 255 as the signed bytes that they are 128 larger than.
#[inline(always)]
fn without_bias<S: Simd>(s: S, operands: S::I) -> S::I {
    s.xor(operands, s.splat_bits(0x8080_8080))
}

/// [`Dot::dot`] by quads.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn dot_quads<S: Quads, K: Codes, const R: usize, const C: usize>(
    s: S,
    table: uint32x4_t,
    codes: *const u8,
    x: *const i8,
    sums: &mut [[uint32x4_t; R]; C],
) {
    for half in 0..2 {
        // SAFETY: a step of codes and of activations can be read: promised (Safety).
        // It is four times eight columns, two for each sixteen activations.
        // Every AArch64 has NEON.
        unsafe {
            let x = columns::<_, C>(x).map(
                #[inline(always)]
                |x| vld1q_s8(x.add(16 * half)),
            );
            octet::<S, K, R, C, 0, 1>(s, table, codes, 2 * half, &x, sums);
            octet::<S, K, R, C, 2, 3>(s, table, codes, 2 * half + 1, &x, sums);
        }
    }
}

/// `sums` += the `j`-th eight columns, which meet lanes `I` and `J` of the activations.
///
/// # Safety
/// `R` registers of rows can be read at `codes`, of each of their vectors.
#[inline(always)]
unsafe fn octet<S: Quads, K: Codes, const R: usize, const C: usize, const I: i32, const J: i32>(
    s: S,
    table: uint32x4_t,
    codes: *const u8,
    j: usize,
    x: &[int8x16_t; C],
    sums: &mut [[uint32x4_t; R]; C],
) {
    // SAFETY: `R` registers of rows can be read, of each of their vectors: promised (Safety).
    let w: [_; R] = std::array::from_fn(
        #[inline(always)]
        |r| unsafe { K::operands(s, table, codes.add(16 * r), j) },
    );
    for r in 0..R {
        for (sums, x) in sums.iter_mut().zip(x) {
            sums[r] = s.quads::<K, I>(sums[r], w[r][0], *x);
        }
    }
    for r in 0..R {
        for (sums, x) in sums.iter_mut().zip(x) {
            sums[r] = s.quads::<K, J>(sums[r], w[r][1], *x);
        }
    }
}

impl Dot for Neon<Dotprod> {
    const WIDE: bool = false;

    #[inline(always)]
    unsafe fn dot<K: Codes, const R: usize, const C: usize>(
        self,
        table: uint32x4_t,
        codes: *const u8,
        x: *const i8,
        sums: &mut [[uint32x4_t; R]; C],
    ) {
        // SAFETY: a step of codes and of activations can be read: promised (`Dot::dot`).
        unsafe { dot_quads::<_, K, R, C>(self, table, codes, x, sums) }
    }

    #[inline(always)]
    fn quad<K: Codes>(self, sum: uint32x4_t, operands: uint32x4_t, x: uint32x4_t) -> uint32x4_t {
        self.quads::<K, 0>(sum, operands, signed(x))
    }
}

impl Dot for Neon<I8mm> {
    const WIDE: bool = true;

    #[inline(always)]
    unsafe fn dot<K: Codes, const R: usize, const C: usize>(
        self,
        table: uint32x4_t,
        codes: *const u8,
        x: *const i8,
        sums: &mut [[uint32x4_t; R]; C],
    ) {
        // SAFETY: a step of codes and of activations can be read: promised (`Dot::dot`).
        unsafe { dot_quads::<_, K, R, C>(self, table, codes, x, sums) }
    }

    #[inline(always)]
    fn quad<K: Codes>(self, sum: uint32x4_t, operands: uint32x4_t, x: uint32x4_t) -> uint32x4_t {
        self.quads::<K, 0>(sum, operands, signed(x))
    }
}

impl Dot for Neon<Base> {
    const WIDE: bool = false;

    #[inline(always)]
    unsafe fn dot<K: Codes, const R: usize, const C: usize>(
        self,
        table: uint32x4_t,
        codes: *const u8,
        x: *const i8,
        sums: &mut [[uint32x4_t; R]; C],
    ) {
        let x = columns::<_, C>(x);
        // SAFETY: a step of codes and of activations can be read: promised (`Dot::dot`).
        unsafe {
            if K::SIGNED {
                dot_small::<K, R, C>(self, table, codes, &x, sums);
            } else {
                dot_wide::<K, R, C>(self, table, codes, &x, sums);
            }
        }
    }

    #[inline(always)]
    fn quad<K: Codes>(self, sum: uint32x4_t, operands: uint32x4_t, x: uint32x4_t) -> uint32x4_t {
        let w = signed(if K::SIGNED { operands } else { without_bias(self, operands) });
        // SAFETY: every AArch64 has NEON. Two products fit 16 bits: activations have no −128.
        unsafe {
            let low = vmull_s8(vget_low_s8(w), vget_low_s8(signed(x)));
            let pairs = vpaddq_s16(low, vmull_high_s8(w, signed(x)));
            vreinterpretq_u32_s32(vpadalq_s16(vreinterpretq_s32_u32(sum), pairs))
        }
    }
}

/// The same bits as signed bytes.
#[inline(always)]
fn signed(v: uint32x4_t) -> int8x16_t {
    // SAFETY: every AArch64 has NEON.
    unsafe { vreinterpretq_s8_u32(v) }
}

/// Activations 4j.. of 32, in every lane.
///
/// # Safety
/// They can be read at `x`, aligned to quads.
#[inline(always)]
unsafe fn quad(x: *const i8, j: usize) -> int8x16_t {
    // The empty `asm!` keeps to itself that all lanes are equal: the compiler would take the upper
    // halves of codes down by `ext` instead of multiplying them by `smlal2`.
    // SAFETY: quad `j` can be read, and is aligned as one: promised (Safety).
    unsafe {
        let mut quad = vld1q_dup_s32(x.cast::<i32>().add(j));
        asm!("/* {0:v} */", inout(vreg) quad, options(pure, nomem, nostack, preserves_flags));
        vreinterpretq_s8_s32(quad)
    }
}

/// [`Dot::dot`] of operands below 128, from 16-bit sums of as many products as fit; of a step there
/// are eight. Of operands below 16 two such sums still fit.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn dot_small<K: Codes, const R: usize, const C: usize>(
    s: Neon<Base>,
    table: uint32x4_t,
    codes: *const u8,
    x: &[*const i8; C],
    sums: &mut [[uint32x4_t; R]; C],
) {
    // A step is four times eight columns of codes, of `R` registers of rows, and eight quads of
    // activations.
    // SAFETY: it can be read: promised (Safety). Every AArch64 has NEON.
    unsafe {
        let mut halves = [[[vdupq_n_s16(0); 2]; R]; C];
        for j in 0..4 {
            let x = x.map(
                #[inline(always)]
                |x| [quad(x, 2 * j), quad(x, 2 * j + 1)],
            );
            for r in 0..R {
                let w = K::operands(s, table, codes.add(16 * r), j);
                for (halves, x) in halves.iter_mut().zip(&x) {
                    for (w, x) in w.into_iter().zip(*x) {
                        let w = vreinterpretq_s8_u32(w);
                        halves[r][0] = vmlal_s8(halves[r][0], vget_low_s8(w), vget_low_s8(x));
                        halves[r][1] = vmlal_high_s8(halves[r][1], w, x);
                    }
                }
            }
            // Every j adds two products.
            if (j + 1) % (K::PRODUCTS_IN_16_BITS / 2).min(4) != 0 {
                continue;
            }
            for (sum, halves) in sums.as_flattened_mut().iter_mut().zip(halves.as_flattened_mut()) {
                // Of the first two rows, then of the others.
                let [low, high] = *halves;
                let v = vreinterpretq_s32_u32(*sum);
                let v = if K::PRODUCTS_IN_16_BITS < 16 {
                    vaddq_s32(v, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)))
                } else {
                    vpadalq_s16(v, vpaddq_s16(low, high))
                };
                *sum = vreinterpretq_u32_s32(v);
                *halves = [vdupq_n_s16(0); 2];
            }
        }
    }
}

/// [`Dot::dot`] of operands that are 128 too large; two products at a time fit 16 bits, since
/// activations have no −128.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn dot_wide<K: Codes, const R: usize, const C: usize>(
    s: Neon<Base>,
    table: uint32x4_t,
    codes: *const u8,
    x: &[*const i8; C],
    sums: &mut [[uint32x4_t; R]; C],
) {
    // A step is four times eight columns of codes, of `R` registers of rows, and eight quads of
    // activations.
    // SAFETY: it can be read: promised (Safety). Every AArch64 has NEON.
    unsafe {
        let mut halves = [[[vdupq_n_s32(0); 2]; R]; C];
        for j in 0..4 {
            let x = x.map(
                #[inline(always)]
                |x| [quad(x, 2 * j), quad(x, 2 * j + 1)],
            );
            for r in 0..R {
                let [v, w] = K::operands(s, table, codes.add(16 * r), j).map(
                    #[inline(always)]
                    |w| vreinterpretq_s8_u32(without_bias(s, w)),
                );
                for (halves, x) in halves.iter_mut().zip(&x) {
                    let low = vmull_s8(vget_low_s8(v), vget_low_s8(x[0]));
                    let low = vmlal_s8(low, vget_low_s8(w), vget_low_s8(x[1]));
                    let high = vmlal_high_s8(vmull_high_s8(v, x[0]), w, x[1]);
                    halves[r] = [vpadalq_s16(halves[r][0], low), vpadalq_s16(halves[r][1], high)];
                }
            }
        }
        for (sum, [low, high]) in sums.as_flattened_mut().iter_mut().zip(halves.as_flattened()) {
            *sum = vaddq_u32(*sum, vreinterpretq_u32_s32(vpaddq_s32(*low, *high)));
        }
    }
}
