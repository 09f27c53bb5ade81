//! Weights as typed views into the mapped file: matrices in tiles and small f32 tensors. No arithmetic of its own.

use brooklet_formats::brk::{BrkFile, Bytes, Layout, Tensor};
use brooklet_formats::quant::{self, ColumnLayout, TileLayout};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::kernels::acts::{Acts, Forms, GROUP};
use crate::kernels::{Isa, matmul};
use crate::team::Part;
use crate::{EngineError, Result};

/// A weight matrix `W: rows × cols`, in tiles or in columns.
pub(crate) struct Mat {
    order: Order,
    bytes: Bytes,
    /// Bytes that products did not need to read.
    skipped: AtomicU64,
}

/// How a matrix lies in the file.
enum Order {
    Tiles(TileLayout),
    Columns(ColumnLayout),
}

impl Mat {
    fn shape(&self) -> &TileLayout {
        match &self.order {
            Order::Tiles(layout) => layout,
            Order::Columns(layout) => layout.tiles(),
        }
    }

    /// Rows (outputs).
    pub(crate) fn rows(&self) -> usize {
        self.shape().rows
    }

    /// Columns (inputs).
    pub(crate) fn cols(&self) -> usize {
        self.shape().cols
    }

    /// Bytes that a product reads.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Rows that a worker takes at least: whole groups of what reads the result, and whole strips.
    pub(crate) fn unit(&self) -> usize {
        match &self.order {
            Order::Tiles(_) => GROUP,
            Order::Columns(layout) => layout.strip_rows().max(GROUP),
        }
    }

    /// Bytes of [`Mat::unit`] rows.
    pub(crate) fn unit_bytes(&self) -> usize {
        match &self.order {
            Order::Tiles(layout) => layout.tile_bytes() * (GROUP / quant::TILE_ROWS),
            Order::Columns(layout) => layout.total_bytes() / layout.n_strips(),
        }
    }

    /// The form of its input.
    pub(crate) fn forms(&self) -> Forms {
        matmul::forms(self.shape().dtype)
    }

    /// `y[c] = W x[c]` for the rows and columns of `y`.
    pub(crate) fn matmul(&self, isa: Isa, x: &Acts, y: &mut Part<'_, f32>) {
        match &self.order {
            Order::Tiles(layout) => matmul::matmul(isa, layout, &self.bytes, x, y),
            Order::Columns(layout) => {
                let skipped = matmul::matmul_columns(isa, layout, &self.bytes, x, y);
                self.skipped.fetch_add(skipped as u64, Ordering::Relaxed);
            }
        }
    }

    /// Bytes that products of one column have left out so far, because their input was zero.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// Row `row`, decoded (embedding lookup).
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        match &self.order {
            Order::Tiles(layout) => quant::decode_row(layout, &self.bytes, row, out),
            Order::Columns(layout) => layout.decode_row(&self.bytes, row, out),
        }
    }
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

    /// The matrix `name` of shape (rows, cols), in tiles.
    pub(crate) fn mat(&self, name: &str, rows: usize, cols: usize) -> Result<Mat> {
        let tensor = self.tensor(name, &[rows, cols], Layout::Tiles)?;
        let layout = TileLayout::new(tensor.info.dtype, rows, cols, tensor.info.group)?;
        Ok(Mat { order: Order::Tiles(layout), bytes: tensor.bytes, skipped: AtomicU64::new(0) })
    }

    /// The matrix `name` of shape (rows, cols), in tiles or in columns: one whose input is mostly zero.
    pub(crate) fn sparse_mat(&self, name: &str, rows: usize, cols: usize) -> Result<Mat> {
        let in_columns = |tensor: Tensor| tensor.info.layout == Layout::Columns;
        if !self.file.tensor(name).is_some_and(in_columns) {
            return self.mat(name, rows, cols);
        }
        let tensor = self.tensor(name, &[rows, cols], Layout::Columns)?;
        let layout = ColumnLayout::new(tensor.info.dtype, rows, cols, tensor.info.group)?;
        Ok(Mat { order: Order::Columns(layout), bytes: tensor.bytes, skipped: AtomicU64::new(0) })
    }

    /// The f32 tensor `name` of that shape, flat.
    pub(crate) fn vector(&self, name: &str, shape: &[usize]) -> Result<Vector> {
        Ok(Vector(self.tensor(name, shape, Layout::Plain)?.bytes))
    }

    /// The f32 tensor `name`, if the file has it.
    pub(crate) fn optional_vector(&self, name: &str, shape: &[usize]) -> Result<Option<Vector>> {
        self.file.tensor(name).map(|_| self.vector(name, shape)).transpose()
    }

    /// The matrix `name`, if the file has it.
    pub(crate) fn optional_mat(&self, name: &str, rows: usize, cols: usize) -> Result<Option<Mat>> {
        self.file.tensor(name).map(|_| self.mat(name, rows, cols)).transpose()
    }
}
