//! [`Values`]: what a cell of a tensor gives: formulas over parts of a checkpoint's tensors, one
//! below the other, of which any rows can be read. Not here: how a cell becomes formulas
//! (`formula`). Test: `tests`.

use std::ops::Range;

use super::syntax::Operator;
use super::view::View;
use crate::FormatError;
use crate::checkpoint::SourceTensor;

/// The values of a cell.
#[derive(Clone)]
pub(super) struct Values<'a>(pub(super) Vec<Formula<'a>>);

/// Values by a formula.
#[derive(Clone)]
pub(super) enum Formula<'a> {
    View(View<'a>),
    Number(f64),
    /// The number of each value.
    Index,
    /// base^(−2i/n), the first so many
    Rope {
        base: f64,
        n: usize,
        turning: usize,
    },
    Norm {
        rows: View<'a>,
        weight: Vec<f32>,
        /// Of a layer norm; an RMS norm has none.
        bias: Option<Vec<f32>>,
        eps: f64,
    },
    /// (row + shift) · scale
    Shifted {
        rows: View<'a>,
        shift: Vec<f32>,
        scale: Vec<f32>,
    },
    /// Columns so many apart, with zeros between them.
    Dilated(View<'a>, usize),
    /// Rows `from..to` of each of the matrices, along the diagonal.
    Diagonal {
        matrices: View<'a>,
        from: usize,
        to: usize,
        of: usize,
    },
    /// Values made of a whole tensor.
    Made(&'a SourceTensor, Vec<f64>),
    Map(fn(f64) -> f64, Box<Formula<'a>>),
    Two(Operator, Box<Formula<'a>>, Box<Formula<'a>>),
}

impl<'a> Values<'a> {
    /// Number of values; `None` if one stands for all.
    pub(super) fn len(&self) -> Option<usize> {
        self.0.iter().map(Formula::len).sum()
    }

    /// Rows and columns, if it is a matrix.
    pub(super) fn matrix_shape(&self) -> Option<(usize, usize)> {
        let (_, cols) = self.0.first()?.matrix_shape()?;
        let rows: Option<usize> = self.0.iter().map(|part| Some(part.matrix_shape()?.0)).sum();
        Some((rows?, cols))
    }

    /// The first tensor in it.
    pub(super) fn tensor(&self) -> Option<&'a SourceTensor> {
        self.0.iter().find_map(Formula::tensor)
    }

    /// Appends the values `range`, the last dimension fastest; of layer-normed ones, whole rows.
    pub(super) fn read(&self, range: Range<usize>, out: &mut Vec<f32>) -> Result<(), FormatError> {
        let mut start = 0;
        for part in &self.0 {
            let end = part.len().map_or(range.end, |len| start + len);
            let own = range.start.max(start)..range.end.min(end);
            if own.start < own.end {
                part.read(own.start - start..own.end - start, out)?;
            }
            start = end;
        }
        Ok(())
    }
}

impl<'a> Formula<'a> {
    pub(super) fn len(&self) -> Option<usize> {
        match self {
            Formula::View(view)
            | Formula::Norm { rows: view, .. }
            | Formula::Shifted { rows: view, .. } => Some(view.len()),
            Formula::Number(_) | Formula::Index => None,
            Formula::Made(_, values) => Some(values.len()),
            Formula::Rope { n, .. } => Some(n / 2),
            Formula::Dilated(..) | Formula::Diagonal { .. } => {
                self.matrix_shape().map(|(rows, cols)| rows * cols)
            }
            Formula::Map(_, inner) => inner.len(),
            Formula::Two(_, a, b) => a.len().or(b.len()),
        }
    }

    pub(super) fn matrix_shape(&self) -> Option<(usize, usize)> {
        match self {
            Formula::View(view)
            | Formula::Norm { rows: view, .. }
            | Formula::Shifted { rows: view, .. } => view.matrix_shape(),
            Formula::Number(_) | Formula::Index | Formula::Rope { .. } | Formula::Made(..) => None,
            Formula::Dilated(columns, apart) => {
                let (rows, cols) = columns.matrix_shape().filter(|(_, cols)| *cols > 0)?;
                Some((rows, (cols - 1) * apart + 1))
            }
            Formula::Diagonal { matrices, from, to, .. } => {
                let dims = matrices.dims();
                Some((dims[0] * (to - from), dims[0] * dims[2]))
            }
            Formula::Map(_, inner) => inner.matrix_shape(),
            Formula::Two(_, a, b) => a.matrix_shape().or(b.matrix_shape()),
        }
    }

    pub(super) fn tensor(&self) -> Option<&'a SourceTensor> {
        match self {
            Formula::View(view)
            | Formula::Norm { rows: view, .. }
            | Formula::Shifted { rows: view, .. } => Some(view.tensor),
            Formula::Made(tensor, _) => Some(tensor),
            Formula::Dilated(view, _) | Formula::Diagonal { matrices: view, .. } => {
                Some(view.tensor)
            }
            Formula::Number(_) | Formula::Index | Formula::Rope { .. } => None,
            Formula::Map(_, inner) => inner.tensor(),
            Formula::Two(_, a, b) => a.tensor().or(b.tensor()),
        }
    }

    pub(super) fn read(&self, range: Range<usize>, out: &mut Vec<f32>) -> Result<(), FormatError> {
        match self {
            Formula::View(view) => view.read(range, out),
            Formula::Norm { rows, weight, bias, eps } => {
                let start = out.len();
                rows.read(range, out)?;
                for row in out[start..].chunks_exact_mut(weight.len()) {
                    norm(row, weight, bias.as_deref(), *eps);
                }
                Ok(())
            }
            Formula::Shifted { rows, shift, scale } => {
                let start = out.len();
                rows.read(range, out)?;
                for row in out[start..].chunks_exact_mut(shift.len()) {
                    for (x, (shift, scale)) in row.iter_mut().zip(shift.iter().zip(scale)) {
                        *x = (*x + shift) * scale;
                    }
                }
                Ok(())
            }
            _ => {
                out.extend(self.exact(range)?.into_iter().map(|value| value as f32));
                Ok(())
            }
        }
    }

    /// The values before they are rounded.
    pub(super) fn exact(&self, range: Range<usize>) -> Result<Vec<f64>, FormatError> {
        match self {
            Formula::View(_) | Formula::Norm { .. } | Formula::Shifted { .. } => {
                let mut values = Vec::new();
                self.read(range, &mut values)?;
                Ok(values.into_iter().map(f64::from).collect())
            }
            Formula::Made(_, values) => Ok(values[range].to_vec()),
            Formula::Dilated(columns, apart) => {
                let (mut values, cols) = (Vec::new(), self.matrix_shape().map_or(1, |(_, n)| n));
                columns.read(0..columns.len(), &mut values)?;
                let of_row = (cols - 1) / apart + 1;
                let value = |at: usize| match (at / cols, at % cols) {
                    (_, col) if col % apart > 0 => 0.0,
                    (row, col) => f64::from(values[row * of_row + col / apart]),
                };
                Ok(range.map(value).collect())
            }
            Formula::Diagonal { matrices, from, to, of } => {
                let mut values = Vec::new();
                matrices.read(0..matrices.len(), &mut values)?;
                let (cols, rows) = (matrices.dims()[2], to - from);
                let all_cols = matrices.dims()[0] * cols;
                let value = |at: usize| {
                    let (row, col) = (at / all_cols, at % all_cols);
                    let (matrix, row) = (row / rows, from + row % rows);
                    let value = values[(matrix * of + row) * cols + col % cols];
                    if col / cols == matrix { f64::from(value) } else { 0.0 }
                };
                Ok(range.map(value).collect())
            }
            Formula::Number(n) => Ok(vec![*n; range.len()]),
            Formula::Index => Ok(range.map(|i| i as f64).collect()),
            Formula::Rope { base, n, turning } => {
                let frequency = |i: usize| base.powf(-2.0 * i as f64 / *n as f64);
                Ok(range.map(|i| if i < *turning { frequency(i) } else { 0.0 }).collect())
            }
            Formula::Map(map, inner) => {
                let mut values = inner.exact(range)?;
                values.iter_mut().for_each(|value| *value = map(*value));
                Ok(values)
            }
            Formula::Two(operator, a, b) => {
                let (mut values, others) = (a.exact(range.clone())?, b.exact(range)?);
                values.iter_mut().zip(others).for_each(|(a, b)| *a = operator.apply(*a, b));
                Ok(values)
            }
        }
    }
}

/// Of a layer norm, if there are biases, else of an RMS norm.
fn norm(row: &mut [f32], weight: &[f32], bias: Option<&[f32]>, eps: f64) {
    let n = row.len() as f64;
    let mean = match bias {
        Some(_) => row.iter().map(|v| f64::from(*v)).sum::<f64>() / n,
        None => 0.0,
    };
    let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
    let inverse = 1.0 / (variance + eps).sqrt();
    for (i, (v, w)) in row.iter_mut().zip(weight).enumerate() {
        let bias = bias.map_or(0.0, |bias| f64::from(bias[i]));
        *v = ((f64::from(*v) - mean) * inverse * f64::from(*w) + bias) as f32;
    }
}
