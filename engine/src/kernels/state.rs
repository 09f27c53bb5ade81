//! The number formats that state elements are kept in. Computed with is f32, whatever they are.
//!
//! f16 is rounded to the nearest, ties to even, and saturates at ±65504: an infinity would stay in
//! a state for ever. NaN stays NaN. Every instruction set gives the same bits. Tests: below.

use std::ops::Range;

use brooklet_formats::DType;
use bytemuck::Pod;
use half::f16;

use super::isa::Isa;
use super::lanes::WIDTH;
use super::vector::{LaneKernel, Vector};

/// The largest finite f16.
pub(super) const MAX_F16: f32 = f16::MAX.to_f32_const();

/// A format in which an element is kept.
pub(crate) trait StateElement: Pod + Send + Sync {
    /// Its name.
    const DTYPE: DType;
    /// The nearest value that can be kept.
    fn of(value: f32) -> Self;
    /// The value that is kept.
    fn value(self) -> f32;
    /// The first sixteen values of `x`.
    fn load<V: Vector>(x: &[Self]) -> V;
    /// Writes the lanes to the first sixteen elements of `x`.
    fn store<V: Vector>(v: V, x: &mut [Self]);
    /// The values that [`StateElement::load`] gives back after [`StateElement::store`].
    fn kept<V: Vector>(v: V) -> V;
}

/// Elements of a state, as they are kept.
pub(crate) enum StateSlice<'a> {
    F32(&'a mut [f32]),
    F16(&'a mut [f16]),
}

impl StateSlice<'_> {
    /// Those in `range`.
    #[inline]
    pub(crate) fn part(&mut self, range: Range<usize>) -> StateSlice<'_> {
        match self {
            StateSlice::F32(x) => StateSlice::F32(&mut x[range]),
            StateSlice::F16(x) => StateSlice::F16(&mut x[range]),
        }
    }

    /// Runs `kernel` on them, with the vectors of `isa`.
    #[inline(always)]
    pub(crate) fn update(&mut self, isa: Isa, kernel: impl StateKernel) {
        match self {
            StateSlice::F32(state) => isa.run_lanes(On { state, kernel }),
            StateSlice::F16(state) => isa.run_lanes(On { state, kernel }),
        }
    }
}

/// Code over a state in any format, with any [`Vector`].
pub(crate) trait StateKernel {
    /// Runs it; mark the implementation `#[inline(always)]`.
    fn run<V: Vector, S: StateElement>(self, state: &mut [S]);
}

/// A kernel and its state.
struct On<'a, S, K> {
    state: &'a mut [S],
    kernel: K,
}

impl<S: StateElement, K: StateKernel> LaneKernel for On<'_, S, K> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        self.kernel.run::<V, S>(self.state);
    }
}

impl StateElement for f32 {
    const DTYPE: DType = DType::F32;
    #[inline(always)]
    fn of(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn value(self) -> f32 {
        self
    }
    #[inline(always)]
    fn load<V: Vector>(x: &[Self]) -> V {
        V::load(x)
    }
    #[inline(always)]
    fn store<V: Vector>(v: V, x: &mut [Self]) {
        v.store(x);
    }
    #[inline(always)]
    fn kept<V: Vector>(v: V) -> V {
        v
    }
}

impl StateElement for f16 {
    const DTYPE: DType = DType::F16;
    // These two are long without instructions for them, and only for what is left of a vector.
    #[inline(never)]
    fn of(value: f32) -> Self {
        f16::from_f32(value.clamp(-MAX_F16, MAX_F16))
    }
    #[inline(never)]
    fn value(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn load<V: Vector>(x: &[Self]) -> V {
        V::load_f16(x)
    }
    #[inline(always)]
    fn store<V: Vector>(v: V, x: &mut [Self]) {
        v.store_f16(x);
    }
    #[inline(always)]
    fn kept<V: Vector>(v: V) -> V {
        let mut x = [f16::ZERO; WIDTH];
        v.store_f16(&mut x);
        V::load_f16(&x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sixteen codes widened, sixteen values narrowed and widened again.
    struct Both<'a> {
        codes: &'a [f16],
        wide: &'a mut [f32],
        values: &'a [f32],
        narrow: &'a mut [f16],
        kept: &'a mut [f32],
    }

    impl LaneKernel for Both<'_> {
        #[inline(always)]
        fn run<V: Vector>(self) {
            f16::load::<V>(self.codes).store(self.wide);
            f16::store(V::load(self.values), self.narrow);
            f16::kept(V::load(self.values)).store(self.kept);
        }
    }

    /// Widens `codes` and narrows `values` on every instruction set and lane by lane, and compares
    /// with what `half` computes without instructions of any processor.
    fn check(codes: &[f16; WIDTH], values: &[f32; WIDTH]) {
        let expected_wide = codes.map(|code| code.to_f32_const().to_bits());
        let expected =
            values.map(|value| f16::from_f32_const(value.clamp(-MAX_F16, MAX_F16)).to_bits());
        let expected_kept = expected.map(|code| f16::from_bits(code).to_f32_const().to_bits());
        assert_eq!(codes.map(|code| code.value().to_bits()), expected_wide, "{codes:?}");
        assert_eq!(values.map(|value| f16::of(value).to_bits()), expected, "{values:?}");
        for isa in Isa::available() {
            let (mut wide, mut narrow, mut kept) = ([0.0; WIDTH], [f16::ZERO; WIDTH], [0.0; WIDTH]);
            let (to_wide, to_narrow, to_kept) = (&mut wide, &mut narrow, &mut kept);
            isa.run_lanes(Both { codes, wide: to_wide, values, narrow: to_narrow, kept: to_kept });
            assert_eq!(wide.map(f32::to_bits), expected_wide, "{isa:?} {codes:?}");
            assert_eq!(narrow.map(f16::to_bits), expected, "{isa:?} {values:?}");
            assert_eq!(kept.map(f32::to_bits), expected_kept, "{isa:?} {values:?}");
        }
    }

    /// Every f16 is itself again; the values half-way to the next one and their neighbours are
    /// rounded as IEEE 754 says, subnormal results too.
    #[test]
    fn all_halves_and_what_lies_between() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        for bits in all.as_chunks::<WIDTH>().0 {
            let codes = bits.map(f16::from_bits);
            let values = codes.map(f16::to_f32_const);
            check(&codes, &values);
            let between = bits.map(|bits| {
                let [this, next] =
                    [bits, bits.wrapping_add(1)].map(|b| f16::from_bits(b).to_f32_const());
                (this + next) / 2.0
            });
            for step in [-1, 0, 1] {
                check(
                    &codes,
                    &between.map(|x| f32::from_bits(x.to_bits().wrapping_add_signed(step))),
                );
            }
        }
    }

    /// Values of every exponent, pseudo-random bits.
    #[test]
    fn any_f32() {
        let mut bits = 1u32;
        for _ in 0..20_000 {
            let values = std::array::from_fn(|_| {
                bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f32::from_bits(bits ^ bits >> 16)
            });
            check(&[f16::ONE; WIDTH], &values);
        }
    }

    #[test]
    fn what_is_too_large_saturates_and_nan_stays() {
        let values = [65504.0, 65519.9, 65520.0, 65536.0, 1e38, f32::INFINITY, 6e-8, 2e-8, 1e-45];
        let expected =
            [65504.0, 65504.0, 65504.0, 65504.0, 65504.0, 65504.0, 5.960_464_5e-8, 0.0, 0.0];
        for (value, expected) in values.into_iter().zip(expected) {
            assert_eq!(f16::of(value).value(), expected);
            assert_eq!(f16::of(-value).value().to_bits(), (-expected).to_bits());
            check(&[f16::ONE; WIDTH], &[value; WIDTH]);
            check(&[f16::ONE; WIDTH], &[-value; WIDTH]);
        }
        assert!(f16::of(f32::NAN).value().is_nan());
        check(&[f16::NAN; WIDTH], &[f32::NAN; WIDTH]);
    }
}
