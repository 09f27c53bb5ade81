//! `int4-v1`: `x ≈ q · scale`, `q` in −8..=7, one f16 scale per row and group, searched for least
//! squares.
//!
//! Here: the search (a grid of scales of both signs, each judged by the best scale for its codes,
//! then refined with f16 scales) and the nibbles. Sixteen rows are searched side by side, one per
//! lane, so that no sum runs across lanes and the loops vectorize. What codes gain under a scale is
//! computed as for the formats with steps (`fine`). Source: `SPEC.md`, "int4-v1".
//! Tests: `quant/tests.rs` (never worse than `absmax/7`, near brute force).

use half::f16;

use super::fine::{Alike, Plain, Values, inverse};
use super::tile::{GroupCodec, Lanes};
use super::vectorized::vectorized;
use super::{TILE_ROWS, VECTOR_BYTES};

/// Added to a code to store it as an unsigned nibble.
pub const BIAS: i32 = 8;

/// The grid of the search: `absmax / |scale|` from 6½ (no code beyond ±6½) to 10 (a fifth of the
/// range clipped). On normal, Laplace and outlier-ridden weights the sum of squares ends within
/// 0.06 % of that of a search through 4000 scales; half the step gains 0.03 % more and takes twice
/// the time.
const GRID_FIRST: f32 = 6.5;
const GRID_STEP: f32 = 0.25;
const GRID_LEN: usize = 15;

/// Rounds of `codes → least-squares scale → codes`; later rounds change nothing measurable.
const REFINEMENTS: usize = 3;

/// Scales of fewer units of 2^-24 than this have less than 7 significant bits.
const COARSE: f32 = 64.0;

pub(super) struct Int4V1;

impl GroupCodec for Int4V1 {
    const MAX_CODE: f32 = 7.0;

    fn encode(block: &[Lanes], absmax: &Lanes, codes: &mut [u8]) -> [f16; TILE_ROWS] {
        let scales = vectorized(
            #[inline(always)]
            move || refine(block, absmax, search(block, absmax)),
        );
        let inverse = scales.map(inverse);
        let vectors = codes.as_chunks_mut::<VECTOR_BYTES>().0;
        for (columns, vector) in block.as_chunks::<8>().0.iter().zip(vectors) {
            let (low, high) = columns.split_at(4);
            for (i, (low, high)) in low.iter().zip(high).enumerate() {
                for lane in 0..TILE_ROWS {
                    let nibble = |x: f32| Plain::<8>::code(Plain::<8>::nearest(x * inverse[lane]));
                    vector[4 * lane + i] = nibble(low[lane]) | nibble(high[lane]) << 4;
                }
            }
        }
        scales.map(f16::from_f32)
    }

    fn decode_lane(codes: &[u8], lane: usize, scale: f32, out: &mut [f32]) {
        let vectors = codes.as_chunks::<VECTOR_BYTES>().0;
        for (vector, out) in vectors.iter().zip(out.as_chunks_mut::<8>().0) {
            let bytes = vector.as_chunks::<4>().0[lane];
            for (i, byte) in bytes.into_iter().enumerate() {
                out[i] = (i32::from(byte & 15) - BIAS) as f32 * scale;
                out[4 + i] = (i32::from(byte >> 4) - BIAS) as f32 * scale;
            }
        }
    }
}

/// [`Values::moments`] of columns that all weigh the same.
#[inline(always)]
fn moments(block: &[Lanes], inverse: &Lanes) -> (Lanes, Lanes) {
    Plain::<8>.moments(block, Alike, inverse)
}

/// The least-squares scale of the best codes on the grid, for each lane; 0 for a lane of zeros.
#[inline(always)]
fn search(block: &[Lanes], absmax: &Lanes) -> Lanes {
    // Below half of the smallest f16 scale every code is 0.
    let unit =
        absmax.map(|a| if a <= f16::MIN_POSITIVE_SUBNORMAL.to_f32() / 2.0 { 0.0 } else { 1.0 / a });
    let (mut best, mut scale) = ([0.0; TILE_ROWS], [0.0; TILE_ROWS]);
    for step in 0..GRID_LEN {
        let k = GRID_FIRST + GRID_STEP * step as f32;
        for signed in [k, -k] {
            // Without a code beyond ±7 both signs give the same.
            if k < 7.5 && signed < 0.0 {
                continue;
            }
            let (xq, qq) = moments(block, &unit.map(|u| u * signed));
            for lane in 0..TILE_ROWS {
                let least_squares = xq[lane] / qq[lane];
                let gain = xq[lane] * least_squares;
                if gain > best[lane] {
                    best[lane] = gain;
                    scale[lane] = least_squares;
                }
            }
        }
    }
    scale
}

/// The best f16 scale near `scale`, for each lane, by the error that it gives with its own codes.
///
/// `absmax / 7` is tried as well, so that the search is never worse than the plain rule.
#[inline(always)]
fn refine(block: &[Lanes], absmax: &Lanes, mut scale: Lanes) -> Lanes {
    let mut found = Found { gain: [0.0; TILE_ROWS], scale: [0.0; TILE_ROWS] };
    found.try_scales(block, absmax.map(|a| a / 7.0));
    for _ in 0..REFINEMENTS {
        scale = found.try_scales(block, scale);
    }
    // Where f16 scales are few units of 2^-24 apart, rounding misses the best one: try them all.
    let unit = f16::MIN_POSITIVE_SUBNORMAL.to_f32();
    let coarse = found.scale.map(|s| if s.abs() < COARSE * unit { s.abs().min(unit) } else { 0.0 });
    if coarse.iter().any(|s| *s != 0.0) {
        for n in 1..=COARSE as u32 {
            for signed in [n as f32, -(n as f32)] {
                found.try_scales(block, coarse.map(|s| s * signed));
            }
        }
    }
    found.scale
}

/// The best f16 scale of each lane so far, and what it gains over a scale of 0.
struct Found {
    gain: Lanes,
    scale: Lanes,
}

impl Found {
    /// Judges one scale per lane, rounded to f16; returns the least-squares scales of the codes it
    /// gave.
    #[inline(always)]
    fn try_scales(&mut self, block: &[Lanes], scale: Lanes) -> Lanes {
        let scale = scale.map(round_to_f16);
        let (xq, qq) = moments(block, &scale.map(inverse));
        let mut least_squares = [0.0; TILE_ROWS];
        for lane in 0..TILE_ROWS {
            let s = scale[lane];
            let gain = s * (2.0 * xq[lane] - s * qq[lane]);
            if gain > self.gain[lane] {
                self.gain[lane] = gain;
                self.scale[lane] = s;
            }
            least_squares[lane] = if qq[lane] > 0.0 { xq[lane] / qq[lane] } else { 0.0 };
        }
        least_squares
    }
}

/// The nearest finite f16 that is not 0, or 0 for 0.
fn round_to_f16(scale: f32) -> f32 {
    let (smallest, largest) = (f16::MIN_POSITIVE_SUBNORMAL.to_f32(), f16::MAX.to_f32());
    if scale == 0.0 {
        return 0.0;
    }
    f16::from_f32(scale.abs().clamp(smallest, largest).copysign(scale)).to_f32()
}
