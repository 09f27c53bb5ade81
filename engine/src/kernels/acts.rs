//! Activations as projections read them: columns of f32, of int8 groups, and of what FP8 and L-Mul kernels take.
//!
//! A projection's input is prepared once, in the forms that the matrices reading it need ([`Forms`]). int8: per group,
//! `scale = max|x| / 127`, `code = round(x · 127 / max|x|)`, ties to even (symmetric absmax quantization), and the sum of
//! the codes, from which kernels start their accumulators to undo the bias of unsigned weight codes. FP8: `x · 2⁶⁰`.
//! L-Mul: the nearest bf16 as the addend of a bit pattern.

use std::ops::Range;

use super::isa::Isa;
use crate::team::{Part, Shared, Split};

/// Values per activation scale.
pub(crate) const GROUP: usize = 32;

/// Columns are padded so that every weight format's padding fits: two groups of 128.
const PAD: usize = 256;

/// Which forms of its input a matrix reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forms {
    /// int8 codes, scales and sums (int4 and int8 weights).
    pub(crate) int8: bool,
    /// f32 (float weights).
    pub(crate) float: bool,
    /// f32 times [`FP8_FACTOR`] (FP8 weights).
    pub(crate) fp8: bool,
    /// Addends of bit patterns (L-Mul weights).
    pub(crate) lmul: bool,
}

impl std::ops::BitOr for Forms {
    type Output = Forms;
    fn bitor(self, o: Forms) -> Forms {
        Forms {
            int8: self.int8 || o.int8,
            float: self.float || o.float,
            fp8: self.fp8 || o.fp8,
            lmul: self.lmul || o.lmul,
        }
    }
}

/// A group of activations as int8.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Int8Group {
    pub(crate) codes: [i8; GROUP],
    /// value = code · scale
    pub(crate) scale: f32,
    /// −Σ codes: a weight code that is stored plus a bias b starts its sum of products at b times this.
    pub(crate) minus_sum: i32,
}

impl Int8Group {
    const ZERO: Int8Group = Int8Group { codes: [0; GROUP], scale: 0.0, minus_sum: 0 };
}

/// 2⁶⁰: kernels take the bits of an FP8 code as an f32 that is 2¹²⁰ (E4M3) or 2¹¹² (E5M2) too small; half of that comes
/// back with the activations and half with the group's scale, so that nothing over- or underflows on the way.
pub(crate) const FP8_FACTOR: f32 = (1u64 << 60) as f32;

/// An activation as L-Mul kernels add it: to the bits of an E4M3 code that stand in an f32 with their exponent not yet
/// rebased (2¹²⁰ too small).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct LmulTerm {
    /// bits(x) + rebasing (120 exponent steps) − bias (127 steps) + 2⁻⁴, modulo 2³²: the sign bits add to their XOR. For a
    /// zero, that of 1: any that gives a finite product.
    pub(crate) addend: u32,
    /// 1, or 0 if x is zero: what the product is multiplied by.
    pub(crate) keep: f32,
}

impl LmulTerm {
    const ZERO: LmulTerm = LmulTerm { addend: 1.0f32.to_bits().wrapping_add(Self::OFFSET), keep: 0.0 };
    /// (120 − 127) exponent steps + 2⁻⁴, in units of an f32's bits.
    const OFFSET: u32 = ((120 - 127) << 23) as u32 + (1 << 19);
    /// Activations below are zero, and their negative power bounds them from above: no product with an FP8 weight comes
    /// near the borders where L-Mul flushes and saturates, so that the sum of the bits is all there is to do.
    const SMALLEST: f32 = f32::from_bits((127 - 100) << 23);

    /// The nearest bf16, ties to even, below 2⁻¹⁰⁰ zero and at most 2¹⁰⁰.
    #[inline(always)]
    fn new(x: f32) -> LmulTerm {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
        let magnitude = f32::from_bits(rounded & 0x7fff_ffff);
        let largest = 1.0 / Self::SMALLEST;
        let magnitude = if magnitude > largest { largest } else { magnitude };
        let bits = magnitude.to_bits() | (bits & 0x8000_0000);
        let zero = magnitude < Self::SMALLEST;
        let addend = if zero { Self::ZERO.addend } else { bits.wrapping_add(Self::OFFSET) };
        let keep = if zero { 0.0 } else { 1.0 };
        LmulTerm { addend, keep: if x.is_nan() { x } else { keep } }
    }

    /// The activation: a bf16 as f32.
    pub(crate) fn value(self) -> f32 {
        if self.keep == 0.0 { 0.0 } else { f32::from_bits(self.addend.wrapping_sub(Self::OFFSET)) }
    }
}

/// Up to `columns` columns of `k` activations each.
pub(crate) struct Acts {
    k: usize,
    stride: usize,
    columns: usize,
    forms: Forms,
    /// (columns, stride / GROUP)
    pub(crate) int8: Vec<Int8Group>,
    /// (columns, stride)
    pub(crate) float: Vec<f32>,
    /// (columns, stride)
    pub(crate) fp8: Vec<f32>,
    /// (columns, stride)
    pub(crate) lmul: Vec<LmulTerm>,
}

impl Acts {
    /// Room for `columns` columns of `k` values in the given forms, all zero.
    pub(crate) fn new(k: usize, columns: usize, forms: Forms) -> Acts {
        // One group more than the padding: columns a power of two apart would compete for the same lines of the cache.
        let stride = k.next_multiple_of(PAD) + GROUP;
        let n = |wanted: bool| if wanted { columns * stride } else { 0 };
        Acts {
            k,
            stride,
            columns,
            forms,
            int8: vec![Int8Group::ZERO; n(forms.int8) / GROUP],
            float: vec![0.0; n(forms.float)],
            fp8: vec![0.0; n(forms.fp8)],
            lmul: vec![LmulTerm::ZERO; n(forms.lmul)],
        }
    }

    /// Number of columns it has room for.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Length of a column.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// Distance between columns.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// The forms it holds.
    pub(crate) fn forms(&self) -> Forms {
        self.forms
    }

    /// Shares the first `columns` columns for writing; each worker owns the groups of `split`'s elements.
    ///
    /// # Panics
    /// The split's unit is not a whole number of groups: a bug in the stage.
    pub(crate) fn share_rows(&mut self, columns: usize, split: Split) -> SharedActs<'_> {
        let Forms { int8, float, fp8, lmul } = self.forms;
        // `columns` for the forms this buffer holds, none for the others.
        let n = |on: bool| if on { columns } else { 0 };
        SharedActs {
            k: self.k,
            forms: self.forms,
            int8: Shared::rows(&mut self.int8, self.stride / GROUP, n(int8), split.per(GROUP)),
            float: Shared::rows(&mut self.float, self.stride, n(float), split),
            fp8: Shared::rows(&mut self.fp8, self.stride, n(fp8), split),
            lmul: Shared::rows(&mut self.lmul, self.stride, n(lmul), split),
        }
    }

    /// Shares whole columns for writing, those that each worker gets from `split`.
    pub(crate) fn share_columns(&mut self, split: Split) -> SharedActs<'_> {
        let empty = Split::new(0, 1, split.workers());
        let on = |on: bool| if on { split } else { empty };
        let Forms { int8, float, fp8, lmul } = self.forms;
        SharedActs {
            k: self.k,
            forms: self.forms,
            int8: Shared::columns(&mut self.int8, self.stride / GROUP, on(int8)),
            float: Shared::columns(&mut self.float, self.stride, on(float)),
            fp8: Shared::columns(&mut self.fp8, self.stride, on(fp8)),
            lmul: Shared::columns(&mut self.lmul, self.stride, on(lmul)),
        }
    }
}

/// [`Acts`] whose parts the workers of a stage write.
pub(crate) struct SharedActs<'a> {
    k: usize,
    forms: Forms,
    int8: Shared<'a, Int8Group>,
    float: Shared<'a, f32>,
    fp8: Shared<'a, f32>,
    lmul: Shared<'a, LmulTerm>,
}

impl SharedActs<'_> {
    /// The part of `worker`; taken once per stage.
    pub(crate) fn take(&self, worker: usize) -> ActsPart<'_> {
        ActsPart {
            k: self.k,
            forms: self.forms,
            int8: self.int8.take(worker),
            float: self.float.take(worker),
            fp8: self.fp8.take(worker),
            lmul: self.lmul.take(worker),
        }
    }
}

/// One worker's block of [`Acts`].
pub(crate) struct ActsPart<'a> {
    k: usize,
    forms: Forms,
    int8: Part<'a, Int8Group>,
    float: Part<'a, f32>,
    fp8: Part<'a, f32>,
    lmul: Part<'a, LmulTerm>,
}

impl ActsPart<'_> {
    /// Writes this part's elements of column `c`: `fill(range, out)` gives the values of the elements `range`, one group
    /// at a time (the last group of a column may be shorter).
    #[inline]
    pub(crate) fn fill(&mut self, isa: Isa, c: usize, fill: impl Fn(Range<usize>, &mut [f32])) {
        let on = self.forms;
        let rows = self.float.rows();
        let (start, end) = (rows.start, rows.end.min(self.k));
        let int8 = if on.int8 { self.int8.column(c) } else { &mut [] };
        let float = if on.float { self.float.column(c) } else { &mut [] };
        let fp8 = if on.fp8 { self.fp8.column(c) } else { &mut [] };
        let lmul = if on.lmul { self.lmul.column(c) } else { &mut [] };
        isa.run(
            #[inline(always)]
            || {
                for (g, at) in (start..end).step_by(GROUP).enumerate() {
                    let n = GROUP.min(end - at);
                    let mut values = [0.0; GROUP];
                    fill(at..at + n, &mut values[..n]);
                    let own = g * GROUP..g * GROUP + n;
                    if on.int8 {
                        int8[g] = quantize(&values);
                    }
                    if on.float {
                        float[own.clone()].copy_from_slice(&values[..n]);
                    }
                    if on.fp8 {
                        fp8[own.clone()].iter_mut().zip(&values).for_each(|(y, x)| *y = x * FP8_FACTOR);
                    }
                    if on.lmul {
                        lmul[own].iter_mut().zip(&values).for_each(|(y, x)| *y = LmulTerm::new(*x));
                    }
                }
            },
        );
    }
}

/// scale = max|v| / 127, codes = round(v · 127 / max|v|), ties to even.
#[inline(always)]
fn quantize(values: &[f32; GROUP]) -> Int8Group {
    let mut largest = [0.0f32; GROUP / 2];
    for i in 0..GROUP / 2 {
        let (a, b) = (values[i].abs(), values[i + GROUP / 2].abs());
        largest[i] = if a > b { a } else { b };
    }
    let mut half = GROUP / 4;
    while half > 0 {
        for i in 0..half {
            largest[i] = if largest[i] > largest[i + half] { largest[i] } else { largest[i + half] };
        }
        half /= 2;
    }
    let inverse = if largest[0] > 0.0 { 127.0 / largest[0] } else { 0.0 };
    let mut codes = [0i8; GROUP];
    let mut sum = 0i32;
    for i in 0..GROUP {
        // 1.5·2²³ makes the low byte of the sum's bits the rounded integer in two's complement.
        let code = (values[i] * inverse + 12_582_912.0).to_bits() as i8;
        codes[i] = code;
        sum += i32::from(code);
    }
    Int8Group { codes, scale: largest[0] / 127.0, minus_sum: -sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_follow_the_definition() {
        let mut values = [0.0f32; GROUP];
        for (i, v) in values.iter_mut().enumerate() {
            *v = ((i * 37 % 23) as f32 - 11.3) * 0.37;
        }
        let q = quantize(&values);
        let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        assert_eq!(q.scale, largest / 127.0);
        for (code, v) in q.codes.iter().zip(values) {
            assert_eq!(f32::from(*code), (v * (127.0 / largest)).round_ties_even());
        }
        assert_eq!(-q.minus_sum, q.codes.iter().map(|c| i32::from(*c)).sum::<i32>());
        assert_eq!(quantize(&[0.0; GROUP]).scale, 0.0);
    }

    #[test]
    fn lmul_terms_hold_bf16() {
        for (x, expected) in [
            (1.0, 1.0),
            (-1.0 - 1.0 / 256.0, -1.0),
            (1.0 + 3.0 / 256.0, 1.015625),
            (0.0, 0.0),
            (-0.0, 0.0),
            (1e-38, 0.0),
            (-3e38, -1.0 / LmulTerm::SMALLEST),
        ] {
            assert_eq!(LmulTerm::new(x).value(), expected);
        }
        assert!(LmulTerm::new(f32::NAN).keep.is_nan());
    }
}
