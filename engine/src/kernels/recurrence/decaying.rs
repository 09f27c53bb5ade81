//! Linear attention for several tokens of a head whose keys decay alike (Mamba-2: Dao & Gu 2024, arXiv 2405.21060).
//!
//! A few rows of the state stay in registers while all tokens pass. What it computes is defined by `linear.rs`. Tests: below.

use std::ops::Range;

use crate::kernels::lanes::WIDTH;
use crate::kernels::stored::{StateKernel, Stored};
use crate::kernels::vector::Vector;

/// What several tokens bring to one head whose keys decay alike, column by column.
pub(crate) trait Decaying {
    /// The columns, in order.
    fn columns(&self) -> Range<usize>;
    /// Receptance and key of column `c`, over keys.
    fn keys(&self, c: usize) -> (&[f32], &[f32]);
    /// Value of column `c`, and what it is multiplied by.
    fn value(&self, c: usize) -> (&[f32], f32);
    /// Decay of column `c`.
    fn decay(&self, c: usize) -> f32;
    /// Where the result of column `c` goes.
    fn y(&mut self, c: usize) -> &mut [f32];
}

/// [`linear_attention`] read after the update, without a delta term, for several tokens: a few rows of the state stay in
/// registers while all tokens pass (Mamba-2). The bits are those of one token after the other. The state is (n_key, n_value).
pub(crate) struct DecayingSpan<T> {
    pub(crate) n_value: usize,
    pub(crate) tokens: T,
}

impl<T: Decaying> StateKernel for DecayingSpan<T> {
    #[inline(always)]
    fn run<V: Vector, S: Stored>(self, state: &mut [S]) {
        let DecayingSpan { n_value, mut tokens } = self;
        let mut at = 0;
        while at + 4 * WIDTH <= n_value {
            decaying_lanes::<V, S, 4, 4>(state, n_value, at, &mut tokens);
            at += 4 * WIDTH;
        }
        while at + 2 * WIDTH <= n_value {
            decaying_lanes::<V, S, 2, 8>(state, n_value, at, &mut tokens);
            at += 2 * WIDTH;
        }
        while at + WIDTH <= n_value {
            decaying_lanes::<V, S, 1, 8>(state, n_value, at, &mut tokens);
            at += WIDTH;
        }
        for c in tokens.columns() {
            for at in at..n_value {
                let ((r, k), (value, factor), decay) = (tokens.keys(c), tokens.value(c), tokens.decay(c));
                let v = factor * value[at];
                let mut sum = 0.0;
                for ((row, k), r) in state.chunks_exact_mut(n_value).zip(k).zip(r) {
                    let next = row[at].value().mul_add(decay, v * k);
                    row[at] = S::of(next);
                    sum = next.mul_add(*r, sum);
                }
                tokens.y(c)[at] = sum;
            }
        }
    }
}

/// `L` vectors of value lanes from lane `at`, `J` keys at a time.
#[inline(always)]
fn decaying_lanes<V: Vector, S: Stored, const L: usize, const J: usize>(
    state: &mut [S],
    n_value: usize,
    at: usize,
    tokens: &mut impl Decaying,
) {
    let n_key = state.len() / n_value;
    let whole = n_key / J * J;
    for key in (0..whole).step_by(J) {
        decaying_keys::<V, S, L, J>(&mut state[key * n_value..][..J * n_value], key, at, tokens);
    }
    for key in whole..n_key {
        decaying_keys::<V, S, L, 1>(&mut state[key * n_value..][..n_value], key, at, tokens);
    }
}

/// All tokens through the rows `rows` of the state, those from key `key` on. Sums go on from the keys before.
#[inline(always)]
fn decaying_keys<V: Vector, S: Stored, const L: usize, const J: usize>(
    rows: &mut [S],
    key: usize,
    at: usize,
    tokens: &mut impl Decaying,
) {
    let n_value = rows.len() / J;
    let mut s = [[V::splat(0.0); L]; J];
    for (s, row) in s.iter_mut().zip(rows.chunks_exact(n_value)) {
        for l in 0..L {
            s[l] = S::load(&row[at + l * WIDTH..]);
        }
    }
    let columns = tokens.columns();
    for c in columns.clone() {
        let (r, k) = tokens.keys(c);
        let (r, k) = (&r[key..key + J], &k[key..key + J]);
        let ((value, factor), w) = (tokens.value(c), V::splat(tokens.decay(c)));
        let mut v = [V::splat(0.0); L];
        for l in 0..L {
            v[l] = V::splat(factor).mul(V::load(&value[at + l * WIDTH..]));
        }
        for (s, k) in s.iter_mut().zip(k) {
            let k = V::splat(*k);
            for l in 0..L {
                // Rounded as if it had been stored since the token before.
                let before = if c == columns.start { s[l] } else { S::kept(s[l]) };
                s[l] = before.mul_add(w, v[l].mul(k));
            }
        }
        let mut sum = [V::splat(0.0); L];
        let r = <[f32; J]>::try_from(r).unwrap_or([0.0; J]);
        let y = &mut tokens.y(c)[at..at + L * WIDTH];
        for l in 0..L {
            if key > 0 {
                sum[l] = V::load(&y[l * WIDTH..]);
            }
        }
        for (s, r) in s.iter().zip(r) {
            let r = V::splat(r);
            for l in 0..L {
                sum[l] = s[l].mul_add(r, sum[l]);
            }
        }
        for l in 0..L {
            sum[l].store(&mut y[l * WIDTH..]);
        }
    }
    for (s, row) in s.iter().zip(rows.chunks_exact_mut(n_value)) {
        for l in 0..L {
            S::store(s[l], &mut row[at + l * WIDTH..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::kernels::Isa;
    use crate::kernels::recurrence::support::{Format, numbers};
    use crate::kernels::recurrence::{Read, Token, linear_attention};

    /// One head's tokens in plain vectors, keys (n_key) and values (n_value) one column after the other.
    struct Tokens<'a> {
        r: &'a [f32],
        k: &'a [f32],
        v: &'a [f32],
        factor: &'a [f32],
        decay: &'a [f32],
        y: &'a mut [f32],
        columns: usize,
    }

    impl Decaying for Tokens<'_> {
        fn columns(&self) -> Range<usize> {
            0..self.columns
        }
        fn keys(&self, c: usize) -> (&[f32], &[f32]) {
            let n = self.k.len() / self.columns;
            (&self.r[c * n..][..n], &self.k[c * n..][..n])
        }
        fn value(&self, c: usize) -> (&[f32], f32) {
            (&self.v[c * self.v.len() / self.columns..], self.factor[c])
        }
        fn decay(&self, c: usize) -> f32 {
            self.decay[c]
        }
        fn y(&mut self, c: usize) -> &mut [f32] {
            let n = self.y.len() / self.columns;
            &mut self.y[c * n..][..n]
        }
    }

    /// Several tokens at once give the bits of one after the other, each of which leaves a rounded state.
    #[test]
    fn spans_equal_single_tokens() {
        check_spans::<f32>();
        check_spans::<f16>();
    }

    fn check_spans<S: Format>() {
        for (n_key, n_value, columns) in [(128, 64, 5), (16, 32, 1), (9, 80, 3), (11, 19, 4), (3, 3, 2)] {
            let [r, k] = [1, 2].map(|seed| numbers(n_key * columns, seed));
            let v = numbers(n_value * columns, 3);
            let [factor, decay] = [4, 5].map(|seed| numbers(columns, seed));
            let start = S::state(n_key * n_value, 6);
            let (mut expected_state, mut expected) = (start.clone(), vec![0.0; n_value * columns]);
            for (c, y) in expected.chunks_exact_mut(n_value).enumerate() {
                let v: Vec<f32> = v[c * n_value..][..n_value].iter().map(|v| factor[c] * v).collect();
                let (r, k) = (&r[c * n_key..][..n_key], &k[c * n_key..][..n_key]);
                let token = Token { r, k, v: &v, decay: |_: usize| decay[c] };
                let state = &mut S::elements(&mut expected_state);
                linear_attention(Isa::Scalar, state, &token, None, &Read::After, y);
            }
            for isa in Isa::ALL.iter().filter(|isa| isa.available()) {
                let (mut state, mut y) = (start.clone(), vec![f32::NAN; n_value * columns]);
                let (r, k, v, factor, decay) = (&r, &k, &v, &factor, &decay);
                let tokens = Tokens { r, k, v, factor, decay, y: &mut y, columns };
                S::elements(&mut state).update(*isa, DecayingSpan { n_value, tokens });
                assert_eq!(y, expected, "{isa:?}");
                assert_eq!(state, expected_state, "{isa:?}");
            }
        }
    }
}
