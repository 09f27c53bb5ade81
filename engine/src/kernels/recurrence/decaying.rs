//! Linear attention for several tokens of a head whose keys decay alike (Mamba-2: Dao & Gu 2024,
//! arXiv 2405.21060).
//!
//! A few rows of the state stay in registers while tokens pass. What it computes is defined by
//! `linear.rs`. Tests: below.

use std::ops::Range;

use crate::kernels::lanes::WIDTH;
use crate::kernels::stored::{StateKernel, Stored};
use crate::kernels::vector::Vector;

/// What several tokens bring to one head whose keys decay alike, column by column.
pub(crate) trait Decaying<'a> {
    /// The columns, in order.
    fn columns(&self) -> Range<usize>;
    /// Receptance and key of column `c`, over keys.
    fn keys(&self, c: usize) -> (&'a [f32], &'a [f32]);
    /// Value of column `c`, and what it is multiplied by.
    fn value(&self, c: usize) -> (&'a [f32], f32);
    /// Decay of column `c`.
    fn decay(&self, c: usize) -> f32;
    /// Where the result of column `c` goes.
    fn y(&mut self, c: usize) -> &mut [f32];
}

/// [`linear_attention`](super::linear_attention) read after the update, without a delta term, for
/// several tokens. The bits are those of one token after the other. The state is (n_key, n_value).
pub(crate) struct DecayingSpan<T> {
    pub(crate) n_value: usize,
    pub(crate) tokens: T,
}

/// Tokens whose values and sums stand side by side on the stack, while the state passes by once.
const TOKENS: usize = 32;

impl<'a, T: Decaying<'a>> StateKernel for DecayingSpan<T> {
    #[inline(always)]
    fn run<V: Vector, S: Stored>(self, state: &mut [S]) {
        let DecayingSpan { n_value, mut tokens } = self;
        let columns = tokens.columns();
        if columns.len() == 1 {
            return values::<V, S, 1>(state, n_value, &mut tokens, columns);
        }
        for from in columns.clone().step_by(TOKENS) {
            let some = from..columns.end.min(from + TOKENS);
            values::<V, S, TOKENS>(state, n_value, &mut tokens, some);
        }
    }
}

/// All values of at most `T` tokens.
#[inline(always)]
fn values<'a, V: Vector, S: Stored, const T: usize>(
    state: &mut [S],
    n_value: usize,
    tokens: &mut impl Decaying<'a>,
    columns: Range<usize>,
) {
    let mut keys = [Keys::default(); T];
    for (keys, c) in keys.iter_mut().zip(columns.clone()) {
        let (r, k) = tokens.keys(c);
        *keys = Keys { r, k, decay: tokens.decay(c) };
    }
    let keys = &keys[..columns.len()];
    let mut at = 0;
    while at + 4 * WIDTH <= n_value {
        lanes::<V, S, 4, 4, T>(state, n_value, at, tokens, keys, columns.clone());
        at += 4 * WIDTH;
    }
    while at + 2 * WIDTH <= n_value {
        lanes::<V, S, 2, 8, T>(state, n_value, at, tokens, keys, columns.clone());
        at += 2 * WIDTH;
    }
    while at + WIDTH <= n_value {
        lanes::<V, S, 1, 8, T>(state, n_value, at, tokens, keys, columns.clone());
        at += WIDTH;
    }
    for (keys, c) in keys.iter().zip(columns) {
        for at in at..n_value {
            let (value, factor) = tokens.value(c);
            let v = factor * value[at];
            let mut sum = 0.0;
            for ((row, k), r) in state.chunks_exact_mut(n_value).zip(keys.k).zip(keys.r) {
                let next = row[at].value().mul_add(keys.decay, v * k);
                row[at] = S::of(next);
                sum = next.mul_add(*r, sum);
            }
            tokens.y(c)[at] = sum;
        }
    }
}

/// What a token brings to all its values.
#[derive(Clone, Copy, Default)]
struct Keys<'a> {
    r: &'a [f32],
    k: &'a [f32],
    decay: f32,
}

/// `L` vectors of value lanes from lane `at`, `J` keys at a time.
#[inline(always)]
fn lanes<'a, V: Vector, S: Stored, const L: usize, const J: usize, const T: usize>(
    state: &mut [S],
    n_value: usize,
    at: usize,
    tokens: &mut impl Decaying<'a>,
    keys: &[Keys<'_>],
    columns: Range<usize>,
) {
    let mut v = [[V::splat(0.0); L]; T];
    let mut y = v;
    for (v, c) in v.iter_mut().zip(columns.clone()) {
        let (value, factor) = tokens.value(c);
        for (v, value) in v.iter_mut().zip(value[at..].chunks_exact(WIDTH)) {
            *v = V::splat(factor).mul(V::load(value));
        }
    }
    let whole = keys.first().map_or(0, |keys| keys.k.len() / J * J);
    let (rows, rest) = state.split_at_mut(whole * n_value);
    for (j, rows) in rows.chunks_exact_mut(J * n_value).enumerate() {
        rows_of_state::<V, S, L, J>(rows, at, j * J, keys, &v, &mut y);
    }
    for (j, row) in rest.chunks_exact_mut(n_value).enumerate() {
        rows_of_state::<V, S, L, 1>(row, at, whole + j, keys, &v, &mut y);
    }
    for (y, c) in y.iter().zip(columns) {
        for (y, out) in y.iter().zip(tokens.y(c)[at..].chunks_exact_mut(WIDTH)) {
            y.store(out);
        }
    }
}

/// All tokens through `J` rows of the state, those from key `key` on, which stay in registers
/// meanwhile. Sums go on from the keys before.
#[inline(always)]
fn rows_of_state<V: Vector, S: Stored, const L: usize, const J: usize>(
    rows: &mut [S],
    at: usize,
    key: usize,
    keys: &[Keys<'_>],
    v: &[[V; L]],
    y: &mut [[V; L]],
) {
    let n_value = rows.len() / J;
    let mut s = [[V::splat(0.0); L]; J];
    for (s, row) in s.iter_mut().zip(rows.chunks_exact(n_value)) {
        for l in 0..L {
            s[l] = S::load(&row[at + l * WIDTH..]);
        }
    }
    for (c, ((keys, v), y)) in keys.iter().zip(v).zip(y).enumerate() {
        let (r, k, w) = (&keys.r[key..key + J], &keys.k[key..key + J], V::splat(keys.decay));
        let mut sum = *y;
        for j in 0..J {
            let (r, k) = (V::splat(r[j]), V::splat(k[j]));
            for l in 0..L {
                // Rounded as if it had been stored since the token before.
                let before = if c == 0 { s[j][l] } else { S::kept(s[j][l]) };
                s[j][l] = before.mul_add(w, v[l].mul(k));
                sum[l] = s[j][l].mul_add(r, sum[l]);
            }
        }
        *y = sum;
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

    /// One head's tokens in plain vectors, keys (n_key) and values (n_value) one column after the
    /// other.
    struct Tokens<'a> {
        r: &'a [f32],
        k: &'a [f32],
        v: &'a [f32],
        factor: &'a [f32],
        decay: &'a [f32],
        y: &'a mut [f32],
        columns: usize,
    }

    impl<'a> Decaying<'a> for Tokens<'a> {
        fn columns(&self) -> Range<usize> {
            0..self.columns
        }
        fn keys(&self, c: usize) -> (&'a [f32], &'a [f32]) {
            let n = self.k.len() / self.columns;
            (&self.r[c * n..][..n], &self.k[c * n..][..n])
        }
        fn value(&self, c: usize) -> (&'a [f32], f32) {
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

    /// Several tokens at once give the bits of one after the other, each of which leaves a rounded
    /// state.
    #[test]
    fn spans_equal_single_tokens() {
        check_spans::<f32>();
        check_spans::<f16>();
    }

    fn check_spans<S: Format>() {
        for (n_key, n_value, columns) in
            [(128, 64, 70), (16, 32, 1), (9, 80, 33), (11, 19, 4), (3, 3, 2)]
        {
            let [r, k] = [1, 2].map(|seed| numbers(n_key * columns, seed));
            let v = numbers(n_value * columns, 3);
            let [factor, decay] = [4, 5].map(|seed| numbers(columns, seed));
            let start = S::state(n_key * n_value, 6);
            let (mut expected_state, mut expected) = (start.clone(), vec![0.0; n_value * columns]);
            for (c, y) in expected.chunks_exact_mut(n_value).enumerate() {
                let v: Vec<f32> =
                    v[c * n_value..][..n_value].iter().map(|v| factor[c] * v).collect();
                let (r, k) = (&r[c * n_key..][..n_key], &k[c * n_key..][..n_key]);
                let token = Token { r, k, v: &v, decay: |_: usize| decay[c] };
                let state = &mut S::elements(&mut expected_state);
                linear_attention(Isa::Scalar, state, token, None, Read::After, y);
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
