//! `FormatError`: every way in which bytes on disk can disappoint.
//!
//! Variants by cause, fields instead of ready-made text; Display is one lower-case sentence that
//! names the file, the tensor, what was expected and what was found. Not here: what to do about it
//! (the command line adds the next act). Test: beside each reader and writer.

use std::io;
use std::path::PathBuf;

use crate::DType;
use crate::brk::MAGIC;
use crate::quant::EncodeError;

/// Failure to read or write a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The operating system refused: missing file, no permission, disk full.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The act that failed, as a verb: "open", "read", "write", …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },

    /// An output that is one of the inputs, under this or another name.
    #[error(
        "{}: this is {}, which is read here and must not be overwritten",
        path.display(),
        if path == input { "an input".into() } else { format!("the input {}", input.display()) }
    )]
    OntoInput {
        /// The output.
        path: PathBuf,
        /// The input.
        input: PathBuf,
    },

    /// Something that somebody may want to keep stands where a file is to be written.
    #[error("{}: it is there and is no {kind} file, and only such are replaced", path.display())]
    InTheWay {
        /// The output.
        path: PathBuf,
        /// The kind of file that was to be written: ".brk", say.
        kind: &'static str,
    },

    /// A line of a recipe says nothing, or nothing of the model.
    #[error("{}: line {line}: {problem}", path.display())]
    Recipe {
        /// The recipe.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The fault.
        problem: String,
    },

    /// The file ends before what it announces.
    #[error(
        "{}: truncated: {what} at byte {offset} needs {expected} bytes, {found} are there",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Which part.
        what: &'static str,
        /// Where the part starts.
        offset: u64,
        /// Bytes that the part takes.
        expected: u64,
        /// Bytes that remain from `offset` on.
        found: u64,
    },

    /// More bytes than a program of this kind can have in memory, mapped or not: 2 GiB and more
    /// where addresses have 32 bits.
    #[error(
        "{}: {len} bytes are more than a {}-bit program can address",
        path.display(), usize::BITS
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length, or that of the part that was asked for.
        len: u64,
    },

    /// The file is of another kind.
    #[error(
        "{}: not a .brk file: it starts with \"{}\", expected \"{}\"",
        path.display(), found.escape_ascii(), MAGIC.escape_ascii()
    )]
    NotBrk {
        /// The file.
        path: PathBuf,
        /// Its first bytes.
        found: Vec<u8>,
    },

    /// The file uses a feature that this version does not have.
    #[error(
        "{}: {}{what} {found} is unknown to this version of brooklet, which knows {known}",
        path.display(), tensor.as_ref().map(|name| format!("tensor {name:?}: ")).unwrap_or_default()
    )]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The tensor that uses it, if it is a tensor.
        tensor: Option<String>,
        /// Which feature: "version", "flags", "number format", "layout", "transform", …
        what: &'static str,
        /// Those that this version can read.
        known: String,
        /// The one in the file.
        found: u64,
    },

    /// Bytes are not those that were written.
    #[error(
        "{}: {part} is damaged: checksum {found:016x}, expected {expected:016x}",
        path.display()
    )]
    Checksum {
        /// The file.
        path: PathBuf,
        /// Which part: "the header", "tensor …", "the tokenizer".
        part: String,
        /// The checksum in the file.
        expected: u64,
        /// The checksum of the bytes.
        found: u64,
    },

    /// JSON that cannot be read or written.
    #[error("{}: {what}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Which part.
        what: &'static str,
        /// The fault, with line and column.
        source: serde_json::Error,
    },

    /// A field of the file holds what it must not.
    #[error("{}: {what} must be {expected}, found {found}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// Which field.
        what: &'static str,
        /// The format's demand.
        expected: String,
        /// The file's own.
        found: String,
    },

    /// A tensor is not what it must be.
    #[error(
        "{}: tensor {tensor:?}: {what} must be {expected}, found {found}",
        path.display()
    )]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Which property: "shape", "offset", "number format", …
        what: &'static str,
        /// The format's or the reader's demand.
        expected: String,
        /// The file's own.
        found: String,
    },

    /// A tensor whose geometry is impossible.
    #[error("{}: tensor {tensor:?}: {source}", path.display())]
    InTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The impossible part.
        source: Box<FormatError>,
    },

    /// A weight that its number format cannot hold.
    #[error("{}: tensor {tensor:?}: {source}", path.display())]
    Weight {
        /// The file being written.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Row, column, value.
        source: EncodeError,
    },

    /// A writer was used on after a tensor had failed.
    #[error("{}: tensor {tensor:?} was not written to its end", path.display())]
    Unfinished {
        /// The file being written.
        path: PathBuf,
        /// The tensor that failed.
        tensor: String,
    },

    /// A group length that the number format does not know.
    #[error(
        "the group of {dtype} must be {}, found {found}",
        if dtype.has_steps() { "32" } else if dtype.has_scales() { "32, 64 or 128" } else { "0" }
    )]
    Group {
        /// The number format.
        dtype: DType,
        /// The group asked for.
        found: usize,
    },

    /// A matrix without elements, or with more than memory can address.
    #[error(
        "a {dtype} matrix of {rows} rows and {cols} columns is empty or exceeds the address space"
    )]
    MatrixSize {
        /// The number format.
        dtype: DType,
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
    },

    /// A file or folder that can be told but holds no model that can be read.
    #[error("{} is {found}; {mend}", path.display())]
    NotAModel {
        /// The file or folder.
        path: PathBuf,
        /// Its true kind.
        found: String,
        /// The mend.
        mend: &'static str,
    },
    /// A checkpoint whose names and shapes are those of no known architecture.
    #[error(
        "{}: no known architecture: found {n_tensors} tensors of a {kind} checkpoint ({some}, …), \
         expected one of {known}",
        path.display()
    )]
    UnknownArchitecture {
        /// The checkpoint.
        path: PathBuf,
        /// The kind of checkpoint.
        kind: &'static str,
        /// How many tensors it has.
        n_tensors: usize,
        /// The first of them, with shapes.
        some: String,
        /// The architectures that are known.
        known: String,
    },
    /// The caller stopped a conversion or a check.
    #[error("{}: {what}", path.display())]
    Cancelled {
        /// The file that was to be, or that was read.
        path: PathBuf,
        /// The act that was stopped, and what is left of it.
        what: &'static str,
    },

    /// The file lacks a tensor that was asked for.
    #[error("{}: tensor {tensor:?} is missing", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
    },
}

impl FormatError {
    /// Wraps a system error; for `map_err(FormatError::io("open", path))`.
    pub fn io<P: Into<PathBuf>>(action: &'static str, path: P) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
