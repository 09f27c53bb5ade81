//! MesaNet's memory (von Oswald et al. 2025, arXiv 2506.05233, eq. 7): what a token reads is the
//! solution of a least-squares problem over all keys and values so far, which a fixed number of
//! steps of conjugate gradients comes near. That number and the two summands of 10⁻⁵ are part of
//! the function: the steps do not converge to the exact solution.
//!
//! Reference: fla `ops/mesa_net/naive.py`, the step of decoding. The state is read as it is kept.
//! Tests: below.

use crate::kernels::Isa;
use crate::kernels::columns::{Columns, ColumnsMut};
use crate::kernels::lanes::{WIDTH, dot, update, update2};
use crate::kernels::state::{StateElement, StateKernel, StateSlice};
use crate::kernels::vector::Vector;

/// Added to both divisors of a step.
const EPS: f32 = 1e-5;
/// The largest head.
pub(crate) const MAX_MESA: usize = 256;

/// The inputs of a span of tokens to one head, one column per token; its keys and values are
/// equally long (d).
pub(crate) struct Mesa<'a> {
    /// Query and key, both of length 1 (d).
    pub(crate) q: Columns<'a>,
    pub(crate) k: Columns<'a>,
    /// (d)
    pub(crate) v: Columns<'a>,
    /// What the state is multiplied by, and what is written (1).
    pub(crate) decay: Columns<'a>,
    pub(crate) beta: Columns<'a>,
    /// Added to the diagonal of K (d).
    pub(crate) lambda: &'a [f32],
    pub(crate) steps: usize,
    /// Overwritten (d).
    pub(crate) y: ColumnsMut<'a>,
}

/// Token after token: `K ← decay K + β k kᵀ`, `M ← decay M + β k vᵀ`, `y = Mᵀ x` for the x that
/// `steps` steps leave of `(K + diag(λ)) x = q`. `state` is K, then M, (d, d) each.
///
/// # Panics
/// Parts of the span differ in size, or do not fit the state: a bug in the model.
pub(crate) fn mesa(isa: Isa, state: &mut StateSlice<'_>, span: Mesa<'_>) {
    state.update(isa, span);
}

impl StateKernel for Mesa<'_> {
    #[inline(always)]
    fn run<V: Vector, S: StateElement>(mut self, state: &mut [S]) {
        let (d, tokens) = (self.lambda.len(), self.y.len());
        assert!(d > 0 && d <= MAX_MESA && state.len() == 2 * d * d && self.y.rows() == d);
        let fits = |x: &Columns<'_>, rows: usize| assert!(x.rows() == rows && x.len() == tokens);
        [&self.q, &self.k, &self.v].into_iter().for_each(|x| fits(x, d));
        [&self.decay, &self.beta].into_iter().for_each(|x| fits(x, 1));
        let (keys, values) = state.split_at_mut(d * d);
        for c in 0..tokens {
            let (k, decay, beta) = (self.k.at(c), self.decay.at(c)[0], self.beta.at(c)[0]);
            write::<V, S>(keys, k, k, decay, beta);
            write::<V, S>(values, k, self.v.at(c), decay, beta);
            let mut x = [0.0; MAX_MESA];
            solve::<V, S>(keys, self.q.at(c), self.lambda, self.steps, &mut x[..d]);
            read::<V, S>(values, &x[..d], self.y.at(c));
        }
    }
}

/// `rows ← decay rows + β k vᵀ`.
#[inline(always)]
fn write<V: Vector, S: StateElement>(rows: &mut [S], k: &[f32], v: &[f32], decay: f32, beta: f32) {
    let whole = v.len() / WIDTH * WIDTH;
    for (row, k) in rows.chunks_exact_mut(v.len()).zip(k) {
        let k = beta * k;
        for at in (0..whole).step_by(WIDTH) {
            let new = V::load(&v[at..]).mul(V::splat(k));
            let next = S::load::<V>(&row[at..]).mul_add(V::splat(decay), new);
            S::store(next, &mut row[at..]);
        }
        for (s, v) in row[whole..].iter_mut().zip(&v[whole..]) {
            *s = S::of(V::mul_add_one(s.value(), decay, v * k));
        }
    }
}

/// `out = rowsᵀ x`, rows ascending.
#[inline(always)]
fn read<V: Vector, S: StateElement>(rows: &[S], x: &[f32], out: &mut [f32]) {
    let (n, whole) = (out.len(), out.len() / WIDTH * WIDTH);
    for at in (0..whole).step_by(WIDTH) {
        let mut sum = V::splat(0.0);
        for (row, x) in rows.chunks_exact(n).zip(x) {
            sum = S::load::<V>(&row[at..]).mul_add(V::splat(*x), sum);
        }
        sum.store(&mut out[at..]);
    }
    for at in whole..n {
        let mut sum = 0.0;
        for (row, x) in rows.chunks_exact(n).zip(x) {
            sum = V::mul_add_one(row[at].value(), *x, sum);
        }
        out[at] = sum;
    }
}

/// The steps from `x = q / (diagonal + λ)` (Hestenes & Stiefel 1952).
#[inline(always)]
fn solve<V: Vector, S: StateElement>(
    keys: &[S],
    q: &[f32],
    lambda: &[f32],
    steps: usize,
    x: &mut [f32],
) {
    let d = x.len();
    let mut buffers = [[0.0; MAX_MESA]; 3];
    let [r, p, product] = buffers.each_mut().map(|buffer| &mut buffer[..d]);
    for (i, x) in x.iter_mut().enumerate() {
        *x = q[i] / (keys[i * d + i].value() + lambda[i]);
    }
    // r = q − (K + diag(λ)) x.
    read::<V, S>(keys, x, product);
    update2(product, x, lambda, |sum, x, lambda| sum + lambda * x);
    update2(r, q, product, |_, q, product| q - product);
    p.copy_from_slice(r);
    let mut square = dot(r, r);
    for _ in 0..steps {
        read::<V, S>(keys, p, product);
        update2(product, p, lambda, |sum, p, lambda| sum + lambda * p);
        let alpha = square / (dot(p, product) + EPS);
        update(x, p, |x, p| x + alpha * p);
        update(r, product, |r, product| r - alpha * product);
        let next = dot(r, r);
        let beta = next / (square + EPS);
        update(p, r, |p, r| r + beta * p);
        square = next;
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::kernels::recurrence::support::{Format, numbers};

    /// One token in plain f64.
    fn token(state: &mut [f64], [q, k, v, lambda]: [&[f32]; 4], decay: f32, beta: f32) -> Vec<f64> {
        let d = q.len();
        let [q, k, v, lambda] =
            [q, k, v, lambda].map(|x| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>());
        for i in 0..d {
            for j in 0..d {
                for (half, value) in [(0, k[j]), (d * d, v[j])] {
                    let s = &mut state[half + i * d + j];
                    *s = f64::from(decay) * *s + f64::from(beta) * k[i] * value;
                }
            }
        }
        let apply = |x: &[f64]| -> Vec<f64> {
            let row = |i: usize| (0..d).map(|j| state[i * d + j] * x[j]).sum::<f64>();
            (0..d).map(|i| row(i) + lambda[i] * x[i]).collect()
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut x: Vec<f64> = (0..d).map(|i| q[i] / (state[i * d + i] + lambda[i])).collect();
        let mut r: Vec<f64> = q.iter().zip(apply(&x)).map(|(q, ax)| q - ax).collect();
        let mut p = r.clone();
        for _ in 0..3 {
            let (ap, square) = (apply(&p), dot(&r, &r));
            let alpha = square / (dot(&p, &ap) + 1e-5);
            for i in 0..d {
                x[i] += alpha * p[i];
                r[i] -= alpha * ap[i];
            }
            let beta = dot(&r, &r) / (square + 1e-5);
            p = r.iter().zip(&p).map(|(r, p)| r + beta * p).collect();
        }
        (0..d).map(|j| (0..d).map(|i| state[d * d + i * d + j] * x[i]).sum()).collect()
    }

    /// Every instruction set and every cut gives the same bits, near the equations in f64.
    #[test]
    fn meets_its_equations() {
        check::<f32>(1e-5);
        check::<f16>(1e-2);
    }

    fn check<S: Format>(tolerance: f64) {
        for d in [1, 5, 16, 21, 48] {
            let tokens = 7;
            let scale = 1.0 / (d as f32).sqrt();
            let [q, k, v] = [1, 2, 3].map(|seed| -> Vec<f32> {
                numbers(d * tokens, seed).into_iter().map(|x| scale * x).collect()
            });
            let positive = |n, seed| -> Vec<f32> {
                numbers(n, seed).into_iter().map(|x| 0.6 + 0.4 * x).collect()
            };
            let [decay, beta, lambda] =
                [(tokens, 4), (tokens, 5), (d, 6)].map(|(n, seed)| positive(n, seed));
            let mut exact = vec![0.0; 2 * d * d];
            let expected: Vec<f64> = (0..tokens)
                .flat_map(|c| {
                    let own = c * d..(c + 1) * d;
                    let columns = [&q[own.clone()], &k[own.clone()], &v[own], &lambda];
                    token(&mut exact, columns, decay[c], beta[c])
                })
                .collect();
            let mut first: Option<(Vec<f32>, Vec<S>)> = None;
            for isa in Isa::available() {
                for cut in [tokens, 3] {
                    let (mut state, mut y) = (vec![S::of(0.0); 2 * d * d], vec![0.0; d * tokens]);
                    for (from, to) in [(0, cut), (cut, tokens)] {
                        let view = |x, rows| Columns::new(x, rows, from..to, 0..rows);
                        let span = Mesa {
                            q: view(&q, d),
                            k: view(&k, d),
                            v: view(&v, d),
                            decay: view(&decay, 1),
                            beta: view(&beta, 1),
                            lambda: &lambda,
                            steps: 3,
                            y: ColumnsMut::whole(&mut y[from * d..to * d], d),
                        };
                        mesa(isa, &mut S::elements(&mut state), span);
                    }
                    for (y, expected) in y.iter().zip(&expected) {
                        assert!((f64::from(*y) - expected).abs() < tolerance, "{isa:?} {d}");
                    }
                    let first = first.get_or_insert_with(|| (y.clone(), state.clone()));
                    assert_eq!(*first, (y, state), "{isa:?} {d} {cut}");
                }
            }
        }
    }
}
