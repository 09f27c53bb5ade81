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
//! `search` has the definition. No closure gets a vector: what is not inlined would be compiled
//! without the instructions. Test: `tests`.

use std::arch::x86_64::{__m256, __m256i, __m512, __m512i};

use bytemuck::{Pod, cast};
use pulp::Simd;
use pulp::x86::{V3, V4};

use super::search::{TABLE, Table, Values, Weights};
use crate::quant::TILE_ROWS;
use crate::quant::tile::Lanes;

/// Columns whose bytes share a vector.
const COLUMNS: usize = 4;

/// A sixteenth of the bytes, by their upper four bits: the number of borders below it, and the
/// borders in it, 127 for none.
struct Sixteenths {
    below: [u8; 16],
    borders: [[u8; 16]; 2],
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
                all.borders[inside][at] = border as i8 as u8;
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
    /// `v`, but `limit` at the most; NaN stays.
    fn at_most(self, limit: f32, v: Self::f32s) -> Self::f32s;
    /// The nearest integers, ties to even, of 32 bits; of NaN, and of what they do not reach, the
    /// least.
    fn round(self, v: Self::f32s) -> Self::Bytes;
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
    fn at_most(self, limit: f32, v: Self::f32s) -> Self::f32s {
        // Of NaN and a number, the second.
        cast(self.avx._mm256_min_ps(self.avx._mm256_set1_ps(limit), cast::<_, __m256>(v)))
    }

    #[inline(always)]
    fn round(self, v: Self::f32s) -> __m256i {
        self.avx._mm256_cvtps_epi32(cast(v))
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
            cast(self.avx2._mm256_unpacklo_epi16(zero, ab)),
            cast(self.avx2._mm256_unpackhi_epi16(zero, ab)),
            cast(self.avx2._mm256_unpacklo_epi16(zero, cd)),
            cast(self.avx2._mm256_unpackhi_epi16(zero, cd)),
        ]
    }
}

impl Bytes for V4 {
    type Bytes = __m512i;

    #[inline(always)]
    fn at_most(self, limit: f32, v: Self::f32s) -> Self::f32s {
        let f = self.avx512f;
        cast(f._mm512_min_ps(f._mm512_set1_ps(limit), cast::<_, __m512>(v)))
    }

    #[inline(always)]
    fn round(self, v: Self::f32s) -> __m512i {
        self.avx512f._mm512_cvtps_epi32(cast(v))
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
            cast(bw._mm512_unpacklo_epi16(zero, ab)),
            cast(bw._mm512_unpackhi_epi16(zero, ab)),
            cast(bw._mm512_unpacklo_epi16(zero, cd)),
            cast(bw._mm512_unpackhi_epi16(zero, cd)),
        ]
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

    /// One part of four columns.
    #[inline(always)]
    fn quad(x: &[Lanes; COLUMNS], part: usize) -> [S::f32s; COLUMNS] {
        let [a, b, c, d] = x;
        [Self::part(a, part), Self::part(b, part), Self::part(c, part), Self::part(d, part)]
    }

    /// `x · inverse`.
    #[inline(always)]
    fn scaled(self, x: [S::f32s; COLUMNS], inverse: S::f32s) -> [S::f32s; COLUMNS] {
        let mut v = x;
        for i in 0..COLUMNS {
            v[i] = self.0.mul_f32s(x[i], inverse);
        }
        v
    }

    /// The codes of `v`, as far as integers reach: for NaN, infinities and large numbers too.
    #[inline(always)]
    fn find_any(self, mut v: [S::f32s; COLUMNS]) -> S::Bytes {
        for i in 0..COLUMNS {
            v[i] = self.0.at_most(32.0, v[i]);
        }
        self.find(v, 1.0)
    }

    /// The codes of `sign · v`, for four columns; of numbers up to 2^28.
    #[inline(always)]
    fn find(self, v: [S::f32s; COLUMNS], sign: f32) -> S::Bytes {
        let Self(simd) = self;
        let (four, half) = (simd.splat_f32s(4.0 * sign), simd.splat_f32s(0.5));
        let bytes = simd.pack([
            simd.round(simd.mul_add_f32s(v[0], four, half)),
            simd.round(simd.mul_add_f32s(v[1], four, half)),
            simd.round(simd.mul_add_f32s(v[2], four, half)),
            simd.round(simd.mul_add_f32s(v[3], four, half)),
        ]);
        let upper = simd.upper(bytes);
        let mut codes = simd.lookup(SIXTEENTHS.below, upper);
        for borders in SIXTEENTHS.borders {
            codes = simd.count(codes, bytes, simd.lookup(borders, upper));
        }
        codes
    }
}

/// All columns, four at a time.
fn whole(block: &[Lanes]) -> &[[Lanes; COLUMNS]] {
    let (quads, rest) = block.as_chunks::<COLUMNS>();
    assert!(rest.is_empty(), "whole groups");
    quads
}

/// The moments of one part, as they grow.
#[derive(Clone, Copy)]
struct Sums<S: Bytes> {
    simd: S,
    xq: S::f32s,
    qq: S::f32s,
}

impl<S: Bytes> Sums<S> {
    #[inline(always)]
    fn new(simd: S) -> Self {
        Self { simd, xq: simd.splat_f32s(0.0), qq: simd.splat_f32s(0.0) }
    }

    /// Adds four columns, of which `c` is the first, in their order.
    #[inline(always)]
    fn add<W: Weights>(&mut self, c: usize, x: [S::f32s; COLUMNS], w: W, codes: S::Bytes) {
        let simd = self.simd;
        let (low, high) = (simd.lookup(VALUES[0], codes), simd.lookup(VALUES[1], codes));
        let q = simd.unpack(low, high);
        for i in 0..COLUMNS {
            let (w, q) = (simd.splat_f32s(w.of(c + i)), q[i]);
            let (wx, wq) = (simd.mul_f32s(w, x[i]), simd.mul_f32s(w, q));
            self.xq = simd.add_f32s(self.xq, simd.mul_f32s(wx, q));
            // Whole numbers: one rounding or two, they are exact.
            self.qq = match W::ALIKE {
                true => simd.mul_add_f32s(q, q, self.qq),
                false => simd.add_f32s(self.qq, simd.mul_f32s(wq, q)),
            };
        }
    }

    #[inline(always)]
    fn put(self, [xq, qq]: &mut [Lanes; 2], part: usize) {
        S::as_mut_simd_f32s(xq).0[part] = self.xq;
        S::as_mut_simd_f32s(qq).0[part] = self.qq;
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
        let mut all = [[0.0; TILE_ROWS]; 2];
        for part in 0..Self::PARTS {
            let (mut sums, inverse) = (Sums::new(self.0), Self::part(inverse, part));
            for (i, quad) in whole(block).iter().enumerate() {
                let x = Self::quad(quad, part);
                sums.add(COLUMNS * i, x, w, self.find_any(self.scaled(x, inverse)));
            }
            sums.put(&mut all, part);
        }
        all.into()
    }

    #[inline(always)]
    fn both_moments<W: Weights>(
        self,
        block: &[Lanes],
        w: W,
        inverse: &Lanes,
    ) -> [(Lanes, Lanes); 2] {
        let mut all = [[[0.0; TILE_ROWS]; 2]; 2];
        for part in 0..Self::PARTS {
            let (mut plus, mut minus) = (Sums::new(self.0), Sums::new(self.0));
            let inverse = Self::part(inverse, part);
            for (i, quad) in whole(block).iter().enumerate() {
                let x = Self::quad(quad, part);
                let v = self.scaled(x, inverse);
                plus.add(COLUMNS * i, x, w, self.find(v, 1.0));
                minus.add(COLUMNS * i, x, w, self.find(v, -1.0));
            }
            plus.put(&mut all[0], part);
            minus.put(&mut all[1], part);
        }
        let [plus, minus] = all;
        [plus.into(), minus.into()]
    }

    #[inline(always)]
    fn codes(self, block: &[Lanes], inverse: &Lanes, codes: &mut [[u8; TILE_ROWS]]) {
        for (x, codes) in whole(block).iter().zip(codes.as_chunks_mut::<COLUMNS>().0) {
            for part in 0..Self::PARTS {
                let v = self.scaled(Self::quad(x, part), Self::part(inverse, part));
                let own = self.find_any(v);
                let quads = bytemuck::bytes_of(&own).as_chunks::<4>().0;
                for (q, quad) in quads.iter().enumerate() {
                    let lane = (part * quads.len() + q) / COLUMNS * 4;
                    codes[q % COLUMNS][lane..lane + 4].copy_from_slice(quad);
                }
            }
        }
    }
}
