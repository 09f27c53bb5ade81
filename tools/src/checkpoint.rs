//! The kind of thing that an argument names: a model of ours, or a checkpoint of others. Test:
//! `tests/cli/checkpoints.rs`.

use std::path::Path;

use brooklet_formats::checkpoint::Checkpoint;

use crate::demo;
use crate::failure::Result;

/// The checkpoint at `path`, if it is one. What is neither that nor a model is left to whoever
/// opens it as a model, who has the words for it.
pub(crate) fn at(path: &Path) -> Result<Option<Checkpoint>> {
    if demo::is(path) { Ok(None) } else { Ok(brooklet_cached::checkpoint_at(path)?) }
}
