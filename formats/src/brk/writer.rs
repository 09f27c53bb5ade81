//! [`BrkWriter`]: writes a weight file tensor by tensor, never holding more than two blocks of rows.
//!
//! Here: streaming the tensors, and the finish (table, preamble). Not here: which tensors there are
//! and in which format (`convert`), and the temporary file beside the target (`atomic`). A writer
//! that is dropped, or fails, leaves nothing behind. Source: `SPEC.md`. Tests: `brk/tests.rs`.

use std::collections::HashSet;
use std::ops::Range;
use std::path::PathBuf;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::Meta;
use super::header::{ALIGN, MAX_METADATA_LEN, PREAMBLE_LEN, Preamble, align};
use super::table::{self, Layout, MAX_TENSORS, TensorInfo, Transform};
use crate::atomic::{AtomicFile, Target};
use crate::quant::{self, EncodeError, TILE_ROWS, TileLayout, Tiles};
use crate::threads::Threads;
use crate::zeroed::Zeroed;
use crate::{DType, FormatError};

/// Weights asked of a row source at a time, if the rows are not longer than that by themselves: at
/// least, and at the most, where there are many threads.
const BLOCK_WEIGHTS: (usize, usize) = (1 << 18, 1 << 21);

/// Tiles of a block for each thread, so that all are done at nearly the same time.
const TILES_PER_THREAD: usize = 8;

/// Takes the bytes of a tensor, piece by piece.
type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), FormatError> + 'a;

/// Writes a `.brk` file.
///
/// ```
/// use brooklet_formats::DType;
/// use brooklet_formats::atomic::{NO_INPUTS, Target};
/// use brooklet_formats::brk::{self, BrkFile, BrkWriter, Meta};
/// let path = std::env::temp_dir().join("brooklet-doc-example.brk");
/// let target = Target::new(&path, brk::KIND, NO_INPUTS);
/// let mut writer = BrkWriter::create(&target, Meta::default(), Vec::new())?;
/// writer.plain("bias", &[3], &[1.0, 2.0, 3.0])?;
/// writer.matrix("W", 2, 40, DType::Int8, 32, |rows, out| {
///     out.extend(vec![0.5; rows.len() * 40]);
///     Ok(())
/// })?;
/// writer.finish()?;
/// assert_eq!(BrkFile::open(&path)?.tensors().len(), 2);
/// # std::fs::remove_file(&path).unwrap();
/// # Ok::<(), brooklet_formats::FormatError>(())
/// ```
#[derive(Debug)]
pub struct BrkWriter {
    path: PathBuf,
    file: AtomicFile,
    meta: Meta,
    tokenizer: Vec<u8>,
    /// Bytes written so far; a multiple of 64 between tensors.
    position: u64,
    tensors: Vec<TensorInfo>,
    names: HashSet<String>,
    threads: Threads,
    /// The tensor being written; stays set when its writing failed.
    unfinished: Option<String>,
}

/// Sizes of a finished file.
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
    /// Starts a file that will replace `target` when it is finished.
    ///
    /// Fails as [`AtomicFile::create`].
    pub fn create(target: &Target, meta: Meta, tokenizer: Vec<u8>) -> Result<Self, FormatError> {
        let mut writer = Self {
            path: target.path().to_owned(),
            file: AtomicFile::create(target)?,
            meta,
            tokenizer,
            position: 0,
            tensors: Vec::new(),
            names: HashSet::new(),
            threads: Threads::new(0),
            unfinished: None,
        };
        writer.write(&[0; PREAMBLE_LEN as usize])?;
        Ok(writer)
    }

    /// Encodes matrices on these threads; on all processors, where none are said.
    #[cfg(any(feature = "convert", test))]
    pub(crate) fn set_threads(&mut self, threads: Threads) {
        self.threads = threads;
    }

    /// The metadata, which is written by [`BrkWriter::finish`] and may change until then.
    pub fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    /// Writes a matrix as tiles, asking for a block of rows at a time.
    ///
    /// `source(rows, out)` is called with ascending ranges that cover the matrix, and with an empty
    /// `out`, to which it appends the rows, `rows.len() · cols` weights in row-major order. It runs
    /// on the caller's thread, while others encode the block before. Fails
    /// on what `source` fails on, and on weights that `dtype` cannot hold, naming row and column.
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
        let layout = self.tile_layout(name, rows, cols, dtype, group)?;
        self.rows(name, layout, source)
    }

    /// The same in any layout; of a matrix in columns all of it is in memory.
    pub fn rows<S>(
        &mut self,
        name: &str,
        layout: TileLayout,
        mut source: S,
    ) -> Result<(), FormatError>
    where
        S: FnMut(Range<usize>, &mut Vec<f32>) -> Result<(), FormatError>,
    {
        let TileLayout { rows, cols, .. } = layout;
        let threads = self.threads.clone();
        let [least, most] = [BLOCK_WEIGHTS.0, BLOCK_WEIGHTS.1].map(|n| n / layout.tile_floats());
        let block_tiles = (TILES_PER_THREAD * threads.count()).min(most).max(least).max(1);
        let path = self.path.clone();
        let mut read = |first: usize, block: &mut Vec<f32>| {
            let wanted = first..rows.min(first + block_tiles * TILE_ROWS);
            block.clear();
            if wanted.is_empty() {
                return Ok(());
            }
            source(wanted.clone(), block)?;
            if block.len() != wanted.len() * cols {
                return Err(FormatError::Tensor {
                    path: path.clone(),
                    tensor: name.to_owned(),
                    what: "the block of rows",
                    expected: format!("{} rows of {cols} weights", wanted.len()),
                    found: format!("{} weights", block.len()),
                });
            }
            Ok(())
        };
        self.tile_tensor(name, layout, |put| {
            // While a block is encoded, the one before is written and the next is read.
            let (mut block, mut next, mut first) = (Vec::new(), Vec::new(), 0);
            let (mut encoded, mut finished) = (Vec::new(), Vec::new());
            read(first, &mut block)?;
            while first < rows {
                let n_rows = block.len() / cols;
                encoded.resize(n_rows.div_ceil(TILE_ROWS) * layout.encoded_bytes(), 0);
                let tiles = Tiles::new(&layout, &block, &mut encoded);
                let meanwhile = threads.beside(
                    || tiles.encode(quant::encode_tile),
                    || put(&finished).and_then(|()| read(first + n_rows, &mut next)),
                );
                tiles.finish().map_err(|source| FormatError::Weight {
                    path: path.clone(),
                    tensor: name.to_owned(),
                    source: EncodeError { row: first + source.row, ..source },
                })?;
                meanwhile?;
                first += n_rows;
                std::mem::swap(&mut block, &mut next);
                std::mem::swap(&mut encoded, &mut finished);
            }
            put(&finished)
        })
    }

    /// Writes a matrix whose tiles the caller encodes: `source(tile, out)` fills `encoded_bytes`
    /// bytes, as [`quant::encode_tile`] does. Scales that stand behind all tiles are held until
    /// then: a byte for every 32 weights; of a matrix in columns all of it.
    pub fn tiles<S>(
        &mut self,
        name: &str,
        layout: TileLayout,
        mut source: S,
    ) -> Result<(), FormatError>
    where
        S: FnMut(usize, &mut [u8]) -> Result<(), FormatError>,
    {
        self.tile_tensor(name, layout, |put| {
            let mut bytes = vec![0; layout.encoded_bytes()];
            for tile in 0..layout.n_tiles() {
                source(tile, &mut bytes)?;
                put(&bytes)?;
            }
            Ok(())
        })
    }

    /// Writes a matrix of the encoded tiles that `fill` puts, as many as it likes at a time, and
    /// behind them the sheet of their scales.
    fn tile_tensor(
        &mut self,
        name: &str,
        layout: TileLayout,
        fill: impl FnOnce(&mut Sink<'_>) -> Result<(), FormatError>,
    ) -> Result<(), FormatError> {
        let TileLayout { dtype, rows, cols, group, .. } = layout;
        if layout.by_columns {
            let failed = FormatError::io("take memory for", self.path.clone());
            return self.tensor(name, &[rows, cols], dtype, Layout::Columns, group, |write| {
                let mut matrix = Zeroed::try_new(layout.total_bytes()).map_err(failed)?;
                let mut next = 0..layout.n_tiles();
                fill(&mut |tiles| {
                    let encoded = tiles.chunks_exact(layout.encoded_bytes());
                    encoded.zip(&mut next).for_each(|(encoded, tile)| {
                        quant::place_tile(&layout, encoded, tile, &mut matrix);
                    });
                    Ok(())
                })?;
                write(&matrix)
            });
        }
        self.tensor(name, &[rows, cols], dtype, Layout::Tiles, group, |write| {
            let mut sheet = quant::sheet_head(&layout).to_vec();
            fill(&mut |tiles| {
                for tile in tiles.chunks_exact(layout.encoded_bytes()) {
                    let (tile, scales) = tile.split_at(layout.tile_bytes());
                    write(tile)?;
                    sheet.extend_from_slice(scales);
                }
                Ok(())
            })?;
            sheet.resize(layout.sheet_bytes(), 0);
            write(&sheet)
        })
    }

    /// Writes a tensor of any shape as f32, for vectors and small tensors; `values` in C order.
    pub fn plain(
        &mut self,
        name: &str,
        shape: &[usize],
        values: &[f32],
    ) -> Result<(), FormatError> {
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
        // The same bytes in whichever order serde_json keeps the keys of a map.
        self.meta.config.sort_keys();
        self.meta.config.values_mut().for_each(serde_json::Value::sort_all_objects);
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
        self.file.publish(&preamble)?;
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

    /// Writes one tensor: checks its line of the table, lets `fill` write the bytes, pads, adds the
    /// line.
    fn tensor(
        &mut self,
        name: &str,
        shape: &[usize],
        dtype: DType,
        layout: Layout,
        group: usize,
        fill: impl FnOnce(&mut Sink<'_>) -> Result<(), FormatError>,
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
            Some(tensor) => {
                Err(FormatError::Unfinished { path: self.path.clone(), tensor: tensor.clone() })
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        self.file.write(bytes)?;
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
