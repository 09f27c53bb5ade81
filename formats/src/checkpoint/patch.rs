//! [`Patch`]: what is added to a tensor's rows as they are read.
//!
//! Here: products of two thin matrices, and other tensors mixed in. Nothing of the sum is kept: the
//! rows asked for are computed from the rows of the factors. Not here: which tensors are patched
//! (`convert::lora`). Test: `tests/lora.rs`.

use std::ops::Range;

use super::tensor::SourceTensor;
use crate::FormatError;

/// A change to a tensor, seen as a matrix.
#[derive(Clone, Debug)]
pub(crate) enum Patch {
    /// `W + scale · left right`.
    Product { left: Factor, right: Factor, scale: f64 },
    /// `W + scale · (other − W)`.
    Mixed { other: SourceTensor, scale: f64 },
}

/// A matrix, stored as it is or transposed.
#[derive(Clone, Debug)]
pub(crate) struct Factor {
    pub(crate) tensor: SourceTensor,
    pub(crate) is_turned: bool,
}

impl Factor {
    /// Rows and columns.
    pub(crate) fn shape(&self) -> (usize, usize) {
        let (rows, cols) = self.tensor.matrix_shape();
        if self.is_turned { (cols, rows) } else { (rows, cols) }
    }

    fn read(&self, rows: Range<usize>) -> Result<Vec<f32>, FormatError> {
        let mut values = Vec::new();
        if !self.is_turned {
            self.tensor.read_rows(rows, &mut values)?;
            return Ok(values);
        }
        let (stored_rows, stored_cols) = self.tensor.matrix_shape();
        self.tensor.read_rows(0..stored_rows, &mut values)?;
        let column = |i| (0..stored_rows).map(move |j| (i, j));
        Ok(rows.flat_map(column).map(|(i, j)| values[j * stored_cols + i]).collect())
    }
}

impl Patch {
    /// Changes `values`, which are these rows of a matrix with `cols` columns.
    pub(crate) fn apply(
        &self,
        rows: Range<usize>,
        cols: usize,
        values: &mut [f32],
    ) -> Result<(), FormatError> {
        match self {
            Self::Mixed { other, scale } => {
                let mut theirs = Vec::new();
                // Shapes may differ in dimensions of one.
                let row_len = other.matrix_shape().1.max(1);
                let (start, end) = (rows.start * cols, rows.end * cols);
                let own = start / row_len..end.div_ceil(row_len);
                let skipped = start - own.start * row_len;
                other.read_rows(own, &mut theirs)?;
                for (value, theirs) in values.iter_mut().zip(&theirs[skipped..]) {
                    let (mine, theirs) = (f64::from(*value), f64::from(*theirs));
                    *value = (mine + scale * (theirs - mine)) as f32;
                }
            }
            Self::Product { left, right, scale } => {
                let rank = right.shape().0;
                let (left, right) = (left.read(rows)?, right.read(0..rank)?);
                let mut sum = vec![0.0f64; cols];
                let of_rows = left.chunks_exact(rank.max(1));
                for (values, factors) in values.chunks_exact_mut(cols.max(1)).zip(of_rows) {
                    sum.fill(0.0);
                    for (factor, row) in factors.iter().zip(right.chunks_exact(cols.max(1))) {
                        let factor = f64::from(*factor);
                        sum.iter_mut().zip(row).for_each(|(s, x)| *s += factor * f64::from(*x));
                    }
                    for (value, sum) in values.iter_mut().zip(&sum) {
                        *value = (f64::from(*value) + scale * sum) as f32;
                    }
                }
            }
        }
        Ok(())
    }
}
