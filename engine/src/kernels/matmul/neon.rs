//! NEON matrix kernels: four registers hold the same few columns of the 16 rows of a tile.
//!
//! Not here: int4 and int8 (`neon_dot.rs`). `bfdot` is not used: it rounds otherwise than the
//! definition. Tests: `tests.rs`.

use std::arch::aarch64::*;
use std::marker::PhantomData;

use brooklet_formats::DType;

use super::float::{Bf16, F32, Float, Fp8, Lmul, float};
use super::integer::{Dot, integer};
use super::neon_dot::{Base, Dotprod, I8mm};
use super::simd::Simd;
use super::{Kernel, Output, Tiles};
use crate::buffers::Acts;
use crate::kernels::isa::Isa;
use crate::kernels::vector;

/// The kernel of a format.
pub(super) fn kernel(isa: Isa, dtype: DType) -> Kernel {
    match (dtype, isa) {
        (DType::Int4, Isa::NeonI8mm | Isa::NeonDotprod) => integer_kernel::<Dotprod, true>,
        (DType::Int4, _) => integer_kernel::<Base, true>,
        (DType::Int8, Isa::NeonI8mm) => integer_kernel::<I8mm, false>,
        (DType::Int8, Isa::NeonDotprod) => integer_kernel::<Dotprod, false>,
        (DType::Int8, _) => integer_kernel::<Base, false>,
        (DType::F32, _) => float_kernel::<F32, 1, 8>,
        (DType::F16, _) => float_kernel::<F16, 2, 4>,
        (DType::Bf16, _) => float_kernel::<Bf16, 2, 4>,
        (DType::Fp8E4m3, _) => float_kernel::<Fp8<false>, 2, 4>,
        (DType::Fp8E5m2, _) => float_kernel::<Fp8<true>, 2, 4>,
        (DType::Lmul, _) => float_kernel::<Lmul, 2, 4>,
    }
}

/// # Safety
/// As [`Kernel`].
unsafe fn integer_kernel<D, const INT4: bool>(tiles: Tiles<'_>, x: &Acts, y: Output)
where
    Neon<D>: Dot,
{
    // SAFETY: passed on.
    unsafe { integer::<Neon<D>, INT4, 4>(tiles, x, y) }
}

/// # Safety
/// As [`Kernel`].
unsafe fn float_kernel<E: Float<Neon<Base>, N>, const N: usize, const MOST: usize>(
    tiles: Tiles<'_>,
    x: &Acts,
    y: Output,
) {
    // SAFETY: passed on.
    unsafe { float::<Neon<Base>, E, N, MOST>(tiles, x, y) }
}

/// 128-bit registers, and what there is for dot products of 8 bits.
pub(super) struct Neon<D>(PhantomData<D>);

impl<D> Simd for Neon<D> {
    type F = float32x4_t;
    type I = uint32x4_t;
    const LANES: usize = 4;
    const AT_ONCE: [usize; 2] = [4, 2];

    #[inline(always)]
    unsafe fn load(p: *const u8) -> uint32x4_t {
        // SAFETY: the trait's.
        unsafe { vld1q_u32(p.cast()) }
    }
    /// Nothing: nobody has measured that it serves here.
    #[inline(always)]
    fn prefetch(_: *const u8) {}
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: float32x4_t) {
        // SAFETY: the trait's.
        unsafe { vst1q_f32(p, v) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> float32x4_t {
        // SAFETY: the trait's.
        unsafe { vector::load_f16(p) }
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const f32) -> float32x4_t {
        // SAFETY: the trait's.
        unsafe { vld1q_dup_f32(p) }
    }
    #[inline(always)]
    unsafe fn broadcast_bits(p: *const u32) -> uint32x4_t {
        // SAFETY: the trait's.
        unsafe { vld1q_dup_u32(p) }
    }
    #[inline(always)]
    unsafe fn splat(v: f32) -> float32x4_t {
        // SAFETY: the trait's.
        unsafe { vdupq_n_f32(v) }
    }
    #[inline(always)]
    unsafe fn bits(v: float32x4_t) -> uint32x4_t {
        // SAFETY: the trait's.
        unsafe { vreinterpretq_u32_f32(v) }
    }
    #[inline(always)]
    unsafe fn float(v: uint32x4_t) -> float32x4_t {
        // SAFETY: the trait's.
        unsafe { vreinterpretq_f32_u32(v) }
    }
    #[inline(always)]
    unsafe fn convert(v: uint32x4_t) -> float32x4_t {
        // SAFETY: the trait's.
        unsafe { vcvtq_f32_s32(vreinterpretq_s32_u32(v)) }
    }
    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: the trait's.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: the trait's.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: the trait's.
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn add_bits(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        // SAFETY: the trait's.
        unsafe { vaddq_u32(a, b) }
    }
    #[inline(always)]
    unsafe fn add_halves(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        // SAFETY: the trait's.
        unsafe {
            vreinterpretq_u32_u16(vaddq_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b)))
        }
    }
    #[inline(always)]
    unsafe fn mask(v: uint32x4_t, bits: u32) -> uint32x4_t {
        // SAFETY: the trait's.
        unsafe { vandq_u32(v, vdupq_n_u32(bits)) }
    }
    #[inline(always)]
    unsafe fn shift_left<const N: u32>(v: uint32x4_t) -> uint32x4_t {
        // SAFETY: the trait's.
        unsafe { vshlq_u32(v, vdupq_n_s32(N as i32)) }
    }
    #[inline(always)]
    unsafe fn shift_halves_left<const N: u32>(v: uint32x4_t) -> uint32x4_t {
        // SAFETY: the trait's.
        unsafe { vreinterpretq_u32_u16(vshlq_u16(vreinterpretq_u16_u32(v), vdupq_n_s16(N as i16))) }
    }
    #[inline(always)]
    unsafe fn shift_halves_right<const N: u32>(v: uint32x4_t) -> uint32x4_t {
        // SAFETY: the trait's.
        unsafe {
            vreinterpretq_u32_s16(vshlq_s16(vreinterpretq_s16_u32(v), vdupq_n_s16(-(N as i16))))
        }
    }
    #[inline(always)]
    unsafe fn any_byte_without(v: uint32x4_t, bits: u8) -> bool {
        // SAFETY: the trait's.
        unsafe { vminvq_u8(vtstq_u8(vreinterpretq_u8_u32(v), vdupq_n_u8(bits))) == 0 }
    }
    #[inline(always)]
    unsafe fn where_nonzero(v: uint32x4_t, test: float32x4_t) -> uint32x4_t {
        // SAFETY: the trait's.
        unsafe { vbicq_u32(v, vceqq_f32(test, vdupq_n_f32(0.0))) }
    }
}

/// f16: a chain's register holds two columns of 2 rows, as the conversion widens them.
struct F16;

impl<D> Float<Neon<D>, 2> for F16 {
    const SCALE: Option<f32> = None;
    const COLUMNS: usize = 2;
    const X_BYTES: usize = 8;

    fn activations(x: &Acts) -> *const u8 {
        x.float.as_ptr().cast()
    }

    #[inline(always)]
    unsafe fn step<const C: usize>(
        w: *const u8,
        x: &[*const u8; C],
        chains: &mut [[float32x4_t; 2]; C],
    ) {
        // SAFETY: the trait's; activations need not be aligned to pairs.
        unsafe {
            let (low, high) = (Neon::<D>::load_f16(w), Neon::<D>::load_f16(w.add(8)));
            for (chains, x) in chains.iter_mut().zip(x) {
                let pair = vreinterpretq_f32_u64(vld1q_dup_u64(x.cast()));
                chains[0] = vfmaq_f32(chains[0], low, pair);
                chains[1] = vfmaq_f32(chains[1], high, pair);
            }
        }
    }

    /// Even columns + odd columns.
    #[inline(always)]
    unsafe fn sum(chains: [float32x4_t; 2]) -> float32x4_t {
        // SAFETY: the trait's.
        unsafe { vpaddq_f32(chains[0], chains[1]) }
    }
}
