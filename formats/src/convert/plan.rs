//! A conversion's plan: every tensor of the file to be, and the source tensors its values come
//! from.
//!
//! The methods of [`Plan`] are the vocabulary in which families are written: a matrix as it is, a
//! range of its rows; a vector, squeezed; values computed from others.

use std::fs::File;
use std::io::Read;
use std::iter;
use std::ops::Range;
use std::path::PathBuf;

use serde_json::{Map, Value};
use xxhash_rust::xxh3::Xxh3;

use crate::FormatError;
use crate::checkpoint::{Checkpoint, SourceTensor};

/// What a matrix is for, which bounds its number format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A projection, the head, or an embedding that is also the head: the format asked for.
    Big,
    /// A low-rank adapter: at least 8 bits.
    Adapter,
    /// An embedding that is only looked up: at least 8 bits.
    Embedding,
}

type ReadRows<'a> = Box<dyn Fn(Range<usize>, &mut Vec<f32>) -> Result<(), FormatError> + 'a>;
type ReadValues<'a> = Box<dyn Fn() -> Result<Vec<f32>, FormatError> + 'a>;

/// Where a planned tensor's values come from.
pub(super) enum Content<'a> {
    /// A matrix in tiles; `read(rows, out)` appends those rows.
    Matrix { rows: usize, cols: usize, role: Role, read: ReadRows<'a> },
    /// An f32 tensor.
    Plain { shape: Vec<usize>, read: ReadValues<'a> },
}

/// A tensor of the file to be.
pub(super) struct Planned<'a> {
    pub(super) name: String,
    pub(super) content: Content<'a>,
}

/// What to write.
pub(super) struct Plan<'a> {
    pub(super) architecture: &'static str,
    pub(super) config: Map<String, Value>,
    pub(super) tensors: Vec<Planned<'a>>,
    checkpoint: &'a Checkpoint,
}

impl<'a> Plan<'a> {
    pub(super) fn new(architecture: &'static str, checkpoint: &'a Checkpoint) -> Self {
        Plan { architecture, config: Map::new(), tensors: Vec::new(), checkpoint }
    }

    /// Sets a hyper-parameter.
    pub(super) fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.config.insert(name.to_owned(), value.into());
    }

    /// Rows of the embedding.
    pub(super) fn n_vocab(&self) -> usize {
        self.config.get("n_vocab").and_then(Value::as_u64).unwrap_or(0) as usize
    }

    /// Weights in all tensors.
    pub(super) fn n_weights(&self) -> u64 {
        let weights = |tensor: &Planned<'_>| match &tensor.content {
            Content::Matrix { rows, cols, .. } => (rows * cols) as u64,
            Content::Plain { shape, .. } => shape.iter().product::<usize>() as u64,
        };
        self.tensors.iter().map(weights).sum()
    }

    /// The source tensor `name`.
    pub(super) fn source(&self, name: &str) -> Result<&'a SourceTensor, FormatError> {
        find(self.checkpoint, name)
    }

    /// The matrix `source` as it is, rows and columns from its shape.
    pub(super) fn matrix(
        &mut self,
        name: &str,
        role: Role,
        source: &str,
    ) -> Result<(), FormatError> {
        let rows = self.source(source)?.matrix_shape().0;
        self.matrix_rows(name, role, source, 0..rows)
    }

    /// The rows `range` of the matrix `source`.
    pub(super) fn matrix_rows(
        &mut self,
        name: &str,
        role: Role,
        source: &str,
        range: Range<usize>,
    ) -> Result<(), FormatError> {
        let checkpoint = self.checkpoint;
        let tensor = self.source(source)?;
        let (rows, cols) = tensor.matrix_shape();
        if range.start > range.end || range.end > rows {
            return Err(shape_error(checkpoint, tensor, format!("at least {} rows", range.end)));
        }
        let source = source.to_owned();
        let start = range.start;
        let read: ReadRows<'a> = Box::new(move |rows, out| {
            checkpoint.read_rows(&source, rows.start + start..rows.end + start, out)
        });
        self.push_matrix(name, range.len(), cols, role, read);
        Ok(())
    }

    /// A matrix whose rows `read` gives.
    pub(super) fn push_matrix(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
        role: Role,
        read: ReadRows<'a>,
    ) {
        self.tensors.push(Planned {
            name: name.to_owned(),
            content: Content::Matrix { rows, cols, role, read },
        });
    }

    /// The tensor `source` as a vector of `n` values, whatever its shape.
    pub(super) fn vector(&mut self, name: &str, source: &str, n: usize) -> Result<(), FormatError> {
        self.mapped(name, source, &[n], |v| v)
    }

    /// The tensor `source` with that shape and `f` applied to each value.
    pub(super) fn mapped(
        &mut self,
        name: &str,
        source: &str,
        shape: &[usize],
        f: impl Fn(f32) -> f32 + 'a,
    ) -> Result<(), FormatError> {
        let checkpoint = self.checkpoint;
        let tensor = self.source(source)?;
        if tensor.numel() != shape.iter().product::<usize>() {
            return Err(shape_error(checkpoint, tensor, format!("{shape:?}")));
        }
        let source = source.to_owned();
        self.computed(name, shape, move || {
            Ok(checkpoint.read(&source)?.into_iter().map(&f).collect())
        });
        Ok(())
    }

    /// An f32 tensor that `read` computes.
    pub(super) fn computed(
        &mut self,
        name: &str,
        shape: &[usize],
        read: impl Fn() -> Result<Vec<f32>, FormatError> + 'a,
    ) {
        let content = Content::Plain { shape: shape.to_vec(), read: Box::new(read) };
        self.tensors.push(Planned { name: name.to_owned(), content });
    }

    /// The embedding `source`, each row layer-normed with the vectors `weight` and `bias` (none:
    /// zeros): RWKV's ln0, which acts on nothing else, folded into the table.
    pub(super) fn normed_embedding(
        &mut self,
        name: &str,
        source: &str,
        weight: &str,
        bias: Option<&str>,
        eps: f64,
    ) -> Result<(), FormatError> {
        let checkpoint = self.checkpoint;
        let (rows, cols) = self.source(source)?.matrix_shape();
        for vector in iter::once(weight).chain(bias) {
            let tensor = self.source(vector)?;
            if tensor.numel() != cols {
                return Err(shape_error(checkpoint, tensor, format!("[{cols}]")));
            }
        }
        let weight = checkpoint.read(weight)?;
        let bias = bias.map_or_else(|| Ok(vec![0.0; cols]), |bias| checkpoint.read(bias))?;
        let source = source.to_owned();
        let read: ReadRows<'a> = Box::new(move |range, out| {
            checkpoint.read_rows(&source, range, out)?;
            for row in out.chunks_exact_mut(cols) {
                let n = row.len() as f64;
                let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
                let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
                let inverse = 1.0 / (variance + eps).sqrt();
                for ((v, w), b) in row.iter_mut().zip(&weight).zip(&bias) {
                    *v = ((f64::from(*v) - mean) * inverse * f64::from(*w) + f64::from(*b)) as f32;
                }
            }
            Ok(())
        });
        self.push_matrix(name, rows, cols, Role::Embedding, read);
        Ok(())
    }
}

/// The source tensor `name`, or an error that names the file.
pub(super) fn find<'a>(
    checkpoint: &'a Checkpoint,
    name: &str,
) -> Result<&'a SourceTensor, FormatError> {
    checkpoint.get(name).ok_or_else(|| FormatError::MissingTensor {
        path: checkpoint.path().to_owned(),
        tensor: name.to_owned(),
    })
}

/// "This tensor has not the shape that the others ask for."
pub(super) fn shape_error(
    checkpoint: &Checkpoint,
    tensor: &SourceTensor,
    expected: String,
) -> FormatError {
    FormatError::Tensor {
        path: checkpoint.path().to_owned(),
        tensor: tensor.name.clone(),
        what: "the shape",
        expected,
        found: format!("{:?}", tensor.shape),
    }
}

/// An error unless every value is finite.
pub(super) fn check_finite(
    checkpoint: &Checkpoint,
    name: &str,
    values: &[f32],
) -> Result<(), FormatError> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(i) => Err(FormatError::Tensor {
            path: checkpoint.path().to_owned(),
            tensor: name.to_owned(),
            what: "the values",
            expected: "finite numbers".to_owned(),
            found: format!("{} at element {i}", values[i]),
        }),
    }
}

/// "None of the families knows these names", with a few of them.
pub(super) fn unknown_architecture(checkpoint: &Checkpoint) -> FormatError {
    let some: Vec<String> = checkpoint
        .tensors()
        .iter()
        .take(4)
        .map(|tensor| format!("{} {:?}", tensor.name, tensor.shape))
        .collect();
    FormatError::UnknownArchitecture {
        path: checkpoint.path().to_owned(),
        kind: checkpoint.kind().name(),
        n_tensors: checkpoint.tensors().len(),
        some: some.join(", "),
    }
}

/// Bytes of all files.
pub(super) fn files_len(files: &[PathBuf]) -> Result<u64, FormatError> {
    let len = |file: &PathBuf| {
        std::fs::metadata(file).map(|m| m.len()).map_err(FormatError::io("read", file))
    };
    files.iter().map(len).sum()
}

/// Hash of all files' bytes, in their order; `each` is called about once a megabyte, and its
/// failure ends it.
pub(super) fn hash_files(
    files: &[PathBuf],
    mut each: impl FnMut() -> Result<(), FormatError>,
) -> Result<String, FormatError> {
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    for path in files {
        let mut file = File::open(path).map_err(FormatError::io("open", path))?;
        loop {
            each()?;
            match file.read(&mut buffer).map_err(FormatError::io("read", path))? {
                0 => break,
                n => hash.update(&buffer[..n]),
            }
        }
    }
    Ok(format!("xxh3-64:{:016x}", hash.digest()))
}
