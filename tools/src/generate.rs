//! The loop that writes text: sample, decode, look for a reason to stop, step.
//!
//! `run` and `chat` share it. Not here: reading the prompt, and where the text goes. Test: `tests/cli/run.rs`.

use brooklet::Session;
use brooklet::sampler::{Sampler, StopMatcher};
use serde::Serialize;

use crate::failure::Result;
use crate::interrupt::Watch;
use crate::text::Text;

/// When to stop.
pub(crate) struct Limits<'a> {
    /// Tokens at most.
    pub(crate) tokens: usize,
    /// Strings that end the text; they are not part of it.
    pub(crate) stops: &'a [String],
    /// Go on after a token that ends a text.
    pub(crate) ignore_end: bool,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reason {
    /// As many tokens as asked for.
    Length,
    /// The model ended it.
    End,
    /// A stop string.
    Stop,
    /// Ctrl-C.
    Interrupted,
}

/// What was written.
pub(crate) struct Generated {
    /// The tokens, without one that ended the text.
    pub(crate) ids: Vec<u32>,
    /// The text, up to a stop string.
    pub(crate) text: String,
    /// Why it ended.
    pub(crate) reason: Reason,
    /// The last token sampled, which the session has not read yet.
    pub(crate) pending: Option<u32>,
}

/// Continues from the logits of `session`, and gives every piece of text to `emit` as soon as it is certain.
pub(crate) fn generate(
    session: &mut Session,
    sampler: &mut Sampler,
    text: &Text,
    limits: &Limits<'_>,
    watch: &Watch,
    mut emit: impl FnMut(&str) -> Result,
) -> Result<Generated> {
    let mut stream = text.tokenizer.stream().skip_special(true);
    let mut stops = StopMatcher::new(limits.stops.iter().cloned());
    let mut done = Generated { ids: Vec::new(), text: String::new(), reason: Reason::Length, pending: None };
    while done.ids.len() < limits.tokens {
        if let Some(token) = done.pending {
            session.step(token)?;
        }
        if watch.requested() {
            done.reason = Reason::Interrupted;
            break;
        }
        let token = sampler.sample(session.logits());
        sampler.accept(token);
        done.pending = Some(token);
        if text.ends.contains(&token) && !limits.ignore_end {
            done.reason = Reason::End;
            break;
        }
        done.ids.push(token);
        let passed = stops.push(stream.push(token));
        done.text.push_str(passed.text);
        let stop = passed.stop.is_some();
        emit(passed.text)?;
        if stop {
            done.reason = Reason::Stop;
            return Ok(done);
        }
    }
    // What an unfinished character, then the search for stop strings, still holds back.
    for piece in [stops.push(stream.finish()).text.to_owned(), stops.finish().to_owned()] {
        done.text.push_str(&piece);
        emit(&piece)?;
    }
    Ok(done)
}
