//! A tensor as it is before: where its elements stand, how its rows are read.

use std::ops::Range;

use crate::{DType, FormatError};

/// A tensor as it is before.
pub(in crate::convert) struct Tensor<'a> {
    pub(in crate::convert) name: &'a str,
    /// The shape in the file.
    pub(in crate::convert) shape: Vec<usize>,
    /// The number format that it shall have; of vectors and small tensors, none.
    pub(in crate::convert) target: Option<DType>,
    /// Whether it was rounded already, and can only stay as it is.
    pub(in crate::convert) is_rounded: bool,
    pub(in crate::convert) source: Box<ReadRows<'a>>,
}

/// Appends rows of a matrix; of any other tensor, all values.
pub(in crate::convert) type ReadRows<'a> =
    dyn Fn(Range<usize>, &mut Vec<f32>) -> Result<(), FormatError> + Sync + 'a;

impl Tensor<'_> {
    /// Rows and columns; a vector is one column.
    pub(super) fn dims(&self) -> (usize, usize) {
        dims(&self.shape)
    }

    /// Appends rows, of blocked tensors too.
    pub(super) fn read(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<(), FormatError> {
        match self.shape[..] {
            [_, _] => (self.source)(rows, out),
            _ => {
                let (_, cols) = self.dims();
                let mut values = Vec::new();
                (self.source)(0..1, &mut values)?;
                let at = |row: usize, col: usize| values[place(&self.shape, row, col)];
                out.extend(
                    rows.flat_map(|row| (0..cols).map(move |col| (row, col)))
                        .map(|(row, col)| at(row, col)),
                );
                Ok(())
            }
        }
    }
}

/// Rows and columns of a tensor of this shape.
pub(super) fn dims(shape: &[usize]) -> (usize, usize) {
    match *shape {
        [rows, cols] => (rows, cols),
        [blocks, cols, lanes] => (blocks * lanes, cols),
        _ => (shape.iter().product(), 1),
    }
}

/// Where an element stands.
pub(super) fn place(shape: &[usize], row: usize, col: usize) -> usize {
    match *shape {
        [_, cols, lanes] => (row / lanes * cols + col) * lanes + row % lanes,
        [_, cols] => row * cols + col,
        _ => row,
    }
}
