//! int4 and int8 with AVX-VNNI: `vpdpbusd` on the registers of AVX2, for Intel's processors without
//! AVX-512.
//!
//! As in `avx512.rs` it multiplies unsigned weight codes by signed activation quads, and the sums
//! start at −bias · Σx. Each product waits for the sum before it, and two can start in a cycle: two
//! registers of rows by five columns are ten independent sums, and six of the sixteen registers are
//! left for codes and activations (six columns spill them). Of 64 columns an Emerald Rapids runs
//! int4 at 71 % and int8 at 75 % of the instruction's peak, 1.5 and 2.8 times as fast as `avx2.rs`.

use std::arch::x86_64::*;

use brooklet_formats::DType;

use super::avx2::{self, Avx2, quad};
use super::integer::{Dot, columns, integer};
use super::simd::{Simd, in_one_register};
use super::{Kernel, Output, Tiles};
use crate::buffers::Acts;

/// The kernel of a format: of the floats AVX2's.
pub(super) fn kernel(dtype: DType) -> Kernel {
    match dtype {
        DType::Int4 => integer_kernel::<true>,
        DType::Int8 => integer_kernel::<false>,
        _ => avx2::kernel(dtype),
    }
}

/// # Safety
/// As [`Kernel`].
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn integer_kernel<const INT4: bool>(tiles: Tiles<'_>, x: &Acts, y: Output) {
    // SAFETY: passed on.
    unsafe { integer::<Avx2<true>, INT4, 5>(tiles, x, y) }
}

impl Dot for Avx2<true> {
    #[inline(always)]
    unsafe fn start_int8(start: *const i32) -> __m256i {
        // SAFETY: the trait's.
        unsafe { _mm256_slli_epi32::<4>(_mm256_set1_epi32(*start)) }
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
            let nibble = _mm256_set1_epi8(15);
            // A single column takes two accumulators, since each waits for itself.
            let mut odd = [[_mm256_setzero_si256(); R]; C];
            for j in 0..4 {
                let mut w = [[nibble; R]; 2];
                for r in 0..R {
                    (w[0][r], w[1][r]) = if INT4 {
                        let v = Self::load(codes.add(64 * j + 32 * r));
                        (
                            _mm256_and_si256(v, nibble),
                            _mm256_and_si256(_mm256_srli_epi16::<4>(v), nibble),
                        )
                    } else {
                        let codes = codes.add(128 * j + 32 * r);
                        (Self::load(codes), Self::load(codes.add(64)))
                    };
                }
                // All columns with the one, then all with the other: a product waits as long for
                // the sum before it.
                for (i, w) in w.iter().enumerate() {
                    let sums = if C == 1 && i == 1 { &mut odd } else { &mut *sums };
                    for (sums, x) in sums.iter_mut().zip(&x) {
                        let x = quad(*x, 2 * j + i);
                        for (sum, w) in sums.iter_mut().zip(w) {
                            *sum = _mm256_dpbusd_avx_epi32(*sum, *w, x);
                        }
                    }
                }
            }
            if C == 1 {
                for (sum, odd) in sums.as_flattened_mut().iter_mut().zip(odd.as_flattened()) {
                    *sum = _mm256_add_epi32(*sum, *odd);
                }
            }
        }
    }
}
