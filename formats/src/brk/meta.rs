//! The metadata of a `.brk` file: architecture, hyper-parameters, tokenizer, chat template,
//! provenance.
//!
//! Here: the types that the JSON section becomes. Not here: the check of hyper-parameters (the
//! engine's configuration structs do that per architecture). Readers ignore JSON members that they
//! do not know; what changes the meaning of a file has a flag bit, an id or a version instead.
//! Source: `SPEC.md`, "Metadata". Tests: `brk/tests.rs`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The metadata of a `.brk` file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Name of the architecture: "rwkv7", "mamba2", …
    pub architecture: String,
    /// Hyper-parameters by name: `n_layer`, `d_model`, `n_vocab`, …
    #[serde(default)]
    pub config: Map<String, Value>,
    /// Which tokenizer turns text into ids.
    #[serde(default)]
    pub tokenizer: TokenizerMeta,
    /// The chat template (Jinja), if the checkpoint has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// Where the weights come from.
    #[serde(default)]
    pub provenance: Provenance,
}

/// The tokenizer of a model; its vocabulary is the file's tokenizer section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenizerMeta {
    /// How the tokenizer section is to be read.
    pub kind: TokenizerKind,
    /// Token put before a text, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos_id: Option<u32>,
    /// Tokens that end a text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eos_ids: Vec<u32>,
}

/// How the tokenizer section is to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerKind {
    /// No tokenizer: the model takes and gives ids. The section is empty.
    #[default]
    None,
    /// RWKV World: the section is the vocabulary, or empty for the built-in one of 65536 ids.
    World,
    /// The section is a Hugging Face `tokenizer.json`.
    HuggingFace,
    /// Every byte is its own id. The section is empty.
    Bytes,
}

impl TokenizerKind {
    /// The name in the file: `none`, `world`, `huggingface` or `bytes`.
    pub fn name(self) -> &'static str {
        match self {
            TokenizerKind::None => "none",
            TokenizerKind::World => "world",
            TokenizerKind::HuggingFace => "huggingface",
            TokenizerKind::Bytes => "bytes",
        }
    }
}

/// Where the weights of a file come from; for people, never needed to run the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// Name of the checkpoint, without its folder.
    pub source_file: String,
    /// Hash of the checkpoint, with the algorithm before a colon: "xxh3-64:0123456789abcdef".
    pub source_hash: String,
    /// Kind of the checkpoint: "safetensors", "pickle", "gguf", …
    pub source_format: String,
    /// Version of the converter that wrote the file.
    pub converter_version: String,
    /// The converter's options: type, group, overrides.
    pub recipe: String,
}
