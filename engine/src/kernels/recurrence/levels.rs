//! Log-linear attention (Guo et al. 2025, arXiv 2506.04761, eq. 4): the past of a token is cut into
//! blocks whose lengths are powers of two, as a Fenwick tree cuts it, and each has a state and a
//! weight of its own.
//!
//! Token t (from 0) sees itself at level 0, and for every bit l of t that is set, at level l + 1,
//! the 2ˡ tokens before t with the bits below l cleared. Its arrival makes one block, of the level
//! behind t's trailing zeros, of all below. States of levels that t does not have hold what they
//! held. Tests: below.

use crate::kernels::Isa;
use crate::kernels::columns::{Columns, ColumnsMut};
use crate::kernels::lanes::WIDTH;
use crate::kernels::state::{StateElement, StateKernel, StateSlice};
use crate::kernels::vector::Vector;

/// The inputs of a span of tokens to one head, one column per token.
pub(crate) struct Levels<'a> {
    /// Query and key (n_key).
    pub(crate) r: Columns<'a>,
    pub(crate) k: Columns<'a>,
    /// (n_value), and its factor (1).
    pub(crate) v: Columns<'a>,
    pub(crate) scale: Columns<'a>,
    /// What all states are multiplied by (1).
    pub(crate) decay: Columns<'a>,
    /// What each level's reading is multiplied by (n_level).
    pub(crate) weights: Columns<'a>,
    /// The position of the first token in its text; none is beyond 2^(n_level − 1).
    pub(crate) first: usize,
    /// Overwritten (n_value).
    pub(crate) y: ColumnsMut<'a>,
}

/// Advances `state` (n_level, n_key, n_value) by the tokens of `span` and writes what they read,
/// levels ascending. What is read is the update before it is rounded to the state's format.
///
/// # Panics
/// Parts of the span differ in size, do not fit the state, or the text is too long for its levels:
/// a bug in the model.
pub(crate) fn log_linear_attention(isa: Isa, state: &mut StateSlice<'_>, span: Levels<'_>) {
    state.update(isa, span);
}

impl StateKernel for Levels<'_> {
    #[inline(always)]
    fn run<V: Vector, S: StateElement>(mut self, state: &mut [S]) {
        let (n_key, n_value, n_level) = (self.k.rows(), self.v.rows(), self.weights.rows());
        let tokens = self.y.len();
        let size = n_key * n_value;
        assert!(size > 0 && state.len() == n_level * size && self.y.rows() == n_value);
        let fits = |x: &Columns<'_>, rows: usize| assert!(x.rows() == rows && x.len() == tokens);
        fits(&self.r, n_key);
        [&self.k, &self.v, &self.scale, &self.decay, &self.weights]
            .into_iter()
            .zip([n_key, n_value, 1, 1, n_level])
            .for_each(|(x, rows)| fits(x, rows));
        for c in 0..tokens {
            let t = self.first + c;
            assert!(t >> (n_level - 1) == 0);
            if t > 0 {
                merge::<V, S>(state, size, t.trailing_zeros() as usize + 1);
            }
            let (r, k, v) = (self.r.at(c), self.k.at(c), self.v.at(c));
            let (scale, decay, weights) =
                (self.scale.at(c)[0], self.decay.at(c)[0], self.weights.at(c));
            let y = self.y.at(c);
            y.fill(0.0);
            for (level, rows) in state.chunks_exact_mut(size).enumerate() {
                let step = Step { r, weight: weights[level] };
                if level == 0 {
                    let new = Values { k, v, scale };
                    step.read::<V, S>(
                        rows,
                        y,
                        |_: V, j, at| new.lanes(j, at),
                        |_, j, i| new.one(j, i),
                    );
                } else if t >> (level - 1) & 1 == 1 {
                    let factor = V::splat(decay);
                    step.read(rows, y, |s: V, _, _| s.mul(factor), |s, _, _| s * decay);
                }
            }
        }
    }
}

/// What a token writes: k (scale v)ᵀ.
#[derive(Clone, Copy)]
struct Values<'a> {
    k: &'a [f32],
    v: &'a [f32],
    scale: f32,
}

impl Values<'_> {
    /// Of key `j`, sixteen values from `at`.
    #[inline(always)]
    fn lanes<V: Vector>(self, j: usize, at: usize) -> V {
        V::load(&self.v[at..]).mul(V::splat(self.scale)).mul(V::splat(self.k[j]))
    }

    #[inline(always)]
    fn one(self, j: usize, i: usize) -> f32 {
        self.v[i] * self.scale * self.k[j]
    }
}

/// Level `target` becomes the sum of those below it, ascending.
#[inline(always)]
fn merge<V: Vector, S: StateElement>(state: &mut [S], size: usize, target: usize) {
    let (below, target) = state[..(target + 1) * size].split_at_mut(target * size);
    let whole = size / WIDTH * WIDTH;
    for at in (0..whole).step_by(WIDTH) {
        let mut sum = S::load::<V>(&below[at..]);
        for level in below.chunks_exact(size).skip(1) {
            sum = sum.add(S::load(&level[at..]));
        }
        S::store(sum, &mut target[at..]);
    }
    for at in whole..size {
        let mut levels = below.chunks_exact(size).map(|level| level[at].value());
        let first = levels.next().unwrap_or(0.0);
        target[at] = S::of(levels.fold(first, |sum, s| sum + s));
    }
}

/// The reading of one level.
#[derive(Clone, Copy)]
struct Step<'a> {
    r: &'a [f32],
    weight: f32,
}

impl Step<'_> {
    /// `rows = next(rows)`, `y += weight rowsᵀ r`; the next elements are functions of the last, of
    /// the key and of the value.
    #[inline(always)]
    fn read<V: Vector, S: StateElement>(
        self,
        rows: &mut [S],
        y: &mut [f32],
        lanes: impl Fn(V, usize, usize) -> V,
        one: impl Fn(f32, usize, usize) -> f32,
    ) {
        let (n, whole) = (y.len(), y.len() / WIDTH * WIDTH);
        for at in (0..whole).step_by(WIDTH) {
            let mut sum = V::splat(0.0);
            for (j, (row, r)) in rows.chunks_exact_mut(n).zip(self.r).enumerate() {
                let next = lanes(S::load::<V>(&row[at..]), j, at);
                S::store(next, &mut row[at..]);
                sum = next.mul_add(V::splat(*r), sum);
            }
            sum.mul_add(V::splat(self.weight), V::load(&y[at..])).store(&mut y[at..]);
        }
        for (i, y) in y.iter_mut().enumerate().skip(whole) {
            let mut sum = 0.0;
            for (j, (row, r)) in rows.chunks_exact_mut(n).zip(self.r).enumerate() {
                let next = one(row[i].value(), j, i);
                row[i] = S::of(next);
                sum = V::mul_add_one(next, *r, sum);
            }
            *y = V::mul_add_one(sum, self.weight, *y);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::kernels::recurrence::support::{Format, numbers};

    /// Every instruction set and every cut gives the same bits, near the sum over all tokens
    /// before, each with the weight of the level in which the two positions differ (eq. 4).
    #[test]
    fn equals_the_sum_over_the_past() {
        check::<f32>(2e-5);
        check::<f16>(3e-2);
    }

    fn check<S: Format>(tolerance: f64) {
        let (tokens, n_level) = (37usize, 7usize);
        for (n_key, n_value) in [(3, 5), (8, 16), (7, 35)] {
            let [r, k] = [1, 2].map(|seed| numbers(n_key * tokens, seed));
            let v = numbers(n_value * tokens, 3);
            let [scale, decay] = [4, 5].map(|seed| -> Vec<f32> {
                numbers(tokens, seed).into_iter().map(|x| 0.7 + 0.3 * x).collect()
            });
            let weights = numbers(n_level * tokens, 6);
            let mut expected = vec![0.0; n_value * tokens];
            for t in 0..tokens {
                let mut faded = 1.0;
                for s in (0..=t).rev() {
                    let level = (usize::BITS - (t ^ s).leading_zeros()) as usize;
                    let product: f64 = (0..n_key)
                        .map(|j| f64::from(r[t * n_key + j]) * f64::from(k[s * n_key + j]))
                        .sum();
                    let weight = f64::from(weights[t * n_level + level]) * f64::from(scale[s]);
                    for i in 0..n_value {
                        expected[t * n_value + i] +=
                            weight * faded * product * f64::from(v[s * n_value + i]);
                    }
                    faded *= f64::from(decay[s]);
                }
            }
            let mut first: Option<(Vec<f32>, Vec<S>)> = None;
            for isa in Isa::available() {
                for cut in [tokens, 1, 16] {
                    let mut state = vec![S::of(0.0); n_level * n_key * n_value];
                    let mut y = vec![f32::NAN; n_value * tokens];
                    for (from, to) in [(0, cut), (cut, tokens)] {
                        let view = |x, rows| Columns::new(x, rows, from..to, 0..rows);
                        let span = Levels {
                            r: view(&r, n_key),
                            k: view(&k, n_key),
                            v: view(&v, n_value),
                            scale: view(&scale, 1),
                            decay: view(&decay, 1),
                            weights: view(&weights, n_level),
                            first: from,
                            y: ColumnsMut::whole(&mut y[from * n_value..to * n_value], n_value),
                        };
                        log_linear_attention(isa, &mut S::elements(&mut state), span);
                    }
                    for (y, expected) in y.iter().zip(&expected) {
                        assert!((f64::from(*y) - expected).abs() < tolerance, "{y} {expected}");
                    }
                    let first = first.get_or_insert_with(|| (y.clone(), state.clone()));
                    assert_eq!(*first, (y, state), "{isa:?} {cut}");
                }
            }
        }
    }
}
