//! Activations as projections read them: columns of f32, of int8 codes per group of 32, or of bf16-rounded values.
//!
//! A projection's input is prepared once, in the forms that the matrices reading it need ([`Forms`]). int8: per group,
//! `scale = max|x| / 127`, `code = round(x · 127 / max|x|)`, ties to even (symmetric absmax quantization), and the sum of
//! the codes, from which kernels start their accumulators to undo the bias of unsigned weight codes.

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
    /// f32 (float and FP8 weights).
    pub(crate) float: bool,
    /// f32 holding values rounded to bf16 (L-Mul weights).
    pub(crate) bf16: bool,
}

impl std::ops::BitOr for Forms {
    type Output = Forms;
    fn bitor(self, o: Forms) -> Forms {
        Forms { int8: self.int8 || o.int8, float: self.float || o.float, bf16: self.bf16 || o.bf16 }
    }
}

/// Up to `columns` columns of `k` activations each.
pub(crate) struct Acts {
    k: usize,
    stride: usize,
    columns: usize,
    forms: Forms,
    /// (columns, stride)
    pub(crate) codes: Vec<i8>,
    /// (columns, stride / GROUP)
    pub(crate) scales: Vec<f32>,
    /// (columns, stride / GROUP)
    pub(crate) sums: Vec<i32>,
    /// (columns, stride)
    pub(crate) floats: Vec<f32>,
    /// (columns, stride)
    pub(crate) rounded: Vec<f32>,
}

impl Acts {
    /// Room for `columns` columns of `k` values in the given forms, all zero.
    pub(crate) fn new(k: usize, columns: usize, forms: Forms) -> Acts {
        let stride = k.next_multiple_of(PAD);
        let n = |wanted: bool| if wanted { columns * stride } else { 0 };
        Acts {
            k,
            stride,
            columns,
            forms,
            codes: vec![0; n(forms.int8)],
            scales: vec![0.0; n(forms.int8) / GROUP],
            sums: vec![0; n(forms.int8) / GROUP],
            floats: vec![0.0; n(forms.float)],
            rounded: vec![0.0; n(forms.bf16)],
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
        let groups = split.per(GROUP);
        let (int8, float, bf16) = self.widths(columns);
        SharedActs {
            k: self.k,
            forms: self.forms,
            codes: Shared::rows(&mut self.codes, self.stride, int8, split),
            scales: Shared::rows(&mut self.scales, self.stride / GROUP, int8, groups),
            sums: Shared::rows(&mut self.sums, self.stride / GROUP, int8, groups),
            floats: Shared::rows(&mut self.floats, self.stride, float, split),
            rounded: Shared::rows(&mut self.rounded, self.stride, bf16, split),
        }
    }

    /// Shares whole columns for writing, those that each worker gets from `split`.
    pub(crate) fn share_columns(&mut self, split: Split) -> SharedActs<'_> {
        let empty = Split::new(0, 1, split.workers());
        let on = |on: bool| if on { split } else { empty };
        let Forms { int8, float, bf16 } = self.forms;
        SharedActs {
            k: self.k,
            forms: self.forms,
            codes: Shared::columns(&mut self.codes, self.stride, on(int8)),
            scales: Shared::columns(&mut self.scales, self.stride / GROUP, on(int8)),
            sums: Shared::columns(&mut self.sums, self.stride / GROUP, on(int8)),
            floats: Shared::columns(&mut self.floats, self.stride, on(float)),
            rounded: Shared::columns(&mut self.rounded, self.stride, on(bf16)),
        }
    }

    /// `columns` for the forms this buffer holds, none for the others.
    fn widths(&self, columns: usize) -> (usize, usize, usize) {
        let n = |on: bool| if on { columns } else { 0 };
        (n(self.forms.int8), n(self.forms.float), n(self.forms.bf16))
    }
}

/// [`Acts`] whose parts the workers of a stage write.
pub(crate) struct SharedActs<'a> {
    k: usize,
    forms: Forms,
    codes: Shared<'a, i8>,
    scales: Shared<'a, f32>,
    sums: Shared<'a, i32>,
    floats: Shared<'a, f32>,
    rounded: Shared<'a, f32>,
}

impl SharedActs<'_> {
    /// The part of `worker`; taken once per stage.
    pub(crate) fn take(&self, worker: usize) -> ActsPart<'_> {
        ActsPart {
            k: self.k,
            forms: self.forms,
            codes: self.codes.take(worker),
            scales: self.scales.take(worker),
            sums: self.sums.take(worker),
            floats: self.floats.take(worker),
            rounded: self.rounded.take(worker),
        }
    }
}

/// One worker's block of [`Acts`].
pub(crate) struct ActsPart<'a> {
    k: usize,
    forms: Forms,
    codes: Part<'a, i8>,
    scales: Part<'a, f32>,
    sums: Part<'a, i32>,
    floats: Part<'a, f32>,
    rounded: Part<'a, f32>,
}

impl ActsPart<'_> {
    /// Writes this part's elements of column `c`: `fill(range, out)` gives the values of the elements `range`, one group
    /// at a time (the last group of a column may be shorter).
    #[inline]
    pub(crate) fn fill(&mut self, isa: Isa, c: usize, fill: impl Fn(Range<usize>, &mut [f32])) {
        let Forms { int8, float, bf16 } = self.forms;
        let rows = self.codes.rows();
        let (start, end) = (rows.start, rows.end.min(self.k));
        let codes = if int8 { self.codes.column(c) } else { &mut [] };
        let scales = if int8 { self.scales.column(c) } else { &mut [] };
        let sums = if int8 { self.sums.column(c) } else { &mut [] };
        let floats = if float { self.floats.column(c) } else { &mut [] };
        let rounded = if bf16 { self.rounded.column(c) } else { &mut [] };
        isa.run(
            #[inline(always)]
            || {
                for (g, at) in (start..end).step_by(GROUP).enumerate() {
                    let n = GROUP.min(end - at);
                    let mut values = [0.0; GROUP];
                    fill(at..at + n, &mut values[..n]);
                    let own = g * GROUP..g * GROUP + n;
                    if int8 {
                        let q = quantize(&values);
                        codes[own.clone()].copy_from_slice(&q.codes[..n]);
                        scales[g] = q.scale;
                        sums[g] = q.sum;
                    }
                    if float {
                        floats[own.clone()].copy_from_slice(&values[..n]);
                    }
                    if bf16 {
                        for (r, v) in rounded[own].iter_mut().zip(&values) {
                            *r = round_to_bf16(*v);
                        }
                    }
                }
            },
        );
    }
}

/// One group of activations as int8.
struct Quantized {
    codes: [i8; GROUP],
    scale: f32,
    sum: i32,
}

/// scale = max|v| / 127, codes = round(v · 127 / max|v|), ties to even.
#[inline(always)]
fn quantize(values: &[f32; GROUP]) -> Quantized {
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
    Quantized { codes, scale: largest[0] / 127.0, sum }
}

/// The nearest bf16, ties to even, as f32.
#[inline(always)]
fn round_to_bf16(v: f32) -> f32 {
    let bits = v.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    if v.is_nan() { v } else { f32::from_bits(rounded) }
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
        assert_eq!(q.sum, q.codes.iter().map(|c| i32::from(*c)).sum::<i32>());
        assert_eq!(quantize(&[0.0; GROUP]).scale, 0.0);
    }
}
