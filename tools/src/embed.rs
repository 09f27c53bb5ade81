//! `brooklet embed`: a vector for each text.
//!
//! Arguments and files; the vectors are `brooklet::score`'s. Test: `tests/cli/embed.rs`.

use std::path::PathBuf;

use brooklet::{Engine, Pooling, Text, score};
use brooklet_formats::atomic::Target;
use serde::Serialize;

use crate::args::{EngineArgs, OutputArgs};
use crate::failure::{Failure, Result};
use crate::interrupt::Watch;
use crate::model::{CheckpointArgs, Source};
use crate::npy::{self, NpyWriter};
use crate::{demo, input, output, progress};

/// Makes embeddings of texts.
///
/// Each line of the file is a text, and becomes a vector: the model's hidden state behind the final
/// norm, after the last token or as the mean over all. Many short texts are read in one pass. The
/// result is a NumPy array of f32, (texts, width), or one JSON object in each line.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet embed model.brk -f lines.txt --out vectors.npy
  brooklet embed model.brk -f lines.txt --pooling mean --normalize > vectors.jsonl
  brooklet embed model.brk -p \"a storm at sea\"")]
pub(crate) struct Args {
    /// The model: a .brk file, or a checkpoint, which is converted once into the cache folder
    model: PathBuf,
    /// A text. May be given several times
    #[arg(
        short,
        long,
        value_name = "TEXT",
        required_unless_present = "file",
        allow_hyphen_values = true
    )]
    prompt: Vec<String>,
    /// Texts, one in each line; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The hidden state that counts: after the last token, or the mean over all
    #[arg(long, value_name = "HOW", default_value = "last")]
    pooling: Pool,
    /// Give every vector the length 1
    #[arg(long)]
    normalize: bool,
    /// Write a NumPy array [default: JSON lines on standard output]
    #[arg(long, value_name = "OUT.npy")]
    out: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
}

/// [`Pooling`] as it is typed.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Pool {
    Last,
    Mean,
}

/// A line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    index: usize,
    tokens: usize,
    embedding: &'a [f32],
}

/// Runs the command.
pub(crate) fn run(args: &Args, quiet: bool) -> Result {
    let path = demo::model_or_demo(Some(&args.model))?;
    let source = Source::new(&path, &args.checkpoint)?;
    let inputs = source.inputs().into_iter().chain(args.file.clone());
    let inputs = inputs.chain(input::standard().map(PathBuf::from));
    let target =
        args.out.as_ref().map(|out| Target::new(out, npy::KIND, inputs).force(args.output.force));
    if let Some(target) = &target {
        npy::check(target)?;
    }
    let mut texts = args.prompt.clone();
    if let Some(file) = &args.file {
        texts.extend(input::lines(file)?);
    }
    if texts.is_empty() {
        return Err(Failure::usage("there are no texts", "give some with -p, or in a file"));
    }
    let model = demo::open(&source.ready(quiet)?, &args.engine, quiet)?;
    let words = Text::of(&model)?;
    let ids = texts.iter().map(|text| Ok(words.prompt(text.as_bytes())?));
    let ids = ids.collect::<Result<Vec<Vec<u32>>>>()?;
    let mut engine = Engine::new(&model, &args.engine.options(&model, 1)?);
    let all: usize = ids.iter().map(Vec::len).sum();
    let bar = progress::bar(all as u64, progress::Unit::Count, quiet);
    let watch = Watch::new();
    let pooling = match args.pooling {
        Pool::Last => Pooling::Last,
        Pool::Mean => Pooling::Mean,
    };
    let each: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let vectors = score::embeddings(&mut engine, &each, pooling, |n| {
        bar.set_position(n as u64);
        !watch.requested()
    })?;
    bar.finish_and_clear();
    let mut vectors = vectors.ok_or(Failure::Interrupted)?;
    if args.normalize {
        vectors.iter_mut().for_each(|vector| normalize(vector));
    }
    match &target {
        Some(target) => {
            let mut npy = NpyWriter::create(target, vectors.len(), model.d_model())?;
            vectors.iter().try_for_each(|vector| npy.row(vector))?;
            npy.finish()?;
            if !quiet {
                let (n, width) = (vectors.len(), model.d_model());
                output::note(&format!("{}: ({n}, {width}) f32", target.path().display()));
            }
            Ok(())
        }
        None => vectors.iter().zip(&ids).enumerate().try_for_each(|(index, (vector, ids))| {
            output::json_line(&Line { index, tokens: ids.len(), embedding: vector })
        }),
    }
}

/// Divides a vector by its length, unless that is 0.
fn normalize(vector: &mut [f32]) {
    let square: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    if square > 0.0 {
        let length = square.sqrt();
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}
