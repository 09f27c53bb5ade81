//! Matrices in columns against the same in tiles: the same bits on every instruction set, for any
//! part of them and any number of zeros among activations.

use super::*;
use crate::kernels::matmul::{Columns, by_columns};

/// Rows with and without padding to whole lines of columns.
const SIZES: [(usize, usize); 5] = [(40, 7), (128, 100), (200, 300), (64, 257), (300, 1000)];

/// The formats that have columns, with their groups.
fn formats() -> impl Iterator<Item = (DType, usize)> {
    let dtypes = [DType::Int4, DType::Int8].into_iter();
    dtypes.flat_map(|dtype| dtype.groups().iter().map(move |&group| (dtype, group)))
}

/// The same matrix in columns.
fn in_columns(layout: &TileLayout, matrix: &mut Aligned) -> (TileLayout, Aligned) {
    let to = layout.by_columns().unwrap();
    let mut columns = Aligned::new(to.total_bytes());
    let mut tile = vec![0; layout.encoded_bytes()];
    for t in 0..layout.n_tiles() {
        quant::take_tile(layout, matrix.bytes(), t, &mut tile);
        quant::place_tile(&to, &tile, t, columns.bytes());
    }
    let table = quant::table(layout, matrix.bytes()).to_vec();
    columns.bytes()[..table.len()].copy_from_slice(&table);
    (to, columns)
}

/// Columns of squared ReLUs, of which `some` of a hundred are not zero; a few are of any sign.
fn sparse(k: usize, columns: usize, some: usize, random: &mut Random) -> Vec<Vec<f32>> {
    let value = |random: &mut Random| match random.below(100) < some {
        true if random.below(9) == 0 => -random.normal(),
        true => random.normal().powi(2),
        false => 0.0,
    };
    (0..columns).map(|_| (0..k).map(|_| value(random)).collect()).collect()
}

fn of_columns(
    isa: Isa,
    (layout, matrix): &mut (TileLayout, Aligned),
    (first, tiles): (usize, usize),
    x: Activations<'_>,
    columns: usize,
) -> Vec<f32> {
    let stride = tiles * TILE_ROWS;
    let mut y = vec![f32::NAN; stride * columns];
    let w = Columns::new(layout, matrix.bytes(), first);
    by_columns(isa, w, x, Output::new(&mut y, stride, columns));
    y
}

#[test]
fn columns_give_the_bits_of_tiles() {
    let mut random = Random(11);
    for (dtype, group) in formats() {
        for (rows, cols) in SIZES {
            let layout = TileLayout::new(dtype, rows, cols, group).unwrap();
            for (weights, some) in [
                (Weights::Normal, 20),
                (Weights::Extreme, 100),
                (Weights::Raw, 20),
                (Weights::Raw, 0),
            ] {
                let mut tiles = matrix(&layout, weights, &mut random);
                let mut columns = in_columns(&layout, &mut tiles);
                let most = 17;
                let x = Inputs::new(dtype, &sparse(cols, most, some, &mut random));
                let x = x.view(most);
                let expected = product(Isa::scalar(), &layout, &mut tiles, x, most);
                for isa in Isa::available() {
                    for n in [1, 2, 3, 4, 5, 6, 7, 8, 9, most] {
                        let whole = (0, layout.n_tiles());
                        let found = of_columns(isa, &mut columns, whole, x, n);
                        assert_eq!(
                            bits(&found),
                            bits(&expected[..found.len()]),
                            "{dtype}/{group} {rows} × {cols}, {weights:?}, {some} %, {n} on {}",
                            isa.name()
                        );
                    }
                }
            }
        }
    }
}

/// A part multiplies its rows alone, wherever it begins.
#[test]
fn parts_of_columns_are_independent() {
    let mut random = Random(12);
    for (dtype, group) in formats() {
        let layout = TileLayout::new(dtype, 400, 100, group).unwrap();
        let mut tiles = matrix(&layout, Weights::Normal, &mut random);
        let mut columns = in_columns(&layout, &mut tiles);
        let x = Inputs::new(dtype, &sparse(100, 9, 30, &mut random));
        let whole = product(Isa::scalar(), &layout, &mut tiles, x.view(9), 9);
        for isa in Isa::available() {
            for n in [1, 3, 9] {
                for (first, tiles) in [(0, 1), (3, 7), (8, 8), (9, 16), (24, 1)] {
                    let part = of_columns(isa, &mut columns, (first, tiles), x.view(9), n);
                    for (c, part) in part.chunks_exact(tiles * TILE_ROWS).enumerate() {
                        let from = c * layout.padded_rows() + first * TILE_ROWS;
                        assert_eq!(
                            bits(part),
                            bits(&whole[from..][..part.len()]),
                            "{dtype}/{group}, tiles {first}, {tiles} of {n} on {}",
                            isa.name()
                        );
                    }
                }
            }
        }
    }
}
