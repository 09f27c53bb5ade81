//! `bench --write`: how fast tokens are chosen and read, with the host between two tokens, which
//! gets the logits of each, and without it, where the device can.
//!
//! Not here: the loop (`brooklet::generate`). Test: `tests/cli/bench.rs`.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use brooklet::generate::{Limits, Piece, generate};
use brooklet::sampler::{Sampler, SamplerOptions};
use brooklet::tokenizer::Tokenizer;
use brooklet::{Session, Text};
use serde::Serialize;

use super::Args;
use super::measure::median;
use crate::failure::{Failure, Result};
use crate::interrupt::Watch;
use crate::output;

/// Tokens before those that are written.
const PROMPT: [u32; 4] = [0; 4];

/// The object that `--json` prints.
#[derive(Serialize)]
struct Report {
    model: String,
    device: String,
    tokens: usize,
    repeat: u16,
    rows: Vec<Row>,
}

/// One sampler: medians, tokens per second.
#[derive(Serialize)]
struct Row {
    sampler: &'static str,
    by_host_tps: f64,
    /// The device alone, where it can; else the host again.
    alone_tps: f64,
    /// Tokens that the device has chosen, of all.
    alone_share: f64,
}

/// A text that was written.
struct Written {
    seconds: f64,
    ids: Vec<u32>,
    /// Tokens without logits.
    alone: usize,
}

pub(super) fn run(path: &Path, args: &Args, quiet: bool) -> Result {
    let model = args.engine.open(path, quiet)?;
    let mut session = Session::new(&model, &args.engine.options(&model, 1)?);
    let draw = SamplerOptions::new().seed(1).temperature(0.8);
    let samplers = [
        ("greedy", SamplerOptions::greedy()),
        ("temperature", draw.clone()),
        ("temperature, top-p", draw.clone().top_p(0.9)),
        ("temperature, top-k, top-p", draw.top_k(40).top_p(0.9)),
    ];
    let watch = Watch::new();
    let mut rows = Vec::new();
    for (sampler, options) in samplers {
        let (mut by_host, mut alone, mut share) = (Vec::new(), Vec::new(), 0.0);
        // The first is not timed.
        for i in 0..=args.repeat {
            watch.check()?;
            let limits = Limits::new(args.n).ignore_end(true);
            let expected = write(&mut session, &options, &limits)?;
            let found = write(&mut session, &options, &limits.without_logits(true))?;
            if found.ids != expected.ids {
                return Err(Failure::new("the device writes another text: this is a mistake"));
            }
            share = found.alone as f64 / found.ids.len().max(1) as f64;
            if i > 0 {
                by_host.push(args.n as f64 / expected.seconds);
                alone.push(args.n as f64 / found.seconds);
            }
        }
        let [by_host_tps, alone_tps] = [by_host, alone].map(|all| median(&all).unwrap_or(0.0));
        rows.push(Row { sampler, by_host_tps, alone_tps, alone_share: share });
    }
    let (model, device) = (path.display().to_string(), model.device().to_string());
    let report = Report { model, device, tokens: args.n, repeat: args.repeat, rows };
    if args.json { output::json(&report) } else { output::text(&report.table()) }
}

/// Writes a text of ids.
fn write(session: &mut Session, options: &SamplerOptions, limits: &Limits<'_>) -> Result<Written> {
    let mut sampler = Sampler::new(options.clone(), session.model().n_vocab())?;
    session.reset();
    session.prefill(&PROMPT)?;
    let (mut ids, mut alone, start) = (Vec::new(), 0, Instant::now());
    let text = Text::new(Tokenizer::none());
    generate(session, &mut sampler, &text, limits, |piece: Piece<'_>| {
        ids.extend(piece.token);
        alone += usize::from(piece.logits.is_empty());
        Ok::<_, Failure>(ControlFlow::Continue(()))
    })?;
    Ok(Written { seconds: start.elapsed().as_secs_f64(), ids, alone })
}

impl Report {
    fn table(&self) -> String {
        let Report { model, device, tokens, .. } = self;
        let mut text = format!("{model}: {device}, {tokens} tokens, tokens/s\n");
        text += &format!("{:<26} {:>10} {:>10}\n", "sampler", "by host", "alone");
        for Row { sampler, by_host_tps, alone_tps, alone_share } in &self.rows {
            let is_alone = *alone_share > 0.0;
            let alone = if is_alone { format!("{alone_tps:.1}") } else { "-".to_owned() };
            text += &format!("{sampler:<26} {by_host_tps:>10.1} {alone:>10}\n");
        }
        text
    }
}
