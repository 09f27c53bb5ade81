//! RWKV-4's weighted average, many channels (Peng et al. 2023, arXiv 2305.13048).
//!
//! Its state is f32 always: small, and its exponents need the range. Test: `tests/parity_rwkv.rs`.

use crate::kernels::Isa;
use crate::kernels::columns::{Columns, ColumnsMut};
use crate::kernels::math::exp;
use crate::kernels::simd::simd;

/// RWKV-4's state: two sums of exponentially weighted tokens, kept relative to e^max, one element
/// per channel.
pub(crate) struct Average<'a> {
    /// Σ e^(k−max) v.
    pub(crate) num: &'a mut [f32],
    /// Σ e^(k−max).
    pub(crate) den: &'a mut [f32],
    /// The largest exponent so far.
    pub(crate) max: &'a mut [f32],
}

/// The inputs of a span of tokens to some channels, one column per token.
pub(crate) struct Averaged<'a> {
    pub(crate) k: Columns<'a>,
    pub(crate) v: Columns<'a>,
    /// The logarithm of what the past is multiplied by, and of what the token itself counts for;
    /// the same for all tokens.
    pub(crate) decay: &'a [f32],
    pub(crate) bonus: &'a [f32],
    /// Overwritten.
    pub(crate) y: ColumnsMut<'a>,
}

/// RWKV-4's weighted average in its stable form (Peng et al. 2023, arXiv 2305.13048, appendix D),
/// token after token: overwrites `y` with the average of the past and of the token itself, which
/// counts e^bonus times; then ages the past by e^decay and takes the token in. All slices have the
/// same length.
pub(crate) fn weighted_average(isa: Isa, state: &mut Average<'_>, mut span: Averaged<'_>) {
    simd!(isa, {
        for c in 0..span.y.len() {
            let (k, v, y) = (span.k.at(c), span.v.at(c), span.y.at(c));
            token(state, k, v, span.decay, span.bonus, y);
        }
    });
}

/// One token.
#[inline(always)]
fn token(
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
