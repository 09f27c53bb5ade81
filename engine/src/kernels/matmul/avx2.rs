//! Products with AVX2: two registers hold the same few columns of the 16 rows of a tile.
//!
//! Integer formats: `vpmaddubsw` multiplies unsigned bytes by signed ones and adds neighbours in 16
//! bits. Operands below 128 stay unsigned, and as many products are added up in 16 bits as fit: of
//! int4-v1 32 columns' (16 · 15 · 127), of int4 and int6 four, of int5 eight. Those of int8 lose
//! their bias, and their signs move to the activations, so that two products fit.
//!
//! Instructions per 16 rows × 32 columns of weights, counted in the inner loops: one column of
//! activations 78 (int4-v1, 16 of them `vpmaddubsw`) and 106 (int8), and 5 for the scales; each of
//! four columns 68 and 97, all in all.

use std::arch::x86_64::*;

use super::Kernels;
use super::codes::Codes;
use super::columns::{ColumnProduct, InColumns};
use super::float::{Float, float};
use super::integer::{Dot, columns, in_one_register, integer, quad};
use super::live::few;
use super::product::Product;
use super::put::{Fetch, Put};
use super::walk::Rows;
use crate::kernels::simd::avx2::Avx2;
use crate::kernels::simd::{Simd, simd};
use crate::kernels::units::Int8Group;

impl Kernels for Avx2<false> {
    fn integer_product<K: Codes>(self, product: &Product<'_, Int8Group>) {
        simd!(self, integer::<_, K, 4>(self, product));
    }

    fn float_product<E: Float<N>, const N: usize>(self, product: &Product<'_, E::X>) {
        // One chain leaves registers for twice as many columns.
        if N == 1 {
            simd!(self, float::<_, E, N, 8>(self, product));
        } else {
            simd!(self, float::<_, E, N, 4>(self, product));
        }
    }

    fn few_columns<K: InColumns>(self, product: &ColumnProduct<'_>) {
        simd!(self, few::<_, K>(self, product));
    }

    fn put_together<K: InColumns>(self, put: Put<'_>) {
        simd!(self, put.run::<_, K>(self));
    }

    fn fetch(self, next: &Fetch<'_>, i: usize, n: usize) {
        next.run(self, i, n);
    }
}

impl Rows for Avx2<false> {
    const AT_ONCE: [usize; 2] = [2, 1];
}

impl Dot for Avx2<false> {
    const WIDE: bool = false;

    #[inline(always)]
    unsafe fn dot<K: Codes, const R: usize, const C: usize>(
        self,
        table: __m256i,
        codes: *const u8,
        x: *const i8,
        sums: &mut [[__m256i; R]; C],
    ) {
        let x = columns::<_, C>(in_one_register(x));
        // SAFETY: a step of codes and of activations can be read: promised (`Dot::dot`).
        unsafe {
            if K::SIGNED {
                dot_small::<K, R, C>(self, table, codes, &x, sums);
            } else {
                dot_wide::<K, R, C>(self, table, codes, &x, sums);
            }
        }
    }

    #[inline(always)]
    fn quad<K: Codes>(self, sum: __m256i, operands: __m256i, x: __m256i) -> __m256i {
        let pairs = if K::SIGNED { small(self, operands, x) } else { wide(self, operands, x) };
        self.add_bits(sum, add_neighbours(self, pairs))
    }
}

/// Products of operands below 128, two by two.
#[inline(always)]
fn small(_s: Avx2<false>, operands: __m256i, x: __m256i) -> __m256i {
    // SAFETY: the processor has AVX2 (`_s`).
    unsafe { _mm256_maddubs_epi16(operands, x) }
}

/// Products of operands that are 128 too large, two by two.
#[inline(always)]
fn wide(s: Avx2<false>, operands: __m256i, x: __m256i) -> __m256i {
    let value = s.xor(operands, s.splat_bits(0x8080_8080));
    // SAFETY: the processor has AVX2 (`s`).
    unsafe { _mm256_maddubs_epi16(_mm256_abs_epi8(value), _mm256_sign_epi8(x, value)) }
}

/// [`Dot::dot`] of operands below 128, from 16-bit sums of as many products as fit: two of each
/// quad, four of eight columns.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn dot_small<K: Codes, const R: usize, const C: usize>(
    s: Avx2<false>,
    table: __m256i,
    codes: *const u8,
    x: &[*const i8; C],
    sums: &mut [[__m256i; R]; C],
) {
    let mut halves = [[s.splat_bits(0); R]; C];
    for j in 0..4 {
        for r in 0..R {
            // SAFETY: a step of codes can be read: promised (Safety).
            // It is four times eight columns, of `R` registers of rows.
            let w = unsafe { K::operands(s, table, codes.add(32 * r), j) };
            for ((sums, halves), x) in sums.iter_mut().zip(&mut halves).zip(x) {
                // SAFETY: quads 2j and 2j + 1 of a step's eight can be read: promised (Safety).
                // The processor has AVX2 (`s`).
                let [low, high] = unsafe {
                    [
                        _mm256_maddubs_epi16(w[0], quad(s, *x, 2 * j)),
                        _mm256_maddubs_epi16(w[1], quad(s, *x, 2 * j + 1)),
                    ]
                };
                if K::PRODUCTS_IN_16_BITS < 4 {
                    let both = s.add_bits(add_neighbours(s, low), add_neighbours(s, high));
                    sums[r] = s.add_bits(sums[r], both);
                } else {
                    halves[r] = s.add_halves(halves[r], s.add_halves(low, high));
                }
            }
        }
        let octets = K::PRODUCTS_IN_16_BITS / 4;
        if octets > 0 && (j + 1) % octets == 0 {
            for (sum, halves) in sums.as_flattened_mut().iter_mut().zip(halves.as_flattened_mut()) {
                *sum = s.add_bits(*sum, add_neighbours(s, *halves));
                *halves = s.splat_bits(0);
            }
        }
    }
}

/// [`Dot::dot`] of operands that are 128 too large.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn dot_wide<K: Codes, const R: usize, const C: usize>(
    s: Avx2<false>,
    table: __m256i,
    codes: *const u8,
    x: &[*const i8; C],
    sums: &mut [[__m256i; R]; C],
) {
    for j in 0..4 {
        for r in 0..R {
            // SAFETY: a step of codes can be read: promised (Safety).
            // It is four times eight columns, of `R` registers of rows.
            let w = unsafe { K::operands(s, table, codes.add(32 * r), j) };
            for (i, w) in w.into_iter().enumerate() {
                let value = s.xor(w, s.splat_bits(0x8080_8080));
                // SAFETY: the processor has AVX2 (`s`).
                let size = unsafe { _mm256_abs_epi8(value) };
                for (sums, x) in sums.iter_mut().zip(x) {
                    // SAFETY: quad 2j + i of a step's eight can be read: promised (Safety).
                    // The processor has AVX2 (`s`).
                    let pairs = unsafe {
                        let signed = _mm256_sign_epi8(quad(s, *x, 2 * j + i), value);
                        _mm256_maddubs_epi16(size, signed)
                    };
                    sums[r] = s.add_bits(sums[r], add_neighbours(s, pairs));
                }
            }
        }
    }
}

/// The halves of each lane, added.
#[inline(always)]
fn add_neighbours(_s: Avx2<false>, v: __m256i) -> __m256i {
    // SAFETY: the processor has AVX2 (`_s`).
    unsafe { _mm256_madd_epi16(v, _mm256_set1_epi16(1)) }
}
