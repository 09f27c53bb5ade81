//! [`SourceTensor`]: one entry of a checkpoint's table, and the reading of its rows as f32.
//!
//! Here: the one place where tensor bytes are read, for every format; contiguous tensors chunk by
//! chunk, strided ones run by run. Not here: where tensors lie in a file (one module per format)
//! and what their numbers mean (`dtype`). Memory: the rows asked for, and one megabyte. Test:
//! `tests/tensor`; `tests` for real files.

use std::ops::Range;
use std::sync::Arc;

use super::decode::decode;
use super::dtype::SourceDType;
use super::source::{Blob, SourceFile};
use crate::FormatError;

/// Bytes per read.
const CHUNK: usize = 1 << 20;

/// Most dimensions of a tensor.
const DIMS_MAX: usize = 8;

/// A tensor expanded from fewer stored numbers (stride 0) may hold this many elements at most.
const EXPANDED_MAX: u64 = 1 << 16;

/// Most whole numbers that are read of a tensor: they are settings, not weights.
const INTEGERS_MAX: usize = 1 << 12;

/// Scales, in tensors of their own, that turn codes into numbers.
pub(super) trait Codes: std::fmt::Debug + Send + Sync {
    /// Turns codes into numbers; the first is element `first` of the tensor.
    fn apply(&self, first: usize, values: &mut [f32]) -> Result<(), FormatError>;
}

/// A tensor of a checkpoint: its name, shape and number format, and where its bytes are.
#[derive(Clone, Debug)]
pub struct SourceTensor {
    /// The name as it stands in the file, without the words that wrappers put into it.
    pub name: String,
    /// Outermost dimension first (PyTorch's order), for every format.
    pub shape: Vec<usize>,
    /// How the numbers are stored.
    pub dtype: SourceDType,
    blob: Blob,
    /// Byte offset of the first element in the blob.
    offset: u64,
    /// Elements (not bytes) between neighbours along each dimension; `None` for row-major tensors.
    strides: Option<Vec<usize>>,
    numel: usize,
    /// Where the numbers are codes for others.
    scales: Option<Arc<dyn Codes>>,
}

impl SourceTensor {
    /// A row-major tensor at byte `offset` of `blob`. Fails when the shape's product overflows,
    /// when a row of blocks is cut, or when the bytes are not all there.
    pub(crate) fn new(
        name: String,
        shape: Vec<usize>,
        dtype: SourceDType,
        blob: Blob,
        offset: u64,
    ) -> Result<Self, FormatError> {
        let numel = checked_numel(&name, &shape, &blob)?;
        let file = blob.file();
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(dtype.block_len()) {
            let expected = format!("a multiple of {} for {dtype}", dtype.block_len());
            return Err(file.tensor(&name, "innermost dimension", expected, row));
        }
        let len = dtype.bytes_of(numel).unwrap_or(u64::MAX);
        if offset.checked_add(len).is_none_or(|end| end > blob.len()) {
            let expected = format!("{len} bytes from byte {offset} of its storage on");
            return Err(file.tensor(&name, "data", expected, blob.len().saturating_sub(offset)));
        }
        Ok(Self { name, shape, dtype, blob, offset, strides: None, numel, scales: None })
    }

    /// A tensor whose element `(i0, i1, …)` is element `offset + Σ i·stride` of `blob`, a torch
    /// storage of `storage_len` elements. `dtype` must be one of plain numbers.
    pub(crate) fn strided(
        name: String,
        shape: Vec<usize>,
        dtype: SourceDType,
        blob: Blob,
        offset: usize,
        strides: Vec<usize>,
    ) -> Result<Self, FormatError> {
        let size = dtype.block_bytes() as u64;
        let first = (offset as u64).checked_mul(size);
        if row_major(&shape).is_some_and(|expected| same_strides(&shape, &strides, &expected)) {
            let first = first.unwrap_or(u64::MAX);
            return Self::new(name, shape, dtype, blob, first);
        }
        let numel = checked_numel(&name, &shape, &blob)?;
        let file = blob.file();
        // Elements from the first to the last one touched.
        let span = shape.iter().zip(&strides).try_fold(1u64, |span, (&n, &stride)| {
            (n.saturating_sub(1) as u64).checked_mul(stride as u64)?.checked_add(span)
        });
        let len = if numel == 0 { Some(0) } else { span.and_then(|span| span.checked_mul(size)) };
        let end = len.zip(first).and_then(|(len, first)| first.checked_add(len));
        if strides.len() != shape.len() || end.is_none_or(|end| end > blob.len()) {
            let expected = format!("inside the {} bytes of its storage", blob.len());
            let found = format!("{shape:?} of {dtype} at element {offset}, strides {strides:?}");
            return Err(file.tensor(&name, "data", expected, found));
        }
        // Repeated numbers are work that the file's own length does not pay for.
        let most = (blob.len() / size).max(EXPANDED_MAX);
        if numel as u64 > most {
            return Err(file.tensor(&name, "elements", format_args!("at most {most}"), numel));
        }
        Ok(Self {
            name,
            shape,
            dtype,
            blob,
            offset: first.unwrap_or(0),
            strides: Some(strides),
            numel,
            scales: None,
        })
    }

    /// The tensor with its last two dimensions swapped; of a vector, itself.
    pub(crate) fn turned(mut self) -> Self {
        let n = self.shape.len();
        let strides = self.strides.clone().or_else(|| row_major(&self.shape));
        if let Some(mut strides) = strides.filter(|_| n >= 2 && self.dtype.block_len() == 1) {
            strides.swap(n - 2, n - 1);
            self.shape.swap(n - 2, n - 1);
            self.strides = Some(strides);
        }
        self
    }

    /// The same bytes as numbers of another format, in a shape that takes all of them.
    pub(super) fn read_as(
        &self,
        dtype: SourceDType,
        shape: Vec<usize>,
    ) -> Result<Self, FormatError> {
        let made = Self::new(self.name.clone(), shape, dtype, self.blob.clone(), self.offset)?;
        let len = |tensor: &Self| tensor.dtype.bytes_of(tensor.numel);
        if len(&made) != len(self) {
            let (expected, found) = (format!("the bytes of {:?}", self.shape), &made.shape);
            return Err(self.file().tensor(
                &self.name,
                "shape",
                expected,
                format_args!("{found:?}"),
            ));
        }
        Ok(made)
    }

    /// The tensor under another name.
    pub(super) fn named(self, name: String) -> Self {
        Self { name, ..self }
    }

    /// The tensor with its numbers as codes for others. It must be row-major.
    pub(super) fn scaled(self, scales: Arc<dyn Codes>) -> Self {
        Self { scales: Some(scales), ..self }
    }

    /// The file that holds it.
    pub(super) fn file(&self) -> &SourceFile {
        self.blob.file()
    }

    /// Whether its elements lie in their order, without gaps.
    pub(super) fn is_row_major(&self) -> bool {
        self.strides.is_none()
    }

    /// Whether its numbers are whole numbers, which no weight of a model is: not codes for others.
    pub fn holds_integers(&self) -> bool {
        self.dtype.is_integer() && self.scales.is_none()
    }

    /// Number of elements: the product of the shape.
    pub fn numel(&self) -> usize {
        self.numel
    }

    /// The tensor as a matrix `(rows, columns)`: the outermost dimension, and the product of the
    /// others.
    pub fn matrix_shape(&self) -> (usize, usize) {
        match self.shape.split_first() {
            None => (1, 1),
            Some((&rows, rest)) => (rows, rest.iter().product()),
        }
    }

    /// Whether it is row-major and has more than two dimensions: whether lines shorter than its
    /// rows can be read.
    pub(crate) fn is_in_order(&self) -> bool {
        self.strides.is_none() && self.shape.len() > 2
    }

    /// Appends the given rows of the tensor, seen as a [matrix](Self::matrix_shape), to `out`.
    pub(crate) fn read_rows(
        &self,
        rows: Range<usize>,
        out: &mut Vec<f32>,
    ) -> Result<(), FormatError> {
        self.read_lines(rows, self.matrix_shape().1, out)
    }

    /// Appends the given lines of `row_len` values to `out`: rows, or parts of rows of a tensor
    /// that [is in order](Self::is_in_order).
    pub(crate) fn read_lines(
        &self,
        rows: Range<usize>,
        row_len: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), FormatError> {
        let n_row = match self.matrix_shape() {
            (n_row, len) if len == row_len => n_row,
            _ => self.numel / row_len.max(1),
        };
        let file = self.blob.file();
        if self.holds_integers() {
            return Err(file.tensor(
                &self.name,
                "number format",
                "a floating-point one",
                self.dtype,
            ));
        }
        if rows.start > rows.end || rows.end > n_row {
            return Err(file.tensor(
                &self.name,
                "rows",
                format_args!("inside 0..{n_row}"),
                format_args!("{rows:?}"),
            ));
        }
        let n = rows.len() * row_len;
        if out.try_reserve_exact(n + 2 * self.dtype.block_len()).is_err() {
            return Err(file.tensor(
                &self.name,
                "rows",
                "few enough for the memory",
                format_args!("{n} numbers"),
            ));
        }
        let start = out.len();
        match &self.strides {
            None => self.read_run(rows.start * row_len..rows.end * row_len, out)?,
            Some(strides) => self.gather(strides, rows.clone(), out)?,
        }
        match &self.scales {
            None => Ok(()),
            Some(scales) => scales.apply(rows.start * row_len, &mut out[start..]),
        }
    }

    /// All elements of a short row-major tensor of I64.
    pub(crate) fn read_integers(&self) -> Result<Vec<i64>, FormatError> {
        let file = self.blob.file();
        if self.dtype != SourceDType::I64 || self.strides.is_some() {
            return Err(file.tensor(&self.name, "number format", "I64, row-major", self.dtype));
        }
        if self.numel > INTEGERS_MAX {
            let expected = format!("at most {INTEGERS_MAX}");
            return Err(file.tensor(&self.name, "elements", expected, self.numel));
        }
        let mut bytes = vec![0; self.numel * size_of::<i64>()];
        self.blob.read_at(self.offset, &mut bytes)?;
        Ok(bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect())
    }

    /// Appends the stored elements `range`, counted from the tensor's first, to `out`; codes as
    /// they are.
    pub(super) fn read_run(
        &self,
        range: Range<usize>,
        out: &mut Vec<f32>,
    ) -> Result<(), FormatError> {
        let (block_len, block_bytes) = (self.dtype.block_len(), self.dtype.block_bytes());
        let start = out.len();
        let mut block = range.start / block_len;
        let last = range.end.div_ceil(block_len);
        let mut bytes = vec![
            0;
            (last.saturating_sub(block) * block_bytes)
                .min(CHUNK / block_bytes * block_bytes)
        ];
        while block < last {
            let n = (last - block).min(bytes.len() / block_bytes);
            let bytes = &mut bytes[..n * block_bytes];
            self.blob.read_at(self.offset + block as u64 * block_bytes as u64, bytes)?;
            decode(self.dtype, bytes, out);
            block += n;
        }
        // A one-dimensional tensor of blocks may be asked for a part of a block.
        out.drain(start..start + range.start % block_len);
        out.truncate(start + range.len());
        Ok(())
    }

    /// Appends rows of a strided tensor to `out`. Dimensions are walked from the largest stride to
    /// the smallest, so that a transposed matrix is read in runs as long as `rows`.
    fn gather(
        &self,
        strides: &[usize],
        rows: Range<usize>,
        out: &mut Vec<f32>,
    ) -> Result<(), FormatError> {
        let Some(row_stride) = strides.first() else { return Ok(()) };
        let mut shape = self.shape.clone();
        shape[0] = rows.len();
        let n: usize = shape.iter().product();
        if n == 0 {
            return Ok(());
        }
        let start = out.len();
        out.resize(start + n, 0.0);
        let out = &mut out[start..];
        let into = row_major(&shape).unwrap_or_default();
        // (length, stride in the storage, stride in `out`)
        let mut dims: Vec<_> = (0..shape.len())
            .map(|d| (shape[d], strides[d], into[d]))
            .filter(|d| d.0 != 1)
            .collect();
        dims.sort_by_key(|&(_, stride, _)| std::cmp::Reverse(stride));
        let run = match dims.last() {
            Some(&(len, 1, step)) => {
                dims.pop();
                (len, step)
            }
            _ => (1, 1),
        };
        let mut index = vec![0; dims.len()];
        let mut scratch = Vec::new();
        // Few stored numbers, each taken several times or in leaps, are read at once.
        let span = dims.iter().map(|&(len, stride, _)| (len - 1) * stride).sum::<usize>() + run.0;
        let first = rows.start * row_stride;
        let mut all = Vec::new();
        if span <= n.max(CHUNK / size_of::<f32>()) {
            self.read_run(first..first + span, &mut all)?;
        }
        for _ in 0..n / run.0.max(1) {
            let dot = |stride: fn(&(usize, usize, usize)) -> usize| {
                index.iter().zip(&dims).map(|(i, dim)| i * stride(dim)).sum::<usize>()
            };
            let from = rows.start * row_stride + dot(|dim| dim.1);
            let to = dot(|dim| dim.2);
            let values = match all.get(from - first..from - first + run.0) {
                Some(values) => values,
                None => {
                    scratch.clear();
                    self.read_run(from..from + run.0, &mut scratch)?;
                    &scratch
                }
            };
            for (value, at) in values.iter().zip((to..).step_by(run.1)) {
                out[at] = *value;
            }
            for (i, dim) in index.iter_mut().zip(&dims).rev() {
                *i += 1;
                if *i < dim.0 {
                    break;
                }
                *i = 0;
            }
        }
        Ok(())
    }
}

/// The number of elements of a shape that may come from anywhere.
fn checked_numel(name: &str, shape: &[usize], blob: &Blob) -> Result<usize, FormatError> {
    if shape.len() > DIMS_MAX {
        let expected = format!("at most {DIMS_MAX}");
        return Err(blob.file().tensor(name, "number of dimensions", expected, shape.len()));
    }
    // Without its zeros: parts of the shape are multiplied as well.
    let fits = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim.max(1))).is_some();
    product(shape).filter(|_| fits).ok_or_else(|| {
        let found = format!("{shape:?}");
        let expected = format_args!("one whose product fits {} bits", usize::BITS);
        blob.file().tensor(name, "shape", expected, found)
    })
}

/// The product of a shape, `None` on overflow.
pub(crate) fn product(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim))
}

/// The strides of a row-major tensor, in elements; `None` on overflow.
fn row_major(shape: &[usize]) -> Option<Vec<usize>> {
    let mut strides = vec![1usize; shape.len()];
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d].checked_mul(shape[d].max(1))?;
    }
    Some(strides)
}

/// Whether two strides address the same elements: dimensions of length 1 may have any.
fn same_strides(shape: &[usize], a: &[usize], b: &[usize]) -> bool {
    a.len() == shape.len() && shape.iter().zip(a).zip(b).all(|((&n, a), b)| n <= 1 || a == b)
}
