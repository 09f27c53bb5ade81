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

/// A text or several, each as text or as its tokens.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string, a list of token ids, or a list of such prompts")]
pub(crate) enum Prompts {
    One(Prompt),
    Many(Vec<Prompt>),
}

/// One of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

impl Prompts {
    /// Each of them; an empty list has none.
    pub(crate) fn each(self) -> Vec<Prompt> {
        match self {
            Prompts::One(Prompt::Tokens(tokens)) if tokens.is_empty() => Vec::new(),
            Prompts::One(prompt) => vec![prompt],
            Prompts::Many(prompts) => prompts,
        }
    }
}
