//! `brooklet.Completion`: a text of many, and how it comes together.
//!
//! Test: `tests/test_batch.py`.

use brooklet::generate::Piece;
use brooklet::prefix::Reading;
use brooklet::sampler::log_softmax;
use pyo3::prelude::*;

/// A text that has ended.
#[pyclass(frozen, get_all, module = "brooklet")]
pub(crate) struct Completion {
    /// The number of its prompt, from 0.
    index: usize,
    /// The text, without the prompt.
    text: String,
    /// Its tokens.
    tokens: Vec<u32>,
    /// Their log-probabilities, if they were asked for.
    logprobs: Vec<f32>,
    /// Why it ended: "length", "end", "stop", "grammar"; "error" where it failed.
    reason: &'static str,
    /// The seed of its random numbers.
    seed: u64,
    /// Tokens of the prompt, and how many of them were known from earlier ones.
    prompt_tokens: usize,
    reused_tokens: usize,
    /// What went wrong, if errors are kept.
    error: Option<Py<PyAny>>,
}

#[pymethods]
impl Completion {
    fn __str__(&self) -> &str {
        &self.text
    }

    fn __repr__(&self) -> String {
        let (index, tokens, reason) = (self.index, self.tokens.len(), self.reason);
        format!("<brooklet.Completion {index}, {tokens} tokens, {reason}>")
    }
}

/// A text in the making.
#[derive(Default)]
pub(crate) struct Job {
    pub(crate) index: usize,
    pub(crate) seed: u64,
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
    pub(crate) logprobs: Vec<f32>,
    pub(crate) reading: Reading,
}

impl Job {
    /// The result.
    pub(crate) fn completion(self, reason: &'static str, error: Option<Py<PyAny>>) -> Completion {
        Completion {
            index: self.index,
            text: self.text,
            tokens: self.tokens,
            logprobs: self.logprobs,
            reason,
            seed: self.seed,
            prompt_tokens: self.reading.tokens(),
            reused_tokens: self.reading.reused,
            error,
        }
    }

    /// Takes a piece, and its log-probability.
    pub(crate) fn take(&mut self, piece: &Piece<'_>, logprobs: bool) {
        self.text.push_str(piece.text);
        if let Some(token) = piece.token {
            self.tokens.push(token);
            if logprobs {
                self.logprobs.push(log_softmax(piece.logits, token));
            }
        }
    }
}
