//! The search for the scales of a group, and the choice among the 8-bit ones: plain loops over
//! lanes, which are the definition.
//!
//! Here: what codes stand for ([`Values`]), sums that judge a scale, and the scales that are tried.
//! Not here: the same sums by other means (`shuffles`), the choice of an instruction set
//! (`vectorized`), bytes. Test: `tests`; `quant/tests`.

use crate::quant::TILE_ROWS;
use crate::quant::int8::round_to_even;
use crate::quant::tile::Lanes;

/// The values of the codes of `int4`, denser around zero as trained weights are. One of them is 0,
/// for padding and for weights that are 0.
///
/// They give the least squares on matrices of four small trained models and on Student's t with 5
/// degrees of freedom, of all tables of six bits near the shape of llama.cpp's `IQ4_NL`, and as
/// little as that one, which has eight.
pub const TABLE: [i8; 16] = [-32, -25, -20, -16, -12, -9, -6, -3, 0, 3, 6, 9, 13, 17, 21, 27];

/// The largest magnitude of a scale.
pub(super) const MAX_SCALE: f32 = 127.0;

/// Rounds of `codes → least-squares scale → codes` after the search.
const REFINEMENTS: usize = 2;

/// How much columns weigh.
pub(in crate::quant) trait Weights: Copy {
    /// Whether all weigh 1, which saves `shuffles` a rounding.
    #[cfg_attr(not(all(target_arch = "x86_64", feature = "convert")), expect(dead_code))]
    const ALIKE: bool;
    /// The weight of a column.
    fn of(self, column: usize) -> f32;
}

/// Every column weighs 1.
#[derive(Clone, Copy)]
pub(in crate::quant) struct Alike;

impl Weights for Alike {
    const ALIKE: bool = true;

    #[inline(always)]
    fn of(self, _: usize) -> f32 {
        1.0
    }
}

impl Weights for &[f32] {
    const ALIKE: bool = false;

    #[inline(always)]
    fn of(self, column: usize) -> f32 {
        self[column]
    }
}

/// The largest inverse of a magnitude that is surely finite times any number that is tried.
const LARGEST_UNIT: f32 = 1e37;

/// Ascending values, of which code 0 is the first; and how they are found.
pub(in crate::quant) trait Values: Copy {
    /// The largest magnitude.
    const LARGEST: f32;
    /// Where the largest magnitude of a group is tried to fall: first, step, how often. From no
    /// code clipped up to a quarter of the range.
    const TRIED: (f32, f32, usize);
    /// The value that is nearest to `v`.
    fn nearest(v: f32) -> f32;
    /// The code of a value.
    fn code(value: f32) -> u8;

    /// Per lane `(Σ w·x·q, Σ w·q²)` with `q` the value nearest to `x · inverse`.
    ///
    /// `Σ w·(x − s·q)² = Σ w·x² − (2·s·Σwxq − s²·Σwq²)`: the two sums are all that judging a scale
    /// takes, and the best scale for these codes is `Σwxq / Σwq²`, which gains `(Σwxq)² / Σwq²`.
    #[inline(always)]
    fn moments<W: Weights>(self, block: &[Lanes], w: W, inverse: &Lanes) -> (Lanes, Lanes) {
        let (mut xq, mut qq) = ([0.0; TILE_ROWS], [0.0; TILE_ROWS]);
        for (c, x) in block.iter().enumerate() {
            let w = w.of(c);
            for lane in 0..TILE_ROWS {
                let q = Self::nearest(x[lane] * inverse[lane]);
                xq[lane] += w * x[lane] * q;
                qq[lane] += w * q * q;
            }
        }
        (xq, qq)
    }

    /// The moments for the inverse scales, and for their opposites. Every `x · inverse` is a number,
    /// at most 2^28.
    #[inline(always)]
    fn both_moments<W: Weights>(
        self,
        block: &[Lanes],
        w: W,
        inverse: &Lanes,
    ) -> [(Lanes, Lanes); 2] {
        let plus = self.moments(block, w, inverse);
        [plus, self.moments(block, w, &inverse.map(|inverse| -inverse))]
    }

    /// The codes of `x · inverse`.
    #[inline(always)]
    fn codes(self, block: &[Lanes], inverse: &Lanes, codes: &mut [[u8; TILE_ROWS]]) {
        for (x, codes) in block.iter().zip(codes) {
            for lane in 0..TILE_ROWS {
                codes[lane] = Self::code(Self::nearest(x[lane] * inverse[lane]));
            }
        }
    }
}

/// The values of [`TABLE`].
#[derive(Clone, Copy)]
pub(super) struct Table;

impl Values for Table {
    const LARGEST: f32 = 32.0;
    const TRIED: (f32, f32, usize) = (22.0, 1.5, 13);

    #[inline(always)]
    fn nearest(v: f32) -> f32 {
        // Every border that `v` has passed adds the distance between its two values: no branch and
        // no table, so that sixteen lanes go side by side.
        let mut nearest = f32::from(TABLE[0]);
        for pair in TABLE.windows(2) {
            let (below, above) = (f32::from(pair[0]), f32::from(pair[1]));
            nearest += if v > (below + above) / 2.0 { above - below } else { 0.0 };
        }
        nearest
    }

    #[inline(always)]
    fn code(value: f32) -> u8 {
        TABLE.iter().filter(|below| f32::from(**below) < value).count() as u8
    }
}

/// Values `−HALF..HALF`.
#[derive(Clone, Copy)]
pub(in crate::quant) struct Plain<const HALF: i32>;

impl<const HALF: i32> Values for Plain<HALF> {
    const LARGEST: f32 = HALF as f32;
    const TRIED: (f32, f32, usize) = (0.9 * HALF as f32, 0.4, if HALF > 16 { 18 } else { 14 });

    #[inline(always)]
    fn nearest(v: f32) -> f32 {
        let (first, last) = (-HALF as f32, (HALF - 1) as f32);
        let v = if v > first { v } else { first };
        let v = if v < last { v } else { last };
        round_to_even(v)
    }

    #[inline(always)]
    fn code(value: f32) -> u8 {
        (value as i32 + HALF) as u8
    }
}

/// See [`Grid::nearest`](super::Grid::nearest).
#[inline(always)]
pub(super) fn nearest<V: Values>(v: &Lanes) -> ([u8; TILE_ROWS], Lanes) {
    let values = v.map(V::nearest);
    (values.map(V::code), values)
}

/// See [`Grid::search`](super::Grid::search); `absmax` has each lane's largest magnitude.
#[inline(always)]
pub(super) fn search<V: Values>(
    values: V,
    block: &[Lanes],
    w: impl Weights,
    absmax: &Lanes,
) -> Lanes {
    // A magnitude below the smallest f32 with full precision stands for nothing.
    let unit = absmax.map(|a| if a < f32::MIN_POSITIVE { 0.0 } else { 1.0 / a });
    let is_finite = unit.iter().all(|u| *u <= LARGEST_UNIT);
    let mut best = Best { gain: [0.0; TILE_ROWS], scale: [0.0; TILE_ROWS] };
    let (first, step, n) = V::TRIED;
    for i in 0..n {
        let k = first + step * i as f32;
        let inverse = unit.map(|u| u * k);
        if is_finite {
            let [plus, minus] = values.both_moments(block, w, &inverse);
            best.judge(plus);
            best.judge(minus);
        } else {
            best.judge(values.moments(block, w, &inverse));
            best.judge(values.moments(block, w, &inverse.map(|inverse| -inverse)));
        }
    }
    for _ in 0..REFINEMENTS {
        best.judge(values.moments(block, w, &best.scale.map(inverse)));
    }
    best.scale
}

/// The best scales so far, and what they gain over scales of 0.
struct Best {
    gain: Lanes,
    scale: Lanes,
}

impl Best {
    /// Judges the best scales for the codes that have these moments.
    #[inline(always)]
    fn judge(&mut self, (xq, qq): (Lanes, Lanes)) {
        for lane in 0..TILE_ROWS {
            let least_squares = xq[lane] / qq[lane];
            let gain = xq[lane] * least_squares;
            if gain > self.gain[lane] {
                self.gain[lane] = gain;
                self.scale[lane] = least_squares;
            }
        }
    }
}

/// See [`Grid::choose`](super::Grid::choose).
#[inline(always)]
pub(super) fn choose<V: Values>(
    values: V,
    block: &[Lanes],
    w: impl Weights,
    (wanted, steps): (&Lanes, &Lanes),
) -> [i8; TILE_ROWS] {
    let near: Lanes = std::array::from_fn(|lane| {
        if steps[lane] == 0.0 { 0.0 } else { round_to_even(wanted[lane] / steps[lane]) }
    });
    let (mut best, mut chosen) = ([0.0; TILE_ROWS], [0; TILE_ROWS]);
    for offset in [0.0, -1.0, 1.0] {
        let tried = near.map(|n| (n + offset).clamp(-MAX_SCALE, MAX_SCALE));
        let scale: Lanes = std::array::from_fn(|lane| tried[lane] * steps[lane]);
        let (xq, qq) = values.moments(block, w, &scale.map(inverse));
        for lane in 0..TILE_ROWS {
            let gain = scale[lane] * (2.0 * xq[lane] - scale[lane] * qq[lane]);
            if gain > best[lane] {
                best[lane] = gain;
                chosen[lane] = tried[lane] as i8;
            }
        }
    }
    chosen
}

/// `1 / scale`, 0 for 0.
#[inline(always)]
pub(in crate::quant) fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}
