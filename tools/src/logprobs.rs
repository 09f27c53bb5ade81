//! `run --logprobs`: each token with its log-probability and those that were likelier.
//!
//! Of the model's own distribution, before any option of sampling, in nats. Not here: the
//! arithmetic (`brooklet::sampler`). Test: `tests/cli/sampling.rs`.

use brooklet::Text;
use brooklet::generate::Piece;
use brooklet::sampler::{LogSoftmax, top_k};
use serde::Serialize;

/// What is reported of each token.
pub(crate) struct Logprobs<'a> {
    text: &'a Text,
    top: usize,
}

/// A token that was chosen, as `--json` prints it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Token {
    #[serde(flatten)]
    own: Choice,
    /// The likeliest, those first.
    top: Vec<Choice>,
}

/// A token and how likely it was.
#[derive(Clone, Debug, Serialize)]
struct Choice {
    id: u32,
    /// With U+FFFD for what is no whole character by itself.
    text: String,
    /// Null where the model rules it out.
    logprob: f32,
}

impl<'a> Logprobs<'a> {
    /// Reports with the `top` likeliest tokens.
    pub(crate) fn new(text: &'a Text, top: usize) -> Logprobs<'a> {
        Logprobs { text, top }
    }

    /// What is said of the token of a piece, if there is one.
    pub(crate) fn of(&self, piece: &Piece<'_>) -> Option<Token> {
        let sum = LogSoftmax::of(piece.logits);
        let choice = |id: u32| Choice {
            id,
            text: self.text_of(id),
            logprob: sum.log_prob(piece.logits, id),
        };
        let own = choice(piece.token?);
        let top = top_k(piece.logits, self.top).into_iter().map(|(id, _)| choice(id)).collect();
        Some(Token { own, top })
    }

    fn text_of(&self, id: u32) -> String {
        let bytes = self.text.tokenizer.token_bytes(id).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }
}
