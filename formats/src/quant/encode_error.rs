//! [`EncodeError`]: a weight that is not finite, or too large for its number format.

use std::fmt;

use crate::DType;

/// A weight that its number format cannot hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EncodeError {
    /// The number format.
    pub dtype: DType,
    /// Row: in the tile from [`encode_tile`](super::encode_tile), in the matrix from the file
    /// writer.
    pub row: usize,
    /// Column of the matrix.
    pub col: usize,
    /// The weight.
    pub value: f32,
    /// The largest magnitude that the format holds.
    pub limit: f32,
}

impl EncodeError {
    /// An error unless `value` is finite and at most `limit` in magnitude.
    pub(super) fn check(
        dtype: DType,
        row: usize,
        col: usize,
        value: f32,
        limit: f32,
    ) -> Result<(), Self> {
        if value.abs() <= limit { Ok(()) } else { Err(Self { dtype, row, col, value, limit }) }
    }
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dtype, row, col, value, limit } = self;
        write!(f, "the weight at row {row}, column {col} is {value}, ")?;
        write!(f, "expected a number of magnitude {limit} at most to store it as {dtype}")
    }
}

impl std::error::Error for EncodeError {}
