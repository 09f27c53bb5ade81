//! The operands of a product: tiles of weights, columns of activations, and where results go. All
//! lengths are checked when a [`Product`] is made; kernels rely on that and check nothing.

use std::marker::PhantomData;

use brooklet_formats::quant::{TILE_ROWS, TileLayout, VECTOR_BYTES};

use crate::kernels::forms::Packed;
use crate::kernels::units::Unit;

/// Consecutive tiles of one matrix, whole and aligned.
#[derive(Clone, Copy)]
pub(crate) struct Tiles<'a> {
    layout: &'a TileLayout,
    bytes: &'a [u8],
    /// The values of codes; of formats with steps.
    table: &'a [u8],
    /// Steps and scales of these tiles; of formats with steps.
    scales: &'a [u8],
}

impl<'a> Tiles<'a> {
    /// All tiles of a matrix of that layout.
    ///
    /// # Panics
    /// It is not whole, or not aligned as a file has it: a bug in whoever mapped it.
    pub(crate) fn new(layout: &'a TileLayout, matrix: &'a [u8]) -> Self {
        assert!(matrix.as_ptr().addr().is_multiple_of(VECTOR_BYTES));
        let (bytes, sheet) = layout.split(matrix);
        let (table, scales) = sheet.split_at(VECTOR_BYTES.min(sheet.len()));
        let scales = &scales[..layout.n_tiles() * layout.scale_bytes()];
        Tiles { layout, bytes, table, scales }
    }

    /// Tiles that were put together: their bytes, the values of codes, their steps and scales.
    ///
    /// # Panics
    /// They are not whole.
    pub(super) fn put_together(
        layout: &'a TileLayout,
        bytes: &'a [u8],
        table: &'a [u8],
        scales: &'a [u8],
    ) -> Self {
        assert_eq!(bytes.len() % layout.tile_bytes(), 0);
        assert_eq!(scales.len(), bytes.len() / layout.tile_bytes() * layout.scale_bytes());
        assert_eq!(table.len(), VECTOR_BYTES.min(layout.sheet_bytes()));
        Tiles { layout, bytes, table, scales }
    }

    /// `n` tiles from tile `first` on.
    pub(crate) fn part(self, first: usize, n: usize) -> Self {
        let part = |bytes: &'a [u8], size: usize| &bytes[first * size..(first + n) * size];
        let bytes = part(self.bytes, self.layout.tile_bytes());
        Tiles { bytes, scales: part(self.scales, self.layout.scale_bytes()), ..self }
    }

    /// The geometry of the matrix.
    pub(crate) fn layout(&self) -> &'a TileLayout {
        self.layout
    }

    /// Number of tiles.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() / self.layout.tile_bytes()
    }

    /// The values of codes, of a format with steps: at least 16 bytes; none of others.
    #[inline(always)]
    pub(super) fn values(&self) -> &'a [u8] {
        self.table
    }

    /// Steps and scales of tile `t`, of a format with steps; none of others.
    #[inline(always)]
    pub(super) fn scales(&self, t: usize) -> &'a [u8] {
        &self.scales[t * self.layout.scale_bytes()..][..self.layout.scale_bytes()]
    }

    /// The bytes of each tile.
    pub(super) fn iter(&self) -> std::slice::ChunksExact<'a, u8> {
        self.bytes.chunks_exact(self.layout.tile_bytes())
    }
}

/// Where results go: row r of tile t of column c to `base + c · stride + 16 t + r`, which nobody
/// else reads or writes for `'a`.
pub(crate) struct Output<'a> {
    base: *mut f32,
    stride: usize,
    columns: usize,
    tiles: usize,
    buffer: PhantomData<&'a mut [f32]>,
}

impl<'a> Output<'a> {
    /// The whole tiles of the first `columns` columns of `buffer`, which are `stride` long.
    ///
    /// # Panics
    /// They do not fit: a bug in whoever made the buffer.
    #[cfg(any(test, feature = "bench"))]
    pub(crate) fn new(buffer: &'a mut [f32], stride: usize, columns: usize) -> Self {
        assert!(columns * stride <= buffer.len());
        // SAFETY: whole tiles end within a column, and all columns within the buffer, which is
        // borrowed for 'a.
        unsafe { Output::from_raw(buffer.as_mut_ptr(), stride, columns, stride / TILE_ROWS) }
    }

    /// `tiles` tiles in each of `columns` columns from `base` on.
    ///
    /// # Safety
    /// * `base + c · stride + r`, for c < `columns` and r < 16 · `tiles`, may be written for 'a.
    /// * Nobody else reads or writes there meanwhile.
    pub(crate) unsafe fn from_raw(
        base: *mut f32,
        stride: usize,
        columns: usize,
        tiles: usize,
    ) -> Self {
        Output { base, stride, columns, tiles, buffer: PhantomData }
    }

    /// `n` tiles from tile `first` on.
    ///
    /// # Panics
    /// There are not so many.
    pub(super) fn part(&mut self, first: usize, n: usize) -> Output<'_> {
        assert!(first + n <= self.tiles);
        let base = self.base.wrapping_add(first * TILE_ROWS);
        Output { base, stride: self.stride, columns: self.columns, tiles: n, buffer: PhantomData }
    }

    /// Number of columns.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Number of tiles.
    pub(crate) fn tiles(&self) -> usize {
        self.tiles
    }

    /// Floats between columns.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Writes the results of rows `first..` of tile `t` in column `c`.
    pub(super) fn write(&self, t: usize, first: usize, c: usize, results: &[f32]) {
        assert!(t < self.tiles && c < self.columns && first + results.len() <= TILE_ROWS);
        // SAFETY: the tile, the column and the rows exist: asserted above.
        // They are this output's alone (`from_raw`).
        // It is of one thread: a raw pointer makes it so.
        unsafe {
            let out = self.at(t, c).add(first);
            out.copy_from_nonoverlapping(results.as_ptr(), results.len());
        }
    }

    /// Where the first result of tile `t` in column `c` goes.
    ///
    /// # Safety
    /// The tile and the column exist.
    #[inline(always)]
    pub(super) unsafe fn at(&self, t: usize, c: usize) -> *mut f32 {
        // SAFETY: the tile and the column exist: promised (Safety).
        // So the place is one of those that `from_raw` was given.
        unsafe { self.base.add(c * self.stride + t * TILE_ROWS) }
    }
}

/// `y[c] = W x[c]`: what a kernel is called with.
pub(super) struct Product<'a, T> {
    tiles: Tiles<'a>,
    x: Packed<'a, T>,
    y: Output<'a>,
    part: Part,
}

/// Which of the inputs a product has, where its weights are not all of a matrix: results begin as
/// what the inputs before gave, and are done where none come after.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) is_first: bool,
    pub(super) is_last: bool,
}

impl<'a, T: Unit> Product<'a, T> {
    /// # Panics
    /// Weights, activations and results do not fit each other: a bug in the model.
    pub(super) fn new(tiles: Tiles<'a>, x: Packed<'a, T>, y: Output<'a>) -> Self {
        Self::part(tiles, x, y, Part { is_first: true, is_last: true })
    }

    /// [`Product::new`] of a part of the inputs; integer formats alone have such.
    ///
    /// # Panics
    /// As there.
    pub(super) fn part(tiles: Tiles<'a>, x: Packed<'a, T>, y: Output<'a>, part: Part) -> Self {
        assert_eq!(tiles.len(), y.tiles());
        assert!(tiles.layout.padded_cols() <= x.values() && y.columns() <= x.len());
        Product { tiles, x, y, part }
    }

    /// The weights.
    #[inline(always)]
    pub(super) fn tiles(&self) -> Tiles<'a> {
        self.tiles
    }

    /// The activations: as many values per column as the weights have padded columns, at least.
    #[inline(always)]
    pub(super) fn x(&self) -> Packed<'a, T> {
        self.x
    }

    /// Which of the inputs it has.
    #[inline(always)]
    pub(super) fn inputs(&self) -> Part {
        self.part
    }

    /// The results: of as many tiles as there are weights, and of no more columns than there are
    /// activations.
    #[inline(always)]
    pub(super) fn y(&self) -> &Output<'a> {
        &self.y
    }
}
