//! The values of `int4`'s table, found by shuffles of bytes: three times as fast as comparing with
//! all of its borders, to the same bits.
//!
//! Borders between values are multiples of ½. With `t = 4v + ½`, rounded to the nearest integer,
//! ties to even, `v > b` if and only if `t > 4b`: `4b` is even, so that a tie at the border falls
//! back to it; near a border the sum is exact. Integers that saturate to bytes stay on their side
//! of all borders, −114..=96. The upper four bits of a byte tell how many borders lie below its
//! sixteenth of the range, and which one or two lie in it:
//!
//! ```text
//! 16 floats × 4 columns ─ 4v + ½, round, pack ─▶ 64 bytes ─ upper bits ─ shuffle ─▶ code of the first
//!       + 1 if it is above the first border there, + 1 if above the second ─▶ 64 codes
//!       ─ two shuffles ─▶ bytes of the values as bf16, which are exact ─ interleave ─▶ 16 floats × 4
//! ```
//!
//! Intrinsics come from `pulp`, whose tokens (`V3`, `V4`) prove that the processor has them: no
//! unsafe code, and the choice is made at run time. Not here: processors without AVX2, for which
//! `search` has the definition. Test: `tests`.

use std::arch::x86_64::{__m256, __m256i, __m512, __m512i};

use bytemuck::{Pod, cast};
use pulp::Simd;
use pulp::x86::{V3, V4};

use super::search::{Table, Values, Weights};
use super::{Lanes, TABLE};
use crate::quant::TILE_ROWS;

/// Columns whose bytes share a vector.
const COLUMNS: usize = 4;

/// A sixteenth of the bytes, by their upper four bits: the number of borders below it, and the
/// borders in it, 127 for none.
struct Sixteenths {
    below: [u8; 16],
    borders: [[i8; 16]; 2],
}

const SIXTEENTHS: Sixteenths = {
    let mut all = Sixteenths { below: [0; 16], borders: [[127; 16]; 2] };
    let mut at = 0;
    while at < 16 {
        let first = ((16 * at) as u8).cast_signed() as i32;
        let (mut code, mut inside) = (0, 0);
        while code < TABLE.len() - 1 {
            // Four times the border.
            let border = 2 * (TABLE[code] as i32 + TABLE[code + 1] as i32);
            assert!(border % 2 == 0 && -128 < border && border < 127);
            if border < first {
                all.below[at] += 1;
            } else if border < first + 16 {
                all.borders[inside][at] = border as i8;
                inside += 1;
            }
            code += 1;
        }
        at += 1;
    }
    all
};

/// The lower and the upper bytes of the values as bf16.
const VALUES: [[u8; 16]; 2] = {
    let mut bytes = [[0; 16]; 2];
    let mut code = 0;
    while code < TABLE.len() {
        let bits = (TABLE[code] as f32).to_bits();
        assert!(bits & 0xffff == 0);
        bytes[0][code] = (bits >> 16) as u8;
        bytes[1][code] = (bits >> 24) as u8;
        code += 1;
    }
    bytes
};

/// A processor whose vectors shuffle bytes, within each 128 bits of them.
pub(super) trait Bytes: Simd {
    /// A vector of bytes.
    type Bytes: Pod;
    /// The nearest integers, ties to even, of 32 bits; NaN is the least, and what is above `limit`
    /// is taken for it.
    fn round(self, limit: f32, v: Self::f32s) -> Self::Bytes;
    /// The integers of 32 bits in four vectors as bytes, those of each 128 bits side by side.
    fn pack(self, v: [Self::Bytes; COLUMNS]) -> Self::Bytes;
    /// The upper four bits of every byte.
    fn upper(self, bytes: Self::Bytes) -> Self::Bytes;
    /// `table[i]` for every byte i, below 16.
    fn lookup(self, table: [u8; 16], i: Self::Bytes) -> Self::Bytes;
    /// The bytes plus one where `a > b`.
    fn count(self, bytes: Self::Bytes, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Floats of 16 upper bits, in the order that [`Bytes::pack`] had.
    fn unpack(self, low: Self::Bytes, high: Self::Bytes) -> [Self::f32s; COLUMNS];
}

impl Bytes for V3 {
    type Bytes = __m256i;

    #[inline(always)]
    fn round(self, limit: f32, v: Self::f32s) -> __m256i {
        // Of NaN and a number, the second.
        let v = self.avx._mm256_min_ps(self.avx._mm256_set1_ps(limit), cast::<_, __m256>(v));
        self.avx._mm256_cvtps_epi32(v)
    }

    #[inline(always)]
    fn pack(self, [a, b, c, d]: [__m256i; COLUMNS]) -> __m256i {
        let (ab, cd) = (self.avx2._mm256_packs_epi32(a, b), self.avx2._mm256_packs_epi32(c, d));
        self.avx2._mm256_packs_epi16(ab, cd)
    }

    #[inline(always)]
    fn upper(self, bytes: __m256i) -> __m256i {
        let words = self.avx2._mm256_srli_epi16::<4>(bytes);
        self.avx2._mm256_and_si256(words, self.avx._mm256_set1_epi8(15))
    }

    #[inline(always)]
    fn lookup(self, table: [u8; 16], i: __m256i) -> __m256i {
        self.avx2._mm256_shuffle_epi8(cast([table; 2]), i)
    }

    #[inline(always)]
    fn count(self, bytes: __m256i, a: __m256i, b: __m256i) -> __m256i {
        self.avx2._mm256_sub_epi8(bytes, self.avx2._mm256_cmpgt_epi8(a, b))
    }

    #[inline(always)]
    fn unpack(self, low: __m256i, high: __m256i) -> [Self::f32s; COLUMNS] {
        let zero = self.avx._mm256_setzero_si256();
        let ab = self.avx2._mm256_unpacklo_epi8(low, high);
        let cd = self.avx2._mm256_unpackhi_epi8(low, high);
        [
            self.avx2._mm256_unpacklo_epi16(zero, ab),
            self.avx2._mm256_unpackhi_epi16(zero, ab),
            self.avx2._mm256_unpacklo_epi16(zero, cd),
            self.avx2._mm256_unpackhi_epi16(zero, cd),
        ]
        .map(cast)
    }
}

impl Bytes for V4 {
    type Bytes = __m512i;

    #[inline(always)]
    fn round(self, limit: f32, v: Self::f32s) -> __m512i {
        let f = self.avx512f;
        f._mm512_cvtps_epi32(f._mm512_min_ps(f._mm512_set1_ps(limit), cast::<_, __m512>(v)))
    }

    #[inline(always)]
    fn pack(self, [a, b, c, d]: [__m512i; COLUMNS]) -> __m512i {
        let bw = self.avx512bw;
        bw._mm512_packs_epi16(bw._mm512_packs_epi32(a, b), bw._mm512_packs_epi32(c, d))
    }

    #[inline(always)]
    fn upper(self, bytes: __m512i) -> __m512i {
        let words = self.avx512bw._mm512_srli_epi16::<4>(bytes);
        self.avx512f._mm512_and_si512(words, self.avx512f._mm512_set1_epi8(15))
    }

    #[inline(always)]
    fn lookup(self, table: [u8; 16], i: __m512i) -> __m512i {
        self.avx512bw._mm512_shuffle_epi8(cast([table; 4]), i)
    }

    #[inline(always)]
    fn count(self, bytes: __m512i, a: __m512i, b: __m512i) -> __m512i {
        let is_above = self.avx512bw._mm512_cmpgt_epi8_mask(a, b);
        let one = self.avx512f._mm512_set1_epi8(1);
        self.avx512bw._mm512_mask_add_epi8(bytes, is_above, bytes, one)
    }

    #[inline(always)]
    fn unpack(self, low: __m512i, high: __m512i) -> [Self::f32s; COLUMNS] {
        let bw = self.avx512bw;
        let zero = self.avx512f._mm512_setzero_si512();
        let (ab, cd) = (bw._mm512_unpacklo_epi8(low, high), bw._mm512_unpackhi_epi8(low, high));
        [
            bw._mm512_unpacklo_epi16(zero, ab),
            bw._mm512_unpackhi_epi16(zero, ab),
            bw._mm512_unpacklo_epi16(zero, cd),
            bw._mm512_unpackhi_epi16(zero, cd),
        ]
        .map(cast)
    }
}

/// [`Table`] by shuffles.
#[derive(Clone, Copy)]
pub(super) struct Shuffled<S>(pub(super) S);

impl<S: Bytes> Shuffled<S> {
    /// Vectors in the lanes of a tile.
    const PARTS: usize = TILE_ROWS * size_of::<f32>() / size_of::<S::Bytes>();

    /// One part of a column.
    #[inline(always)]
    fn part(x: &Lanes, part: usize) -> S::f32s {
        S::as_simd_f32s(x).0[part]
    }

    /// The codes of `x · inverse`, for four columns.
    #[inline(always)]
    fn find(self, x: [S::f32s; COLUMNS], inverse: S::f32s) -> S::Bytes {
        let Self(simd) = self;
        let (four, half) = (simd.splat_f32s(4.0), simd.splat_f32s(0.5));
        let bytes = simd.pack(x.map(|x| {
            let v = simd.mul_f32s(x, inverse);
            simd.round(127.0, simd.mul_add_f32s(v, four, half))
        }));
        let upper = simd.upper(bytes);
        let below = simd.lookup(SIXTEENTHS.below, upper);
        SIXTEENTHS.borders.iter().fold(below, |codes, borders| {
            let borders = simd.lookup(borders.map(i8::cast_unsigned), upper);
            simd.count(codes, bytes, borders)
        })
    }

    /// The four columns from `c` on of one part.
    #[inline(always)]
    fn columns(block: &[Lanes], c: usize, part: usize) -> [S::f32s; COLUMNS] {
        std::array::from_fn(|i| Self::part(&block[c + i], part))
    }
}

impl<S: Bytes> Values for Shuffled<S> {
    const LARGEST: f32 = Table::LARGEST;
    const TRIED: (f32, f32, usize) = Table::TRIED;

    #[inline(always)]
    fn nearest(v: f32) -> f32 {
        Table::nearest(v)
    }

    #[inline(always)]
    fn code(value: f32) -> u8 {
        Table::code(value)
    }

    #[inline(always)]
    fn moments<W: Weights>(self, block: &[Lanes], w: W, inverse: &Lanes) -> (Lanes, Lanes) {
        assert!(block.len().is_multiple_of(COLUMNS));
        let Self(simd) = self;
        let (mut all_xq, mut all_qq) = ([0.0; TILE_ROWS], [0.0; TILE_ROWS]);
        for part in 0..Self::PARTS {
            let inverse = Self::part(inverse, part);
            let (mut xq, mut qq) = (simd.splat_f32s(0.0), simd.splat_f32s(0.0));
            for c in (0..block.len()).step_by(COLUMNS) {
                let x = Self::columns(block, c, part);
                let codes = self.find(x, inverse);
                let [low, high] = VALUES.map(|table| simd.lookup(table, codes));
                for (i, (x, q)) in x.into_iter().zip(simd.unpack(low, high)).enumerate() {
                    let w = simd.splat_f32s(w.of(c + i));
                    let (wx, wq) = (simd.mul_f32s(w, x), simd.mul_f32s(w, q));
                    xq = simd.add_f32s(xq, simd.mul_f32s(wx, q));
                    // Whole numbers: one rounding or two, they are exact.
                    qq = match W::ALIKE {
                        true => simd.mul_add_f32s(q, q, qq),
                        false => simd.add_f32s(qq, simd.mul_f32s(wq, q)),
                    };
                }
            }
            S::as_mut_simd_f32s(&mut all_xq).0[part] = xq;
            S::as_mut_simd_f32s(&mut all_qq).0[part] = qq;
        }
        (all_xq, all_qq)
    }

    #[inline(always)]
    fn codes(self, block: &[Lanes], inverse: &Lanes, codes: &mut [[u8; TILE_ROWS]]) {
        let (block, codes) = (block.as_chunks::<COLUMNS>().0, codes.as_chunks_mut::<COLUMNS>().0);
        for (x, codes) in block.iter().zip(codes) {
            for part in 0..Self::PARTS {
                let own = self.find(Self::columns(x, 0, part), Self::part(inverse, part));
                let quads = bytemuck::bytes_of(&own).as_chunks::<4>().0;
                for (q, quad) in quads.iter().enumerate() {
                    let lane = (part * quads.len() + q) / COLUMNS * 4;
                    codes[q % COLUMNS][lane..lane + 4].copy_from_slice(quad);
                }
            }
        }
    }
}
