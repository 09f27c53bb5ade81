//! Recurrences of matrix-valued states, one head and one token at a time.
//!
//! The family `S ← S·diag(w) + b (aᵀS) + k vᵀ`, `y = Sᵀ r` (linear attention with decay and a delta term: RWKV-5 to 7,
//! Mamba-2, GLA, DeltaNet, …) is one function with options, [`linear_attention`]. The state is stored key-major,
//! `S[key][value]`, so that every operation runs over value lanes with a broadcast per key, sums over keys run in
//! ascending order, and no sum crosses lanes. RWKV-4's weighted average is [`weighted_average`], Mamba-1's diagonal scan
//! [`selective_scan`].
//! States are kept in the caller's format ([`Stored`]) and rounded to it after every token; what a token reads is the update
//! before it was rounded. Everything here is compiled per instruction set by the caller's [`super::Isa::run`]. Tests: below.

use std::ops::Range;

use super::isa::Isa;
use super::lanes::WIDTH;
use super::math::{exp, exp2_negative};
use super::stored::{Elements, StateKernel, Stored};
use super::vector::Vector;

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
    state: &mut Elements<'_>,
    token: &Token<'_, D>,
    delta: Option<&Delta<'_>>,
    read: &Read<'_>,
    y: &mut [f32],
) {
    state.update(isa, Step { token, delta, read, y });
}

/// One token of one head.
struct Step<'a, D> {
    token: &'a Token<'a, D>,
    delta: Option<&'a Delta<'a>>,
    read: &'a Read<'a>,
    y: &'a mut [f32],
}

impl<D: Fn(usize) -> f32> StateKernel for Step<'_, D> {
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
                old[l] = old[l].add(S::load::<V>(&row[l * WIDTH..]).mul(a));
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
            let s: V = S::load(&row[l * WIDTH..]);
            let kv = v[l].mul(k);
            let mut next = s.mul(w);
            if let Some(delta) = delta {
                next = next.add(old[l].mul(V::splat(delta.b[j])));
            }
            next = next.add(kv);
            S::store(next, &mut row[l * WIDTH..]);
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
fn single<S: Stored>(
    state: &mut [S],
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
            old += row[at].value() * a;
        }
    }
    let mut sum = 0.0;
    for (j, ((row, k), r)) in state.chunks_exact_mut(n_value).zip(token.k).zip(token.r).enumerate() {
        let (s, kv) = (row[at].value(), token.v[at] * k);
        let mut next = s * (token.decay)(j);
        if let Some(delta) = delta {
            next += old * delta.b[j];
        }
        next += kv;
        row[at] = S::of(next);
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
                    let next = row[at].value() * decay + v * k;
                    row[at] = S::of(next);
                    sum += r * next;
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
                s[l] = before.mul(w).add(v[l].mul(k));
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
            S::store(s[l], &mut row[at + l * WIDTH..]);
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
pub(crate) fn selective_scan<V: Vector, S: Stored>(
    state: &mut [S],
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
        let next = decay.mul(S::load(h)).add(u.mul(V::splat(*b)));
        S::store(next, h);
        y = y.add(next.mul(V::splat(*c)));
    }
    y
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use half::f16;

    use super::*;
    use crate::kernels::lanes::Lanes;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut s = seed;
        (0..n)
            .map(|_| {
                s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (s >> 8) as f32 / 8_388_608.0 - 1.0
            })
            .collect()
    }

    /// A format of states, and how kernels are given it.
    trait Format: Stored + PartialEq + Debug {
        fn elements(state: &mut [Self]) -> Elements<'_>;
        fn state(n: usize, seed: u32) -> Vec<Self> {
            numbers(n, seed).into_iter().map(Self::of).collect()
        }
    }

    impl Format for f32 {
        fn elements(state: &mut [Self]) -> Elements<'_> {
            Elements::F32(state)
        }
    }

    impl Format for f16 {
        fn elements(state: &mut [Self]) -> Elements<'_> {
            Elements::F16(state)
        }
    }

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
                    let delta = with_delta.then_some(&delta);
                    let read = if before { Read::Before { bonus: &u } } else { Read::After };
                    let (mut y, mut expected) = (vec![0.0; n_value], vec![0.0; n_value]);
                    for at in 0..n_value {
                        single(&mut expected_state, at, &token, delta, &read, &mut expected);
                    }
                    let start = state.clone();
                    for isa in Isa::ALL.iter().filter(|isa| isa.available()) {
                        state.copy_from_slice(&start);
                        linear_attention(*isa, &mut S::elements(&mut state), &token, delta, &read, &mut y);
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

    /// Mamba-1's scan, token after token: every instruction set, and a state that is rounded after each.
    struct Scan<'a> {
        a: &'a [f32],
        inputs: &'a [f32],
        y: &'a mut [f32],
    }

    impl StateKernel for Scan<'_> {
        #[inline(always)]
        fn run<V: Vector, S: Stored>(self, state: &mut [S]) {
            let n = self.a.len() / WIDTH;
            let tokens = self.inputs.chunks_exact(2 * (WIDTH + n));
            for (token, y) in tokens.zip(self.y.chunks_exact_mut(WIDTH)) {
                let (delta, x) = token.split_at(WIDTH);
                let (b, c) = token[2 * WIDTH..].split_at(n);
                selective_scan(state, self.a, V::load(delta), V::load(x), b, c).store(y);
            }
        }
    }

    #[test]
    fn scans_round_after_every_token() {
        check_scan::<f32>();
        check_scan::<f16>();
    }

    fn check_scan<S: Format>() {
        let (n, tokens) = (5, 7);
        let a: Vec<f32> = numbers(n * WIDTH, 1).iter().map(|a| -a.abs()).collect();
        let mut inputs = numbers(tokens * 2 * (WIDTH + n), 2);
        for token in inputs.chunks_exact_mut(2 * (WIDTH + n)) {
            token[..WIDTH].iter_mut().for_each(|delta| *delta = delta.abs());
        }
        // The equations, a channel at a time.
        let start = S::state(n * WIDTH, 3);
        let (mut expected_state, mut expected) = (start.clone(), vec![0.0; tokens * WIDTH]);
        for (token, y) in inputs.chunks_exact(2 * (WIDTH + n)).zip(expected.chunks_exact_mut(WIDTH)) {
            for channel in 0..WIDTH {
                let (delta, x) = (token[channel], token[WIDTH + channel]);
                for j in 0..n {
                    let (b, c) = (token[2 * WIDTH + j], token[2 * WIDTH + n + j]);
                    let (h, rate) =
                        (&mut expected_state[j * WIDTH + channel], delta * std::f32::consts::LOG2_E);
                    let decay = exp2_negative(Lanes::splat(rate * a[j * WIDTH + channel])).0[0];
                    let next = decay * h.value() + delta * x * b;
                    *h = S::of(next);
                    y[channel] += next * c;
                }
            }
        }
        for isa in Isa::ALL.iter().filter(|isa| isa.available()) {
            let (mut state, mut y) = (start.clone(), vec![0.0; tokens * WIDTH]);
            S::elements(&mut state).update(*isa, Scan { a: &a, inputs: &inputs, y: &mut y });
            assert_eq!(y, expected, "{isa:?}");
            assert_eq!(state, expected_state, "{isa:?}");
        }
    }
}
