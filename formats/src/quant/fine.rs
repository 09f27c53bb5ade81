//! `int4`, `int5`, `int6`: `x ≈ value(code) · scale · step`, a scale of 8 bits per row and 32
//! columns, a step of f16 per row.
//!
//! Here: the values of codes ([`Grid`]), the search for scales (a grid of both signs, each judged
//! by the best scale for its codes), the choice of 8-bit scales under a step, and the bytes.
//! Sixteen rows are searched side by side, one per lane, so that no sum runs across lanes and the
//! loops vectorize. Columns may weigh more or less, and the parts are public: whoever changes
//! weights while codes are chosen (GPTQ) does the same steps one group at a time. Source:
//! `SPEC.md`, "int4, int5, int6". Tests: `quant/tests`.

use half::f16;

use super::int8::{next_up, round_to_even};
use super::tile::{Lanes, check_range, gather};
use super::vectorized::vectorized;
use super::{EncodeError, MAX_GROUP, TILE_ROWS, TileLayout, VECTOR_BYTES};
use crate::DType;

/// The values of the codes of `int4`, denser around zero as trained weights are. One of them is 0,
/// for padding and for weights that are 0.
///
/// They give the least squares on matrices of four small trained models and on Student's t with 5
/// degrees of freedom, of all tables of six bits near the shape of llama.cpp's `IQ4_NL`, and as
/// little as that one, which has eight.
pub const TABLE: [i8; 16] = [-32, -25, -20, -16, -12, -9, -6, -3, 0, 3, 6, 9, 13, 17, 21, 27];

/// Added to a value of the table to store it. Values have six bits, −32..=31, so that four products
/// with int8 activations fit 16 bits.
pub const TABLE_BIAS: i32 = 32;

/// Columns that share a scale.
pub const GROUP: usize = 32;

/// The largest magnitude of a scale.
const MAX_SCALE: f32 = 127.0;

/// Rounds of `codes → least-squares scale → codes` after the search.
const REFINEMENTS: usize = 2;

/// What the codes of a format stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid(DType);

impl Grid {
    /// That of a format with steps.
    pub fn of(dtype: DType) -> Option<Self> {
        dtype.has_steps().then_some(Self(dtype))
    }

    /// The codes whose values are nearest to `v`, and these values.
    #[inline]
    pub fn nearest(self, v: &Lanes) -> ([u8; TILE_ROWS], Lanes) {
        vectorized(
            #[inline(always)]
            move || match self.0 {
                DType::Int4 => nearest::<Table>(v),
                DType::Int5 => nearest::<Plain<16>>(v),
                _ => nearest::<Plain<32>>(v),
            },
        )
    }

    /// The value of a code.
    #[inline]
    pub fn value(self, code: u8) -> f32 {
        match self.0 {
            DType::Int4 => f32::from(TABLE[usize::from(code & 15)]),
            DType::Int5 => f32::from(code) - 16.0,
            _ => f32::from(code) - 32.0,
        }
    }

    /// The scales, one per row, that give the least `Σ weight · (x − value · scale)²` over a group:
    /// `block[c][row]`, `weights[c]` not negative. 0 for a row of zeros.
    pub fn search(self, block: &[Lanes], weights: &[f32]) -> Lanes {
        vectorized(
            #[inline(always)]
            move || match self.0 {
                DType::Int4 => search::<Table>(block, weights),
                DType::Int5 => search::<Plain<16>>(block, weights),
                _ => search::<Plain<32>>(block, weights),
            },
        )
    }

    /// The scales of 8 bits near the `wanted` ones with the least error under the rows' `steps`.
    pub fn choose(
        self,
        block: &[Lanes],
        weights: &[f32],
        wanted: &Lanes,
        steps: &Lanes,
    ) -> [i8; TILE_ROWS] {
        vectorized(
            #[inline(always)]
            move || match self.0 {
                DType::Int4 => choose::<Table>(block, weights, wanted, steps),
                DType::Int5 => choose::<Plain<16>>(block, weights, wanted, steps),
                _ => choose::<Plain<32>>(block, weights, wanted, steps),
            },
        )
    }

    /// The largest magnitude of a value.
    fn largest(self) -> f32 {
        match self.0 {
            DType::Int4 => Table::LARGEST,
            DType::Int5 => Plain::<16>::LARGEST,
            _ => Plain::<32>::LARGEST,
        }
    }
}

/// The steps of rows whose largest scales (in magnitude) are `largest`: the smallest f16 under
/// which these are at most 127; 0 for 0.
pub fn steps(largest: &Lanes) -> [f16; TILE_ROWS] {
    largest.map(|scale| {
        let step = f16::from_f32((scale / MAX_SCALE).min(f16::MAX.to_f32()));
        if step.to_f32() * MAX_SCALE < scale && step < f16::MAX { next_up(step) } else { step }
    })
}

/// A tile, ready to be written.
#[derive(Clone, Copy, Debug)]
pub struct Tile<'a> {
    /// Of each row.
    pub steps: [f16; TILE_ROWS],
    /// Of each group and row, −127..=127.
    pub scales: &'a [[i8; TILE_ROWS]],
    /// Of each padded column and row.
    pub codes: &'a [[u8; TILE_ROWS]],
}

/// Writes a tile, [`TileLayout::encoded_bytes`] long.
///
/// # Panics
/// If a length is not what `layout` gives, or its format has no steps.
pub fn pack(layout: &TileLayout, tile: &Tile<'_>, out: &mut [u8]) {
    assert!(layout.dtype.has_steps());
    assert_eq!(out.len(), layout.encoded_bytes(), "bytes of a tile");
    assert_eq!(tile.codes.len(), layout.padded_cols(), "columns of a tile");
    assert_eq!(tile.scales.len(), 2 * layout.n_pairs(), "groups of a tile");
    let (bytes, sheet) = out.split_at_mut(layout.tile_bytes());
    for (codes, bytes) in
        tile.codes.chunks_exact(GROUP).zip(bytes.chunks_exact_mut(layout.group_bytes()))
    {
        pack_group(codes, bytes);
    }
    let (steps, scales) = sheet.split_at_mut(2 * TILE_ROWS);
    for (bytes, step) in steps.as_chunks_mut::<2>().0.iter_mut().zip(tile.steps) {
        *bytes = step.to_le_bytes();
    }
    for (bytes, scale) in scales.iter_mut().zip(tile.scales.as_flattened()) {
        *bytes = scale.to_le_bytes()[0];
    }
}

/// Nibbles of eight columns in a vector, then a vector for each higher bit: bit q of byte i of a
/// lane belongs to column 4q + i.
fn pack_group(codes: &[[u8; TILE_ROWS]], bytes: &mut [u8]) {
    bytes.fill(0);
    let (nibbles, planes) = bytes.split_at_mut(GROUP / 8 * VECTOR_BYTES);
    for (c, column) in codes.iter().enumerate() {
        for (lane, &code) in column.iter().enumerate() {
            let at = 4 * lane + c % 4;
            nibbles[c / 8 * VECTOR_BYTES + at] |= (code & 15) << (c % 8 / 4 * 4);
            for (p, plane) in planes.chunks_exact_mut(VECTOR_BYTES).enumerate() {
                plane[at] |= (code >> (4 + p) & 1) << (c / 4);
            }
        }
    }
}

/// The code of a column and a lane of a group.
fn unpack(bytes: &[u8], lane: usize, c: usize) -> u8 {
    let (nibbles, planes) = bytes.split_at(GROUP / 8 * VECTOR_BYTES);
    let at = 4 * lane + c % 4;
    let low = nibbles[c / 8 * VECTOR_BYTES + at] >> (c % 8 / 4 * 4) & 15;
    let high = planes.chunks_exact(VECTOR_BYTES).enumerate();
    high.fold(low, |code, (p, plane)| code | (plane[at] >> (c / 4) & 1) << (4 + p))
}

/// The first vector of the sheet of scales of an `int4` matrix.
pub(super) const fn stored_table() -> [u8; VECTOR_BYTES] {
    let mut stored = [0; VECTOR_BYTES];
    let mut code = 0;
    while code < TABLE.len() {
        stored[code] = (TABLE[code] as i32 + TABLE_BIAS) as u8;
        code += 1;
    }
    stored
}

/// Encodes a tile as [`encode_tile`](super::encode_tile) does, columns weighing as much as
/// `importance` says: of each padded column, not negative; all the same if it is `None`.
///
/// # Panics
/// If a slice does not have the length that `layout` gives, or its format has no steps.
pub fn encode(
    layout: &TileLayout,
    rows: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), EncodeError> {
    assert!(layout.dtype.has_steps());
    assert_eq!(rows.len(), layout.tile_floats(), "rows of a tile");
    assert!(importance.is_none_or(|all| all.len() == layout.padded_cols()), "columns of a tile");
    let grid = Grid(layout.dtype);
    let limit = grid.largest() * MAX_SCALE * f16::MAX.to_f32();
    let stride = layout.padded_cols();
    let weights = |first: usize| importance.map_or(&[1.0; GROUP][..], |all| &all[first..][..GROUP]);
    let mut block = [[0.0; TILE_ROWS]; MAX_GROUP];
    let block = &mut block[..GROUP];
    let mut wanted = Vec::with_capacity(stride / GROUP);
    let mut largest = [0.0f32; TILE_ROWS];
    for first in (0..stride).step_by(GROUP) {
        let absmax = gather(rows, stride, first, block);
        check_range(layout, &absmax, limit, first, block)?;
        let scales = grid.search(block, weights(first));
        for (largest, scale) in largest.iter_mut().zip(scales) {
            *largest = largest.max(scale.abs());
        }
        wanted.push(scales);
    }
    let steps = steps(&largest);
    let step = steps.map(f16::to_f32);
    let mut codes = Vec::with_capacity(stride);
    let mut scales = Vec::with_capacity(wanted.len());
    for (g, wanted) in wanted.iter().enumerate() {
        gather(rows, stride, g * GROUP, block);
        let chosen = grid.choose(block, weights(g * GROUP), wanted, &step);
        let inverse = inverses(&chosen, &step);
        for column in &*block {
            let scaled = std::array::from_fn(|lane| column[lane] * inverse[lane]);
            codes.push(grid.nearest(&scaled).0);
        }
        scales.push(chosen);
    }
    pack(layout, &Tile { steps, scales: &scales, codes: &codes }, out);
    Ok(())
}

/// Decodes the first `out.len()` columns of one lane of a tile; see [`super::decode_row`].
pub(super) fn decode_lane(
    layout: &TileLayout,
    table: &[u8],
    (tile, sheet): (&[u8], &[u8]),
    lane: usize,
    out: &mut [f32],
) {
    let (steps, scales) = sheet.split_at(2 * TILE_ROWS);
    let step = f16::from_le_bytes([steps[2 * lane], steps[2 * lane + 1]]).to_f32();
    let groups = tile.chunks_exact(layout.group_bytes()).zip(scales.chunks_exact(TILE_ROWS));
    for ((codes, scales), out) in groups.zip(out.chunks_mut(GROUP)) {
        let scale = f32::from(i8::from_le_bytes([scales[lane]]));
        for (c, out) in out.iter_mut().enumerate() {
            *out = value(layout.dtype, table, unpack(codes, lane, c)) as f32 * scale * step;
        }
    }
}

/// What a stored code stands for; `table` is the first vector of the sheet of scales.
fn value(dtype: DType, table: &[u8], code: u8) -> i32 {
    match dtype {
        DType::Int4 => i32::from(table[usize::from(code)] & 63) - TABLE_BIAS,
        DType::Int5 => i32::from(code) - 16,
        _ => i32::from(code) - 32,
    }
}

/// `1 / (scale · step)` of each row, 0 for 0.
pub fn inverses(scales: &[i8; TILE_ROWS], steps: &Lanes) -> Lanes {
    std::array::from_fn(|lane| inverse(f32::from(scales[lane]) * steps[lane]))
}

/// `1 / scale`, 0 for 0.
#[inline(always)]
pub(super) fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Ascending values, of which code 0 is the first.
pub(super) trait Values {
    /// The largest magnitude.
    const LARGEST: f32;
    /// Where the largest magnitude of a group is tried to fall: first, step, how often. From no
    /// code clipped up to a quarter of the range.
    const TRIED: (f32, f32, usize);
    /// The value that is nearest to `v`.
    fn nearest(v: f32) -> f32;
    /// The code of a value.
    fn code(value: f32) -> u8;
}

struct Table;

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
pub(super) struct Plain<const HALF: i32>;

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

/// See [`Grid::nearest`].
#[inline(always)]
fn nearest<V: Values>(v: &Lanes) -> ([u8; TILE_ROWS], Lanes) {
    let values = v.map(V::nearest);
    (values.map(V::code), values)
}

/// Per lane `(Σ w·x·q, Σ w·q²)` with `q` the value nearest to `x · inverse`.
///
/// `Σ w·(x − s·q)² = Σ w·x² − (2·s·Σwxq − s²·Σwq²)`: the two sums are all that judging a scale
/// takes, and the best scale for these codes is `Σwxq / Σwq²`, which gains `(Σwxq)² / Σwq²`.
#[inline(always)]
pub(super) fn moments<V: Values>(
    block: &[Lanes],
    weights: &[f32],
    inverse: &Lanes,
) -> (Lanes, Lanes) {
    let (mut xq, mut qq) = ([0.0; TILE_ROWS], [0.0; TILE_ROWS]);
    for (x, w) in block.iter().zip(weights) {
        for lane in 0..TILE_ROWS {
            let q = V::nearest(x[lane] * inverse[lane]);
            xq[lane] += w * x[lane] * q;
            qq[lane] += w * q * q;
        }
    }
    (xq, qq)
}

/// See [`Grid::search`].
#[inline(always)]
fn search<V: Values>(block: &[Lanes], weights: &[f32]) -> Lanes {
    let mut absmax = [0.0f32; TILE_ROWS];
    for x in block {
        for lane in 0..TILE_ROWS {
            absmax[lane] = absmax[lane].max(x[lane].abs());
        }
    }
    // What is below the smallest f32 with full precision stands for nothing.
    let unit = absmax.map(|a| if a < f32::MIN_POSITIVE { 0.0 } else { 1.0 / a });
    let mut best = Best { gain: [0.0; TILE_ROWS], scale: [0.0; TILE_ROWS] };
    let (first, step, n) = V::TRIED;
    for i in 0..n {
        let k = first + step * i as f32;
        best.judge::<V>(block, weights, &unit.map(|u| u * k));
        best.judge::<V>(block, weights, &unit.map(|u| u * -k));
    }
    for _ in 0..REFINEMENTS {
        let inverse = best.scale.map(inverse);
        best.judge::<V>(block, weights, &inverse);
    }
    best.scale
}

/// The best scales so far, and what they gain over scales of 0.
struct Best {
    gain: Lanes,
    scale: Lanes,
}

impl Best {
    /// Judges the best scales for the codes that these inverse scales give.
    #[inline(always)]
    fn judge<V: Values>(&mut self, block: &[Lanes], weights: &[f32], inverse: &Lanes) {
        let (xq, qq) = moments::<V>(block, weights, inverse);
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

/// See [`Grid::choose`].
#[inline(always)]
fn choose<V: Values>(
    block: &[Lanes],
    weights: &[f32],
    wanted: &Lanes,
    steps: &Lanes,
) -> [i8; TILE_ROWS] {
    let near: Lanes = std::array::from_fn(|lane| {
        if steps[lane] == 0.0 { 0.0 } else { round_to_even(wanted[lane] / steps[lane]) }
    });
    let (mut best, mut chosen) = ([0.0; TILE_ROWS], [0; TILE_ROWS]);
    for offset in [0.0, -1.0, 1.0] {
        let tried = near.map(|n| (n + offset).clamp(-MAX_SCALE, MAX_SCALE));
        let scale: Lanes = std::array::from_fn(|lane| tried[lane] * steps[lane]);
        let (xq, qq) = moments::<V>(block, weights, &scale.map(inverse));
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
