//! `brooklet eval`: how well a model predicts a text, and how near it stays to a reference model.
//!
//! One pass, the state kept over the whole text; all models read the same tokens, chunk by chunk.
//! Here: arguments and the pass. Not here: one model's reading (`reader`), a reference that a file
//! has kept (`saved`), what is printed (`report`) and drawn (`plot`), the statistics (`score`).
//! Test: `tests/cli/eval.rs`, and `score`'s own.

mod plot;
mod reader;
mod report;
mod saved;

use std::path::{Path, PathBuf};
use std::time::Instant;

use brooklet::Model;
use brooklet::horizon::INTERVAL;
use brooklet::tokenizer::Tokenizer;
use brooklet_formats::DType;

use self::reader::{Divergences, Reader};
use self::report::{Report, Times};
use self::saved::{Saved, SavedReference, SavingReference};
use crate::args::EngineArgs;
use crate::failure::{Failure, Result};
use crate::horizon::HorizonArgs;
use crate::input;
use crate::interrupt::Watch;
use crate::model::{CheckpointArgs, Source};
use crate::{output, progress};
use brooklet_quantize::score::LogProbs;

/// Measures how well models predict a text.
///
/// Gives nats per token, perplexity and bits per byte; every token but the first is scored, after
/// all that came before it. With --reference also how far a model's distributions are from the
/// reference's, after every token: mean (with the half-width of its 95 % confidence interval) and
/// 99th percentile of KL(reference || model) in nats, how often both hold the same token for the
/// likeliest, and how many of the reference's five likeliest are among the model's five.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet eval model.brk --text book.txt
  brooklet eval int4.brk int8.brk --text book.txt --max-tokens 20000 --reference f32.brk --json
  brooklet eval f32.brk --text book.txt --save-reference book.ref    # once, for a large model …
  brooklet eval int4.brk --text book.txt --reference book.ref        # … and then without it
  brooklet eval model.brk --text book.txt --live-state f16 --reference model.brk
  brooklet eval hybrid.brk --text book.txt --by-position --window 1024
  brooklet eval int4.brk int5.brk --text book.txt --reference f32.brk --csv kl.csv --svg kl.svg")]
pub(crate) struct Args {
    /// The models, with one tokenizer: .brk files, or checkpoints, which are converted once into
    /// the cache folder
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<PathBuf>,
    /// The text; `-` is standard input
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Read only the first N tokens of the text
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..))]
    max_tokens: Option<u64>,
    /// Compare with this model, which has the same tokenizer and keeps its states as f32 (a
    /// checkpoint is converted to f32), or with what --save-reference has kept of one
    #[arg(long, value_name = "MODEL2")]
    reference: Option<PathBuf>,
    /// Keep the model's distributions in a file: 2 bytes for each token of the text and of the
    /// vocabulary
    #[arg(long, value_name = "FILE", conflicts_with = "reference")]
    save_reference: Option<PathBuf>,
    /// Clear the state every N tokens (whose first is not scored) [default: never]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..))]
    clear_every: Option<u64>,
    /// Also score by the position in the text, in buckets of powers of two: with --window and
    /// without it, this shows the cost of forgetting
    #[arg(long)]
    by_position: bool,
    /// Write the scores by position as comma-separated values
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draw the scores by position: KL if there is a reference, else perplexity
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    horizon: HorizonArgs,
    /// Replace files that are there and are not of the kind that is written
    #[arg(long)]
    force: bool,
    /// Print one JSON object, of several models a list of them
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args, quiet: bool) -> Result {
    if args.save_reference.is_some() && args.models.len() > 1 {
        let what = "--save-reference of several models";
        return Err(Failure::usage(what, "name the one whose distributions are to be kept"));
    }
    let horizon = args.horizon.horizon();
    if horizon.is_some() && !(INTERVAL as u64).is_multiple_of(args.engine.chunk.into()) {
        let what = "--retention and --renewal come to a state at every 64th token";
        return Err(Failure::usage(what, "give --chunk 64, 32, 16 or less"));
    }
    let plots = plot::Targets::check(args)?;
    let sources = args.models.iter().map(|path| Source::new(path, &args.checkpoint));
    let sources = sources.collect::<Result<Vec<_>>>()?;
    let saved = args.reference.as_deref().map(Saved::open).transpose()?.flatten();
    let other = match (&args.reference, &saved) {
        (Some(path), None) => Some(Source::exact(path, &args.checkpoint)?),
        _ => None,
    };
    let models = sources.iter().map(|source| args.engine.open(&source.ready(quiet)?, quiet));
    let models = models.collect::<Result<Vec<Model>>>()?;
    let tokenizer = models[0].tokenizer()?;
    let exact = EngineArgs { live_state: DType::F32, ..args.engine.clone() };
    let reference =
        other.as_ref().map(|other| exact.open(&other.ready(quiet)?, quiet)).transpose()?;
    for other in models[1..].iter().chain(&reference) {
        check_same_vocabulary(&models[0], other)?;
    }
    let ids = tokens(args, &models[0], &tokenizer)?;

    let watch = Watch::new();
    let bar = progress::bar(ids.len() as u64, progress::Unit::Count, quiet);
    let start = Instant::now();
    let readers = models.iter().map(|model| Reader::new(model, &args.engine, horizon));
    let mut readers = readers.collect::<Result<Vec<_>>>()?;
    let mut divergences: Vec<_> = models.iter().map(|_| Divergences::default()).collect();
    let mut reference = match (saved, reference) {
        (Some(saved), _) => Reference::Saved(saved.read(&models[0], &ids, args.clear_every)?),
        (None, Some(model)) => Reference::Model(Box::new(Reader::new(&model, &args.engine, None)?)),
        (None, None) => Reference::None,
    };
    let mut saving = match &args.save_reference {
        Some(path) => {
            let about = (&models[0], ids.as_slice(), args.clear_every);
            Some(SavingReference::create(path, args.force, about)?)
        }
        None => None,
    };
    let (threads, mut scored_bytes) = (readers[0].threads(), 0);
    for window in ids.chunks(limit(args.clear_every)) {
        readers.iter_mut().for_each(Reader::reset);
        reference.reset();
        let mut position = 0;
        for chunk in window.chunks(args.engine.chunk as usize) {
            watch.check()?;
            let next = &window[position + 1..];
            let expected = reference.read(chunk, next)?;
            for (reader, divergences) in readers.iter_mut().zip(&mut divergences) {
                let distributions = reader.read(chunk, next)?;
                if let Some(expected) = &expected {
                    divergences.add((threads, position), expected, &distributions);
                }
                if let Some(saving) = &mut saving {
                    distributions.iter().try_for_each(|row| saving.add(row))?;
                }
            }
            position += chunk.len();
            bar.inc(chunk.len() as u64);
        }
        scored_bytes += tokenizer.decode(window)?.len() - tokenizer.decode(&window[..1])?.len();
    }
    bar.finish_and_clear();
    if let Some(saving) = saving {
        saving.finish()?;
    }

    let times = Times { tokens: ids.len(), scored_bytes, seconds: start.elapsed().as_secs_f64() };
    let against = args.reference.as_deref().map(|path| (name(path), reference.nats()));
    let reports: Vec<Report> = (args.models.iter().zip(&models).zip(&readers).zip(divergences))
        .map(|(((path, model), reader), divergences)| {
            let against = against.as_ref();
            Report::new(args, &times, (name(path), model), (reader, divergences), against)
        })
        .collect();
    plots.write(&reports)?;
    match (args.json, reports.as_slice()) {
        (true, [report]) => output::json(report),
        (true, reports) => output::json(&reports),
        (false, reports) => output::text(&report::text(reports, args.by_position)),
    }
}

/// What the models are compared with.
enum Reference {
    None,
    Model(Box<Reader>),
    Saved(SavedReference),
}

impl Reference {
    fn reset(&mut self) {
        if let Reference::Model(reader) = self {
            reader.reset();
        }
    }

    /// Its distributions after each token of the chunk.
    fn read(&mut self, chunk: &[u32], next: &[u32]) -> Result<Option<Vec<LogProbs<'_>>>> {
        Ok(match self {
            Reference::None => None,
            Reference::Model(reader) => Some(reader.read(chunk, next)?),
            Reference::Saved(saved) => Some(saved.next_rows(chunk, next)?),
        })
    }

    /// Its own nats per token.
    fn nats(&self) -> f64 {
        match self {
            Reference::None => f64::NAN,
            Reference::Model(reader) => reader.nats.mean(),
            Reference::Saved(saved) => saved.nats.mean(),
        }
    }
}

/// The tokens of the text.
fn tokens(args: &Args, model: &Model, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let from_pipe = args.text == Path::new("-");
    let bytes = if from_pipe { input::read_stdin()? } else { input::read(&args.text)? };
    let mut ids = tokenizer.encode(&bytes)?;
    ids.truncate(limit(args.max_tokens));
    if ids.len() < 2 {
        let text =
            if from_pipe { "standard input".into() } else { args.text.display().to_string() };
        let what = format!("{text} has {} tokens", ids.len());
        return Err(Failure::with(what, "give a text of two tokens or more"));
    }
    if let Some(id) = ids.iter().find(|&&id| id as usize >= model.n_vocab()) {
        let what = format!(
            "token id {id} of the text is outside the model's vocabulary of {}",
            model.n_vocab()
        );
        return Err(Failure::with(what, "convert the checkpoint again with its own tokenizer"));
    }
    Ok(ids)
}

/// Distributions can be compared only token by token.
fn check_same_vocabulary(model: &Model, reference: &Model) -> Result {
    let same_tokenizer = model.meta().tokenizer.kind == reference.meta().tokenizer.kind
        && *model.file().tokenizer_blob()? == *reference.file().tokenizer_blob()?;
    if model.n_vocab() == reference.n_vocab() && same_tokenizer {
        return Ok(());
    }
    let side = |model: &Model| {
        format!(
            "{} ({} tokens, {})",
            name(model.file().path()),
            model.n_vocab(),
            model.meta().tokenizer.kind.name()
        )
    };
    Err(Failure::with(
        format!("{} and {} have different vocabularies", side(model), side(reference)),
        "compare models with the same tokenizer",
    ))
}

/// `None` is no limit.
fn limit(n: Option<u64>) -> usize {
    n.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
