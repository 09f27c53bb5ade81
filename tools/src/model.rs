//! The model that an argument names: a `.brk` file as it is, a checkpoint by way of a conversion.
//!
//! A checkpoint is converted once into the cache folder. The file's name there says which
//! checkpoint it came from, as which files of which size and age, into which number format, by
//! which version; if any of these changes, it is converted again, and the older file is removed.
//! It appears whole or not at all, so that two runs may convert the same checkpoint at a time. Not
//! here: the conversion (`convert`), the folders (`cache`). Test: `tests/cli/checkpoints.rs`.

use std::cell::RefCell;
use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use brooklet_formats::DType;
use brooklet_formats::brk::BrkFile;
use brooklet_formats::checkpoint::Checkpoint;
use brooklet_formats::convert::ConvertOptions;

use crate::args;
use crate::cache::{self, Scratch};
use crate::checkpoint;
use crate::failure::{Failure, Result};
use crate::{convert, demo, output};

/// The number format of a checkpoint's matrices when none is asked for.
pub(crate) const DTYPE: DType = DType::Int8;
/// Changes when the same checkpoint becomes another file though the program's version stays.
const VERSION: u32 = 1;
/// Bytes of a checkpoint's own name in the name of its file.
const MAX_STEM: usize = 40;
/// Endings of the small files that a conversion reads beside the weights.
const BESIDE: [&str; 4] = ["json", "jinja", "txt", "model"];

/// Options for a checkpoint in a model's place.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct CheckpointArgs {
    /// Number format of the big matrices, where MODEL is a checkpoint [default: int8]
    #[arg(long = "type", value_name = "TYPE", value_parser = args::dtype)]
    pub(crate) dtype: Option<DType>,
    /// Convert a checkpoint into a temporary file, which goes away at the end, not into the cache
    /// folder
    #[arg(long)]
    pub(crate) no_cache: bool,
}

/// The model that was named.
pub(crate) struct Source {
    path: PathBuf,
    /// Set where it has to be converted first.
    checkpoint: Option<Checkpoint>,
    dtype: DType,
    no_cache: bool,
    /// The folder of a model that is not to stay.
    scratch: RefCell<Option<Scratch>>,
}

impl Source {
    /// Looks at what `path` is; reads a checkpoint's table of tensors, nothing of their size.
    pub(crate) fn new(path: &Path, args: &CheckpointArgs) -> Result<Source> {
        let checkpoint = checkpoint::at(path)?;
        if checkpoint.is_none() && args.dtype.is_some() && (path.exists() || demo::is(path)) {
            return Err(Failure::usage(
                format!("{}: this is no checkpoint, its number formats stay", path.display()),
                "leave --type away, or give the checkpoint that it was made of",
            ));
        }
        Ok(Source {
            path: path.to_owned(),
            checkpoint,
            dtype: args.dtype.unwrap_or(DTYPE),
            no_cache: args.no_cache,
            scratch: RefCell::default(),
        })
    }

    /// [`new`](Self::new) for a model that others are compared with: a checkpoint becomes f32.
    pub(crate) fn exact(path: &Path, args: &CheckpointArgs) -> Result<Source> {
        let plain = CheckpointArgs { dtype: None, ..args.clone() };
        Ok(Source { dtype: DType::F32, ..Source::new(path, &plain)? })
    }

    /// Every file that an output must not be written onto.
    pub(crate) fn inputs(&self) -> Vec<PathBuf> {
        let mut inputs = self.checkpoint.as_ref().map(Checkpoint::inputs).unwrap_or_default();
        inputs.push(self.path.clone());
        inputs
    }

    /// The `.brk` file to open, converted first if need be. A temporary one goes away with this.
    pub(crate) fn ready(&self, quiet: bool) -> Result<PathBuf> {
        match &self.checkpoint {
            None => Ok(self.path.clone()),
            Some(checkpoint) => self.converted(checkpoint, quiet),
        }
    }

    /// The file that the checkpoint becomes, made first if it is not there.
    fn converted(&self, checkpoint: &Checkpoint, quiet: bool) -> Result<PathBuf> {
        let note = |text: String| {
            if !quiet {
                output::note(&format!("brooklet: note: {text}"));
            }
        };
        let (source, dtype) = (self.path.display(), self.dtype);
        if self.no_cache {
            let scratch = Scratch::new()?;
            let target = scratch.path().join("model.brk");
            // Kept before the work starts, so that a failure takes the folder away, too.
            *self.scratch.borrow_mut() = Some(scratch);
            note(format!("{source} is a checkpoint: converting it to {dtype} for this run"));
            self.convert(&target, quiet)?;
            return Ok(target);
        }
        let folder = cache::folder()?;
        let (prefix, name) = names(&self.path, checkpoint, dtype);
        let target = folder.join(&name);
        if BrkFile::open(&target).is_ok() {
            note(format!("{source} is a checkpoint: running {} ({dtype})", target.display()));
            return Ok(target);
        }
        fs::create_dir_all(&folder).map_err(|error| {
            Failure::with(
                format!("cannot create the cache folder {}: {error}", folder.display()),
                "set XDG_CACHE_HOME to a folder of yours, or use --no-cache",
            )
        })?;
        note(format!(
            "{source} is a checkpoint: converting it to {dtype} once, into {}",
            target.display()
        ));
        match self.convert(&target, quiet) {
            // Another run has made it, and the system replaces no file that is in use.
            Err(Failure::Error { .. }) if BrkFile::open(&target).is_ok() => {}
            done => done?,
        }
        remove_older(&folder, &prefix, &name);
        Ok(target)
    }

    fn convert(&self, target: &Path, quiet: bool) -> Result {
        // Whatever has the name there and is no model is ours, damaged.
        let options = ConvertOptions { force: true, ..ConvertOptions::new(self.dtype) };
        let summary = convert::with_progress(&self.path, target, &options, quiet)?;
        for note in summary.notes.iter().chain(&summary.tokenizer_note).filter(|_| !quiet) {
            output::note(&format!("brooklet: note: {note}"));
        }
        Ok(())
    }
}

/// The name in the cache folder of what a checkpoint becomes, and how the names of older versions
/// of it begin.
fn names(path: &Path, checkpoint: &Checkpoint, dtype: DType) -> (String, String) {
    let place = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let stem = place.file_stem().unwrap_or_default().to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let stem: String = stem.chars().filter(|c| plain(*c)).take(MAX_STEM).collect();
    let mut hasher = DefaultHasher::new();
    place.hash(&mut hasher);
    let prefix = format!("{stem}-{:08x}-{dtype}-", hasher.finish() as u32);

    let weights = checkpoint.files();
    let is_read = |path: &PathBuf| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        weights.contains(path) || ending.is_some_and(|ending| BESIDE.contains(&ending))
    };
    let mut files: Vec<_> = checkpoint
        .inputs()
        .into_iter()
        .filter(is_read)
        .filter_map(|path| Some((path.canonicalize().ok()?, stamp(&fs::metadata(&path).ok()?))))
        .collect();
    files.sort();
    files.dedup();
    (files, env!("CARGO_PKG_VERSION"), VERSION, brooklet_formats::brk::VERSION).hash(&mut hasher);
    let name = format!("{prefix}{:016x}.brk", hasher.finish());
    (prefix, name)
}

/// Size and age of a file.
fn stamp(found: &Metadata) -> (u64, Option<SystemTime>) {
    (found.len(), found.modified().ok())
}

/// Removes what older versions of a checkpoint became. Whoever runs one of them keeps it.
fn remove_older(folder: &Path, prefix: &str, name: &str) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let other = entry.file_name().to_string_lossy().into_owned();
        let number = other.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(".brk"));
        let is_ours = number.is_some_and(|n| n.len() == 16 && u64::from_str_radix(n, 16).is_ok());
        if is_ours && other != name {
            let _ = fs::remove_file(entry.path());
        }
    }
}
