//! Files of brooklet: the `.brk` weight file, its number formats, and readers of other
//! projects' checkpoints.
//!
//! | module | reads or writes |
//! |---|---|
//! | [`dtype`] | the table of number formats: ids, names, groups |
//! | [`quant`] | codecs: f32 rows to tiles and back, one file per number format |
//! | [`brk`] | the weight file: header, tensor table, mapped reader, streaming writer |
//! | [`state_file`] | saved states: a conversation's state and what is needed to go on from it |
//! | [`atomic`] | files that appear whole or not at all |
//! | [`checkpoint`] | safetensors, PyTorch archives, GGUF, rwkv.cpp: names, shapes, rows as f32 |
//! | [`convert`] | a checkpoint in, a weight file out |
//! | [`zeroed`] | memory for many values |
//!
//! The cargo feature `convert`, on by default, is [`checkpoint`] and [`convert`]; running models
//! needs neither. `threads`, on by default too, encodes and converts on all processors, to the same
//! bytes.
//!
//! Not here: arithmetic on models, tokenizers. `SPEC.md` beside this crate is the
//! normative text of the file format; the tests sit beside the code.

#![deny(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("weight files are mapped as they are, and they are little-endian");

pub mod atomic;
pub mod brk;
#[cfg(feature = "convert")]
pub mod checkpoint;
#[cfg(feature = "convert")]
pub mod convert;
pub mod dtype;
pub mod error;
mod platform;
pub mod quant;
pub mod state_file;
mod threads;
pub mod zeroed;

pub use dtype::DType;
pub use error::FormatError;
