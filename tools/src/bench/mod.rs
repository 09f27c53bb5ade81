//! `brooklet bench`: how fast a model reads prompts and decodes here, and how near that is to the machine's limits.
//!
//! Here: arguments, what a token costs in bytes and multiplications, the report. Not here: the timed runs (`measure`), models
//! to measure without a download (`shapes`, `synthetic`). Test: `tests/cli/bench.rs`.

mod measure;
mod shapes;
mod synthetic;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use brooklet::{Engine, Model, Run, Want};
use brooklet_formats::DType;
use brooklet_formats::brk::{Layout, TensorInfo};
use serde::Serialize;

use self::measure::{Plan, Rate};
use self::shapes::{SHAPES, Shape};
use crate::args::{self, EngineArgs};
use crate::failure::{Failure, Result};
use crate::inspect::touched_per_token;
use crate::interrupt::Watch;
use crate::{memory, output, units};

/// Measures how fast a model reads prompts and decodes on this machine.
///
/// Every figure is the median of several repetitions, prompt and decoding in turn. Tokens are pseudo-random ids and nothing is
/// sampled. GB/s counts the bytes that one step has to read or write: every matrix but the embedding table, and twice the
/// state of each sequence. MB is 10^6 bytes.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet bench model.brk
  brooklet bench model.brk -p 0 -n 256 --threads 1
  brooklet bench model.brk -b 8 --json
  brooklet bench --synthetic rwkv7-0.4b --type int4")]
pub(crate) struct Args {
    /// The model (.brk)
    #[arg(required_unless_present = "synthetic", conflicts_with = "synthetic")]
    model: Option<PathBuf>,
    /// Tokens of the prompt; 0 skips it
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    prompt: usize,
    /// Tokens to decode; 0 skips it
    #[arg(short, long, value_name = "N", default_value_t = 128)]
    n: usize,
    /// Sequences decoded together
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: u16,
    /// Repetitions, whose median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: u16,
    /// Measure a model of these real dimensions with random weights, kept in the cache folder
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(SHAPES.map(|s| s.name)))]
    synthetic: Option<String>,
    /// Number format of the synthetic model
    #[arg(long = "type", value_name = "TYPE", default_value = "int4", value_parser = args::dtype, conflicts_with = "model")]
    dtype: DType,
    /// Columns that share a scale in the synthetic model: 32, 64 or 128
    #[arg(long, value_name = "G", conflicts_with = "model")]
    group: Option<usize>,
    #[command(flatten)]
    engine: EngineArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints. Rates that were not asked for are null.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    architecture: String,
    isa: &'static str,
    threads: usize,
    chunk: usize,
    sequences: usize,
    prompt: usize,
    decode: usize,
    repeat: usize,
    /// Medians, tokens per second; decoding counts all sequences together.
    prefill_tps: Option<f64>,
    decode_tps: Option<f64>,
    prefill_tps_all: Vec<f64>,
    decode_tps_all: Vec<f64>,
    /// Bytes of weights and twice the state per decoding step, over its time.
    decode_gbps: Option<f64>,
    /// Multiply-adds of all matrices but the head, over the prompt's time.
    prefill_gmacs: Option<f64>,
    weights_mb: f64,
    state_mb: f64,
    file_mb: f64,
    peak_rss_mb: f64,
    /// Opening the file.
    open_ms: f64,
    /// From the start of opening to the logits after one token.
    first_token_ms: f64,
}

/// What one token costs.
struct Cost {
    /// Bytes of tensors that a step reads.
    weight_bytes: u64,
    state_bytes: u64,
    /// Multiply-adds per token of a prompt: all matrices but the head.
    macs: u64,
}

/// Runs the command.
pub(crate) fn run(args: &Args, quiet: bool) -> Result {
    let path = match (&args.model, &args.synthetic) {
        (Some(path), _) => path.clone(),
        (None, Some(name)) => {
            let shape = Shape::named(name).ok_or_else(|| Failure::new(format!("no size {name}")))?;
            synthetic::model(shape, args.dtype, args::group_of(args.dtype, args.group)?, quiet)?
        }
        (None, None) => return Err(Failure::usage("no model", "name one, or use --synthetic")),
    };
    let report = measure_file(&path, args)?;
    if args.json { output::json(&report) } else { output::text(&table(&report)) }
}

fn measure_file(path: &std::path::Path, args: &Args) -> Result<Report> {
    let sequences = usize::from(args.batch);
    let watch = Watch::new();
    memory::reset_peak();
    let start = Instant::now();
    let model = args.engine.open(path)?;
    let open = start.elapsed();
    let mut options = args.engine.options(sequences);
    options.chunk = options.chunk.max(sequences);
    let mut engine = Engine::new(&model, &options);
    engine.forward(&mut [Run { state: &mut model.new_state(), tokens: &[0], want: Want::Last }])?;
    let first_token = start.elapsed();

    let repeat = usize::from(args.repeat);
    let plan = Plan { prompt: args.prompt, decode: args.n, sequences, repeat };
    let rates = measure::run(&mut engine, plan, &watch, |_| {})?;
    let cost = Cost::of(&model);
    let median = |rate: &Option<Rate>| rate.as_ref().map(|rate| rate.median);
    let (prefill_tps, decode_tps) = (median(&rates.prefill), median(&rates.decode));
    let step_bytes = cost.weight_bytes as f64 + 2.0 * cost.state_bytes as f64 * sequences as f64;
    let all = |rate: Option<Rate>| rate.map_or(Vec::new(), |rate| rate.all);
    Ok(Report {
        model: path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        architecture: model.meta().architecture.clone(),
        isa: model.isa().name(),
        threads: engine.threads(),
        chunk: engine.chunk(),
        sequences,
        prompt: args.prompt,
        decode: args.n,
        repeat,
        prefill_tps,
        decode_tps,
        prefill_tps_all: all(rates.prefill),
        decode_tps_all: all(rates.decode),
        decode_gbps: decode_tps.map(|tps| tps / sequences as f64 * step_bytes / 1e9),
        prefill_gmacs: prefill_tps.map(|tps| tps * cost.macs as f64 / 1e9),
        weights_mb: mb(cost.weight_bytes),
        state_mb: mb(cost.state_bytes),
        file_mb: mb(model.file().file_len()),
        peak_rss_mb: mb(memory::peak()),
        open_ms: ms(open),
        first_token_ms: ms(first_token),
    })
}

impl Cost {
    fn of(model: &Model) -> Cost {
        let tensors = model.file().tensors();
        let body = |tensor: &&TensorInfo| {
            tensor.layout == Layout::Tiles && tensor.name != "head" && tensor.name != "embed"
        };
        Cost {
            weight_bytes: touched_per_token(tensors),
            state_bytes: model.state_layout().bytes() as u64,
            macs: tensors.iter().filter(body).map(TensorInfo::n_elements).sum(),
        }
    }
}

/// The report for people.
fn table(report: &Report) -> String {
    let mut lines = vec![format!(
        "{} · {} · {} · {} thread{} · chunk {}",
        report.model,
        report.architecture,
        report.isa,
        report.threads,
        if report.threads == 1 { "" } else { "s" },
        report.chunk
    )];
    if let (Some(tps), Some(gmacs)) = (report.prefill_tps, report.prefill_gmacs) {
        lines.push(format!("prefill {:<6} {tps:>9.1} tokens/s   {gmacs:.1} GMAC/s", report.prompt));
    }
    if let (Some(tps), Some(gbps)) = (report.decode_tps, report.decode_gbps) {
        let times = if report.sequences == 1 { String::new() } else { format!(" × {}", report.sequences) };
        lines.push(format!(
            "decode  {:<6} {tps:>9.1} tokens/s   {gbps:.1} GB/s ({:.1} MB of weights, 2 × {:.1} MB of state{times})",
            report.decode, report.weights_mb, report.state_mb
        ));
    }
    let peak = units::bytes((report.peak_rss_mb * 1e6) as u64);
    lines.push(format!("peak memory    {peak:>9}   (file {:.1} MB)", report.file_mb));
    lines.push(format!("open           {:>9.2} ms", report.open_ms));
    lines.push(format!("first token    {:>9.2} ms", report.first_token_ms));
    lines.join("\n") + "\n"
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
