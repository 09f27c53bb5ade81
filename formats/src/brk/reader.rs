//! [`BrkFile`]: an open weight file; every bound is checked at open, views are made without
//! copying.
//!
//! Here: opening (map, buffer or memory), lookup by name, verification of checksums, the
//! fingerprint. Not here: the parsing of the sections (`header`, `table`, `meta`). Opening takes
//! time for the tensors' number, not for their size. Source: `SPEC.md`. Tests: `brk/tests.rs`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::bytes::Bytes;
use super::header::{Preamble, align, check_padding};
use super::moving::Moving;
use super::table::{self, TensorInfo};
use super::{Layout, Meta};
use crate::FormatError;
use crate::quant::decode_tile;

/// Bytes hashed between two calls of a progress callback.
const VERIFY_CHUNK: usize = 8 << 20;

/// An open `.brk` file. Cloning is cheap (shared), and so are views of its tensors.
///
/// ```no_run
/// use brooklet_formats::brk::BrkFile;
/// let file = BrkFile::open("model.brk".as_ref())?;
/// println!("{}: {} tensors", file.meta().architecture, file.tensors().len());
/// # Ok::<(), brooklet_formats::FormatError>(())
/// ```
#[derive(Clone, Debug)]
pub struct BrkFile {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    bytes: Bytes,
    meta: Meta,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
    tokenizer: Range<usize>,
    tokenizer_checksum: u64,
    fingerprint: u64,
}

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// Map the file (the default), or read it into memory of our own: slower, but independent of
    /// what happens to the file afterwards. Where the system cannot map it, it is read all the
    /// same.
    pub mmap: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { mmap: true }
    }
}

/// A tensor of an open file: its line of the table and its bytes.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name, shape, format, place.
    pub info: TensorInfo,
    /// The bytes, starting at a multiple of 64; they keep the file's memory alive.
    pub bytes: Bytes,
}

impl Tensor {
    /// The elements of a plain tensor in C order; `None` for a tiled one.
    pub fn as_f32(&self) -> Option<&[f32]> {
        // Plain tensors are f32 and 64-byte aligned, and this crate builds on little-endian targets
        // only.
        match self.info.layout {
            Layout::Plain => bytemuck::try_cast_slice(&self.bytes).ok(),
            _ => None,
        }
    }
}

impl BrkFile {
    /// Maps a file and checks its header and table; reads no tensor.
    ///
    /// The file must not be changed or shortened while it is open (replacing it by a rename is
    /// fine).
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        Self::open_with(path, OpenOptions::default())
    }

    /// Begins to move a mapped file into huge pages of memory, where it lies in small ones (Linux),
    /// it is large, and memory for as many bytes again is left; none where nothing moves. Whoever
    /// reads it meanwhile sees the same bytes.
    pub fn into_huge_pages(&self) -> Option<Moving> {
        Moving::begin(&self.inner.bytes)
    }

    /// [`BrkFile::open`] with a choice between map and buffer.
    pub fn open_with(path: &Path, options: OpenOptions) -> Result<Self, FormatError> {
        Self::parse(path, Bytes::open(path, options.mmap)?)
    }

    /// [`BrkFile::open_with`] for a file that is open already: `len` bytes from `offset` on, or all
    /// from there.
    ///
    /// A part that does not start at a multiple of 64, as inside an archive, is read into memory
    /// instead of mapped. `name` is what messages call the file. The file may be closed afterwards.
    pub fn open_part(
        name: &Path,
        file: &File,
        offset: u64,
        len: Option<u64>,
        options: OpenOptions,
    ) -> Result<Self, FormatError> {
        Self::parse(name, Bytes::part(name, file, offset, len, options.mmap)?)
    }

    /// Opens a file that is already in memory, such as one built into the program.
    ///
    /// The bytes are used in place if they are static and start at a multiple of 64, else copied
    /// once. Error messages call the file "(memory)".
    pub fn from_bytes(bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self, FormatError> {
        let name = Path::new("(memory)");
        Self::parse(name, Bytes::from_memory(bytes.into()).map_err(FormatError::io("copy", name))?)
    }

    fn parse(path: &Path, bytes: Bytes) -> Result<Self, FormatError> {
        let preamble = Preamble::parse(path, &bytes)?;
        // `Preamble::parse` has checked that the sections are inside the file, so that they fit
        // usize.
        let sections = preamble.sections().into_iter().flatten();
        let mut sections = sections.map(|range| range.start as usize..range.end as usize);
        let mut section = || sections.next().unwrap_or(0..0);
        let (metadata, table, tokenizer) = (section(), section(), section());

        let meta: Meta = serde_json::from_slice(&bytes[metadata]).map_err(|source| {
            FormatError::Json { path: path.to_owned(), what: "the metadata", source }
        })?;
        let table = table::parse(path, &bytes[table], preamble.metadata_offset)?;
        let fingerprint = fingerprint(&meta, &table.tensors);
        Ok(Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                bytes,
                meta,
                tensors: table.tensors,
                index: table.index,
                tokenizer,
                tokenizer_checksum: table.tokenizer_checksum,
                fingerprint,
            }),
        })
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Whether the bytes are the caller's or the system's (mapped, static), and not a copy of our
    /// own.
    pub fn is_shared(&self) -> bool {
        self.inner.bytes.is_shared()
    }

    /// Length of the file in bytes.
    pub fn file_len(&self) -> u64 {
        self.inner.bytes.len() as u64
    }

    /// Architecture, hyper-parameters, tokenizer, chat template, provenance.
    pub fn meta(&self) -> &Meta {
        &self.inner.meta
    }

    /// The tensor table, in the order of the bytes.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.inner.tensors
    }

    /// The tensor of that name, or `None`.
    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        let info = &self.inner.tensors[*self.inner.index.get(name)?];
        Some(Tensor { info: info.clone(), bytes: self.tensor_bytes(info) })
    }

    /// The tensor of that name, or an error that names the file and the tensor.
    pub fn require(&self, name: &str) -> Result<Tensor, FormatError> {
        self.tensor(name).ok_or_else(|| FormatError::MissingTensor {
            path: self.inner.path.clone(),
            tensor: name.to_owned(),
        })
    }

    /// The tokenizer section, after checking its checksum.
    pub fn tokenizer_blob(&self) -> Result<Bytes, FormatError> {
        let blob = self.inner.bytes.slice(self.inner.tokenizer.clone());
        self.check("the tokenizer", self.inner.tokenizer_checksum, xxh3_64(&blob))?;
        Ok(blob)
    }

    /// A hash that identifies the weights: architecture, hyper-parameters, and every tensor's name,
    /// format, shape and checksum. Tokenizer, chat template and provenance do not count.
    pub fn fingerprint(&self) -> u64 {
        self.inner.fingerprint
    }

    /// Asks the system to read the file ahead of its use; only advice, and only for maps.
    pub fn prefetch(&self) {
        self.inner.bytes.prefetch();
    }

    /// Reads every tensor and compares its checksum, looks for weights that are NaN or infinite;
    /// also compares the tokenizer's checksum, and that padding is zero.
    ///
    /// `progress(done, total)` is called with bytes, `done` ascending to `total`; when it breaks,
    /// the error is [`FormatError::Cancelled`]. Fails at the first part that differs.
    pub fn verify(
        &self,
        mut progress: impl FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<(), FormatError> {
        let total = self.inner.tensors.iter().map(|tensor| tensor.len).sum();
        let mut report = |done| match progress(done, total) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(FormatError::Cancelled {
                path: self.inner.path.clone(),
                what: "check cancelled",
            }),
        };
        let mut done = 0;
        report(done)?;
        for tensor in &self.inner.tensors {
            let mut hash = Xxh3::new();
            for chunk in self.tensor_bytes(tensor).chunks(VERIFY_CHUNK) {
                hash.update(chunk);
                done += chunk.len() as u64;
                report(done)?;
            }
            self.check(&format!("tensor {:?}", tensor.name), tensor.checksum, hash.digest())?;
            self.check_finite(tensor)?;
            let end = tensor.offset + tensor.len;
            let padding = end as usize..align(end).unwrap_or(end) as usize;
            check_padding(
                &self.inner.path,
                "the padding between tensors",
                &self.inner.bytes[padding],
            )?;
        }
        self.tokenizer_blob().map(drop)
    }

    /// Checks that every weight is a finite number.
    fn check_finite(&self, info: &TensorInfo) -> Result<(), FormatError> {
        let odd = |i: usize, cols: usize, value: f32| FormatError::Tensor {
            path: self.inner.path.clone(),
            tensor: info.name.clone(),
            what: "a weight",
            expected: "finite".to_owned(),
            found: format!("{value} at row {}, column {}", i / cols, i % cols),
        };
        let bytes = self.tensor_bytes(info);
        let Some(layout) = info.tile_layout() else {
            let values = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            let cols = info.shape.last().copied().unwrap_or(1);
            let mut values = values.enumerate();
            return values
                .find(|(_, x)| !x.is_finite())
                .map_or(Ok(()), |(i, x)| Err(odd(i, cols, x)));
        };
        let mut rows = vec![0.0; layout.tile_floats()];
        for i in 0..layout.n_tiles() {
            decode_tile(&layout, &bytes, i, &mut rows);
            if let Some(at) = rows.iter().position(|x| !x.is_finite()) {
                return Err(odd(i * rows.len() + at, layout.padded_cols(), rows[at]));
            }
        }
        Ok(())
    }

    fn check(&self, part: &str, expected: u64, found: u64) -> Result<(), FormatError> {
        if expected == found {
            return Ok(());
        }
        let path = self.inner.path.clone();
        Err(FormatError::Checksum { path, part: part.to_owned(), expected, found })
    }

    /// In bounds: `table::parse` has checked that all tensors end before the metadata.
    fn tensor_bytes(&self, info: &TensorInfo) -> Bytes {
        let start = info.offset as usize;
        self.inner.bytes.slice(start..start + info.len as usize)
    }
}

/// xxh3-64 over what determines the logits; see `SPEC.md`, "Fingerprint".
fn fingerprint(meta: &Meta, tensors: &[TensorInfo]) -> u64 {
    let mut hash = Xxh3::new();
    hash_text(&mut hash, &meta.architecture);
    // What the model was trained on changes nothing that it computes.
    let mut config = meta.config.clone();
    config.remove("n_trained");
    hash_text(&mut hash, &canonical(&Value::Object(config)));
    for tensor in tensors {
        hash_text(&mut hash, &tensor.name);
        let ids = [
            tensor.dtype.id(),
            tensor.layout as u8,
            tensor.transform as u8,
            tensor.shape.len() as u8,
        ];
        hash.update(&ids);
        let numbers =
            tensor.shape.iter().map(|&n| n as u64).chain([tensor.group as u64, tensor.checksum]);
        for number in numbers {
            hash.update(&number.to_le_bytes());
        }
    }
    hash.digest()
}

/// A text, after its length in bytes.
fn hash_text(hash: &mut Xxh3, text: &str) {
    hash.update(&(text.len() as u64).to_le_bytes());
    hash.update(text.as_bytes());
}

/// Compact JSON with the members of every object sorted by name.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            let members: Vec<_> = members
                .into_iter()
                .map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), canonical(value)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        scalar => scalar.to_string(),
    }
}
