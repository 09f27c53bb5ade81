//! Cells of a converter's table: formulas that say how a canonical tensor comes out of a
//! checkpoint's.
//!
//! | cell | meaning |
//! |---|---|
//! | `name` | the tensor as it is |
//! | `name^T` | its last two dimensions swapped |
//! | `name[2/6]` | the third of six equal parts of its first dimension; suffixes apply from left to right |
//! | `exp(cell)`, `-exp(cell)`, `exp(-exp(cell))` | each value mapped (in f64) |
//! | `rescaled(cell)` | each value times the factor that the caller gives |
//! | `cell \| cell` | the first one whose tensor is there |
//!
//! A cell resolves to a strided view of one tensor; nothing is read before rows are asked for.
//! Test: below.

use std::ops::Range;

use super::plan::shape_error;
use crate::FormatError;
use crate::checkpoint::{Checkpoint, SourceTensor};

/// What happens to each value.
type Map = fn(f64) -> f64;

/// A cell whose tensor was found.
#[derive(Clone, Debug)]
pub(super) struct Cell<'a> {
    checkpoint: &'a Checkpoint,
    pub(super) tensor: &'a SourceTensor,
    map: Map,
    factor: f64,
    /// Element of the tensor where the view begins.
    base: usize,
    /// The view's dimensions: length, and distance in elements.
    dims: Vec<(usize, usize)>,
}

/// Maps by the text around the inner cell, the longest first.
const MAPS: [(&str, &str, Map); 3] = [
    ("exp(-exp(", "))", |x| (-x.exp()).exp()),
    ("-exp(", ")", |x| -x.exp()),
    ("exp(", ")", f64::exp),
];

impl<'a> Cell<'a> {
    /// Finds the tensor of `cell`, whose names stand behind `prefix`; `factor` is what `rescaled`
    /// multiplies by.
    pub(super) fn find(
        checkpoint: &'a Checkpoint,
        cell: &str,
        prefix: &str,
        factor: f64,
    ) -> Result<Self, FormatError> {
        let mut missing = None;
        for choice in cell.split('|') {
            match Self::parse(checkpoint, choice.trim(), prefix, factor) {
                Err(FormatError::MissingTensor { path, tensor }) => {
                    missing = missing.or(Some(FormatError::MissingTensor { path, tensor }));
                }
                found => return found,
            }
        }
        Err(missing.unwrap_or_else(|| FormatError::MissingTensor {
            path: checkpoint.path().to_owned(),
            tensor: cell.to_owned(),
        }))
    }

    fn parse(
        checkpoint: &'a Checkpoint,
        cell: &str,
        prefix: &str,
        factor: f64,
    ) -> Result<Self, FormatError> {
        if let Some(inner) = between(cell, "rescaled(", ")") {
            return Ok(Cell { factor, ..Self::parse(checkpoint, inner, prefix, factor)? });
        }
        for (open, close, map) in MAPS {
            if let Some(inner) = between(cell, open, close) {
                return Ok(Cell { map, ..Self::parse(checkpoint, inner, prefix, factor)? });
            }
        }
        let (name, mut suffixes) = cell.split_at(cell.find(['^', '[']).unwrap_or(cell.len()));
        let name = format!("{prefix}{name}");
        let tensor = super::plan::find(checkpoint, &name)?;
        let mut stride = tensor.numel();
        let dims = tensor.shape.iter().map(|&len| {
            stride /= len.max(1);
            (len, stride)
        });
        let dims = dims.collect();
        let mut cell = Cell { checkpoint, tensor, map: |x| x, factor: 1.0, base: 0, dims };
        while !suffixes.is_empty() {
            let (suffix, rest) =
                suffixes.split_at(suffixes.find(['T', ']']).map_or(suffixes.len(), |i| i + 1));
            let fits = match between(suffix, "[", "]").and_then(|part| part.split_once('/')) {
                None => cell.transpose(),
                Some((part, of)) => cell.part(part.parse().unwrap_or(0), of.parse().unwrap_or(0)),
            };
            if !fits {
                return Err(shape_error(
                    checkpoint,
                    tensor,
                    format!("one that {suffix} applies to"),
                ));
            }
            suffixes = rest;
        }
        Ok(cell)
    }

    fn transpose(&mut self) -> bool {
        let n = self.dims.len();
        if n >= 2 {
            self.dims.swap(n - 2, n - 1);
        }
        n >= 2
    }

    fn part(&mut self, part: usize, of: usize) -> bool {
        match self.dims.first_mut() {
            Some((len, stride)) if of > 0 && len.is_multiple_of(of) => {
                *len /= of;
                self.base += part * *len * *stride;
                true
            }
            _ => false,
        }
    }

    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.dims.iter().map(|(len, _)| len).product()
    }

    /// Rows and columns, if the view is a matrix but for dimensions of one.
    pub(super) fn matrix_shape(&self) -> Option<(usize, usize)> {
        self.matrix_dims().map(|[rows, cols]| (rows.0, cols.0))
    }

    fn matrix_dims(&self) -> Option<[(usize, usize); 2]> {
        let mut dims = self.dims.clone();
        while dims.len() > 2 {
            let one = dims.iter().position(|(len, _)| *len == 1)?;
            dims.remove(one);
        }
        dims.try_into().ok()
    }

    /// Puts rows of the matrix into `out`. Rows that lie whole in the tensor's rows are read alone;
    /// of any other view (low-rank adapters) the tensor is read whole.
    pub(super) fn read_rows(
        &self,
        rows: Range<usize>,
        out: &mut Vec<f32>,
    ) -> Result<(), FormatError> {
        let Some([(_, row_stride), (cols, col_stride)]) = self.matrix_dims() else {
            return Err(shape_error(self.checkpoint, self.tensor, "a matrix".to_owned()));
        };
        let row_len = self.tensor.matrix_shape().1;
        if row_stride == cols
            && col_stride == 1
            && row_len == cols
            && self.base.is_multiple_of(cols.max(1))
        {
            let first = self.base / cols.max(1);
            self.checkpoint.read_rows(
                &self.tensor.name,
                first + rows.start..first + rows.end,
                out,
            )?;
        } else {
            let values = self.checkpoint.read(&self.tensor.name)?;
            out.clear();
            for row in rows {
                let start = self.base + row * row_stride;
                out.extend((0..cols).map(|col| values[start + col * col_stride]));
            }
        }
        self.apply(out);
        Ok(())
    }

    /// All values, the last dimension fastest.
    pub(super) fn read(&self) -> Result<Vec<f32>, FormatError> {
        let values = self.checkpoint.read(&self.tensor.name)?;
        let mut out = Vec::with_capacity(self.len());
        let mut index = vec![0; self.dims.len()];
        for _ in 0..self.len() {
            let offset: usize =
                index.iter().zip(&self.dims).map(|(i, (_, stride))| i * stride).sum();
            out.push(values[self.base + offset]);
            for (i, (len, _)) in index.iter_mut().zip(&self.dims).rev() {
                *i += 1;
                if *i < *len {
                    break;
                }
                *i = 0;
            }
        }
        self.apply(&mut out);
        Ok(out)
    }

    fn apply(&self, values: &mut [f32]) {
        for value in values {
            *value = ((self.map)(f64::from(*value)) * self.factor) as f32;
        }
    }
}

/// What stands between `open` and `close`, if `text` begins and ends with them.
fn between<'t>(text: &'t str, open: &str, close: &str) -> Option<&'t str> {
    text.strip_prefix(open)?.strip_suffix(close)
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
    use std::path::Path;

    /// A checkpoint of f32 tensors with the values 0, 1, 2, …
    fn counting(folder: &Path, tensors: &[(&str, &[usize])]) -> Checkpoint {
        let path = folder.join("model.safetensors");
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, shape)| {
                (0..shape.iter().product()).flat_map(|i: usize| (i as f32).to_le_bytes()).collect()
            })
            .collect();
        let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
            (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
        });
        serialize_to_file(views, None, &path).unwrap();
        Checkpoint::open(&path).unwrap()
    }

    #[test]
    fn views_of_every_kind() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint =
            counting(folder.path(), &[("b.m", &[2, 3]), ("b.s", &[2, 1, 3]), ("b.t", &[2, 2, 3])]);
        let cell = |text| Cell::find(&checkpoint, text, "b.", 4.0).unwrap();
        for (text, shape, expected) in [
            ("m", (2, 3), vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
            ("m^T", (3, 2), vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
            ("m[1/2]", (1, 3), vec![3.0, 4.0, 5.0]),
            ("m^T[2/3]", (1, 2), vec![2.0, 5.0]),
            ("m[1/2]^T", (3, 1), vec![3.0, 4.0, 5.0]),
            ("s", (2, 3), vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
            ("t[1/2]", (2, 3), vec![6.0, 7.0, 8.0, 9.0, 10.0, 11.0]),
            ("t[1/2]^T", (3, 2), vec![6.0, 9.0, 7.0, 10.0, 8.0, 11.0]),
            ("x | rescaled(m)", (2, 3), vec![0.0, 4.0, 8.0, 12.0, 16.0, 20.0]),
        ] {
            let cell = cell(text);
            assert_eq!(cell.matrix_shape(), Some(shape), "{text}");
            assert_eq!(cell.read().unwrap(), expected, "{text}");
            let mut rows = vec![9.0];
            cell.read_rows(shape.0 - 1..shape.0, &mut rows).unwrap();
            assert_eq!(rows, expected[expected.len() - shape.1..], "{text}");
        }
        assert_eq!(cell("exp(m)").read().unwrap()[1], 1f32.exp());
        assert_eq!(cell("-exp(m)").read().unwrap()[2], -(2f32.exp()));
        assert_eq!(cell("exp(-exp(m))").read().unwrap()[1], (-1f64.exp()).exp() as f32);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = counting(folder.path(), &[("m", &[5, 3]), ("v", &[4]), ("t", &[2, 2, 3])]);
        let error = |text| Cell::find(&checkpoint, text, "", 1.0).unwrap_err().to_string();
        assert!(error("m[0/2]").contains("\"m\""));
        assert!(error("v^T").contains("\"v\""));
        assert!(error("a | exp(b)").contains("\"a\""));
        assert_eq!(Cell::find(&checkpoint, "t", "", 1.0).unwrap().matrix_shape(), None);
        assert_eq!(Cell::find(&checkpoint, "v", "", 1.0).unwrap().matrix_shape(), None);
    }
}
