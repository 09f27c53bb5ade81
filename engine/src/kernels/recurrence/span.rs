//! The contract of linear attention with decay and a delta term: a span of tokens of one head, as
//! data (RWKV-5 to 7, Mamba-2 and their relatives).
//!
//! Here: [`Span`], and the choice of the loop that runs it. Not here: the loops (`registers.rs`
//! without a delta term, `delta.rs` with one). Sources: Peng et al. 2024, arXiv 2404.05892
//! (RWKV-5, 6); Peng et al. 2025, arXiv 2503.14456 (RWKV-7); Dao & Gu 2024, arXiv 2405.21060
//! (Mamba-2). Tests: below.

use super::{delta, registers};
use crate::kernels::Isa;
use crate::kernels::columns::{Columns, ColumnsMut};
use crate::kernels::state::{StateElement, StateKernel, StateSlice};
use crate::kernels::vector::Vector;

/// The inputs of a span of tokens to one head, one column per token, and the place of the results.
///
/// Token after token: `S ← diag(w) S + delta + k (scale v)ᵀ`, `y = Sᵀ r`, with S (n_key, n_value)
/// and the delta term of [`Delta`]. The bits do not depend on how a sequence is cut into spans.
pub(crate) struct Span<'a> {
    /// Receptance, or query (n_key).
    pub(crate) r: Columns<'a>,
    /// Key (n_key).
    pub(crate) k: Columns<'a>,
    /// Value (n_value).
    pub(crate) v: Columns<'a>,
    /// The factor of the value (1); none if absent.
    pub(crate) scale: Option<Columns<'a>>,
    pub(crate) decay: Decay<'a>,
    pub(crate) delta: Option<Delta<'a>>,
    pub(crate) read: Read<'a>,
    /// Overwritten (n_value).
    pub(crate) y: ColumnsMut<'a>,
}

/// The factors of the rows of the state.
#[derive(Clone, Copy)]
pub(crate) enum Decay<'a> {
    /// All by the same (1): Mamba-2, RetNet, Gated DeltaNet.
    PerHead(Columns<'a>),
    /// Each by its own (n_key): RWKV, GLA, KDA.
    PerKey(Columns<'a>),
}

impl<'a> Decay<'a> {
    /// That of token `c`: the one of key j is at j times the number beside.
    #[inline(always)]
    pub(super) fn of(self, c: usize) -> (&'a [f32], usize) {
        match self {
            Decay::PerHead(decay) => (decay.at(c), 0),
            Decay::PerKey(decay) => (decay.at(c), 1),
        }
    }
}

/// The delta term: what the state already has for a key enters its update.
#[derive(Clone, Copy)]
pub(crate) enum Delta<'a> {
    /// `b (aᵀ S)`, S being the state before its decay. RWKV-7 has `a = −kk` and `b = kk · a`.
    General {
        /// The vector that the old state is read with (n_key).
        a: Columns<'a>,
        /// The vector with which the result is written (n_key).
        b: Columns<'a>,
    },
    /// `k (factor · kᵀ diag(w) S)`, S being the state before its decay: the delta rule reads the
    /// decayed state by the key that it writes by. Gated DeltaNet has `factor = −β`.
    Rule {
        /// (1)
        factor: Columns<'a>,
    },
}

impl<'a> Delta<'a> {
    /// The factor of token `c`, if it is a rule's.
    #[inline(always)]
    pub(super) fn factor(self, c: usize) -> f32 {
        match self {
            Delta::General { .. } => 1.0,
            Delta::Rule { factor } => factor.at(c)[0],
        }
    }

    /// How token `c` reads the old state: values for each key, and what each is multiplied by,
    /// which is at j times the number beside.
    #[inline(always)]
    pub(super) fn reads(self, span: &Span<'a>, c: usize) -> Reads<'a> {
        match self {
            Delta::General { a, .. } => Reads { a: a.at(c), w: &[1.0], step: 0 },
            Delta::Rule { .. } => {
                let (w, step) = span.decay.of(c);
                Reads { a: span.k.at(c), w, step }
            }
        }
    }
}

/// The vector that a token reads the old state with: the product of two values for each key.
#[derive(Clone, Copy)]
pub(super) struct Reads<'a> {
    a: &'a [f32],
    w: &'a [f32],
    step: usize,
}

impl Reads<'_> {
    /// The same, its slices cut to those of `n_key` keys: no row checks them again.
    #[inline(always)]
    pub(super) fn of(self, n_key: usize) -> Self {
        Reads { a: &self.a[..n_key], w: &self.w[..(n_key - 1) * self.step + 1], step: self.step }
    }

    /// That of key `j`, of a delta rule or of any delta term.
    #[inline(always)]
    pub(super) fn at<const RULE: bool>(&self, j: usize) -> f32 {
        if RULE { self.a[j] * self.w[j * self.step] } else { self.a[j] }
    }
}

/// When the state is read.
#[derive(Clone, Copy)]
pub(crate) enum Read<'a> {
    /// y = Sᵀ r after the update (RWKV-7, Mamba-2, GLA).
    After,
    /// y = (S + diag(u) k vᵀ)ᵀ r before the update (RWKV-5, RWKV-6): the token itself enters with a
    /// bonus instead.
    Before {
        /// Bonus u (n_key), the same for all tokens.
        bonus: &'a [f32],
    },
}

/// Advances `state` (n_key, n_value) by the tokens of `span` and writes what they read.
///
/// # Panics
/// Parts of the span differ in size, or do not fit the state: a bug in the model.
pub(crate) fn linear_attention(isa: Isa, state: &mut StateSlice<'_>, span: Span<'_>) {
    state.update(isa, span);
}

impl Span<'_> {
    /// Whether every column has its size.
    fn check(&self, elements: usize) {
        let (n_key, n_value, tokens) = (self.k.rows(), self.v.rows(), self.y.len());
        assert!(n_key * n_value == elements && self.y.rows() == n_value);
        let fits = |part: &Columns<'_>, rows: usize| {
            assert!(part.rows() == rows && part.len() == tokens);
        };
        fits(&self.r, n_key);
        fits(&self.k, n_key);
        fits(&self.v, n_value);
        self.scale.iter().for_each(|scale| fits(scale, 1));
        match &self.decay {
            Decay::PerHead(decay) => fits(decay, 1),
            Decay::PerKey(decay) => fits(decay, n_key),
        }
        match &self.delta {
            None => {}
            Some(Delta::General { a, b }) => [a, b].iter().for_each(|x| fits(x, n_key)),
            Some(Delta::Rule { factor }) => fits(factor, 1),
        }
        if let Read::Before { bonus } = self.read {
            assert!(bonus.len() == n_key);
        }
    }

    /// The factor of the value of token `c`.
    #[inline(always)]
    pub(super) fn scale(&self, c: usize) -> f32 {
        self.scale.map_or(1.0, |scale| scale.at(c)[0])
    }
}

impl StateKernel for Span<'_> {
    #[inline(always)]
    fn run<V: Vector, S: StateElement>(mut self, state: &mut [S]) {
        self.check(state.len());
        let whole = match (self.delta, self.read) {
            (None, _) => registers::lanes::<V, S>(state, &mut self),
            (Some(delta), Read::After) => delta::lanes::<V, S>(state, &mut self, delta),
            // No model has both; until one does, it is right and slow.
            (Some(_), Read::Before { .. }) => 0,
        };
        for at in whole..self.v.rows() {
            single::<V, S>(state, at, &mut self);
        }
    }
}

/// The value of index `at` through all tokens, for head sizes that are no multiple of sixteen: the
/// same operations in the same order. This is what every other loop is tested against.
#[inline(always)]
fn single<V: Vector, S: StateElement>(state: &mut [S], at: usize, span: &mut Span<'_>) {
    let n_value = span.v.rows();
    for c in 0..span.y.len() {
        let (r, k, v) = (span.r.at(c), span.k.at(c), span.scale(c) * span.v.at(c)[at]);
        let (decay, step) = span.decay.of(c);
        let mut old = 0.0;
        if let Some(delta) = span.delta {
            let reads = delta.reads(span, c);
            for (j, row) in state.chunks_exact(n_value).enumerate() {
                old = V::mul_add_one(row[at].value(), reads.at::<true>(j), old);
            }
        }
        let v = match span.delta {
            Some(Delta::Rule { factor }) => V::mul_add_one(old, factor.at(c)[0], v),
            _ => v,
        };
        let mut sum = 0.0;
        for (j, row) in state.chunks_exact_mut(n_value).enumerate() {
            let (s, kv) = (row[at].value(), v * k[j]);
            let new = match span.delta {
                Some(Delta::General { b, .. }) => V::mul_add_one(old, b.at(c)[j], kv),
                _ => kv,
            };
            let next = V::mul_add_one(s, decay[j * step], new);
            row[at] = S::of(next);
            let seen = match span.read {
                Read::After => next,
                Read::Before { bonus } => V::mul_add_one(kv, bonus[j], s),
            };
            sum = V::mul_add_one(seen, r[j], sum);
        }
        span.y.at(c)[at] = sum;
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::kernels::lanes::Lanes;
    use crate::kernels::recurrence::support::{Format, numbers};

    /// The tokens of a span, in plain vectors: one column after the other.
    struct Tokens {
        n_key: usize,
        n_value: usize,
        /// r, k, a, b, decay per key.
        keys: [Vec<f32>; 5],
        v: Vec<f32>,
        scale: Vec<f32>,
        bonus: Vec<f32>,
    }

    /// Which of its options a span has.
    #[derive(Clone, Copy, Debug)]
    struct Options {
        scale: bool,
        per_key: bool,
        delta: bool,
        rule: bool,
        bonus: bool,
    }

    impl Options {
        fn all() -> impl Iterator<Item = Options> {
            (0..32).map(|bits| {
                let on = |bit: usize| bits >> bit & 1 == 1;
                Options { scale: on(0), per_key: on(1), delta: on(2), rule: on(3), bonus: on(4) }
            })
        }
    }

    impl Tokens {
        fn new(n_key: usize, n_value: usize, tokens: usize) -> Tokens {
            let keys = std::array::from_fn(|i| numbers(n_key * tokens, i as u32));
            let (v, scale) = (numbers(n_value * tokens, 9), numbers(tokens, 10));
            Tokens { n_key, n_value, keys, v, scale, bonus: numbers(n_key, 11) }
        }

        /// The tokens from `from` to `to`, whose results go to `y`.
        fn span<'a>(&'a self, o: Options, from: usize, to: usize, y: &'a mut [f32]) -> Span<'a> {
            let view = |x: &'a [f32], n: usize| Columns::new(x, n, from..to, 0..n);
            let [r, k, a, b, decay] = self.keys.each_ref().map(|x| view(x, self.n_key));
            let y = &mut y[from * self.n_value..to * self.n_value];
            Span {
                r,
                k,
                v: view(&self.v, self.n_value),
                scale: o.scale.then(|| view(&self.scale, 1)),
                decay: match o.per_key {
                    true => Decay::PerKey(decay),
                    false => Decay::PerHead(view(&self.scale, 1)),
                },
                delta: o.delta.then(|| match o.rule {
                    true => Delta::Rule { factor: view(&self.scale, 1) },
                    false => Delta::General { a, b },
                }),
                read: if o.bonus { Read::Before { bonus: &self.bonus } } else { Read::After },
                y: ColumnsMut::whole(y, self.n_value),
            }
        }
    }

    /// Every loop, on every instruction set, gives the bits of the plainest one, however the tokens
    /// are cut into spans.
    #[test]
    fn every_loop_gives_the_bits_of_the_definition() {
        check::<f32>();
        check::<f16>();
    }

    fn check<S: Format>() {
        for (n_key, n_value, tokens) in
            [(128, 64, 70), (16, 32, 1), (9, 112, 33), (11, 19, 4), (3, 3, 2), (7, 16, 3)]
        {
            let t = Tokens::new(n_key, n_value, tokens);
            let start = S::state(n_key * n_value, 12);
            for options in Options::all() {
                let (mut expected_state, mut expected) = (start.clone(), vec![0.0; t.v.len()]);
                let span = &mut t.span(options, 0, tokens, &mut expected);
                (0..n_value).for_each(|at| single::<Lanes, S>(&mut expected_state, at, span));
                for isa in Isa::available() {
                    for cut in [tokens, 1.max(tokens / 2), tokens.min(1)] {
                        let (mut state, mut y) = (start.clone(), vec![f32::NAN; t.v.len()]);
                        for (from, to) in [(0, cut), (cut, tokens)] {
                            if from < to {
                                let span = t.span(options, from, to, &mut y);
                                linear_attention(isa, &mut S::elements(&mut state), span);
                            }
                        }
                        assert_eq!(y, expected, "{isa:?} {options:?}");
                        assert_eq!(state, expected_state, "{isa:?} {options:?}");
                    }
                }
            }
        }
    }

    /// Gated DeltaNet in both of the contract's forms against its own equation (Yang et al. 2024,
    /// arXiv 2412.06464, eq. 10): S = S (α (I − β k kᵀ)) + β v kᵀ, transposed here.
    #[test]
    fn the_contract_holds_gated_delta_rules() {
        let (n, tokens) = (8, 5);
        let [q, k, v] = [1, 2, 3].map(|seed| numbers(n * tokens, seed));
        let [alpha, beta] = [4, 5]
            .map(|seed| numbers(tokens, seed).iter().map(|x| 0.5 + 0.4 * x).collect::<Vec<f32>>());
        let scaled = |by: &dyn Fn(usize) -> f32| -> Vec<f32> {
            k.iter().enumerate().map(|(i, k)| by(i / n) * k).collect()
        };
        let (key, b) = (scaled(&|c| beta[c]), scaled(&|c| -alpha[c] * beta[c]));
        let factor: Vec<f32> = beta.iter().map(|beta| -beta).collect();
        let expected = gated_delta_rule(n, [&q, &k, &v], [&alpha, &beta]);
        let view = |x| Columns::new(x, n, 0..tokens, 0..n);
        let one = |x| Columns::new(x, 1, 0..tokens, 0..1);
        for is_rule in [false, true] {
            let (mut state, mut y) = (vec![0.0; n * n], vec![0.0; n * tokens]);
            let span = Span {
                r: view(&q),
                k: if is_rule { view(&k) } else { view(&key) },
                v: view(&v),
                scale: is_rule.then(|| one(&beta)),
                decay: Decay::PerHead(one(&alpha)),
                delta: Some(match is_rule {
                    true => Delta::Rule { factor: one(&factor) },
                    false => Delta::General { a: view(&k), b: view(&b) },
                }),
                read: Read::After,
                y: ColumnsMut::whole(&mut y, n),
            };
            linear_attention(Isa::scalar(), &mut StateSlice::F32(&mut state), span);
            for (y, expected) in y.iter().zip(&expected) {
                assert!((f64::from(*y) - expected).abs() < 1e-5, "{is_rule}");
            }
        }
    }

    /// The equation in plain f64: what is read of every token.
    fn gated_delta_rule(n: usize, qkv: [&[f32]; 3], [alpha, beta]: [&[f32]; 2]) -> Vec<f64> {
        let (mut s, mut y) = (vec![0.0_f64; n * n], Vec::new());
        for (c, (alpha, beta)) in alpha.iter().zip(beta).enumerate() {
            let [q, k, v] = qkv.map(|x| move |i: usize| f64::from(x[c * n + i]));
            let (alpha, beta) = (f64::from(*alpha), f64::from(*beta));
            let old: Vec<f64> = (0..n).map(|i| (0..n).map(|j| s[j * n + i] * k(j)).sum()).collect();
            for j in 0..n {
                for i in 0..n {
                    s[j * n + i] =
                        alpha * (s[j * n + i] - beta * old[i] * k(j)) + beta * v(i) * k(j);
                }
            }
            y.extend((0..n).map(|i| (0..n).map(|j| s[j * n + i] * q(j)).sum::<f64>()));
        }
        y
    }
}
