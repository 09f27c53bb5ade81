//! AVX-512: one register holds sixteen lanes.

use std::arch::x86_64::*;

use half::f16;

use super::{Inlined, Simd, operations};
use crate::kernels::lanes::WIDTH;
use crate::kernels::state::MAX_F16;

/// 512-bit registers, with or without `vdpbf16ps`, with or without `vpermb`. A value exists only
/// where the processor has AVX2 and AVX-512 F, BW, DQ, VL and VNNI (and BF16, and VBMI).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Avx512<const BF16: bool, const VBMI: bool = false>(());

impl Avx512<false> {
    /// The instruction set, if the processor has it.
    pub(crate) fn detect() -> Option<Self> {
        let found = super::avx2::Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        found.then_some(Avx512(()))
    }

    /// The same with `vdpbf16ps`, if the processor has that.
    pub(crate) fn with_bf16(self) -> Option<Avx512<true>> {
        is_x86_feature_detected!("avx512bf16").then_some(Avx512(()))
    }

    /// The same with `vpermb`, if the processor has that.
    pub(crate) fn with_vbmi(self) -> Option<Avx512<false, true>> {
        is_x86_feature_detected!("avx512vbmi").then_some(Avx512(()))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn call<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn call_bf16<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
fn call_vbmi<R>(f: impl FnOnce() -> R) -> R {
    f()
}

impl<const BF16: bool, const VBMI: bool> Simd for Avx512<BF16, VBMI> {
    type F = __m512;
    type I = __m512i;
    const LANES: usize = 16;
    const FLUSHES: bool = BF16;

    #[inline(always)]
    unsafe fn assume() -> Self {
        Avx512(())
    }
    #[inline(always)]
    fn run<R>(self, f: Inlined<impl FnOnce() -> R>) -> R {
        const { assert!(!(BF16 && VBMI)) };
        // SAFETY: `self` exists only where `detect` (and `with_bf16`, `with_vbmi`) found these
        // features.
        unsafe {
            match (BF16, VBMI) {
                (true, _) => call_bf16(f.0),
                (_, true) => call_vbmi(f.0),
                _ => call(f.0),
            }
        }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> __m512i {
        // SAFETY: the processor has AVX-512 (`self`); the caller's 64 bytes can be read.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> __m512 {
        // SAFETY: the processor has AVX-512 (`self`); the caller's 32 bytes can be read.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> __m512 {
        // SAFETY: the processor has AVX-512 (`self`); the caller's 16 bytes can be read.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_table(self, p: *const u8) -> __m512i {
        // SAFETY: the processor has AVX-512 (`self`); the caller's 16 bytes can be read.
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: the processor has AVX-512 (`self`); the caller's 64 bytes can be written.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut f16, v: __m512) {
        // SAFETY: the processor has AVX-512 (`self`); the caller's 32 bytes can be written. The
        // second operand of a minimum or maximum is the result when one is NaN.
        unsafe {
            let v = _mm512_min_ps(_mm512_set1_ps(MAX_F16), v);
            let v = _mm512_max_ps(_mm512_set1_ps(-MAX_F16), v);
            let v = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v);
            _mm256_storeu_si256(p.cast(), v);
        }
    }
    #[inline(always)]
    fn low_bytes<const N: usize>(self, v: [[__m512i; N]; 2]) -> [i8; 2 * WIDTH] {
        const { assert!(N == 1) };
        let mut bytes = [0; 2 * WIDTH];
        for (v, bytes) in v.iter().zip(bytes.as_chunks_mut::<WIDTH>().0) {
            // SAFETY: the processor has AVX-512 (`self`); `bytes` are 16.
            unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(v[0])) }
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
        splat(v: f32) -> __m512 = _mm512_set1_ps(v);
        splat_bits(v: u32) -> __m512i = _mm512_set1_epi32(v as i32);
        splat_pair(v: f64) -> __m512 = _mm512_castpd_ps(_mm512_set1_pd(v));

        bits(v: __m512) -> __m512i = _mm512_castps_si512(v);
        float(v: __m512i) -> __m512 = _mm512_castsi512_ps(v);
        convert(v: __m512i) -> __m512 = _mm512_cvtepi32_ps(v);
        nearest(v: __m512) -> __m512i = _mm512_cvtps_epi32(v);

        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        mul_add(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        // The second operand is the result when one is NaN or both are zero.
        max(v: __m512, floor: __m512) -> __m512 = _mm512_max_ps(floor, v);
        add_pairs(a: __m512, b: __m512) -> __m512 = {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
            _mm512_add_ps(_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b))
        };

        add_bits(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        add_halves(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi16(a, b);
        max_bits(a: __m512i, b: __m512i) -> __m512i = _mm512_max_epi32(a, b);
        xor(a: __m512i, b: __m512i) -> __m512i = _mm512_xor_si512(a, b);
        mask(v: __m512i, bits: u32) -> __m512i =
            _mm512_and_si512(v, _mm512_set1_epi32(bits as i32));
        shift_left<const N: u32>(v: __m512i) -> __m512i = _mm512_slli_epi32::<N>(v);
        shift_right<const N: u32>(v: __m512i) -> __m512i = _mm512_srai_epi32::<N>(v);
        shift_halves_left<const N: u32>(v: __m512i) -> __m512i = _mm512_slli_epi16::<N>(v);
        shift_halves_right<const N: u32>(v: __m512i) -> __m512i = _mm512_srai_epi16::<N>(v);
        upper_nibbles(v: __m512i) -> __m512i =
            _mm512_and_si512(_mm512_srli_epi16::<4>(v), _mm512_set1_epi8(15));
        lookup(table: __m512i, index: __m512i) -> __m512i = _mm512_shuffle_epi8(table, index);
        interleave_bytes(a: __m512i, b: __m512i) -> [__m512i; 2] =
            [_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)];
        interleave_halves(a: __m512i, b: __m512i) -> [__m512i; 2] =
            [_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b)];
        any_byte_without(v: __m512i, bits: u8) -> bool =
            _mm512_testn_epi8_mask(v, _mm512_set1_epi8(bits as i8)) != 0;
        where_nonzero(v: __m512i, test: __m512) -> __m512i = {
            let some = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(test, _mm512_setzero_ps());
            _mm512_maskz_mov_epi32(some, v)
        };

        largest(v: __m512i) -> i32 = _mm512_reduce_max_epi32(v);
        sum(v: __m512i) -> i32 = _mm512_reduce_add_epi32(v);
    }

    #[inline(always)]
    fn lookup_nibbles(self, table: __m512i, v: __m512i) -> [__m512i; 2] {
        if !VBMI {
            let (low, high) = (self.lower_nibbles(v), self.upper_nibbles(v));
            return [self.lookup(table, low), self.lookup(table, high)];
        }
        // SAFETY: with `VBMI` a value exists only where `with_vbmi` found the instruction. It takes
        // six bits of an index, of which the upper two choose among four copies of the table.
        unsafe {
            let upper = _mm512_srli_epi16::<4>(v);
            [_mm512_permutexvar_epi8(v, table), _mm512_permutexvar_epi8(upper, table)]
        }
    }

    #[inline(always)]
    fn dot_bf16(self, a: __m512i, b: __m512i, c: __m512) -> __m512 {
        if !BF16 {
            return self.dot_bf16_exact(a, b, c);
        }
        // SAFETY: with `BF16` a value exists only where `with_bf16` found the instruction; a
        // register of pairs is a register of bits.
        unsafe {
            let a = std::mem::transmute::<__m512i, __m512bh>(a);
            let b = std::mem::transmute::<__m512i, __m512bh>(b);
            _mm512_dpbf16_ps(c, a, b)
        }
    }
}
