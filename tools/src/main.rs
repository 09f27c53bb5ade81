//! The brooklet command line: argument parsing and exit codes.
//!
//! Each subcommand is one module beside this one, named as people type it; it takes its arguments and returns
//! `Result<(), Failure>`. Here is only what all of them share: the list, `--quiet`, and how a failure becomes one line and
//! an exit code (0 done, 1 failure, 2 wrong usage, 130 interrupted). No maths here, that is the engine's; nothing else
//! prints. Test: `tests/`, which runs the real binary.

#![forbid(unsafe_code)]

mod args;
mod bench;
mod failure;
mod interrupt;
mod memory;
mod output;
mod progress;
mod units;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use crate::failure::Failure;

/// Runs recurrent language models (RWKV, Mamba) on this machine's processor.
#[derive(Parser)]
#[command(name = "brooklet", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "Examples:
  brooklet bench --synthetic rwkv7-0.4b --type int4

`brooklet COMMAND --help` has more of them. Exit codes: 0 done, 1 failure, 2 wrong usage, 130 interrupted.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print results and errors only: no notes, no progress bars
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let quiet = cli.quiet;
    interrupt::install();
    let done = match &cli.command {
        Command::Bench(args) => bench::run(args, quiet),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Help and version go out as clap writes them; a usage error becomes one line.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed pipe (`| head`) is no failure.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(failure::USAGE)
        }
        _ => Failure::usage(failure::one_line(&error.to_string()), help_of(error)).report(),
    }
}

/// Where to read on: the help of the subcommand that was typed.
fn help_of(_: &clap::Error) -> String {
    let typed = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let known = typed.filter(|name| Cli::command().find_subcommand(name).is_some());
    format!("try `brooklet {}--help`", known.map(|name| name + " ").unwrap_or_default())
}
