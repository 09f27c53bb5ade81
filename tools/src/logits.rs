//! `brooklet logits`: the logits after every token of a list, as a NumPy file.
//!
//! For comparing engines, formats and machines. Rows are written as they come; memory is that of
//! one chunk. Not here: the file (`npy`). Test: `tests/cli/logits.rs`.

use std::path::{Path, PathBuf};

use brooklet::{Engine, Run, Want};
use brooklet_formats::atomic::Target;

use crate::args::{EngineArgs, OutputArgs};
use crate::failure::{Failure, Result};
use crate::input;
use crate::interrupt::Watch;
use crate::model::{CheckpointArgs, Source};
use crate::npy::{self, NpyWriter};
use crate::{output, progress};

/// Writes the logits after every token of a list.
///
/// The result is a NumPy array of f32, (n_tokens, n_vocab): row i holds the logits after token i.
/// The state is empty at the start.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet logits model.brk --ids ids.txt --out logits.npy
  brooklet tokenize model.brk < text.txt > ids.txt
  echo 1 2 3 | brooklet logits model.brk --ids - --out logits.npy --chunk 1")]
pub(crate) struct Args {
    /// The model: a .brk file, or a checkpoint, which is converted once into the cache folder
    model: PathBuf,
    /// Token ids, separated by white space; `-` is standard input
    #[arg(long, value_name = "FILE")]
    ids: PathBuf,
    /// The file to write
    #[arg(long, value_name = "OUT.npy")]
    out: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args, quiet: bool) -> Result {
    let source = Source::new(&args.model, &args.checkpoint)?;
    let inputs = source.inputs().into_iter().chain([args.ids.clone()]);
    let inputs = inputs.chain(input::standard().map(Path::to_owned));
    let target = Target::new(&args.out, npy::KIND, inputs);
    let target = target.force(args.output.force);
    npy::check(&target)?;
    let model = args.engine.open(&source.ready(quiet)?, quiet)?;
    let ids = read_ids(&args.ids, model.n_vocab())?;
    let watch = Watch::new();
    let mut engine = Engine::new(&model, &args.engine.options(&model, args.engine.chunk as usize)?);
    let mut state = model.new_state();
    let mut npy = NpyWriter::create(&target, ids.len(), model.n_vocab())?;
    let bar = progress::bar(ids.len() as u64, progress::Unit::Count, quiet);
    for tokens in ids.chunks(engine.chunk().min(engine.max_logits())) {
        watch.check()?;
        engine.forward(&mut [Run { state: &mut state, tokens, want: Want::All }])?;
        (0..tokens.len()).try_for_each(|row| npy.row(engine.logits(row)))?;
        bar.inc(tokens.len() as u64);
    }
    bar.finish_and_clear();
    npy.finish()?;
    if !quiet {
        output::note(&format!("{}: ({}, {}) f32", args.out.display(), ids.len(), model.n_vocab()));
    }
    Ok(())
}

/// Reads ids separated by white space, each below `n_vocab`.
fn read_ids(path: &Path, n_vocab: usize) -> Result<Vec<u32>> {
    let bytes = if path == Path::new("-") { input::read_stdin()? } else { input::read(path)? };
    let text = String::from_utf8_lossy(&bytes);
    let place = path.display();
    let ids = text.split_whitespace().enumerate().map(|(i, word)| match word.parse::<u64>() {
        Ok(id) if id < n_vocab as u64 => Ok(id as u32),
        Ok(id) => Err(Failure::with(
            format!(
                "{place}: token id {id} at position {i} (from 0) \
                 is outside the vocabulary of {n_vocab}"
            ),
            "check that the ids are this model's",
        )),
        Err(_) => Err(Failure::with(
            format!("{place}: \"{}\" at position {i} (from 0) is no token id", shorten(word)),
            "give whole numbers separated by white space",
        )),
    });
    let ids = ids.collect::<Result<Vec<_>>>()?;
    if ids.is_empty() {
        return Err(Failure::with(format!("{place}: no token ids"), "give at least one"));
    }
    Ok(ids)
}

/// The beginning of a word, for an error message.
fn shorten(word: &str) -> String {
    if word.chars().count() <= 24 {
        word.to_owned()
    } else {
        word.chars().take(24).collect::<String>() + "…"
    }
}
