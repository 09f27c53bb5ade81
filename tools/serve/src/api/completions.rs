//! `POST /v1/completions`.

use serde::Deserialize;

/// Fields of a completion beside [`super::Common`].
#[derive(Debug, Deserialize)]
pub(crate) struct Completion {
    pub(crate) prompt: Prompts,
    #[serde(default)]
    pub(crate) logprobs: Option<usize>,
    #[serde(default)]
    pub(crate) echo: Option<bool>,
    #[serde(default)]
    pub(crate) suffix: Option<String>,
    #[serde(default)]
    pub(crate) best_of: Option<usize>,
}

/// A text or several, or their tokens.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a string, a list of strings, a list of token ids, or a list of those"
)]
pub(crate) enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    ManyTokens(Vec<Vec<u32>>),
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

impl Prompts {
    /// Each of them.
    pub(crate) fn each(self) -> Vec<Prompt> {
        match self {
            Prompts::Text(text) => vec![Prompt::Text(text)],
            Prompts::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
            Prompts::Tokens(tokens) => vec![Prompt::Tokens(tokens)],
            Prompts::ManyTokens(many) => many.into_iter().map(Prompt::Tokens).collect(),
        }
    }
}
