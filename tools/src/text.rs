//! A model's words: its tokenizer, the token before a text, the tokens that end one.
//!
//! The file's metadata knows best; where it is silent, the tokenizer's own idea counts. Not here: the tokenizers (the
//! engine's). Test: `tests/cli/run.rs`.

use std::path::Path;

use brooklet::Model;
use brooklet::tokenizer::Tokenizer;
use brooklet_formats::brk::BrkFile;

use crate::failure::{Failure, Result};

/// The tokenizer of a model, and the ids with a meaning of their own.
pub(crate) struct Text {
    /// Text to ids and back.
    pub(crate) tokenizer: Tokenizer,
    /// Token before a text, if the model wants one.
    pub(crate) begin: Option<u32>,
    /// Tokens that end a text.
    pub(crate) ends: Vec<u32>,
}

impl Text {
    /// The text side of `model`.
    pub(crate) fn of(model: &Model) -> Result<Text> {
        let tokenizer = model.tokenizer()?;
        let meta = &model.meta().tokenizer;
        let mut ends = meta.eos_ids.clone();
        if ends.is_empty() {
            ends.extend(tokenizer.eos());
        }
        Ok(Text { tokenizer, begin: meta.bos_id, ends })
    }

    /// The ids of a prompt. An empty one begins as a text does: with the beginning token, or after an end.
    pub(crate) fn prompt(&self, prompt: &[u8]) -> Result<Vec<u32>> {
        let mut ids: Vec<u32> = self.begin.into_iter().collect();
        self.tokenizer.encode_into(prompt, &mut ids)?;
        if ids.is_empty() {
            ids.extend(self.ends.first());
        }
        if ids.is_empty() {
            return Err(Failure::with(
                "the prompt is empty and the model has no token to begin with",
                "give a prompt",
            ));
        }
        Ok(ids)
    }
}

/// The tokenizer that `place` names: a `.brk` model, a `tokenizer.json`, a World vocabulary, or the words `world`, `bytes`.
pub(crate) fn tokenizer_at(place: &Path) -> Result<Tokenizer> {
    match place.to_str() {
        Some("world") if !place.exists() => return Ok(Tokenizer::world()),
        Some("bytes") if !place.exists() => return Ok(Tokenizer::bytes()),
        _ => {}
    }
    if place.extension().is_some_and(|extension| extension == "brk") {
        return from_model(place);
    }
    let start = first_bytes(place).map_err(Failure::io("open", place.display()))?;
    if start.starts_with(&brooklet_formats::brk::MAGIC) {
        return from_model(place);
    }
    let bytes = std::fs::read(place).map_err(Failure::io("read", place.display()))?;
    let tokenizer = match start.trim_ascii_start().first() {
        Some(b'{') => Tokenizer::from_huggingface_json(&bytes),
        _ => Tokenizer::world_from_vocab_text(&bytes),
    };
    tokenizer.map_err(|error| {
        Failure::with(
            format!("{}: {error}", place.display()),
            "give a .brk model, a tokenizer.json, a World vocabulary or the word `world`",
        )
    })
}

fn from_model(path: &Path) -> Result<Tokenizer> {
    let file = BrkFile::open(path)?;
    Ok(Tokenizer::from_meta(file.meta().tokenizer.kind.name(), &file.tokenizer_blob()?)?)
}

/// Enough of a file to tell what it is.
fn first_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut start = Vec::new();
    std::fs::File::open(path)?.take(64).read_to_end(&mut start)?;
    Ok(start)
}
