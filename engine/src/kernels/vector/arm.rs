//! Sixteen lanes on AArch64: four NEON registers.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{MAX_F16, Vector, WIDTH, f16};

/// Four f16 as f32. The intrinsic of `fcvtl` is not stable, the instruction is always there.
///
/// # Safety
/// The eight bytes exist.
#[inline(always)]
pub(crate) unsafe fn load_f16(p: *const u8) -> float32x4_t {
    let wide;
    // SAFETY: the caller's; the rest is registers only.
    unsafe {
        asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) vld1_u16(p.cast()),
            options(pure, nomem, nostack, preserves_flags));
    }
    wide
}

/// Four NEON registers.
#[derive(Clone, Copy)]
pub(super) struct Neon([float32x4_t; 4]);

impl Neon {
    #[inline(always)]
    fn each(f: impl Fn(usize) -> float32x4_t) -> Self {
        Neon([f(0), f(1), f(2), f(3)])
    }
}

// In all methods below. SAFETY: AArch64 always has NEON; loads and stores stay within slices whose
// length was just checked. The intrinsic of `fcvtn` is not stable, the instruction is always there.
impl Vector for Neon {
    #[inline(always)]
    fn splat(v: f32) -> Self {
        // SAFETY: see above.
        Neon([unsafe { vdupq_n_f32(v) }; 4])
    }
    #[inline(always)]
    fn load(x: &[f32]) -> Self {
        let x = &x[..WIDTH];
        // SAFETY: see above.
        Self::each(|i| unsafe { vld1q_f32(x.as_ptr().add(4 * i)) })
    }
    #[inline(always)]
    fn store(self, x: &mut [f32]) {
        let x = &mut x[..WIDTH];
        for i in 0..4 {
            // SAFETY: see above.
            unsafe { vst1q_f32(x.as_mut_ptr().add(4 * i), self.0[i]) };
        }
    }
    #[inline(always)]
    fn load_f16(x: &[f16]) -> Self {
        let x = &x[..WIDTH];
        // SAFETY: see above.
        Self::each(|i| unsafe { load_f16(x.as_ptr().add(4 * i).cast()) })
    }
    #[inline(always)]
    fn store_f16(self, x: &mut [f16]) {
        let x = &mut x[..WIDTH];
        for i in 0..4 {
            // SAFETY: see above. NaN is the result when one operand is NaN; the rest is registers
            // only.
            unsafe {
                let v = vminq_f32(self.0[i], vdupq_n_f32(MAX_F16));
                let v = vmaxq_f32(v, vdupq_n_f32(-MAX_F16));
                let narrow: uint16x4_t;
                asm!("fcvtn {0:v}.4h, {1:v}.4s", out(vreg) narrow, in(vreg) v,
                    options(pure, nomem, nostack, preserves_flags));
                vst1_u16(x.as_mut_ptr().add(4 * i).cast(), narrow);
            }
        }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        Self::each(|i| unsafe { vaddq_f32(self.0[i], other.0[i]) })
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        Self::each(|i| unsafe { vsubq_f32(self.0[i], other.0[i]) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        Self::each(|i| unsafe { vmulq_f32(self.0[i], other.0[i]) })
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: see above.
        Self::each(|i| unsafe { vfmaq_f32(addend.0[i], self.0[i], factor.0[i]) })
    }
    #[inline(always)]
    fn max(self, floor: Self) -> Self {
        // SAFETY: see above. Not `fmax`, which makes +0 of −0.
        Self::each(|i| unsafe {
            vbslq_f32(vcltq_f32(self.0[i], floor.0[i]), floor.0[i], self.0[i])
        })
    }
    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: see above.
        Self::each(|i| unsafe {
            let n = vshlq_n_s32::<23>(vreinterpretq_s32_f32(self.0[i]));
            vreinterpretq_f32_s32(vaddq_s32(n, vdupq_n_s32(127 << 23)))
        })
    }
    #[inline(always)]
    fn largest(v: [Self; 4]) -> f32 {
        // SAFETY: see above. Magnitudes are ordered as their bits are.
        unsafe {
            let mut largest = vdupq_n_s32(0);
            for v in v {
                for v in v.0 {
                    largest = vmaxq_s32(largest, vreinterpretq_s32_f32(vabsq_f32(v)));
                }
            }
            f32::from_bits(vmaxvq_s32(largest) as u32)
        }
    }
    #[inline(always)]
    fn store_codes(v: [Self; 2], codes: &mut [i8]) -> i32 {
        let codes = &mut codes[..2 * WIDTH];
        // SAFETY: see above.
        unsafe {
            let mut sum = vdupq_n_s32(0);
            for (v, codes) in v.iter().zip(codes.chunks_exact_mut(WIDTH)) {
                let [a, b, c, d] = v.0.map(|v| vcvtnq_s32_f32(v));
                sum = vaddq_s32(sum, vaddq_s32(vaddq_s32(a, b), vaddq_s32(c, d)));
                let [left, right] =
                    [(a, b), (c, d)].map(|(a, b)| vcombine_s16(vmovn_s32(a), vmovn_s32(b)));
                vst1q_s8(codes.as_mut_ptr(), vcombine_s8(vmovn_s16(left), vmovn_s16(right)));
            }
            vaddvq_s32(sum)
        }
    }
}
