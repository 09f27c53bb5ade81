//! [`BrkWriter`]: writes a weight file tensor by tensor, never holding more than a block of rows.
//!
//! Here: streaming to a temporary file beside the target, and the finish (table, preamble, sync, rename).
//! Not here: which tensors there are and in which format (`convert`). A writer that is dropped, or fails,
//! leaves nothing behind.
//! Source: `SPEC.md`. Tests: `brk/tests.rs`.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use tempfile::TempPath;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::Meta;
use super::header::{ALIGN, MAX_METADATA_LEN, PREAMBLE_LEN, Preamble, align};
use super::table::{self, Layout, MAX_TENSORS, TensorInfo, Transform};
use crate::quant::{self, ColumnLayout, EncodeError, TILE_ROWS, TileLayout};
use crate::{DType, FormatError};

/// Weights asked of a row source at a time, if the rows are not longer than that by themselves.
const BLOCK_WEIGHTS: usize = 1 << 18;

/// Writes a `.brk` file.
///
/// ```
/// use brooklet_formats::{DType, brk::{BrkFile, BrkWriter, Meta}};
/// let path = std::env::temp_dir().join("brooklet-doc-example.brk");
/// let mut writer = BrkWriter::create(&path, Meta::default(), Vec::new())?;
/// writer.plain("bias", &[3], &[1.0, 2.0, 3.0])?;
/// writer.matrix("W", 2, 40, DType::Int8, 32, |rows, out| Ok(out.extend(vec![0.5; rows.len() * 40])))?;
/// writer.finish()?;
/// assert_eq!(BrkFile::open(&path)?.tensors().len(), 2);
/// # std::fs::remove_file(&path).unwrap();
/// # Ok::<(), brooklet_formats::FormatError>(())
/// ```
#[derive(Debug)]
pub struct BrkWriter {
    path: PathBuf,
    file: BufWriter<File>,
    /// Where `file` is until it is finished; removed when dropped.
    temporary: TempPath,
    meta: Meta,
    tokenizer: Vec<u8>,
    /// Bytes written so far; a multiple of 64 between tensors.
    position: u64,
    tensors: Vec<TensorInfo>,
    names: HashSet<String>,
    /// The tensor being written; stays set when its writing failed.
    unfinished: Option<String>,
}

/// What a finished file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Length of the file in bytes.
    pub file_len: u64,
    /// Bytes of the tensors, without padding between them.
    pub tensor_bytes: u64,
    /// Number of tensors.
    pub n_tensors: usize,
}

impl BrkWriter {
    /// Starts a file that will replace `path` when it is finished.
    ///
    /// Fails if the folder does not exist or cannot be written to, or if `path` is there and is not a
    /// regular file.
    pub fn create(path: &Path, meta: Meta, tokenizer: Vec<u8>) -> Result<Self, FormatError> {
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            let source = io::Error::other("it is there and is not a regular file");
            return Err(FormatError::Io { action: "replace", path: path.to_owned(), source });
        }
        let (file, temporary) = temporary_beside(path).map_err(FormatError::io("create", path))?;
        let mut writer = Self {
            path: path.to_owned(),
            file: BufWriter::with_capacity(1 << 20, file),
            temporary,
            meta,
            tokenizer,
            position: 0,
            tensors: Vec::new(),
            names: HashSet::new(),
            unfinished: None,
        };
        writer.write(&[0; PREAMBLE_LEN as usize])?;
        Ok(writer)
    }

    /// The metadata, which is written by [`BrkWriter::finish`] and may change until then.
    pub fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    /// Writes a matrix as tiles, asking for a block of rows at a time.
    ///
    /// `source(rows, out)` is called with ascending ranges that cover the matrix, and with an empty `out`,
    /// to which it appends the rows, `rows.len() · cols` weights in row-major order. Fails on what
    /// `source` fails on, and on weights that `dtype` cannot hold, naming row and column.
    pub fn matrix<S>(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
        dtype: DType,
        group: usize,
        source: S,
    ) -> Result<(), FormatError>
    where
        S: FnMut(Range<usize>, &mut Vec<f32>) -> Result<(), FormatError>,
    {
        self.matrix_in(Layout::Tiles, name, self.tile_layout(name, rows, cols, dtype, group)?, source)
    }

    /// [`BrkWriter::matrix`] in columns ([`ColumnLayout`]); `int4` and `int8` only. Holds the whole encoded matrix in memory.
    pub fn matrix_in_columns<S>(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
        dtype: DType,
        group: usize,
        source: S,
    ) -> Result<(), FormatError>
    where
        S: FnMut(Range<usize>, &mut Vec<f32>) -> Result<(), FormatError>,
    {
        self.matrix_in(Layout::Columns, name, self.tile_layout(name, rows, cols, dtype, group)?, source)
    }

    fn matrix_in<S>(
        &mut self,
        order: Layout,
        name: &str,
        layout: TileLayout,
        mut source: S,
    ) -> Result<(), FormatError>
    where
        S: FnMut(Range<usize>, &mut Vec<f32>) -> Result<(), FormatError>,
    {
        let TileLayout { rows, cols, .. } = layout;
        let block_rows = (BLOCK_WEIGHTS / layout.tile_floats()).max(1) * TILE_ROWS;
        let mut block = Vec::new();
        let mut block_start = 0;
        let mut tile_rows = vec![0.0; layout.tile_floats()];
        let path = self.path.clone();
        self.tiles(name, layout, order, |tile, out| {
            let first = tile * TILE_ROWS;
            if tile == 0 || first >= block_start + block_rows {
                block_start = first;
                let wanted = first..rows.min(first + block_rows);
                block.clear();
                source(wanted.clone(), &mut block)?;
                if block.len() != wanted.len() * cols {
                    return Err(FormatError::Tensor {
                        path: path.clone(),
                        tensor: name.to_owned(),
                        what: "the block of rows",
                        expected: format!("{} rows of {cols} weights", wanted.len()),
                        found: format!("{} weights", block.len()),
                    });
                }
            }
            let rows = &block[(first - block_start) * cols..];
            let rows = &rows[..rows.len().min(TILE_ROWS * cols)];
            encode(&layout, rows, &mut tile_rows, out).map_err(|source| FormatError::Weight {
                path: path.clone(),
                tensor: name.to_owned(),
                source: EncodeError { row: first + source.row, ..source },
            })
        })
    }

    /// Writes a matrix whose tiles the caller encodes: `source(tile, out)` fills `tile_bytes` bytes. `order` is how they are to
    /// lie in the file: [`Layout::Tiles`] or [`Layout::Columns`].
    pub fn tiles<S>(
        &mut self,
        name: &str,
        layout: TileLayout,
        order: Layout,
        mut source: S,
    ) -> Result<(), FormatError>
    where
        S: FnMut(usize, &mut [u8]) -> Result<(), FormatError>,
    {
        let TileLayout { dtype, rows, cols, group, .. } = layout;
        self.tensor(name, &[rows, cols], dtype, order, group, |write| {
            let mut bytes = vec![0; layout.tile_bytes()];
            if order == Layout::Columns {
                let columns = ColumnLayout::new(dtype, rows, cols, group)?;
                let mut matrix = columns.zeros();
                for tile in 0..layout.n_tiles() {
                    source(tile, &mut bytes)?;
                    columns.put_tile(&mut matrix, tile, &bytes);
                }
                return write(&matrix);
            }
            for tile in 0..layout.n_tiles() {
                source(tile, &mut bytes)?;
                write(&bytes)?;
            }
            Ok(())
        })
    }

    /// Writes a tensor of any shape as f32, for vectors and small tensors; `values` in C order.
    pub fn plain(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Result<(), FormatError> {
        let path = self.path.clone();
        self.tensor(name, shape, DType::F32, Layout::Plain, 0, |write| {
            let expected: usize = shape.iter().product();
            if values.len() != expected {
                return Err(FormatError::Tensor {
                    path,
                    tensor: name.to_owned(),
                    what: "the number of values",
                    expected: expected.to_string(),
                    found: values.len().to_string(),
                });
            }
            write(bytemuck::cast_slice(values))
        })
    }

    /// Writes table, metadata, tokenizer and preamble, brings everything to the disk, renames.
    pub fn finish(mut self) -> Result<Written, FormatError> {
        self.check_unfinished()?;
        let metadata = serde_json::to_vec(&self.meta).map_err(|source| FormatError::Json {
            path: self.path.clone(),
            what: "the metadata",
            source,
        })?;
        if metadata.len() as u64 > MAX_METADATA_LEN {
            return Err(FormatError::Field {
                path: self.path,
                what: "the length of the metadata",
                expected: format!("{MAX_METADATA_LEN} at most"),
                found: metadata.len().to_string(),
            });
        }
        let tokenizer = std::mem::take(&mut self.tokenizer);
        let table = table::to_bytes(&self.tensors, xxh3_64(&tokenizer));
        let preamble = Preamble {
            metadata_offset: self.position,
            metadata_len: metadata.len() as u64,
            table_len: table.len() as u64,
            tokenizer_len: tokenizer.len() as u64,
        };
        self.write_aligned(&metadata)?;
        self.write_aligned(&table)?;
        self.write(&tokenizer)?;
        let file_len = self.position;
        let preamble = preamble.to_bytes(file_len, &metadata, &table);
        let tensor_bytes = self.tensors.iter().map(|tensor| tensor.len).sum();
        let n_tensors = self.tensors.len();
        publish(self.file, self.temporary, &preamble, &self.path)
            .map_err(FormatError::io("write", &self.path))?;
        Ok(Written { file_len, tensor_bytes, n_tensors })
    }

    fn tile_layout(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        dtype: DType,
        group: usize,
    ) -> Result<TileLayout, FormatError> {
        TileLayout::new(dtype, rows, cols, group).map_err(|source| FormatError::InTensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
            source: Box::new(source),
        })
    }

    /// Writes one tensor: checks its line of the table, lets `fill` write the bytes, pads, adds the line.
    fn tensor(
        &mut self,
        name: &str,
        shape: &[usize],
        dtype: DType,
        layout: Layout,
        group: usize,
        fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<(), FormatError>) -> Result<(), FormatError>,
    ) -> Result<(), FormatError> {
        self.check_unfinished()?;
        let mut info = TensorInfo {
            name: name.to_owned(),
            shape: shape.to_vec(),
            dtype,
            layout,
            group,
            transform: Transform::None,
            offset: self.position,
            len: 0,
            checksum: 0,
        };
        info.len = info.checked_len(&self.path)?;
        if self.tensors.len() == MAX_TENSORS {
            return Err(FormatError::Field {
                path: self.path.clone(),
                what: "the number of tensors",
                expected: format!("{MAX_TENSORS} at most"),
                found: "one more".to_owned(),
            });
        }
        if !self.names.insert(name.to_owned()) {
            return Err(FormatError::Tensor {
                path: self.path.clone(),
                tensor: name.to_owned(),
                what: "the name",
                expected: "unique".to_owned(),
                found: "a second tensor of that name".to_owned(),
            });
        }
        self.unfinished = Some(name.to_owned());
        let mut hash = Xxh3::new();
        fill(&mut |bytes| {
            hash.update(bytes);
            self.write(bytes)
        })?;
        debug_assert_eq!(self.position, info.offset + info.len);
        info.checksum = hash.digest();
        self.pad()?;
        self.tensors.push(info);
        self.unfinished = None;
        Ok(())
    }

    fn check_unfinished(&self) -> Result<(), FormatError> {
        match &self.unfinished {
            None => Ok(()),
            Some(tensor) => Err(FormatError::Unfinished { path: self.path.clone(), tensor: tensor.clone() }),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        self.file.write_all(bytes).map_err(FormatError::io("write", &self.path))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn write_aligned(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        self.write(bytes)?;
        self.pad()
    }

    /// Zeros up to the next multiple of 64.
    fn pad(&mut self) -> Result<(), FormatError> {
        let end = align(self.position).unwrap_or(self.position);
        self.write(&[0; ALIGN as usize][..(end - self.position) as usize])
    }
}

/// Encodes up to 16 rows of `layout.cols` weights; `scratch` holds a padded tile.
fn encode(layout: &TileLayout, rows: &[f32], scratch: &mut [f32], out: &mut [u8]) -> Result<(), EncodeError> {
    if rows.len() == layout.tile_floats() {
        return quant::encode_tile(layout, rows, out);
    }
    // Columns beyond `cols` are never written, rows beyond the matrix are cleared: the padding is zero.
    let used = rows.len() / layout.cols * layout.padded_cols();
    for (row, padded) in rows.chunks_exact(layout.cols).zip(scratch.chunks_exact_mut(layout.padded_cols())) {
        padded[..layout.cols].copy_from_slice(row);
    }
    scratch[used..].fill(0.0);
    quant::encode_tile(layout, scratch, out)
}

/// An empty file in the folder of `path`, which vanishes when its path is dropped.
fn temporary_beside(path: &Path) -> io::Result<(File, TempPath)> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(".part");
    // What any new file gets (less the umask), where tempfile alone would keep it private.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    Ok(builder.tempfile_in(folder_of(path))?.into_parts())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Patches the preamble, syncs, renames to `path`, syncs the folder.
fn publish(file: BufWriter<File>, temporary: TempPath, preamble: &[u8], path: &Path) -> io::Result<()> {
    let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(preamble)?;
    file.sync_all()?;
    drop(file);
    temporary.persist(path).map_err(|refused| refused.error)?;
    // The rename itself is lasting once the folder is on the disk; Windows has no such call.
    if cfg!(unix) {
        File::open(folder_of(path))?.sync_all()?;
    }
    Ok(())
}
