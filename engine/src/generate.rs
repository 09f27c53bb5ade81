//! The loop that writes text: sample, decode, look for a reason to stop, step.
//!
//! The command line and the C interface share it. Not here: reading the prompt, and where the text
//! goes. Between two tokens nothing is allocated (`tests/allocations.rs`). Test:
//! `tests/generate.rs`.

use std::ops::ControlFlow;

use crate::sampler::{Sampler, StopMatcher};
use crate::session::Session;
use crate::speculate::Speculation;
use crate::text::Text;
use crate::{EngineError, Result};

/// When to stop.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits<'a> {
    /// Tokens at most.
    pub tokens: usize,
    /// Strings that end the text; they are not part of it.
    pub stops: &'a [String],
    /// Go on after a token that ends a text.
    pub ignore_end: bool,
    /// The last tokens of a text that this one goes on with, so that it may begin inside a
    /// character.
    pub tail: &'a [u32],
    /// The text will be gone on with: what is left of an unfinished character is not given, it
    /// comes with the rest.
    pub goes_on: bool,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// As many tokens as asked for.
    Length,
    /// The model ended it.
    End,
    /// A stop string.
    Stop,
    /// The caller wanted no more.
    Cancelled,
}

/// A piece given to the caller as soon as it is certain.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// The token just chosen; none for what comes out at the end, when nothing can follow any more.
    pub token: Option<u32>,
    /// Whole characters, often none.
    pub text: &'a str,
}

/// How a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Why.
    pub reason: Reason,
    /// Tokens given to the caller; one that ended the text does not count.
    pub tokens: usize,
    /// The last token sampled, which the session has not read yet.
    pub pending: Option<u32>,
}

/// Continues from the logits of `session`, and gives every piece of text to `emit` as soon as it is
/// certain. Only tokens that `text` knows are chosen ([`Text::known`]).
///
/// When `emit` breaks, no further token is chosen; text that was held back for an unfinished
/// character or a possible stop string is still given. The error type is the caller's, so that
/// `emit` can fail in its own way.
///
/// # Errors
/// The failure of `emit`, or the session's.
pub fn generate<E: From<EngineError>>(
    session: &mut Session,
    sampler: &mut Sampler,
    text: &Text,
    limits: &Limits<'_>,
    emit: impl FnMut(Piece<'_>) -> Result<ControlFlow<()>, E>,
) -> Result<Ended, E> {
    generate_with(session, sampler, None, text, limits, emit)
}

/// [`generate`] that guesses what comes next, if `speculation` is there and was told what the
/// session has read ([`Speculation::begin`]): the same text, in fewer passes where guesses are
/// right.
///
/// # Errors
/// As [`generate`]'s.
pub fn generate_with<E: From<EngineError>>(
    session: &mut Session,
    sampler: &mut Sampler,
    mut speculation: Option<&mut Speculation>,
    text: &Text,
    limits: &Limits<'_>,
    emit: impl FnMut(Piece<'_>) -> Result<ControlFlow<()>, E>,
) -> Result<Ended, E> {
    let ended = write(session, sampler, speculation.as_deref_mut(), text, limits, emit);
    // However it ended, the session stands behind the last token that was read.
    let settled = speculation.map_or(Ok(()), |speculation| speculation.settle(session));
    let ended = ended?;
    settled?;
    Ok(ended)
}

fn write<E: From<EngineError>>(
    session: &mut Session,
    sampler: &mut Sampler,
    mut speculation: Option<&mut Speculation>,
    text: &Text,
    limits: &Limits<'_>,
    mut emit: impl FnMut(Piece<'_>) -> Result<ControlFlow<()>, E>,
) -> Result<Ended, E> {
    let mut stream = text.tokenizer.stream().skip_special(true);
    for token in limits.tail {
        stream.push(*token);
    }
    let mut stops = StopMatcher::new(limits.stops.iter().cloned());
    let mut ended = Ended { reason: Reason::Length, tokens: 0, pending: None };
    while ended.tokens < limits.tokens {
        if let Some(token) = ended.pending {
            match &mut speculation {
                Some(speculation) => speculation.step(session, token, sampler)?,
                None => session.step(token)?,
            };
        }
        let token = sampler.sample(text.known(session.logits()));
        sampler.accept(token);
        ended.pending = Some(token);
        if text.ends.contains(&token) && !limits.ignore_end {
            ended.reason = Reason::End;
            break;
        }
        ended.tokens += 1;
        let passed = stops.push(if text.tokenizer.has_text() { stream.push(token) } else { "" });
        let stop = passed.stop.is_some();
        let flow = emit(Piece { token: Some(token), text: passed.text })?;
        if stop {
            ended.reason = Reason::Stop;
            return Ok(ended);
        }
        if flow.is_break() {
            ended.reason = Reason::Cancelled;
            break;
        }
    }
    // The rest: held back by an unfinished character, then by the search for stop strings.
    let unfinished = if limits.goes_on { "" } else { stream.finish() };
    for held in [stops.push(unfinished).text.to_owned(), stops.finish().to_owned()] {
        if !held.is_empty() {
            let _ = emit(Piece { token: None, text: &held })?;
        }
    }
    Ok(ended)
}
