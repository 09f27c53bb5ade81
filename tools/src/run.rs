//! `brooklet run`: a prompt in, text out as it comes.
//!
//! Only the generated text goes to stdout; seed and speed are notes on stderr. The loop is
//! `generate`, the rule that tells models and prompts apart is in `prompt`. Test:
//! `tests/cli/run.rs`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use brooklet::generate::{Limits, Reason};
use brooklet::prefix::PrefixCache;
use brooklet::sampler::Sampler;
use brooklet::speculate::Speculation;
use brooklet::{Model, Session, Snapshot, Text};
use serde::Serialize;

use crate::args::EngineArgs;
use crate::coverage::{JudgeArgs, Verdict};
use crate::failure::{Failure, Result};
use crate::generate::{generate, reason_name};
use crate::guesses::{self, GuessArgs};
use crate::horizon::{HorizonArgs, Warning};
use crate::interrupt::Watch;
use crate::logprobs::{Logprobs, Token};
use crate::model::{CheckpointArgs, Source};
use crate::prompt::PromptArgs;
use crate::samples::{self, Many, Sample};
use crate::sampling::SamplerArgs;
use crate::saved::{StateArgs, needs_a_prompt};
use crate::{demo, output, progress};

/// Prompts of more tokens get a progress bar.
const LONG_PROMPT: usize = 1000;

/// Continues a prompt.
///
/// The text streams to standard output as it is generated. Without a model the demo model is used;
/// a single word that is no file, does not start like a path and does not end in .brk (or another
/// model's ending) is the prompt. Without a prompt it is read from standard input. A checkpoint (a
/// file or a folder that `brooklet convert` reads) is converted once into the cache folder.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet run \"Once upon a time\"
  brooklet run model.brk -p \"The captain\" -n 200 --temp 0.7 --seed 42
  brooklet run rwkv7.gguf -p \"The captain\" --type int4
  brooklet run model.brk -f prompt.txt --stop '###' --json
  brooklet run model.brk -p \"The captain\" -n 8 --json --logprobs 5
  echo \"Dear Sir,\" | brooklet run model.brk --temp 0
  brooklet run model.brk -p \"A date:\" --regex ' [0-9]{4}-[0-9]{2}-[0-9]{2}'
  brooklet run model.brk -p \"Once\" -n 50 --save-state story.brks
  brooklet run model.brk --state story.brks -n 50
  brooklet run model.brk -f program.py --lookup
  brooklet run model.brk -p \"Once\" --samples 8 --json
  brooklet run model.brk -f task.txt --samples 32 --vote 'answer is (\\d+)'
  brooklet run model.brk -f contract.txt --prefix-cache ~/.cache/contracts
  brooklet run model.brk -p \"The captain\" --draft small.brk")]
pub(crate) struct Args {
    #[command(flatten)]
    prompt: PromptArgs,
    /// Tokens to generate at most
    #[arg(short, long = "tokens", value_name = "N", default_value_t = 128)]
    n: usize,
    /// Write K texts behind the prompt, together: those of this seed, the next, and so on
    #[arg(long, value_name = "K", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=1024),
          conflicts_with_all = ["lookup", "draft", "save_state"])]
    samples: u16,
    /// Write --samples texts at each of D depths of one text: behind the prompt, and behind parts
    /// of what is written with this seed, all equally far from each other
    #[arg(long, value_name = "D", default_value_t = 1, requires = "samples",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    depths: u16,
    #[command(flatten)]
    judge: JudgeArgs,
    /// Read the prompt twice: recurrent models recall better what they have read knowing what is
    /// asked (Arora et al. 2024, arXiv 2407.05483)
    #[arg(long)]
    read_twice: bool,
    /// Keep states along the prompt in this folder, and read only what no earlier prompt of the
    /// same model began with
    #[arg(long, value_name = "DIR", conflicts_with = "state")]
    prefix_cache: Option<PathBuf>,
    /// The most that --prefix-cache keeps, in MB; what was not used for longest goes
    #[arg(long, value_name = "MB", default_value_t = 1000, requires = "prefix_cache")]
    prefix_cache_mb: u32,
    /// End the text before this string. May be given several times
    #[arg(long, value_name = "STR", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Go on where the model would end the text
    #[arg(long)]
    ignore_eos: bool,
    /// Write the prompt before the text [default: on a terminal, if it was typed]
    #[arg(long)]
    echo: bool,
    /// Print one JSON object when all is done, instead of text as it comes
    #[arg(long)]
    json: bool,
    /// With --json: give each token with its text, the logarithm of the probability that the model
    /// gave it (before any option of sampling), and the N likeliest tokens in its place
    #[arg(long, value_name = "N", requires = "json",
          value_parser = clap::value_parser!(u8).range(0..=100))]
    logprobs: Option<u8>,
    #[command(flatten)]
    guess: GuessArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    sampler: SamplerArgs,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    horizon: HorizonArgs,
}

/// The object that `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    text: &'a str,
    token_ids: &'a [u32],
    prompt_token_ids: &'a [u32],
    /// Tokens read and written.
    prompt_tokens: usize,
    /// Of the prompt, with --prefix-cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    reused_tokens: Option<usize>,
    generated_tokens: usize,
    stop_reason: &'static str,
    /// With --logprobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<&'a [Token]>,
    seed: u64,
    model: String,
    architecture: &'a str,
    threads: usize,
    /// Null where nobody guesses.
    speculation: Option<guesses::Report>,
    #[serde(flatten)]
    times: Times,
}

/// The same with `--samples`.
#[derive(Serialize)]
struct ManyReport<'a> {
    samples: Vec<samples::Report<'a>>,
    /// With --vote and --check.
    #[serde(flatten)]
    verdict: Option<Verdict>,
    prompt_token_ids: &'a [u32],
    prompt_tokens: usize,
    /// Of all texts.
    generated_tokens: usize,
    model: String,
    architecture: &'a str,
    threads: usize,
    #[serde(flatten)]
    times: Times,
}

/// How long each part took.
#[derive(Serialize)]
struct Times {
    open_ms: f64,
    prefill_ms: f64,
    decode_ms: f64,
    prefill_tps: f64,
    decode_tps: f64,
}

/// Runs the command.
pub(crate) fn run(args: &Args, quiet: bool) -> Result {
    let (named, prompt) = args.prompt.read(args.state.state.is_some())?;
    let path = demo::model_or_demo(named)?;
    let source = Source::new(&path, &args.checkpoint)?;
    let inputs = args.prompt.inputs().chain(source.inputs()).chain(args.sampler.inputs());
    let target = args.state.target(inputs)?;
    let watch = Watch::new();
    let file = source.ready(quiet)?;
    let start = Instant::now();
    let model = demo::open(&file, &args.engine, quiet)?;
    let text = Text::of(&model)?;
    let saved = args.state.load(&model)?;
    let mut ids = match &saved {
        Some(_) if prompt.bytes.is_empty() => Vec::new(),
        Some(saved) if saved.state.position() > 0 => text.tokenizer.encode(&prompt.bytes)?,
        _ => text.prompt(&prompt.bytes)?,
    };
    if args.read_twice {
        text.tokenizer.encode_into(&prompt.bytes, &mut ids)?;
    }
    let unread = saved.as_ref().map_or(&[][..], Snapshot::unread);
    let to_read = [unread, &ids].concat();
    let mut sampler = args.sampler.sampler(&text, model.n_vocab())?;
    let n = usize::from(args.samples);
    let options = samples::options(args.engine.options(&model, args.guess.rows().max(n))?, n);
    let mut session = Session::new(&model, &options);
    args.horizon.apply(&mut session)?;
    let mut speculation = args.guess.open(&model, &args.engine, quiet)?;
    if let Some(saved) = &saved {
        StateArgs::restore(&mut sampler, saved, args.sampler.seed)?;
        // Behind a new prompt a new text begins.
        if !prompt.bytes.is_empty() {
            sampler.restart_grammar();
        }
        // The unread tokens are read below, with the prompt.
        if !session.resume(&Snapshot { unread: 0, ..saved.clone() })? && to_read.is_empty() {
            return Err(needs_a_prompt(args.state.state.as_ref()));
        }
    }
    let open = start.elapsed();
    if !quiet && !sampler.options().is_greedy() {
        output::note(&format!("seed {}", sampler.seed()));
    }
    let on_terminal = output::is_terminal();
    if !args.json && (args.echo || (on_terminal && prompt.typed)) {
        output::generated(&prompt.bytes)?;
    }

    let start = Instant::now();
    let mut cache = args.cache(&model)?;
    let mut reused = None;
    match &mut cache {
        Some(cache) => reused = Some(read_new(cache, &mut session, &to_read, &watch, quiet)?),
        None if to_read.is_empty() => {}
        None => prefill(&mut session, &to_read, &watch, quiet)?,
    }
    let prefill_time = start.elapsed();
    let mut warning = Warning::new(&model, &args.horizon, quiet);
    warning.at(session.state().position());
    // A prompt ends the text that was; without one it goes on, inside a character if need be.
    let before = saved.as_ref().map_or(&[][..], |saved| &saved.tail);
    let limits = Limits::new(args.n)
        .stops(&args.stop)
        .ignore_end(args.ignore_eos)
        .tail(if prompt.bytes.is_empty() { before } else { &[] })
        .goes_on(target.is_some());
    let logprobs = args.logprobs.map(|top| Logprobs::new(&text, top.into()));
    let read = Read {
        path: &path,
        model: &model,
        text: &text,
        ids: &ids,
        logprobs: logprobs.as_ref(),
        open,
        reading: prefill_time,
    };
    if n > 1 || args.depths > 1 || args.judge.is_asked() {
        return write_many(args, &read, (&mut session, &sampler), &limits, &watch, quiet);
    }
    let start = Instant::now();
    let emit = |piece: &str| {
        if args.json || piece.is_empty() { Ok(()) } else { output::generated(piece.as_bytes()) }
    };
    if let Some(speculation) = &mut speculation {
        speculation.begin(&to_read);
    }
    let choose = (&mut sampler, speculation.as_mut());
    let to = (&text, logprobs.as_ref());
    let done = generate(&mut session, choose, to, &limits, &watch, emit)?;
    warning.at(session.state().position());
    let guessed = speculation.as_ref().map(Speculation::guessed);
    let times = Times::new(open, (ids.len(), prefill_time), (done.ids.len(), start.elapsed()));
    if let Some(cache) = &mut cache {
        // What was written is known to a prompt that goes on with it.
        let all = [&to_read[..], &done.ids].concat();
        let n = usize::try_from(session.state().position()).unwrap_or(usize::MAX);
        cache.keep(&session, &all[..n.min(all.len())])?;
    }
    if let Some(target) = &target {
        let tail = [before, &ids, &done.ids].concat();
        let end = Snapshot { sampler: Some(sampler.state()), ..session.snapshot() };
        args.state.save(target, end, &tail, done.pending.as_slice())?;
    }

    if args.json {
        output::json(&Report {
            text: &done.text,
            token_ids: &done.ids,
            prompt_token_ids: &ids,
            prompt_tokens: ids.len(),
            reused_tokens: reused,
            generated_tokens: done.ids.len(),
            stop_reason: reason_name(done.reason),
            tokens: logprobs.as_ref().map(|_| &done.tokens[..]),
            seed: sampler.seed(),
            model: path.display().to_string(),
            architecture: &model.meta().architecture,
            threads: session.engine().threads(),
            speculation: guessed.map(guesses::report),
            times,
        })?;
    } else {
        if on_terminal && !done.text.ends_with('\n') {
            output::text("\n")?;
        }
        if !quiet && output::notes_are_seen() {
            let guessed = guessed.map(guesses::describe).unwrap_or_default();
            let reused = reused.filter(|n| *n > 0);
            let reused = reused.map(|n| format!("; {n} were known")).unwrap_or_default();
            output::note(&(summary(done.ids.len(), ids.len(), &times) + &reused + &guessed));
        }
    }
    if done.reason == Reason::Cancelled { Err(Failure::Interrupted) } else { Ok(()) }
}

/// A prompt that has been read.
struct Read<'a> {
    path: &'a Path,
    model: &'a Model,
    text: &'a Text,
    ids: &'a [u32],
    logprobs: Option<&'a Logprobs<'a>>,
    /// How long opening and reading took.
    open: Duration,
    reading: Duration,
}

/// Writes several texts behind a prompt.
fn write_many(
    args: &Args,
    read: &Read<'_>,
    (session, sampler): (&mut Session, &Sampler),
    limits: &Limits<'_>,
    watch: &Watch,
    quiet: bool,
) -> Result {
    let start = Instant::now();
    let many = Many { samples: args.samples.into(), depths: args.depths.into() };
    let to = (read.text, read.logprobs);
    let written = many.write((session, sampler), to, limits, watch, quiet)?;
    let tokens = written.iter().map(|sample| sample.ids.len()).sum();
    let times = Times::new(read.open, (read.ids.len(), read.reading), (tokens, start.elapsed()));
    let texts: Vec<&str> = written.iter().map(|sample| sample.text.as_str()).collect();
    let verdict = args.judge.is_asked().then(|| args.judge.judge(&texts, watch)).transpose()?;
    if args.json {
        output::json(&ManyReport {
            samples: written.iter().map(Sample::report).collect(),
            verdict,
            prompt_token_ids: read.ids,
            prompt_tokens: read.ids.len(),
            generated_tokens: tokens,
            model: read.path.display().to_string(),
            architecture: &read.model.meta().architecture,
            threads: session.engine().threads(),
            times,
        })?;
    } else {
        samples::print(&written, verdict.as_ref(), quiet)?;
        if !quiet && output::notes_are_seen() {
            output::note(&summary(tokens, read.ids.len(), &times));
        }
    }
    let is_cut = written.iter().any(|sample| sample.reason == Reason::Cancelled);
    if is_cut { Err(Failure::Interrupted) } else { Ok(()) }
}

impl Args {
    /// The folder of states, if one was named: there is one prompt, nothing is kept in memory.
    fn cache(&self, model: &Model) -> Result<Option<PrefixCache>> {
        let Some(folder) = &self.prefix_cache else { return Ok(None) };
        let bytes = u64::from(self.prefix_cache_mb) << 20;
        Ok(Some(PrefixCache::new(model, 0).with_folder(model, folder, bytes)?))
    }
}

/// Reads what is new of the prompt, and gives how many tokens were known.
fn read_new(
    cache: &mut PrefixCache,
    session: &mut Session,
    ids: &[u32],
    watch: &Watch,
    quiet: bool,
) -> Result<usize> {
    let bar =
        progress::bar(ids.len() as u64, progress::Unit::Count, quiet || ids.len() < LONG_PROMPT);
    bar.set_message("reading the prompt");
    let reading = cache.prefill(session, ids, &[], |read| {
        bar.set_position(read as u64);
        !watch.requested()
    })?;
    bar.finish_and_clear();
    watch.check()?;
    Ok(reading.reused)
}

/// Reads the prompt, with a bar if that takes a while.
pub(crate) fn prefill(session: &mut Session, ids: &[u32], watch: &Watch, quiet: bool) -> Result {
    let bar =
        progress::bar(ids.len() as u64, progress::Unit::Count, quiet || ids.len() < LONG_PROMPT);
    bar.set_message("reading the prompt");
    session.prefill_with(ids, |read| {
        bar.set_position(read as u64);
        !watch.requested()
    })?;
    bar.finish_and_clear();
    watch.check()
}

impl Times {
    fn new(open: Duration, prefill: (usize, Duration), decode: (usize, Duration)) -> Times {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let rate = |(n, time): (usize, Duration)| n as f64 / time.as_secs_f64().max(1e-9);
        Times {
            open_ms: ms(open),
            prefill_ms: ms(prefill.1),
            decode_ms: ms(decode.1),
            prefill_tps: rate(prefill),
            decode_tps: rate(decode),
        }
    }
}

fn summary(written: usize, prompt: usize, times: &Times) -> String {
    format!(
        "{prompt} tokens read at {:.0} tokens/s, {written} written at {:.1} tokens/s",
        times.prefill_tps, times.decode_tps
    )
}
