//! Units of activations: the elements of the forms ([`Form`](super::forms::Form)), and how they are
//! made from f32.
//!
//! int8 is symmetric absmax quantization per group of 64: `scale = max|x| / 127`,
//! `code = round(x · 127 / max|x|)`. The 8- and 16-bit float formats multiply with activations
//! rounded to bf16 (8 significant bits): a product of two numbers of at most 8 bits is exact in
//! f32, whatever instruction computes it. All rounding is to nearest even. Not here: where they are
//! stored (`buffers/activations.rs`), and how kernels find them (`forms.rs`). Tests: below.

use bytemuck::{Pod, Zeroable};
use half::bf16;

use super::forms::{Activations, GROUP, Packed};
use super::lanes::WIDTH;
use super::vector::Vector;

/// A few consecutive activations of one column, in the form that some kernels read.
pub(crate) trait Unit: Pod {
    /// Activations of a unit.
    const VALUES: usize;
    /// The unit of activations of 0.
    const ZERO: Self;
    /// Whether a unit's neighbour in memory is the same unit of the next column, so that a kernel
    /// finds several columns at fixed distances; else it is the column's next unit.
    const ADJACENT: bool = false;

    /// Overwrites `out` with the units that begin `values`.
    fn pack<V: Vector>(values: &[f32], out: &mut [Self]);

    /// Packed of these units, for any kernel.
    fn activations(columns: Packed<'_, Self>) -> Activations<'_>;
}

impl Unit for f32 {
    const VALUES: usize = 1;
    const ZERO: f32 = 0.0;

    #[inline(always)]
    fn pack<V: Vector>(values: &[f32], out: &mut [f32]) {
        out.copy_from_slice(&values[..out.len()]);
    }
    fn activations(columns: Packed<'_, f32>) -> Activations<'_> {
        Activations::F32(columns)
    }
}

impl Unit for bf16 {
    const VALUES: usize = 1;
    const ZERO: bf16 = bf16::ZERO;

    #[inline(always)]
    fn pack<V: Vector>(values: &[f32], out: &mut [bf16]) {
        for (y, x) in out.iter_mut().zip(values) {
            *y = bf16::from_bits(to_bf16(*x));
        }
    }
    fn activations(columns: Packed<'_, bf16>) -> Activations<'_> {
        Activations::Bf16(columns)
    }
}

/// A group of activations as int8.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(16))]
pub(crate) struct Int8Group {
    pub(crate) codes: [i8; GROUP],
    /// −32 · Σ codes of the first half, the second, and both: weight codes that are stored 32 too
    /// large start their sum of products there, others at a power of two times that.
    pub(crate) starts: [i32; 3],
    /// value = code · scale
    pub(crate) scale: f32,
}

impl Int8Group {
    /// scale = max|x| / 127, codes = round(x · 127 / max|x|).
    #[inline(always)]
    pub(crate) fn new<V: Vector>(values: &[f32; GROUP]) -> Int8Group {
        let [a, b] = [V::load(values), V::load(&values[WIDTH..])];
        let [c, d] = [V::load(&values[2 * WIDTH..]), V::load(&values[3 * WIDTH..])];
        let largest = V::largest([a, b, c, d]);
        let inverse = V::splat(if largest > 0.0 { 127.0 / largest } else { 0.0 });
        let mut codes = [0; GROUP];
        let first = V::store_codes([a.mul(inverse), b.mul(inverse)], &mut codes);
        let second = V::store_codes([c.mul(inverse), d.mul(inverse)], &mut codes[GROUP / 2..]);
        let (first, second) = (first.wrapping_mul(-32), second.wrapping_mul(-32));
        Int8Group {
            codes,
            starts: [first, second, first.wrapping_add(second)],
            scale: largest / 127.0,
        }
    }
}

impl Unit for Int8Group {
    const VALUES: usize = GROUP;
    const ZERO: Int8Group = Int8Group { codes: [0; GROUP], starts: [0; 3], scale: 0.0 };
    const ADJACENT: bool = true;

    #[inline(always)]
    fn pack<V: Vector>(values: &[f32], out: &mut [Int8Group]) {
        for (group, values) in out.iter_mut().zip(values.as_chunks().0) {
            *group = Int8Group::new::<V>(values);
        }
    }
    fn activations(columns: Packed<'_, Int8Group>) -> Activations<'_> {
        Activations::Int8(columns)
    }
}

/// The bits of the nearest bf16.
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded }
}

/// The bf16 of those bits as f32.
#[inline(always)]
pub(crate) fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The order in which four activations stand in a quad: kernels take the FP8 codes 0 and 2, then 1
/// and 3 out of a lane.
const QUAD: [usize; 4] = [0, 2, 1, 3];

/// Four activations for FP8 weights: bf16 times [`Fp8Quad::FACTOR`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(8))]
pub(crate) struct Fp8Quad([u16; 4]);

impl Fp8Quad {
    /// 2⁸⁰: kernels take the bits of an FP8 code as a bf16 that is 2¹²⁰ (E4M3) or 2¹¹² (E5M2) too
    /// small; most of that comes back with the activations and the rest with the group's scale.
    /// Activations up to 10¹⁴ stay finite, and products down to 10⁻²⁶ normal.
    pub(crate) const FACTOR: f32 = (1u128 << 80) as f32;

    #[inline(always)]
    pub(crate) fn new(x: [f32; 4]) -> Fp8Quad {
        Fp8Quad(QUAD.map(|i| to_bf16(x[i] * Self::FACTOR)))
    }

    /// Activation i, times the factor.
    pub(crate) fn value(&self, i: usize) -> f32 {
        from_bf16(self.0[QUAD[i]])
    }
}

impl Unit for Fp8Quad {
    const VALUES: usize = 4;
    const ZERO: Fp8Quad = Fp8Quad([0; 4]);

    #[inline(always)]
    fn pack<V: Vector>(values: &[f32], out: &mut [Fp8Quad]) {
        for (y, x) in out.iter_mut().zip(values.as_chunks().0) {
            *y = Fp8Quad::new(*x);
        }
    }
    fn activations(columns: Packed<'_, Fp8Quad>) -> Activations<'_> {
        Activations::Fp8(columns)
    }
}

/// Four activations for L-Mul weights, as addends: a product is a sum of bit patterns.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(16))]
pub(crate) struct LmulQuad {
    /// Increase of the bits of an E4M3 code that stands in a bf16 with its exponent not yet
    /// rebased (2¹²⁰ too small): bits(x), plus rebasing (120 exponent steps), minus bias (127
    /// steps), plus 2⁻⁴, modulo 2¹⁶, so that the sign bits add to their XOR. For a zero, that of 1:
    /// any that gives a finite product.
    addends: [u16; 4],
    /// The factors of the products: bf16 1, or 0 if x is zero.
    keep: [u16; 4],
}

impl LmulQuad {
    const ONE: u16 = 0x3f80;
    const ADDEND_OF_ONE: u16 = Self::ONE.wrapping_add(Self::OFFSET);
    /// (120 − 127) exponent steps + 2⁻⁴, in units of a bf16's bits.
    const OFFSET: u16 = (((120 - 127) << 7) + (1 << 3)) as u16;
    /// 2⁻¹⁰⁰: smaller activations count as zero, larger than its inverse as that: no product with
    /// an FP8 weight comes near the borders where L-Mul flushes and saturates, so that the sum of
    /// the bits is all there is to do.
    const SMALLEST: u16 = (127 - 100) << 7;
    const LARGEST: u16 = (127 + 100) << 7;

    #[inline(always)]
    pub(crate) fn new(x: [f32; 4]) -> LmulQuad {
        let mut quad = LmulQuad::ZERO;
        for (i, at) in QUAD.into_iter().enumerate() {
            let (bits, nan) = (to_bf16(x[at]), x[at].is_nan());
            let magnitude = bits & 0x7fff;
            let zero = magnitude < Self::SMALLEST;
            let bounded =
                if magnitude > Self::LARGEST { Self::LARGEST } else { magnitude } | (bits & 0x8000);
            quad.addends[i] =
                if zero { Self::ADDEND_OF_ONE } else { bounded.wrapping_add(Self::OFFSET) };
            quad.keep[i] = if zero { 0 } else { Self::ONE };
            quad.keep[i] = if nan { bits } else { quad.keep[i] };
        }
        quad
    }

    /// Activation i: a bf16 as f32.
    pub(crate) fn value(&self, i: usize) -> f32 {
        let i = QUAD[i];
        match self.keep[i] {
            0 => 0.0,
            Self::ONE => from_bf16(self.addends[i].wrapping_sub(Self::OFFSET)),
            nan => from_bf16(nan),
        }
    }
}

impl Unit for LmulQuad {
    const VALUES: usize = 4;
    const ZERO: LmulQuad = LmulQuad { addends: [Self::ADDEND_OF_ONE; 4], keep: [0; 4] };

    #[inline(always)]
    fn pack<V: Vector>(values: &[f32], out: &mut [LmulQuad]) {
        for (y, x) in out.iter_mut().zip(values.as_chunks().0) {
            *y = LmulQuad::new(*x);
        }
    }
    fn activations(columns: Packed<'_, LmulQuad>) -> Activations<'_> {
        Activations::Lmul(columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::kernels::vector::LaneKernel;

    /// The group of `values`, with the vectors of an instruction set.
    fn group(isa: Isa, values: &[f32; GROUP]) -> Int8Group {
        struct Kernel<'a>(&'a [f32; GROUP], &'a mut Int8Group);
        impl LaneKernel for Kernel<'_> {
            #[inline(always)]
            fn run<V: Vector>(self) {
                *self.1 = Int8Group::new::<V>(self.0);
            }
        }
        let mut group = Int8Group::zeroed();
        isa.run_lanes(Kernel(values, &mut group));
        group
    }

    #[test]
    fn int8_codes_follow_the_definition() {
        let mut values = [0.0f32; GROUP];
        for (i, v) in values.iter_mut().enumerate() {
            *v = ((i * 37 % 23) as f32 - 11.3) * 0.37;
        }
        let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        // Halfway between two codes.
        values[5] = largest / 127.0 * 2.5;
        for isa in Isa::available() {
            let q = group(isa, &values);
            assert_eq!(q.scale, largest / 127.0);
            for (code, v) in q.codes.iter().zip(values) {
                assert_eq!(f32::from(*code), (v * (127.0 / largest)).round_ties_even());
            }
            let sum = |codes: &[i8]| -32 * codes.iter().map(|c| i32::from(*c)).sum::<i32>();
            let (a, b) = q.codes.split_at(GROUP / 2);
            assert_eq!(q.starts, [sum(a), sum(b), sum(&q.codes)]);
            assert_eq!(group(isa, &[0.0; GROUP]).scale, 0.0);
        }
    }

    /// Infinities and NaN leave codes of 0 and a scale that makes NaN of them, the same on every
    /// instruction set.
    #[test]
    fn int8_groups_keep_what_is_no_number() {
        for at in [0, 17, 40, 63] {
            for odd in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::from_bits(0xffc0_1234)] {
                let mut values = [1.5f32; GROUP];
                values[at] = odd;
                let expected = group(Isa::scalar(), &values);
                assert_eq!((expected.codes, expected.starts), ([0; GROUP], [0; 3]));
                assert!((f32::from(expected.codes[0]) * expected.scale).is_nan());
                for isa in Isa::available() {
                    assert_eq!(
                        bytemuck::bytes_of(&group(isa, &values)),
                        bytemuck::bytes_of(&expected),
                        "{isa:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        for (x, expected) in [
            (1.0, 1.0),
            (1.0 + 1.0 / 256.0, 1.0),
            (-1.0 - 3.0 / 256.0, -1.015625),
            (f32::MAX, f32::INFINITY),
        ] {
            assert_eq!(from_bf16(to_bf16(x)), expected);
        }
        assert!(from_bf16(to_bf16(f32::NAN)).is_nan());
    }

    #[test]
    fn quads_hold_bf16() {
        let x = [1.0, -1.0 - 1.0 / 256.0, 1.0 + 3.0 / 256.0, -300.0];
        let (fp8, lmul) = (Fp8Quad::new(x), LmulQuad::new(x));
        for (i, expected) in [1.0, -1.0, 1.015625, -300.0].into_iter().enumerate() {
            assert_eq!(fp8.value(i), expected * Fp8Quad::FACTOR);
            assert_eq!(lmul.value(i), expected);
        }
    }

    #[test]
    fn lmul_bounds_activations() {
        let quad = LmulQuad::new([-0.0, 1e-38, f32::NAN, -3e38]);
        assert_eq!((quad.value(0), quad.value(1)), (0.0, 0.0));
        assert!(quad.value(2).is_nan());
        assert_eq!(quad.value(3), -((1u128 << 100) as f32));
        assert_eq!(LmulQuad::ZERO.value(0), 0.0);
    }
}
