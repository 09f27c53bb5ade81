//! Many tiles at once, on all processors.
//!
//! Tiles do not touch each other, so that who encodes which changes nothing. Not here: one tile.

#[cfg(feature = "threads")]
use rayon::prelude::*;

use super::{EncodeError, TILE_ROWS, TileLayout, encode_tile};

/// Encodes whole rows of `layout.cols` weights, as many as there are: tiles one after the other
/// into `out`, [`TileLayout::encoded_bytes`] long each; rows of the last that do not exist are 0.
///
/// # Errors
/// As [`encode_tile`] for the first row that has one, counted from the first of `rows`.
///
/// # Panics
/// If `rows` are not whole, or `out` has not room for just their tiles.
pub fn encode_tiles(layout: &TileLayout, rows: &[f32], out: &mut [u8]) -> Result<(), EncodeError> {
    encode_tiles_with(layout, rows, out, encode_tile)
}

/// The same with another way to encode a tile from its padded rows.
///
/// # Errors
/// The first that `encode` has, by row.
///
/// # Panics
/// As [`encode_tiles`].
pub fn encode_tiles_with(
    layout: &TileLayout,
    rows: &[f32],
    out: &mut [u8],
    encode: impl Fn(&TileLayout, &[f32], &mut [u8]) -> Result<(), EncodeError> + Sync,
) -> Result<(), EncodeError> {
    let (tile_weights, tile_bytes) = (TILE_ROWS * layout.cols, layout.encoded_bytes());
    assert_eq!(rows.len() % layout.cols, 0, "whole rows");
    assert_eq!(out.len(), rows.len().div_ceil(tile_weights) * tile_bytes, "bytes of tiles");
    let one = |scratch: &mut Vec<f32>, tile: usize, rows: &[f32], out: &mut [u8]| {
        let padded = pad(layout, rows, scratch);
        let encoded = encode(layout, padded, out);
        encoded.err().map(|error| EncodeError { row: tile * TILE_ROWS + error.row, ..error })
    };
    let in_order = |out: &mut [u8]| {
        let tiles = rows.chunks(tile_weights).zip(out.chunks_exact_mut(tile_bytes));
        let mut scratch = Vec::new();
        tiles.enumerate().find_map(|(tile, (rows, out))| one(&mut scratch, tile, rows, out))
    };
    #[cfg(not(feature = "threads"))]
    let error = in_order(out);
    #[cfg(feature = "threads")]
    let error = {
        let side_by_side = |out: &mut [u8]| {
            let tiles = rows.par_chunks(tile_weights).zip(out.par_chunks_exact_mut(tile_bytes));
            let errors = tiles
                .enumerate()
                .map_init(Vec::new, |scratch, (tile, (rows, out))| one(scratch, tile, rows, out));
            errors.flatten_iter().min_by_key(|error| error.row)
        };
        match (rayon::current_thread_index(), pool()) {
            // A caller with threads of its own.
            (Some(_), _) => side_by_side(out),
            (None, Some(pool)) => pool.install(|| side_by_side(out)),
            (None, None) => in_order(out),
        }
    };
    error.map_or(Ok(()), Err)
}

/// One thread for each processor; none where the system gives no threads.
#[cfg(feature = "threads")]
fn pool() -> Option<&'static rayon::ThreadPool> {
    static POOL: std::sync::OnceLock<Option<rayon::ThreadPool>> = std::sync::OnceLock::new();
    POOL.get_or_init(|| rayon::ThreadPoolBuilder::new().build().ok()).as_ref()
}

/// The rows of a tile with zeros up to whole groups and to 16 rows.
fn pad<'a>(layout: &TileLayout, rows: &'a [f32], scratch: &'a mut Vec<f32>) -> &'a [f32] {
    if rows.len() == layout.tile_floats() {
        return rows;
    }
    scratch.clear();
    scratch.resize(layout.tile_floats(), 0.0);
    let padded = scratch.chunks_exact_mut(layout.padded_cols());
    for (padded, row) in padded.zip(rows.chunks_exact(layout.cols)) {
        padded[..layout.cols].copy_from_slice(row);
    }
    scratch
}
