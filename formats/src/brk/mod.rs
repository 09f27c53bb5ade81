//! The `.brk` weight file: everything a model needs, in one file, laid out as the kernels read it.
//!
//! Here: [`BrkFile`] (opens, checks every bound once, hands out views without copying) and
//! [`BrkWriter`] (streams tensors to a temporary file, then renames it). Not here: where weights
//! come from (`checkpoint`, `convert`) and what they mean (the engine). Source: `SPEC.md`, the
//! normative text. Tests: `brk/tests.rs` (round trips, every byte cut and flipped).

mod bytes;
mod header;
mod meta;
mod moving;
mod reader;
mod signature;
mod table;
mod writer;

#[cfg(test)]
mod tests;

use crate::atomic::Kind;

/// How a weight file is told.
pub const KIND: Kind = Kind { name: ".brk", magic: &MAGIC };

pub use bytes::Bytes;
pub(crate) use header::align;
pub use header::{ALIGN, MAX_METADATA_LEN};
pub use meta::{Meta, Provenance, TokenizerKind, TokenizerMeta};
pub use moving::Moving;
pub use reader::{BrkFile, OpenOptions, Tensor};
pub use signature::{MAGIC, VERSION};
pub use table::{Layout, MAX_DIMS, MAX_NAME_LEN, MAX_TENSORS, TensorInfo, Transform};
pub use writer::{BrkWriter, Written};
