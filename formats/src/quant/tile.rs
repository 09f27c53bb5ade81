//! Tiles: how one matrix `W: rows × cols` lies in memory, for every number format.
//!
//! Here: the geometry (all arithmetic checked once, in [`TileLayout::new`]) and the walks over the
//! groups of a tile that the scaled codecs share. Not here: what a code means (`int4`, `int8`,
//! `fp8`, `float`). Source: `SPEC.md`, "Tiles". Tests: `quant/tests.rs`, every byte's position
//! against the specification.

use half::f16;

use super::EncodeError;
use super::column_layout::{COLUMN_ROWS, ColumnLayout, has_columns};
use crate::{DType, FormatError};

/// Rows of a tile: one per 32-bit lane of a 64-byte vector.
pub const TILE_ROWS: usize = 16;

/// Bytes of a vector: 16 lanes of 32 bits, lane `r` belongs to row `r` of the tile.
pub const VECTOR_BYTES: usize = 64;

/// The longest group of columns that may share a scale.
pub const MAX_GROUP: usize = 128;

/// One value per row of a tile.
pub type Lanes = [f32; TILE_ROWS];

/// Shape and format of a matrix in tiles; knows where every byte is. The tiles of a matrix may also
/// stand taken apart, [by columns](TileLayout::by_columns): of such a matrix all methods speak of
/// the tiles but [`TileLayout::total_bytes`].
///
/// ```text
/// matrix   ceil(rows/16) tiles, one after the other; formats with steps: the sheet of scales
/// tile     n_pairs pairs, ascending columns
/// pair     f16 scales:     [codes of group 2p][codes of group 2p+1][16 f16 scales][16 f16 scales]
///          with steps:     [codes of group 2p][codes of group 2p+1]
///          float formats:  16 vectors (32 columns of f16 or bf16, 16 columns of f32)
/// sheet    [64 bytes: table of values] and for each tile [16 f16 steps][16 i8 scales per group]
/// ```
///
/// ```
/// use brooklet_formats::{DType, quant::TileLayout};
/// let layout = TileLayout::new(DType::Int8, 100, 100, 32)?;
/// assert_eq!((layout.padded_rows(), layout.padded_cols()), (112, 128));
/// assert_eq!((layout.pair_bytes(), layout.n_pairs(), layout.n_tiles()), (1088, 2, 7));
/// let layout = TileLayout::new(DType::Int4, 100, 100, 32)?;
/// assert_eq!((layout.tile_bytes(), layout.scale_bytes()), (2 * 512, 32 + 4 * 16));
/// # Ok::<(), brooklet_formats::FormatError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TileLayout {
    /// Number format of the elements.
    pub dtype: DType,
    /// Rows of the matrix (outputs), without padding.
    pub rows: usize,
    /// Columns of the matrix (inputs), without padding.
    pub cols: usize,
    /// Columns that share a scale: 32, 64 or 128; 0 where the format has no scales.
    pub group: usize,
    /// Whether the matrix stands in columns: [`ColumnLayout`].
    pub by_columns: bool,
}

impl TileLayout {
    /// Checks group and size; every other method is plain arithmetic afterwards.
    ///
    /// Fails if the group does not fit the format, if the matrix is empty, or if either the tiles
    /// or one tile decoded to f32 would not fit the address space.
    pub fn new(dtype: DType, rows: usize, cols: usize, group: usize) -> Result<Self, FormatError> {
        if !dtype.groups().contains(&group) {
            return Err(FormatError::Group { dtype, found: group });
        }
        let layout = Self { dtype, rows, cols, group, by_columns: false };
        match layout.checked_sizes() {
            Some(()) => Ok(layout),
            None => Err(FormatError::MatrixSize { dtype, rows, cols }),
        }
    }

    /// The same matrix in columns; `None` if the format has none, or they would not fit the address
    /// space.
    pub fn by_columns(self) -> Option<Self> {
        // Padded rows are 127 at most that no tile has: of so many bytes each, with its scales.
        let padding = self.padded_cols().checked_mul(2 * COLUMN_ROWS)?;
        let total = self.in_tiles().total_bytes().checked_add(padding)?;
        let fits = has_columns(self.dtype) && total <= isize::MAX as usize;
        fits.then_some(Self { by_columns: true, ..self })
    }

    /// The same matrix in tiles.
    pub const fn in_tiles(self) -> Self {
        Self { by_columns: false, ..self }
    }

    /// Tiles of so many rows and columns, which must not be more than the matrix has in whole tiles
    /// and pairs.
    pub const fn part(self, rows: usize, cols: usize) -> Self {
        Self { rows, cols, ..self.in_tiles() }
    }

    /// Where bytes are, of a matrix in columns.
    pub const fn columns(&self) -> Option<ColumnLayout> {
        if !self.by_columns {
            return None;
        }
        Some(ColumnLayout::new(self.dtype, self.rows, self.padded_cols(), self.group))
    }

    /// `None` if the matrix is empty or one of its sizes exceeds `isize::MAX` bytes.
    fn checked_sizes(&self) -> Option<()> {
        if self.rows == 0 || self.cols == 0 {
            return None;
        }
        let limit = isize::MAX as usize;
        let padded_rows = self.rows.checked_next_multiple_of(TILE_ROWS)?;
        let padded_cols = self.cols.checked_next_multiple_of(self.pair_cols())?;
        let tile_f32 = padded_cols.checked_mul(TILE_ROWS * size_of::<f32>())?;
        let tile = (padded_cols / self.pair_cols()).checked_mul(self.pair_bytes())?;
        let encoded = tile.checked_add(self.scale_bytes())?;
        let total = encoded.checked_mul(padded_rows / TILE_ROWS)?.checked_add(2 * VECTOR_BYTES)?;
        (tile_f32 <= limit && total <= limit).then_some(())
    }

    /// Rows rounded up to whole tiles.
    pub const fn padded_rows(&self) -> usize {
        self.n_tiles() * TILE_ROWS
    }

    /// Columns rounded up to whole pairs.
    pub const fn padded_cols(&self) -> usize {
        self.n_pairs() * self.pair_cols()
    }

    /// Tiles of the matrix: `ceil(rows / 16)`.
    pub const fn n_tiles(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// Pairs of a tile: `ceil(cols / pair_cols)`.
    pub const fn n_pairs(&self) -> usize {
        self.cols.div_ceil(self.pair_cols())
    }

    /// Columns of a pair: two groups, or what 16 vectors hold of a format without groups.
    pub const fn pair_cols(&self) -> usize {
        match self.dtype {
            DType::F32 => 16,
            DType::F16 | DType::Bf16 => 32,
            _ => 2 * self.group,
        }
    }

    /// Bytes of the codes of one group, all 16 rows: `16 · group · bits / 8` (scaled formats).
    pub const fn group_bytes(&self) -> usize {
        TILE_ROWS * self.group * self.dtype.element_bits() / 8
    }

    /// Bytes of a pair; always whole vectors.
    pub const fn pair_bytes(&self) -> usize {
        if self.dtype.has_steps() {
            2 * self.group_bytes()
        } else if self.dtype.has_scales() {
            2 * self.group_bytes() + VECTOR_BYTES
        } else {
            TILE_ROWS * self.pair_cols() * self.dtype.element_bits() / 8
        }
    }

    /// Bytes of a tile, without what the sheet of scales has of it.
    pub const fn tile_bytes(&self) -> usize {
        self.n_pairs() * self.pair_bytes()
    }

    /// Bytes of a tile in the sheet of scales: 16 f16 steps, then 16 scales for each group; 0 where
    /// the format has no steps.
    pub const fn scale_bytes(&self) -> usize {
        if self.dtype.has_steps() { TILE_ROWS * (2 + 2 * self.n_pairs()) } else { 0 }
    }

    /// Bytes that a tile is encoded to: its own, then those in the sheet of scales.
    pub const fn encoded_bytes(&self) -> usize {
        self.tile_bytes() + self.scale_bytes()
    }

    /// Bytes of the sheet of scales behind the tiles: a vector with the table, the scales of all
    /// tiles, and zeros up to a whole vector; 0 where the format has no steps.
    pub const fn sheet_bytes(&self) -> usize {
        if self.dtype.has_steps() {
            VECTOR_BYTES + (self.n_tiles() * self.scale_bytes()).next_multiple_of(VECTOR_BYTES)
        } else {
            0
        }
    }

    /// Bytes of the matrix.
    pub const fn total_bytes(&self) -> usize {
        match self.columns() {
            Some(columns) => columns.total_bytes,
            None => self.n_tiles() * self.tile_bytes() + self.sheet_bytes(),
        }
    }

    /// The tiles of a matrix, and its sheet of scales.
    ///
    /// # Panics
    /// If `matrix` is not [`TileLayout::total_bytes`] long, or stands in columns.
    pub fn split<'a>(&self, matrix: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        assert!(!self.by_columns, "a matrix in tiles");
        assert_eq!(matrix.len(), self.total_bytes(), "bytes of a matrix");
        matrix.split_at(self.n_tiles() * self.tile_bytes())
    }

    /// The bytes of one tile, and those that the sheet of scales has of it.
    ///
    /// # Panics
    /// If `matrix` is not [`TileLayout::total_bytes`] long, has no such tile, or stands in columns.
    pub fn tile<'a>(&self, matrix: &'a [u8], tile: usize) -> (&'a [u8], &'a [u8]) {
        let (tiles, sheet) = self.split(matrix);
        let codes = &tiles[tile * self.tile_bytes()..][..self.tile_bytes()];
        if sheet.is_empty() {
            return (codes, sheet);
        }
        (codes, &sheet[VECTOR_BYTES + tile * self.scale_bytes()..][..self.scale_bytes()])
    }

    /// Floats of one tile decoded: `16 · padded_cols`.
    pub const fn tile_floats(&self) -> usize {
        TILE_ROWS * self.padded_cols()
    }
}

/// How one scaled format writes and reads a group of columns.
pub(super) trait GroupCodec {
    /// The largest magnitude of a code; with the largest f16 scale it bounds the weights.
    const MAX_CODE: f32;

    /// Writes the codes of `block` (`group` columns of 16 lanes) and returns the 16 scales.
    ///
    /// `absmax` holds each lane's largest magnitude, finite and at most `MAX_CODE · 65504`.
    fn encode(block: &[Lanes], absmax: &Lanes, codes: &mut [u8]) -> [f16; TILE_ROWS];

    /// `out[c] = value(code of column c, this lane) · scale`, for one lane and a whole group.
    fn decode_lane(codes: &[u8], lane: usize, scale: f32, out: &mut [f32]);
}

/// Encodes a tile of a scaled format; see [`super::encode_tile`].
pub(super) fn encode_groups<C: GroupCodec>(
    layout: &TileLayout,
    rows: &[f32],
    out: &mut [u8],
) -> Result<(), EncodeError> {
    let mut block = [[0.0; TILE_ROWS]; MAX_GROUP];
    let block = &mut block[..layout.group];
    for (p, pair) in out.chunks_exact_mut(layout.pair_bytes()).enumerate() {
        let (codes, scales) = pair.split_at_mut(2 * layout.group_bytes());
        let groups = codes.chunks_exact_mut(layout.group_bytes());
        for (g, (codes, scales)) in groups.zip(scales.chunks_exact_mut(2 * TILE_ROWS)).enumerate() {
            let first_col = (2 * p + g) * layout.group;
            let absmax = gather(rows, layout.padded_cols(), first_col, block);
            check_range(layout, &absmax, C::MAX_CODE * f16::MAX.to_f32(), first_col, block)?;
            for (bytes, scale) in
                scales.as_chunks_mut::<2>().0.iter_mut().zip(C::encode(block, &absmax, codes))
            {
                *bytes = scale.to_le_bytes();
            }
        }
    }
    Ok(())
}

/// Decodes the first `out.len()` columns of one lane of a tile.
pub(super) fn decode_lane<C: GroupCodec>(
    layout: &TileLayout,
    tile: &[u8],
    lane: usize,
    out: &mut [f32],
) {
    let (group, group_bytes) = (layout.group, layout.group_bytes());
    for (pair, out) in tile.chunks_exact(layout.pair_bytes()).zip(out.chunks_mut(2 * group)) {
        let (codes, scales) = pair.split_at(2 * group_bytes);
        for (g, out) in out.chunks_mut(group).enumerate() {
            let at = 2 * (TILE_ROWS * g + lane);
            let scale = f16::from_le_bytes([scales[at], scales[at + 1]]).to_f32();
            let codes = &codes[g * group_bytes..][..group_bytes];
            if out.len() == group {
                C::decode_lane(codes, lane, scale, out);
            } else {
                let mut whole = [0.0; MAX_GROUP];
                C::decode_lane(codes, lane, scale, &mut whole[..group]);
                out.copy_from_slice(&whole[..out.len()]);
            }
        }
    }
}

/// Transposes `block.len()` columns from row-major rows into lanes; returns each lane's absolute
/// maximum.
///
/// The maximum is taken on the bit patterns, which order magnitudes as the values do and put
/// infinity and NaN on top.
pub(super) fn gather(rows: &[f32], stride: usize, first_col: usize, block: &mut [Lanes]) -> Lanes {
    let mut absmax = [0u32; TILE_ROWS];
    for (lane, row) in rows.chunks_exact(stride).enumerate() {
        for (column, &x) in block.iter_mut().zip(&row[first_col..]) {
            column[lane] = x;
        }
    }
    for column in &*block {
        for (max, x) in absmax.iter_mut().zip(column) {
            *max = (*max).max(x.to_bits() & 0x7fff_ffff);
        }
    }
    absmax.map(f32::from_bits)
}

/// Refuses what is not finite or larger than `limit`, above which a scale would be no f16.
pub(super) fn check_range(
    layout: &TileLayout,
    absmax: &Lanes,
    limit: f32,
    first_col: usize,
    block: &[Lanes],
) -> Result<(), EncodeError> {
    if absmax.iter().all(|max| *max <= limit) {
        return Ok(());
    }
    for (c, column) in block.iter().enumerate() {
        for (row, &value) in column.iter().enumerate() {
            EncodeError::check(layout.dtype, row, first_col + c, value, limit)?;
        }
    }
    Ok(())
}
