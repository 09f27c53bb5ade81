//! A tile in the making: steps, then scales and codes, group after group.
//!
//! Columns stand as 16 rows side by side, one per lane, so that no sum runs across lanes. Not here:
//! which values are rounded (`gptq.rs`, `descent.rs`), the bytes (`brooklet_formats::quant::fine`).

use brooklet_formats::quant::fine::{self, GROUP, Grid, Tile, pack, steps};
use brooklet_formats::quant::{TILE_ROWS, TileLayout};
use half::f16;

/// One value for each row of a tile.
pub(crate) type Lanes = [f32; TILE_ROWS];

/// The part of the range of 8-bit scales that those of the weights as they are take: while columns
/// make up for others, groups may grow.
const HEADROOM: f32 = 1.05;

/// Columns of 16 rows, one per lane, with zeros up to whole groups.
pub(crate) fn lanes(layout: &TileLayout, rows: &[f32]) -> Vec<Lanes> {
    let mut columns = vec![[0.0; TILE_ROWS]; layout.padded_cols()];
    for (lane, row) in rows.chunks_exact(layout.cols).enumerate() {
        columns.iter_mut().zip(row).for_each(|(column, w)| column[lane] = *w);
    }
    columns
}

/// A tile in the making.
pub(crate) struct Making {
    grid: Grid,
    steps: [f16; TILE_ROWS],
    step: Lanes,
    scales: Vec<[i8; TILE_ROWS]>,
    codes: Vec<[u8; TILE_ROWS]>,
}

impl Making {
    /// With the steps that the scales of all groups ask for; `importance` is each padded column's.
    pub(crate) fn new(grid: Grid, columns: &[Lanes], importance: &[f32]) -> Making {
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
    pub(crate) fn enter(&mut self, block: &[Lanes], importance: &[f32]) -> Scaled {
        let wanted = self.grid.search(block, importance);
        let chosen = self.grid.choose(block, importance, &wanted, &self.step);
        self.scales.push(chosen);
        self.scaled(self.scales.len() - 1)
    }

    /// Rounds the next column, and gives the values that it has then.
    pub(crate) fn push(&mut self, scaled: &Scaled, column: &Lanes) -> Lanes {
        self.codes.push([0; TILE_ROWS]);
        self.round(self.codes.len() - 1, scaled, column)
    }

    /// Rounds column `k` anew, and gives the values that it has then.
    pub(crate) fn round(&mut self, k: usize, scaled: &Scaled, column: &Lanes) -> Lanes {
        let wanted = std::array::from_fn(|lane| column[lane] * scaled.inverse[lane]);
        let (codes, values) = self.grid.nearest(&wanted);
        self.codes[k] = codes;
        std::array::from_fn(|lane| values[lane] * scaled.scale[lane] * self.step[lane])
    }

    /// The scales of group `g`.
    pub(crate) fn scaled(&self, g: usize) -> Scaled {
        let chosen = &self.scales[g];
        Scaled { scale: chosen.map(f32::from), inverse: fine::inverses(chosen, &self.step) }
    }

    /// Of each row, the value of column `k` if the scale of its group were 1.
    pub(crate) fn unit(&self, k: usize) -> Lanes {
        let codes = &self.codes[k];
        std::array::from_fn(|lane| self.grid.value(codes[lane]) * self.step[lane])
    }

    /// Adds to the scales of group `g`, which stay in their range; gives what could be added.
    pub(crate) fn scale_by(&mut self, g: usize, added: &Lanes) -> Lanes {
        std::array::from_fn(|lane| {
            let before = f32::from(self.scales[g][lane]);
            let after = (before + added[lane]).clamp(-127.0, 127.0);
            self.scales[g][lane] = after as i8;
            after - before
        })
    }

    pub(crate) fn pack(&self, layout: &TileLayout, out: &mut [u8]) {
        let Making { steps, scales, codes, .. } = self;
        pack(layout, &Tile { steps: *steps, scales, codes }, out);
    }
}

/// The scales of a group.
pub(crate) struct Scaled {
    scale: Lanes,
    /// 1 / (scale · step).
    inverse: Lanes,
}

/// `importance` with 0 for columns that only pad.
pub(crate) fn padded(layout: &TileLayout, importance: impl Iterator<Item = f32>) -> Vec<f32> {
    let mut padded: Vec<f32> = importance.take(layout.cols).collect();
    padded.resize(layout.padded_cols(), 0.0);
    padded
}

/// sum += factor · x.
#[inline]
pub(crate) fn add(sum: &mut Lanes, factor: f32, x: &Lanes) {
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += factor * x);
}
