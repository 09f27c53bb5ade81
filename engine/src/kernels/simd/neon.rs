//! NEON: four registers hold sixteen lanes. Every AArch64 that this is compiled for has it.
//!
//! The intrinsics of `fcvtl` and `fcvtn` are not stable; the instructions are always there.

use std::arch::aarch64::*;
use std::arch::asm;
use std::marker::PhantomData;

use half::f16;

use super::{Inlined, Simd, operations};
use crate::kernels::lanes::WIDTH;
use crate::kernels::state::MAX_F16;

/// NEON as every AArch64 has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Base;

/// With `sdot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Dotprod;

/// With `sdot` and `usdot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct I8mm;

/// 128-bit registers, and the dot products of 8 bits that `D` names. A value exists only where the
/// processor has these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Neon<D>(PhantomData<D>);

impl Neon<Base> {
    /// The instruction set.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Neon(PhantomData)
    }
}

impl Neon<Dotprod> {
    /// The instruction set, if the processor has it.
    pub(crate) fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("dotprod").then_some(Neon(PhantomData))
    }
}

impl Neon<I8mm> {
    /// The instruction set, if the processor has it.
    pub(crate) fn detect() -> Option<Self> {
        let found =
            Neon::<Dotprod>::detect().is_some() && std::arch::is_aarch64_feature_detected!("i8mm");
        found.then_some(Neon(PhantomData))
    }

    /// The same without `usdot`.
    #[inline(always)]
    pub(crate) fn dotprod(self) -> Neon<Dotprod> {
        Neon(PhantomData)
    }
}

impl<D: Copy> Simd for Neon<D> {
    type F = float32x4_t;
    type I = uint32x4_t;
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn assume() -> Self {
        Neon(PhantomData)
    }
    // The extensions add nothing that a compiler would use by itself.
    #[inline(always)]
    fn run<R>(self, f: Inlined<impl FnOnce() -> R>) -> R {
        f.0()
    }

    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> uint32x4_t {
        // SAFETY: every AArch64 has NEON; the caller's 16 bytes can be read.
        unsafe { vld1q_u32(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> float32x4_t {
        let wide;
        // SAFETY: every AArch64 has NEON; the caller's 8 bytes can be read.
        unsafe {
            asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) vld1_u16(p.cast()),
                options(pure, nomem, nostack, preserves_flags));
        }
        wide
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> float32x4_t {
        // SAFETY: every AArch64 has NEON; the caller's 4 bytes can be read, aligned or not.
        unsafe {
            let four = vcreate_s8(u64::from(p.cast::<u32>().read_unaligned()));
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(four))))
        }
    }
    #[inline(always)]
    unsafe fn load_table(self, p: *const u8) -> uint32x4_t {
        // SAFETY: every AArch64 has NEON; the caller's 16 bytes can be read.
        unsafe { vreinterpretq_u32_u8(vld1q_u8(p)) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: float32x4_t) {
        // SAFETY: every AArch64 has NEON; the caller's 16 bytes can be written.
        unsafe { vst1q_f32(p, v) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut f16, v: float32x4_t) {
        let narrow: uint16x4_t;
        // SAFETY: every AArch64 has NEON; the caller's 8 bytes can be written. NaN is the result
        // when one operand is NaN.
        unsafe {
            let v = vminq_f32(v, vdupq_n_f32(MAX_F16));
            let v = vmaxq_f32(v, vdupq_n_f32(-MAX_F16));
            asm!("fcvtn {0:v}.4h, {1:v}.4s", out(vreg) narrow, in(vreg) v,
                options(pure, nomem, nostack, preserves_flags));
            vst1_u16(p.cast(), narrow);
        }
    }
    #[inline(always)]
    fn low_bytes<const N: usize>(self, v: [[uint32x4_t; N]; 2]) -> [i8; 2 * WIDTH] {
        const { assert!(N == 4) };
        let mut bytes = [0; 2 * WIDTH];
        for (v, bytes) in v.iter().zip(bytes.as_chunks_mut::<WIDTH>().0) {
            // SAFETY: every AArch64 has NEON; `bytes` are 16.
            unsafe {
                let left = vcombine_u16(vmovn_u32(v[0]), vmovn_u32(v[1]));
                let right = vcombine_u16(vmovn_u32(v[2]), vmovn_u32(v[3]));
                let packed = vcombine_u8(vmovn_u16(left), vmovn_u16(right));
                vst1q_s8(bytes.as_mut_ptr(), vreinterpretq_s8_u8(packed));
            }
        }
        bytes
    }
    /// Nothing: nobody has measured that it serves here.
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}

    operations! {
        splat(v: f32) -> float32x4_t = vdupq_n_f32(v);
        splat_bits(v: u32) -> uint32x4_t = vdupq_n_u32(v);
        splat_pair(v: f64) -> float32x4_t = vreinterpretq_f32_f64(vdupq_n_f64(v));

        bits(v: float32x4_t) -> uint32x4_t = vreinterpretq_u32_f32(v);
        float(v: uint32x4_t) -> float32x4_t = vreinterpretq_f32_u32(v);
        convert(v: uint32x4_t) -> float32x4_t = vcvtq_f32_s32(vreinterpretq_s32_u32(v));
        nearest(v: float32x4_t) -> uint32x4_t = vreinterpretq_u32_s32(vcvtnq_s32_f32(v));

        add(a: float32x4_t, b: float32x4_t) -> float32x4_t = vaddq_f32(a, b);
        sub(a: float32x4_t, b: float32x4_t) -> float32x4_t = vsubq_f32(a, b);
        mul(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmulq_f32(a, b);
        mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t =
            vfmaq_f32(c, a, b);
        // Not `fmax`, which makes +0 of −0.
        max(v: float32x4_t, floor: float32x4_t) -> float32x4_t =
            vbslq_f32(vcltq_f32(v, floor), floor, v);
        add_pairs(a: float32x4_t, b: float32x4_t) -> float32x4_t = vpaddq_f32(a, b);

        add_bits(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vaddq_u32(a, b);
        add_halves(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t =
            vreinterpretq_u32_u16(vaddq_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b)));
        max_bits(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t =
            vreinterpretq_u32_s32(vmaxq_s32(vreinterpretq_s32_u32(a), vreinterpretq_s32_u32(b)));
        xor(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = veorq_u32(a, b);
        mask(v: uint32x4_t, bits: u32) -> uint32x4_t = vandq_u32(v, vdupq_n_u32(bits));
        shift_left<const N: u32>(v: uint32x4_t) -> uint32x4_t =
            vshlq_u32(v, vdupq_n_s32(N as i32));
        shift_right<const N: u32>(v: uint32x4_t) -> uint32x4_t =
            vreinterpretq_u32_s32(vshlq_s32(vreinterpretq_s32_u32(v), vdupq_n_s32(-(N as i32))));
        shift_halves_left<const N: u32>(v: uint32x4_t) -> uint32x4_t =
            vreinterpretq_u32_u16(vshlq_u16(vreinterpretq_u16_u32(v), vdupq_n_s16(N as i16)));
        shift_halves_right<const N: u32>(v: uint32x4_t) -> uint32x4_t =
            vreinterpretq_u32_s16(vshlq_s16(vreinterpretq_s16_u32(v), vdupq_n_s16(-(N as i16))));
        upper_nibbles(v: uint32x4_t) -> uint32x4_t =
            vreinterpretq_u32_u8(vshrq_n_u8::<4>(vreinterpretq_u8_u32(v)));
        lookup(table: uint32x4_t, index: uint32x4_t) -> uint32x4_t = vreinterpretq_u32_u8(
            vqtbl1q_u8(vreinterpretq_u8_u32(table), vreinterpretq_u8_u32(index))
        );
        interleave_bytes(a: uint32x4_t, b: uint32x4_t) -> [uint32x4_t; 2] = {
            let (a, b) = (vreinterpretq_u8_u32(a), vreinterpretq_u8_u32(b));
            [vreinterpretq_u32_u8(vzip1q_u8(a, b)), vreinterpretq_u32_u8(vzip2q_u8(a, b))]
        };
        interleave_halves(a: uint32x4_t, b: uint32x4_t) -> [uint32x4_t; 2] = {
            let (a, b) = (vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b));
            [vreinterpretq_u32_u16(vzip1q_u16(a, b)), vreinterpretq_u32_u16(vzip2q_u16(a, b))]
        };
        any_byte_without(v: uint32x4_t, bits: u8) -> bool =
            vminvq_u8(vtstq_u8(vreinterpretq_u8_u32(v), vdupq_n_u8(bits))) == 0;
        where_nonzero(v: uint32x4_t, test: float32x4_t) -> uint32x4_t =
            vbicq_u32(v, vceqq_f32(test, vdupq_n_f32(0.0)));

        largest(v: uint32x4_t) -> i32 = vmaxvq_s32(vreinterpretq_s32_u32(v));
        sum(v: uint32x4_t) -> i32 = vaddvq_s32(vreinterpretq_s32_u32(v));
    }
}
