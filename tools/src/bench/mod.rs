//! `brooklet bench`: how fast a model reads prompts and decodes here, and how near that is to the
//! machine's limits.
//!
//! Here: arguments and the order of the measurements. Not here: the timed runs (`measure`), the
//! machine's limits (`limits`, `device`), guesses (`guesses`), text (`writing`), what the figures
//! mean (`report`), models to measure without a download (`shapes`, `synthetic`). Test:
//! `tests/cli/bench.rs`.

mod device;
mod endurance;
mod guesses;
mod limits;
mod measure;
mod report;
mod several;
mod shapes;
mod synthetic;
mod writing;

use std::path::{Path, PathBuf};
use std::time::Instant;

use brooklet::{Device, Engine, EngineError, EngineOptions, Isa, Model, Run, Want};
use brooklet_formats::DType;
use brooklet_formats::convert::ConvertOptions;

use self::device::DeviceProbe;
use self::limits::{Limits, Probe};
use self::measure::Plan;
use self::report::{Report, Setting};
use self::shapes::{SHAPES, Shape};
use crate::args::{self, EngineArgs};
use crate::devices::{self, Choice};
use crate::failure::{Failure, Result};
use crate::guesses::GuessArgs;
use crate::interrupt::Watch;
use crate::model::{CheckpointArgs, Source};
use crate::{memory, output, progress};

/// Measures how fast a model reads prompts and decodes on this machine.
///
/// Every figure is the median of several repetitions, prompt and decoding in turn. Tokens are
/// pseudo-random ids and nothing is sampled. GB/s counts the bytes that one step has to read or
/// write: every tensor but the embedding table, twice the state of each sequence, and the keys and
/// values that attention reads. GMAC/s counts the multiply-adds of all matrices but the head, of
/// which a prompt needs one row only. Percentages are of this machine's limits, measured between
/// the runs: on a card those of its memory and of its tensor cores, in TOP/s, where a multiply-add
/// counts twice. MB is 10^6 bytes.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet bench model.brk
  brooklet bench model.brk -p 0 -n 256 --threads 1
  brooklet bench model.brk -b 8 --json
  brooklet bench model.brk -p 0 --depth 4096
  brooklet bench --synthetic rwkv7-0.4b --type int4
  brooklet bench model.brk --endurance 1000000
  brooklet bench model.brk --draft small.brk --text program.py
  brooklet bench --limits
  brooklet bench --limits --device cuda
  brooklet bench model.brk -b 128 --devices cuda:0,cuda:1")]
pub(crate) struct Args {
    /// The model: a .brk file, or a checkpoint, which is converted once into the cache folder
    #[arg(required_unless_present_any = ["synthetic", "limits"], conflicts_with = "synthetic")]
    model: Option<PathBuf>,
    /// Tokens of the prompt; 0 skips it
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    prompt: usize,
    /// Tokens to decode; 0 skips it
    #[arg(short, long = "tokens", value_name = "N", default_value_t = 128)]
    n: usize,
    /// Tokens that each sequence has read, untimed, before it decodes
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    depth: usize,
    /// Sequences decoded together
    #[arg(short, long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: u16,
    /// Repetitions, whose median counts
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: u16,
    /// Measure a model of these real dimensions with random weights, kept in the cache folder
    #[arg(long, value_name = "NAME",
          value_parser = clap::builder::PossibleValuesParser::new(SHAPES.map(|s| s.name)))]
    synthetic: Option<String>,
    /// Number format of the matrices of a checkpoint [default: int8] or of the synthetic model
    /// [default: int4]
    #[arg(long = "type", value_name = "TYPE", value_parser = args::dtype)]
    dtype: Option<DType>,
    /// Convert a checkpoint into a temporary file, which goes away at the end, not into the cache
    /// folder
    #[arg(long)]
    no_cache: bool,
    /// Columns that share a scale in the synthetic model: 32, 64 or 128
    #[arg(long, value_name = "G", conflicts_with = "model")]
    group: Option<usize>,
    /// Store matrices of the synthetic model by columns (see `brooklet convert`)
    #[arg(long, conflicts_with = "model")]
    columns: bool,
    /// Measure only the machine: reading memory, multiply-adds of int8, bf16 and f32, on one thread
    /// and up; with --device cuda the card: reading its memory, products of int8
    #[arg(long, conflicts_with_all = ["model", "synthetic"])]
    limits: bool,
    /// Instead, run this many tokens in a row and compare the latency and memory of the last with
    /// the first
    #[arg(long, value_name = "N",
          conflicts_with_all = ["prompt", "n", "depth", "batch", "repeat", "limits"],
          value_parser = clap::value_parser!(u32).range(1..))]
    endurance: Option<u32>,
    /// Instead, write -n tokens, chosen by samplers: with this processor between two tokens, and
    /// without it where a card can choose by itself
    #[arg(long, conflicts_with_all = ["prompt", "depth", "batch", "limits", "endurance"])]
    write: bool,
    /// Instead, share the sequences of -b among these devices, a model on each, and decode: cuda:0,
    /// cuda:1, … with commas between
    #[arg(long, value_name = "DEVICES", value_delimiter = ',',
          conflicts_with_all = ["device", "prompt", "limits", "endurance", "write", "lookup",
                                "draft"])]
    devices: Vec<Choice>,
    #[command(flatten)]
    guess: GuessArgs,
    /// With --lookup or --draft: the text that is gone on with [default: "Once upon a time"]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args, quiet: bool) -> Result {
    let checkpoint = CheckpointArgs { dtype: args.dtype, no_cache: args.no_cache };
    let named = args.model.as_deref().filter(|_| !args.limits);
    // A temporary file goes away with it.
    let source = named.map(|path| Source::new(path, &checkpoint)).transpose()?;
    let path = match (&source, &args.synthetic) {
        _ if args.limits => return only_limits(args, quiet),
        (Some(source), _) => source.ready(quiet)?,
        (None, Some(name)) => {
            let shape =
                Shape::named(name).ok_or_else(|| Failure::new(format!("no size {name}")))?;
            let dtype = args.dtype.unwrap_or(DType::Int4);
            args::check_group(dtype, args.group)?;
            let mut options = ConvertOptions::new(dtype);
            (options.group, options.columns) = (args.group, args.columns);
            synthetic::model(shape, &options, quiet)?
        }
        (None, None) => return Err(Failure::usage("no model", "name one, or use --synthetic")),
    };
    if let Some(tokens) = args.endurance {
        if !quiet {
            output::note(&format!("{}: {tokens} tokens in a row", path.display()));
        }
        return endurance::run(&path, &args.engine, tokens as usize, args.json, quiet);
    }
    if args.write {
        return writing::run(&path, args, quiet);
    }
    if !args.devices.is_empty() {
        return several::run(&path, args, quiet);
    }
    if args.guess.is_asked() {
        return guesses::run(&path, args, quiet);
    }
    if args.text.is_some() {
        return Err(Failure::usage("--text is for guesses", "say --lookup or --draft, too"));
    }
    let report = measure_file(&path, args, quiet)?;
    if args.json { output::json(&report) } else { output::text(&report.table()) }
}

/// Those of an engine that decodes so many sequences at once.
fn options(engine: &EngineArgs, model: &Model, sequences: usize) -> Result<EngineOptions> {
    let mut options = engine.options(model, sequences)?;
    options.chunk = options.chunk.max(sequences);
    Ok(options)
}

fn measure_file(path: &Path, args: &Args, quiet: bool) -> Result<Report> {
    let sequences = usize::from(args.batch);
    let watch = Watch::new();
    memory::reset_peak();
    let start = Instant::now();
    let model = args.engine.open(path, quiet)?;
    let open = start.elapsed();
    let options = options(&args.engine, &model, sequences)?;
    let mut engine = Engine::new(&model, &options);
    engine.forward(&mut [Run { state: &mut model.new_state(), tokens: &[0], want: Want::Last }])?;
    let first_token = start.elapsed();

    let (isa, threads) = (model.isa(), engine.threads());
    let (prompt, decode, depth) = (args.prompt, args.n, args.depth);
    let plan = Plan { prompt, decode, depth, sequences, repeat: usize::from(args.repeat) };
    if !quiet {
        let place = match model.device() {
            Device::Cpu => format!("{threads} threads, {}", isa.name()),
            device => device.to_string(),
        };
        output::note(&format!("{}, {place}: {plan}", path.display()));
    }
    let bar = progress::bar(plan.repeat as u64 + 1, progress::Unit::Count, quiet);
    let (mut probe, mut peak) = (DeviceProbe::new(model.device(), isa, threads)?, None);
    let rates = measure::run(&mut engine, plan, &watch, || {
        // The probe's buffer is not the model's memory.
        peak.get_or_insert_with(memory::peak);
        bar.set_message("the machine's limits");
        probe.take()?;
        bar.inc(1);
        bar.set_message("the model");
        Ok(())
    })?;
    bar.finish_and_clear();
    let (limits, peak) = (probe.limits(), peak.unwrap_or(0));
    // Without the probe's buffer; by now pages that move in the background have moved.
    drop(probe);
    let (chunk, resident) = (engine.chunk(), memory::resident());
    let card = devices::card_bytes(&model, &options, sequences)?;
    let setting = Setting { path, plan, threads, chunk, open, first_token, peak, resident, card };
    Ok(Report::new(&model, &setting, rates, limits))
}

/// A card alone.
fn only_card(device: Device, args: &Args, quiet: bool) -> Result {
    let watch = Watch::new();
    if !quiet {
        output::note(&format!("limits of {device}, {} times", args.repeat));
    }
    let mut probe = DeviceProbe::new(device, Isa::detect(), 1)?;
    for _ in 0..args.repeat {
        watch.check()?;
        probe.take()?;
    }
    let limits = probe.limits();
    if args.json {
        output::json(&[limits])
    } else {
        output::text(&device::card_table(device, &limits))
    }
}

/// The machine alone, on 1, 2, 4, … threads up to the number asked for.
fn only_limits(args: &Args, quiet: bool) -> Result {
    match args.engine.device.map(Choice::device).transpose()?.flatten() {
        None | Some(Device::Cpu) => {}
        Some(device) => return only_card(device, args, quiet),
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let most = args.engine.threads.map_or(processors, usize::from);
    let isa = Isa::from_env().map_err(EngineError::from)?;
    let watch = Watch::new();
    let counts =
        std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|n| *n < most).chain([most]);
    if !quiet {
        let isa = isa.name();
        output::note(&format!("{isa} limits on up to {most} threads, {} times each", args.repeat));
    }
    let mut all: Vec<Limits> = Vec::new();
    let mut probe = Probe::new(isa, 1)?;
    for threads in counts {
        probe = probe.with_threads(threads);
        for _ in 0..args.repeat {
            watch.check()?;
            probe.take();
        }
        all.push(probe.limits());
    }
    if args.json {
        output::json(&all)
    } else {
        output::text(&report::limits_table(isa.name(), &all))
    }
}
