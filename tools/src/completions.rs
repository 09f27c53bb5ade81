//! `brooklet completions`: a script that lets a shell complete commands and options.
//!
//! Made by `clap_complete` from the arguments themselves. Test: `tests/cli/errors.rs`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::failure::Result;
use crate::output;

/// Writes a completion script for a shell.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  brooklet completions bash > ~/.local/share/bash-completion/completions/brooklet")]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "brooklet", &mut script);
    output::verbatim(&script)
}
