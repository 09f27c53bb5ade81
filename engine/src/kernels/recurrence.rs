//! Recurrences of matrix-valued states, one head and one token at a time.
//!
//! The family `S ← S·diag(w) + b (aᵀS) + k vᵀ`, `y = Sᵀ r` (linear attention with decay and a delta term: RWKV-5 to 7,
//! Mamba-2, GLA, DeltaNet, …) is one function with options, [`linear_attention`]. The state is stored key-major,
//! `S[key][value]`, so that every operation runs over value lanes with a broadcast per key, sums over keys run in
//! ascending order, and no sum crosses lanes. RWKV-4's weighted average is [`weighted_average`], Mamba-1's diagonal scan
//! [`selective_scan`].
//! Everything here is compiled per instruction set by the caller's [`super::Isa::run`]. Tests: below.

use super::isa::Isa;
use super::lanes::WIDTH;
use super::math::{exp, exp2_negative};
use super::vector::{LaneKernel, Vector};

/// What one token brings to one head. Vectors over keys have `n_key` values, `v` has `n_value`.
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
pub(crate) struct Delta<'a> {
    /// What is read from the old state, over keys.
    pub(crate) a: &'a [f32],
    /// Where it is written, over keys.
    pub(crate) b: &'a [f32],
}

/// When the state is read.
pub(crate) enum Read<'a> {
    /// y = Sᵀ r after the update (RWKV-7, Mamba-2, GLA).
    After,
    /// y = (S + diag(u) k vᵀ)ᵀ r before the update (RWKV-5, RWKV-6): the token itself enters with a bonus instead.
    Before {
        /// Bonus, over keys.
        bonus: &'a [f32],
    },
}

/// Advances `state` (n_key, n_value) by one token and overwrites `y` (n_value).
#[inline(always)]
pub(crate) fn linear_attention<D: Fn(usize) -> f32>(
    isa: Isa,
    state: &mut [f32],
    token: &Token<'_, D>,
    delta: Option<&Delta<'_>>,
    read: &Read<'_>,
    y: &mut [f32],
) {
    isa.run_lanes(Step { state, token, delta, read, y });
}

/// One token of one head.
struct Step<'a, D> {
    state: &'a mut [f32],
    token: &'a Token<'a, D>,
    delta: Option<&'a Delta<'a>>,
    read: &'a Read<'a>,
    y: &'a mut [f32],
}

impl<D: Fn(usize) -> f32> LaneKernel for Step<'_, D> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Step { state, token, delta, read, y } = self;
        let n_value = y.len();
        let mut at = 0;
        while at + 4 * WIDTH <= n_value {
            lanes::<V, 4>(state, at, token, delta, read, y);
            at += 4 * WIDTH;
        }
        if at + 2 * WIDTH <= n_value {
            lanes::<V, 2>(state, at, token, delta, read, y);
            at += 2 * WIDTH;
        }
        while at + WIDTH <= n_value {
            lanes::<V, 1>(state, at, token, delta, read, y);
            at += WIDTH;
        }
        for column in at..n_value {
            single(state, column, token, delta, read, y);
        }
    }
}

/// `L` vectors of value lanes from lane `at`.
#[inline(always)]
fn lanes<V: Vector, const L: usize>(
    state: &mut [f32],
    at: usize,
    token: &Token<'_, impl Fn(usize) -> f32>,
    delta: Option<&Delta<'_>>,
    read: &Read<'_>,
    y: &mut [f32],
) {
    let (n_value, n_key) = (y.len(), token.k.len());
    let own = at..at + L * WIDTH;
    assert!(own.end <= n_value && token.r.len() == n_key);
    let mut old = [V::splat(0.0); L];
    if let Some(delta) = delta {
        assert!(delta.a.len() == n_key && delta.b.len() == n_key);
        for (row, a) in state.chunks_exact(n_value).zip(delta.a) {
            let (row, a) = (&row[own.clone()], V::splat(*a));
            for l in 0..L {
                old[l] = old[l].add(V::load(&row[l * WIDTH..]).mul(a));
            }
        }
    }
    let mut v = [V::splat(0.0); L];
    let mut sum = v;
    for l in 0..L {
        v[l] = V::load(&token.v[at + l * WIDTH..]);
    }
    for (j, row) in state.chunks_exact_mut(n_value).enumerate().take(n_key) {
        let row = &mut row[own.clone()];
        let (k, r, w) = (V::splat(token.k[j]), V::splat(token.r[j]), V::splat((token.decay)(j)));
        for l in 0..L {
            let s = V::load(&row[l * WIDTH..]);
            let kv = v[l].mul(k);
            let mut next = s.mul(w);
            if let Some(delta) = delta {
                next = next.add(old[l].mul(V::splat(delta.b[j])));
            }
            next = next.add(kv);
            next.store(&mut row[l * WIDTH..]);
            let seen = match read {
                Read::After => next,
                Read::Before { bonus } => kv.mul(V::splat(bonus[j])).add(s),
            };
            sum[l] = sum[l].add(r.mul(seen));
        }
    }
    for l in 0..L {
        sum[l].store(&mut y[at + l * WIDTH..]);
    }
}

/// One value lane, for head sizes that are no multiple of sixteen: the same operations in the same order.
#[inline(always)]
fn single(
    state: &mut [f32],
    at: usize,
    token: &Token<'_, impl Fn(usize) -> f32>,
    delta: Option<&Delta<'_>>,
    read: &Read<'_>,
    y: &mut [f32],
) {
    let n_value = y.len();
    let mut old = 0.0;
    if let Some(delta) = delta {
        for (row, a) in state.chunks_exact(n_value).zip(delta.a) {
            old += row[at] * a;
        }
    }
    let mut sum = 0.0;
    for (j, ((row, k), r)) in state.chunks_exact_mut(n_value).zip(token.k).zip(token.r).enumerate() {
        let (s, kv) = (row[at], token.v[at] * k);
        let mut next = s * (token.decay)(j);
        if let Some(delta) = delta {
            next += old * delta.b[j];
        }
        next += kv;
        row[at] = next;
        sum += r * match read {
            Read::After => next,
            Read::Before { bonus } => kv * bonus[j] + s,
        };
    }
    y[at] = sum;
}

/// RWKV-4's state: two sums of exponentially weighted tokens, kept relative to e^max, one element per channel.
pub(crate) struct Average<'a> {
    /// Σ e^(k−max) v.
    pub(crate) num: &'a mut [f32],
    /// Σ e^(k−max).
    pub(crate) den: &'a mut [f32],
    /// The largest exponent so far.
    pub(crate) max: &'a mut [f32],
}

/// RWKV-4's weighted average in its stable form (Peng et al. 2023, arXiv 2305.13048, appendix D): overwrites `y` with
/// the average of the past and of the token itself, which counts e^bonus times; then ages the past by e^decay and takes
/// the token in. All slices have the same length.
#[inline(always)]
pub(crate) fn weighted_average(
    state: &mut Average<'_>,
    k: &[f32],
    v: &[f32],
    decay: &[f32],
    bonus: &[f32],
    y: &mut [f32],
) {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let n = y.len();
    let (num, den, max) = (&mut state.num[..n], &mut state.den[..n], &mut state.max[..n]);
    let (k, v, decay, bonus) = (&k[..n], &v[..n], &decay[..n], &bonus[..n]);
    for i in 0..n {
        let now = bonus[i] + k[i];
        let q = larger(max[i], now);
        let (past, new) = (exp(max[i] - q), exp(now - q));
        y[i] = (past * num[i] + new * v[i]) / (past * den[i] + new);
        let aged = max[i] + decay[i];
        let q = larger(aged, k[i]);
        let (past, new) = (exp(aged - q), exp(k[i] - q));
        num[i] = past * num[i] + new * v[i];
        den[i] = past * den[i] + new;
        max[i] = q;
    }
}

/// Mamba-1's scan of sixteen channels over one token (Gu & Dao 2023, eq. 2 with the discretization of §3.3):
/// `h_n ← exp(Δ A_n) h_n + (Δ x) B_n`, `y = Σ_n h_n C_n`, n ascending; Δ A ≤ 0.
///
/// `state` and `a` are (d_state, 16); `b` and `c` have `d_state` values.
#[inline(always)]
pub(crate) fn selective_scan<V: Vector>(
    state: &mut [f32],
    a: &[f32],
    delta: V,
    x: V,
    b: &[f32],
    c: &[f32],
) -> V {
    let rate = delta.mul(V::splat(std::f32::consts::LOG2_E));
    let u = delta.mul(x);
    let mut y = V::splat(0.0);
    for (((h, a), b), c) in state.chunks_exact_mut(WIDTH).zip(a.chunks_exact(WIDTH)).zip(b).zip(c) {
        let decay = exp2_negative(rate.mul(V::load(a)));
        let next = decay.mul(V::load(h)).add(u.mul(V::splat(*b)));
        next.store(h);
        y = y.add(next.mul(V::splat(*c)));
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut s = seed;
        (0..n)
            .map(|_| {
                s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (s >> 8) as f32 / 8_388_608.0 - 1.0
            })
            .collect()
    }

    /// Every width of the blocked code gives the bits of the one-lane code.
    #[test]
    fn blocks_equal_single_lanes() {
        for (n_key, n_value) in [(4, 80), (64, 64), (9, 112), (7, 16), (5, 19), (3, 3)] {
            for with_delta in [false, true] {
                for before in [false, true] {
                    let [r, k, a, b, w, u] = std::array::from_fn(|i| numbers(n_key, i as u32));
                    let v = numbers(n_value, 9);
                    let mut state = numbers(n_key * n_value, 10);
                    let mut expected_state = state.clone();
                    let token = Token { r: &r, k: &k, v: &v, decay: |j: usize| w[j] };
                    let delta = Delta { a: &a, b: &b };
                    let delta = with_delta.then_some(&delta);
                    let read = if before { Read::Before { bonus: &u } } else { Read::After };
                    let (mut y, mut expected) = (vec![0.0; n_value], vec![0.0; n_value]);
                    for at in 0..n_value {
                        single(&mut expected_state, at, &token, delta, &read, &mut expected);
                    }
                    let start = state.clone();
                    for isa in Isa::ALL.iter().filter(|isa| isa.available()) {
                        state.copy_from_slice(&start);
                        linear_attention(*isa, &mut state, &token, delta, &read, &mut y);
                        assert_eq!(y, expected, "{isa:?}");
                        assert_eq!(state, expected_state, "{isa:?}");
                    }
                }
            }
        }
    }
}
