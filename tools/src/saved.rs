//! `--state`, `--save-state`, `--state-type`: going on from a saved state, and saving one.
//!
//! `run` and `chat` share it. Not here: the file (`brooklet_formats::state_file`), the subcommands
//! of `brooklet state` (`state`). Test: `tests/cli/state.rs`.

use std::path::PathBuf;

use brooklet::sampler::Sampler;
use brooklet::{DType, Model, Snapshot};
use brooklet_formats::atomic::{AtomicFile, Target};
use brooklet_formats::state_file;

use crate::failure::{Failure, Result};

/// Tokens kept with a state, so that text can go on inside a character.
const TAIL: usize = 16;

/// Where a state comes from, and where it goes.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "State")]
pub(crate) struct StateArgs {
    /// Go on from a saved state (.brks), with its random numbers and penalties unless --seed is
    /// another
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    /// Save the state at the end, also after Ctrl-C
    #[arg(long, value_name = "FILE")]
    pub(crate) save_state: Option<PathBuf>,
    /// Number format of the saved state: f32 (exact), f16 or int8
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = state_type)]
    pub(crate) state_type: DType,
    /// Replace what stands at --save-state though it is no state file (what the command reads is
    /// never replaced)
    #[arg(long, requires = "save_state")]
    pub(crate) force: bool,
}

/// A number format that state files have.
pub(crate) fn state_type(name: &str) -> Result<DType, String> {
    let known = state_file::FORMATS.into_iter().find(|dtype| dtype.name() == name);
    known.ok_or_else(|| "expected f32, f16 or int8".to_owned())
}

impl StateArgs {
    /// Where the state goes, if that was said; fails if it must not be written there, or cannot.
    /// `inputs` is what the command reads. The state that it goes on from is not among them:
    /// `--state FILE --save-state FILE` moves FILE on.
    pub(crate) fn target<I>(&self, inputs: I) -> Result<Option<Target>>
    where
        I: IntoIterator<Item: Into<PathBuf>>,
    {
        let Some(path) = &self.save_state else { return Ok(None) };
        let target = Target::new(path, state_file::KIND, inputs).force(self.force);
        AtomicFile::create(&target)?;
        Ok(Some(target))
    }

    /// The saved state, if one was named.
    pub(crate) fn load(&self, model: &Model) -> Result<Option<Snapshot>> {
        self.state.as_ref().map(|path| Ok(Snapshot::load(model, path)?)).transpose()
    }

    /// Lets `sampler` go on where the one of the snapshot stopped; the seed `given`, if it is
    /// another, starts afresh.
    pub(crate) fn restore(sampler: &mut Sampler, saved: &Snapshot, given: Option<u64>) -> Result {
        let Some(state) = &saved.sampler else { return Ok(()) };
        sampler.restore(state)?;
        if let Some(seed) = given.filter(|seed| *seed != state.seed()) {
            sampler.reseed(seed);
        }
        Ok(())
    }

    /// Saves a snapshot whose sequence ends with `tail`, then `unread` if that is not the end of
    /// it.
    pub(crate) fn save(
        &self,
        target: &Target,
        snapshot: Snapshot,
        tail: &[u32],
        unread: &[u32],
    ) -> Result {
        let mut tail = tail[tail.len().saturating_sub(TAIL)..].to_vec();
        // A token that ended the text is not among those written.
        if !tail.ends_with(unread) {
            tail.extend(unread);
        }
        let logits = if unread.is_empty() { snapshot.logits } else { Vec::new() };
        Ok(Snapshot { tail, unread: unread.len(), logits, ..snapshot }
            .save_to(target, self.state_type)?)
    }
}

/// The failure of a state that nothing follows from.
pub(crate) fn needs_a_prompt(path: Option<&PathBuf>) -> Failure {
    let path = path.map_or(String::new(), |path| path.display().to_string());
    Failure::with(
        format!("{path}: the state begins a text, it has no token to go on from"),
        "give a prompt with -p",
    )
}
