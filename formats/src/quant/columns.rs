//! Columns: the second layout of `int4` and `int8` matrices, for inputs that are mostly zero.
//!
//! Each column's codes lie contiguous over all rows, so that a kernel reads only the columns whose input is not zero. Codes
//! and scales are those of [tiles](super::tile): the same matrix in either layout gives the same products, bit for bit.
//! Here: the geometry, and single tiles in and out. Not here: what a code means.
//! Source: `SPEC.md`, "Columns". Tests: below, every byte's position against the specification.

use half::f16;

use super::{TILE_ROWS, TileLayout, VECTOR_BYTES};
use crate::{DType, FormatError};

/// Rows whose codes (8 bits, or one nibble of them) fill a vector.
pub const BLOCK_ROWS: usize = 64;

/// Shape and format of a matrix in columns; knows where every byte is.
///
/// ```text
/// matrix   ceil(cols/group) groups, ascending columns
/// group    [column 0: codes of all strips] … [column group−1] [scales of all strips]
/// strip    a vector of codes: 64 rows of int8; 128 rows of int4, rows 64.. in the high nibbles
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ColumnLayout {
    tiles: TileLayout,
}

impl ColumnLayout {
    /// Checks format, group and size; every other method is plain arithmetic afterwards.
    ///
    /// Fails as [`TileLayout::new`] does, and on formats other than `int4` and `int8`.
    pub fn new(dtype: DType, rows: usize, cols: usize, group: usize) -> Result<Self, FormatError> {
        if !matches!(dtype, DType::Int4 | DType::Int8) {
            return Err(FormatError::ColumnFormat { dtype });
        }
        let layout = Self { tiles: TileLayout::new(dtype, rows, cols, group)? };
        let strips = rows.div_ceil(layout.strip_rows());
        let scales = strips.checked_mul(2 * layout.strip_rows());
        let codes = strips.checked_mul(VECTOR_BYTES).and_then(|column| column.checked_mul(group));
        let total = scales
            .zip(codes)
            .and_then(|(scales, codes)| scales.checked_add(codes))
            .and_then(|group| group.checked_mul(layout.n_groups()));
        match total {
            Some(total) if total <= isize::MAX as usize => Ok(layout),
            _ => Err(FormatError::MatrixSize { dtype, rows, cols }),
        }
    }

    /// The same matrix in tiles.
    pub const fn tiles(&self) -> &TileLayout {
        &self.tiles
    }

    /// The tiles of one strip and one pair of groups.
    pub const fn pair(&self) -> TileLayout {
        TileLayout { rows: self.strip_rows(), cols: 2 * self.tiles.group, ..self.tiles }
    }

    /// Rows of a strip: those that one vector of a column holds.
    pub const fn strip_rows(&self) -> usize {
        VECTOR_BYTES * 8 / self.tiles.dtype.element_bits()
    }

    /// Strips of a column.
    pub const fn n_strips(&self) -> usize {
        self.tiles.rows.div_ceil(self.strip_rows())
    }

    /// Groups of columns.
    pub const fn n_groups(&self) -> usize {
        self.tiles.cols.div_ceil(self.tiles.group)
    }

    /// Bytes of a column's codes.
    pub const fn column_bytes(&self) -> usize {
        self.n_strips() * VECTOR_BYTES
    }

    /// Bytes of a group: its columns, then its scales.
    pub const fn group_bytes(&self) -> usize {
        self.tiles.group * self.column_bytes() + 2 * self.n_strips() * self.strip_rows()
    }

    /// Bytes of the matrix.
    pub const fn total_bytes(&self) -> usize {
        self.n_groups() * self.group_bytes()
    }

    /// The byte of a code, and by how many bits it is shifted there.
    const fn code_at(&self, row: usize, col: usize) -> (usize, usize) {
        let (strip, row) = (row / self.strip_rows(), row % self.strip_rows());
        let group = col / self.tiles.group * self.group_bytes();
        let column = group + col % self.tiles.group * self.column_bytes();
        (column + strip * VECTOR_BYTES + row % BLOCK_ROWS, row / BLOCK_ROWS * 4)
    }

    /// The first byte of the scale of a row in a group of columns.
    const fn scale_at(&self, row: usize, group: usize) -> usize {
        let scales = group * self.group_bytes() + self.tiles.group * self.column_bytes();
        scales + 2 * (row / BLOCK_ROWS * BLOCK_ROWS + scale_place(row % BLOCK_ROWS))
    }

    /// The code of one weight: a signed integer.
    ///
    /// # Panics
    /// If the matrix is too short for the row and column.
    pub fn code(&self, matrix: &[u8], row: usize, col: usize) -> i32 {
        let (at, shift) = self.code_at(row, col);
        match self.tiles.dtype {
            DType::Int4 => i32::from(matrix[at] >> shift & 15) - super::int4::BIAS,
            _ => i32::from(matrix[at]) - super::int8::BIAS,
        }
    }

    /// The scale of a row in a group of columns.
    ///
    /// # Panics
    /// If the matrix is too short for the row and group.
    pub fn scale(&self, matrix: &[u8], row: usize, group: usize) -> f32 {
        let at = self.scale_at(row, group);
        f16::from_le_bytes([matrix[at], matrix[at + 1]]).to_f32()
    }

    /// A matrix of zeros.
    pub fn zeros(&self) -> Vec<u8> {
        let mut matrix = vec![0; self.total_bytes()];
        let zero = if self.tiles.dtype == DType::Int4 { 0x88 } else { 0x80 };
        for group in matrix.chunks_exact_mut(self.group_bytes()) {
            group[..self.tiles.group * self.column_bytes()].fill(zero);
        }
        matrix
    }

    /// Puts tile number `tile`, encoded as [`super::encode_tile`] does, into the matrix.
    ///
    /// # Panics
    /// If the tile does not exist or a slice does not have the length that the layout gives.
    pub fn put_tile(&self, matrix: &mut [u8], tile: usize, bytes: &[u8]) {
        assert_eq!(matrix.len(), self.total_bytes(), "bytes of a matrix");
        assert_eq!(bytes.len(), self.tiles.tile_bytes(), "bytes of a tile");
        self.each(tile, |own, theirs| match own {
            Place::Code(at, shift) => {
                let code = bytes[theirs.0] >> theirs.1;
                if self.tiles.dtype == DType::Int4 {
                    matrix[at] = matrix[at] & !(15 << shift) | (code & 15) << shift;
                } else {
                    matrix[at] = code;
                }
            }
            Place::Scale(at) => {
                matrix[at] = bytes[theirs.0];
                matrix[at + 1] = bytes[theirs.0 + 1];
            }
        });
    }

    /// Tile number `tile` as [`super::encode_tile`] encoded it; the reverse of [`ColumnLayout::put_tile`].
    ///
    /// # Panics
    /// If the tile does not exist or a slice does not have the length that the layout gives.
    pub fn get_tile(&self, matrix: &[u8], tile: usize, bytes: &mut [u8]) {
        assert_eq!(matrix.len(), self.total_bytes(), "bytes of a matrix");
        assert_eq!(bytes.len(), self.tiles.tile_bytes(), "bytes of a tile");
        // Columns that only tiles pad are zeros of scale 0.
        let zero = if self.tiles.dtype == DType::Int4 { 0x88 } else { 0x80 };
        for pair in bytes.chunks_exact_mut(self.tiles.pair_bytes()) {
            let (codes, scales) = pair.split_at_mut(2 * self.tiles.group_bytes());
            codes.fill(zero);
            scales.fill(0);
        }
        self.each(tile, |own, theirs| match own {
            Place::Code(at, shift) => {
                let code = matrix[at] >> shift;
                if self.tiles.dtype == DType::Int4 {
                    bytes[theirs.0] = bytes[theirs.0] & !(15 << theirs.1) | (code & 15) << theirs.1;
                } else {
                    bytes[theirs.0] = code;
                }
            }
            Place::Scale(at) => {
                bytes[theirs.0] = matrix[at];
                bytes[theirs.0 + 1] = matrix[at + 1];
            }
        });
    }

    /// Decodes one row: `out[c] = W[row, c]`, `cols` values.
    ///
    /// # Panics
    /// If `row` is not below the matrix's, or a slice does not have the length that the layout gives.
    pub fn decode_row(&self, matrix: &[u8], row: usize, out: &mut [f32]) {
        assert_eq!(matrix.len(), self.total_bytes(), "bytes of a matrix");
        assert!(row < self.tiles.rows, "row {row} of {}", self.tiles.rows);
        assert_eq!(out.len(), self.tiles.cols, "columns of a row");
        for (col, out) in out.iter_mut().enumerate() {
            *out = self.code(matrix, row, col) as f32 * self.scale(matrix, row, col / self.tiles.group);
        }
    }

    /// Calls `visit(place in the matrix, byte and shift in the tile)` for every code and scale of a tile.
    fn each(&self, tile: usize, mut visit: impl FnMut(Place, (usize, usize))) {
        assert!(tile < self.tiles.n_tiles(), "tile {tile} of {}", self.tiles.n_tiles());
        let (group, int4) = (self.tiles.group, self.tiles.dtype == DType::Int4);
        for g in 0..self.n_groups() {
            let pair = g / 2 * self.tiles.pair_bytes();
            let codes = pair + g % 2 * self.tiles.group_bytes();
            let scales = pair + 2 * self.tiles.group_bytes() + g % 2 * 2 * TILE_ROWS;
            for r in 0..TILE_ROWS {
                let row = tile * TILE_ROWS + r;
                visit(Place::Scale(self.scale_at(row, g)), (scales + 2 * r, 0));
                for c in 0..group {
                    let (at, shift) = self.code_at(row, g * group + c);
                    let theirs = if int4 {
                        (codes + 64 * (c / 8) + 4 * r + c % 4, c % 8 / 4 * 4)
                    } else {
                        (codes + 64 * (c / 4) + 4 * r + c % 4, 0)
                    };
                    visit(Place::Code(at, shift), theirs);
                }
            }
        }
    }
}

/// Where something lies in a matrix in columns.
enum Place {
    /// Byte and shift.
    Code(usize, usize),
    /// First byte.
    Scale(usize),
}

/// The place, among 64, of the scale of row `row` of a block: rows `16l + 4k + e` stand at `16k + 4l + e`, in the order in
/// which interleaving the bytes of four columns leaves them in a register of 128-bit lanes.
pub const fn scale_place(row: usize) -> usize {
    let (l, k, e) = (row / 16, row / 4 % 4, row % 4);
    16 * k + 4 * l + e
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{decode_row, encode_tile};

    /// A matrix in both layouts.
    fn both(dtype: DType, rows: usize, cols: usize, group: usize) -> (ColumnLayout, Vec<u8>, Vec<u8>) {
        let layout = ColumnLayout::new(dtype, rows, cols, group).unwrap();
        let tiles = *layout.tiles();
        let (mut columns, mut all) = (layout.zeros(), Vec::new());
        for tile in 0..tiles.n_tiles() {
            let mut values = vec![0.0; tiles.tile_floats()];
            for (r, row) in values.chunks_exact_mut(tiles.padded_cols()).enumerate() {
                let row_number = tile * TILE_ROWS + r;
                if row_number < rows {
                    for (c, x) in row[..cols].iter_mut().enumerate() {
                        *x = ((row_number * 7919 + c * 104_729) % 1009) as f32 / 500.0 - 1.0;
                    }
                }
            }
            let mut bytes = vec![0; tiles.tile_bytes()];
            encode_tile(&tiles, &values, &mut bytes).unwrap();
            layout.put_tile(&mut columns, tile, &bytes);
            all.extend(bytes);
        }
        (layout, columns, all)
    }

    #[test]
    fn both_layouts_hold_the_same_matrix() {
        for (dtype, rows, cols, group) in [
            (DType::Int4, 200, 100, 32),
            (DType::Int4, 128, 128, 64),
            (DType::Int4, 16, 300, 128),
            (DType::Int8, 200, 100, 32),
            (DType::Int8, 65, 64, 64),
        ] {
            let (layout, columns, tiles) = both(dtype, rows, cols, group);
            let (mut a, mut b) = (vec![0.0; cols], vec![0.0; cols]);
            for row in 0..rows {
                layout.decode_row(&columns, row, &mut a);
                decode_row(layout.tiles(), &tiles, row, &mut b);
                assert_eq!(a, b, "{dtype} row {row}");
            }
            let mut tile = vec![0; layout.tiles().tile_bytes()];
            for (i, expected) in tiles.chunks_exact(tile.len()).enumerate() {
                layout.get_tile(&columns, i, &mut tile);
                let mut restored = layout.zeros();
                layout.put_tile(&mut restored, i, &tile);
                let mut again = vec![0; tile.len()];
                layout.get_tile(&restored, i, &mut again);
                assert_eq!(tile, again);
                if cols.is_multiple_of(2 * group) {
                    assert_eq!(tile, expected, "{dtype} tile {i}");
                }
            }
        }
    }

    /// The examples of SPEC.md.
    #[test]
    fn bytes_lie_where_the_specification_says() {
        let int4 = ColumnLayout::new(DType::Int4, 300, 96, 32).unwrap();
        assert_eq!((int4.n_strips(), int4.column_bytes(), int4.group_bytes()), (3, 192, 6912));
        assert_eq!(int4.code_at(205, 45), (6912 + 13 * 192 + 64 + 13, 4));
        assert_eq!(int4.scale_at(205, 1), 6912 + 32 * 192 + 2 * (192 + 49));
        let int8 = ColumnLayout::new(DType::Int8, 300, 96, 32).unwrap();
        assert_eq!((int8.n_strips(), int8.column_bytes(), int8.group_bytes()), (5, 320, 10880));
        assert_eq!(int8.code_at(205, 45), (10880 + 13 * 320 + 3 * 64 + 13, 0));
    }

    #[test]
    fn only_integers_and_sizes_that_fit() {
        assert!(ColumnLayout::new(DType::F16, 16, 16, 0).is_err());
        assert!(ColumnLayout::new(DType::Int4, 16, 16, 16).is_err());
        assert!(ColumnLayout::new(DType::Int4, usize::MAX, 64, 32).is_err());
        assert!(ColumnLayout::new(DType::Int8, 1 << 40, 1 << 40, 32).is_err());
    }
}
