//! Second moments of a product's inputs, `H = Σ x xᵀ`, and their factor.
//!
//! Only the lower half is computed and kept, in place and row by row. Work is spread over blocks of
//! rows, whose size never changes: the same bits for any number of threads. Test: below.

use std::ops::Range;

use rayon::prelude::*;

use crate::product::{View, multiply};

/// Rows and columns of a block.
pub(crate) const BLOCK: usize = 128;

/// The moments of inputs of `k` values.
#[derive(Clone)]
pub(crate) struct Gram {
    k: usize,
    /// The lower half of (k, k); above the diagonal's blocks zero.
    values: Vec<f32>,
}

impl Gram {
    /// Those of no input.
    pub(crate) fn new(k: usize) -> Gram {
        Gram { k, values: vec![0.0; k * k] }
    }

    /// Bytes of the moments of inputs of `k` values.
    pub(crate) fn bytes(k: usize) -> usize {
        k.saturating_mul(k).saturating_mul(size_of::<f32>())
    }

    /// Adds the inputs `x`, (n, k); there may be none, as of experts that a text did not choose.
    pub(crate) fn add(&mut self, x: &[f32]) {
        if x.is_empty() {
            return;
        }
        let (k, n) = (self.k, x.len() / self.k);
        self.values.par_chunks_mut(BLOCK * k).enumerate().for_each(|(b, rows)| {
            let (first, height) = (b * BLOCK, rows.len() / k);
            let of = |first: usize, width: usize| View::rows(&x[first..], (n, width), k);
            // All columns up to the last of the diagonal's block.
            let (a, b) = (of(first, height).transposed(), of(0, first + height));
            multiply((rows, k), (1.0, 1.0), a, b);
        });
    }

    /// `Σ x²` of each element.
    pub(crate) fn diagonal(&self) -> Vec<f32> {
        (0..self.k).map(|i| self.values[i * self.k + i]).collect()
    }

    /// `Σ e H eᵀ` over rows e: `errors` is (k, n), a row of the matrix in each column.
    pub(crate) fn weigh(&self, errors: &[f32]) -> f64 {
        let (k, n) = (self.k, errors.len() / self.k);
        let mut product = vec![0.0; BLOCK * n];
        let mut sum = 0.0;
        for (b, rows) in self.values.chunks(BLOCK * k).enumerate() {
            let (first, height) = (b * BLOCK, rows.len() / k);
            let own = &errors[first * n..][..height * n];
            let product = &mut product[..height * n];
            // Blocks left of the diagonal count twice, the diagonal's are whole.
            let before = View::rows(errors, (first, n), n);
            multiply((product, n), (2.0, 0.0), View::rows(rows, (height, first), k), before);
            let diagonal = View::rows(&rows[first..], (height, height), k);
            multiply((product, n), (1.0, 1.0), diagonal, View::rows(own, (height, n), n));
            sum +=
                own.iter().zip(&*product).map(|(e, p)| f64::from(*e) * f64::from(*p)).sum::<f64>();
        }
        sum
    }

    /// The length of inputs.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// The rows `range` of `H E`, of E the rows of `errors`, (k, n).
    pub(crate) fn times(&self, range: Range<usize>, errors: &[f32], n: usize, out: &mut [f32]) {
        let (k, Range { start, end }) = (self.k, range);
        let height = end - start;
        let rows = |first: usize, n_rows: usize| View::rows(&errors[first * n..], (n_rows, n), n);
        let own = |at: usize, width: usize| View::rows(&self.values[at..], (height, width), k);
        multiply((out, n), (1.0, 0.0), own(start * k, start), rows(0, start));
        // Blocks on the diagonal are whole.
        multiply((out, n), (1.0, 1.0), own(start * k + start, height), rows(start, height));
        if end < k {
            let below = View::rows(&self.values[end * k + start..], (k - end, height), k);
            multiply((out, n), (1.0, 1.0), below.transposed(), rows(end, k - end));
        }
    }

    /// Element j of row i, of a block on the diagonal.
    pub(crate) fn near(&self, i: usize, j: usize) -> f32 {
        debug_assert_eq!(i / BLOCK, j / BLOCK);
        self.values[i * self.k + j]
    }

    /// The moments with `damping` of the mean of the diagonal added to it, and their factor; `None`
    /// if they are no positive matrix of finite numbers even so.
    pub(crate) fn metric(self, damping: f32) -> Option<Metric> {
        let Gram { k, mut values } = self;
        let mean = (0..k).map(|i| f64::from(values[i * k + i])).sum::<f64>() / k as f64;
        let added = (mean * f64::from(damping)) as f32;
        if !added.is_finite() || added <= 0.0 {
            return None;
        }
        (0..k).for_each(|i| values[i * k + i] += added);
        let moments = Gram { k, values: values.clone() };
        for first in (0..k).step_by(BLOCK).rev() {
            let height = BLOCK.min(k - first);
            let (above, rows) = values.split_at_mut(first * k);
            let rows = &mut rows[..height * k];
            let inverse = factor_block(&mut rows[first..], height, k)?;
            // Left of the diagonal: L = D⁻ᵀ H.
            let left = View::rows(rows, (height, first), k);
            let mut solved = vec![0.0; height * first];
            let inverse = View::rows(&inverse, (height, height), height).transposed();
            multiply((&mut solved, first.max(1)), (1.0, 0.0), inverse, left);
            for (row, solved) in rows.chunks_exact_mut(k).zip(solved.chunks_exact(first.max(1))) {
                row[..first].copy_from_slice(solved);
            }
            // What stands above: H −= Lᵀ L.
            above.par_chunks_mut(BLOCK * k).enumerate().for_each(|(b, out)| {
                let (first, n) = (b * BLOCK, out.len() / k);
                let own = View::rows(&rows[first..], (height, n), k).transposed();
                let up_to = View::rows(rows, (height, first + n), k);
                multiply((out, k), (-1.0, 1.0), own, up_to);
            });
        }
        Some(Metric { moments, factor: Factor { k, values } })
    }
}

/// How much errors of a row cost.
pub(crate) struct Metric {
    /// H, damped.
    pub(crate) moments: Gram,
    /// L.
    pub(crate) factor: Factor,
}

/// Overwrites the block D of symmetric H at the front of `values`, whose rows are `k` long, by the
/// lower L with `H = Lᵀ L`, zero above; gives L⁻¹.
fn factor_block(values: &mut [f32], n: usize, k: usize) -> Option<Vec<f32>> {
    let mut l = vec![0.0f64; n * n];
    for i in (0..n).rev() {
        for j in (0..=i).rev() {
            let above = (i + 1..n).map(|s| l[s * n + i] * l[s * n + j]).sum::<f64>();
            let rest = f64::from(values[i * k + j]) - above;
            l[i * n + j] = if i == j { rest.sqrt() } else { rest / l[i * n + i] };
            // NaN too.
            if i == j && !(rest > 0.0 && rest.is_finite()) {
                return None;
            }
        }
    }
    let mut inverse = vec![0.0f64; n * n];
    for j in 0..n {
        inverse[j * n + j] = 1.0 / l[j * n + j];
        for i in j + 1..n {
            let sum = (j..i).map(|s| l[i * n + s] * inverse[s * n + j]).sum::<f64>();
            inverse[i * n + j] = -sum / l[i * n + i];
        }
    }
    for i in 0..n {
        for j in 0..n {
            values[i * k + j] = l[i * n + j] as f32;
        }
    }
    Some(inverse.into_iter().map(|x| x as f32).collect())
}

/// The lower L with `H = Lᵀ L`: an error e of a row costs `|L e|²`, of which element i has
/// to do with the errors of the columns up to i alone.
pub(crate) struct Factor {
    k: usize,
    values: Vec<f32>,
}

impl Factor {
    /// Columns.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// The first i + 1 elements of row `i`, which are all that is not zero.
    pub(crate) fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.k..][..i + 1]
    }

    /// The first `width` elements of the `height` rows from `first` on.
    pub(crate) fn rows(&self, first: usize, (height, width): (usize, usize)) -> View<'_> {
        View::rows(&self.values[first * self.k..], (height, width), self.k)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(n: usize, k: usize) -> Vec<f32> {
        let mut rng = fastrand::Rng::with_seed(1);
        let x: Vec<f32> = (0..n * k).map(|_| rng.f32() - 0.5).collect();
        // Neighbours go together, and one column is always 0.
        (0..n * k).map(|i| if i % k == 3 { 0.0 } else { x[i] + x[(i + 1) % x.len()] }).collect()
    }

    #[test]
    fn moments_and_factors_fit_their_inputs() {
        for (n, k) in [(40, 5), (300, 130), (700, 300)] {
            let x = inputs(n, k);
            let mut gram = Gram::new(k);
            let (first, second) = x.split_at(n / 3 * k);
            gram.add(first);
            gram.add(second);
            let exact = |i: usize, j: usize| -> f64 {
                (0..n).map(|t| f64::from(x[t * k + i]) * f64::from(x[t * k + j])).sum()
            };
            for (i, j) in [(0, 0), (k - 1, 0), (k - 1, k - 1), (k / 2, k / 3)] {
                let found = f64::from(gram.values[i * k + j]);
                assert!((found - exact(i, j)).abs() < 1e-3, "{i} {j}: {found}");
            }
            // Two rows of errors, in columns.
            let errors: Vec<f32> = inputs(k, 2);
            let mut expected = 0.0;
            for row in 0..2 {
                for t in 0..n {
                    let y: f32 = (0..k).map(|i| x[t * k + i] * errors[i * 2 + row]).sum();
                    expected += f64::from(y * y);
                }
            }
            let found = gram.weigh(&errors);
            assert!((found / expected - 1.0).abs() < 1e-4, "{found} {expected}");
            let diagonal = gram.diagonal();
            let added = 0.01 * diagonal.iter().sum::<f32>() / k as f32;
            let moments = gram.values.clone();
            let Metric { moments: damped, factor } = gram.metric(0.01).expect("a positive matrix");
            let mut products = vec![0.0; k * 2];
            for first in (0..k).step_by(BLOCK) {
                let range = first..k.min(first + BLOCK);
                damped.times(range.clone(), &errors, 2, &mut products[2 * first..]);
            }
            let cost: f32 = errors.iter().zip(&products).map(|(e, p)| e * p).sum();
            let found = damped.weigh(&errors);
            assert!((f64::from(cost) / found - 1.0).abs() < 1e-4, "{cost} {found}");
            assert_eq!(factor.k(), k);
            for (i, j) in (0..k).flat_map(|i| (0..=i).map(move |j| (i, j))) {
                let product: f64 =
                    (i..k).map(|s| f64::from(factor.row(s)[i]) * f64::from(factor.row(s)[j])).sum();
                let wanted = moments[i * k + j] + if i == j { added } else { 0.0 };
                assert!((product - f64::from(wanted)).abs() < 2e-3, "{i} {j}: {product} {wanted}");
            }
        }
    }

    #[test]
    fn no_inputs_and_bad_ones_have_no_factor() {
        let mut gram = Gram::new(2 * BLOCK + 1);
        gram.add(&[]);
        assert_eq!(gram.weigh(&[]), 0.0);
        assert!(gram.metric(0.01).is_none());
        let mut gram = Gram::new(20);
        gram.add(&[f32::MAX; 20]);
        assert!(gram.metric(0.01).is_none());
    }
}
