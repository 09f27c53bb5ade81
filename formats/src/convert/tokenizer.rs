//! Which tokenizer a converted file carries, and which tokens begin and end a text.
//!
//! The file that the user names; else the checkpoint's own (GGUF's metadata, `tokenizer.json` or
//! `tiktoken.model` beside the weights); else the World vocabulary or plain bytes, when the number
//! of rows says so. The ids that end a text are told by `ends`; a token is put before a text only
//! where the tokenizer itself does so. Test: `tests/gguf_tokenizer.rs`, `tests/cli/tokenizers.rs`.

use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::ends;
use super::gguf_tokenizer;
use super::gguf_tokens::Found;
use super::tiktoken;
use super::vocabulary::vocabulary;
use crate::FormatError;
use crate::atomic::open_regular;
use crate::brk::{TokenizerKind, TokenizerMeta};
use crate::checkpoint::{Checkpoint, MetaValue};

/// Rows of the embedding of models that use the RWKV World vocabulary.
const WORLD_ROWS: usize = 65536;
/// Rows of byte-level models.
const BYTE_ROWS: usize = 256;
/// The end of text in World models.
const WORLD_END: u32 = 0;

const OTHERS_TOKENIZER: &str = "the tokenizer.json beside the weights is left out: \
     a model of RWKV with 65536 tokens has the World vocabulary \
     (name the file with --tokenizer if it is the model's after all)";

/// The tokenizer of a file to be.
pub(super) struct Choice {
    pub(super) meta: TokenizerMeta,
    /// The file's tokenizer section.
    pub(super) section: Vec<u8>,
    /// A note for people about it.
    pub(super) note: Option<String>,
}

/// Chooses for a model of `n_vocab` rows.
pub(super) fn choose(
    checkpoint: &Checkpoint,
    named: Option<&Path>,
    n_vocab: usize,
) -> Result<Choice, FormatError> {
    let mut note = None;
    let (kind, section) = if let Some(path) = named {
        let mut text = Vec::new();
        open_regular(path)?.0.read_to_end(&mut text).map_err(FormatError::io("read", path))?;
        vocabulary(text)
    } else {
        match gguf_tokenizer::read(checkpoint.metadata(), n_vocab) {
            Found::HuggingFace(json, doubt) => {
                note = doubt;
                (TokenizerKind::HuggingFace, json)
            }
            Found::World(text) => (TokenizerKind::World, text),
            found => {
                if let Found::Unknown(why) = found {
                    note = Some(why);
                }
                let mut beside = checkpoint.tokenizer_json().map(vocabulary);
                if let (None, Some((file, config))) = (&beside, checkpoint.tiktoken()) {
                    match tiktoken::tokenizer_json(file, config) {
                        Ok(json) => beside = Some((TokenizerKind::HuggingFace, json)),
                        Err(why) => note = Some(why),
                    }
                }
                match (beside, n_vocab) {
                    (Some((TokenizerKind::HuggingFace, _)), WORLD_ROWS)
                        if is_of_rwkv(checkpoint) =>
                    {
                        note = Some(OTHERS_TOKENIZER.to_owned());
                        (TokenizerKind::World, Vec::new())
                    }
                    (Some(beside), _) => beside,
                    (None, WORLD_ROWS) => (TokenizerKind::World, Vec::new()),
                    (None, BYTE_ROWS) => (TokenizerKind::Bytes, Vec::new()),
                    (None, _) => (TokenizerKind::None, Vec::new()),
                }
            }
        }
    };
    let mut eos_ids = ends::of(checkpoint, kind, &section);
    if kind == TokenizerKind::World && !eos_ids.contains(&WORLD_END) {
        eos_ids.push(WORLD_END);
    }
    eos_ids.retain(|&id| (id as usize) < n_vocab);
    let bos_id = begin(checkpoint, &section).filter(|&id| (id as usize) < n_vocab);
    Ok(Choice { meta: TokenizerMeta { kind, bos_id, eos_ids }, section, note })
}

/// Whether the tensors have the names that RWKV's own files have: these bring no tokenizer.
fn is_of_rwkv(checkpoint: &Checkpoint) -> bool {
    checkpoint.get("emb.weight").is_some() && checkpoint.get("blocks.0.ln0.weight").is_some()
}

/// The id that the tokenizer puts before a text: GGUF says so, or the template of a
/// `tokenizer.json` begins with it.
fn begin(checkpoint: &Checkpoint, section: &[u8]) -> Option<u32> {
    let metadata = checkpoint.metadata();
    let get = |name: &str| metadata.get(&format!("tokenizer.ggml.{name}"));
    // SentencePiece's own habit, where the file does not say.
    let is_llama = get("model").and_then(MetaValue::as_str) == Some("llama");
    if get("add_bos_token").and_then(MetaValue::as_bool).unwrap_or(is_llama) {
        let id = metadata.get("tokenizer.ggml.bos_token_id").and_then(MetaValue::as_u64);
        return id.and_then(|id| u32::try_from(id).ok());
    }
    let json: Value = serde_json::from_slice(section).ok()?;
    let processor = json.get("post_processor")?;
    let steps = processor.get("processors").and_then(Value::as_array);
    let template =
        |step: &&Value| step.get("type").and_then(Value::as_str) == Some("TemplateProcessing");
    let template = std::iter::once(processor).chain(steps.into_iter().flatten()).find(template)?;
    let name = template.get("single")?.get(0)?.get("SpecialToken")?.get("id")?.as_str()?;
    let id = template.get("special_tokens")?.get(name)?.get("ids")?.get(0)?.as_u64()?;
    u32::try_from(id).ok()
}
