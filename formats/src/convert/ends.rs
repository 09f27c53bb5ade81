//! Which tokens end a text, as a checkpoint says it: in several places, which need not agree.
//!
//! `generation_config.json`, `config.json`, `tokenizer_config.json`, `special_tokens_map.json` and
//! GGUF's metadata; every token that one of them names ends a text. The tokenizer's files name
//! tokens by their text. Test: `tests/cli/tokenizers.rs`.

use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::atomic::open_regular;
use crate::brk::TokenizerKind;
use crate::checkpoint::{Checkpoint, MetaValue};

/// Longest file that is read here.
const JSON_MAX: u64 = 32 << 20;

/// Two line feeds in the usual World vocabulary.
const WORLD_BLANK_LINE: u32 = 261;

/// The ids that end a text of a model with this tokenizer.
pub(super) fn of(checkpoint: &Checkpoint, kind: TokenizerKind, section: &[u8]) -> Vec<u32> {
    let mut ends = Vec::new();
    let mut add = |ids: Vec<u32>| {
        for id in ids {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
    };
    if let Some(config) = checkpoint.config() {
        let folder = checkpoint.files().first().and_then(|file| file.parent());
        let beside = |name: &str| json_at(&folder.unwrap_or(Path::new("")).join(name));
        for config in checkpoint.generation_config().into_iter().chain([config]) {
            add(config.get("eos_token_id").map(ids).unwrap_or_default());
        }
        for name in ["tokenizer_config.json", "special_tokens_map.json"] {
            let Some(config) = beside(name) else { continue };
            let token = config.get("eos_token").and_then(text);
            let id = token.and_then(|token| id_of(token, &config, kind, section));
            add(id.into_iter().collect());
        }
    }
    for name in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        let id = checkpoint.metadata().get(&format!("tokenizer.ggml.{name}"));
        let id = id.and_then(MetaValue::as_u64).and_then(|id| u32::try_from(id).ok());
        add(id.into_iter().collect());
    }
    ends
}

/// A number, or a list of them.
fn ids(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value.as_array() {
        Some(list) => list.iter().filter_map(id).collect(),
        None => id(value).into_iter().collect(),
    }
}

/// A token's text, which may stand in an object with its properties.
fn text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// The id of a token: in the configuration's own list, or in the tokenizer.
fn id_of(token: &str, config: &Value, kind: TokenizerKind, section: &[u8]) -> Option<u32> {
    let number = |id: u64| u32::try_from(id).ok();
    if let Some(listed) = config.get("added_tokens_decoder").and_then(Value::as_object) {
        let found = listed.iter().find(|(_, entry)| text(entry) == Some(token));
        if let Some(id) = found.and_then(|(id, _)| id.parse().ok()) {
            return Some(id);
        }
    }
    if kind == TokenizerKind::World {
        // An RWKV of Hugging Face's ends answers with an empty line.
        return (section.is_empty() && token == "\n\n").then_some(WORLD_BLANK_LINE);
    }
    let json: Value = serde_json::from_slice(section).ok()?;
    let added = json.get("added_tokens").and_then(Value::as_array);
    let added = added.into_iter().flatten().find(|entry| text(entry) == Some(token));
    if let Some(id) = added.and_then(|entry| entry.get("id")?.as_u64()) {
        return number(id);
    }
    let vocab = json.get("model")?.get("vocab")?;
    if let Some(list) = vocab.as_array() {
        let place =
            list.iter().position(|entry| entry.get(0).and_then(Value::as_str) == Some(token));
        return place.and_then(|place| number(place as u64));
    }
    number(vocab.get(token)?.as_u64()?)
}

/// The JSON of a small file, if it is there and is some.
fn json_at(path: &Path) -> Option<Value> {
    let mut bytes = Vec::new();
    open_regular(path).ok()?.0.take(JSON_MAX).read_to_end(&mut bytes).ok()?;
    let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    serde_json::from_slice(text).ok()
}
