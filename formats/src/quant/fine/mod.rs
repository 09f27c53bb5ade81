//! `int4`, `int5`, `int6`: `x ≈ value(code) · scale · step`, a scale of 8 bits per row and 32
//! columns, a step of f16 per row.
//!
//! Here: the values of codes ([`Grid`]) and the bytes. `search` has the search for scales (a grid of
//! both signs, each judged by the best scale for its codes) and the choice of 8-bit scales under a
//! step, `shuffles` a faster way to the same sums.
//! Sixteen rows are searched side by side, one per lane, so that no sum runs across lanes and the
//! loops vectorize. Columns may weigh more or less, and the parts are public: whoever changes
//! weights while codes are chosen (GPTQ) does the same steps one group at a time. Source:
//! `SPEC.md`, "int4, int5, int6". Tests: `quant/tests`.

mod ask;
mod search;
#[cfg(all(target_arch = "x86_64", feature = "convert"))]
mod shuffles;

#[cfg(test)]
mod tests;

use half::f16;

use self::ask::{Choose, Codes, Nearest, Search, ask};
pub use self::search::TABLE;
pub(super) use self::search::{Alike, Plain, Values, inverse};
use self::search::{MAX_SCALE, Table, Weights};
use super::int8::next_up;
use super::tile::{Lanes, check_range, gather};
use super::{EncodeError, TILE_ROWS, TileLayout, VECTOR_BYTES};
use crate::DType;

/// Added to a value of the table to store it. Values have six bits, −32..=31, so that four products
/// with int8 activations fit 16 bits.
pub const TABLE_BIAS: i32 = 32;

/// Columns that share a scale.
pub const GROUP: usize = 32;

/// The values of the codes of a format.
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
        ask(self.0, Nearest(v))
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
        let mut absmax = [0.0f32; TILE_ROWS];
        for x in block {
            absmax = std::array::from_fn(|lane| absmax[lane].max(x[lane].abs()));
        }
        ask(self.0, Search { block, weights, absmax: &absmax })
    }

    /// The scales of 8 bits near the `wanted` ones with the least error under the rows' `steps`.
    pub fn choose(
        self,
        block: &[Lanes],
        weights: &[f32],
        wanted: &Lanes,
        steps: &Lanes,
    ) -> [i8; TILE_ROWS] {
        ask(self.0, Choose { block, weights, wanted, steps })
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
    let (nibbles, planes) = bytes.split_at_mut(GROUP / 8 * VECTOR_BYTES);
    let put = |vector: &mut [u8], i: usize, own: [u8; TILE_ROWS]| {
        for (lane, byte) in own.into_iter().enumerate() {
            vector[4 * lane + i] = byte;
        }
    };
    for (codes, vector) in codes.as_chunks::<8>().0.iter().zip(nibbles.chunks_mut(VECTOR_BYTES)) {
        for i in 0..4 {
            let (low, high) = (&codes[i], &codes[4 + i]);
            put(vector, i, std::array::from_fn(|lane| low[lane] & 15 | high[lane] << 4));
        }
    }
    for (p, plane) in planes.chunks_exact_mut(VECTOR_BYTES).enumerate() {
        for i in 0..4 {
            let mut bits = [0; TILE_ROWS];
            for (q, column) in codes.iter().skip(i).step_by(4).enumerate() {
                for lane in 0..TILE_ROWS {
                    bits[lane] |= (column[lane] >> (4 + p) & 1) << q;
                }
            }
            put(plane, i, bits);
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
    match importance {
        None => encode_weighted(layout, rows, |_| Alike, out),
        Some(all) => encode_weighted(layout, rows, |first| &all[first..][..GROUP], out),
    }
}

/// [`encode`] with the weights of the group that begins at a column.
fn encode_weighted<W: Weights>(
    layout: &TileLayout,
    rows: &[f32],
    weights: impl Fn(usize) -> W,
    out: &mut [u8],
) -> Result<(), EncodeError> {
    let grid = Grid(layout.dtype);
    let limit = grid.largest() * MAX_SCALE * f16::MAX.to_f32();
    let stride = layout.padded_cols();
    let mut block = [[0.0; TILE_ROWS]; GROUP];
    let mut wanted = Vec::with_capacity(stride / GROUP);
    let mut largest = [0.0f32; TILE_ROWS];
    for first in (0..stride).step_by(GROUP) {
        let absmax = gather(rows, stride, first, &mut block);
        check_range(layout, &absmax, limit, first, &block)?;
        let scales =
            ask(grid.0, Search { block: &block, weights: weights(first), absmax: &absmax });
        for (largest, scale) in largest.iter_mut().zip(scales) {
            *largest = largest.max(scale.abs());
        }
        wanted.push(scales);
    }
    let steps = steps(&largest);
    let step = steps.map(f16::to_f32);
    let mut codes = vec![[0; TILE_ROWS]; stride];
    let mut scales = Vec::with_capacity(wanted.len());
    for (g, (wanted, codes)) in wanted.iter().zip(codes.chunks_exact_mut(GROUP)).enumerate() {
        gather(rows, stride, g * GROUP, &mut block);
        let weights = weights(g * GROUP);
        let chosen = ask(grid.0, Choose { block: &block, weights, wanted, steps: &step });
        ask(grid.0, Codes { block: &block, inverse: &inverses(&chosen, &step), codes });
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
