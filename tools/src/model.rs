//! The model that an argument names: a `.brk` file as it is, a checkpoint by way of a conversion.
//!
//! A checkpoint is converted once into the cache folder. Not here: where it is kept there
//! (`brooklet_cached`), the conversion (`convert`), folders for one run (`cache`). Test:
//! `tests/cli/checkpoints.rs`.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use brooklet_cached::{DTYPE, Place};
use brooklet_formats::DType;
use brooklet_formats::checkpoint::Checkpoint;
use brooklet_formats::convert::ConvertOptions;

use crate::args;
use crate::cache::{self, Scratch};
use crate::checkpoint;
use crate::failure::{Failure, Result};
use crate::{convert, demo, output};

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
        let place = Place::new(cache::folder()?, &self.path, checkpoint, dtype);
        let target = place.file();
        if place.is_there() {
            note(format!("{source} is a checkpoint: running {} ({dtype})", target.display()));
            return Ok(target);
        }
        place.make_folder().map_err(|error| {
            Failure::with(
                format!("cannot create the cache folder {}: {error}", place.folder().display()),
                "set XDG_CACHE_HOME to a folder of yours, or use --no-cache",
            )
        })?;
        note(format!(
            "{source} is a checkpoint: converting it to {dtype} once, into {}",
            target.display()
        ));
        match self.convert(&target, quiet) {
            // Another run has made it, and the system replaces no file that is in use.
            Err(Failure::Error { .. }) if place.is_there() => {}
            done => done?,
        }
        place.remove_older();
        Ok(target)
    }

    fn convert(&self, target: &Path, quiet: bool) -> Result {
        // Whatever has the name there and is no model is ours, damaged.
        let options = ConvertOptions { force: true, ..ConvertOptions::new(self.dtype) };
        let summary = convert::with_progress((&self.path, &options), quiet, |progress| {
            brooklet_formats::convert::convert(&self.path, target, &options, progress)
        })?;
        for note in summary.notes.iter().chain(&summary.tokenizer_note).filter(|_| !quiet) {
            output::note(&format!("brooklet: note: {note}"));
        }
        Ok(())
    }
}
