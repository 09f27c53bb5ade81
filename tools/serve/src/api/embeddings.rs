//! `POST /v1/embeddings`.

use serde::Deserialize;

use super::completions::Prompts;

/// Texts whose embeddings are asked for.
#[derive(Debug, Deserialize)]
pub(crate) struct Embeddings {
    pub(crate) input: Prompts,
    /// `float` or `base64`.
    #[serde(default)]
    pub(crate) encoding_format: Option<String>,
    #[serde(default)]
    pub(crate) dimensions: Option<usize>,
    /// Our own: `last` (the default) or `mean`.
    #[serde(default)]
    pub(crate) pooling: Option<String>,
}
