//! Linear attention with decay and a delta term, one token of one head (RWKV-5 to 7 and their
//! relatives).
//!
//! Not here: several tokens at once (`decaying.rs`). Sources: Peng et al. 2024, arXiv 2404.05892
//! (RWKV-5, 6); Peng et al. 2025, arXiv 2503.14456 (RWKV-7). Tests: below.

use crate::kernels::Isa;
use crate::kernels::lanes::WIDTH;
use crate::kernels::stored::{Elements, StateKernel, Stored};
use crate::kernels::vector::Vector;

/// What one token brings to one head. Vectors over keys have `n_key` values, `v` has `n_value`.
#[derive(Clone, Copy)]
pub(crate) struct Token<'a, D> {
    /// Receptance (query): y = Σ r S.
    pub(crate) r: &'a [f32],
    /// Key.
    pub(crate) k: &'a [f32],
    /// Value.
    pub(crate) v: &'a [f32],
    /// Decay of a key's row.
    pub(crate) decay: D,
}

/// The delta term `b (aᵀ S)`, S being the state before its decay.
#[derive(Clone, Copy)]
pub(crate) struct Delta<'a> {
    /// What is read from the old state, over keys.
    pub(crate) a: &'a [f32],
    /// Where it is written, over keys.
    pub(crate) b: &'a [f32],
}

/// When the state is read.
#[derive(Clone, Copy)]
pub(crate) enum Read<'a> {
    /// y = Sᵀ r after the update (RWKV-7, Mamba-2, GLA).
    After,
    /// y = (S + diag(u) k vᵀ)ᵀ r before the update (RWKV-5, RWKV-6): the token itself enters with a
    /// bonus instead.
    Before {
        /// Bonus, over keys.
        bonus: &'a [f32],
    },
}

/// Advances `state` (n_key, n_value) by one token and overwrites `y` (n_value).
#[inline(always)]
pub(crate) fn linear_attention<D: Fn(usize) -> f32 + Copy>(
    isa: Isa,
    state: &mut Elements<'_>,
    token: Token<'_, D>,
    delta: Option<Delta<'_>>,
    read: Read<'_>,
    y: &mut [f32],
) {
    state.update(isa, Step { token, delta, read, y });
}

/// One token of one head.
struct Step<'a, D> {
    token: Token<'a, D>,
    delta: Option<Delta<'a>>,
    read: Read<'a>,
    y: &'a mut [f32],
}

impl<D: Fn(usize) -> f32 + Copy> StateKernel for Step<'_, D> {
    #[inline(always)]
    fn run<V: Vector, S: Stored>(self, state: &mut [S]) {
        let Step { token, delta, read, y } = self;
        let n_value = y.len();
        let mut at = 0;
        while at + 4 * WIDTH <= n_value {
            lanes::<V, S, 4>(state, at, token, delta, read, y);
            at += 4 * WIDTH;
        }
        if at + 2 * WIDTH <= n_value {
            lanes::<V, S, 2>(state, at, token, delta, read, y);
            at += 2 * WIDTH;
        }
        while at + WIDTH <= n_value {
            lanes::<V, S, 1>(state, at, token, delta, read, y);
            at += WIDTH;
        }
        for column in at..n_value {
            single(state, column, token, delta, read, y);
        }
    }
}

/// `L` vectors of value lanes from lane `at`.
#[inline(always)]
fn lanes<V: Vector, S: Stored, const L: usize>(
    state: &mut [S],
    at: usize,
    token: Token<'_, impl Fn(usize) -> f32>,
    delta: Option<Delta<'_>>,
    read: Read<'_>,
    y: &mut [f32],
) {
    let (n_value, n_key) = (y.len(), token.k.len());
    let (own, rows) = (at..at + L * WIDTH, n_key * n_value);
    assert!(own.end <= n_value);
    // Slices of known length: no row checks them again.
    let (k, r) = (&token.k[..n_key], &token.r[..n_key]);
    let written = delta.map(|delta| &delta.b[..n_key]);
    let mut old = [V::splat(0.0); L];
    if let Some(delta) = delta {
        for (row, a) in state[..rows].chunks_exact(n_value).zip(&delta.a[..n_key]) {
            let (row, a) = (&row[own.clone()], V::splat(*a));
            for l in 0..L {
                old[l] = S::load::<V>(&row[l * WIDTH..]).mul_add(a, old[l]);
            }
        }
    }
    let mut v = [V::splat(0.0); L];
    let mut sum = v;
    for l in 0..L {
        v[l] = V::load(&token.v[at + l * WIDTH..]);
    }
    for (j, row) in state[..rows].chunks_exact_mut(n_value).enumerate() {
        let row = &mut row[own.clone()];
        let (k, r, w) = (V::splat(k[j]), V::splat(r[j]), V::splat((token.decay)(j)));
        for l in 0..L {
            let s: V = S::load(&row[l * WIDTH..]);
            let kv = v[l].mul(k);
            let mut new = kv;
            if let Some(b) = written {
                new = old[l].mul_add(V::splat(b[j]), new);
            }
            let next = s.mul_add(w, new);
            S::store(next, &mut row[l * WIDTH..]);
            let seen = match read {
                Read::After => next,
                Read::Before { bonus } => kv.mul_add(V::splat(bonus[j]), s),
            };
            sum[l] = seen.mul_add(r, sum[l]);
        }
    }
    for l in 0..L {
        sum[l].store(&mut y[at + l * WIDTH..]);
    }
}

/// One value lane, for head sizes that are no multiple of sixteen: the same operations in the same
/// order.
#[inline(always)]
fn single<S: Stored>(
    state: &mut [S],
    at: usize,
    token: Token<'_, impl Fn(usize) -> f32>,
    delta: Option<Delta<'_>>,
    read: Read<'_>,
    y: &mut [f32],
) {
    let n_value = y.len();
    let mut old = 0.0;
    if let Some(delta) = delta {
        for (row, a) in state.chunks_exact(n_value).zip(delta.a) {
            old = row[at].value().mul_add(*a, old);
        }
    }
    let mut sum = 0.0;
    for (j, ((row, k), r)) in state.chunks_exact_mut(n_value).zip(token.k).zip(token.r).enumerate()
    {
        let (s, kv) = (row[at].value(), token.v[at] * k);
        let mut new = kv;
        if let Some(delta) = delta {
            new = f32::mul_add(old, delta.b[j], new);
        }
        let next = s.mul_add((token.decay)(j), new);
        row[at] = S::of(next);
        let seen = match read {
            Read::After => next,
            Read::Before { bonus } => kv.mul_add(bonus[j], s),
        };
        sum = seen.mul_add(*r, sum);
    }
    y[at] = sum;
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::kernels::recurrence::support::{Format, numbers};

    /// Every width of the blocked code gives the bits of the one-lane code.
    #[test]
    fn blocks_equal_single_lanes() {
        check_blocks::<f32>();
        check_blocks::<f16>();
    }

    fn check_blocks<S: Format>() {
        for (n_key, n_value) in [(4, 80), (64, 64), (9, 112), (7, 16), (5, 19), (3, 3)] {
            for with_delta in [false, true] {
                for before in [false, true] {
                    let [r, k, a, b, w, u] = std::array::from_fn(|i| numbers(n_key, i as u32));
                    let v = numbers(n_value, 9);
                    let mut state = S::state(n_key * n_value, 10);
                    let mut expected_state = state.clone();
                    let token = Token { r: &r, k: &k, v: &v, decay: |j: usize| w[j] };
                    let delta = Delta { a: &a, b: &b };
                    let delta = with_delta.then_some(delta);
                    let read = if before { Read::Before { bonus: &u } } else { Read::After };
                    let (mut y, mut expected) = (vec![0.0; n_value], vec![0.0; n_value]);
                    for at in 0..n_value {
                        single(&mut expected_state, at, token, delta, read, &mut expected);
                    }
                    let start = state.clone();
                    for isa in Isa::ALL.iter().filter(|isa| isa.available()) {
                        state.copy_from_slice(&start);
                        linear_attention(
                            *isa,
                            &mut S::elements(&mut state),
                            token,
                            delta,
                            read,
                            &mut y,
                        );
                        assert_eq!(y, expected, "{isa:?}");
                        assert_eq!(state, expected_state, "{isa:?}");
                    }
                }
            }
        }
    }
}
