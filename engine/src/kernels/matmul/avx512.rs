//! AVX-512 matrix kernels: one register holds the same few columns of all 16 rows of a tile.
//!
//! Integer formats: `vpdpbusd` multiplies unsigned weight codes by signed activation quads broadcast from memory; the
//! accumulators start at −bias · Σx, so that no sign is ever fixed up.

use std::arch::x86_64::*;

use brooklet_formats::DType;

use super::float::{Bf16, F32, Float, Fp8, Lmul, float};
use super::integer::{Dot, integer};
use super::simd::Simd;
use super::{Kernel, Output, Tiles};
use crate::kernels::acts::{Acts, Int8Group};

/// The kernel of a format.
pub(super) fn kernel(dtype: DType) -> Kernel {
    match dtype {
        DType::Int4 => int4,
        DType::Int8 => int8,
        DType::Fp8E4m3 => fp8_e4m3,
        DType::Fp8E5m2 => fp8_e5m2,
        DType::Lmul => lmul,
        DType::F16 => f16,
        DType::Bf16 => bf16,
        DType::F32 => f32,
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn int4(tiles: Tiles<'_>, x: &Acts, y: Output) {
    // SAFETY: passed on.
    unsafe { integer::<Avx512, true, 8>(tiles, x, y) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn int8(tiles: Tiles<'_>, x: &Acts, y: Output) {
    // SAFETY: passed on.
    unsafe { integer::<Avx512, false, 8>(tiles, x, y) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn fp8_e4m3(tiles: Tiles<'_>, x: &Acts, y: Output) {
    // SAFETY: passed on.
    unsafe { float::<Avx512, Fp8<false>, 4, 6>(tiles, x.fp8.as_ptr(), x.stride(), y) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn fp8_e5m2(tiles: Tiles<'_>, x: &Acts, y: Output) {
    // SAFETY: passed on.
    unsafe { float::<Avx512, Fp8<true>, 4, 6>(tiles, x.fp8.as_ptr(), x.stride(), y) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn lmul(tiles: Tiles<'_>, x: &Acts, y: Output) {
    // SAFETY: passed on.
    unsafe { float::<Avx512, Lmul, 4, 6>(tiles, x.lmul.as_ptr().cast(), x.stride(), y) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn f16(tiles: Tiles<'_>, x: &Acts, y: Output) {
    // SAFETY: passed on.
    unsafe { float::<Avx512, F16, 2, 8>(tiles, x.float.as_ptr(), x.stride(), y) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn bf16(tiles: Tiles<'_>, x: &Acts, y: Output) {
    // SAFETY: passed on.
    unsafe { float::<Avx512, Bf16, 2, 8>(tiles, x.float.as_ptr(), x.stride(), y) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn f32(tiles: Tiles<'_>, x: &Acts, y: Output) {
    // SAFETY: passed on.
    unsafe { float::<Avx512, F32, 1, 8>(tiles, x.float.as_ptr(), x.stride(), y) }
}

/// 512-bit registers.
struct Avx512;

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m512i {
        // SAFETY: the trait's.
        unsafe { _mm512_load_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        // SAFETY: the trait's.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> __m512 {
        // SAFETY: the trait's.
        unsafe { _mm512_cvtph_ps(_mm256_load_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const f32) -> __m512 {
        // SAFETY: the trait's.
        unsafe { _mm512_set1_ps(*p) }
    }
    #[inline(always)]
    unsafe fn broadcast_bits(p: *const u32) -> __m512i {
        // SAFETY: the trait's.
        unsafe { _mm512_set1_epi32(*p as i32) }
    }
    #[inline(always)]
    unsafe fn splat(v: f32) -> __m512 {
        // SAFETY: the trait's.
        unsafe { _mm512_set1_ps(v) }
    }
    #[inline(always)]
    unsafe fn bits(v: __m512) -> __m512i {
        // SAFETY: the trait's.
        unsafe { _mm512_castps_si512(v) }
    }
    #[inline(always)]
    unsafe fn float(v: __m512i) -> __m512 {
        // SAFETY: the trait's.
        unsafe { _mm512_castsi512_ps(v) }
    }
    #[inline(always)]
    unsafe fn convert(v: __m512i) -> __m512 {
        // SAFETY: the trait's.
        unsafe { _mm512_cvtepi32_ps(v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the trait's.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the trait's.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the trait's.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn add_bits(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the trait's.
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn mask(v: __m512i, bits: u32) -> __m512i {
        // SAFETY: the trait's.
        unsafe { _mm512_and_si512(v, _mm512_set1_epi32(bits as i32)) }
    }
    #[inline(always)]
    unsafe fn shift_left<const N: u32>(v: __m512i) -> __m512i {
        // SAFETY: the trait's.
        unsafe { _mm512_slli_epi32::<N>(v) }
    }
    #[inline(always)]
    unsafe fn shift_halves_left<const N: u32>(v: __m512i) -> __m512i {
        // SAFETY: the trait's.
        unsafe { _mm512_slli_epi16::<N>(v) }
    }
    #[inline(always)]
    unsafe fn shift_halves_right<const N: u32>(v: __m512i) -> __m512i {
        // SAFETY: the trait's.
        unsafe { _mm512_srai_epi16::<N>(v) }
    }
    #[inline(always)]
    unsafe fn any_byte_without(v: __m512i, bits: u8) -> bool {
        // SAFETY: the trait's.
        unsafe { _mm512_testn_epi8_mask(v, _mm512_set1_epi8(bits as i8)) != 0 }
    }
    #[inline(always)]
    unsafe fn where_nonzero(v: __m512i, test: __m512) -> __m512i {
        // SAFETY: the trait's.
        unsafe {
            let some = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(test, _mm512_setzero_ps());
            _mm512_maskz_mov_epi32(some, v)
        }
    }
}

impl Dot for Avx512 {
    #[inline(always)]
    unsafe fn dot<const INT4: bool, const R: usize, const C: usize>(
        codes: *const u8,
        x: &[*const Int8Group; C],
    ) -> [[__m512i; R]; C] {
        // SAFETY: the trait's.
        unsafe {
            let nibble = _mm512_set1_epi8(15);
            // −bias · Σx; the bias is 8 or 128.
            let mut even: [__m512i; C] = std::array::from_fn(|c| {
                let minus_sum = _mm512_set1_epi32((*x[c]).minus_sum);
                if INT4 { _mm512_slli_epi32::<3>(minus_sum) } else { _mm512_slli_epi32::<7>(minus_sum) }
            });
            // A single column takes two accumulators, since each waits four cycles for itself.
            let mut odd = [_mm512_setzero_si512(); C];
            for j in 0..4 {
                let (low, high) = if INT4 {
                    let v = _mm512_load_si512(codes.add(64 * j).cast());
                    (_mm512_and_si512(v, nibble), _mm512_and_si512(_mm512_srli_epi16::<4>(v), nibble))
                } else {
                    let codes = codes.add(128 * j);
                    (_mm512_load_si512(codes.cast()), _mm512_load_si512(codes.add(64).cast()))
                };
                for c in 0..C {
                    let quad = |i: usize| {
                        let codes = (&raw const (*x[c]).codes).cast::<i32>();
                        _mm512_set1_epi32(codes.add(2 * j + i).read_unaligned())
                    };
                    even[c] = _mm512_dpbusd_epi32(even[c], low, quad(0));
                    if C == 1 {
                        odd[c] = _mm512_dpbusd_epi32(odd[c], high, quad(1));
                    } else {
                        even[c] = _mm512_dpbusd_epi32(even[c], high, quad(1));
                    }
                }
            }
            std::array::from_fn(|c| [if C == 1 { _mm512_add_epi32(even[c], odd[c]) } else { even[c] }; R])
        }
    }
}

/// f16: a chain's register holds two columns of 8 rows, as the conversion widens them.
struct F16;

impl Float<Avx512, 2> for F16 {
    const SCALE: Option<f32> = None;

    #[inline(always)]
    unsafe fn widen(w: *const u8) -> [__m512; 2] {
        // SAFETY: the trait's.
        unsafe { [Avx512::load_f16(w), Avx512::load_f16(w.add(32))] }
    }

    /// The same two columns for both halves of the rows.
    #[inline(always)]
    unsafe fn activation(x: *const f32, _n: usize) -> __m512 {
        // SAFETY: the trait's; unaligned.
        unsafe { _mm512_castpd_ps(_mm512_set1_pd(x.cast::<f64>().read_unaligned())) }
    }

    /// Even columns + odd columns.
    #[inline(always)]
    unsafe fn sum(chains: [__m512; 2]) -> __m512 {
        // SAFETY: the trait's.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
            _mm512_add_ps(
                _mm512_permutex2var_ps(chains[0], even, chains[1]),
                _mm512_permutex2var_ps(chains[0], odd, chains[1]),
            )
        }
    }
}
