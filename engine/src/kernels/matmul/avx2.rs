//! AVX2 matrix kernels: two registers hold the same few columns of the 16 rows of a tile.
//!
//! Integer formats: `vpmaddubsw` multiplies unsigned bytes by signed ones and adds neighbours in 16
//! bits. int4 codes stay unsigned, and the sums of 32 columns fit 16 bits (16 · 15 · 127); int8
//! codes lose their bias, and their signs move to the activations, so that two products fit.
//!
//! Instructions per 16 rows × 32 columns of weights, counted in the inner loops: one column of
//! activations 78 (int4, 16 of them `vpmaddubsw`) and 106 (int8), and 5 for the scales; each of
//! four columns 68 and 97, all in all.

use std::arch::x86_64::*;

use brooklet_formats::DType;

use super::float::{Bf16, F32, Float, Fp8, Lmul, float};
use super::integer::{Dot, columns, integer};
use super::simd::{Simd, in_one_register};
use super::{Kernel, Output, Tiles};
use crate::buffers::Acts;

/// The kernel of a format.
pub(super) fn kernel(dtype: DType) -> Kernel {
    match dtype {
        DType::Int4 => integer_kernel::<true>,
        DType::Int8 => integer_kernel::<false>,
        DType::F32 => float_kernel::<F32, 1, 8>,
        DType::F16 => float_kernel::<F16, 2, 4>,
        DType::Bf16 => float_kernel::<Bf16, 2, 4>,
        DType::Fp8E4m3 => float_kernel::<Fp8<false>, 2, 4>,
        DType::Fp8E5m2 => float_kernel::<Fp8<true>, 2, 4>,
        DType::Lmul => float_kernel::<Lmul, 2, 4>,
    }
}

/// # Safety
/// As [`Kernel`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn integer_kernel<const INT4: bool>(tiles: Tiles<'_>, x: &Acts, y: Output) {
    // SAFETY: passed on.
    unsafe { integer::<Avx2<false>, INT4, 4>(tiles, x, y) }
}

/// # Safety
/// As [`Kernel`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn float_kernel<E: Float<Avx2<false>, N>, const N: usize, const MOST: usize>(
    tiles: Tiles<'_>,
    x: &Acts,
    y: Output,
) {
    // SAFETY: passed on.
    unsafe { float::<Avx2<false>, E, N, MOST>(tiles, x, y) }
}

/// 256-bit registers, with or without `vpdpbusd`.
pub(super) struct Avx2<const VNNI: bool>;

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F = __m256;
    type I = __m256i;
    const LANES: usize = 8;
    const AT_ONCE: [usize; 2] = [2, if VNNI { 2 } else { 1 }];

    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m256i {
        // SAFETY: the trait's.
        unsafe { _mm256_load_si256(p.cast()) }
    }
    #[inline(always)]
    fn prefetch(p: *const u8) {
        // SAFETY: a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        // SAFETY: the trait's.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> __m256 {
        // SAFETY: the trait's.
        unsafe { _mm256_cvtph_ps(_mm_load_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const f32) -> __m256 {
        // SAFETY: the trait's.
        unsafe { _mm256_set1_ps(*p) }
    }
    #[inline(always)]
    unsafe fn broadcast_bits(p: *const u32) -> __m256i {
        // SAFETY: the trait's.
        unsafe { _mm256_set1_epi32(*p as i32) }
    }
    #[inline(always)]
    unsafe fn splat(v: f32) -> __m256 {
        // SAFETY: the trait's.
        unsafe { _mm256_set1_ps(v) }
    }
    #[inline(always)]
    unsafe fn bits(v: __m256) -> __m256i {
        // SAFETY: the trait's.
        unsafe { _mm256_castps_si256(v) }
    }
    #[inline(always)]
    unsafe fn float(v: __m256i) -> __m256 {
        // SAFETY: the trait's.
        unsafe { _mm256_castsi256_ps(v) }
    }
    #[inline(always)]
    unsafe fn convert(v: __m256i) -> __m256 {
        // SAFETY: the trait's.
        unsafe { _mm256_cvtepi32_ps(v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: the trait's.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: the trait's.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: the trait's.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn add_bits(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the trait's.
        unsafe { _mm256_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn add_halves(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the trait's.
        unsafe { _mm256_add_epi16(a, b) }
    }
    #[inline(always)]
    unsafe fn mask(v: __m256i, bits: u32) -> __m256i {
        // SAFETY: the trait's.
        unsafe { _mm256_and_si256(v, _mm256_set1_epi32(bits as i32)) }
    }
    #[inline(always)]
    unsafe fn shift_left<const N: u32>(v: __m256i) -> __m256i {
        // SAFETY: the trait's.
        unsafe { _mm256_sll_epi32(v, _mm_cvtsi32_si128(N as i32)) }
    }
    #[inline(always)]
    unsafe fn shift_halves_left<const N: u32>(v: __m256i) -> __m256i {
        // SAFETY: the trait's.
        unsafe { _mm256_sll_epi16(v, _mm_cvtsi32_si128(N as i32)) }
    }
    #[inline(always)]
    unsafe fn shift_halves_right<const N: u32>(v: __m256i) -> __m256i {
        // SAFETY: the trait's.
        unsafe { _mm256_sra_epi16(v, _mm_cvtsi32_si128(N as i32)) }
    }
    #[inline(always)]
    unsafe fn any_byte_without(v: __m256i, bits: u8) -> bool {
        // SAFETY: the trait's.
        unsafe {
            let some = _mm256_and_si256(v, _mm256_set1_epi8(bits as i8));
            _mm256_movemask_epi8(_mm256_cmpeq_epi8(some, _mm256_setzero_si256())) != 0
        }
    }
    #[inline(always)]
    unsafe fn where_nonzero(v: __m256i, test: __m256) -> __m256i {
        // SAFETY: the trait's.
        unsafe {
            let some = _mm256_cmp_ps::<_CMP_NEQ_UQ>(test, _mm256_setzero_ps());
            _mm256_and_si256(v, _mm256_castps_si256(some))
        }
    }
}

impl Dot for Avx2<false> {
    #[inline(always)]
    unsafe fn start_int8(_: *const i32) -> __m256i {
        // SAFETY: the trait's.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn dot<const INT4: bool, const R: usize, const C: usize>(
        codes: *const u8,
        x: *const i8,
        sums: &mut [[__m256i; R]; C],
    ) {
        // SAFETY: the trait's.
        unsafe {
            let x = columns::<_, C>(in_one_register(x));
            let ones = _mm256_set1_epi16(1);
            if INT4 {
                let nibble = _mm256_set1_epi8(15);
                let mut halves = [[_mm256_setzero_si256(); R]; C];
                for j in 0..4 {
                    for r in 0..R {
                        let v = Self::load(codes.add(64 * j + 32 * r));
                        let low = _mm256_and_si256(v, nibble);
                        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(v), nibble);
                        for (halves, x) in halves.iter_mut().zip(&x) {
                            let low = _mm256_maddubs_epi16(low, quad(*x, 2 * j));
                            let high = _mm256_maddubs_epi16(high, quad(*x, 2 * j + 1));
                            halves[r] = _mm256_add_epi16(halves[r], _mm256_add_epi16(low, high));
                        }
                    }
                }
                for (sum, halves) in sums.as_flattened_mut().iter_mut().zip(halves.as_flattened()) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(*halves, ones));
                }
            } else {
                let bias = _mm256_set1_epi8(-128);
                for j in 0..8 {
                    for r in 0..R {
                        let q = _mm256_xor_si256(Self::load(codes.add(64 * j + 32 * r)), bias);
                        let size = _mm256_abs_epi8(q);
                        for (sums, x) in sums.iter_mut().zip(&x) {
                            let signed = _mm256_sign_epi8(quad(*x, j), q);
                            let pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(size, signed), ones);
                            sums[r] = _mm256_add_epi32(sums[r], pairs);
                        }
                    }
                }
            }
        }
    }
}

/// Activations 4j.. of 32, in every lane.
#[inline(always)]
pub(super) unsafe fn quad(x: *const i8, j: usize) -> __m256i {
    // SAFETY: the caller's activations exist, aligned to quads.
    unsafe { _mm256_set1_epi32(*x.cast::<i32>().add(j)) }
}

/// f16: a chain's register holds two columns of 4 rows, as the conversion widens them.
struct F16;

impl Float<Avx2<false>, 2> for F16 {
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
        chains: &mut [[__m256; 2]; C],
    ) {
        // SAFETY: the trait's; activations need not be aligned to pairs.
        unsafe {
            let (low, high) = (Avx2::<false>::load_f16(w), Avx2::<false>::load_f16(w.add(16)));
            for (chains, x) in chains.iter_mut().zip(x) {
                let pair = _mm256_castpd_ps(_mm256_set1_pd(x.cast::<f64>().read_unaligned()));
                chains[0] = _mm256_fmadd_ps(low, pair, chains[0]);
                chains[1] = _mm256_fmadd_ps(high, pair, chains[1]);
            }
        }
    }

    /// Even columns + odd columns.
    #[inline(always)]
    unsafe fn sum(chains: [__m256; 2]) -> __m256 {
        // SAFETY: the trait's.
        unsafe {
            // Rows 0, 1, 4, 5, 2, 3, 6, 7.
            let sums = _mm256_castps_pd(_mm256_hadd_ps(chains[0], chains[1]));
            _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(sums))
        }
    }
}
