//! Sixteen f32 lanes in registers, for the few loops that the compiler does not vectorise well by itself.
//!
//! A [`LaneKernel`] is written once over a [`Vector`] type and run with the one of the instruction set: one AVX-512
//! register, two AVX registers, four NEON registers, or an array. Each operation is the IEEE one, so all give the same bits.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::isa::Isa;
use super::lanes::{Lanes, WIDTH};
use super::math::{ROUND, fused_multiply_add, power_of_two};
use super::stored::MAX_F16;

/// Sixteen f32 lanes.
pub(crate) trait Vector: Copy {
    /// All lanes `v`.
    fn splat(v: f32) -> Self;
    /// The first sixteen values of `x`.
    fn load(x: &[f32]) -> Self;
    /// Writes the lanes to the first sixteen values of `x`.
    fn store(self, x: &mut [f32]);
    /// The first sixteen values of `x`, widened.
    fn load_f16(x: &[f16]) -> Self;
    /// Writes the lanes to the first sixteen elements of `x`, rounded to the nearest (ties to even) of −65504 to 65504.
    fn store_f16(self, x: &mut [f16]);
    /// Lane by lane sum.
    fn add(self, other: Self) -> Self;
    /// Lane by lane difference.
    fn sub(self, other: Self) -> Self;
    /// Lane by lane product.
    fn mul(self, other: Self) -> Self;
    /// Lane by lane `self · factor + addend`, rounded once.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// Lane by lane the larger; NaN stays NaN.
    fn max(self, floor: Self) -> Self;
    /// [`power_of_two`] of each lane.
    fn power_of_two(self) -> Self;
    /// The largest magnitude in any lane; NaN counts as larger than all numbers.
    fn largest(v: [Self; 4]) -> f32;
    /// Writes the lanes to the first 32 codes, rounded to the nearest integer (ties to even; NaN becomes 0), which must fit
    /// them, and returns the sum of what it wrote modulo 2³¹.
    fn store_codes(v: [Self; 2], codes: &mut [i8]) -> i32;
}

/// Code over any [`Vector`].
pub(crate) trait LaneKernel {
    /// Runs it; mark the implementation `#[inline(always)]`.
    fn run<V: Vector>(self);
}

impl Isa {
    /// Runs `kernel` with this instruction set's vectors.
    #[inline]
    pub(crate) fn run_lanes(self, kernel: impl LaneKernel) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => self.run(
                #[inline(always)]
                || kernel.run::<x86::Avx>(),
            ),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => self.run(
                #[inline(always)]
                || kernel.run::<x86::Avx512>(),
            ),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => self.run(
                #[inline(always)]
                || kernel.run::<arm::Neon>(),
            ),
            _ => kernel.run::<Lanes>(),
        }
    }
}

impl Vector for Lanes {
    #[inline(always)]
    fn splat(v: f32) -> Self {
        Lanes::splat(v)
    }
    #[inline(always)]
    fn load(x: &[f32]) -> Self {
        Lanes::load(x)
    }
    #[inline(always)]
    fn store(self, x: &mut [f32]) {
        Lanes::store(self, x);
    }
    // Without instructions for it a conversion is long.
    #[inline(never)]
    fn load_f16(x: &[f16]) -> Self {
        let mut v = Lanes::ZERO;
        x[..WIDTH].convert_to_f32_slice(&mut v.0);
        v
    }
    #[inline(never)]
    fn store_f16(self, x: &mut [f16]) {
        x[..WIDTH].convert_from_f32_slice(&self.0.map(|v| v.clamp(-MAX_F16, MAX_F16)));
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self + other
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self - other
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self * other
    }
    // Where no instruction does it, the C library is slow. In f64 the product is exact, and a sum rounded there and again to
    // f32 is the right one unless its bits below an f32's last are those of a tie.
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        let mut v = Lanes::ZERO;
        if cfg!(any(target_feature = "fma", target_arch = "aarch64", target_arch = "riscv64")) {
            for i in 0..WIDTH {
                v.0[i] = self.0[i].mul_add(factor.0[i], addend.0[i]);
            }
            return v;
        }
        let mut ties = [false; WIDTH];
        for i in 0..WIDTH {
            let sum = f64::from(self.0[i]) * f64::from(factor.0[i]) + f64::from(addend.0[i]);
            v.0[i] = sum as f32;
            // One bit less than a tie's zeros: a subnormal f32 has its last bit further up.
            ties[i] = sum.to_bits().trailing_zeros() >= f64::MANTISSA_DIGITS - f32::MANTISSA_DIGITS - 1;
        }
        if ties.contains(&true) { fused_multiply_adds(&self, &factor, &addend) } else { v }
    }
    #[inline(always)]
    fn max(self, floor: Self) -> Self {
        self.zip(floor, |x, floor| if x < floor { floor } else { x })
    }
    #[inline(always)]
    fn power_of_two(self) -> Self {
        self.map(power_of_two)
    }
    #[inline(always)]
    fn largest(v: [Self; 4]) -> f32 {
        // Magnitudes are ordered as their bits are.
        let mut largest = [0; WIDTH];
        for v in v {
            for i in 0..WIDTH {
                largest[i] = largest[i].max(v.0[i].abs().to_bits() as i32);
            }
        }
        f32::from_bits(largest.into_iter().fold(0, i32::max) as u32)
    }
    #[inline(always)]
    fn store_codes(v: [Self; 2], codes: &mut [i8]) -> i32 {
        let mut sum = 0;
        for (v, codes) in v.iter().zip(codes[..2 * WIDTH].as_chunks_mut::<WIDTH>().0) {
            for i in 0..WIDTH {
                // The low byte of what adding ROUND gives is the integer in two's complement.
                let code = (v.0[i] + ROUND).to_bits() as i8;
                codes[i] = if v.0[i].is_nan() { 0 } else { code };
                sum += i32::from(codes[i]);
            }
        }
        sum
    }
}

/// [`fused_multiply_add`] of each lane.
#[cold]
#[inline(never)]
fn fused_multiply_adds(a: &Lanes, b: &Lanes, c: &Lanes) -> Lanes {
    let mut v = Lanes::ZERO;
    for i in 0..WIDTH {
        v.0[i] = fused_multiply_add(a.0[i], b.0[i], c.0[i]);
    }
    v
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{MAX_F16, Vector, WIDTH, f16};

    /// One AVX-512 register.
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(__m512);

    // In all methods below. SAFETY: the type is named only by `Isa::run_lanes`, under the feature it needs; loads and
    // stores stay within slices whose length was just checked.
    impl Vector for Avx512 {
        #[inline(always)]
        fn splat(v: f32) -> Self {
            // SAFETY: see above.
            Avx512(unsafe { _mm512_set1_ps(v) })
        }
        #[inline(always)]
        fn load(x: &[f32]) -> Self {
            // SAFETY: see above.
            Avx512(unsafe { _mm512_loadu_ps(x[..WIDTH].as_ptr()) })
        }
        #[inline(always)]
        fn store(self, x: &mut [f32]) {
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(x[..WIDTH].as_mut_ptr(), self.0) }
        }
        #[inline(always)]
        fn load_f16(x: &[f16]) -> Self {
            // SAFETY: see above.
            Avx512(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x[..WIDTH].as_ptr().cast())) })
        }
        #[inline(always)]
        fn store_f16(self, x: &mut [f16]) {
            let x = &mut x[..WIDTH];
            // SAFETY: see above. The second operand is the result when one is NaN.
            unsafe {
                let v = _mm512_min_ps(_mm512_set1_ps(MAX_F16), self.0);
                let v = _mm512_max_ps(_mm512_set1_ps(-MAX_F16), v);
                let v = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v);
                _mm256_storeu_si256(x.as_mut_ptr().cast(), v);
            }
        }
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: see above.
            Avx512(unsafe { _mm512_add_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            // SAFETY: see above.
            Avx512(unsafe { _mm512_sub_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            // SAFETY: see above.
            Avx512(unsafe { _mm512_mul_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            // SAFETY: see above.
            Avx512(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
        }
        #[inline(always)]
        fn max(self, floor: Self) -> Self {
            // SAFETY: see above. The second operand is the result when one is NaN.
            Avx512(unsafe { _mm512_max_ps(floor.0, self.0) })
        }
        #[inline(always)]
        fn power_of_two(self) -> Self {
            // SAFETY: see above.
            unsafe {
                let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(self.0));
                Avx512(_mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_set1_epi32(127 << 23))))
            }
        }
        #[inline(always)]
        fn largest(v: [Self; 4]) -> f32 {
            // SAFETY: see above. Magnitudes are ordered as their bits are.
            unsafe {
                let mut largest = _mm512_setzero_si512();
                for v in v {
                    largest = _mm512_max_epi32(largest, _mm512_castps_si512(_mm512_abs_ps(v.0)));
                }
                f32::from_bits(_mm512_reduce_max_epi32(largest) as u32)
            }
        }
        #[inline(always)]
        fn store_codes(v: [Self; 2], codes: &mut [i8]) -> i32 {
            let codes = &mut codes[..2 * WIDTH];
            // SAFETY: see above. NaN becomes −2³¹, whose low byte is 0.
            unsafe {
                let (a, b) = (_mm512_cvtps_epi32(v[0].0), _mm512_cvtps_epi32(v[1].0));
                _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(a));
                _mm_storeu_si128(codes[WIDTH..].as_mut_ptr().cast(), _mm512_cvtepi32_epi8(b));
                _mm512_reduce_add_epi32(_mm512_add_epi32(a, b))
            }
        }
    }

    /// Two AVX registers.
    #[derive(Clone, Copy)]
    pub(super) struct Avx(__m256, __m256);

    impl Vector for Avx {
        #[inline(always)]
        fn splat(v: f32) -> Self {
            // SAFETY: see above.
            let v = unsafe { _mm256_set1_ps(v) };
            Avx(v, v)
        }
        #[inline(always)]
        fn load(x: &[f32]) -> Self {
            let x = &x[..WIDTH];
            // SAFETY: see above.
            unsafe { Avx(_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x[8..].as_ptr())) }
        }
        #[inline(always)]
        fn store(self, x: &mut [f32]) {
            let x = &mut x[..WIDTH];
            // SAFETY: see above.
            unsafe {
                _mm256_storeu_ps(x.as_mut_ptr(), self.0);
                _mm256_storeu_ps(x[8..].as_mut_ptr(), self.1);
            }
        }
        #[inline(always)]
        fn load_f16(x: &[f16]) -> Self {
            let x = &x[..WIDTH];
            // SAFETY: see above.
            let eight = |x: &[f16]| unsafe { _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())) };
            Avx(eight(x), eight(&x[8..]))
        }
        #[inline(always)]
        fn store_f16(self, x: &mut [f16]) {
            let (low, high) = x[..WIDTH].split_at_mut(8);
            // SAFETY: see above. The second operand is the result when one is NaN.
            let eight = |v: __m256, x: &mut [f16]| unsafe {
                let v = _mm256_min_ps(_mm256_set1_ps(MAX_F16), v);
                let v = _mm256_max_ps(_mm256_set1_ps(-MAX_F16), v);
                let v = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v);
                _mm_storeu_si128(x.as_mut_ptr().cast(), v);
            };
            eight(self.0, low);
            eight(self.1, high);
        }
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: see above.
            unsafe { Avx(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
        }
        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            // SAFETY: see above.
            unsafe { Avx(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
        }
        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            // SAFETY: see above.
            unsafe { Avx(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
        }
        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            // SAFETY: see above.
            unsafe {
                Avx(_mm256_fmadd_ps(self.0, factor.0, addend.0), _mm256_fmadd_ps(self.1, factor.1, addend.1))
            }
        }
        #[inline(always)]
        fn max(self, floor: Self) -> Self {
            // SAFETY: see above. The second operand is the result when one is NaN.
            unsafe { Avx(_mm256_max_ps(floor.0, self.0), _mm256_max_ps(floor.1, self.1)) }
        }
        #[inline(always)]
        fn power_of_two(self) -> Self {
            // SAFETY: see above.
            let one = |x: __m256| unsafe {
                let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(x));
                _mm256_castsi256_ps(_mm256_add_epi32(n, _mm256_set1_epi32(127 << 23)))
            };
            Avx(one(self.0), one(self.1))
        }
        #[inline(always)]
        fn largest(v: [Self; 4]) -> f32 {
            // SAFETY: see above. Magnitudes are ordered as their bits are.
            unsafe {
                let size = _mm256_set1_epi32(i32::MAX);
                let mut largest = _mm256_setzero_si256();
                for v in v {
                    largest = _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(v.0), size));
                    largest = _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(v.1), size));
                }
                let four =
                    _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256::<1>(largest));
                let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b1110>(four));
                f32::from_bits(_mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32::<1>(two))) as u32)
            }
        }
        #[inline(always)]
        fn store_codes(v: [Self; 2], codes: &mut [i8]) -> i32 {
            let codes = &mut codes[..2 * WIDTH];
            // SAFETY: see above. NaN becomes −2³¹, whose low byte is 0.
            unsafe {
                let (a, b) = (_mm256_cvtps_epi32(v[0].0), _mm256_cvtps_epi32(v[0].1));
                let (c, d) = (_mm256_cvtps_epi32(v[1].0), _mm256_cvtps_epi32(v[1].1));
                let byte = _mm256_set1_epi32(255);
                let left = _mm256_packus_epi32(_mm256_and_si256(a, byte), _mm256_and_si256(b, byte));
                let right = _mm256_packus_epi32(_mm256_and_si256(c, byte), _mm256_and_si256(d, byte));
                // Each half of a register was packed by itself.
                let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                let bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(left, right), order);
                _mm256_storeu_si256(codes.as_mut_ptr().cast(), bytes);
                let sum = _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
                let four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
                let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b1110>(four));
                _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) use arm::load_f16;

#[cfg(target_arch = "aarch64")]
mod arm {
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

    // In all methods below. SAFETY: AArch64 always has NEON; loads and stores stay within slices whose length was just
    // checked. The intrinsic of `fcvtn` is not stable, the instruction is always there.
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
                // SAFETY: see above. NaN is the result when one operand is NaN; the rest is registers only.
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
            Self::each(|i| unsafe { vbslq_f32(vcltq_f32(self.0[i], floor.0[i]), floor.0[i], self.0[i]) })
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
}
