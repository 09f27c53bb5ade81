//! [`View`]: a part of one tensor of a checkpoint, transposed or cut, as strides; nothing is read
//! before rows are asked for.
//!
//! Reading takes the tensor's lines between the first and the last value asked for: rows of a
//! projection one block at a time, a transposed adapter whole. Test: `tests`.

use std::ops::Range;

use super::syntax::Suffix;
use crate::FormatError;
use crate::checkpoint::{Checkpoint, SourceTensor};

/// A part of a tensor.
#[derive(Clone, Debug)]
pub(super) struct View<'a> {
    checkpoint: &'a Checkpoint,
    pub(super) tensor: &'a SourceTensor,
    /// Element of the tensor where the view begins.
    base: usize,
    /// At least one.
    axes: Vec<Axis>,
}

/// A dimension: lengths and distances in elements, the slowest first; more than one where rows are
/// interleaved with others. Distances descend, so that an index further on lies further on.
#[derive(Clone, Debug)]
struct Axis(Vec<(usize, usize)>);

impl Axis {
    fn len(&self) -> usize {
        self.0.iter().map(|(len, _)| len).product()
    }

    /// Elements from the first to that of `index`.
    fn offset(&self, mut index: usize) -> usize {
        let mut offset = 0;
        for (len, stride) in self.0.iter().rev() {
            offset += index % len * stride;
            index /= len;
        }
        offset
    }
}

impl<'a> View<'a> {
    /// All of `tensor`.
    pub(super) fn whole(checkpoint: &'a Checkpoint, tensor: &'a SourceTensor) -> Self {
        let mut stride = tensor.numel();
        let axes = tensor.shape.iter().map(|&len| {
            stride /= len.max(1);
            Axis(vec![(len, stride)])
        });
        let mut axes: Vec<Axis> = axes.collect();
        if axes.is_empty() {
            axes.push(Axis(vec![(1, 1)]));
        }
        View { checkpoint, tensor, base: 0, axes }
    }

    /// Takes the part that `suffix` says, of these lengths if it has some; false if nothing fits.
    pub(super) fn apply(&mut self, suffix: &Suffix<'_>, lengths: &[usize], each: usize) -> bool {
        match suffix {
            Suffix::Transpose => {
                let n = self.axes.len();
                if n >= 2 {
                    self.axes.swap(n - 2, n - 1);
                }
                n >= 2
            }
            Suffix::Fraction { index, of } => {
                let len = self.axes[0].len();
                len.is_multiple_of(*of) && self.part(*index, &vec![len / of; *of], 1)
            }
            Suffix::Part { index, .. } => self.part(*index, lengths, each),
            Suffix::Flat => self.flatten(),
            Suffix::Split => self.split(),
        }
    }

    /// Makes one dimension of the first two of three; a matrix stays as it is.
    fn flatten(&mut self) -> bool {
        match (&self.axes[0].0[..], self.axes.get(1).map(|axis| &axis.0[..])) {
            (_, Some(_)) if self.axes.len() == 2 => true,
            (&[(n, outer)], Some(&[(len, stride)])) => {
                self.axes.remove(0);
                self.axes[0] = match outer == len * stride {
                    true => Axis(vec![(n * len, stride)]),
                    false => Axis(vec![(n, outer), (len, stride)]),
                };
                self.axes.len() == 2
            }
            _ => false,
        }
    }

    /// Makes two dimensions of interleaved rows: which, and the row among them.
    fn split(&mut self) -> bool {
        let (outer, inner) = match self.axes[0].0[..] {
            [outer, inner] => (outer, inner),
            [(len, stride)] => ((1, len * stride), (len, stride)),
            _ => return false,
        };
        self.axes[0] = Axis(vec![inner]);
        self.axes.insert(0, Axis(vec![outer]));
        true
    }

    /// Takes, of each of `each` rows of parts of these lengths, the part `index`.
    fn part(&mut self, index: usize, lengths: &[usize], each: usize) -> bool {
        let total = lengths.iter().try_fold(0usize, |sum, len| sum.checked_add(*len));
        let &[(len, stride)] = &self.axes[0].0[..] else { return false };
        let Some(total) = total.filter(|total| total.checked_mul(each) == Some(len)) else {
            return false;
        };
        let first: usize = lengths[..index].iter().sum();
        self.base += first * stride;
        self.axes[0] = match each {
            1 => Axis(vec![(lengths[index], stride)]),
            _ => Axis(vec![(each, total * stride), (lengths[index], stride)]),
        };
        // One matrix of many is a matrix.
        if self.axes.len() > 2 && self.axes[0].len() == 1 {
            self.axes.remove(0);
        }
        true
    }

    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.axes.iter().map(Axis::len).product()
    }

    /// Its dimensions.
    pub(super) fn dims(&self) -> Vec<usize> {
        self.axes.iter().map(Axis::len).collect()
    }

    /// The view without dimensions of one that make it more than a matrix.
    pub(super) fn squeezed(mut self) -> Self {
        while self.axes.len() > 2
            && let Some(one) = self.axes.iter().position(|axis| axis.len() == 1)
        {
            self.axes.remove(one);
        }
        self
    }

    /// Rows and columns, if there are two dimensions.
    pub(super) fn matrix_shape(&self) -> Option<(usize, usize)> {
        match &self.axes[..] {
            [rows, cols] => Some((rows.len(), cols.len())),
            _ => None,
        }
    }

    /// Appends the values `range`, counted with the last dimension fastest.
    pub(super) fn read(&self, range: Range<usize>, out: &mut Vec<f32>) -> Result<(), FormatError> {
        let Some((first, rest)) = self.axes.split_first().filter(|_| !range.is_empty()) else {
            return Ok(());
        };
        let columns = offsets(rest);
        let cols = columns.len();
        let rows = range.start / cols..range.end.div_ceil(cols);
        let start = self.base + first.offset(rows.start);
        let end = self.base + first.offset(rows.end - 1) + columns[cols - 1] + 1;
        let row_len = self.checkpoint.line_len(self.tensor);
        let source = start / row_len..end.div_ceil(row_len);
        let name = &self.tensor.name;
        let in_order = columns.iter().enumerate().all(|(i, offset)| i == *offset);
        if in_order && end - start == range.len() && source.len() * row_len == range.len() {
            return self.checkpoint.read_lines(name, source, out);
        }
        let mut values = Vec::new();
        self.checkpoint.read_lines(name, source.clone(), &mut values)?;
        out.reserve(range.len());
        for row in rows {
            let at = self.base + first.offset(row) - source.start * row_len;
            let wanted = range.start.max(row * cols)..range.end.min((row + 1) * cols);
            let wanted = wanted.start - row * cols..wanted.end - row * cols;
            match in_order {
                true => out.extend_from_slice(&values[at..][wanted]),
                false => out.extend(columns[wanted].iter().map(|offset| values[at + offset])),
            }
        }
        Ok(())
    }
}

/// The offsets of all values over `axes`, the last one fastest.
fn offsets(axes: &[Axis]) -> Vec<usize> {
    axes.iter().fold(vec![0], |outer, axis| {
        let inner: Vec<usize> = (0..axis.len()).map(|i| axis.offset(i)).collect();
        outer.iter().flat_map(|a| inner.iter().map(move |b| a + b)).collect()
    })
}
