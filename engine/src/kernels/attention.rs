//! Attention of the query heads that share keys and values, over their run (Vaswani et al. 2017,
//! arXiv 1706.03762, eq. 1; Ainslie et al. 2023, arXiv 2305.13245), with the softmax taken as keys
//! pass (Milakov & Gimelshein 2018, arXiv 1805.02867).
//!
//! Keys come in pages of 64 tokens, counted from the beginning of the text, whoever reads them: the
//! order of sums does not depend on how a text is cut into passes. A few heads go through a page
//! together, so that what is loaded of it is used for each:
//!
//! ```text
//! scores   for each channel:       16 keys of it    × q of each head     (keys stand side by side)
//! values   for each 32 channels:   them of a token  × its weight in each head, token after token
//! ```
//!
//! Sums of different heads never meet: a head has the same bits alone. Test: below,
//! `tests/parity_*`.

use std::ops::Range;

use brooklet_formats::DType;
use half::f16;

use super::chosen::Chosen;
use super::columns::{Columns, ColumnsMut};
use super::kept::{HeadPage, Kept, PAGE};
use super::lanes::{Lanes, WIDTH};
use super::math::{exp, mul_add};
use super::relative::Relative;
use super::vector::{LaneKernel, Vector};

/// Vectors of scores of a page.
const SCORES: usize = PAGE / WIDTH;
/// The most heads that go through a page together.
const TOGETHER: usize = 4;

/// The queries of the heads that share keys and values, one column per token.
pub(crate) struct Attention<'a, P> {
    /// Scaled already (heads d_head).
    pub(crate) q: Columns<'a>,
    pub(crate) d_head: usize,
    /// The position of the first.
    pub(crate) first: usize,
    /// What is added to scores for the distance.
    pub(crate) relative: Option<Relative<'a>>,
    /// Blocks of keys that queries see, where they do not see all.
    pub(crate) chosen: Option<Chosen<'a>>,
    /// Keys that a query sees, its own among them.
    pub(crate) window: usize,
    /// Keys at the beginning of the text that every query sees, at most a page of them.
    pub(crate) beginning: usize,
    /// How keys and values are kept.
    pub(crate) dtype: DType,
    /// Page number i of the head ([`HeadPage`]).
    pub(crate) page: P,
    /// Overwritten (heads d_head).
    pub(crate) y: ColumnsMut<'a>,
}

/// A query's view so far, beside its sum of values.
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
            let mut at = 0;
            while at < self.q.rows() {
                // As many sums as registers hold: sixteen of the widest, eight of the narrower.
                at += match (self.q.rows() - at) / self.d_head {
                    TOGETHER.. if V::REGISTERS == 1 => self.heads::<V, T, TOGETHER, SCORES>(c, at),
                    2.. => self.heads::<V, T, 2, 2>(c, at),
                    _ => self.heads::<V, T, 1, 2>(c, at),
                };
            }
        }
    }

    /// y = Σ softmax(q · k) v of column `c`, of the `N` heads whose channels begin at `at`; `S`
    /// vectors of scores at a time. Returns their channels.
    #[inline(always)]
    fn heads<V: Vector, T: Kept, const N: usize, const S: usize>(
        &mut self,
        c: usize,
        at: usize,
    ) -> usize {
        let d_head = self.d_head;
        let q = &self.q.at(c)[at..at + N * d_head];
        let y = &mut self.y.at(c)[at..at + N * d_head];
        let end = self.first + c + 1;
        let start = end.saturating_sub(self.window);
        let beginning = self.beginning.min(start);
        let mut seen = [Seen { max: f32::NEG_INFINITY, sum: 0.0 }; N];
        y.fill(0.0);
        // The page of the beginning is the window's first, or stands apart.
        let apart = if beginning > 0 && start >= PAGE { 0..1 } else { 0..0 };
        let last = (end - 1) / PAGE;
        for page in apart.chain(start / PAGE..last + 1) {
            let within = |range: Range<usize>| {
                let at = |token: usize| token.clamp(page * PAGE, (page + 1) * PAGE) - page * PAGE;
                at(range.start)..at(range.end)
            };
            let visible = [within(0..beginning), within(start..end)];
            let chosen = self.chosen.as_ref().map(|chosen| chosen.of_page(c, end, page));
            if chosen == Some(0) {
                continue;
            }
            let HeadPage { keys, values, scales } = HeadPage::<T>::new((self.page)(page), d_head);
            // The first heads fetch the page after this one while they multiply.
            let ahead = if at == 0 && page < last { (self.page)(page + 1) } else { &[] };
            let mut weights = scores::<V, T, N, S>(q, keys, ahead);
            for (head, weights) in weights.iter_mut().enumerate() {
                if T::SCALED {
                    weights.iter_mut().zip(scales[0]).for_each(|(score, scale)| *score *= scale);
                }
                if let Some(relative) = &self.relative {
                    relative.add((c, at / d_head + head), end - 1, page, weights);
                }
                if let Some(chosen) = chosen {
                    Chosen::hide(weights, chosen);
                }
                let y = &mut y[head * d_head..][..d_head];
                seen[head] = weigh(weights, &visible, seen[head], y);
                if T::SCALED {
                    weights.iter_mut().zip(scales[1]).for_each(|(weight, scale)| *weight *= scale);
                }
            }
            add::<V, T, N>(y, &weights, &visible, values);
        }
        for (y, seen) in y.chunks_exact_mut(d_head).zip(seen) {
            let inverse = 1.0 / seen.sum;
            y.iter_mut().for_each(|y| *y *= inverse);
        }
        N * d_head
    }
}

/// q · k of every key of a page, of each head; `ahead` will be read soon.
#[inline(always)]
pub(super) fn scores<V: Vector, T: Kept, const N: usize, const S: usize>(
    q: &[f32],
    keys: &[T],
    ahead: &[Lanes],
) -> [[f32; PAGE]; N] {
    let d_head = q.len() / N;
    let each = ahead.len().div_ceil(d_head).max(1);
    let heads: [&[f32]; N] = std::array::from_fn(|head| &q[head * d_head..][..d_head]);
    let mut scores = [[0.0; PAGE]; N];
    for first in (0..SCORES).step_by(S) {
        let mut sums = [[V::splat(0.0); S]; N];
        let mut ahead = if first == 0 { ahead } else { &[] }.chunks(each);
        for (i, keys) in (0..d_head).zip(keys.chunks_exact(PAGE)) {
            ahead.next().into_iter().flatten().for_each(V::prefetch);
            for v in 0..S {
                let keys = T::load::<V>(&keys[(first + v) * WIDTH..]);
                for head in 0..N {
                    sums[head][v] = keys.mul_add(V::splat(heads[head][i]), sums[head][v]);
                }
            }
        }
        for (scores, sums) in scores.iter_mut().zip(&sums) {
            for (v, sums) in sums.iter().enumerate() {
                sums.store(&mut scores[(first + v) * WIDTH..]);
            }
        }
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

/// y += Σ weight · value of each head, tokens ascending.
#[inline(always)]
fn add<V: Vector, T: Kept, const N: usize>(
    y: &mut [f32],
    weights: &[[f32; PAGE]; N],
    visible: &[Range<usize>; 2],
    values: &[T],
) {
    const STEP: usize = 2 * WIDTH;
    let d_head = y.len() / N;
    let whole = d_head / STEP * STEP;
    for at in (0..whole).step_by(STEP) {
        add_some::<V, T, N, 2>(y, weights, visible, values, at);
    }
    if d_head - whole >= WIDTH {
        add_some::<V, T, N, 1>(y, weights, visible, values, whole);
    }
    for at in d_head / WIDTH * WIDTH..d_head {
        for (head, weights) in weights.iter().enumerate() {
            let y = &mut y[head * d_head + at];
            for token in visible.iter().cloned().flatten() {
                *y = mul_add(values[token * d_head + at].value(), weights[token], *y);
            }
        }
    }
}

/// The same, of `S` vectors of channels from `at` on.
#[inline(always)]
fn add_some<V: Vector, T: Kept, const N: usize, const S: usize>(
    y: &mut [f32],
    weights: &[[f32; PAGE]; N],
    visible: &[Range<usize>; 2],
    values: &[T],
    at: usize,
) {
    let d_head = y.len() / N;
    let mut sums = [[V::splat(0.0); S]; N];
    for (head, sums) in sums.iter_mut().enumerate() {
        for (v, sum) in sums.iter_mut().enumerate() {
            *sum = V::load(&y[head * d_head + at + v * WIDTH..]);
        }
    }
    for tokens in visible {
        for token in tokens.clone() {
            let values = &values[token * d_head + at..][..S * WIDTH];
            for v in 0..S {
                let values = T::load::<V>(&values[v * WIDTH..]);
                for head in 0..N {
                    sums[head][v] = values.mul_add(V::splat(weights[head][token]), sums[head][v]);
                }
            }
        }
    }
    for (head, sums) in sums.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            sum.store(&mut y[head * d_head + at + v * WIDTH..]);
        }
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
        for d in [32, 12, 21, 48] {
            for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 1e-3), (DType::Int8, 2e-2)]
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
                            d_head: d,
                            first,
                            relative: None,
                            chosen: None,
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
    /// A head has the same bits alone and beside others.
    #[test]
    fn heads_that_share_keys() {
        let (d, tokens, dtype) = (37, 70usize, DType::F16);
        let lines = kept::lines(dtype, d);
        let mut pages = vec![Lanes::ZERO; tokens.div_ceil(PAGE) * lines];
        let [k, v] = [2, 3].map(|seed| numbers(d * tokens, seed));
        for t in 0..tokens {
            let page = &mut pages[t / PAGE * lines..][..lines];
            for (part, x) in [(KeysOrValues::Keys, &k), (KeysOrValues::Values, &v)] {
                kept::remember(Isa::scalar(), dtype, page, (t % PAGE, part), &x[t * d..][..d]);
            }
        }
        let n_head = 7;
        let q = numbers(n_head * d * tokens, 1);
        let run = |isa: Isa, rows: Range<usize>, y: &mut [f32]| {
            let n = rows.len();
            isa.run_lanes(Attention {
                q: Columns::new(&q, n_head * d, 0..tokens, rows),
                d_head: d,
                first: 0,
                window: usize::MAX,
                beginning: 0,
                dtype,
                relative: None,
                chosen: None,
                page: |i| &pages[i * lines..][..lines],
                y: ColumnsMut::whole(y, n),
            });
        };
        for isa in Isa::available() {
            let mut all = vec![f32::NAN; n_head * d * tokens];
            run(isa, 0..n_head * d, &mut all);
            for head in 0..n_head {
                let mut one = vec![f32::NAN; d * tokens];
                run(isa, head * d..(head + 1) * d, &mut one);
                for (all, one) in all.chunks(n_head * d).zip(one.chunks(d)) {
                    assert_eq!(all[head * d..][..d], *one, "{isa:?} {head}");
                }
            }
        }
    }
}
