//! `brooklet stretch`: a Mamba for longer texts than it was trained on.
//!
//! Arguments, progress and the summary; the work is `brooklet_quantize`. Test:
//! `tests/cli/stretch.rs`.

use std::ops::ControlFlow;
use std::path::PathBuf;

use brooklet_formats::atomic::Target;
use brooklet_formats::brk::{self, BrkFile};
use brooklet_quantize::{Stretch, Stretched, THRESHOLD, Text, stretch};
use serde_json::json;

use crate::args::OutputArgs;
use crate::failure::{Failure, Result};
use crate::interrupt::Watch;
use crate::{input, output, progress};

/// Writes a .brk file of a Mamba for longer texts than it was trained on, without training.
///
/// Channels that hold a token over the whole length of a training text leave out the tokens that
/// say least to them, so that they decay over LENGTH tokens as they did over those (LongMamba,
/// arXiv 2504.16053). `brooklet eval --by-position` shows what it is worth on a text; short texts
/// may lose.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet stretch mamba2.brk mamba2-16k.brk --length 16384
  brooklet stretch mamba2.brk mamba2-16k.brk --length 16384 --trained 2048 --text my-texts.txt
  brooklet eval mamba2.brk mamba2-16k.brk --text book.txt --by-position")]
pub(crate) struct Args {
    /// The model: a .brk file
    source: PathBuf,
    /// The file to write
    output: PathBuf,
    /// Tokens of the texts that it shall read
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    length: u32,
    /// Tokens of the texts that it was trained on [default: what the file says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    trained: Option<u32>,
    /// The text whose steps are looked at [default: a built-in one]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Channels are changed that hold this part of a token at the end of a training text
    #[arg(long, value_name = "P", default_value_t = THRESHOLD)]
    threshold: f64,
    #[command(flatten)]
    out: OutputArgs,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args, quiet: bool) -> Result {
    if !(args.threshold > 0.0 && args.threshold < 1.0) {
        let what =
            format!("--threshold: expected a number between 0 and 1, found {}", args.threshold);
        return Err(Failure::usage(what, "1e-30 is the default"));
    }
    let inputs: Vec<PathBuf> = [args.source.clone()].into_iter().chain(args.text.clone()).collect();
    Target::new(&args.output, brk::KIND, &inputs).force(args.out.force).check()?;
    let length = args.length as usize;
    let trained = match args.trained {
        Some(trained) => trained as usize,
        None => said(args)?,
    };
    if trained >= length {
        let what = format!("--length {length}: the model was trained on texts of {trained} tokens");
        return Err(Failure::usage(what, "give a greater length"));
    }
    let text = match &args.text {
        Some(path) => Text::Own(input::read(path)?),
        None => Text::BuiltIn,
    };
    let (threshold, force) = (args.threshold, args.out.force);
    let asked = Stretch { trained, length, threshold, text, force, inputs };
    let watch = Watch::new();
    let bar = progress::bar(0, progress::Unit::Parts, quiet);
    let stretched = stretch(&args.source, &args.output, &asked, &mut |step| {
        progress::show(&bar, step.done, step.total);
        bar.set_message(step.doing);
        if watch.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    watch.check()?;
    let Stretched { channels, global, left_out, tokens } = stretched?;
    if args.json {
        return output::json(&json!({
            "output": args.output.display().to_string(),
            "trained": trained,
            "length": length,
            "channels": channels,
            "global_channels": global,
            "left_out": left_out,
            "tokens": tokens,
        }));
    }
    if quiet {
        return Ok(());
    }
    output::text(&format!(
        "{}: for {length} tokens instead of {trained}: {global} of {channels} channels leave out \
         {:.1} % of their tokens\n",
        args.output.display(),
        100.0 * left_out
    ))
}

/// The length that the file says that its model was trained on.
fn said(args: &Args) -> Result<usize> {
    let file = BrkFile::open(&args.source)?;
    let n = file.meta().config.get("n_trained").and_then(|n| n.as_u64());
    let n = n.and_then(|n| usize::try_from(n).ok());
    n.ok_or_else(|| {
        let what = "its file does not say how long the texts were that it was trained on";
        let what = format!("{}: {what}", args.source.display());
        Failure::usage(what, "say it with --trained N (2048 for the Mambas of state-spaces)")
    })
}
