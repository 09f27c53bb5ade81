//! Arguments that several subcommands share.
//!
//! Not here: what one subcommand alone takes. Test: `tests/`.

use brooklet::{DEFAULT_CHUNK, EngineOptions};
use brooklet_formats::DType;

use crate::failure::{Failure, Result};

/// How the forward pass is cut and spread.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct EngineArgs {
    /// Threads [default: one per processor]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Tokens per forward pass while reading a prompt; more is faster up to a point, and takes more memory
    #[arg(long, value_name = "C", default_value_t = DEFAULT_CHUNK as u32,
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) chunk: u32,
}

impl EngineArgs {
    /// Options of an engine that computes up to `logits` rows of logits per pass.
    pub(crate) fn options(&self, logits: usize) -> EngineOptions {
        EngineOptions { threads: self.threads.map_or(0, usize::from), chunk: self.chunk as usize, logits }
    }
}

/// The groups that a format may have, checked against it.
pub(crate) fn group_of(dtype: DType, group: Option<usize>) -> Result<usize> {
    match group {
        None => Ok(dtype.default_group()),
        Some(_) if !dtype.has_scales() => {
            Err(Failure::usage(format!("{dtype} has no scales to share"), "leave --group away"))
        }
        Some(group @ (32 | 64 | 128)) => Ok(group),
        Some(group) => Err(Failure::usage(format!("a group of {group} columns"), "give 32, 64 or 128")),
    }
}

/// The names of all number formats, for help texts.
pub(crate) fn dtype(name: &str) -> Result<DType, String> {
    name.parse::<DType>().map_err(|error| error.to_string())
}
