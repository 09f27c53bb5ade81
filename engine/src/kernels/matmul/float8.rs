//! The float formats of 8 bits on registers: FP8 and L-Mul.
//!
//! An FP8 code becomes a bf16 by moving its bits: exponent and mantissa keep their places next to
//! each other, only the exponent's bias stays wrong, by a power of two that the activations and the
//! group's scale bring back ([`Fp8Quad::FACTOR`]). L-Mul adds bit patterns instead of multiplying
//! (Luo & Sun 2024, arXiv 2410.00907). The loop over k is that of `float.rs`. Tests: `tests.rs`.

use super::float::{Float, pairs};
use crate::kernels::simd::{Simd, registers};
use crate::kernels::units::{Fp8Quad, LmulQuad};

/// The FP8 codes of each lane as two registers of bf16 (codes 0 and 2, 1 and 3), with the codes'
/// own exponents, unrebased.
///
/// ```text
/// code        s eeee mmm                s eeeee mm
/// bf16        s 0000eeee mmm0000        s 000eeeee mm00000
/// ```
#[inline(always)]
fn move_bits<S: Simd, const E5M2: bool>(s: S, v: S::I) -> [S::I; 2] {
    // Each code starts at the top of its half; the sign bit spreads over the bits that the exponent
    // does not use, which are cleared then.
    registers(
        #[inline(always)]
        |odd| {
            let v = if odd == 1 { v } else { s.shift_halves_left::<8>(v) };
            if E5M2 {
                s.mask(s.shift_halves_right::<3>(v), 0x8fe0_8fe0)
            } else {
                s.mask(s.shift_halves_right::<4>(v), 0x87f0_87f0)
            }
        },
    )
}

/// FP8 with 3 (E4M3) or 2 (E5M2) mantissa bits.
pub(super) struct Fp8<const E5M2: bool>;

impl<const E5M2: bool> Float<2> for Fp8<E5M2> {
    type X = Fp8Quad;
    const PAIRS: bool = true;
    /// 2¹²⁰ or 2¹¹², of which the activations carry a part.
    const SCALE: Option<f32> =
        Some((1u128 << if E5M2 { 112 } else { 120 }) as f32 / Fp8Quad::FACTOR);
    const COLUMNS: usize = 4;

    #[inline(always)]
    unsafe fn step<S: Simd, const C: usize>(
        s: S,
        w: *const u8,
        x: &[*const Fp8Quad; C],
        chains: &mut [[S::F; 2]; C],
    ) {
        // SAFETY: a register of weights can be read at `w`: promised (`Float::step`).
        let v = unsafe { s.load(w) };
        let w = move_bits::<S, E5M2>(s, v);
        // Codes without exponent bits (zeros and subnormals) are rare enough for a branch.
        let exact = S::FLUSHES && s.any_byte_without(v, if E5M2 { 0x7c } else { 0x78 });
        if exact {
            for (chains, x) in chains.iter_mut().zip(x) {
                // SAFETY: a quad, two pairs of bf16, can be read at `x`: promised (`Float::step`).
                let x = unsafe { pairs(s, x.cast()) };
                for (n, chain) in chains.iter_mut().enumerate() {
                    *chain = s.dot_bf16_exact(w[n], x[n], *chain);
                }
            }
        } else {
            for (chains, x) in chains.iter_mut().zip(x) {
                // SAFETY: a quad, two pairs of bf16, can be read at `x`: promised (`Float::step`).
                let x = unsafe { pairs(s, x.cast()) };
                for (n, chain) in chains.iter_mut().enumerate() {
                    *chain = s.dot_bf16(w[n], x[n], *chain);
                }
            }
        }
    }
}

/// L-Mul on E4M3 codes.
pub(super) struct Lmul;

impl Float<2> for Lmul {
    type X = LmulQuad;
    const PAIRS: bool = true;
    const SCALE: Option<f32> = Some(1.0);
    const COLUMNS: usize = 4;

    #[inline(always)]
    unsafe fn step<S: Simd, const C: usize>(
        s: S,
        w: *const u8,
        x: &[*const LmulQuad; C],
        chains: &mut [[S::F; 2]; C],
    ) {
        // SAFETY: a register of weights can be read at `w`: promised (`Float::step`).
        let v = unsafe { s.load(w) };
        let w = move_bits::<S, false>(s, v);
        if s.any_byte_without(v, 0x78) {
            for (chains, x) in chains.iter_mut().zip(x) {
                // SAFETY: a quad can be read at `x`: promised (`Float::step`).
                let (addends, keep) = unsafe { addends_and_factors(s, *x) };
                for (n, chain) in chains.iter_mut().enumerate() {
                    *chain = lmul_any(s, w[n], addends[n], keep[n], *chain);
                }
            }
        } else {
            for (chains, x) in chains.iter_mut().zip(x) {
                // SAFETY: a quad can be read at `x`: promised (`Float::step`).
                let (addends, keep) = unsafe { addends_and_factors(s, *x) };
                for (n, chain) in chains.iter_mut().enumerate() {
                    *chain = s.dot_bf16(s.add_halves(w[n], addends[n]), keep[n], *chain);
                }
            }
        }
    }
}

/// Two pairs of addends, and two of factors 0 or 1, each in all lanes.
///
/// # Safety
/// The quad can be read.
#[inline(always)]
unsafe fn addends_and_factors<S: Simd>(s: S, x: *const LmulQuad) -> ([S::I; 2], [S::I; 2]) {
    // SAFETY: the quad can be read: promised (Safety).
    // It is four addends and four factors of 16 bits: two pairs of each.
    unsafe { (pairs(s, x.cast()), pairs(s, x.cast::<u32>().add(2))) }
}

/// chain + L-Mul(w, x) of upper halves, then of lower halves, for any codes.
#[inline(always)]
fn lmul_any<S: Simd>(s: S, w: S::I, addend: S::I, keep: S::I, chain: S::F) -> S::F {
    let chain = lmul_lanes(s, s.upper(w), s.upper(addend), s.upper(keep), chain);
    lmul_lanes(s, s.lower(w), s.lower(addend), s.lower(keep), chain)
}

/// chain + L-Mul(w, x) for any code, moved into an f32: also for zeros and subnormals.
#[inline(always)]
fn lmul_lanes<S: Simd>(s: S, w: S::F, addend: S::F, keep: S::F, chain: S::F) -> S::F {
    // The exponent fields of all codes are 120 too small.
    const REBASE: u32 = 120 << 23;
    // Multiplying makes subnormals normal; then the pattern is as far from its place as the others.
    let normal = s.bits(s.mul(w, s.splat(f32::from_bits(REBASE + (127 << 23)))));
    let moved = s.add_bits(normal, s.splat_bits(REBASE.wrapping_neg()));
    let product = s.add_bits(moved, s.bits(addend));
    s.mul_add(s.float(s.where_nonzero(product, w)), keep, chain)
}
