//! Descent: codes and scales of a finished chunk, changed one at a time while that makes errors
//! cost less.
//!
//! GPTQ never goes back to a column. Here each is rounded once more, to what is best beside all
//! others as they are: with `g = H e`, column k would best have the error `e_k - g_k / H_kk`
//! (coordinate descent; QuantEase, Behdin et al. 2023, arXiv 2309.01885). Then each scale: with u
//! the values of its group at scale 1, adding d to it costs `d² uᵀ H u - 2 d uᵀ g`, so that d is
//! the whole number nearest to `uᵀ g / uᵀ H u`. No step makes anything worse.
//!
//! ```text
//!            columns ->   all others: one product for each block
//!          +-----------+-------+------------------+
//!   rows   |           | block |                  |   in the block, g follows every step
//!          +-----------+-------+------------------+
//! ```
//!
//! Test: `codes.rs`.

use brooklet_formats::quant::TILE_ROWS;
use brooklet_formats::quant::fine::GROUP;

use crate::gram::{BLOCK, Gram};
use crate::making::{Lanes, Making, add};

/// How often all columns and scales are gone through.
const SWEEPS: usize = 3;

/// `tiles` are the columns of a chunk's tiles as they should be; `errors` what they lack, (padded
/// columns, rows).
pub(crate) fn descend(
    moments: &Gram,
    tiles: &[Vec<Lanes>],
    making: &mut [Making],
    errors: &mut [f32],
) {
    let n = tiles.len() * TILE_ROWS;
    let mut gradients = vec![0.0; BLOCK * n];
    for _ in 0..SWEEPS {
        for first in (0..moments.k()).step_by(BLOCK) {
            let end = moments.k().min(first + BLOCK);
            moments.times(first..end, errors, n, &mut gradients);
            for (t, (columns, making)) in tiles.iter().zip(&mut *making).enumerate() {
                let of = |values: &[f32], row: usize| -> Lanes {
                    std::array::from_fn(|lane| values[row * n + t * TILE_ROWS + lane])
                };
                let mut block = Block {
                    moments,
                    first,
                    columns: &columns[first..end],
                    errors: (first..end).map(|k| of(errors, k)).collect(),
                    gradients: (0..end - first).map(|k| of(&gradients, k)).collect(),
                };
                block.run(making);
                for (k, error) in (first..end).zip(&block.errors) {
                    errors[k * n + t * TILE_ROWS..][..TILE_ROWS].copy_from_slice(error);
                }
            }
        }
    }
}

/// The columns of a block of a tile.
struct Block<'a> {
    moments: &'a Gram,
    first: usize,
    columns: &'a [Lanes],
    errors: Vec<Lanes>,
    /// H e.
    gradients: Vec<Lanes>,
}

impl Block<'_> {
    fn run(&mut self, making: &mut Making) {
        let n = self.columns.len();
        for start in (0..n).step_by(GROUP) {
            let (end, g) = (n.min(start + GROUP), (self.first + start) / GROUP);
            let scaled = making.scaled(g);
            for k in start..end {
                let own = self.h(k, k);
                let column: Lanes = std::array::from_fn(|lane| {
                    let best = self.errors[k][lane] - self.gradients[k][lane] / own;
                    self.columns[k][lane] - best
                });
                let rounded = making.round(self.first + k, &scaled, &column);
                let change: Lanes = std::array::from_fn(|lane| {
                    self.columns[k][lane] - rounded[lane] - self.errors[k][lane]
                });
                self.change(k, &change);
            }
            let units: Vec<Lanes> = (start..end).map(|k| making.unit(self.first + k)).collect();
            let (mut slope, mut bend) = ([0.0; TILE_ROWS], [0.0; TILE_ROWS]);
            for (i, unit) in units.iter().enumerate() {
                let mut through = [0.0; TILE_ROWS];
                for (j, unit) in units.iter().enumerate() {
                    add(&mut through, self.h(start + i, start + j), unit);
                }
                for lane in 0..TILE_ROWS {
                    slope[lane] += unit[lane] * self.gradients[start + i][lane];
                    bend[lane] += unit[lane] * through[lane];
                }
            }
            let added: Lanes = std::array::from_fn(|lane| match bend[lane] > 0.0 {
                true => (slope[lane] / bend[lane]).round_ties_even(),
                false => 0.0,
            });
            let added = making.scale_by(g, &added);
            for (k, unit) in (start..end).zip(&units) {
                self.change(k, &std::array::from_fn(|lane| -added[lane] * unit[lane]));
            }
        }
    }

    fn h(&self, i: usize, j: usize) -> f32 {
        self.moments.near(self.first + i, self.first + j)
    }

    /// Adds to the error of column `k`.
    fn change(&mut self, k: usize, change: &Lanes) {
        if change.iter().all(|change| *change == 0.0) {
            return;
        }
        add(&mut self.errors[k], 1.0, change);
        for j in 0..self.gradients.len() {
            let h = self.h(j, k);
            add(&mut self.gradients[j], h, change);
        }
    }
}
