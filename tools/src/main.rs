//! The brooklet command line: argument parsing and exit codes.
//!
//! Each subcommand is one module beside this one, named as people type it; it takes its arguments
//! and returns `Result<(), Failure>`. Here is only what all of them share: the list, `--quiet`,
//! `--raw`, and how a failure becomes one line and an exit code (0 done, 1 failure, 2 wrong usage,
//! 130 interrupted, 143 terminated). No maths here, that is the engine's; nothing else prints.
//! Test: `tests/`, which runs the real binary.

#![forbid(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod batch;
mod bench;
mod budget;
mod cache;
mod card_memory;
mod chat;
mod check;
mod checkpoint;
mod completions;
mod compress;
mod convert;
mod coverage;
mod demo;
mod devices;
mod embed;
mod eval;
mod failure;
mod generate;
mod guesses;
mod horizon;
mod input;
mod inspect;
mod interrupt;
mod logits;
mod logprobs;
mod memory;
mod model;
mod npy;
mod output;
mod overrides;
mod progress;
mod prompt;
mod requantize;
mod run;
mod samples;
mod sampling;
mod saved;
mod score;
#[cfg(all(feature = "serve", any(unix, windows)))]
mod serve;
mod state;
mod stretch;
mod sums;
mod text;
mod tokenize;
mod units;
mod usage;
mod verify;
mod visible;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::failure::{Failure, one_line};

/// Runs recurrent language models (RWKV, Mamba) on this machine's processor.
#[derive(Parser)]
#[command(name = "brooklet", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "Examples:
  brooklet run \"Once upon a time\"
  brooklet convert rwkv7.pth -o rwkv7.brk --type int8
  brooklet run rwkv7.brk -p \"The captain\" -n 200
  brooklet bench --synthetic rwkv7-0.4b --type int4

`brooklet COMMAND --help` has more of them. \
Exit codes: 0 done, 1 failure, 2 wrong usage, 130 interrupted, 143 terminated.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print results and errors only: no notes, no progress bars
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Print texts as they are: do not show control and bidirectional characters as escapes
    #[arg(long, global = true)]
    raw: bool,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Chat(chat::Args),
    Convert(convert::Args),
    Requantize(requantize::Args),
    Stretch(stretch::Args),
    Inspect(inspect::Args),
    Verify(verify::Args),
    Check(check::Args),
    Devices(devices::Args),
    Tokenize(tokenize::Args),
    Logits(logits::Args),
    Eval(eval::Args),
    Score(score::Args),
    Embed(embed::Args),
    Batch(batch::Args),
    #[cfg(all(feature = "serve", any(unix, windows)))]
    Serve(Box<serve::Args>),
    Compress(compress::PackArgs),
    Decompress(compress::UnpackArgs),
    Bench(bench::Args),
    State(state::Args),
    Completions(completions::Args),
}

fn main() -> ExitCode {
    let mut command = usage::with_negative_numbers(Cli::command());
    let matches = command.try_get_matches_from_mut(std::env::args_os());
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return not_understood(&command, &error),
    };
    let quiet = cli.quiet;
    if cli.raw {
        output::set_raw();
    }
    interrupt::install();
    let done = match &cli.command {
        Command::Run(args) => run::run(args, quiet),
        Command::Chat(args) => chat::run(args, quiet),
        Command::Convert(args) => convert::run(args, quiet),
        Command::Requantize(args) => requantize::run(args, quiet),
        Command::Stretch(args) => stretch::run(args, quiet),
        Command::Inspect(args) => inspect::run(args, quiet),
        Command::Verify(args) => verify::run(args, quiet),
        Command::Check(args) => check::run(args),
        Command::Devices(args) => devices::run(args, quiet),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Logits(args) => logits::run(args, quiet),
        Command::Eval(args) => eval::run(args, quiet),
        Command::Score(args) => score::run(args, quiet),
        Command::Embed(args) => embed::run(args, quiet),
        Command::Batch(args) => batch::run(args, quiet),
        #[cfg(all(feature = "serve", any(unix, windows)))]
        Command::Serve(args) => serve::run(args, quiet),
        Command::Compress(args) => compress::pack(args, quiet),
        Command::Decompress(args) => compress::unpack(args, quiet),
        Command::Bench(args) => bench::run(args, quiet),
        Command::State(args) => state::run(args, quiet),
        Command::Completions(args) => completions::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(failure),
    }
}

/// Prints the line of a failure, if it has one, and gives the exit code.
fn report(failure: Failure) -> ExitCode {
    match failure {
        Failure::Error { what, mend, code } => {
            let line = match mend {
                Some(mend) => format!("brooklet: {what}: {mend}"),
                None => format!("brooklet: {what}"),
            };
            output::note(&one_line(&line));
            ExitCode::from(code)
        }
        Failure::Interrupted => ExitCode::from(interrupt::exit_code()),
        Failure::ClosedPipe => ExitCode::SUCCESS,
    }
}

/// Help and version go out as clap writes them; a usage error becomes one line.
fn not_understood(command: &clap::Command, error: &clap::Error) -> ExitCode {
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
        _ => report(usage::failure(command, error)),
    }
}
