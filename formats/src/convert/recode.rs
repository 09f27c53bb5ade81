//! The number format of a matrix of a `.brk` file that is to be written again: what its checkpoint
//! would have got by the same options.
//!
//! Not here: the writing, and whether it pays to run the model for it (`tools/quantize`). Test:
//! `tools/quantize`, and below.

use super::families::ARCHITECTURES;
use super::options::ConvertOptions;
use super::table::{Role, Row, Shape};
use crate::DType;
use crate::brk::BrkFile;

impl ConvertOptions {
    /// The number format of the matrix `name` of `file`.
    pub fn dtype_in(&self, file: &BrkFile, name: &str) -> DType {
        self.dtype_of(name, role(file, name))
    }
}

/// The purpose of a matrix, as the tables of its architecture say.
fn role(file: &BrkFile, name: &str) -> Role {
    let architecture = &*file.meta().architecture;
    let family = ARCHITECTURES.iter().find(|family| family.name == architecture);
    let in_layer = name.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
    let shape_in = |rows: &[Row], name: &str| {
        rows.iter().find(|row| row.0 == name).map(|&Row(_, shape, _)| shape)
    };
    let shape = family.and_then(|family| match in_layer {
        Some((_, name)) => family.layers.iter().find_map(|(_, rows)| shape_in(rows, name)),
        None => shape_in(family.trunk, name),
    });
    match shape {
        Some(Shape::Adapter(..)) => Role::Adapter,
        Some(Shape::Table(_)) => Role::Embedding,
        Some(Shape::Embedding(..)) if file.tensor("head").is_some() => Role::Embedding,
        _ => Role::Big,
    }
}
