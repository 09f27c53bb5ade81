//! Attention of one query head over the keys and values of its run (Vaswani et al. 2017, arXiv
//! 1706.03762, eq. 1), with the softmax taken as keys pass (Milakov & Gimelshein 2018, arXiv
//! 1805.02867).
//!
//! Keys come in pages of 64 tokens, counted from the beginning of the text, whoever reads them: the
//! order of sums does not depend on how a text is cut into passes. Test: below, `tests/parity_*`.

use std::ops::Range;

use brooklet_formats::DType;
use half::f16;

use super::columns::{Columns, ColumnsMut};
use super::kept::{HeadPage, Kept, PAGE};
use super::lanes::{Lanes, WIDTH};
use super::math::{exp, mul_add};
use super::vector::{LaneKernel, Vector};

/// Vectors of scores of a page.
const SCORES: usize = PAGE / WIDTH;

/// The queries of one head, one column per token.
pub(crate) struct Attention<'a, P> {
    /// Scaled already (d_head).
    pub(crate) q: Columns<'a>,
    /// The position of the first.
    pub(crate) first: usize,
    /// Keys that a query sees, its own among them.
    pub(crate) window: usize,
    /// Keys at the beginning of the text that every query sees, at most a page of them.
    pub(crate) beginning: usize,
    /// How keys and values are kept.
    pub(crate) dtype: DType,
    /// Page number i of the head ([`HeadPage`]).
    pub(crate) page: P,
    /// Overwritten (d_head).
    pub(crate) y: ColumnsMut<'a>,
}

/// The query's view so far, beside its sum of values.
#[derive(Clone, Copy)]
struct Seen {
    /// The largest score.
    max: f32,
    /// Σ exp(score − max).
    sum: f32,
}

impl<'p, P: Fn(usize) -> &'p [Lanes]> LaneKernel for Attention<'_, P> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        match self.dtype {
            DType::F16 => self.queries::<V, f16>(),
            DType::Int8 => self.queries::<V, i8>(),
            _ => self.queries::<V, f32>(),
        }
    }
}

impl<'p, P: Fn(usize) -> &'p [Lanes]> Attention<'_, P> {
    /// All columns.
    #[inline(always)]
    fn queries<V: Vector, T: Kept>(mut self) {
        for c in 0..self.y.len() {
            self.query::<V, T>(c);
        }
    }

    /// y = Σ softmax(q · k) v of column `c`.
    #[inline(always)]
    fn query<V: Vector, T: Kept>(&mut self, c: usize) {
        let (q, y) = (self.q.at(c), self.y.at(c));
        let end = self.first + c + 1;
        let start = end.saturating_sub(self.window);
        let beginning = self.beginning.min(start);
        let mut seen = Seen { max: f32::NEG_INFINITY, sum: 0.0 };
        y.fill(0.0);
        // The page of the beginning is the window's first, or stands apart.
        let apart = if beginning > 0 && start >= PAGE { 0..1 } else { 0..0 };
        for page in apart.chain(start / PAGE..end.div_ceil(PAGE)) {
            let within = |range: Range<usize>| {
                let at = |token: usize| token.clamp(page * PAGE, (page + 1) * PAGE) - page * PAGE;
                at(range.start)..at(range.end)
            };
            let visible = [within(0..beginning), within(start..end)];
            let HeadPage { keys, values, scales } = HeadPage::<T>::new((self.page)(page), q.len());
            let mut scores = scores::<V, T>(q, keys);
            if T::SCALED {
                scores.iter_mut().zip(scales[0]).for_each(|(score, scale)| *score *= scale);
            }
            seen = weigh(&mut scores, &visible, seen, y);
            for token in visible.into_iter().flatten() {
                let scale = if T::SCALED { scales[1][token] } else { 1.0 };
                add::<V, T>(y, scores[token] * scale, &values[token * q.len()..][..q.len()]);
            }
        }
        let inverse = 1.0 / seen.sum;
        y.iter_mut().for_each(|y| *y *= inverse);
    }
}

/// q · k of every key of a page.
#[inline(always)]
fn scores<V: Vector, T: Kept>(q: &[f32], keys: &[T]) -> [f32; PAGE] {
    let mut sums = [V::splat(0.0); SCORES];
    for (q, keys) in q.iter().zip(keys.chunks_exact(PAGE)) {
        let q = V::splat(*q);
        for i in 0..SCORES {
            sums[i] = T::load::<V>(&keys[i * WIDTH..]).mul_add(q, sums[i]);
        }
    }
    let mut scores = [0.0; PAGE];
    for i in 0..SCORES {
        sums[i].store(&mut scores[i * WIDTH..]);
    }
    scores
}

/// Turns the `visible` scores into exp(score − max), the others into 0; scales what was summed in
/// `y` under an older maximum.
#[inline(always)]
fn weigh(
    scores: &mut [f32; PAGE],
    visible: &[Range<usize>; 2],
    before: Seen,
    y: &mut [f32],
) -> Seen {
    let is_visible = |i: usize| visible[0].contains(&i) || visible[1].contains(&i);
    for (i, score) in scores.iter_mut().enumerate() {
        *score = if is_visible(i) { *score } else { f32::NEG_INFINITY };
    }
    let mut lanes = [f32::NEG_INFINITY; WIDTH];
    for scores in scores.chunks_exact(WIDTH) {
        lanes.iter_mut().zip(scores).for_each(|(max, s)| *max = if *s > *max { *s } else { *max });
    }
    let largest = lanes.iter().fold(before.max, |max, s| if *s > max { *s } else { max });
    // Nothing but −∞ or NaN yet: the weights are NaN, as the definition's are.
    let mut sums = [0.0; WIDTH];
    for (score, i) in scores.iter_mut().zip(0..) {
        *score = if is_visible(i) { exp(*score - largest) } else { 0.0 };
    }
    for scores in scores.chunks_exact(WIDTH) {
        sums.iter_mut().zip(scores).for_each(|(sum, p)| *sum += p);
    }
    let page: f32 = sums.iter().sum();
    let scale = if before.sum == 0.0 { 0.0 } else { exp(before.max - largest) };
    if scale != 1.0 {
        y.iter_mut().for_each(|y| *y *= scale);
    }
    Seen { max: largest, sum: before.sum * scale + page }
}

/// y += p · value.
#[inline(always)]
fn add<V: Vector, T: Kept>(y: &mut [f32], p: f32, value: &[T]) {
    let weight = V::splat(p);
    let (mut ys, mut values) = (y.chunks_exact_mut(WIDTH), value.chunks_exact(WIDTH));
    for (y, value) in (&mut ys).zip(&mut values) {
        T::load::<V>(value).mul_add(weight, V::load(y)).store(y);
    }
    for (y, value) in ys.into_remainder().iter_mut().zip(values.remainder()) {
        *y = mul_add(value.value(), p, *y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::kernels::kept::{self, KeysOrValues};
    use crate::kernels::recurrence::support::numbers;

    /// Softmax attention in f64, and the same bits whatever the instruction set and the cut, for
    /// heads of whole vectors and others.
    #[test]
    fn queries_meet_the_definition() {
        for d in [32, 12, 21] {
            for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 1e-3), (DType::Int8, 1e-2)]
            {
                check(d, dtype, tolerance);
            }
        }
    }

    fn check(d: usize, dtype: DType, tolerance: f32) {
        let tokens = 200usize;
        let [q, k, v] = [1, 2, 3].map(|seed| numbers(d * tokens, seed));
        let lines = kept::lines(dtype, d);
        let mut pages = vec![Lanes::splat(f32::NAN); tokens.div_ceil(PAGE) * lines];
        for t in 0..tokens {
            let page = &mut pages[t / PAGE * lines..][..lines];
            for (part, x) in [(KeysOrValues::Keys, &k), (KeysOrValues::Values, &v)] {
                let isa = Isa::scalar();
                kept::remember(isa, dtype, page, (t % PAGE, part), &x[t * d..][..d]);
            }
        }
        for (window, beginning) in [(usize::MAX, 0), (70, 0), (1, 0), (20, 4), (100, 7), (150, 64)]
        {
            let mut expected = Vec::new();
            for t in 0..tokens {
                let start = (t + 1usize).saturating_sub(window);
                let seen: Vec<usize> = (0..beginning.min(start)).chain(start..t + 1).collect();
                let score = |s: &usize| -> f64 {
                    (0..d).map(|i| f64::from(q[t * d + i]) * f64::from(k[s * d + i])).sum()
                };
                let weights: Vec<f64> = seen.iter().map(|s| score(s).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for i in 0..d {
                    let y = seen.iter().zip(&weights).map(|(s, w)| w * f64::from(v[s * d + i]));
                    expected.push((y.sum::<f64>() / sum) as f32);
                }
            }
            let mut first_bits: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                for cut in [tokens, 77, 1] {
                    let mut y = vec![f32::NAN; d * tokens];
                    for first in (0..tokens).step_by(cut) {
                        let end = tokens.min(first + cut);
                        isa.run_lanes(Attention {
                            q: Columns::new(&q, d, first..end, 0..d),
                            first,
                            window,
                            beginning,
                            dtype,
                            page: |i| &pages[i * lines..][..lines],
                            y: ColumnsMut::whole(&mut y[first * d..end * d], d),
                        });
                    }
                    for (y, expected) in y.iter().zip(&expected) {
                        let far = (y - expected).abs();
                        assert!(far < tolerance, "{isa:?} {dtype} {window}: {y} {expected}");
                    }
                    let bits = first_bits.get_or_insert_with(|| y.clone());
                    assert_eq!(y, *bits, "{isa:?} {window} {cut}");
                }
            }
        }
    }
}
