//! `--endurance N`: many tokens in a row, and whether the last cost what the first cost.
//!
//! One sequence, each token drawn from the model's own distribution with a fixed seed. Timed is the
//! forward pass alone. Not here: speed as such (`measure`). Test: `tests/cli/bench.rs`.

use std::path::Path;
use std::time::Instant;

use brooklet::sampler::{Sampler, SamplerOptions};
use brooklet::{Model, Session};
use serde::Serialize;

use crate::args::EngineArgs;
use crate::failure::{Failure, Result};
use crate::interrupt::Watch;
use crate::{memory, output, progress, units};
use brooklet_quantize::score::percentile;

/// Tokens at the beginning and at the end whose latencies are kept.
const WINDOW: usize = 10_000;

/// The object that `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    architecture: &'a str,
    threads: usize,
    tokens: usize,
    seconds: f64,
    tokens_per_second: f64,
    /// Tokens that `first` and `last` are about.
    window: usize,
    first: Window,
    last: Window,
}

/// Tokens in a row.
#[derive(Serialize)]
struct Window {
    p50_us: f64,
    p99_us: f64,
    /// Memory of this process alone at their end: not the mapped file.
    private_bytes: u64,
}

impl Window {
    fn of(latencies: &mut [f64]) -> Window {
        latencies.sort_by(f64::total_cmp);
        let at = |percent| percentile(latencies, percent);
        Window { p50_us: at(50.0), p99_us: at(99.0), private_bytes: memory::private().unwrap_or(0) }
    }
}

/// Runs `tokens` tokens and prints the report.
pub(super) fn run(
    path: &Path,
    args: &EngineArgs,
    tokens: usize,
    json: bool,
    quiet: bool,
) -> Result {
    let watch = Watch::new();
    let model = args.open(path, quiet)?;
    let mut session = Session::new(&model, &args.options(&model, 1)?);
    let options = SamplerOptions::new().seed(1);
    let mut sampler = Sampler::new(options, model.n_vocab())?;
    let window = WINDOW.min(tokens.div_ceil(2));
    let mut latencies = Vec::with_capacity(window);
    let bar = progress::bar(tokens as u64, progress::Unit::Count, quiet);
    let start = Instant::now();
    let (mut token, mut first) = (0, None);
    for i in 0..tokens {
        if i == tokens - window {
            latencies.clear();
        }
        let before = Instant::now();
        session.step(token)?;
        if latencies.len() < window {
            latencies.push(before.elapsed().as_secs_f64() * 1e6);
        }
        if !session.logits().iter().all(|x| x.is_finite()) {
            return Err(Failure::new(format!(
                "{}: the logits are not finite after token {}",
                path.display(),
                i + 1
            )));
        }
        token = sampler.sample(session.logits());
        if i + 1 == window {
            first = Some(Window::of(&mut latencies.clone()));
        }
        if i % 64 == 0 {
            watch.check()?;
            bar.set_position(i as u64);
        }
    }
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    let Some(first) = first else {
        return Err(Failure::usage("no tokens", "give a number above 0"));
    };
    let report = Report {
        model: path.display().to_string(),
        architecture: &model.meta().architecture,
        threads: session.engine().threads(),
        tokens,
        seconds,
        tokens_per_second: tokens as f64 / seconds,
        window,
        first,
        last: Window::of(&mut latencies),
    };
    if json { output::json(&report) } else { output::text(&table(&report, &model)) }
}

fn table(report: &Report<'_>, model: &Model) -> String {
    let line = |name: &str, window: &Window| {
        format!(
            "{name:<6} {:>7} tokens   p50 {:>8.1} µs   p99 {:>8.1} µs   private memory {}\n",
            report.window,
            window.p50_us,
            window.p99_us,
            units::bytes(window.private_bytes)
        )
    };
    format!(
        "{}, {}, {} threads\n{} tokens in {:.1} s, {:.0} tokens/s with sampling, \
         all logits finite, state {} as {}\n{}{}",
        report.model,
        report.architecture,
        report.threads,
        units::count(report.tokens as u64),
        report.seconds,
        report.tokens_per_second,
        units::bytes(model.state_layout().bytes() as u64),
        model.state_layout().dtype(),
        line("first", &report.first),
        line("last", &report.last)
    )
}
