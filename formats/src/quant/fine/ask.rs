//! The questions to the values of a grid, compiled for the vectors of this processor.
//!
//! Not here: the answers (`search`, `shuffles`). Questions are types, not closures: the compiler
//! calls most closures through a function of its own, which is compiled for the oldest processor
//! where it is not inlined. Test: `tests`, `quant/tests/isas.rs`.

use super::search::{self, Plain, Table, Values, Weights};
use crate::DType;
use crate::quant::TILE_ROWS;
use crate::quant::tile::Lanes;

/// A question to the values of a grid. `of` is `#[inline(always)]`, and so is all that it calls.
pub(super) trait Ask {
    type Answer;
    fn of<V: Values>(self, values: V) -> Self::Answer;
}

/// Asks the values of a format with steps.
pub(super) fn ask<A: Ask>(dtype: DType, ask: A) -> A::Answer {
    match dtype {
        DType::Int4 => table(ask),
        DType::Int5 => plain(Plain::<16>, ask),
        _ => plain(Plain::<32>, ask),
    }
}

/// Of int4's table.
#[cfg(all(target_arch = "x86_64", feature = "convert"))]
fn table<A: Ask>(ask: A) -> A::Answer {
    use super::shuffles::Shuffled;
    match crate::quant::vectorized::arch() {
        pulp::x86::Arch::V4(simd) => simd.vectorize(On(Shuffled(simd), ask)),
        pulp::x86::Arch::V3(simd) => simd.vectorize(On(Shuffled(simd), ask)),
        _ => plain(Table, ask),
    }
}

#[cfg(not(all(target_arch = "x86_64", feature = "convert")))]
fn table<A: Ask>(ask: A) -> A::Answer {
    plain(Table, ask)
}

/// Of values that are found by plain loops.
fn plain<V: Values, A: Ask>(values: V, ask: A) -> A::Answer {
    #[cfg(feature = "convert")]
    return crate::quant::vectorized::arch().dispatch(On(values, ask));
    #[cfg(not(feature = "convert"))]
    ask.of(values)
}

/// A question with those that it goes to.
#[cfg(feature = "convert")]
struct On<V, A>(V, A);

#[cfg(feature = "convert")]
impl<V: Values, A: Ask> pulp::NullaryFnOnce for On<V, A> {
    type Output = A::Answer;

    #[inline(always)]
    fn call(self) -> A::Answer {
        self.1.of(self.0)
    }
}

/// See [`Grid::nearest`](super::Grid::nearest).
pub(super) struct Nearest<'a>(pub(super) &'a Lanes);

impl Ask for Nearest<'_> {
    type Answer = ([u8; TILE_ROWS], Lanes);

    #[inline(always)]
    fn of<V: Values>(self, _: V) -> Self::Answer {
        search::nearest::<V>(self.0)
    }
}

/// See [`Grid::search`](super::Grid::search); `absmax` has each lane's largest magnitude.
pub(super) struct Search<'a, W> {
    pub(super) block: &'a [Lanes],
    pub(super) weights: W,
    pub(super) absmax: &'a Lanes,
}

impl<W: Weights> Ask for Search<'_, W> {
    type Answer = Lanes;

    #[inline(always)]
    fn of<V: Values>(self, values: V) -> Lanes {
        search::search(values, self.block, self.weights, self.absmax)
    }
}

/// See [`Grid::choose`](super::Grid::choose).
pub(super) struct Choose<'a, W> {
    pub(super) block: &'a [Lanes],
    pub(super) weights: W,
    pub(super) wanted: &'a Lanes,
    pub(super) steps: &'a Lanes,
}

impl<W: Weights> Ask for Choose<'_, W> {
    type Answer = [i8; TILE_ROWS];

    #[inline(always)]
    fn of<V: Values>(self, values: V) -> Self::Answer {
        search::choose(values, self.block, self.weights, (self.wanted, self.steps))
    }
}

/// The codes of `block · inverse`, which go into `codes`.
pub(super) struct Codes<'a> {
    pub(super) block: &'a [Lanes],
    pub(super) inverse: &'a Lanes,
    pub(super) codes: &'a mut [[u8; TILE_ROWS]],
}

impl Ask for Codes<'_> {
    type Answer = ();

    #[inline(always)]
    fn of<V: Values>(self, values: V) {
        values.codes(self.block, self.inverse, self.codes);
    }
}
