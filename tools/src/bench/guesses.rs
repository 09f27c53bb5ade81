//! `brooklet bench --draft` and `--lookup`: what guesses are worth for one text on this machine.
//!
//! Plain decoding and decoding with guesses in turn, on the same text; beside what was measured
//! stands what the tokens of a pass and the times of passes foretell (Leviathan et al. 2023, arXiv
//! 2211.17192, theorem 3.8, with the pass as it is measured: guesses are columns, which cost
//! something here). Not here: guessing (`brooklet::speculate`). Test: `tests/cli/guesses.rs`.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use brooklet::generate::{Limits, generate_with};
use brooklet::sampler::{Sampler, SamplerOptions};
use brooklet::speculate::{Guessed, Speculation};
use brooklet::{Run, Session, Text, Want};
use serde::Serialize;

use super::Args;
use super::measure::median;
use crate::failure::{Failure, Result};
use crate::interrupt::Watch;
use crate::{input, output, progress};

/// The text that is gone on with where none is named.
const PROMPT: &str = "Once upon a time";

/// What was measured.
#[derive(Serialize)]
struct Report {
    model: String,
    prompt_tokens: usize,
    tokens: usize,
    threads: usize,
    guesses: usize,
    right: usize,
    /// Of the guesses that were looked at, the part that was right.
    acceptance: f64,
    tokens_per_pass: f64,
    /// A pass over one token and its guesses, in passes over one; one guess, too.
    pass_cost: f64,
    guess_cost: f64,
    plain_tps: f64,
    guessed_tps: f64,
    /// How many times as fast, as measured and as foretold.
    gain: f64,
    predicted_gain: f64,
}

/// Measures, and prints what came of it.
pub(super) fn run(path: &Path, args: &Args, quiet: bool) -> Result {
    let model = args.engine.open(path, quiet)?;
    let text = Text::of(&model)?;
    let prompt = match &args.text {
        Some(file) => input::text(file)?,
        None => PROMPT.to_owned(),
    };
    let ids = text.prompt(prompt.as_bytes())?;
    let options = args.engine.options(&model, args.guess.rows())?;
    let mut session = Session::new(&model, &options);
    let speculation = args.guess.open(&model, &args.engine, quiet)?;
    let Some(mut speculation) = speculation else {
        return Err(Failure::usage("nobody guesses", "say --lookup or --draft"));
    };
    let (watch, repeat) = (Watch::new(), usize::from(args.repeat));
    let bar = progress::bar(repeat as u64, progress::Unit::Count, quiet);
    let (mut plain, mut guessed) = (Vec::new(), Vec::new());
    for _ in 0..repeat {
        watch.check()?;
        let (without, expected) = write((&mut session, None), &ids, &text, args.n)?;
        let with = (&mut session, Some(&mut speculation));
        let (with, found) = write(with, &ids, &text, args.n)?;
        if found != expected {
            return Err(Failure::new("the text with guesses is another one: this is a mistake"));
        }
        plain.push(without);
        guessed.push(with);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let Guessed { tokens, passes, guesses, right } = speculation.guessed();
    let middle = |seconds: &[f64]| median(seconds).unwrap_or(f64::NAN);
    let (plain, with) = (middle(&plain), middle(&guessed));
    let per_pass = guesses as f64 / passes.max(1) as f64;
    let tokens_per_pass = tokens as f64 / passes.max(1) as f64;
    let columns = (1.0 + per_pass).round() as usize;
    let [one, many] = pass_seconds(&mut session, &ids, columns, repeat)?.map(|s| middle(&s));
    let (pass_cost, guess_cost) = (many / one, args.guess.seconds(&args.engine, repeat)? / one);
    let report = Report {
        model: path.display().to_string(),
        prompt_tokens: ids.len(),
        tokens: args.n,
        threads: session.engine().threads(),
        guesses,
        right,
        acceptance: right as f64 / guesses.max(1) as f64,
        tokens_per_pass,
        pass_cost,
        guess_cost,
        plain_tps: args.n as f64 / plain,
        guessed_tps: args.n as f64 / with,
        gain: plain / with,
        predicted_gain: tokens_per_pass / (pass_cost + per_pass * guess_cost),
    };
    if args.json { output::json(&report) } else { output::text(&report.table()) }
}

/// Writes a text, greedily, and gives the seconds and the tokens.
fn write(
    (session, mut speculation): (&mut Session, Option<&mut Speculation>),
    ids: &[u32],
    text: &Text,
    n: usize,
) -> Result<(f64, Vec<u32>)> {
    let mut sampler = Sampler::new(SamplerOptions::greedy(), session.model().n_vocab())?;
    session.reset();
    session.prefill(ids)?;
    if let Some(speculation) = speculation.as_deref_mut() {
        speculation.begin(ids);
    }
    let (mut tokens, start) = (Vec::new(), Instant::now());
    let limits = Limits::new(n).ignore_end(true);
    generate_with(session, &mut sampler, speculation, text, &limits, |piece| {
        tokens.extend(piece.token);
        Ok::<_, Failure>(ControlFlow::Continue(()))
    })?;
    Ok((start.elapsed().as_secs_f64(), tokens))
}

/// The seconds of passes over one token, and over `n` with the logits behind each.
fn pass_seconds(
    session: &mut Session,
    ids: &[u32],
    n: usize,
    repeat: usize,
) -> Result<[Vec<f64>; 2]> {
    let mut state = session.model().new_state();
    let last = ids.last().copied().unwrap_or_default();
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..=repeat {
        for (times, n) in times.iter_mut().zip([1, n]) {
            let (tokens, start) = (vec![last; n], Instant::now());
            let mut runs = [Run { state: &mut state, tokens: &tokens, want: Want::All }];
            session.engine().forward(&mut runs)?;
            times.push(start.elapsed().as_secs_f64());
        }
    }
    Ok(times)
}

impl Report {
    fn table(&self) -> String {
        let rows = [
            ("acceptance", format!("{:.3} ({} of {})", self.acceptance, self.right, self.guesses)),
            ("tokens a pass", format!("{:.2}", self.tokens_per_pass)),
            ("a pass costs", format!("{:.2} of one without guesses", self.pass_cost)),
            ("a guess costs", format!("{:.2}", self.guess_cost)),
            ("without guesses", format!("{:.1} tokens/s", self.plain_tps)),
            ("with guesses", format!("{:.1} tokens/s", self.guessed_tps)),
            ("gain", format!("{:.2} × ({:.2} × foretold)", self.gain, self.predicted_gain)),
        ];
        rows.iter().map(|(name, value)| format!("{name:<16} {value}\n")).collect()
    }
}
