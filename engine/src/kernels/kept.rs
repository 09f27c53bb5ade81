//! How a page keeps keys and values of attention: as f32, as f16, or as int8 with one scale for
//! each token's key, and one for its value.
//!
//! ```text
//! one head of a page, d being its size:
//!     keys    (d, 64)    so that the scores of 16 tokens are one vector
//!     values  (64, d)
//!     scales  (2, 64)    of keys, of values: f32, int8 alone
//! ```
//!
//! A scale has 16 significant bits, so that a code times it is exact: what was kept, read and kept
//! again is the same. Here: writing and reading one token. Not here: attention (`attention`), and
//! who has the pages (`crate::state`). Test: below.

use std::ops::Range;

use brooklet_formats::DType;
use bytemuck::{Pod, cast_slice, cast_slice_mut};
use half::f16;

use super::isa::Isa;
use super::lanes::{Lanes, WIDTH};
use super::math::ROUND;
use super::state::StateElement;
use super::vector::{LaneKernel, Vector};

/// Tokens of a page.
pub(crate) const PAGE: usize = 64;
/// The largest head; a latent may be larger.
pub(crate) const MAX_HEAD: usize = 256;
/// The largest code.
const MAX_CODE: f32 = 127.0;
/// Smaller values are kept as zeros in int8: their scale would be no normal number.
const LEAST: f32 = 1e-30;
/// Bits at the end of a scale that are zero: a code has seven, f32 24.
const FREE_BITS: u32 = (1 << 8) - 1;

/// One of the two that a token leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeysOrValues {
    Keys,
    Values,
}

/// A format of keys and values.
pub(crate) trait Kept: Pod + Send + Sync {
    /// Whether each token has a scale.
    const SCALED: bool;
    /// The first sixteen of `x`, without their scales.
    fn load<V: Vector>(x: &[Self]) -> V;
    /// One of them, without its scale.
    fn value(self) -> f32;
    /// The scale of `x`.
    fn scale(x: &[f32]) -> f32;
    /// Writes `x` to as many codes under their scale.
    fn encode<V: Vector>(x: &[f32], scale: f32, codes: &mut [Self]);
}

/// Cache lines of one head in a page.
pub(crate) fn lines(dtype: DType, d_head: usize) -> usize {
    let (bits, scales) = match dtype {
        DType::Int8 => (8, 2 * PAGE * size_of::<f32>() / size_of::<Lanes>()),
        dtype => (dtype.element_bits(), 0),
    };
    // 64 tokens take as many cache lines as one has bytes.
    d_head.saturating_mul(2 * bits / 8).saturating_add(scales)
}

/// One head of a page.
pub(crate) struct HeadPage<'a, T> {
    /// (d_head, 64)
    pub(crate) keys: &'a [T],
    /// (64, d_head)
    pub(crate) values: &'a [T],
    /// Of keys, of values; empty where nothing is scaled.
    pub(crate) scales: [&'a [f32]; 2],
}

impl<'a, T: Kept> HeadPage<'a, T> {
    /// The one in `lines`.
    #[inline(always)]
    pub(crate) fn new(lines: &'a [Lanes], d_head: usize) -> Self {
        let n = d_head * PAGE;
        let (codes, scales) = lines.split_at(2 * n * size_of::<T>() / size_of::<Lanes>());
        let (keys, values) = cast_slice(codes).split_at(n);
        let scales: &[f32] = cast_slice(scales);
        let (of_keys, of_values) = scales.split_at(if T::SCALED { PAGE } else { 0 });
        HeadPage { keys, values, scales: [of_keys, of_values] }
    }
}

/// Keeps the key, or the value, `x` of token `token` in one head of a page.
pub(crate) fn remember(
    isa: Isa,
    dtype: DType,
    lines: &mut [Lanes],
    (token, part): (usize, KeysOrValues),
    x: &[f32],
) {
    match dtype {
        DType::F16 => isa.run_lanes(Remember::<f16>::new(lines, token, part, x)),
        DType::Int8 => isa.run_lanes(Remember::<i8>::new(lines, token, part, x)),
        _ => isa.run_lanes(Remember::<f32>::new(lines, token, part, x)),
    }
}

/// Reads what [`remember`] has kept, as f32.
pub(crate) fn recall(
    dtype: DType,
    lines: &[Lanes],
    (token, part): (usize, KeysOrValues),
    x: &mut [f32],
) {
    fn read<T: Kept>(lines: &[Lanes], token: usize, part: KeysOrValues, x: &mut [f32]) {
        let page = HeadPage::<T>::new(lines, x.len());
        let d_head = x.len();
        for (i, x) in x.iter_mut().enumerate() {
            *x = match part {
                KeysOrValues::Keys => page.keys[i * PAGE + token].value(),
                KeysOrValues::Values => page.values[token * d_head + i].value(),
            };
            if T::SCALED {
                *x *= page.scales[part as usize][token];
            }
        }
    }
    match dtype {
        DType::F16 => read::<f16>(lines, token, part, x),
        DType::Int8 => read::<i8>(lines, token, part, x),
        _ => read::<f32>(lines, token, part, x),
    }
}

/// The work of [`remember`].
struct Remember<'a, T> {
    codes: &'a mut [T],
    scales: &'a mut [f32],
    token: usize,
    part: KeysOrValues,
    x: &'a [f32],
}

impl<'a, T: Kept> Remember<'a, T> {
    fn new(lines: &'a mut [Lanes], token: usize, part: KeysOrValues, x: &'a [f32]) -> Self {
        let n = 2 * x.len() * PAGE * size_of::<T>() / size_of::<Lanes>();
        let (codes, scales) = lines.split_at_mut(n);
        Remember { codes: cast_slice_mut(codes), scales: cast_slice_mut(scales), token, part, x }
    }

    /// Where the token's own code number `i` stands among all.
    fn at(&self, i: usize) -> usize {
        match self.part {
            KeysOrValues::Keys => i * PAGE + self.token,
            KeysOrValues::Values => (PAGE + self.token) * self.x.len() + i,
        }
    }
}

impl<T: Kept> LaneKernel for Remember<'_, T> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let scale = T::scale(self.x);
        let mut codes = [T::zeroed(); MAX_HEAD];
        for (start, x) in (0..).step_by(MAX_HEAD).zip(self.x.chunks(MAX_HEAD)) {
            T::encode::<V>(x, scale, &mut codes[..x.len()]);
            for (i, code) in (start..).zip(&codes[..x.len()]) {
                self.codes[self.at(i)] = *code;
            }
        }
        if T::SCALED {
            self.scales[self.part as usize * PAGE + self.token] = scale;
        }
    }
}

/// Whole vectors of `n` values, and what is left.
fn vectors(n: usize) -> (impl Iterator<Item = usize>, Range<usize>) {
    ((0..n / WIDTH).map(|i| i * WIDTH), n / WIDTH * WIDTH..n)
}

macro_rules! kept_as_they_are {
    ($($t:ty),*) => {$(
        impl Kept for $t {
            const SCALED: bool = false;

            #[inline(always)]
            fn load<V: Vector>(x: &[Self]) -> V {
                <$t as StateElement>::load(x)
            }

            #[inline(always)]
            fn value(self) -> f32 {
                StateElement::value(self)
            }

            #[inline(always)]
            fn scale(_: &[f32]) -> f32 {
                1.0
            }

            #[inline(always)]
            fn encode<V: Vector>(x: &[f32], _: f32, codes: &mut [Self]) {
                let (whole, rest) = vectors(x.len());
                for at in whole {
                    <$t as StateElement>::store(V::load(&x[at..]), &mut codes[at..]);
                }
                for i in rest {
                    codes[i] = StateElement::of(x[i]);
                }
            }
        }
    )*};
}
kept_as_they_are!(f32, f16);

impl Kept for i8 {
    const SCALED: bool = true;

    #[inline(always)]
    fn load<V: Vector>(x: &[Self]) -> V {
        let mut wide = [0.0; WIDTH];
        for (wide, code) in wide.iter_mut().zip(x) {
            *wide = f32::from(*code);
        }
        V::load(&wide)
    }

    #[inline(always)]
    fn value(self) -> f32 {
        f32::from(self)
    }

    /// A value that is not finite makes all of them NaN.
    #[inline(always)]
    fn scale(x: &[f32]) -> f32 {
        let mut largest = [0.0f32; WIDTH];
        for x in x.chunks(WIDTH) {
            for (largest, x) in largest.iter_mut().zip(x) {
                *largest = if x.abs() > *largest { x.abs() } else { *largest };
            }
        }
        let largest = largest.iter().fold(0.0f32, |a, b| if *b > a { *b } else { a });
        match x.iter().all(|x| x.is_finite()) {
            false => f32::NAN,
            true if largest < LEAST => 0.0,
            // Up, so that the largest value is no more than the largest code.
            true => f32::from_bits(((largest / MAX_CODE).to_bits() + FREE_BITS) & !FREE_BITS),
        }
    }

    #[inline(always)]
    fn encode<V: Vector>(x: &[f32], scale: f32, codes: &mut [Self]) {
        for (code, x) in codes.iter_mut().zip(x) {
            // The nearest integer, ties to even; NaN becomes 0.
            *code = (x / scale + ROUND - ROUND) as i8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::recurrence::support::numbers;

    const PARTS: [KeysOrValues; 2] = [KeysOrValues::Keys, KeysOrValues::Values];

    fn kept(isa: Isa, dtype: DType, d: usize, texts: [&[f32]; 2]) -> [Vec<f32>; 2] {
        let mut page = vec![Lanes::ZERO; lines(dtype, d)];
        for (part, text) in PARTS.into_iter().zip(texts) {
            for (token, x) in text.chunks_exact(d).enumerate() {
                remember(isa, dtype, &mut page, (token, part), x);
            }
        }
        PARTS.map(|part| {
            let mut all = vec![f32::NAN; PAGE * d];
            for (token, x) in all.chunks_exact_mut(d).enumerate() {
                recall(dtype, &page, (token, part), x);
            }
            all
        })
    }

    /// Within half a step of what was kept, the same bits on every instruction set, and the same
    /// again when it is kept again.
    #[test]
    fn tokens_come_back() {
        for d in [64, 12, 21, 300] {
            let [mut keys, values] = [1, 2].map(|seed| numbers(d * PAGE, seed));
            keys[..d].fill(0.0);
            keys[d..2 * d].iter_mut().for_each(|x| *x *= 1e-33);
            // Values that f16 cannot tell from zero may be lost.
            let formats =
                [(DType::F32, 0.0, 0.0), (DType::F16, 5e-4, 1e-7), (DType::Int8, 0.004, LEAST)];
            for (dtype, step, lost) in formats {
                let first = kept(Isa::scalar(), dtype, d, [&keys, &values]);
                for (found, text) in first.iter().zip([&keys, &values]) {
                    for (found, x) in found.chunks(d).zip(text.chunks(d)) {
                        let largest = x.iter().fold(0.0, |a: f32, b| a.max(b.abs()));
                        for (found, x) in found.iter().zip(x) {
                            let far = (found - x).abs();
                            assert!(far <= lost.max(step * largest), "{dtype} {found} {x}");
                        }
                    }
                }
                for isa in Isa::available() {
                    assert_eq!(kept(isa, dtype, d, [&keys, &values]), first, "{isa:?} {dtype}");
                    assert_eq!(kept(isa, dtype, d, [&first[0], &first[1]]), first, "{dtype}");
                }
            }
        }
    }

    #[test]
    fn an_infinity_is_no_number_in_int8() {
        for bad in [f32::INFINITY, f32::NAN] {
            let x = [1.0, bad, 2.0];
            let found = kept(Isa::scalar(), DType::Int8, 3, [&x, &x]);
            assert!(found.iter().all(|x| x[..3].iter().all(|x| x.is_nan())));
        }
    }
}
