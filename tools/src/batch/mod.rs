//! `brooklet batch`: many requests in a file, their texts in another.
//!
//! Requests are JSON lines, and so are results, in the order in which they end. What is there when
//! the work is broken off stays, and is not written again: the result file is a journal, each of
//! whose lines says which request it answers. Not here: how texts share passes
//! (`brooklet::schedule`). Test: `tests/cli/batch.rs`.

mod journal;
mod request;
mod words;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use brooklet::Model;
use brooklet::generate::Limits;
use brooklet::prefix::{PrefixCache, Reading};
use brooklet::schedule::{Event, Scheduler, Ticket};
use serde::Serialize;
use serde_json::Value;

use crate::args::EngineArgs;
use crate::failure::{Failure, Result};
use crate::generate::reason_name;
use crate::interrupt::Watch;
use crate::model::{CheckpointArgs, Source};
use crate::sampling::SamplerArgs;
use crate::{demo, input, output, progress};

use self::journal::Journal;
use self::request::Requests;
use self::words::Reader;

/// Writes texts for many requests.
///
/// Each line of the file is a request, a JSON object: {"prompt": "…"}, or {"messages": [{"role":
/// "user", "content": "…"}]} for an answer by the model's chat template (maybe with "tools"). And
/// maybe "id" (any value, given back), "tokens", "stop" (a string or a list), "seed",
/// "temperature", "top_k", "top_p", "min_p", "state" (a state file that it goes on from), and one
/// of "json_schema", "regex", "grammar" (Lark). The options of this command stand for what a
/// request does not say. Several are read and written at a time, each pass reads the weights once
/// for all of them, and what prompts begin with alike is read once. Every text is the one that
/// `run` writes with that seed.
/// A token that ends answers by the template ends prompts' texts, too.
///
/// Results come as JSON lines when they are ready: "line" (of the request, from 1), "id", "text",
/// "stop_reason", "seed", "prompt_tokens", "reused_tokens", "generated_tokens"; or "error". Called
/// again after it was broken off, the command goes on where it was, and tries what failed again.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet batch model.brk requests.jsonl -o texts.jsonl
  brooklet batch model.brk requests.jsonl -o texts.jsonl -n 200 --temp 0 --parallel 16
  jq -c '{prompt: .question}' questions.jsonl | brooklet batch model.brk - > answers.jsonl")]
pub(crate) struct Args {
    /// The model: a .brk file, or a checkpoint, which is converted once into the cache folder
    model: PathBuf,
    /// The requests; `-` is standard input
    requests: PathBuf,
    /// The file of results, which is gone on with if it is there [default: standard output]
    #[arg(short, long, value_name = "OUT.jsonl")]
    output: Option<PathBuf>,
    /// Texts that are read and written at a time; each takes a state
    #[arg(long, value_name = "K", default_value_t = 8,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    parallel: u16,
    /// Tokens of a text at most, where its request does not say
    #[arg(short, long = "tokens", value_name = "N", default_value_t = 128)]
    n: usize,
    /// End texts before this string, where the request names none. May be given several times
    #[arg(long, value_name = "STR", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Go on where the model would end a text
    #[arg(long)]
    ignore_eos: bool,
    /// Memory for what prompts begin with alike, in MB; 0 keeps nothing
    #[arg(long, value_name = "MB", default_value_t = 256)]
    cache_mb: u32,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    sampler: SamplerArgs,
}

/// A line of results.
#[derive(Serialize)]
struct Done<'a> {
    line: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Value>,
    /// Tells whether the request is still the same when the work is gone on with.
    request: &'a str,
    text: &'a str,
    stop_reason: &'static str,
    seed: u64,
    prompt_tokens: usize,
    reused_tokens: usize,
    generated_tokens: usize,
}

/// The same where nothing came of it.
#[derive(Serialize)]
struct Failed<'a> {
    line: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Value>,
    request: &'a str,
    error: String,
}

/// A text in the making.
struct Job {
    line: usize,
    id: Option<Value>,
    print: String,
    seed: u64,
    reading: Reading,
    text: String,
}

/// What was done.
#[derive(Default)]
struct Tally {
    texts: usize,
    failed: usize,
    written: usize,
    read: usize,
    reused: usize,
}

/// Runs the command.
pub(crate) fn run(args: &Args, quiet: bool) -> Result {
    let path = demo::model_or_demo(Some(&args.model))?;
    let source = Source::new(&path, &args.checkpoint)?;
    let inputs = source.inputs().into_iter().chain([args.requests.clone()]);
    let inputs = inputs.chain(args.sampler.inputs());
    let inputs: Vec<PathBuf> = inputs.chain(input::standard().map(PathBuf::from)).collect();
    let mut journal = Journal::open(args.output.as_deref(), &inputs)?;
    let model = demo::open(&source.ready(quiet)?, &args.engine, quiet)?;
    let reader = Reader::new(&model)?;
    let mut requests = Requests::open(&args.requests, usize::from(args.parallel))?;
    let start = Instant::now();
    let tally = write(args, (&model, &reader), &mut requests, &mut journal, quiet)?;
    if !quiet {
        let seconds = start.elapsed().as_secs_f64().max(1e-9);
        let known = if journal.known() > 0 {
            format!(", {} were there", journal.known())
        } else {
            String::new()
        };
        output::note(&format!(
            "{} texts{known}: {} tokens read and {} known, {} written at {:.1} tokens/s",
            tally.texts,
            tally.read,
            tally.reused,
            tally.written,
            tally.written as f64 / seconds
        ));
    }
    match tally.failed {
        0 => Ok(()),
        failed => Err(Failure::with(
            format!("{failed} of {} requests failed", tally.texts),
            "their lines in the results say why",
        )),
    }
}

/// Answers all requests.
fn write(
    args: &Args,
    (model, reader): (&Model, &Reader<'_>),
    requests: &mut Requests,
    journal: &mut Journal,
    quiet: bool,
) -> Result<Tally> {
    let most = usize::from(args.parallel);
    let (options, text) = (args.engine.options(model, most)?, reader.text());
    let cache = PrefixCache::new(model, (args.cache_mb as usize) << 20);
    let mut scheduler = Scheduler::new(model, text, &options, most, cache);
    let (sampling, grammar) = (args.sampler.options(text)?, args.sampler.grammar(text)?);
    let mut jobs: HashMap<Ticket, Job> = HashMap::new();
    let (watch, mut tally) = (Watch::new(), Tally::default());
    let bar = progress::bar(requests.expected(), progress::Unit::Count, quiet);
    loop {
        watch.check()?;
        // Whoever has nothing else to do waits for the next request.
        while scheduler.has_room()
            && let Some(line) = requests.next(scheduler.is_empty())?
        {
            bar.inc(1);
            if journal.has(line.number, &line.print)? {
                continue;
            }
            let asked = line.request((sampling.clone(), grammar.clone()), reader, model.n_vocab());
            let submitted = asked.and_then(|mut asked| {
                let tokens = asked.tokens.unwrap_or(args.n);
                asked.request.limits = Limits::new(tokens).ignore_end(args.ignore_eos);
                if asked.request.stops.is_empty() {
                    asked.request.stops.clone_from(&args.stop);
                }
                asked.request.stops.extend(asked.ends);
                let seed = asked.request.sampler.seed();
                let ticket = scheduler.submit(asked.request).map_err(|error| error.to_string())?;
                Ok((ticket, seed))
            });
            match submitted {
                Ok((ticket, seed)) => {
                    let (number, id, print) = (line.number, line.id, line.print);
                    let reading = Reading::default();
                    let job = Job { line: number, id, print, seed, reading, text: String::new() };
                    jobs.insert(ticket, job);
                }
                Err(error) => {
                    (tally.texts, tally.failed) = (tally.texts + 1, tally.failed + 1);
                    let (line, id, request) = (line.number, line.id.as_ref(), &line.print[..]);
                    journal.write(&Failed { line, id, request, error })?;
                }
            }
        }
        if scheduler.is_empty() && requests.is_over() {
            break;
        }
        let mut failure = Ok(());
        scheduler.step(|ticket, event| {
            if failure.is_ok() {
                failure = happened(&mut jobs, (ticket, event), journal, &mut tally);
            }
            if watch.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        // What was broken off is written the next time.
        watch.check()?;
        failure?;
    }
    bar.finish_and_clear();
    Ok(tally)
}

/// Takes note of what happened to a text.
fn happened(
    jobs: &mut HashMap<Ticket, Job>,
    (ticket, event): (Ticket, Event<'_>),
    journal: &mut Journal,
    tally: &mut Tally,
) -> Result {
    let Some(job) = jobs.get_mut(&ticket) else { return Ok(()) };
    match event {
        Event::Read(reading) => job.reading = reading,
        Event::Piece(piece) => job.text.push_str(piece.text),
        Event::Ended(ended) => {
            let Some(job) = jobs.remove(&ticket) else { return Ok(()) };
            let (line, id, request) = (job.line, job.id.as_ref(), &job.print[..]);
            tally.texts += 1;
            match ended {
                Ok(ended) => {
                    // Broken off: it is not there, and will be written again.
                    if ended.reason == brooklet::generate::Reason::Cancelled {
                        return Ok(());
                    }
                    tally.written += ended.tokens;
                    tally.read += job.reading.computed + job.reading.replayed;
                    tally.reused += job.reading.reused;
                    journal.write(&Done {
                        line,
                        id,
                        request,
                        text: &job.text,
                        stop_reason: reason_name(ended.reason),
                        seed: job.seed,
                        prompt_tokens: job.reading.tokens(),
                        reused_tokens: job.reading.reused,
                        generated_tokens: ended.tokens,
                    })?;
                }
                Err(error) => {
                    tally.failed += 1;
                    let error = error.to_string();
                    journal.write(&Failed { line, id, request, error })?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}
