//! Shared by the readers of GGUF's tokenizers: a token as the metadata has it, and their findings.

/// A tokenizer, or why there is none.
pub(super) enum Found {
    /// A `tokenizer.json`, and what is uncertain about it.
    HuggingFace(Vec<u8>, Option<String>),
    /// A World vocabulary; empty for the usual one.
    World(Vec<u8>),
    /// One that cannot be carried over.
    Unknown(String),
    /// The metadata has none.
    Nothing,
}

/// `tokenizer.ggml.token_type`.
pub(super) const CONTROL: i64 = 3;
pub(super) const USER_DEFINED: i64 = 4;
/// A token in use.
pub(super) struct Token<'a> {
    pub(super) id: usize,
    pub(super) text: &'a str,
    pub(super) kind: i64,
}
