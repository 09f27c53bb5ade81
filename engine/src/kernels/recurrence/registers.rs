//! Linear attention without a delta term: a few rows of the state stay in registers while the
//! tokens of a span pass.
//!
//! A row of the state meets every token, but needs of each only that token's value, and gives only
//! a summand of its result. So the values and sums of up to [`TOKENS`] tokens stand side by side on
//! the stack, and the state passes by once for all of them instead of once for each. Sums over keys
//! run in the same order either way. Tests: `span.rs`.

use std::ops::Range;

use super::span::{Decay, Read, Span};
use crate::kernels::lanes::WIDTH;
use crate::kernels::state::StateElement;
use crate::kernels::vector::Vector;

/// Tokens whose values and sums stand side by side on the stack, while the state passes by once.
const TOKENS: usize = 32;

/// The vectors over keys that a token brings.
#[derive(Clone, Copy, Default)]
struct Keys<'a> {
    r: &'a [f32],
    k: &'a [f32],
    /// One for each key, or one for all.
    decay: &'a [f32],
}

/// All tokens of `span`, for as many values as there are in whole vectors; returns how many.
#[inline(always)]
pub(super) fn lanes<V: Vector, S: StateElement>(state: &mut [S], span: &mut Span<'_>) -> usize {
    match (span.decay, span.read) {
        (Decay::PerHead(_), Read::After) => tokens::<V, S, false, false>(state, span, &[]),
        (Decay::PerKey(_), Read::After) => tokens::<V, S, true, false>(state, span, &[]),
        (Decay::PerKey(_), Read::Before { bonus }) => {
            tokens::<V, S, true, true>(state, span, bonus)
        }
        // No model has both; until one does, it is right and slow.
        (Decay::PerHead(_), Read::Before { .. }) => 0,
    }
}

/// A few tokens at a time.
#[inline(always)]
fn tokens<V: Vector, S: StateElement, const PER_KEY: bool, const BEFORE: bool>(
    state: &mut [S],
    span: &mut Span<'_>,
    bonus: &[f32],
) -> usize {
    let tokens = span.y.len();
    if tokens == 1 {
        return values::<V, S, PER_KEY, BEFORE, 1>(state, span, bonus, 0..1);
    }
    let mut whole = 0;
    for from in (0..tokens).step_by(TOKENS) {
        let some = from..tokens.min(from + TOKENS);
        whole = values::<V, S, PER_KEY, BEFORE, TOKENS>(state, span, bonus, some);
    }
    whole
}

/// All values of at most `T` tokens.
#[inline(always)]
fn values<V: Vector, S: StateElement, const PER_KEY: bool, const BEFORE: bool, const T: usize>(
    state: &mut [S],
    span: &mut Span<'_>,
    bonus: &[f32],
    columns: Range<usize>,
) -> usize {
    let n_value = span.v.rows();
    let mut keys = [Keys::default(); T];
    for (keys, c) in keys.iter_mut().zip(columns.clone()) {
        *keys = Keys { r: span.r.at(c), k: span.k.at(c), decay: span.decay.of(c).0 };
    }
    let keys = &keys[..columns.len()];
    let mut at = 0;
    // The state takes half of the registers. Sixteen vectors are half of AVX-512's 32, where a
    // vector is one register; elsewhere four are: 8 of AVX2's 16, 16 of NEON's 32.
    while V::REGISTERS == 1 && at + 4 * WIDTH <= n_value {
        block::<V, S, PER_KEY, BEFORE, 4, 4, T>(state, at, span, keys, bonus, columns.clone());
        at += 4 * WIDTH;
    }
    while V::REGISTERS == 1 && at + 2 * WIDTH <= n_value {
        block::<V, S, PER_KEY, BEFORE, 2, 8, T>(state, at, span, keys, bonus, columns.clone());
        at += 2 * WIDTH;
    }
    while at + WIDTH <= n_value {
        block::<V, S, PER_KEY, BEFORE, 1, 4, T>(state, at, span, keys, bonus, columns.clone());
        at += WIDTH;
    }
    at
}

/// `L` vectors of values from value `at`, `J` keys at a time.
#[inline(always)]
fn block<
    V: Vector,
    S: StateElement,
    const PER_KEY: bool,
    const BEFORE: bool,
    const L: usize,
    const J: usize,
    const T: usize,
>(
    state: &mut [S],
    at: usize,
    span: &mut Span<'_>,
    keys: &[Keys<'_>],
    bonus: &[f32],
    columns: Range<usize>,
) {
    let (n_key, n_value) = (span.k.rows(), span.v.rows());
    let mut v = [[V::splat(0.0); L]; T];
    let mut y = v;
    for (v, c) in v.iter_mut().zip(columns.clone()) {
        let (value, scale) = (span.v.at(c), V::splat(span.scale(c)));
        for (v, value) in v.iter_mut().zip(value[at..].chunks_exact(WIDTH)) {
            *v = scale.mul(V::load(value));
        }
    }
    let whole = n_key / J * J;
    let (rows, rest) = state.split_at_mut(whole * n_value);
    for (j, rows) in rows.chunks_exact_mut(J * n_value).enumerate() {
        rows_of_state::<V, S, PER_KEY, BEFORE, L, J>(rows, at, j * J, keys, bonus, &v, &mut y);
    }
    for (j, row) in rest.chunks_exact_mut(n_value).enumerate() {
        rows_of_state::<V, S, PER_KEY, BEFORE, L, 1>(row, at, whole + j, keys, bonus, &v, &mut y);
    }
    for (y, c) in y.iter().zip(columns) {
        for (y, out) in y.iter().zip(span.y.at(c)[at..].chunks_exact_mut(WIDTH)) {
            y.store(out);
        }
    }
}

/// All tokens through `J` rows of the state, those from key `key` on, which stay in registers
/// meanwhile. Sums go on from the keys before.
#[inline(always)]
fn rows_of_state<
    V: Vector,
    S: StateElement,
    const PER_KEY: bool,
    const BEFORE: bool,
    const L: usize,
    const J: usize,
>(
    rows: &mut [S],
    at: usize,
    key: usize,
    keys: &[Keys<'_>],
    bonus: &[f32],
    v: &[[V; L]],
    y: &mut [[V; L]],
) {
    let n_value = rows.len() / J;
    let own = key..key + J;
    let bonus = if BEFORE { &bonus[own.clone()] } else { bonus };
    let mut s = [[V::splat(0.0); L]; J];
    for (s, row) in s.iter_mut().zip(rows.chunks_exact(n_value)) {
        for l in 0..L {
            s[l] = S::load(&row[at + l * WIDTH..]);
        }
    }
    for (c, ((keys, v), y)) in keys.iter().zip(v).zip(y).enumerate() {
        let (r, k) = (&keys.r[own.clone()], &keys.k[own.clone()]);
        let decay = &keys.decay[if PER_KEY { own.clone() } else { 0..1 }];
        let (mut sum, mut w) = (*y, V::splat(decay[0]));
        for j in 0..J {
            let (r, k) = (V::splat(r[j]), V::splat(k[j]));
            if PER_KEY {
                w = V::splat(decay[j]);
            }
            for l in 0..L {
                // Rounded as if it had been stored since the token before.
                let before = if c == 0 { s[j][l] } else { S::kept(s[j][l]) };
                let kv = v[l].mul(k);
                s[j][l] = before.mul_add(w, kv);
                let seen = if BEFORE { kv.mul_add(V::splat(bonus[j]), before) } else { s[j][l] };
                sum[l] = seen.mul_add(r, sum[l]);
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
