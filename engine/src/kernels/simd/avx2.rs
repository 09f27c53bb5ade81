//! AVX2 with FMA and F16C: two registers hold sixteen lanes.

use std::arch::x86_64::*;

use half::f16;

use super::{Inlined, Simd, operations};
use crate::kernels::lanes::WIDTH;
use crate::kernels::state::MAX_F16;

/// 256-bit registers, with or without `vpdpbusd` (AVX-VNNI). A value exists only where the
/// processor has AVX2, FMA and F16C (and AVX-VNNI).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Avx2<const VNNI: bool>(());

impl Avx2<false> {
    /// The instruction set, if the processor has it.
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Avx2(()))
    }

    /// The same with `vpdpbusd`, if the processor has that.
    pub(crate) fn with_vnni(self) -> Option<Avx2<true>> {
        is_x86_feature_detected!("avxvnni").then_some(Avx2(()))
    }
}

impl Avx2<true> {
    /// The same without `vpdpbusd`, for code that would be the same.
    #[inline(always)]
    pub(crate) fn plain(self) -> Avx2<false> {
        Avx2(())
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn call<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn call_vnni<R>(f: impl FnOnce() -> R) -> R {
    f()
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F = __m256;
    type I = __m256i;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn assume() -> Self {
        Avx2(())
    }
    #[inline(always)]
    fn run<R>(self, f: Inlined<impl FnOnce() -> R>) -> R {
        // SAFETY: `self` exists only where `detect` (and `with_vnni`) found these features.
        unsafe { if VNNI { call_vnni(f.0) } else { call(f.0) } }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> __m256i {
        // SAFETY: the processor has AVX2 (`self`); the caller's 32 bytes can be read.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> __m256 {
        // SAFETY: the processor has F16C (`self`); the caller's 16 bytes can be read.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> __m256 {
        // SAFETY: the processor has AVX2 (`self`); the caller's 8 bytes can be read.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_table(self, p: *const u8) -> __m256i {
        // SAFETY: the processor has AVX2 (`self`); the caller's 16 bytes can be read.
        unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        // SAFETY: the processor has AVX2 (`self`); the caller's 32 bytes can be written.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut f16, v: __m256) {
        // SAFETY: the processor has F16C (`self`); the caller's 16 bytes can be written. The second
        // operand of a minimum or maximum is the result when one is NaN.
        unsafe {
            let v = _mm256_min_ps(_mm256_set1_ps(MAX_F16), v);
            let v = _mm256_max_ps(_mm256_set1_ps(-MAX_F16), v);
            let v = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v);
            _mm_storeu_si128(p.cast(), v);
        }
    }
    #[inline(always)]
    fn low_bytes<const N: usize>(self, v: [[__m256i; N]; 2]) -> [i8; 2 * WIDTH] {
        const { assert!(N == 2) };
        let mut bytes = [0; 2 * WIDTH];
        // SAFETY: the processor has AVX2 (`self`); `bytes` are 32.
        unsafe {
            let byte = _mm256_set1_epi32(255);
            // Not an array's `map`: that would be a function of its own, without this instruction
            // set.
            let mut words = [byte; 2];
            for (word, v) in words.iter_mut().zip(v) {
                let [a, b] = [_mm256_and_si256(v[0], byte), _mm256_and_si256(v[1], byte)];
                *word = _mm256_packus_epi32(a, b);
            }
            // Each half of a register was packed by itself.
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let packed =
                _mm256_permutevar8x32_epi32(_mm256_packus_epi16(words[0], words[1]), order);
            _mm256_storeu_si256(bytes.as_mut_ptr().cast(), packed);
        }
        bytes
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch of any address is harmless, and every x86-64 processor has it.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_near(self, p: *const u8) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    operations! {
        splat(v: f32) -> __m256 = _mm256_set1_ps(v);
        splat_bits(v: u32) -> __m256i = _mm256_set1_epi32(v as i32);
        splat_pair(v: f64) -> __m256 = _mm256_castpd_ps(_mm256_set1_pd(v));

        bits(v: __m256) -> __m256i = _mm256_castps_si256(v);
        float(v: __m256i) -> __m256 = _mm256_castsi256_ps(v);
        convert(v: __m256i) -> __m256 = _mm256_cvtepi32_ps(v);
        nearest(v: __m256) -> __m256i = _mm256_cvtps_epi32(v);

        add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        mul_add(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        // The second operand is the result when one is NaN or both are zero.
        max(v: __m256, floor: __m256) -> __m256 = _mm256_max_ps(floor, v);
        add_pairs(a: __m256, b: __m256) -> __m256 = {
            // Pairs 0, 1 of a and of b, then 2, 3 of both.
            let sums = _mm256_castps_pd(_mm256_hadd_ps(a, b));
            _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(sums))
        };

        add_bits(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32(a, b);
        add_halves(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi16(a, b);
        max_bits(a: __m256i, b: __m256i) -> __m256i = _mm256_max_epi32(a, b);
        xor(a: __m256i, b: __m256i) -> __m256i = _mm256_xor_si256(a, b);
        mask(v: __m256i, bits: u32) -> __m256i =
            _mm256_and_si256(v, _mm256_set1_epi32(bits as i32));
        shift_left<const N: u32>(v: __m256i) -> __m256i =
            _mm256_sll_epi32(v, _mm_cvtsi32_si128(N as i32));
        shift_right<const N: u32>(v: __m256i) -> __m256i =
            _mm256_sra_epi32(v, _mm_cvtsi32_si128(N as i32));
        shift_halves_left<const N: u32>(v: __m256i) -> __m256i =
            _mm256_sll_epi16(v, _mm_cvtsi32_si128(N as i32));
        shift_halves_right<const N: u32>(v: __m256i) -> __m256i =
            _mm256_sra_epi16(v, _mm_cvtsi32_si128(N as i32));
        upper_nibbles(v: __m256i) -> __m256i =
            _mm256_and_si256(_mm256_srli_epi16::<4>(v), _mm256_set1_epi8(15));
        lookup(table: __m256i, index: __m256i) -> __m256i = _mm256_shuffle_epi8(table, index);
        interleave_bytes(a: __m256i, b: __m256i) -> [__m256i; 2] =
            [_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)];
        interleave_halves(a: __m256i, b: __m256i) -> [__m256i; 2] =
            [_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)];
        any_byte_without(v: __m256i, bits: u8) -> bool = {
            let some = _mm256_and_si256(v, _mm256_set1_epi8(bits as i8));
            _mm256_movemask_epi8(_mm256_cmpeq_epi8(some, _mm256_setzero_si256())) != 0
        };
        where_nonzero(v: __m256i, test: __m256) -> __m256i = {
            let some = _mm256_cmp_ps::<_CMP_NEQ_UQ>(test, _mm256_setzero_ps());
            _mm256_and_si256(v, _mm256_castps_si256(some))
        };

        largest(v: __m256i) -> i32 = {
            let four = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b1110>(four));
            _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32::<1>(two)))
        };
        sum(v: __m256i) -> i32 = {
            let four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b1110>(four));
            _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
        };
    }
}
