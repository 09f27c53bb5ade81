//! Who multiplies a matrix in columns: a few columns of activations look for inputs that are zero
//! (`live.rs`), for more of them parts of tiles are put together (`put.rs`). See `columns.rs`.

use std::cell::RefCell;

use brooklet_formats::DType;
use brooklet_formats::quant::{self, TILE_ROWS, TileLayout};
use brooklet_formats::zeroed::Zeroed;

use super::codes::{Int4, Int8};
use super::columns::{ColumnProduct, Columns, InColumns};
use super::live::FEW;
use super::product::{Output, Part, Product, Tiles};
use super::put::{Fetch, Put};
use super::{Kernels, matmul, misfit};
use crate::kernels::forms::{Activations, GROUP};
use crate::kernels::isa::{Isa, Set};

/// Rows and inputs of which tiles are put together at a time: a quarter of a second-level cache.
const ROOM: [usize; 2] = [512, 512];

/// `y[c] = W x[c]` for the tiles and columns of `y`: overwrites them.
///
/// # Panics
/// Lengths or forms do not fit: a bug in the model that calls it.
pub(crate) fn by_columns(isa: Isa, w: Columns<'_>, x: Activations<'_>, y: Output<'_>) {
    let dtype = w.layout.dtype;
    let Activations::Int8(groups) = x else { misfit(dtype, x) };
    assert!(w.first + y.tiles() <= w.layout.n_tiles());
    assert!(w.layout.padded_cols() <= groups.values() && y.columns() <= groups.len());
    let product = ColumnProduct { w, x: groups, y };
    match isa.set() {
        Set::Scalar | Set::Portable => product.in_tiles(|tiles, y| matmul(isa, tiles, x, y)),
        #[cfg(target_arch = "x86_64")]
        Set::Avx2(s) => on_registers(s, product),
        #[cfg(target_arch = "x86_64")]
        Set::AvxVnni(s) => on_registers(s, product),
        #[cfg(target_arch = "x86_64")]
        Set::Avx512(s) => on_registers(s, product),
        #[cfg(target_arch = "aarch64")]
        Set::Neon(s) => on_registers(s, product),
        #[cfg(target_arch = "aarch64")]
        Set::NeonDotprod(s) => on_registers(s, product),
        #[cfg(target_arch = "aarch64")]
        Set::NeonI8mm(s) => on_registers(s, product),
    }
}

/// The table of formats.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn on_registers(set: impl Kernels, product: ColumnProduct<'_>) {
    match product.w.layout.dtype {
        DType::Int4 => of_format::<Int4>(set, product),
        _ => of_format::<Int8>(set, product),
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn of_format<K: InColumns>(set: impl Kernels, product: ColumnProduct<'_>) {
    if product.y.columns() <= FEW {
        return set.few_columns::<K>(&product);
    }
    product.in_parts::<K>(set);
}

/// Bytes that a thread takes, when it first multiplies so many columns of activations by a matrix
/// in columns, for tiles to be put together in.
pub(crate) fn room(isa: Isa, layout: &TileLayout, columns: usize) -> usize {
    if isa == Isa::scalar() || isa == Isa::portable() {
        return layout.encoded_bytes();
    }
    if columns <= FEW {
        return 0;
    }
    part_bytes(&layout.part(ROOM[0], ROOM[1].min(layout.padded_cols())))
}

/// Bytes of all tiles of a part.
fn part_bytes(layout: &TileLayout) -> usize {
    layout.n_tiles() * layout.encoded_bytes()
}

thread_local! {
    /// Where tiles are put together.
    static TILES: RefCell<Zeroed<u8>> = RefCell::new(Zeroed::new(0));
}

/// Calls `f` with room for `len` bytes, of which anything may be in it.
fn with_room(len: usize, f: impl FnOnce(&mut [u8])) {
    TILES.with_borrow_mut(|room| {
        if room.len() < len {
            *room = Zeroed::new(len);
        }
        f(&mut room[..len]);
    });
}

impl ColumnProduct<'_> {
    /// Multiplies tile by tile, put together by the definition.
    fn in_tiles(mut self, multiply: impl Fn(Tiles<'_>, Output<'_>)) {
        let Columns { layout, bytes, first, .. } = self.w;
        with_room(layout.encoded_bytes(), |room| {
            for t in 0..self.y.tiles() {
                quant::take_tile(layout, bytes, first + t, room);
                let (codes, scales) = room.split_at(layout.tile_bytes());
                let table = quant::table(layout, bytes);
                multiply(Tiles::put_together(layout, codes, table, scales), self.y.part(t, 1));
            }
        });
    }

    /// Multiplies parts of some rows by some inputs, put together for all columns of activations.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn in_parts<K: InColumns>(mut self, set: impl Kernels) {
        let Columns { layout, bytes, first, .. } = self.w;
        let all = layout.padded_cols();
        let lines = ROOM[0] / TILE_ROWS / K::TILES;
        let end = first + self.y.tiles();
        for line in self.lines::<K>().step_by(lines) {
            let tiles = first.max(line * K::TILES)..end.min((line + lines) * K::TILES);
            for from in (0..all).step_by(ROOM[1]) {
                let inputs = from..all.min(from + ROOM[1]);
                let part = Part { is_first: from == 0, is_last: inputs.end == all };
                let layout = layout.part(ROOM[0], inputs.len());
                let x = self.x.units_from(from / GROUP);
                let lines = line..tiles.end.div_ceil(K::TILES);
                let next = inputs.end..all.min(inputs.end + ROOM[1]);
                with_room(part_bytes(&layout), |room| {
                    let (codes, sheet) = room.split_at_mut(layout.n_tiles() * layout.tile_bytes());
                    let (w, fetches) = (self.w, from == 0);
                    let fetch = Fetch { w, lines: lines.clone(), inputs: next };
                    let layout = &layout;
                    set.put_together::<K>(Put { w, lines, inputs, layout, codes, sheet, fetches });
                    let table = quant::table(self.w.layout, bytes);
                    let whole = Tiles::put_together(layout, codes, table, sheet);
                    for (i, tile) in tiles.clone().enumerate() {
                        set.fetch(&fetch, i, tiles.len());
                        let y = self.y.part(tile - first, 1);
                        let tile = whole.part(tile - line * K::TILES, 1);
                        set.integer_product::<K>(&Product::part(tile, x, y, part));
                    }
                });
            }
        }
    }
}
