//! Many tiles at once, on all processors.
//!
//! Tiles do not touch each other, so that who encodes which changes nothing. Not here: one tile.

use std::iter::{Enumerate, Zip};
use std::slice::{Chunks, ChunksExactMut};
use std::sync::{Mutex, PoisonError};

use super::{EncodeError, TILE_ROWS, TileLayout, encode_tile};
use crate::threads::Threads;

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
    let tiles = Tiles::new(layout, rows, out);
    Threads::new(0).beside(|| tiles.encode(&encode), || ());
    tiles.finish()
}

/// Tiles that wait for threads to encode them, one after the other.
pub(crate) struct Tiles<'a> {
    layout: &'a TileLayout,
    waiting: Mutex<Waiting<'a>>,
    /// The first by row.
    error: Mutex<Option<EncodeError>>,
}

/// Tiles with their numbers: their rows, and where their bytes go.
type Waiting<'a> = Enumerate<Zip<Chunks<'a, f32>, ChunksExactMut<'a, u8>>>;

impl<'a> Tiles<'a> {
    /// See [`encode_tiles`].
    pub(crate) fn new(layout: &'a TileLayout, rows: &'a [f32], out: &'a mut [u8]) -> Self {
        let (tile_weights, tile_bytes) = (TILE_ROWS * layout.cols, layout.encoded_bytes());
        assert_eq!(rows.len() % layout.cols, 0, "whole rows");
        assert_eq!(out.len(), rows.len().div_ceil(tile_weights) * tile_bytes, "bytes of tiles");
        let waiting = rows.chunks(tile_weights).zip(out.chunks_exact_mut(tile_bytes)).enumerate();
        Self { layout, waiting: Mutex::new(waiting), error: Mutex::new(None) }
    }

    /// Encodes tiles until none waits.
    pub(crate) fn encode(
        &self,
        encode: impl Fn(&TileLayout, &[f32], &mut [u8]) -> Result<(), EncodeError>,
    ) {
        let mut scratch = Vec::new();
        let next = || self.waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
        while let Some((tile, (rows, out))) = next() {
            if let Err(error) = encode(self.layout, pad(self.layout, rows, &mut scratch), out) {
                let row = tile * TILE_ROWS + error.row;
                let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
                if first.as_ref().is_none_or(|first| row < first.row) {
                    *first = Some(EncodeError { row, ..error });
                }
            }
        }
    }

    /// The first error by row, where there is one; all tiles must be encoded.
    pub(crate) fn finish(self) -> Result<(), EncodeError> {
        self.error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
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
