//! GPTQ: columns in order, those that follow making up for the error of each.
//!
//! Source: Frantar et al. 2022, arXiv 2210.17323; written here as Babai's nearest plane, which is
//! the same algorithm (Chen et al. 2025, arXiv 2507.18553): with `H = Lᵀ L`, an error e of a row
//! costs `|L e|²`; element k of `L e` is `L_kk e_k + s_k`, where s_k has the columns before k
//! alone, so that column k is rounded as if it were `w_k + s_k / L_kk`. No inverse is needed, and
//! the sums over columns of earlier blocks are one product of matrices for each block.
//!
//! Not here: H and L (`gram.rs`), what makes the result better still (`descent.rs`). Test:
//! `codes.rs`.

use std::ops::Range;

use brooklet_formats::quant::fine::{GROUP, Grid};
use brooklet_formats::quant::{TILE_ROWS, TileLayout};

use crate::descent::descend;
use crate::gram::{Factor, Metric};
use crate::making::{Lanes, Making, add, lanes, padded};
use crate::product::{View, multiply};

/// Columns of which earlier ones are summed by one product.
const BLOCK: usize = 128;

/// Encodes the rows `weights` of a chunk, whose inputs have these moments, as tiles one after the
/// other.
pub(crate) fn gptq(
    grid: Grid,
    layout: &TileLayout,
    weights: &[f32],
    metric: &Metric,
    encoded: &mut [u8],
) {
    let factor = &metric.factor;
    assert_eq!(factor.k(), layout.cols);
    let diagonal = |k: usize| factor.row(k)[k];
    let importance = padded(layout, (0..layout.cols).map(|k| diagonal(k) * diagonal(k)));
    let tiles: Vec<Vec<Lanes>> =
        weights.chunks(TILE_ROWS * layout.cols).map(|rows| lanes(layout, rows)).collect();
    let mut making: Vec<Making> =
        tiles.iter().map(|columns| Making::new(grid, columns, &importance)).collect();
    // Errors e of the columns so far, (column, row), and s of a block's columns, (column, row).
    let n = tiles.len() * TILE_ROWS;
    let mut errors = vec![0.0; layout.padded_cols() * n];
    let mut sums = vec![0.0; BLOCK * n];
    for first in (0..layout.padded_cols()).step_by(BLOCK) {
        let end = layout.padded_cols().min(first + BLOCK);
        let height = layout.cols.min(end).saturating_sub(first);
        let before = View::rows(&errors, (first, n), n);
        multiply(
            (&mut sums, n),
            (1.0, 0.0),
            factor.rows(first.min(layout.cols - 1), (height, first)),
            before,
        );
        for (t, (columns, making)) in tiles.iter().zip(&mut making).enumerate() {
            for start in (first..end).step_by(GROUP) {
                let of = Group { factor, columns, first, range: start..start + GROUP };
                of.run(making, &importance, (&sums, &mut errors), (t * TILE_ROWS, n));
            }
        }
    }
    descend(&metric.moments, &tiles, &mut making, &mut errors);
    for (making, out) in making.iter().zip(encoded.chunks_exact_mut(layout.encoded_bytes())) {
        making.pack(layout, out);
    }
}

/// A group of columns of a tile.
struct Group<'a> {
    factor: &'a Factor,
    columns: &'a [Lanes],
    /// The first column of the block.
    first: usize,
    range: Range<usize>,
}

impl Group<'_> {
    /// Rounds its columns; `sums` has what the columns before the block add to s, `errors` gets
    /// those of this group. The tile's rows stand from `at` on in rows of `n`.
    fn run(
        &self,
        making: &mut Making,
        importance: &[f32],
        (sums, errors): (&[f32], &mut [f32]),
        (at, n): (usize, usize),
    ) {
        let Group { factor, columns, first, ref range } = *self;
        let of = |values: &[f32], column: usize| -> Lanes {
            std::array::from_fn(|lane| values[column * n + at + lane])
        };
        let known = range.start.min(factor.k())..range.end.min(factor.k());
        // s of each column, by all columns before the group.
        let mut s = [[0.0; TILE_ROWS]; GROUP];
        for k in known.clone() {
            let s = &mut s[k - range.start];
            *s = of(sums, k - first);
            let row = factor.row(k);
            for j in first..range.start {
                add(s, row[j], &of(errors, j));
            }
        }
        // The weights as they are when the group is entered: what would be best for its columns,
        // were they not rounded.
        let mut best = [[0.0; TILE_ROWS]; GROUP];
        let mut wanted = [[0.0; TILE_ROWS]; GROUP];
        wanted.copy_from_slice(&columns[range.clone()]);
        for k in known.clone() {
            let row = factor.row(k);
            let mut sum = s[k - range.start];
            (range.start..k).for_each(|j| add(&mut sum, row[j], &best[j - range.start]));
            for lane in 0..TILE_ROWS {
                best[k - range.start][lane] = -sum[lane] / row[k];
                wanted[k - range.start][lane] += sum[lane] / row[k];
            }
        }
        let scaled = making.enter(&wanted, &importance[range.clone()]);
        let mut error = [[0.0; TILE_ROWS]; GROUP];
        for k in range.clone() {
            let mut column = columns[k];
            if known.contains(&k) {
                let row = factor.row(k);
                let mut sum = s[k - range.start];
                (range.start..k).for_each(|j| add(&mut sum, row[j], &error[j - range.start]));
                (0..TILE_ROWS).for_each(|lane| column[lane] += sum[lane] / row[k]);
            }
            let rounded = making.push(&scaled, &column);
            for lane in 0..TILE_ROWS {
                let e = columns[k][lane] - rounded[lane];
                error[k - range.start][lane] = e;
                errors[k * n + at + lane] = e;
            }
        }
    }
}
