//! Recurrences of matrix-valued states, one head and one token at a time.
//!
//! The family `S ← S·diag(w) + b (aᵀS) + k vᵀ`, `y = Sᵀ r` (linear attention with decay and a delta term: RWKV-5 to 7,
//! Mamba-2, GLA, DeltaNet, …) is one function with options, [`linear_attention`]. The state is stored key-major,
//! `S[key][value]`, so that every operation runs over value lanes with a broadcast per key, sums over keys run in
//! ascending order, and no sum crosses lanes. RWKV-4's weighted average is [`weighted_average`], Mamba-1's diagonal scan
//! [`selective_scan`].
//! Everything here is compiled per instruction set by the caller's [`super::Isa::run`]. Tests: below.

use std::ops::Range;

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
/// registers while all tokens pass (Mamba-2). The bits are those of one token after the other.
pub(crate) struct DecayingSpan<'a, T> {
    /// (n_key, n_value)
    pub(crate) state: &'a mut [f32],
    pub(crate) n_value: usize,
    pub(crate) tokens: T,
}

impl<T: Decaying> LaneKernel for DecayingSpan<'_, T> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let DecayingSpan { state, n_value, mut tokens } = self;
        let mut at = 0;
        while at + 4 * WIDTH <= n_value {
            decaying_lanes::<V, 4, 4>(state, n_value, at, &mut tokens);
            at += 4 * WIDTH;
        }
        while at + 2 * WIDTH <= n_value {
            decaying_lanes::<V, 2, 8>(state, n_value, at, &mut tokens);
            at += 2 * WIDTH;
        }
        while at + WIDTH <= n_value {
            decaying_lanes::<V, 1, 8>(state, n_value, at, &mut tokens);
            at += WIDTH;
        }
        for c in tokens.columns() {
            for at in at..n_value {
                let ((r, k), (value, factor), decay) = (tokens.keys(c), tokens.value(c), tokens.decay(c));
                let v = factor * value[at];
                let mut sum = 0.0;
                for ((row, k), r) in state.chunks_exact_mut(n_value).zip(k).zip(r) {
                    row[at] = row[at] * decay + v * k;
                    sum += r * row[at];
                }
                tokens.y(c)[at] = sum;
            }
        }
    }
}

/// `L` vectors of value lanes from lane `at`, `J` keys at a time.
#[inline(always)]
fn decaying_lanes<V: Vector, const L: usize, const J: usize>(
    state: &mut [f32],
    n_value: usize,
    at: usize,
    tokens: &mut impl Decaying,
) {
    let n_key = state.len() / n_value;
    let whole = n_key / J * J;
    for key in (0..whole).step_by(J) {
        decaying_keys::<V, L, J>(&mut state[key * n_value..][..J * n_value], key, at, tokens);
    }
    for key in whole..n_key {
        decaying_keys::<V, L, 1>(&mut state[key * n_value..][..n_value], key, at, tokens);
    }
}

/// All tokens through the rows `rows` of the state, those from key `key` on. Sums go on from the keys before.
#[inline(always)]
fn decaying_keys<V: Vector, const L: usize, const J: usize>(
    rows: &mut [f32],
    key: usize,
    at: usize,
    tokens: &mut impl Decaying,
) {
    let n_value = rows.len() / J;
    let mut s = [[V::splat(0.0); L]; J];
    for (s, row) in s.iter_mut().zip(rows.chunks_exact(n_value)) {
        for l in 0..L {
            s[l] = V::load(&row[at + l * WIDTH..]);
        }
    }
    for c in tokens.columns() {
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
                s[l] = s[l].mul(w).add(v[l].mul(k));
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
                sum[l] = sum[l].add(r.mul(s[l]));
            }
        }
        for l in 0..L {
            sum[l].store(&mut y[l * WIDTH..]);
        }
    }
    for (s, row) in s.iter().zip(rows.chunks_exact_mut(n_value)) {
        for l in 0..L {
            s[l].store(&mut row[at + l * WIDTH..]);
        }
    }
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

    /// Several tokens at once give the bits of one after the other.
    #[test]
    fn spans_equal_single_tokens() {
        for (n_key, n_value, columns) in [(128, 64, 5), (16, 32, 1), (9, 80, 3), (11, 19, 4), (3, 3, 2)] {
            let [r, k] = [1, 2].map(|seed| numbers(n_key * columns, seed));
            let v = numbers(n_value * columns, 3);
            let [factor, decay] = [4, 5].map(|seed| numbers(columns, seed));
            let start = numbers(n_key * n_value, 6);
            let (mut expected_state, mut expected) = (start.clone(), vec![0.0; n_value * columns]);
            for (c, y) in expected.chunks_exact_mut(n_value).enumerate() {
                let v: Vec<f32> = v[c * n_value..][..n_value].iter().map(|v| factor[c] * v).collect();
                let (r, k) = (&r[c * n_key..][..n_key], &k[c * n_key..][..n_key]);
                let token = Token { r, k, v: &v, decay: |_: usize| decay[c] };
                linear_attention(Isa::Scalar, &mut expected_state, &token, None, &Read::After, y);
            }
            for isa in Isa::ALL.iter().filter(|isa| isa.available()) {
                let (mut state, mut y) = (start.clone(), vec![f32::NAN; n_value * columns]);
                let (r, k, v, factor, decay) = (&r, &k, &v, &factor, &decay);
                let tokens = Tokens { r, k, v, factor, decay, y: &mut y, columns };
                isa.run_lanes(DecayingSpan { state: &mut state, n_value, tokens });
                assert_eq!(y, expected, "{isa:?}");
                assert_eq!(state, expected_state, "{isa:?}");
            }
        }
    }
}
