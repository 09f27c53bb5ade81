//! Weights as typed views into the mapped file: matrices in tiles and small f32 tensors. No
//! arithmetic of its own.

use brooklet_formats::brk::{BrkFile, Bytes, Layout, Tensor};
use brooklet_formats::quant::{self, TileLayout};

use crate::buffers::{Acts, Room};
use crate::kernels::forms::Forms;
use crate::kernels::{Isa, matmul};
use crate::team::Part;
use crate::{EngineError, Result};

/// A weight matrix `W: rows × cols` in tiles.
pub(crate) struct Mat {
    layout: TileLayout,
    bytes: Bytes,
}

impl Mat {
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
        matmul::forms(self.layout.dtype)
    }

    /// `y[c] = W x[c]` for the rows and columns of `y`.
    pub(crate) fn matmul(&self, isa: Isa, x: &Acts, y: &mut Part<'_, f32>) {
        matmul::matmul(isa, &self.layout, &self.bytes, x, y);
    }

    /// Row `row`, decoded (embedding lookup).
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        quant::decode_row(&self.layout, &self.bytes, row, out);
    }
}

/// Room for one projection input of the matrices that will read it.
pub(crate) fn acts_for<'a>(room: &Room, readers: impl IntoIterator<Item = &'a Mat>) -> Acts {
    let mut k = 0;
    let mut forms = Forms::default();
    for mat in readers {
        k = mat.cols();
        forms = forms | mat.forms();
    }
    Acts::new(k, room, forms)
}

/// A small f32 tensor.
pub(crate) struct Vector(Bytes);

impl std::ops::Deref for Vector {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Takes a model's tensors out of its file by name, checking shapes.
pub(crate) struct Loader<'a> {
    file: &'a BrkFile,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(file: &'a BrkFile) -> Self {
        Loader { file }
    }

    // Here and below: called for every weight of every architecture; a copy at each call is a good
    // part of the library.
    #[inline(never)]
    fn tensor(&self, name: &str, shape: &[usize], layout: Layout) -> Result<Tensor> {
        let tensor = self.file.tensor(name).ok_or_else(|| EngineError::MissingTensor {
            file: self.file.path().to_owned(),
            tensor: name.to_owned(),
        })?;
        if tensor.info.shape != shape || tensor.info.layout != layout {
            return Err(EngineError::Shape {
                file: self.file.path().to_owned(),
                tensor: name.to_owned(),
                expected: format!("{layout:?} {shape:?}"),
                found: format!("{:?} {:?}", tensor.info.layout, tensor.info.shape),
            });
        }
        Ok(tensor)
    }

    /// The matrix `name` of shape (rows, cols).
    #[inline(never)]
    pub(crate) fn mat(&self, name: &str, rows: usize, cols: usize) -> Result<Mat> {
        let tensor = self.tensor(name, &[rows, cols], Layout::Tiles)?;
        let layout = TileLayout::new(tensor.info.dtype, rows, cols, tensor.info.group)?;
        Ok(Mat { layout, bytes: tensor.bytes })
    }

    /// The f32 tensor `name` of that shape, flat.
    #[inline(never)]
    pub(crate) fn vector(&self, name: &str, shape: &[usize]) -> Result<Vector> {
        Ok(Vector(self.tensor(name, shape, Layout::Plain)?.bytes))
    }

    /// The f32 tensor `name`, if the file has it.
    #[inline(never)]
    pub(crate) fn optional_vector(&self, name: &str, shape: &[usize]) -> Result<Option<Vector>> {
        self.file.tensor(name).map(|_| self.vector(name, shape)).transpose()
    }

    /// The matrix `name`, if the file has it.
    #[inline(never)]
    pub(crate) fn optional_mat(&self, name: &str, rows: usize, cols: usize) -> Result<Option<Mat>> {
        self.file.tensor(name).map(|_| self.mat(name, rows, cols)).transpose()
    }
}
