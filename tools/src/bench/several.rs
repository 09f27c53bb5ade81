//! `bench --devices`: a batch of sequences over several devices, each with a model of its own.
//!
//! Not here: one device (`mod.rs`). Test: `tests/cli/bench.rs`.

use std::path::Path;

use brooklet::{Engine, Model};
use serde::Serialize;

use super::measure::{Bench, Plan, median};
use super::{Args, options};
use crate::args::EngineArgs;
use crate::failure::{Failure, Result};
use crate::interrupt::Watch;
use crate::{output, progress};

/// The object that `--json` prints.
#[derive(Serialize)]
struct Report {
    model: String,
    sequences: usize,
    decode: usize,
    depth: usize,
    repeat: usize,
    /// The median of all repetitions, tokens per second of all devices together: what all have
    /// decoded, over the time of the slowest.
    decode_tps: f64,
    decode_tps_all: Vec<f64>,
    devices: Vec<Row>,
}

/// A device's part, its own median.
#[derive(Serialize)]
struct Row {
    device: String,
    sequences: usize,
    decode_tps: f64,
}

/// A device's engine, its sequences, and the seconds that each repetition took.
struct Part {
    engine: Engine,
    bench: Bench,
    plan: Plan,
    seconds: Vec<f64>,
}

pub(super) fn run(path: &Path, args: &Args, quiet: bool) -> Result {
    let (sequences, n) = (usize::from(args.batch), args.devices.len());
    if sequences < n {
        return Err(Failure::usage(
            format!("{sequences} sequences for {n} devices"),
            format!("share more of them: -b {n}, or a multiple"),
        ));
    }
    if args.n == 0 {
        return Err(Failure::usage("no tokens to decode", "say -n with a number of them"));
    }
    let watch = Watch::new();
    let mut parts = Vec::new();
    for (i, device) in args.devices.iter().enumerate() {
        watch.check()?;
        let engine = EngineArgs { device: Some(*device), ..args.engine.clone() };
        let model = engine.open(path, quiet)?;
        // As many each as can be, the rest for the first.
        let own = sequences / n + usize::from(i < sequences % n);
        parts.push(Part::new(&model, &engine, own, args)?);
    }
    if !quiet {
        output::note(&format!("{}, {n} devices: {sequences} sequences", path.display()));
    }
    let repeat = usize::from(args.repeat);
    let bar = progress::bar(repeat as u64, progress::Unit::Count, quiet);
    parts.iter_mut().try_for_each(|part| part.bench.warm_up(&mut part.engine, &watch))?;
    for _ in 0..repeat {
        watch.check()?;
        std::thread::scope(|scope| {
            let started: Vec<_> =
                parts.iter_mut().map(|part| scope.spawn(|| part.decode(&watch))).collect();
            started.into_iter().try_for_each(|thread| match thread.join() {
                Ok(decoded) => decoded,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let report = Report::new(path, args, &parts);
    if args.json { output::json(&report) } else { output::text(&report.table()) }
}

impl Part {
    fn new(model: &Model, engine: &EngineArgs, sequences: usize, args: &Args) -> Result<Part> {
        let options = options(engine, model, sequences)?;
        let (decode, depth, repeat) = (args.n, args.depth, usize::from(args.repeat));
        let plan = Plan { prompt: 0, decode, depth, sequences, repeat };
        let (engine, bench) = (Engine::new(model, &options), Bench::new(model, plan));
        Ok(Part { engine, bench, plan, seconds: Vec::new() })
    }

    fn decode(&mut self, watch: &Watch) -> Result {
        self.seconds.push(self.bench.decode(&mut self.engine, watch)?.as_secs_f64().max(1e-9));
        Ok(())
    }

    /// Tokens of a repetition.
    fn tokens(&self) -> f64 {
        (self.plan.decode * self.plan.sequences) as f64
    }
}

impl Report {
    fn new(path: &Path, args: &Args, parts: &[Part]) -> Report {
        let tokens: f64 = parts.iter().map(Part::tokens).sum();
        let slowest = |i: usize| parts.iter().map(|part| part.seconds[i]).fold(0.0, f64::max);
        let all: Vec<f64> = (0..usize::from(args.repeat)).map(|i| tokens / slowest(i)).collect();
        let row = |part: &Part| Row {
            device: part.engine.model().device().to_string(),
            sequences: part.plan.sequences,
            decode_tps: part.tokens() / median(&part.seconds).unwrap_or(f64::INFINITY),
        };
        Report {
            model: path.display().to_string(),
            sequences: usize::from(args.batch),
            decode: args.n,
            depth: args.depth,
            repeat: usize::from(args.repeat),
            decode_tps: median(&all).unwrap_or(0.0),
            decode_tps_all: all,
            devices: parts.iter().map(row).collect(),
        }
    }

    fn table(&self) -> String {
        let Report { model, sequences, decode, decode_tps, .. } = self;
        let mut text = format!("{model}: {decode} tokens of each sequence decoded\n");
        text += &format!("{:<12} {:>10} {:>12}\n", "device", "sequences", "tokens/s");
        for Row { device, sequences, decode_tps } in &self.devices {
            text += &format!("{device:<12} {sequences:>10} {decode_tps:>12.1}\n");
        }
        text + &format!("{:<12} {sequences:>10} {decode_tps:>12.1}\n", "together")
    }
}
