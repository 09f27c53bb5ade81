//! What brooklet keeps on disk: the `.brk` weight file, its number formats, and readers of other
//! projects' checkpoints.
//!
//! | module | reads or writes |
//! |---|---|
//! | [`dtype`] | the table of number formats: ids, names, groups |
//! | [`quant`] | codecs: f32 rows to tiles and back, one file per number format |
//! | [`brk`] | the weight file: header, tensor table, mapped reader, streaming writer |
//! | [`checkpoint`] | safetensors, PyTorch archives, GGUF, rwkv.cpp: names, shapes, rows as f32 |
//! | [`convert`] | a checkpoint in, a weight file out |
//!
//! The cargo feature `convert`, on by default, is [`checkpoint`] and [`convert`]; running models needs neither.
//!
//! Not here: arithmetic on models, threads, tokenizers. `SPEC.md` beside this crate is the normative
//! text of the file format; the tests sit beside the code.

#![deny(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("weight files are mapped as they are, and they are little-endian");

pub mod brk;
#[cfg(feature = "convert")]
pub mod checkpoint;
#[cfg(feature = "convert")]
pub mod convert;
pub mod dtype;
pub mod error;
pub mod quant;

pub use dtype::DType;
pub use error::FormatError;
