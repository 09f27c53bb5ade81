//! `brooklet compress` and `brooklet decompress`: texts packed by a model's own predictions.
//!
//! Arguments, progress, files; the rest is `brooklet::coding`. Test: `tests/cli/compress.rs`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use brooklet::coding::{self, ArchiveInfo, MAGIC};
use brooklet_formats::atomic::{AtomicFile, Kind, Target};
use serde_json::json;

use crate::args::{EngineArgs, OutputArgs};
use crate::failure::{Failure, Result};
use crate::interrupt::Watch;
use crate::model::{CheckpointArgs, Source};
use crate::{demo, input, output, progress, units};

const KIND: Kind = Kind { name: ".brkz", magic: &MAGIC };

/// Packs a text by a model's own predictions, without loss.
///
/// A text that the model foresees becomes small: novels 1.2 bits per byte with 28 million weights
/// trained on others, where xz needs 2.4. Packing takes the time of reading it as a prompt,
/// unpacking that of writing it. Only the same model file unpacks it: with int4 to int8 on any
/// machine, in other formats maybe only on processors of the same kind.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet compress model.brk book.txt -o book.brkz
  brooklet decompress model.brk book.brkz -o book.txt
  cat *.log | brooklet compress model.brk - -o logs.brkz")]
pub(crate) struct PackArgs {
    /// The model: a .brk file, or a checkpoint, which is converted once into the cache folder
    model: PathBuf,
    /// The text; `-` is standard input
    text: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "OUT.brkz")]
    output: PathBuf,
    /// Forget after so many tokens [default: never, or at the end of the model's context]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u64).range(1..))]
    clear_every: Option<u64>,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    out: OutputArgs,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
}

/// Unpacks a text that `brooklet compress` has packed with the same model.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet decompress model.brk book.brkz -o book.txt
  brooklet decompress model.brk book.brkz | less")]
pub(crate) struct UnpackArgs {
    /// The model: a .brk file, or a checkpoint, which is converted once into the cache folder
    model: PathBuf,
    /// The packed text
    archive: PathBuf,
    /// The file to write [default: standard output]
    #[arg(short, long, value_name = "TEXT")]
    output: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    out: OutputArgs,
}

/// Runs `compress`.
pub(crate) fn pack(args: &PackArgs, quiet: bool) -> Result {
    let is_stream = args.text == Path::new("-");
    let path = demo::model_or_demo(Some(&args.model))?;
    let source = Source::new(&path, &args.checkpoint)?;
    let inputs = source.inputs().into_iter().chain([args.text.clone()]);
    let inputs = inputs.chain(input::standard().map(Path::to_owned));
    let target = Target::new(&args.output, KIND, inputs).force(args.out.force);
    target.check()?;
    let text = if is_stream { input::read_stdin()? } else { input::read(&args.text)? };
    let model = demo::open(&source.ready(quiet)?, &args.engine, quiet)?;
    let context = model.state_layout().context().map_or(0, |n| n as u64);
    let start = Instant::now();
    let options = args.engine.options(&model, args.engine.chunk as usize)?;
    let clear_every = args.clear_every.unwrap_or(context);
    let packed = watched(quiet, |progress| {
        coding::compress(&model, &options, &text, clear_every, progress)
    })?;
    let (info, code) = ArchiveInfo::read(&packed)?;
    let mut file = AtomicFile::create(&target)?;
    file.write(&packed)?;
    file.publish(&[])?;
    let seconds = start.elapsed().as_secs_f64();
    // Of the code: the header is the same for any length.
    let bits = 8.0 * code.len() as f64 / text.len().max(1) as f64;
    if args.json {
        return output::json(&json!({
            "output": args.output.display().to_string(),
            "model": path.display().to_string(),
            "bytes": text.len(),
            "packed_bytes": packed.len(),
            "tokens": info.tokens,
            "bits_per_byte": bits,
            "clear_every": clear_every,
            "seconds": seconds,
        }));
    }
    if quiet {
        return Ok(());
    }
    output::text(&format!(
        "{}: {} -> {}, {bits:.3} bits per byte, {:.0} tokens/s\n",
        args.output.display(),
        units::bytes(text.len() as u64),
        units::bytes(packed.len() as u64),
        info.tokens as f64 / seconds.max(1e-9),
    ))
}

/// Runs `decompress`.
pub(crate) fn unpack(args: &UnpackArgs, quiet: bool) -> Result {
    let path = demo::model_or_demo(Some(&args.model))?;
    let source = Source::new(&path, &args.checkpoint)?;
    let inputs = source.inputs().into_iter().chain([args.archive.clone()]);
    let target = match &args.output {
        Some(output) if output.exists() && !args.out.force => {
            let what = format!("{}: it is there", output.display());
            return Err(Failure::with(what, "say --force to replace it"));
        }
        // Whatever is there may be replaced, but for what is read.
        Some(output) => Some(Target::new(output, KIND, inputs).force(true)),
        None => None,
    };
    if let Some(target) = &target {
        target.check()?;
    }
    let packed = input::read(&args.archive)?;
    let in_archive = |error| Failure::new(format!("{}: {error}", args.archive.display()));
    ArchiveInfo::read(&packed).map_err(in_archive)?;
    let model = demo::open(&source.ready(quiet)?, &args.engine, quiet)?;
    let options = args.engine.options(&model, 1)?;
    let unpacked =
        watched(quiet, |progress| coding::decompress(&model, &options, &packed, progress));
    let text = match unpacked {
        Err(Unpacking::Failed(error)) => return Err(in_archive(error)),
        Err(Unpacking::Interrupted(failure)) => return Err(failure),
        Ok(text) => text,
    };
    match &target {
        Some(target) => {
            let mut file = AtomicFile::create(target)?;
            file.write(&text)?;
            file.publish(&[])?;
            Ok(())
        }
        None => output::generated(&text),
    }
}

/// Why there is no result.
enum Unpacking {
    Failed(brooklet::EngineError),
    Interrupted(Failure),
}

impl From<Unpacking> for Failure {
    fn from(unpacking: Unpacking) -> Failure {
        match unpacking {
            Unpacking::Failed(error) => error.into(),
            Unpacking::Interrupted(failure) => failure,
        }
    }
}

/// Runs `work` under a progress bar, until Ctrl-C.
fn watched<T>(
    quiet: bool,
    work: impl FnOnce(&mut dyn FnMut(u64, u64) -> bool) -> brooklet::Result<Option<T>>,
) -> Result<T, Unpacking> {
    let watch = Watch::new();
    let bar = progress::bar(0, progress::Unit::Count, quiet);
    let done = work(&mut |done, total| {
        progress::show(&bar, done, total);
        !watch.requested()
    });
    bar.finish_and_clear();
    match done {
        Ok(Some(done)) => Ok(done),
        Ok(None) => Err(Unpacking::Interrupted(Failure::Interrupted)),
        Err(error) => Err(Unpacking::Failed(error)),
    }
}
