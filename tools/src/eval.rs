//! `brooklet eval`: how well a model predicts a text, and how near it stays to a reference model.
//!
//! One pass, the state kept over the whole text. Here: arguments, the pass, the report; the
//! statistics are in `score`. Test: `tests/cli/eval.rs`, and `score`'s own.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread::Builder;
use std::time::Instant;

use brooklet::{Engine, Model, Run, State, Want};
use brooklet_formats::DType;
use serde::Serialize;

use crate::args::EngineArgs;
use crate::failure::{Failure, Result};
use crate::input;
use crate::interrupt::Watch;
use crate::model::{CheckpointArgs, Source};
use crate::score::{LogProbs, Mean, percentile};
use crate::{output, progress};

/// Measures how well a model predicts a text.
///
/// Gives nats per token, perplexity and bits per byte; every token but the first is scored, after
/// all that came before it. With --reference also how far the model's distributions are from the
/// reference's, after every token: mean and 99th percentile of KL(reference || model) in nats, and
/// how often both hold the same token for the likeliest.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet eval model.brk --text book.txt
  brooklet eval int4.brk --text book.txt --max-tokens 20000 --reference f32.brk --json
  brooklet eval model.brk --text book.txt --live-state f16 --reference model.brk
  brooklet eval hybrid.brk --text book.txt --by-position --window 1024")]
pub(crate) struct Args {
    /// The model: a .brk file, or a checkpoint, which is converted once into the cache folder
    model: PathBuf,
    /// The text; `-` is standard input
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Read only the first N tokens of the text
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..))]
    max_tokens: Option<u64>,
    /// Compare with this model, which has the same tokenizer and keeps its states as f32; a
    /// checkpoint is converted to f32
    #[arg(long, value_name = "MODEL2")]
    reference: Option<PathBuf>,
    /// Clear the state every N tokens (whose first is not scored) [default: never]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..))]
    clear_every: Option<u64>,
    /// Also score by the position in the text, in buckets of powers of two: with --window and
    /// without it, this shows the cost of forgetting
    #[arg(long)]
    by_position: bool,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The object that `--json` prints.
#[derive(Serialize)]
struct Report {
    model: String,
    /// Number format of its matrix states.
    state: &'static str,
    text: String,
    tokens: usize,
    scored_tokens: u64,
    scored_bytes: usize,
    nats_per_token: f64,
    perplexity: f64,
    bits_per_byte: f64,
    seconds: f64,
    tokens_per_second: f64,
    /// The window that was asked for.
    window: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    by_position: Vec<Bucket>,
    #[serde(flatten)]
    comparison: Option<Comparison>,
}

/// The tokens after so many others.
#[derive(Serialize)]
struct Bucket {
    /// The first position, counted from 0, and the first behind the last.
    from: u64,
    to: u64,
    scored_tokens: u64,
    nats_per_token: f64,
    perplexity: f64,
}

impl Bucket {
    /// That of the positions from 2ⁱ on.
    fn new((i, nats): (usize, &Mean)) -> Bucket {
        let (from, to) = (1 << i, 2 << i);
        let (scored_tokens, nats_per_token) = (nats.count, nats.mean());
        Bucket { from, to, scored_tokens, nats_per_token, perplexity: nats_per_token.exp() }
    }
}

/// How the model stands to the reference.
#[derive(Serialize)]
struct Comparison {
    reference: String,
    reference_nats_per_token: f64,
    kl_mean: f64,
    kl_p99: f64,
    kl_max: f64,
    top1_agreement: f64,
    compared_positions: usize,
}

/// Runs the command.
pub(crate) fn run(args: &Args, quiet: bool) -> Result {
    let source = Source::new(&args.model, &args.checkpoint)?;
    let other = args.reference.as_deref().map(|path| Source::exact(path, &args.checkpoint));
    let other = other.transpose()?;
    let model = args.engine.open(&source.ready(quiet)?)?;
    let tokenizer = model.tokenizer()?;
    let exact = EngineArgs { live_state: DType::F32, ..args.engine.clone() };
    let reference = other.as_ref().map(|other| exact.open(&other.ready(quiet)?)).transpose()?;
    if let Some(reference) = &reference {
        check_same_vocabulary(&model, reference)?;
    }
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

    let watch = Watch::new();
    let bar = progress::bar(ids.len() as u64, progress::Unit::Count, quiet);
    let start = Instant::now();
    let mut reader = Reader::new(&model, &args.engine)?;
    let threads = reader.engine.threads();
    let mut reference =
        reference.map(|reference| Reader::new(&reference, &args.engine)).transpose()?;
    let mut divergences = Divergences::default();
    let mut scored_bytes = 0;
    for window in ids.chunks(limit(args.clear_every)) {
        reader.state.reset();
        reference.iter_mut().for_each(|reference| reference.state.reset());
        let mut position = 0;
        for chunk in window.chunks(args.engine.chunk as usize) {
            watch.check()?;
            let next = &window[position + 1..];
            let distributions = reader.read(chunk, next)?;
            if let Some(reference) = &mut reference {
                divergences.add(threads, &reference.read(chunk, next)?, &distributions);
            }
            position += chunk.len();
            bar.inc(chunk.len() as u64);
        }
        scored_bytes += tokenizer.decode(window)?.len() - tokenizer.decode(&window[..1])?.len();
    }
    bar.finish_and_clear();

    let (nats, seconds) = (reader.nats, start.elapsed().as_secs_f64());
    let report = Report {
        model: name(&args.model),
        state: model.state_layout().dtype().name(),
        text: name(&args.text),
        tokens: ids.len(),
        scored_tokens: nats.count,
        scored_bytes,
        nats_per_token: nats.mean(),
        perplexity: nats.mean().exp(),
        bits_per_byte: nats.sum / std::f64::consts::LN_2 / scored_bytes as f64,
        seconds,
        tokens_per_second: ids.len() as f64 / seconds,
        window: model.state_layout().window(),
        by_position: match args.by_position {
            true => reader.by_position.iter().enumerate().map(Bucket::new).collect(),
            false => Vec::new(),
        },
        comparison: args
            .reference
            .as_deref()
            .zip(reference)
            .map(|(path, reference)| divergences.compare(name(path), reference.nats.mean())),
    };
    if args.json { output::json(&report) } else { output::text(&table(&report)) }
}

/// A model that reads the text, and its score so far.
struct Reader {
    engine: Engine,
    state: State,
    /// Of each token after those before it.
    nats: Mean,
    /// The same, of the tokens at position 2ⁱ and up to the next power.
    by_position: Vec<Mean>,
}

impl Reader {
    fn new(model: &Model, args: &EngineArgs) -> Result<Reader> {
        let engine = Engine::new(model, &args.options(model, args.chunk as usize)?);
        Ok(Reader {
            engine,
            state: model.new_state(),
            nats: Mean::default(),
            by_position: Vec::new(),
        })
    }

    /// Reads `chunk` and scores the tokens that follow each of its own; `next` begins with the
    /// second. Gives the distribution after each.
    fn read(&mut self, chunk: &[u32], next: &[u32]) -> Result<Vec<LogProbs<'_>>> {
        let position = self.state.position();
        self.engine.forward(&mut [Run {
            state: &mut self.state,
            tokens: chunk,
            want: Want::All,
        }])?;
        let rows: Vec<&[f32]> = (0..chunk.len()).map(|row| self.engine.logits(row)).collect();
        let distributions = on_threads(self.engine.threads(), &rows, |row| LogProbs::new(row));
        for (row, distribution) in distributions.iter().enumerate() {
            if !distribution.is_finite() {
                let place = position + row as u64;
                return Err(Failure::with(
                    format!("the logits after token {place} are not finite"),
                    "check the file with `brooklet verify`, and the checkpoint it was made from",
                ));
            }
            if let Some(&next) = next.get(row) {
                self.nats.add(-distribution.of(next));
                let bucket = (position + row as u64 + 1).ilog2() as usize;
                if self.by_position.len() <= bucket {
                    self.by_position.resize(bucket + 1, Mean::default());
                }
                self.by_position[bucket].add(-distribution.of(next));
            }
        }
        Ok(distributions)
    }
}

/// `f` of each item, in order. An item is done on one thread, so that the results do not depend on
/// how many there are.
fn on_threads<T: Sync, R: Send>(threads: usize, items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let run = &|part: &[T]| part.iter().map(&f).collect::<Vec<R>>();
    let mut parts = items.chunks(items.len().div_ceil(threads).max(1));
    let first = parts.next().unwrap_or_default();
    std::thread::scope(|scope| {
        // Where the system refuses a thread, this one does its part.
        let start = |part| Builder::new().spawn_scoped(scope, move || run(part)).map_err(|_| part);
        let rest: Vec<_> = parts.map(start).collect();
        let mut results = run(first);
        for part in rest {
            results.extend(match part {
                Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                Err(part) => run(part),
            });
        }
        results
    })
}

/// Distances from the reference, position by position.
#[derive(Default)]
struct Divergences {
    nats: Vec<f64>,
    agreed: usize,
}

impl Divergences {
    fn add(&mut self, threads: usize, reference: &[LogProbs<'_>], model: &[LogProbs<'_>]) {
        let pairs: Vec<_> = reference.iter().zip(model).collect();
        let compared = on_threads(threads, &pairs, |(reference, model)| {
            (reference.divergence_from(model), reference.likeliest() == model.likeliest())
        });
        for (nats, agreed) in compared {
            self.nats.push(nats);
            self.agreed += usize::from(agreed);
        }
    }

    fn compare(mut self, reference: String, reference_nats_per_token: f64) -> Comparison {
        self.nats.sort_by(f64::total_cmp);
        let positions = self.nats.len();
        Comparison {
            reference,
            reference_nats_per_token,
            kl_mean: self.nats.iter().sum::<f64>() / positions as f64,
            kl_p99: percentile(&self.nats, 99.0),
            kl_max: percentile(&self.nats, 100.0),
            top1_agreement: self.agreed as f64 / positions as f64,
            compared_positions: positions,
        }
    }
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

/// The report for people.
fn table(report: &Report) -> String {
    let mut text = format!(
        "{} with {} states on {}: {} tokens scored, {} bytes, {:.0} tokens/s\n",
        report.model,
        report.state,
        report.text,
        report.scored_tokens,
        report.scored_bytes,
        report.tokens_per_second
    );
    text += &format!("nats per token   {:>9.4}\n", report.nats_per_token);
    text += &format!("perplexity       {:>9.3}\n", report.perplexity);
    text += &format!("bits per byte    {:>9.4}\n", report.bits_per_byte);
    if !report.by_position.is_empty() {
        text += "by position        perplexity\n";
    }
    for bucket in &report.by_position {
        let positions = format!("{}-{}", bucket.from, bucket.to - 1);
        text += &format!("{positions:<16} {:>12.3}\n", bucket.perplexity);
    }
    if let Some(comparison) = &report.comparison {
        text += &format!(
            "against {}, {} positions:\n",
            comparison.reference, comparison.compared_positions
        );
        text += &format!("its nats/token   {:>9.4}\n", comparison.reference_nats_per_token);
        text += &format!("mean KL          {:>9.6} nats\n", comparison.kl_mean);
        text += &format!("99th percentile  {:>9.6} nats\n", comparison.kl_p99);
        text += &format!("top-1 agreement  {:>8.2} %\n", 100.0 * comparison.top1_agreement);
    }
    text
}

/// `None` is no limit.
fn limit(n: Option<u64>) -> usize {
    n.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
