//! The kind of thing that an argument names: a model of ours, or a checkpoint of others. Test:
//! `tests/cli/checkpoints.rs`.

use std::fs;
use std::path::Path;

use brooklet_formats::FormatError;
use brooklet_formats::brk;
use brooklet_formats::checkpoint::Checkpoint;

use crate::demo;
use crate::failure::Result;

/// The checkpoint at `path`, if it is one. What is neither that nor a model is left to whoever
/// opens it as a model, who has the words for it.
pub(crate) fn at(path: &Path) -> Result<Option<Checkpoint>> {
    if demo::is(path) || brk::KIND.recognises(path) {
        return Ok(None);
    }
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(Some(Checkpoint::open(path)?)),
        Ok(found) if found.is_file() => match Checkpoint::open(path) {
            Ok(checkpoint) => Ok(Some(checkpoint)),
            Err(FormatError::NotAModel { .. } | FormatError::Io { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        },
        _ => Ok(None),
    }
}
