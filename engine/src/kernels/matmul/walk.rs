//! The walk over tiles, rows and columns that all products on registers share: see the story in
//! `mod.rs`.
//!
//! A format is a [`Block`]: the product of a few registers of rows with a few columns, over all of
//! k. [`walk`] cuts a product into such blocks. A [`Task`] is the block's part of the product, and
//! the proof that it exists. Everything here is inlined into the kernel, which is compiled for the
//! instruction set (`simd!`).

use std::ops::Range;

use brooklet_formats::quant::{TILE_ROWS, TileLayout, VECTOR_BYTES};

use super::product::Product;
use crate::kernels::isa::Isa;
use crate::kernels::simd::{Simd, registers};
use crate::kernels::units::Unit;

/// How an instruction set cuts the rows of a tile.
pub(super) trait Rows: Simd {
    /// Registers of rows that a block takes: of one column, and of several. One column takes all,
    /// so that each cache line is read once; with fewer rows, twice as many columns fit the
    /// registers.
    const AT_ONCE: [usize; 2];
}

/// The sizes of a tile that blocks need, computed once.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Pairs of groups.
    pub(super) pairs: usize,
    /// Columns of a group.
    pub(super) group: usize,
    /// Bytes of a group's codes.
    pub(super) group_bytes: usize,
    /// Columns of a pair.
    pub(super) pair_columns: usize,
}

impl Shape {
    fn of(layout: &TileLayout) -> Shape {
        Shape {
            pairs: layout.n_pairs(),
            group: layout.group,
            group_bytes: layout.group_bytes(),
            pair_columns: layout.pair_cols(),
        }
    }
}

/// A block's part of a product: `R` registers of rows of one tile, and `C` columns. Both exist in
/// the product, since nobody but [`walk`] makes one.
pub(super) struct Task<'a, T, const R: usize, const C: usize> {
    product: &'a Product<'a, T>,
    /// The sizes of its tile.
    pub(super) shape: Shape,
    tile: *const u8,
    /// The tile's part of the sheet of scales.
    sheet: *const u8,
    /// The first register of its rows.
    first: usize,
    /// The first column.
    column: usize,
    /// Where the first row's result of the first column goes.
    out: *mut f32,
    /// Floats between columns there.
    stride: usize,
    /// Bytes that are needed soon.
    next: *const u8,
    /// How many cache lines of them to fetch for each pair of groups.
    pub(super) lines: usize,
    /// How many bytes ahead of the tile's they are, if they are read in order; 0 otherwise.
    ahead: usize,
}

impl<'a, T: Unit, const R: usize, const C: usize> Task<'a, T, R, C> {
    /// The product.
    #[inline(always)]
    pub(super) fn product(&self) -> &'a Product<'a, T> {
        self.product
    }

    /// The first column.
    #[inline(always)]
    pub(super) fn column(&self) -> usize {
        self.column
    }

    /// The first register's rows in the first vector of the tile.
    #[inline(always)]
    pub(super) fn codes<S: Simd>(&self) -> *const u8 {
        self.tile.wrapping_add(4 * S::LANES * self.first)
    }

    /// The first register's rows in the scales of the tile's first pair.
    #[inline(always)]
    pub(super) fn scales<S: Simd>(&self) -> Scales {
        let at = 2 * self.shape.group_bytes + 2 * S::LANES * self.first;
        Scales { at: self.tile.wrapping_add(at) }
    }

    /// The first register's rows on the sheet of scales of a format with steps.
    #[inline(always)]
    pub(super) fn sheet<S: Simd>(&self) -> Sheet {
        let rows = S::LANES * self.first;
        Sheet {
            table: self.product.tiles().values().as_ptr(),
            steps: self.sheet.wrapping_add(2 * rows),
            scales: self.sheet.wrapping_add(2 * TILE_ROWS + rows),
            // As far ahead as codes are, of which a group has so many times the bytes.
            ahead: self.ahead * TILE_ROWS / self.shape.group_bytes.max(1),
        }
    }

    /// Fetches cache lines `lines` of what is needed soon.
    #[inline(always)]
    pub(super) fn fetch<S: Simd>(&self, s: S, lines: Range<usize>) {
        for line in lines {
            s.prefetch(self.next.wrapping_add(line * VECTOR_BYTES));
        }
    }

    /// The results as they are before its inputs: 0, or what the inputs before gave.
    #[inline(always)]
    pub(super) fn begin<S: Simd>(&self, s: S) -> [[S::F; R]; C] {
        let mut acc = [[s.splat(0.0); R]; C];
        if !self.product.inputs().is_first {
            for (c, acc) in acc.iter_mut().enumerate() {
                for (r, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: `R` registers of rows and `C` columns are within the product's
                    // output (`walk`).
                    let y = unsafe { s.load(self.out.add(c * self.stride + r * S::LANES).cast()) };
                    *acc = s.float(y);
                }
            }
        }
        acc
    }

    /// Writes results: of register r of the rows and column c.
    #[inline(always)]
    pub(super) fn store<S: Simd>(&self, s: S, r: usize, c: usize, result: S::F) {
        debug_assert!(r < R && c < C);
        // SAFETY: `R` registers of rows and `C` columns are within the product's output (`walk`).
        unsafe { s.store(self.out.add(c * self.stride + r * S::LANES), result) }
    }
}

/// What the sheet of scales has for the rows of a task.
pub(super) struct Sheet {
    /// The values of codes.
    pub(super) table: *const u8,
    /// f16 each.
    pub(super) steps: *const u8,
    /// Of the first group, i8 each; the next group's are [`TILE_ROWS`] further.
    pub(super) scales: *const u8,
    /// How many bytes ahead to fetch scales; 0 for not at all.
    pub(super) ahead: usize,
}

/// The scales of a pair of groups, as they stand behind its codes: 16 of the first, 16 of the
/// second, f16 each.
#[derive(Clone, Copy)]
pub(super) struct Scales {
    at: *const u8,
}

impl Scales {
    /// Those of group `half` (0 or 1) for `R` registers of rows.
    ///
    /// # Safety
    /// The pair exists, and `R` registers of rows from this one on.
    #[inline(always)]
    pub(super) unsafe fn of<S: Simd, const R: usize>(self, s: S, half: usize) -> [S::F; R] {
        registers(
            #[inline(always)]
            // SAFETY: the pair and `R` registers of rows exist: promised (Safety).
            // Its vector of scales has two bytes for each of the 16 rows of both groups.
            |r| unsafe { s.load_f16(self.at.add(2 * TILE_ROWS * half + 2 * S::LANES * r)) },
        )
    }

    /// Those of the next pair.
    #[inline(always)]
    pub(super) fn next(self, shape: &Shape) -> Scales {
        Scales { at: self.at.wrapping_add(2 * shape.group_bytes + VECTOR_BYTES) }
    }
}

/// A format's product over the whole of k.
pub(super) trait Block<S: Rows> {
    /// The activations it reads.
    type X: Unit;

    /// Overwrites the results of `R` registers of rows and `C` columns.
    fn run<const R: usize, const C: usize>(s: S, task: &Task<'_, Self::X, R, C>);
}

/// Whether so few columns take a tile in one block, all of its rows, and wait for memory.
#[inline(always)]
pub(super) fn in_order<S: Rows>(columns: usize) -> bool {
    columns <= 3 && S::AT_ONCE[usize::from(columns > 1)] * S::LANES == TILE_ROWS
}

/// Runs block `B` on every tile, and there on the columns in order, at most `MOST` at a time.
#[inline(always)]
pub(super) fn walk<S: Rows, B: Block<S>, const MOST: usize>(s: S, product: &Product<'_, B::X>) {
    let (tiles, y) = (product.tiles(), product.y());
    let (shape, ahead) = (Shape::of(tiles.layout()), Isa::fetch_ahead());
    let lines_of_tile = tiles.layout().tile_bytes() / VECTOR_BYTES;
    let passes = y.columns().div_ceil(MOST);
    for (t, tile) in tiles.iter().enumerate() {
        let sheet = tiles.scales(t).as_ptr();
        // The next bytes are fetched while this tile is multiplied, a share with every pair of
        // groups. A few columns read everything in order; more read each tile again and again, and
        // meanwhile the next one comes.
        let in_order = in_order::<S>(y.columns());
        let ahead = if in_order { ahead } else { 0 };
        let (mut next, share) = if in_order {
            (tile.as_ptr().wrapping_add(ahead), if ahead > 0 { lines_of_tile } else { 0 })
        } else {
            (tile.as_ptr_range().end, lines_of_tile.div_ceil(passes))
        };
        let lines = share.div_ceil(shape.pairs);
        let mut c = 0;
        while c < y.columns() {
            // SAFETY: the tile is one of the output's, and the column was just compared.
            let out = unsafe { y.at(t, c) };
            let place = Place { product, shape, tile, sheet, column: c, out, next, lines, ahead };
            let left = y.columns() - c;
            // Sixteen are faster as twice eight than as twelve and four, eight as twice four than
            // as five, two and one: few columns wait for their own sums.
            let divided = if MOST > 8 { (16..20).contains(&left) } else { matches!(left, 6 | 8) };
            c += if !MOST.is_power_of_two() && left >= MOST && !divided {
                place.rows::<S, B, MOST>(s)
            } else if MOST >= 8 && left >= 8 {
                place.rows::<S, B, 8>(s)
            } else if MOST >= 4 && left >= 4 {
                place.rows::<S, B, 4>(s)
            } else if MOST >= 3 && left == 3 {
                place.rows::<S, B, 3>(s)
            } else if left >= 2 {
                place.rows::<S, B, 2>(s)
            } else {
                place.rows::<S, B, 1>(s)
            };
            next = next.wrapping_add(share * VECTOR_BYTES);
        }
    }
}

/// A tile and a column of it at which [`walk`] stands.
struct Place<'a, T> {
    product: &'a Product<'a, T>,
    shape: Shape,
    tile: &'a [u8],
    sheet: *const u8,
    column: usize,
    /// Where the first result goes.
    out: *mut f32,
    next: *const u8,
    lines: usize,
    ahead: usize,
}

impl<T: Unit> Place<'_, T> {
    /// The 16 rows of the tile by `C` columns, which exist: [`Rows::AT_ONCE`] registers of rows
    /// after the other. Returns `C`.
    #[inline(always)]
    fn rows<S: Rows, B: Block<S, X = T>, const C: usize>(self, s: S) -> usize {
        let at_once = const { S::AT_ONCE[(C > 1) as usize] };
        for first in (0..TILE_ROWS / S::LANES).step_by(at_once) {
            match at_once {
                1 => B::run::<1, C>(s, &self.task::<S, 1, C>(first)),
                2 => B::run::<2, C>(s, &self.task::<S, 2, C>(first)),
                _ => B::run::<4, C>(s, &self.task::<S, 4, C>(first)),
            }
        }
        C
    }

    #[inline(always)]
    fn task<S: Rows, const R: usize, const C: usize>(&self, first: usize) -> Task<'_, T, R, C> {
        Task {
            product: self.product,
            shape: self.shape,
            tile: self.tile.as_ptr(),
            sheet: self.sheet,
            first,
            column: self.column,
            out: self.out.wrapping_add(first * S::LANES),
            stride: self.product.y().stride(),
            next: self.next,
            // The first rows' block fetches for all.
            lines: if first == 0 { self.lines } else { 0 },
            ahead: if first == 0 { self.ahead } else { 0 },
        }
    }
}
