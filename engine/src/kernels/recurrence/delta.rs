//! Linear attention with a delta term: token after token, since each reads all of the state before
//! it writes any.
//!
//! A token's reading of the old state (`aᵀS`) and its update are two passes over the state; the
//! reading of the next token is taken along with the update before it, so that a span of n tokens
//! takes n + 1 passes instead of 2n. Tests: `span.rs`.

use super::span::{Delta, Reads, Span};
use crate::kernels::lanes::WIDTH;
use crate::kernels::state::StateElement;
use crate::kernels::vector::Vector;

/// All tokens of `span`, for as many values as there are in whole vectors; returns how many.
#[inline(always)]
pub(super) fn lanes<V: Vector, S: StateElement>(
    state: &mut [S],
    span: &mut Span<'_>,
    delta: Delta<'_>,
) -> usize {
    match delta {
        Delta::General { .. } => values::<V, S, false>(state, span, delta),
        Delta::Rule { .. } => values::<V, S, true>(state, span, delta),
    }
}

/// The same, compiled for a delta rule or for any delta term.
#[inline(always)]
fn values<V: Vector, S: StateElement, const RULE: bool>(
    state: &mut [S],
    span: &mut Span<'_>,
    delta: Delta<'_>,
) -> usize {
    let n_value = span.v.rows();
    let mut at = 0;
    // A block of L keeps 4 L vectors (values, both readings, the sums), which take half of the
    // registers: 16 of AVX-512's 32, where a vector is one register; elsewhere, with L = 1, 8 of
    // AVX2's 16 and 16 of NEON's 32.
    while V::REGISTERS == 1 && at + 4 * WIDTH <= n_value {
        block::<V, S, RULE, 4>(state, at, span, delta);
        at += 4 * WIDTH;
    }
    while V::REGISTERS == 1 && at + 2 * WIDTH <= n_value {
        block::<V, S, RULE, 2>(state, at, span, delta);
        at += 2 * WIDTH;
    }
    while at + WIDTH <= n_value {
        block::<V, S, RULE, 1>(state, at, span, delta);
        at += WIDTH;
    }
    at
}

/// `L` vectors of values from value `at`.
#[inline(always)]
fn block<V: Vector, S: StateElement, const RULE: bool, const L: usize>(
    state: &mut [S],
    at: usize,
    span: &mut Span<'_>,
    delta: Delta<'_>,
) {
    let n_value = span.v.rows();
    let Some(last) = span.y.len().checked_sub(1) else { return };
    let mut old = [V::splat(0.0); L];
    let reads = delta.reads(span, 0);
    for (j, row) in state.chunks_exact(n_value).enumerate() {
        let (row, a) = (&row[at..at + L * WIDTH], V::splat(reads.at::<RULE>(j)));
        for l in 0..L {
            old[l] = S::load::<V>(&row[l * WIDTH..]).mul_add(a, old[l]);
        }
    }
    for c in 0..last {
        let ahead = Some(delta.reads(span, c + 1));
        old = update::<V, S, RULE, L>(state, at, span, delta, c, old, ahead);
    }
    update::<V, S, RULE, L>(state, at, span, delta, last, old, None);
}

/// Token `c`, which read `old`; returns the reading of the next, which reads by `ahead`.
#[inline(always)]
fn update<V: Vector, S: StateElement, const RULE: bool, const L: usize>(
    state: &mut [S],
    at: usize,
    span: &mut Span<'_>,
    delta: Delta<'_>,
    c: usize,
    old: [V; L],
    ahead: Option<Reads<'_>>,
) -> [V; L] {
    let (n_key, n_value, own) = (span.k.rows(), span.v.rows(), at..at + L * WIDTH);
    // Slices of known length: no row checks them again.
    let (k, r) = (&span.k.at(c)[..n_key], &span.r.at(c)[..n_key]);
    let b = match delta {
        Delta::General { b, .. } => Some(&b.at(c)[..n_key]),
        Delta::Rule { .. } => None,
    };
    let ahead = ahead.map(|ahead| ahead.of(n_key));
    let (decay, step) = span.decay.of(c);
    let decay = &decay[..(n_key - 1) * step + 1];
    let scale = V::splat(span.scale(c));
    let mut v = [V::splat(0.0); L];
    let (mut sum, mut next_old) = (v, v);
    for l in 0..L {
        v[l] = scale.mul(V::load(&span.v.at(c)[at + l * WIDTH..]));
        if RULE {
            v[l] = old[l].mul_add(V::splat(delta.factor(c)), v[l]);
        }
    }
    for (j, row) in state[..n_key * n_value].chunks_exact_mut(n_value).enumerate() {
        let row = &mut row[own.clone()];
        let (k, r, w) = (V::splat(k[j]), V::splat(r[j]), V::splat(decay[j * step]));
        let b = b.map(|b| V::splat(b[j]));
        for l in 0..L {
            let s: V = S::load(&row[l * WIDTH..]);
            let kv = v[l].mul(k);
            let new = if let Some(b) = b { old[l].mul_add(b, kv) } else { kv };
            let next = s.mul_add(w, new);
            S::store(next, &mut row[l * WIDTH..]);
            sum[l] = next.mul_add(r, sum[l]);
            if let Some(ahead) = &ahead {
                next_old[l] = S::kept(next).mul_add(V::splat(ahead.at::<RULE>(j)), next_old[l]);
            }
        }
    }
    for l in 0..L {
        sum[l].store(&mut span.y.at(c)[at + l * WIDTH..]);
    }
    next_old
}
