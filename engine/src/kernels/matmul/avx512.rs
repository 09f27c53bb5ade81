//! AVX-512 matrix kernels: one register holds the same few columns of all 16 rows of a tile.
//!
//! Integer formats: `vpdpbusd` multiplies unsigned weight codes by signed activation quads
//! broadcast from memory; the accumulators start at −bias · Σx, so that no sign is ever fixed up.
//!
//! Instructions per 16 rows × 32 columns of weights, counted in the inner loops:
//!
//! | format | one column of activations | each of twelve; of eight (floats) |
//! |---|---|---|
//! | `int4` | 30 (8 `vpdpbusd`) and 4 for the scales | 13.5 (8 `vpdpbusd`) |
//! | `int8` | 23 (8) and 4 | 13 (8) |
//! | `bf16` | 40 (16 `vdpbf16ps`) | 19 (16) |
//! | `f32` | 128 (32 `vfmadd`) | 58 (32) |
//!
//! `vpdpbusd` waits six cycles for its own sum where two can start in each (Intel): that takes
//! twelve columns. There all vector instructions share two ports, and 192 of 266 for 64 columns of
//! int4 weights are products: 72 % of the peak is the most there is; 54 to 67 % are measured, as
//! the other threads of the core allow. On a Zen 4 only products and multiplications by scales
//! share ports: 89 %.

use std::arch::asm;
use std::arch::x86_64::*;

use brooklet_formats::DType;

use super::float::{Bf16, F32, Float, Fp8, Lmul, float};
use super::integer::{Dot, columns, integer};
use super::simd::{Simd, in_one_register};
use super::{Kernel, Output, Tiles};
use crate::buffers::Acts;

/// The kernel of a format.
pub(super) fn kernel(dtype: DType) -> Kernel {
    kernel_with(dtype, is_x86_feature_detected!("avx512bf16"))
}

/// The kernel of a format, with or without `vdpbf16ps`: the bits are the same.
pub(super) fn kernel_with(dtype: DType, bf16: bool) -> Kernel {
    match dtype {
        DType::Int4 => integer_kernel::<true>,
        DType::Int8 => integer_kernel::<false>,
        DType::F32 => float_kernel::<F32, 1, 8>,
        DType::F16 => float_kernel::<F16, 2, 8>,
        DType::Bf16 if bf16 => bf16_kernel::<Bf16, 2, 8>,
        DType::Fp8E4m3 if bf16 => bf16_kernel::<Fp8<false>, 2, 8>,
        DType::Fp8E5m2 if bf16 => bf16_kernel::<Fp8<true>, 2, 8>,
        DType::Lmul if bf16 => bf16_kernel::<Lmul, 2, 8>,
        DType::Bf16 => float_kernel::<Bf16, 2, 8>,
        DType::Fp8E4m3 => float_kernel::<Fp8<false>, 2, 8>,
        DType::Fp8E5m2 => float_kernel::<Fp8<true>, 2, 8>,
        DType::Lmul => float_kernel::<Lmul, 2, 8>,
    }
}

/// # Safety
/// As [`Kernel`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn integer_kernel<const INT4: bool>(tiles: Tiles<'_>, x: &Acts, y: Output) {
    // SAFETY: passed on.
    unsafe { integer::<Avx512<false>, INT4, 12>(tiles, x, y) }
}

/// # Safety
/// As [`Kernel`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn float_kernel<E: Float<Avx512<false>, N>, const N: usize, const MOST: usize>(
    tiles: Tiles<'_>,
    x: &Acts,
    y: Output,
) {
    // SAFETY: passed on.
    unsafe { float::<Avx512<false>, E, N, MOST>(tiles, x, y) }
}

/// # Safety
/// As [`Kernel`]; the processor has AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn bf16_kernel<E: Float<Avx512<true>, N>, const N: usize, const MOST: usize>(
    tiles: Tiles<'_>,
    x: &Acts,
    y: Output,
) {
    // SAFETY: passed on.
    unsafe { float::<Avx512<true>, E, N, MOST>(tiles, x, y) }
}

/// 512-bit registers, with or without `vdpbf16ps`.
struct Avx512<const BF16: bool>;

impl<const BF16: bool> Simd for Avx512<BF16> {
    type F = __m512;
    type I = __m512i;
    const LANES: usize = 16;
    const AT_ONCE: [usize; 2] = [1, 1];
    const FLUSHES: bool = BF16;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m512i {
        // SAFETY: the trait's.
        unsafe { _mm512_load_si512(p.cast()) }
    }
    #[inline(always)]
    fn prefetch(p: *const u8) {
        // SAFETY: a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
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
    unsafe fn add_halves(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the trait's.
        unsafe { _mm512_add_epi16(a, b) }
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
    unsafe fn dot_bf16(a: __m512i, b: __m512i, c: __m512) -> __m512 {
        // SAFETY: the trait's; a register of pairs is a register of bits.
        unsafe {
            if BF16 {
                let a = std::mem::transmute::<__m512i, __m512bh>(a);
                let b = std::mem::transmute::<__m512i, __m512bh>(b);
                _mm512_dpbf16_ps(c, a, b)
            } else {
                Self::dot_bf16_exact(a, b, c)
            }
        }
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

impl Dot for Avx512<false> {
    #[inline(always)]
    unsafe fn start_int8(start: *const i32) -> __m512i {
        // SAFETY: the trait's.
        unsafe { _mm512_slli_epi32::<4>(spread(start)) }
    }

    #[inline(always)]
    unsafe fn dot<const INT4: bool, const R: usize, const C: usize>(
        codes: *const u8,
        x: *const i8,
        sums: &mut [[__m512i; R]; C],
    ) {
        // SAFETY: the trait's.
        unsafe {
            let x = columns::<_, C>(in_one_register(x));
            let nibble = _mm512_set1_epi8(15);
            // A single column takes two accumulators, since each waits four to six cycles for
            // itself.
            let mut odd = _mm512_setzero_si512();
            for j in 0..4 {
                let (low, high) = if INT4 {
                    let v = _mm512_load_si512(codes.add(64 * j).cast());
                    (
                        _mm512_and_si512(v, nibble),
                        _mm512_and_si512(_mm512_srli_epi16::<4>(v), nibble),
                    )
                } else {
                    let codes = codes.add(128 * j);
                    (_mm512_load_si512(codes.cast()), _mm512_load_si512(codes.add(64).cast()))
                };
                let quad =
                    |x: &*const i8, i: usize| _mm512_set1_epi32(*x.cast::<i32>().add(2 * j + i));
                // All columns with the one, then all with the other: a product waits as long for
                // the sum before it.
                for (sums, x) in sums.iter_mut().zip(&x) {
                    sums[0] = _mm512_dpbusd_epi32(sums[0], low, quad(x, 0));
                }
                for (sums, x) in sums.iter_mut().zip(&x) {
                    let sum = if C == 1 { &mut odd } else { &mut sums[0] };
                    *sum = _mm512_dpbusd_epi32(*sum, high, quad(x, 1));
                }
            }
            if C == 1 {
                sums[0][0] = _mm512_add_epi32(sums[0][0], odd);
            }
        }
    }
}

/// The number in all lanes. By `asm!`, since the compiler would shift the starts of all columns in
/// one register and spread them from there through memory, at half the speed of the whole product.
///
/// # Safety
/// The number exists.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn spread(number: *const i32) -> __m512i {
    let all: __m512i;
    // SAFETY: the caller's.
    unsafe {
        asm!("vpbroadcastd {0}, dword ptr [{1}]", out(zmm_reg) all, in(reg) number,
            options(pure, readonly, nostack, preserves_flags));
    }
    all
}

/// f16: a chain's register holds two columns of 8 rows, as the conversion widens them.
struct F16;

impl Float<Avx512<false>, 2> for F16 {
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
        chains: &mut [[__m512; 2]; C],
    ) {
        // SAFETY: the trait's; activations need not be aligned to pairs.
        unsafe {
            let (low, high) = (Avx512::<false>::load_f16(w), Avx512::<false>::load_f16(w.add(32)));
            for (chains, x) in chains.iter_mut().zip(x) {
                let pair = _mm512_castpd_ps(_mm512_set1_pd(x.cast::<f64>().read_unaligned()));
                chains[0] = _mm512_fmadd_ps(low, pair, chains[0]);
                chains[1] = _mm512_fmadd_ps(high, pair, chains[1]);
            }
        }
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
