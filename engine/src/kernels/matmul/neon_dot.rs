//! int4 and int8 on NEON: exact dot products of 32 columns, with `sdot`, with `usdot`, or from
//! 16-bit products.
//!
//! The codes of four rows stand in a register, four columns of a row in a lane, and the four
//! activations that meet them come from one lane of a register of sixteen (`sdot` "by element"), so
//! that nothing is broadcast. int4 codes stay 0…15 and the sums start at −8 · Σx; int8 codes lose
//! their bias by `eor`, except for `usdot`, which takes them as they are.
//!
//! Instructions for a block of 16 rows by 32 columns of weights, counted in the objects of an
//! optimized build, in the loops of the dot products; for several columns of activations, per
//! column. Scales add 16 to 20, once for 64 columns:
//!
//! | | int4, 1 column | 2 | 4 | int8, 1 column | 2 | 4 |
//! |---|---:|---:|---:|---:|---:|---:|
//! | `neon` (`smlal`) | 140 | 124 | 114 | 176 | 168 | 164 |
//! | `neon-dotprod` (`sdot`) | 79 | 61 | 49 | 87 | 65 | 54 |
//! | `neon-i8mm` (`sdot`, `usdot`) | 79 | 61 | 49 | 55 | 50 | 43 |
//!
//! `smmla` multiplies two rows by two columns, 8 deep, and so needs rows and columns side by side
//! that lie apart here. In 8 columns of int4 it would save 128 products and cost 64 `zip`s of
//! codes, 32 of activations and 16 of scales. Tests: `tests.rs`.

use std::arch::aarch64::*;
use std::arch::asm;

use super::integer::{Dot, columns};
use super::neon::Neon;

/// NEON as every AArch64 has it.
pub(super) struct Base;

/// With `sdot`.
pub(super) struct Dotprod;

/// With `sdot` and `usdot`.
pub(super) struct I8mm;

/// An 8-bit dot product of four.
pub(super) trait Quads {
    /// Whether int8 codes are multiplied as they stand, 128 too large.
    const BIASED: bool;

    /// Each lane's sum + its four codes · the four activations in lane `I` of `x`.
    ///
    /// # Safety
    /// The processor has the instruction.
    unsafe fn int8<const I: i32>(sum: int32x4_t, codes: uint8x16_t, x: int8x16_t) -> int32x4_t;
}

/// Each lane's sum + its four codes · the four activations in lane `I` of `x`, both signed.
///
/// # Safety
/// The processor has `sdot`.
#[inline(always)]
pub(crate) unsafe fn sdot<const I: i32>(
    mut sum: int32x4_t,
    codes: uint8x16_t,
    x: int8x16_t,
) -> int32x4_t {
    // SAFETY: the caller's processor has it; registers only.
    unsafe {
        asm!(".arch_extension dotprod", "sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{3}]", inout(vreg) sum, in(vreg) codes,
            in(vreg) x, const I, options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

impl Quads for Dotprod {
    const BIASED: bool = false;

    #[inline(always)]
    unsafe fn int8<const I: i32>(sum: int32x4_t, codes: uint8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: passed on.
        unsafe { sdot::<I>(sum, veorq_u8(codes, vdupq_n_u8(128)), x) }
    }
}

impl Quads for I8mm {
    const BIASED: bool = true;

    #[inline(always)]
    unsafe fn int8<const I: i32>(mut sum: int32x4_t, codes: uint8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the caller's processor has it; registers only.
        unsafe {
            asm!(".arch_extension i8mm", "usdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{3}]", inout(vreg) sum, in(vreg) codes,
                in(vreg) x, const I, options(pure, nomem, nostack, preserves_flags));
        }
        sum
    }
}

/// `sums` += the codes at `codes`, of one vector (int8: lane `I` of the activations) or of one that
/// holds two (int4: lanes `I` and `J`).
///
/// # Safety
/// The processor has the instruction; the vector exists.
#[inline(always)]
unsafe fn vector<
    Q: Quads,
    const INT4: bool,
    const R: usize,
    const C: usize,
    const I: i32,
    const J: i32,
>(
    codes: *const u8,
    x: &[int8x16_t; C],
    sums: &mut [[uint32x4_t; R]; C],
) {
    for r in 0..R {
        // SAFETY: passed on.
        unsafe {
            let v = vld1q_u8(codes.add(16 * r));
            let (low, high) = (vandq_u8(v, vdupq_n_u8(15)), vshrq_n_u8::<4>(v));
            for (sums, x) in sums.iter_mut().zip(x) {
                let sum = vreinterpretq_s32_u32(sums[r]);
                sums[r] = vreinterpretq_u32_s32(if INT4 {
                    sdot::<J>(sdot::<I>(sum, low, *x), high, *x)
                } else {
                    Q::int8::<I>(sum, v, *x)
                });
            }
        }
    }
}

impl<Q: Quads> Dot for Neon<Q> {
    #[inline(always)]
    unsafe fn start_int8(start: *const i32) -> uint32x4_t {
        // SAFETY: the trait's.
        unsafe {
            if Q::BIASED { vshlq_n_u32::<4>(vld1q_dup_u32(start.cast())) } else { vdupq_n_u32(0) }
        }
    }

    #[inline(always)]
    unsafe fn dot<const INT4: bool, const R: usize, const C: usize>(
        codes: *const u8,
        x: *const i8,
        sums: &mut [[uint32x4_t; R]; C],
    ) {
        // SAFETY: the trait's.
        unsafe {
            for half in 0..2 {
                let x = columns::<_, C>(x).map(|x| vld1q_s8(x.add(16 * half)));
                if INT4 {
                    let codes = codes.add(128 * half);
                    vector::<Q, INT4, R, C, 0, 1>(codes, &x, sums);
                    vector::<Q, INT4, R, C, 2, 3>(codes.add(64), &x, sums);
                } else {
                    let codes = codes.add(256 * half);
                    vector::<Q, INT4, R, C, 0, 0>(codes, &x, sums);
                    vector::<Q, INT4, R, C, 1, 1>(codes.add(64), &x, sums);
                    vector::<Q, INT4, R, C, 2, 2>(codes.add(128), &x, sums);
                    vector::<Q, INT4, R, C, 3, 3>(codes.add(192), &x, sums);
                }
            }
        }
    }
}

impl Dot for Neon<Base> {
    #[inline(always)]
    unsafe fn start_int8(_: *const i32) -> uint32x4_t {
        // SAFETY: the trait's.
        unsafe { vdupq_n_u32(0) }
    }

    #[inline(always)]
    unsafe fn dot<const INT4: bool, const R: usize, const C: usize>(
        codes: *const u8,
        x: *const i8,
        sums: &mut [[uint32x4_t; R]; C],
    ) {
        // SAFETY: the trait's.
        unsafe {
            if INT4 { int4(codes, &columns(x), sums) } else { int8(codes, &columns(x), sums) }
        }
    }
}

/// Activations 4j.. of 32, in every lane.
#[inline(always)]
unsafe fn quad(x: *const i8, j: usize) -> int8x16_t {
    // SAFETY: the caller's activations exist. The empty `asm!` keeps to itself that all lanes are
    // equal: the compiler would take the upper halves of codes down by `ext` instead of multiplying
    // them by `smlal2`.
    unsafe {
        let mut quad = vld1q_dup_s32(x.cast::<i32>().add(j));
        asm!("/* {0:v} */", inout(vreg) quad, options(pure, nomem, nostack, preserves_flags));
        vreinterpretq_s8_s32(quad)
    }
}

/// Adds 32 columns from 16-bit sums of 8 products: these are below 15 · 128 · 8, and two of them
/// still fit.
#[inline(always)]
unsafe fn int4<const R: usize, const C: usize>(
    codes: *const u8,
    x: &[*const i8; C],
    sums: &mut [[uint32x4_t; R]; C],
) {
    // SAFETY: the caller's vectors and activations exist.
    unsafe {
        let mut halves = [[[vdupq_n_s16(0); 2]; R]; C];
        for j in 0..4 {
            let x = x.map(|x| [quad(x, 2 * j), quad(x, 2 * j + 1)]);
            for r in 0..R {
                let v = vld1q_u8(codes.add(64 * j + 16 * r));
                let low = vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(15)));
                let high = vreinterpretq_s8_u8(vshrq_n_u8::<4>(v));
                for (halves, x) in halves.iter_mut().zip(&x) {
                    for (v, x) in [(low, x[0]), (high, x[1])] {
                        halves[r][0] = vmlal_s8(halves[r][0], vget_low_s8(v), vget_low_s8(x));
                        halves[r][1] = vmlal_high_s8(halves[r][1], v, x);
                    }
                }
            }
        }
        for (sum, [low, high]) in sums.as_flattened_mut().iter_mut().zip(halves.as_flattened()) {
            *sum = vreinterpretq_u32_s32(vpadalq_s16(
                vreinterpretq_s32_u32(*sum),
                vpaddq_s16(*low, *high),
            ));
        }
    }
}

/// Adds 32 columns; two products at a time fit 16 bits, since activations have no −128.
#[inline(always)]
unsafe fn int8<const R: usize, const C: usize>(
    codes: *const u8,
    x: &[*const i8; C],
    sums: &mut [[uint32x4_t; R]; C],
) {
    // SAFETY: the caller's vectors and activations exist.
    unsafe {
        let mut halves = [[[vdupq_n_s32(0); 2]; R]; C];
        for j in 0..4 {
            let x = x.map(|x| [quad(x, 2 * j), quad(x, 2 * j + 1)]);
            for r in 0..R {
                let codes = codes.add(128 * j + 16 * r);
                let [v, w] = [codes, codes.add(64)]
                    .map(|codes| vreinterpretq_s8_u8(veorq_u8(vld1q_u8(codes), vdupq_n_u8(128))));
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
