//! Writes text with the engine's loop, and keeps what was written.
//!
//! `run` and `chat` share it. Not here: the loop (`brooklet::generate`), reading the prompt, and
//! where the text goes. Test: `tests/cli/run.rs`.

use std::ops::ControlFlow;

use brooklet::generate::{Limits, Piece, Reason, generate_with};
use brooklet::sampler::Sampler;
use brooklet::speculate::Speculation;
use brooklet::{Session, Text};

use crate::failure::{Failure, Result};
use crate::interrupt::Watch;
use crate::logprobs::{Logprobs, Token};

/// A text that was written.
pub(crate) struct Generated {
    /// The tokens, without one that ended the text.
    pub(crate) ids: Vec<u32>,
    /// The same with their log-probabilities, if those were asked for.
    pub(crate) tokens: Vec<Token>,
    /// The text, up to a stop string.
    pub(crate) text: String,
    /// Why it ended; `Cancelled` is Ctrl-C.
    pub(crate) reason: Reason,
    /// The last token sampled, which the session has not read yet.
    pub(crate) pending: Option<u32>,
}

/// Continues from the logits of `session`, and gives every piece of text to `emit` as soon as it is
/// certain.
pub(crate) fn generate(
    session: &mut Session,
    (sampler, speculation): (&mut Sampler, Option<&mut Speculation>),
    (text, logprobs): (&Text, Option<&Logprobs<'_>>),
    limits: &Limits<'_>,
    watch: &Watch,
    mut emit: impl FnMut(&str) -> Result,
) -> Result<Generated> {
    let (mut ids, mut tokens, mut written) = (Vec::new(), Vec::new(), String::new());
    let keep = |piece: Piece<'_>| -> Result<ControlFlow<()>, Failure> {
        ids.extend(piece.token);
        tokens.extend(logprobs.and_then(|logprobs| logprobs.of(&piece)));
        written.push_str(piece.text);
        emit(piece.text)?;
        Ok(if watch.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    let limits = limits.without_logits(logprobs.is_none());
    let ended = generate_with(session, sampler, speculation, text, &limits, keep)?;
    Ok(Generated { ids, tokens, text: written, reason: ended.reason, pending: ended.pending })
}

/// How `--json` calls the end of a text.
pub(crate) fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::Length => "length",
        Reason::End => "end",
        Reason::Stop => "stop",
        Reason::Grammar => "grammar",
        _ => "interrupted",
    }
}
