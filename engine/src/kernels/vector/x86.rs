//! Sixteen lanes on x86-64: one AVX-512 register or two AVX registers.

use std::arch::x86_64::*;

use super::{MAX_F16, Vector, WIDTH, f16};

/// One AVX-512 register.
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

// In all methods below. SAFETY: the type is named only by `Isa::run_lanes`, under the feature it
// needs; loads and stores stay within slices whose length was just checked.
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

/// Eight f16, widened.
///
/// # Safety
/// They exist, and the processor has F16C.
#[inline(always)]
unsafe fn widen(x: &[f16]) -> __m256 {
    // SAFETY: the caller's.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())) }
}

/// Writes eight f16, rounded.
///
/// # Safety
/// There is room for them, and the processor has F16C.
#[inline(always)]
unsafe fn narrow(v: __m256, x: &mut [f16]) {
    // SAFETY: the caller's. The second operand is the result when one is NaN.
    unsafe {
        let v = _mm256_min_ps(_mm256_set1_ps(MAX_F16), v);
        let v = _mm256_max_ps(_mm256_set1_ps(-MAX_F16), v);
        let v = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v);
        _mm_storeu_si128(x.as_mut_ptr().cast(), v);
    }
}

/// [`Vector::power_of_two`] of one register.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn power_of_two_of(x: __m256) -> __m256 {
    // SAFETY: the caller's.
    unsafe {
        let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(x));
        _mm256_castsi256_ps(_mm256_add_epi32(n, _mm256_set1_epi32(127 << 23)))
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
        unsafe { Avx(widen(&x[..8]), widen(&x[8..])) }
    }
    #[inline(always)]
    fn store_f16(self, x: &mut [f16]) {
        let (low, high) = x[..WIDTH].split_at_mut(8);
        // SAFETY: see above.
        unsafe {
            narrow(self.0, low);
            narrow(self.1, high);
        }
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
            Avx(
                _mm256_fmadd_ps(self.0, factor.0, addend.0),
                _mm256_fmadd_ps(self.1, factor.1, addend.1),
            )
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
        unsafe { Avx(power_of_two_of(self.0), power_of_two_of(self.1)) }
    }
    #[inline(always)]
    fn largest(v: [Self; 4]) -> f32 {
        // SAFETY: see above. Magnitudes are ordered as their bits are.
        unsafe {
            let size = _mm256_set1_epi32(i32::MAX);
            let mut largest = _mm256_setzero_si256();
            for v in v {
                largest =
                    _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(v.0), size));
                largest =
                    _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(v.1), size));
            }
            let four = _mm_max_epi32(
                _mm256_castsi256_si128(largest),
                _mm256_extracti128_si256::<1>(largest),
            );
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
            let four =
                _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
            let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b1110>(four));
            _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
        }
    }
}
