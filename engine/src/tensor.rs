//! Weights as typed views into the mapped file: matrices in tiles and small f32 tensors. No
//! arithmetic of its own.

mod watch;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use brooklet_formats::brk::{BrkFile, Bytes, Layout};
use brooklet_formats::quant::{self, COLUMN_ROWS, EncodeError, TILE_ROWS, TileLayout};
use brooklet_formats::zeroed::Zeroed;
use brooklet_formats::{DType, FormatError};

use crate::buffers::{ActivationBuffer, Workspace};
use crate::kernels::Isa;
use crate::kernels::forms::{Forms, GROUP};
use crate::kernels::matmul::{self, Columns, Tiles};
use crate::team::Share;
use crate::{EngineError, Result};
use watch::Watch;
pub use watch::{Inputs, Observer};

/// A weight matrix `W: rows × cols` in tiles, or in columns.
pub(crate) struct Matrix {
    layout: TileLayout,
    bytes: Bytes,
    /// Who is told of its inputs; nobody, but in a [`crate::layerwise::Layerwise`].
    watch: Option<Box<Watch>>,
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.layout.fmt(f)
    }
}

impl Matrix {
    /// Rows (outputs).
    pub(crate) fn rows(&self) -> usize {
        self.layout.rows
    }

    /// Columns (inputs).
    pub(crate) fn cols(&self) -> usize {
        self.layout.cols
    }

    /// Bytes that a product reads.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Rows that a piece should take all of or none: those whose codes share cache lines.
    pub(crate) fn rows_together(&self) -> usize {
        if self.layout.by_columns { COLUMN_ROWS } else { GROUP }
    }

    /// Bytes of `rows` rows (a multiple of 16).
    pub(crate) fn bytes_per_rows(&self, rows: usize) -> usize {
        self.layout.tile_bytes() * (rows / quant::TILE_ROWS)
    }

    /// Its geometry.
    pub(crate) fn layout(&self) -> &TileLayout {
        &self.layout
    }

    /// Its bytes, as the file has them.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The values of its codes, where they stand in a table.
    #[cfg(feature = "cuda")]
    pub(crate) fn table(&self) -> &[u8] {
        quant::table(&self.layout, &self.bytes)
    }

    /// The form of its input.
    pub(crate) fn forms(&self) -> Forms {
        matmul::form(self.layout.dtype).into()
    }

    /// `y[c] = W x[c]` for the rows and columns of `y`, which lie on tiles.
    ///
    /// # Panics
    /// Lengths or forms do not fit: a bug in the model.
    pub(crate) fn matmul(&self, isa: Isa, x: &ActivationBuffer, y: &mut Share<'_, f32>) {
        self.matmul_at(isa, 0, (x, 0), y);
    }

    /// `y[c] = W x[first + c]`, row r of y being row `above + r` of W (a multiple of 16).
    ///
    /// # Panics
    /// As [`Matrix::matmul`].
    fn matmul_at(
        &self,
        isa: Isa,
        above: usize,
        (x, first): (&ActivationBuffer, usize),
        y: &mut Share<'_, f32>,
    ) {
        let tile = (above + y.rows().start) / quant::TILE_ROWS;
        let y = y.tiles();
        if y.tiles() == 0 || y.columns() == 0 {
            return;
        }
        assert_eq!(x.k(), self.layout.cols);
        let x = x.view_from(matmul::form(self.layout.dtype), first);
        // Of the pieces that share a product, the one with its first rows.
        if let Some(watch) = self.watch.as_ref().filter(|_| tile * quant::TILE_ROWS == above) {
            watch.tell(above, x, (self.layout.cols, y.columns()));
        }
        if self.layout.by_columns {
            return matmul::by_columns(isa, Columns::new(&self.layout, &self.bytes, tile), x, y);
        }
        let tiles = Tiles::new(&self.layout, &self.bytes).part(tile, y.tiles());
        matmul::matmul(isa, tiles, x, y);
    }

    /// Row `row`, decoded (embedding lookup).
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        quant::decode_row(&self.layout, &self.bytes, row, out);
    }
}

/// The matrices of all experts, below each other in one: each with rows of zeros up to whole tiles.
pub(crate) struct ExpertMatrices {
    all: Matrix,
    rows: usize,
}

impl ExpertMatrices {
    /// The matrices (rows, cols) in `all`.
    pub(crate) fn new(all: Matrix, rows: usize) -> ExpertMatrices {
        ExpertMatrices { all, rows }
    }

    /// Rows of the matrix that holds those of `n` experts.
    pub(crate) fn rows_of_all(n: usize, rows: usize) -> usize {
        n.saturating_mul(rows.next_multiple_of(quant::TILE_ROWS))
    }

    /// Rows of one.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// All of them.
    pub(crate) fn all(&self) -> &Matrix {
        &self.all
    }

    /// `y[c] = W x[first + c]` with the matrix of `expert`.
    ///
    /// # Panics
    /// As [`Matrix::matmul`].
    pub(crate) fn matmul(
        &self,
        isa: Isa,
        expert: usize,
        x: (&ActivationBuffer, usize),
        y: &mut Share<'_, f32>,
    ) {
        self.all.matmul_at(isa, expert * self.rows.next_multiple_of(quant::TILE_ROWS), x, y);
    }
}

/// A buffer for the input of the matrices that will read it.
pub(crate) fn acts_for<'a>(
    workspace: &Workspace,
    readers: impl IntoIterator<Item = &'a Matrix>,
) -> ActivationBuffer {
    let mut k = 0;
    let mut forms = Forms::default();
    for mat in readers {
        k = mat.cols();
        forms = forms | mat.forms();
    }
    ActivationBuffer::new(k, workspace, forms)
}

/// A small f32 tensor.
pub(crate) struct Vector(Bytes);

impl std::ops::Deref for Vector {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Where a tensor stands, and of a matrix how.
struct Source {
    layout: Option<TileLayout>,
    bytes: Bytes,
}

/// A tensor that a model asks its file for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorSpec {
    /// Its name in the file.
    pub name: String,
    /// Its shape, outermost first.
    pub shape: Vec<usize>,
    /// Whether it is a matrix, in any number format; otherwise it is plain f32.
    pub is_matrix: bool,
    /// Whether a file may lack it.
    pub is_optional: bool,
    /// Rows of one matrix, where several stand below each other in it (experts), each with rows of
    /// zeros up to a multiple of 16; otherwise all rows.
    pub part_rows: usize,
    /// Whether rows of the matrix are looked up, and nothing is multiplied with it.
    pub is_table: bool,
}

/// A matrix that is not a file's.
#[derive(Clone, Debug)]
pub struct Weights {
    layout: TileLayout,
    bytes: Bytes,
}

impl Weights {
    /// The matrix of this layout whose bytes are these.
    ///
    /// # Panics
    /// They are not as many as the layout says.
    pub fn new(layout: TileLayout, bytes: Zeroed<u8>) -> Weights {
        assert_eq!(bytes.len(), layout.total_bytes());
        Weights { layout, bytes: bytes.into() }
    }

    /// The values of a matrix in any format, as f32.
    fn exact(file: &Path, tensor: &str, layout: &TileLayout, bytes: &[u8]) -> Result<Weights> {
        let failed = |source: EncodeError, row: usize| FormatError::Weight {
            path: file.to_owned(),
            tensor: tensor.to_owned(),
            source: EncodeError { row: row + source.row, ..source },
        };
        let exact = TileLayout::new(DType::F32, layout.rows, layout.cols, 0)?;
        let memory = Zeroed::try_new(exact.total_bytes());
        let mut memory = memory.map_err(FormatError::io("take memory for", file))?;
        let mut theirs = vec![0.0; layout.tile_floats()];
        let mut ours = vec![0.0; exact.tile_floats()];
        for (tile, out) in memory.chunks_exact_mut(exact.encoded_bytes()).enumerate() {
            quant::decode_tile(layout, bytes, tile, &mut theirs);
            let rows = theirs.chunks_exact(layout.padded_cols());
            for (ours, theirs) in ours.chunks_exact_mut(exact.padded_cols()).zip(rows) {
                ours[..layout.cols].copy_from_slice(&theirs[..layout.cols]);
            }
            quant::encode_tile(&exact, &ours, out)
                .map_err(|source| failed(source, tile * TILE_ROWS))?;
        }
        Ok(Weights { layout: exact, bytes: memory.into() })
    }
}

/// A file with other matrices in the place of some, and who is told of products.
pub(crate) struct Altered<'a> {
    pub(crate) file: &'a BrkFile,
    pub(crate) instead: &'a HashMap<String, Weights>,
    /// Where there is one, all matrices that are not replaced become f32, so that the inputs are
    /// not rounded before it sees them.
    pub(crate) observer: Option<Arc<dyn Observer>>,
}

/// "This tensor has another shape."
#[cold]
fn misshapen(
    file: &Path,
    tensor: &str,
    (is_matrix, shape): (bool, &[usize]),
    found: String,
) -> EngineError {
    let layout = if is_matrix { Layout::Tiles } else { Layout::Plain };
    let (file, tensor) = (file.to_owned(), tensor.to_owned());
    EngineError::Shape { file, tensor, expected: format!("{layout:?} {shape:?}"), found }
}

/// Takes a model's tensors out of its file by name, checking shapes.
pub(crate) enum Loader<'a> {
    /// Out of this file.
    File(&'a BrkFile),
    /// Out of nowhere: every tensor is there, without a byte, and what was asked for is written
    /// down.
    Record(&'a RefCell<Vec<TensorSpec>>),
    /// Out of a file, but for what is replaced.
    Altered(&'a Altered<'a>),
}

impl Loader<'_> {
    // Here and below: called for every weight of every architecture; a copy at each call is a good
    // part of the library.
    #[inline(never)]
    fn tensor(&self, name: &str, shape: &[usize], is_matrix: bool) -> Result<Source> {
        let file = match self {
            Loader::File(file) => file,
            Loader::Record(asked) => {
                let name = name.to_owned();
                let layout = match shape {
                    &[rows, cols] if is_matrix => Some(TileLayout::new(DType::F32, rows, cols, 0)?),
                    _ => None,
                };
                let (shape, part_rows) = (shape.to_vec(), shape[0]);
                let is_optional = false;
                let is_table = false;
                let asked_for =
                    TensorSpec { name, shape, is_matrix, is_optional, part_rows, is_table };
                asked.borrow_mut().push(asked_for);
                return Ok(Source { layout, bytes: Bytes::default() });
            }
            Loader::Altered(altered) => {
                if let Some(Weights { layout: found, bytes }) = altered.instead.get(name) {
                    let file = altered.file.path();
                    if !is_matrix || [found.rows, found.cols] != *shape {
                        let found = format!("{:?} {:?}", Layout::Tiles, [found.rows, found.cols]);
                        return Err(misshapen(file, name, (is_matrix, shape), found));
                    }
                    return Ok(Source { layout: Some(*found), bytes: bytes.clone() });
                }
                altered.file
            }
        };
        let tensor = file.tensor(name).ok_or_else(|| EngineError::MissingTensor {
            file: file.path().to_owned(),
            tensor: name.to_owned(),
        })?;
        if tensor.info.shape != shape || tensor.info.is_matrix() != is_matrix {
            let found = format!("{:?} {:?}", tensor.info.layout, tensor.info.shape);
            return Err(misshapen(file.path(), name, (is_matrix, shape), found));
        }
        let layout = tensor.info.tile_layout();
        if let (Loader::Altered(Altered { observer: Some(_), .. }), Some(layout)) =
            (self, layout.filter(|layout| layout.dtype != DType::F32))
        {
            let exact = Weights::exact(file.path(), name, &layout, &tensor.bytes)?;
            return Ok(Source { layout: Some(exact.layout), bytes: exact.bytes });
        }
        Ok(Source { layout, bytes: tensor.bytes })
    }

    /// Whether there is a tensor `name`, which a file may lack.
    fn has(&self, name: &str) -> bool {
        match self {
            Loader::File(file) => file.tensor(name).is_some(),
            Loader::Record(_) => true,
            Loader::Altered(altered) => altered.file.tensor(name).is_some(),
        }
    }

    /// Notes that several matrices of `rows` rows stand in what was asked for last.
    pub(crate) fn parts(&self, rows: usize) {
        if let Loader::Record(asked) = self {
            asked.borrow_mut().iter_mut().next_back().into_iter().for_each(|last| {
                last.part_rows = rows;
            });
        }
    }

    /// Notes that a file may lack what was asked for last.
    fn optional(&self) {
        if let Loader::Record(asked) = self {
            asked.borrow_mut().iter_mut().next_back().into_iter().for_each(|last| {
                last.is_optional = true;
            });
        }
    }

    /// The matrix `name` of shape (rows, cols).
    #[inline(never)]
    pub(crate) fn mat(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        let Source { layout, bytes } = self.tensor(name, &[rows, cols], true)?;
        let layout = layout.expect("a matrix has a layout");
        let watch = match self {
            Loader::Altered(Altered { observer: Some(observer), .. }) => {
                Some(Box::new(Watch { name: name.to_owned(), observer: Arc::clone(observer) }))
            }
            _ => None,
        };
        Ok(Matrix { layout, bytes, watch })
    }

    /// The matrix `name` of shape (rows, cols), rows of which are looked up.
    pub(crate) fn table(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        // Nobody observes it, and it may be far larger than all that is multiplied.
        if let Loader::Altered(Altered { file, instead, observer: Some(_) }) = self {
            let observer = None;
            return Loader::Altered(&Altered { file, instead, observer }).mat(name, rows, cols);
        }
        let table = self.mat(name, rows, cols)?;
        if let Loader::Record(asked) = self {
            asked.borrow_mut().iter_mut().next_back().into_iter().for_each(|last| {
                last.is_table = true;
            });
        }
        Ok(table)
    }

    /// The f32 tensor `name` of that shape, flat.
    #[inline(never)]
    pub(crate) fn vector(&self, name: &str, shape: &[usize]) -> Result<Vector> {
        Ok(Vector(self.tensor(name, shape, false)?.bytes))
    }

    /// The f32 tensor `name`, if the file has it.
    #[inline(never)]
    pub(crate) fn optional_vector(&self, name: &str, shape: &[usize]) -> Result<Option<Vector>> {
        let vector = self.has(name).then(|| self.vector(name, shape)).transpose();
        self.optional();
        vector
    }

    /// The matrix `name`, if the file has it.
    #[inline(never)]
    pub(crate) fn optional_mat(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Option<Matrix>> {
        let mat = self.has(name).then(|| self.mat(name, rows, cols)).transpose();
        self.optional();
        mat
    }
}
