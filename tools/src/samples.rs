//! `run --samples`: several texts behind one prompt, written together.
//!
//! Each is what `run` writes with that seed. Not here: the loop (`brooklet::generate`). Test:
//! `tests/cli/samples.rs`.

use std::ops::ControlFlow;

use brooklet::generate::{Ended, Limits, Reason, generate_many};
use brooklet::sampler::Sampler;
use brooklet::{EngineOptions, Session, State, Text};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::generate::reason_name;
use crate::interrupt::Watch;
use crate::logprobs::{Logprobs, Token};
use crate::{output, progress};

/// One of the texts.
pub(crate) struct Sample {
    pub(crate) seed: u64,
    pub(crate) ids: Vec<u32>,
    /// With --logprobs.
    pub(crate) tokens: Option<Vec<Token>>,
    pub(crate) text: String,
    pub(crate) reason: Reason,
}

/// The same, as `--json` prints it.
#[derive(Serialize)]
pub(crate) struct Report<'a> {
    text: &'a str,
    token_ids: &'a [u32],
    stop_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<&'a [Token]>,
    seed: u64,
}

impl Sample {
    pub(crate) fn report(&self) -> Report<'_> {
        Report {
            text: &self.text,
            token_ids: &self.ids,
            stop_reason: reason_name(self.reason),
            tokens: self.tokens.as_deref(),
            seed: self.seed,
        }
    }
}

/// Options of an engine that writes `n` texts at once.
pub(crate) fn options(options: EngineOptions, n: usize) -> EngineOptions {
    let (chunk, logits) = (options.chunk.max(n), options.logits.max(n));
    options.chunk(chunk).logits(logits)
}

/// Continues from the logits of `session` in `n` ways: with the sampler's seed and those after it.
pub(crate) fn write(
    (session, sampler): (&mut Session, &Sampler),
    n: usize,
    (text, logprobs): (&Text, Option<&Logprobs<'_>>),
    limits: &Limits<'_>,
    watch: &Watch,
    quiet: bool,
) -> Result<Vec<Sample>> {
    let mut samplers: Vec<Sampler> = vec![sampler.clone(); n];
    for (i, sampler) in samplers.iter_mut().enumerate().skip(1) {
        sampler.reseed(sampler.seed().wrapping_add(i as u64));
    }
    session.state().fetch()?;
    let mut states: Vec<State> = vec![session.state().clone(); n];
    let logits = session.logits().to_vec();
    let mut samples: Vec<Sample> = samplers
        .iter()
        .map(|sampler| Sample {
            seed: sampler.seed(),
            ids: Vec::new(),
            tokens: logprobs.map(|_| Vec::new()),
            text: String::new(),
            reason: Reason::Length,
        })
        .collect();
    let bar = progress::bar((n * limits.tokens) as u64, progress::Unit::Count, quiet);
    let from = (&mut states[..], &logits[..]);
    let ended: Vec<Ended> =
        generate_many(session.engine(), from, &mut samplers, text, limits, |i, piece| {
            samples[i].ids.extend(piece.token);
            let token = logprobs.and_then(|logprobs| logprobs.of(&piece));
            samples[i].tokens.iter_mut().for_each(|tokens| tokens.extend(token.clone()));
            samples[i].text.push_str(piece.text);
            bar.inc(u64::from(piece.token.is_some()));
            let flow =
                if watch.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            Ok::<_, Failure>(flow)
        })?;
    bar.finish_and_clear();
    for (sample, ended) in samples.iter_mut().zip(ended) {
        sample.reason = ended.reason;
    }
    Ok(samples)
}

/// Prints the texts, each behind a note with its seed.
pub(crate) fn print(samples: &[Sample], quiet: bool) -> Result {
    for (i, sample) in samples.iter().enumerate() {
        if !quiet {
            output::note(&format!("text {} of {}, seed {}:", i + 1, samples.len(), sample.seed));
        }
        output::generated(sample.text.as_bytes())?;
        if !sample.text.ends_with('\n') {
            output::text("\n")?;
        }
    }
    Ok(())
}
