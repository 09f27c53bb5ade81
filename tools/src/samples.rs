//! `run --samples`: several texts behind one prompt, written together.
//!
//! Each is what `run` writes with that seed. Not here: the loop (`brooklet::generate`). Test:
//! `tests/cli/samples.rs`.

use std::ops::ControlFlow;

use brooklet::generate::{Ended, Limits, Reason, generate_many};
use brooklet::sampler::Sampler;
use brooklet::{EngineOptions, Session, State, Text};
use serde::Serialize;

use crate::coverage::Verdict;
use crate::failure::{Failure, Result};
use crate::generate::{generate, reason_name};
use crate::interrupt::Watch;
use crate::logprobs::{Logprobs, Token};
use crate::output;
use crate::progress::{self, Bar};

/// One of the texts.
pub(crate) struct Sample {
    pub(crate) seed: u64,
    /// Tokens that it has in common with others, of --depths.
    pub(crate) depth: usize,
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
    depth: usize,
}

impl Sample {
    pub(crate) fn report(&self) -> Report<'_> {
        Report {
            text: &self.text,
            token_ids: &self.ids,
            stop_reason: reason_name(self.reason),
            tokens: self.tokens.as_deref(),
            seed: self.seed,
            depth: self.depth,
        }
    }
}

/// Options of an engine that writes `n` texts at once.
pub(crate) fn options(options: EngineOptions, n: usize) -> EngineOptions {
    let (chunk, logits) = (options.chunk.max(n), options.logits.max(n));
    options.chunk(chunk).logits(logits)
}

/// What is asked for.
pub(crate) struct Many {
    /// Texts at each depth.
    pub(crate) samples: usize,
    /// Depths of one text.
    pub(crate) depths: usize,
}

/// Words, and which log-probabilities are wanted.
type To<'a> = (&'a Text, Option<&'a Logprobs<'a>>);

impl Many {
    /// Continues from the logits of `session`, with the sampler's seed and those after it. Behind
    /// parts of a text: the sampler's own, cut at equal distances.
    pub(crate) fn write(
        &self,
        (session, sampler): (&mut Session, &Sampler),
        to: To<'_>,
        limits: &Limits<'_>,
        watch: &Watch,
        quiet: bool,
    ) -> Result<Vec<Sample>> {
        let all = self.samples * self.depths * limits.tokens;
        let bar = progress::bar(all as u64, progress::Unit::Count, quiet);
        if self.depths <= 1 {
            let written = self.at((session, sampler.clone()), &[], to, limits, watch, &bar)?;
            bar.finish_and_clear();
            return Ok(written);
        }
        session.state().fetch()?;
        let start = session.snapshot();
        let choose = (&mut sampler.clone(), None);
        let trace = generate(session, choose, (to.0, None), limits, watch, |_| Ok(()))?.ids;
        let (mut written, mut read) = (Vec::new(), 0);
        let mut here = start;
        for depth in 0..self.depths {
            let end = depth * trace.len() / self.depths;
            session.resume(&here)?;
            if end > read {
                session.prefill(&trace[read..end])?;
                (here, read) = (session.snapshot(), end);
            }
            let mut sampler = sampler.clone();
            trace[..end].iter().for_each(|token| sampler.accept(*token));
            sampler.reseed(sampler.seed().wrapping_add((depth * self.samples) as u64));
            // A text that is cut inside a character goes on there.
            let mut limits = *limits;
            limits.tokens -= end;
            let limits = if end > 0 { limits.tail(&trace[..end]) } else { limits };
            written.extend(self.at((session, sampler), &trace[..end], to, &limits, watch, &bar)?);
            if watch.requested() {
                break;
            }
        }
        bar.finish_and_clear();
        Ok(written)
    }

    /// Continues behind a part of a text, which the session has read.
    fn at(
        &self,
        (session, sampler): (&mut Session, Sampler),
        before: &[u32],
        (text, logprobs): To<'_>,
        limits: &Limits<'_>,
        watch: &Watch,
        bar: &Bar,
    ) -> Result<Vec<Sample>> {
        let n = self.samples;
        let mut samplers: Vec<Sampler> = vec![sampler; n];
        for (i, sampler) in samplers.iter_mut().enumerate().skip(1) {
            sampler.reseed(sampler.seed().wrapping_add(i as u64));
        }
        let mut stream = text.tokenizer.stream().skip_special(true);
        let beginning: String = before.iter().map(|token| stream.push(*token).to_owned()).collect();
        let mut samples: Vec<Sample> = samplers
            .iter()
            .map(|sampler| Sample {
                seed: sampler.seed(),
                depth: before.len(),
                ids: before.to_vec(),
                tokens: logprobs.map(|_| Vec::new()),
                text: beginning.clone(),
                reason: Reason::Length,
            })
            .collect();
        session.state().fetch()?;
        let mut states: Vec<State> = vec![session.state().clone(); n];
        let logits = session.logits().to_vec();
        let from = (&mut states[..], &logits[..]);
        let ended: Vec<Ended> =
            generate_many(session.engine(), from, &mut samplers, text, limits, |i, piece| {
                samples[i].ids.extend(piece.token);
                let token = logprobs.and_then(|logprobs| logprobs.of(&piece));
                samples[i].tokens.iter_mut().for_each(|tokens| tokens.extend(token.clone()));
                samples[i].text.push_str(piece.text);
                bar.inc(u64::from(piece.token.is_some()));
                let flow = if watch.requested() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                };
                Ok::<_, Failure>(flow)
            })?;
        for (sample, ended) in samples.iter_mut().zip(ended) {
            sample.reason = ended.reason;
        }
        Ok(samples)
    }
}

/// Prints the texts, each behind a note with its seed; where they voted, the answer alone.
pub(crate) fn print(samples: &[Sample], verdict: Option<&Verdict>, quiet: bool) -> Result {
    if let Some(verdict) = verdict.filter(|_| !quiet) {
        output::note(&verdict.describe());
    }
    if let Some(verdict) = verdict.filter(|verdict| verdict.has_votes()) {
        let Some(answer) = verdict.answer() else {
            return Err(Failure::with("no text has an answer", "look at them without --vote"));
        };
        return output::text(&format!("{answer}\n"));
    }
    for (i, sample) in samples.iter().enumerate() {
        if !quiet {
            let depth = match sample.depth {
                0 => String::new(),
                depth => format!(" behind {depth} tokens"),
            };
            let (i, n, seed) = (i + 1, samples.len(), sample.seed);
            output::note(&format!("text {i} of {n}, seed {seed}{depth}:"));
        }
        output::generated(sample.text.as_bytes())?;
        if !sample.text.ends_with('\n') {
            output::text("\n")?;
        }
    }
    Ok(())
}
