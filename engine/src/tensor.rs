//! Weights as typed views into the mapped file: matrices in tiles and small f32 tensors. No
//! arithmetic of its own.

use std::cell::RefCell;

use brooklet_formats::DType;
use brooklet_formats::brk::{BrkFile, Bytes, Layout};
use brooklet_formats::quant::{self, TileLayout};

use crate::buffers::{ActivationBuffer, Workspace};
use crate::kernels::Isa;
use crate::kernels::forms::Forms;
use crate::kernels::matmul::{self, Tiles};
use crate::team::Share;
use crate::{EngineError, Result};

/// A weight matrix `W: rows × cols` in tiles.
pub(crate) struct Matrix {
    layout: TileLayout,
    bytes: Bytes,
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

    /// Bytes of `rows` rows (a multiple of 16).
    pub(crate) fn bytes_per_rows(&self, rows: usize) -> usize {
        self.layout.tile_bytes() * (rows / quant::TILE_ROWS)
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
        let tiles = Tiles::new(&self.layout, &self.bytes).part(tile, y.tiles());
        matmul::matmul(isa, tiles, x.view_from(matmul::form(self.layout.dtype), first), y);
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

/// Where a tensor stands.
struct Source {
    dtype: DType,
    group: usize,
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
}

/// Takes a model's tensors out of its file by name, checking shapes.
pub(crate) enum Loader<'a> {
    /// Out of this file.
    File(&'a BrkFile),
    /// Out of nowhere: every tensor is there, without a byte, and what was asked for is written
    /// down.
    Record(&'a RefCell<Vec<TensorSpec>>),
}

impl Loader<'_> {
    // Here and below: called for every weight of every architecture; a copy at each call is a good
    // part of the library.
    #[inline(never)]
    fn tensor(&self, name: &str, shape: &[usize], layout: Layout) -> Result<Source> {
        let file = match self {
            Loader::File(file) => file,
            Loader::Record(asked) => {
                let (name, is_matrix) = (name.to_owned(), layout == Layout::Tiles);
                let shape = shape.to_vec();
                asked.borrow_mut().push(TensorSpec { name, shape, is_matrix, is_optional: false });
                return Ok(Source { dtype: DType::F32, group: 0, bytes: Bytes::default() });
            }
        };
        let tensor = file.tensor(name).ok_or_else(|| EngineError::MissingTensor {
            file: file.path().to_owned(),
            tensor: name.to_owned(),
        })?;
        if tensor.info.shape != shape || tensor.info.layout != layout {
            return Err(EngineError::Shape {
                file: file.path().to_owned(),
                tensor: name.to_owned(),
                expected: format!("{layout:?} {shape:?}"),
                found: format!("{:?} {:?}", tensor.info.layout, tensor.info.shape),
            });
        }
        let (dtype, group) = (tensor.info.dtype, tensor.info.group);
        Ok(Source { dtype, group, bytes: tensor.bytes })
    }

    /// Whether there is a tensor `name`, which a file may lack.
    fn has(&self, name: &str) -> bool {
        match self {
            Loader::File(file) => file.tensor(name).is_some(),
            Loader::Record(_) => true,
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
        let tensor = self.tensor(name, &[rows, cols], Layout::Tiles)?;
        let layout = TileLayout::new(tensor.dtype, rows, cols, tensor.group)?;
        Ok(Matrix { layout, bytes: tensor.bytes })
    }

    /// The f32 tensor `name` of that shape, flat.
    #[inline(never)]
    pub(crate) fn vector(&self, name: &str, shape: &[usize]) -> Result<Vector> {
        Ok(Vector(self.tensor(name, shape, Layout::Plain)?.bytes))
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
