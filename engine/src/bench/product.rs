//! One matrix product with made-up weights, for the benchmarks: times a kernel without a model
//! around it. Not here: timing (`benches/`), correctness (`matmul/tests.rs`).

use brooklet_formats::quant::{self, TileLayout};
use brooklet_formats::zeroed::Zeroed;
use brooklet_formats::{DType, FormatError};

use crate::buffers::{ActivationBuffer, Workspace};
use crate::kernels::Isa;
use crate::kernels::matmul::{Output, Tiles, form, matmul};
use crate::team::Split;

/// Tiles that differ.
const DIFFERENT: usize = 8;

/// `y = W x` for one number format, one instruction set and a number of columns.
pub struct Product {
    isa: Isa,
    layout: TileLayout,
    weights: Zeroed<u8>,
    columns: usize,
    x: ActivationBuffer,
    y: Vec<f32>,
}

impl Product {
    /// A product of a (rows, cols) matrix with `columns` columns. The weights are normal; a few
    /// different tiles repeat.
    ///
    /// # Errors
    /// The matrix is empty or too large.
    pub fn new(
        isa: Isa,
        dtype: DType,
        rows: usize,
        cols: usize,
        columns: usize,
    ) -> Result<Self, FormatError> {
        let layout = TileLayout::new(dtype, rows, cols, dtype.default_group())?;
        let mut normal = normal();
        let mut weights = Zeroed::new(layout.total_bytes());
        let mut values = vec![0.0; layout.tile_floats()];
        let mut different = Vec::new();
        for t in 0..layout.n_tiles() {
            if t < DIFFERENT {
                for row in values.chunks_exact_mut(layout.padded_cols()) {
                    row[..cols].iter_mut().for_each(|w| *w = 0.02 * normal());
                }
                let mut tile = vec![0; layout.encoded_bytes()];
                let encoded = quant::encode_tile(&layout, &values, &mut tile);
                debug_assert!(encoded.is_ok());
                different.push(tile);
            }
            quant::place_tile(&layout, &different[t % DIFFERENT], t, &mut weights);
        }
        let mut x = ActivationBuffer::new(cols, &Workspace::new(columns), form(dtype).into());
        {
            let shared = x.share_columns(Split::new(columns, 1, 1));
            let mut part = shared.take(0);
            let mut column = vec![0.0; cols];
            for c in 0..columns {
                column.iter_mut().for_each(|x| *x = normal());
                part.fill(isa, c, |range, out| out.copy_from_slice(&column[range]));
            }
        }
        let y = vec![0.0; layout.padded_rows() * columns];
        Ok(Product { isa, layout, weights, columns, x, y })
    }

    /// Multiplies once.
    pub fn run(&mut self) {
        let y = Output::new(&mut self.y, self.layout.padded_rows(), self.columns);
        let tiles = Tiles::new(&self.layout, &self.weights);
        matmul(self.isa, tiles, self.x.view_from(form(self.layout.dtype), 0), y);
    }

    /// The bytes of the matrix.
    pub fn weights(&self) -> &[u8] {
        &self.weights
    }

    /// Multiply-adds of one product.
    pub fn multiply_adds(&self) -> usize {
        self.layout.rows * self.layout.cols * self.columns
    }
}

/// A generator of roughly normal numbers of standard deviation 1.
fn normal() -> impl FnMut() -> f32 {
    let mut state = 1u64;
    move || {
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 8_388_608.0 - 1.0
        };
        (0..12).map(|_| uniform()).sum::<f32>() / 2.0
    }
}
