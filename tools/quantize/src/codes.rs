//! Codes of a matrix: by search alone, or by GPTQ.
//!
//! GPTQ (Frantar et al. 2022, arXiv 2210.17323) goes through the columns in order and lets those
//! that follow make up for the error of each. It is written here as Babai's nearest plane, which is
//! the same algorithm (Chen et al. 2025, arXiv 2507.18553): with `H = Lᵀ L`, an error e of a row
//! costs `|L e|²`; element k of `L e` is `L_kk e_k + s_k`, where s_k has the columns before k
//! alone, so that column k is rounded as if it were `w_k + s_k / L_kk`. No inverse is needed, and
//! the sums over columns of earlier blocks are one product of matrices for each block.
//!
//! Rows do not touch each other: they are cut into chunks of fixed size, which threads share. Not
//! here: L (`gram.rs`), bytes of a tile (`brooklet_formats::quant::fine`). Test: below.

use std::ops::Range;

use brooklet_formats::quant::fine::{self, GROUP, Grid, Tile, pack, steps};
use brooklet_formats::quant::{EncodeError, TILE_ROWS, TileLayout, encode_tile};
use half::f16;
use rayon::prelude::*;

use crate::gram::Factor;
use crate::product::{View, multiply};

/// One value for each row of a tile.
type Lanes = [f32; TILE_ROWS];

/// Columns of which earlier ones are summed by one product.
const BLOCK: usize = 128;

/// Tiles of a chunk of rows.
pub(crate) const CHUNK_TILES: usize = 4;

/// Rows of a chunk.
pub(crate) const CHUNK: usize = CHUNK_TILES * TILE_ROWS;

/// The part of the range of 8-bit scales that those of the weights as they are take: while columns
/// make up for others, groups may grow.
const HEADROOM: f32 = 1.05;

/// How the codes of a matrix are found.
#[derive(Clone, Copy)]
pub(crate) enum Method<'a> {
    /// The nearest ones, under the best scales.
    Search,
    /// The same, columns weighing as much as this.
    Weighted(&'a [f32]),
    /// Column by column.
    Gptq(&'a Factor),
}

/// Encodes the rows `weights`, (rows, cols), of the matrix `layout`, as tiles one after the other.
///
/// # Errors
/// A weight is not finite, or too large for the format; only the search looks.
pub(crate) fn encode(
    layout: &TileLayout,
    weights: &[f32],
    method: Method<'_>,
) -> Result<Vec<u8>, EncodeError> {
    let chunks = weights.par_chunks(CHUNK * layout.cols).enumerate().map(|(i, rows)| {
        let chunk = match (Grid::of(layout.dtype), method) {
            (Some(grid), Method::Gptq(factor)) => Ok(gptq(grid, layout, rows, factor)),
            (Some(_), Method::Weighted(importance)) => {
                let importance = padded(layout, importance.iter().copied());
                search(layout, rows, |rows, out| fine::encode(layout, rows, Some(&importance), out))
            }
            _ => search(layout, rows, |rows, out| encode_tile(layout, rows, out)),
        };
        chunk.map_err(|error| EncodeError { row: i * CHUNK + error.row, ..error })
    });
    let chunks: Result<Vec<Vec<u8>>, EncodeError> = chunks.collect();
    Ok(chunks?.concat())
}

/// Tile by tile, each by `encode` from its padded rows.
fn search(
    layout: &TileLayout,
    weights: &[f32],
    encode: impl Fn(&[f32], &mut [u8]) -> Result<(), EncodeError>,
) -> Result<Vec<u8>, EncodeError> {
    let n = weights.len().div_ceil(TILE_ROWS * layout.cols);
    let mut encoded = vec![0; n * layout.encoded_bytes()];
    let mut padded = vec![0.0; layout.tile_floats()];
    let tiles = weights.chunks(TILE_ROWS * layout.cols);
    for (i, (rows, out)) in tiles.zip(encoded.chunks_exact_mut(layout.encoded_bytes())).enumerate()
    {
        padded.fill(0.0);
        let each = padded.chunks_exact_mut(layout.padded_cols());
        for (padded, row) in each.zip(rows.chunks_exact(layout.cols)) {
            padded[..layout.cols].copy_from_slice(row);
        }
        encode(&padded, out)
            .map_err(|error| EncodeError { row: i * TILE_ROWS + error.row, ..error })?;
    }
    Ok(encoded)
}

/// Columns of 16 rows, one per lane, with zeros up to whole groups.
fn lanes(layout: &TileLayout, rows: &[f32]) -> Vec<Lanes> {
    let mut columns = vec![[0.0; TILE_ROWS]; layout.padded_cols()];
    for (lane, row) in rows.chunks_exact(layout.cols).enumerate() {
        columns.iter_mut().zip(row).for_each(|(column, w)| column[lane] = *w);
    }
    columns
}

/// A tile in the making.
struct Making {
    grid: Grid,
    steps: [f16; TILE_ROWS],
    step: Lanes,
    scales: Vec<[i8; TILE_ROWS]>,
    codes: Vec<[u8; TILE_ROWS]>,
}

impl Making {
    /// With the steps that the scales of all groups ask for; `importance` is each padded column's.
    fn new(grid: Grid, columns: &[Lanes], importance: &[f32]) -> Making {
        let mut largest = [0.0f32; TILE_ROWS];
        for (block, importance) in columns.chunks_exact(GROUP).zip(importance.chunks_exact(GROUP)) {
            for (largest, scale) in largest.iter_mut().zip(grid.search(block, importance)) {
                *largest = largest.max(scale.abs() * HEADROOM);
            }
        }
        let steps = steps(&largest);
        let (scales, codes) = (Vec::new(), Vec::new());
        Making { grid, steps, step: steps.map(f16::to_f32), scales, codes }
    }

    /// Chooses the scales of the next group for these values of its columns.
    fn enter(&mut self, block: &[Lanes], importance: &[f32]) -> Scaled {
        let wanted = self.grid.search(block, importance);
        let chosen = self.grid.choose(block, importance, &wanted, &self.step);
        self.scales.push(chosen);
        Scaled { scale: chosen.map(f32::from), inverse: fine::inverses(&chosen, &self.step) }
    }

    /// Rounds the next column, and gives the values that it has then.
    fn round(&mut self, scaled: &Scaled, column: &Lanes) -> Lanes {
        let (mut codes, mut rounded) = ([0; TILE_ROWS], [0.0; TILE_ROWS]);
        for lane in 0..TILE_ROWS {
            let (code, value) = self.grid.nearest(column[lane] * scaled.inverse[lane]);
            codes[lane] = code;
            rounded[lane] = value * scaled.scale[lane] * self.step[lane];
        }
        self.codes.push(codes);
        rounded
    }

    fn pack(&self, layout: &TileLayout, out: &mut [u8]) {
        let Making { steps, scales, codes, .. } = self;
        pack(layout, &Tile { steps: *steps, scales, codes }, out);
    }
}

/// The scales of a group.
struct Scaled {
    scale: Lanes,
    /// 1 / (scale · step).
    inverse: Lanes,
}

/// `importance` with 0 for columns that only pad.
fn padded(layout: &TileLayout, importance: impl Iterator<Item = f32>) -> Vec<f32> {
    let mut padded: Vec<f32> = importance.take(layout.cols).collect();
    padded.resize(layout.padded_cols(), 0.0);
    padded
}

fn gptq(grid: Grid, layout: &TileLayout, weights: &[f32], factor: &Factor) -> Vec<u8> {
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
    let mut encoded = vec![0; tiles.len() * layout.encoded_bytes()];
    for (making, out) in making.iter().zip(encoded.chunks_exact_mut(layout.encoded_bytes())) {
        making.pack(layout, out);
    }
    encoded
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
            let rounded = making.round(&scaled, &column);
            for lane in 0..TILE_ROWS {
                let e = columns[k][lane] - rounded[lane];
                error[k - range.start][lane] = e;
                errors[k * n + at + lane] = e;
            }
        }
    }
}

/// sum += factor · x.
#[inline]
fn add(sum: &mut Lanes, factor: f32, x: &Lanes) {
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += factor * x);
}

#[cfg(test)]
mod tests {
    use brooklet_formats::DType;
    use brooklet_formats::quant::{decode_row, place_tile};

    use super::*;
    use crate::gram::Gram;

    /// Inputs of which neighbours go together and some are large, and weights.
    fn toy(n: usize, rows: usize, cols: usize) -> (Vec<f32>, Vec<f32>) {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut x = vec![0.0; n * cols];
        for row in x.chunks_exact_mut(cols) {
            let mut last = 0.0;
            for (c, x) in row.iter_mut().enumerate() {
                last = 0.8 * last + rng.f32() - 0.5;
                *x = last * if c % 7 == 0 { 4.0 } else { 1.0 };
            }
        }
        (x, (0..rows * cols).map(|_| (rng.f32() - 0.5) * (rng.f32() + 0.1)).collect())
    }

    /// Errors of encoded rows, a row in each column, and the values.
    fn errors(layout: &TileLayout, weights: &[f32], encoded: &[u8]) -> Vec<f32> {
        let mut matrix = vec![0; layout.total_bytes()];
        for (i, tile) in encoded.chunks_exact(layout.encoded_bytes()).enumerate() {
            place_tile(layout, tile, i, &mut matrix);
        }
        let (rows, cols) = (layout.rows, layout.cols);
        let (mut errors, mut decoded) = (vec![0.0; rows * cols], vec![0.0; cols]);
        for r in 0..rows {
            decode_row(layout, &matrix, r, &mut decoded);
            (0..cols).for_each(|c| errors[c * rows + r] = weights[r * cols + c] - decoded[c]);
        }
        errors
    }

    #[test]
    fn calibration_beats_search() {
        for dtype in [DType::Int4, DType::Int5, DType::Int6] {
            for (rows, cols) in [(20, 32), (70, 200), (64, 300), (16, 129)] {
                let layout = TileLayout::new(dtype, rows, cols, GROUP).expect("a layout");
                let (x, weights) = toy(1500, rows, cols);
                let mut gram = Gram::new(cols);
                gram.add(&x);
                let mut other = Gram::new(cols);
                other.add(&x);
                let importance = gram.diagonal();
                let factor = gram.factor(0.01).expect("positive");
                let [search, weighted, gptq] =
                    [Method::Search, Method::Weighted(&importance), Method::Gptq(&factor)].map(
                        |method| {
                            let encoded = encode(&layout, &weights, method).expect("finite");
                            other.weigh(&errors(&layout, &weights, &encoded))
                        },
                    );
                println!("{dtype} {rows}x{cols}: {search:.4} {weighted:.4} {gptq:.4}");
                assert!(weighted < search, "{dtype} {rows}x{cols}");
                assert!(gptq < 0.75 * search, "{dtype} {rows}x{cols}: {gptq} of {search}");
            }
        }
    }

    #[test]
    fn where_inputs_have_nothing_to_do_with_each_other_it_is_the_search() {
        let layout = TileLayout::new(DType::Int4, 40, 100, GROUP).expect("a layout");
        let (_, weights) = toy(1, 40, 100);
        let mut gram = Gram::new(100);
        for i in 0..100 {
            let mut x = vec![0.0; 100];
            x[i] = 1.0;
            gram.add(&x);
        }
        let factor = gram.factor(0.01).expect("positive");
        let [search, gptq] = [Method::Search, Method::Gptq(&factor)].map(|method| {
            let encoded = encode(&layout, &weights, method).expect("finite");
            errors(&layout, &weights, &encoded).iter().map(|e| e * e).sum::<f32>()
        });
        assert!((gptq / search - 1.0).abs() < 0.01, "{gptq} {search}");
    }

    #[test]
    fn the_search_is_the_converters_and_says_what_it_cannot_encode() {
        for dtype in [DType::Int8, DType::Int4] {
            let group = dtype.default_group();
            let layout = TileLayout::new(dtype, 70, 40, group).expect("a layout");
            let (_, mut weights) = toy(1, 70, 40);
            let encoded = encode(&layout, &weights, Method::Search).expect("finite");
            let mut padded = vec![0.0; layout.tile_floats()];
            for r in 0..6 {
                let row = &weights[(64 + r) * 40..][..40];
                padded[r * layout.padded_cols()..][..40].copy_from_slice(row);
            }
            let mut last = vec![0; layout.encoded_bytes()];
            encode_tile(&layout, &padded, &mut last).expect("finite");
            assert!(encoded.ends_with(&last));
            weights[68 * 40 + 7] = f32::NAN;
            let error = encode(&layout, &weights, Method::Search).expect_err("NaN");
            assert_eq!((error.row, error.col), (68, 7));
        }
    }
}
