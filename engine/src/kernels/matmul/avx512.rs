//! Products with AVX-512: one register holds the same few columns of all 16 rows of a tile.
//!
//! Integer formats: `vpdpbusd` multiplies unsigned operands by signed activation quads broadcast
//! from memory; the sums start at −bias · Σx, so that no sign is ever fixed up.
//!
//! Instructions per 16 rows × 32 columns of weights, counted in the inner loops:
//!
//! | format | one column of activations | each of twelve; of eight (floats) |
//! |---|---|---|
//! | `int4-v1` | 30 (8 `vpdpbusd`) and 4 for the scales | 13.5 (8 `vpdpbusd`) |
//! | `int8` | 23 (8) and 4 | 13 (8) |
//! | `bf16` | 40 (16 `vdpbf16ps`) | 19 (16) |
//! | `f32` | 128 (32 `vfmadd`) | 58 (32) |
//!
//! `vpdpbusd` waits six cycles for its own sum where two can start in each (Intel): that takes
//! twelve columns. There all vector instructions share two ports, and 192 of 266 for 64 columns of
//! int4 weights are products: 72 % of the peak is the most there is; 54 to 67 % are measured, as
//! the other threads of the core allow. On a Zen 4 only products and multiplications by scales
//! share ports: 89 %. `int4` takes 201 for 32 columns, scales and all: `vpermb` looks values up by
//! the lower bits of a byte, whatever stands above them (without it, 8 more to cut these off), and
//! its scales come twice as often; the sums of twelve columns stay in their order by
//! [`Vnni::in_order`], without which they wait for themselves two by two, at half the speed.

use std::arch::asm;
use std::arch::x86_64::{__m512, __m512i, _mm512_dpbusd_epi32};

use super::Kernels;
use super::codes::Codes;
use super::columns::{ColumnProduct, InColumns};
use super::float::{Float, float};
use super::integer::{Dot, integer};
use super::live::few;
use super::product::Product;
use super::put::{Fetch, Put};
use super::vnni::{self, Vnni};
use super::walk::Rows;
use crate::kernels::simd::avx512::Avx512;
use crate::kernels::simd::{Simd, simd};
use crate::kernels::units::Int8Group;

impl Kernels for Avx512<false> {
    fn integer_product<K: Codes>(self, product: &Product<'_, Int8Group>) {
        if K::HAS_TABLE
            && let Some(with) = self.with_vbmi()
        {
            simd!(with, integer::<_, K, 12>(with, product));
        } else {
            simd!(self, integer::<_, K, 12>(self, product));
        }
    }

    fn float_product<E: Float<N>, const N: usize>(self, product: &Product<'_, E::X>) {
        if E::PAIRS
            && let Some(with) = self.with_bf16()
        {
            simd!(with, float::<_, E, N, 8>(with, product));
        } else {
            simd!(self, float::<_, E, N, 8>(self, product));
        }
    }

    fn few_columns<K: InColumns>(self, product: &ColumnProduct<'_>) {
        if K::HAS_TABLE
            && let Some(with) = self.with_vbmi()
        {
            simd!(with, few::<_, K>(with, product));
        } else {
            simd!(self, few::<_, K>(self, product));
        }
    }

    fn put_together<K: InColumns>(self, put: Put<'_>) {
        simd!(self, put.run::<_, K>(self));
    }

    fn fetch(self, next: &Fetch<'_>, i: usize, n: usize) {
        next.run(self, i, n);
    }
}

impl<const BF16: bool, const VBMI: bool> Rows for Avx512<BF16, VBMI> {
    const AT_ONCE: [usize; 2] = [1, 1];
}

impl<const VBMI: bool> Dot for Avx512<false, VBMI> {
    const WIDE: bool = true;

    #[inline(always)]
    fn spread(self, number: &i32) -> __m512i {
        // SAFETY: the processor has AVX-512 (`self`).
        unsafe { spread(number) }
    }

    #[inline(always)]
    fn spread_float(self, number: &f32) -> __m512 {
        // SAFETY: the processor has AVX-512 (`self`).
        unsafe { spread_float(number) }
    }

    #[inline(always)]
    unsafe fn dot<K: Codes, const R: usize, const C: usize>(
        self,
        table: __m512i,
        codes: *const u8,
        x: *const i8,
        sums: &mut [[__m512i; R]; C],
    ) {
        // SAFETY: a step of codes and of activations can be read: promised (`Dot::dot`).
        unsafe { vnni::dot::<_, K, R, C>(self, table, codes, x, sums) }
    }

    #[inline(always)]
    fn quad<K: Codes>(self, sum: __m512i, operands: __m512i, x: __m512i) -> __m512i {
        self.vpdpbusd(sum, operands, x)
    }
}

impl<const VBMI: bool> Vnni for Avx512<false, VBMI> {
    #[inline(always)]
    fn vpdpbusd(self, sum: __m512i, operands: __m512i, x: __m512i) -> __m512i {
        // SAFETY: the processor has AVX-512 VNNI (`self`).
        unsafe { _mm512_dpbusd_epi32(sum, operands, x) }
    }

    #[inline(always)]
    fn in_order(self, sum: __m512i) -> __m512i {
        // SAFETY: the processor has AVX-512 (`self`).
        unsafe { in_order(sum) }
    }
}

/// The number in all lanes. By `asm!`, since the compiler would shift the starts of all columns in
/// one register and spread them from there through memory, at half the speed of the whole product.
#[target_feature(enable = "avx512f")]
#[inline]
fn spread(number: &i32) -> __m512i {
    let all;
    // SAFETY: the instruction reads the four bytes of a live reference, and nothing else.
    // The processor has AVX-512 (the function's target feature).
    unsafe {
        asm!("vpbroadcastd {0}, dword ptr [{1}]", out(zmm_reg) all, in(reg) number,
            options(pure, readonly, nostack, preserves_flags));
    }
    all
}

/// As [`spread`]: the compiler would keep the numbers of all columns in memory, spread.
#[target_feature(enable = "avx512f")]
#[inline]
fn spread_float(number: &f32) -> __m512 {
    let all;
    // SAFETY: the instruction reads the four bytes of a live reference, and nothing else.
    // The processor has AVX-512 (the function's target feature).
    unsafe {
        asm!("vbroadcastss {0}, dword ptr [{1}]", out(zmm_reg) all, in(reg) number,
            options(pure, readonly, nostack, preserves_flags));
    }
    all
}

/// See [`Vnni::in_order`]: the compiler keeps such texts in their order.
#[target_feature(enable = "avx512f")]
#[inline]
fn in_order(mut sum: __m512i) -> __m512i {
    // SAFETY: the text is a comment: no instruction, which leaves the sum as it was.
    unsafe {
        asm!("/* {0} */", inout(zmm_reg) sum, options(nomem, nostack, preserves_flags));
    }
    sum
}
