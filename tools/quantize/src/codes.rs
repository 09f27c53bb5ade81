//! Codes of a matrix: by search alone, or by GPTQ and descent.
//!
//! Rows do not touch each other: they are cut into chunks of fixed size, which threads share. Not
//! here: how one is gone through (`gptq.rs`, `descent.rs`), bytes of a tile
//! (`brooklet_formats::quant::fine`). Test: below.

use brooklet_formats::quant::fine::{self, Grid};
use brooklet_formats::quant::{
    EncodeError, TILE_ROWS, TileLayout, encode_tiles, encode_tiles_with,
};
use rayon::prelude::*;

use crate::gptq::gptq;
use crate::gram::Metric;
use crate::making::padded;

/// Tiles of a chunk of rows.
pub(crate) const CHUNK_TILES: usize = 4;

/// Rows of a chunk.
pub(crate) const CHUNK: usize = CHUNK_TILES * TILE_ROWS;

/// How the codes of a matrix are found.
#[derive(Clone, Copy)]
pub(crate) enum Method<'a> {
    /// The nearest ones, under the best scales.
    Search,
    /// The same, columns weighing as much as this.
    Weighted(&'a [f32]),
    /// Column by column, under these moments of inputs.
    Gptq(&'a Metric),
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
    let n = weights.len().div_ceil(TILE_ROWS * layout.cols);
    let mut encoded = vec![0; n * layout.encoded_bytes()];
    match (Grid::of(layout.dtype), method) {
        (Some(grid), Method::Gptq(metric)) => {
            let chunks = encoded.par_chunks_mut(CHUNK_TILES * layout.encoded_bytes());
            chunks.zip(weights.par_chunks(CHUNK * layout.cols)).for_each(|(out, rows)| {
                gptq(grid, layout, rows, metric, out);
            });
        }
        (Some(_), Method::Weighted(importance)) => {
            let importance = padded(layout, importance.iter().copied());
            encode_tiles_with(layout, weights, &mut encoded, |layout, rows, out| {
                fine::encode(layout, rows, Some(&importance), out)
            })?;
        }
        _ => encode_tiles(layout, weights, &mut encoded)?,
    }
    Ok(encoded)
}

#[cfg(test)]
mod tests {
    use brooklet_formats::DType;
    use brooklet_formats::quant::fine::GROUP;
    use brooklet_formats::quant::{decode_row, encode_tile, place_tile};

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
        // The last are the parts of the search's errors that GPTQ and descent leave; GPTQ alone
        // leaves 0.03 more.
        for (dtype, part) in [(DType::Int4, 0.245), (DType::Int5, 0.265), (DType::Int6, 0.272)] {
            let mut sums = [0.0; 2];
            for (rows, cols) in [(20, 32), (70, 200), (64, 300), (16, 129)] {
                let layout = TileLayout::new(dtype, rows, cols, GROUP).expect("a layout");
                let (x, weights) = toy(1500, rows, cols);
                let mut gram = Gram::new(cols);
                gram.add(&x);
                let mut other = Gram::new(cols);
                other.add(&x);
                let importance = gram.diagonal();
                let metric = gram.metric(0.01).expect("positive");
                let [search, weighted, gptq] =
                    [Method::Search, Method::Weighted(&importance), Method::Gptq(&metric)].map(
                        |method| {
                            let encoded = encode(&layout, &weights, method).expect("finite");
                            other.weigh(&errors(&layout, &weights, &encoded))
                        },
                    );
                assert!(weighted < search, "{dtype} {rows}x{cols}");
                assert!(gptq < 0.35 * search, "{dtype} {rows}x{cols}: {gptq} of {search}");
                sums = [sums[0] + search, sums[1] + gptq];
            }
            assert!(sums[1] < part * sums[0], "{dtype}: {sums:?}");
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
        let metric = gram.metric(0.01).expect("positive");
        let [search, gptq] = [Method::Search, Method::Gptq(&metric)].map(|method| {
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
