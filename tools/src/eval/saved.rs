//! A reference that a file has kept: log-probabilities of every token of the vocabulary after every
//! token of a text, so that a large model reads the text once.
//!
//! ```text
//! "BRKREF1\n"   u64: length of the description   JSON: the description, spaces up to 64 bytes
//! rows of n_vocab f16: log p, in the order of the text
//! ```
//!
//! f16 keeps what matters: likely tokens have small logarithms, and of unlikely ones an error
//! weighs little. It moves a mean KL by some 1e-7. Integers are little-endian. Test:
//! `tests/cli/eval.rs`.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use brooklet::Model;
use brooklet_formats::atomic::{AtomicFile, Kind, NO_INPUTS, Target};
use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::{Deserialize, Serialize};

use super::name;
use crate::failure::{Failure, Result};
use brooklet_quantize::score::{LogProbs, Mean};

/// How such a file is told.
const KIND: Kind = Kind { name: "reference", magic: b"BRKREF1\n" };

/// The longest description that is read.
const MAX_DESCRIPTION: u64 = 1 << 28;

/// What the rows are about.
#[derive(Serialize, Deserialize, PartialEq)]
struct Description {
    model: String,
    /// Of the model that made them.
    fingerprint: u64,
    tokenizer: u64,
    n_vocab: usize,
    clear_every: Option<u64>,
    tokens: Vec<u32>,
}

/// A file of rows, not yet compared with what is to be read.
pub(super) struct Saved {
    path: PathBuf,
    file: BufReader<File>,
    description: Description,
}

impl Saved {
    /// Opens such a file; `None` if it is something else.
    pub(super) fn open(path: &Path) -> Result<Option<Saved>> {
        if !path.is_file() {
            return Ok(None);
        }
        let failed = || Failure::io("read", path.display());
        let mut file = BufReader::with_capacity(1 << 20, File::open(path).map_err(failed())?);
        let mut start = [0; 16];
        let is_saved = file.read_exact(&mut start).is_ok() && start.starts_with(KIND.magic);
        if !is_saved {
            return Ok(None);
        }
        let [_, _, _, _, _, _, _, _, length @ ..] = start;
        let length = u64::from_le_bytes(length);
        let mut text = Vec::new();
        file.by_ref().take(length.min(MAX_DESCRIPTION)).read_to_end(&mut text).map_err(failed())?;
        let description: Description = serde_json::from_slice(&text).map_err(|error| {
            Failure::with(
                format!("{}: the description of the reference: {error}", path.display()),
                "write it again with --save-reference",
            )
        })?;
        Ok(Some(Saved { path: path.to_owned(), file, description }))
    }

    /// The rows, if they are of this vocabulary and text.
    pub(super) fn read(
        self,
        model: &Model,
        ids: &[u32],
        clear_every: Option<u64>,
    ) -> Result<SavedReference> {
        let wanted = Description {
            model: self.description.model.clone(),
            fingerprint: self.description.fingerprint,
            ..describe(model, ids, clear_every)?
        };
        let kept = &self.description;
        let differs = match () {
            () if (kept.n_vocab, kept.tokenizer) != (wanted.n_vocab, wanted.tokenizer) => {
                "vocabulary"
            }
            () if kept.clear_every != wanted.clear_every => "--clear-every",
            () if kept.tokens != wanted.tokens => "text",
            () => {
                return Ok(SavedReference {
                    path: self.path,
                    file: self.file,
                    n_vocab: wanted.n_vocab,
                    rows: Vec::new(),
                    nats: Mean::default(),
                });
            }
        };
        Err(Failure::with(
            format!(
                "{} keeps what {} said with another {differs}",
                self.path.display(),
                kept.model
            ),
            "use the same, or write it again with --save-reference",
        ))
    }
}

/// What the rows of a model on a text are about.
fn describe(model: &Model, ids: &[u32], clear_every: Option<u64>) -> Result<Description> {
    Ok(Description {
        model: name(model.file().path()),
        fingerprint: model.file().fingerprint(),
        tokenizer: xxhash_rust::xxh3::xxh3_64(&model.file().tokenizer_blob()?),
        n_vocab: model.n_vocab(),
        clear_every,
        tokens: ids.to_vec(),
    })
}

/// Rows that are read along with the text.
pub(super) struct SavedReference {
    path: PathBuf,
    file: BufReader<File>,
    n_vocab: usize,
    /// Those of the chunk.
    rows: Vec<f32>,
    /// Of each token after those before it.
    pub(super) nats: Mean,
}

impl SavedReference {
    /// The distributions after each token of the chunk; `next` begins with its second.
    pub(super) fn next_rows(&mut self, chunk: &[u32], next: &[u32]) -> Result<Vec<LogProbs<'_>>> {
        let mut bytes = vec![0; 2 * self.n_vocab];
        let mut halves = vec![f16::ZERO; self.n_vocab];
        self.rows.resize(chunk.len() * self.n_vocab, 0.0);
        for row in self.rows.chunks_exact_mut(self.n_vocab) {
            self.file.read_exact(&mut bytes).map_err(Failure::io("read", self.path.display()))?;
            for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *half = f16::from_le_bytes(*bytes);
            }
            halves.convert_to_f32_slice(row);
        }
        let rows: Vec<_> = self.rows.chunks_exact(self.n_vocab).map(LogProbs::new).collect();
        if rows.iter().any(|row| !row.is_finite()) {
            let what = format!("{}: a row is no distribution", self.path.display());
            return Err(Failure::with(what, "write it again with --save-reference"));
        }
        for (row, next) in rows.iter().zip(next) {
            self.nats.add(-row.of(*next));
        }
        Ok(rows)
    }
}

/// A file in the making.
pub(super) struct SavingReference {
    file: AtomicFile,
    bytes: Vec<u8>,
}

impl SavingReference {
    /// Starts the file of a model on a text; nothing is there before [`SavingReference::finish`].
    pub(super) fn create(
        path: &Path,
        force: bool,
        (model, ids, clear_every): (&Model, &[u32], Option<u64>),
    ) -> Result<SavingReference> {
        let mut text = serde_json::to_vec(&describe(model, ids, clear_every)?)
            .map_err(|error| Failure::with(error, "report this as a bug"))?;
        text.resize((16 + text.len()).next_multiple_of(64) - 16, b' ');
        let mut file = AtomicFile::create(&Target::new(path, KIND, NO_INPUTS).force(force))?;
        file.write(KIND.magic)?;
        file.write(&(text.len() as u64).to_le_bytes())?;
        file.write(&text)?;
        Ok(SavingReference { file, bytes: Vec::new() })
    }

    /// Appends a row.
    pub(super) fn add(&mut self, row: &LogProbs<'_>) -> Result {
        self.bytes.clear();
        self.bytes.extend(row.iter().flat_map(|log_p| f16::from_f64(log_p).to_le_bytes()));
        Ok(self.file.write(&self.bytes)?)
    }

    /// Puts the file in its place.
    pub(super) fn finish(self) -> Result {
        Ok(self.file.publish(&[])?)
    }
}
