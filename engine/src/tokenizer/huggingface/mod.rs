//! Hugging Face's `tokenizer.json`: text to tokens of a byte-pair encoding or a unigram model, and
//! back.
//!
//! | file | what it does |
//! |---|---|
//! | `json.rs` | the fields of the file |
//! | `added.rs` | tokens that are looked for in the text itself |
//! | `normalize.rs`, `precompiled.rs` | normal forms, lower case, replacing |
//! | `pre_tokenize.rs`, `pattern/` | cutting a text into pieces |
//! | `model.rs`, `bpe.rs`, `unigram.rs`, `vocab.rs` | a piece to tokens |
//! | `pieces.rs` | tokens to bytes |
//!
//! The ids are those of the crate `tokenizers`, which is the tests' oracle and no part of the
//! library: it is larger than all the rest, takes four times as long to read a file or a text, and
//! keeps memory for the life of the process. `formats/SPEC.md` says which parts of the file are
//! read; others (other models, other steps) are refused by name. Left out on purpose: truncation,
//! padding, dropout and the template of special tokens; an engine reads exactly the text it is
//! given. Tests: `oracle.rs`, and `../tests.rs` with every case of
//! `fixtures/tokenizer-gpt-neox-20b`.

mod added;
mod bpe;
mod json;
mod model;
mod normalize;
#[cfg(all(test, feature = "world"))]
mod oracle;
#[cfg(all(test, feature = "world"))]
mod oracle_scores;
mod pattern;
pub(super) mod pieces;
mod pre_tokenize;
mod precompiled;
mod unigram;
mod vocab;

use std::ops::Range;

use serde_json::Value;

use self::added::Added;
use self::model::{Model, Work};
use self::normalize::Normalizer;
use self::pieces::{BYTE_NAMES, Pieces};
use self::pre_tokenize::{Cut, Step};
use super::stream::Start;
use crate::error::{EngineError, Result};

/// Names under which the end of text goes, the more exact ones first.
const EOS_NAMES: [&str; 6] =
    ["<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "[EOS]"];

/// Ids from here on are refused: a bound on memory, far above any vocabulary in use.
const MAX_VOCAB: usize = 1 << 24;

/// A loaded `tokenizer.json`.
#[derive(Debug)]
pub(super) struct HuggingFace {
    added: Added,
    normalizer: Vec<Normalizer>,
    pre_tokenizer: Vec<Step>,
    model: Model,
    pieces: Pieces,
    n_vocab: usize,
    /// Sorted by id.
    special: Vec<(u32, String)>,
    /// The token of each single byte, where the model has it: those of the byte-level alphabet
    /// (GPT-NeoX lacks the ones that no UTF-8 text holds), or `<0xNN>`.
    byte_ids: Box<[Option<u32>; 256]>,
    /// Whether names of special tokens must be cut where they are only spelled out.
    cuts_spelled: bool,
}

impl HuggingFace {
    /// Reads the JSON.
    pub(super) fn from_json(json: &[u8]) -> Result<Self> {
        let refused = |why: String| EngineError::TokenizerJson { source: why.into() };
        let file = serde_json::from_slice(json)
            .map_err(|error| EngineError::TokenizerJson { source: error.into() })?;
        Self::from_file(file).map_err(refused)
    }

    fn from_file(file: json::File) -> std::result::Result<Self, String> {
        if let Some(version) = file.version.filter(|version| version != "1.0") {
            return Err(format!("version {version:?} is unknown"));
        }
        let normalizer = normalize::read(&file.normalizer)?;
        let pre_tokenizer = pre_tokenize::read(&file.pre_tokenizer)?;
        let model = Model::new(file.model)?;
        let added = Added::new(file.added_tokens, model.vocab(), &normalizer)?;
        let most = added.iter().map(|(id, _)| id as usize + 1).max();
        let n_vocab = model.n_vocab().max(most.unwrap_or_default());
        if n_vocab > MAX_VOCAB {
            return Err(format!("expected ids below 2^24, found {}", n_vocab - 1));
        }
        let mut texts = vec![None; n_vocab];
        model.vocab().iter().for_each(|(text, id)| texts[id as usize] = Some(text));
        added.iter().for_each(|(id, token)| texts[id as usize] = Some(token.content.as_str()));
        let mut special: Vec<(u32, String)> = added
            .iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (id, token.content.clone()))
            .collect();
        special.sort();
        Ok(HuggingFace {
            pieces: Pieces::new(&texts, &file.decoder)?,
            byte_ids: byte_ids(&model, &file.decoder),
            cuts_spelled: added.has_normalized_special(),
            added,
            normalizer,
            pre_tokenizer,
            model,
            n_vocab,
            special,
        })
    }

    pub(super) fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    pub(super) fn special_tokens(&self) -> &[(u32, String)] {
        &self.special
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.special.binary_search_by_key(&id, |(special, _)| *special).is_ok()
    }

    pub(super) fn eos(&self) -> Option<u32> {
        let named = |name: &&str| self.special.iter().find(|(_, special)| special == name);
        EOS_NAMES.iter().find_map(named).map(|(id, _)| *id)
    }

    pub(super) fn token(&self, token: &str) -> Option<u32> {
        let added = self.added.iter().find(|(_, added)| added.content == token);
        added.map(|(id, _)| id).or_else(|| self.model.vocab().get(token))
    }

    /// The bytes of one token.
    pub(super) fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.pieces.get(id)
    }

    /// The bytes that the start of a text loses.
    pub(super) fn start(&self) -> Start {
        self.pieces.start()
    }

    /// Appends the ids of `text`; bytes that are no UTF-8 become the tokens of single bytes where
    /// the model has them. Special tokens that begin at one of the bytes `spelled` are text. Where
    /// there are more than `most` ids in all, the rest is left out.
    pub(super) fn encode(
        &self,
        text: &[u8],
        spelled: &[usize],
        most: usize,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let mut offset = 0;
        let mut work = Bounded { work: Work::default(), most };
        for chunk in text.utf8_chunks() {
            let refused = |why: String| EngineError::Encode { source: why.into() };
            let is_spelled = |at: usize| spelled.binary_search(&(offset + at)).is_ok();
            self.encode_text(chunk.valid(), is_spelled, &mut work, ids).map_err(refused)?;
            offset += chunk.valid().len();
            for &byte in chunk.invalid() {
                ids.push(
                    self.byte_ids[byte as usize].ok_or(EngineError::NotUtf8 { byte, offset })?,
                );
                offset += 1;
            }
        }
        Ok(())
    }

    fn encode_text(
        &self,
        text: &str,
        is_spelled: impl Fn(usize) -> bool,
        work: &mut Bounded,
        ids: &mut Vec<u32>,
    ) -> std::result::Result<(), String> {
        self.added.split_exact(text, &is_spelled, |part, id| {
            if let Some(id) = id {
                ids.push(id);
                return Ok(());
            }
            if !self.cuts_spelled {
                return self.encode_part(text, part, work, ids);
            }
            // Behind the normalizer nobody knows any more where a byte stood: a cut within the name
            // keeps the token from being found.
            let mut start = part.start;
            for (at, c) in text[part.clone()].char_indices() {
                let end = part.start + at + c.len_utf8();
                if is_spelled(part.start + at) && end < part.end {
                    self.encode_part(text, start..end, work, ids)?;
                    start = end;
                }
            }
            self.encode_part(text, start..part.end, work, ids)
        })
    }

    /// Appends the ids of a part of `text` between added tokens.
    fn encode_part(
        &self,
        text: &str,
        part: Range<usize>,
        work: &mut Bounded,
        ids: &mut Vec<u32>,
    ) -> std::result::Result<(), String> {
        if ids.len() > work.most {
            return Ok(());
        }
        let normal = normalize::apply(&self.normalizer, &text[part.clone()])?;
        self.added.split_normalized(&normal.text, |inner, id| {
            if let Some(id) = id {
                ids.push(id);
                return Ok(());
            }
            let from_start = part.start == 0 && inner.start == 0 && normal.from_start;
            let cut = Cut::new(&self.pre_tokenizer, &normal.text[inner], from_start)?;
            for piece in &cut.pieces {
                if ids.len() > work.most {
                    break;
                }
                self.model.encode(&cut.text[piece.clone()], &mut work.work, ids)?;
            }
            Ok(())
        })
    }

    /// The bytes of a whole sequence.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<Vec<u8>> {
        let mut start = self.pieces.start();
        let mut bytes = Vec::new();
        for &id in ids {
            let piece = self
                .pieces
                .get(id)
                .ok_or(EngineError::UnknownToken { id, n_vocab: self.n_vocab })?;
            bytes.extend_from_slice(&start.strip(piece));
        }
        Ok(bytes)
    }
}

/// Memory for encoding, and how many ids of a text are wanted at most.
struct Bounded {
    work: Work,
    most: usize,
}

/// Whether the decoder reads `<0xNN>` as a byte.
fn has_byte_fallback(decoder: &Value) -> bool {
    let steps = decoder["decoders"].as_array().map_or(std::slice::from_ref(decoder), Vec::as_slice);
    steps.iter().any(|step| step["type"] == "ByteFallback")
}

/// The ids of the tokens that stand for one byte each.
fn byte_ids(model: &Model, decoder: &Value) -> Box<[Option<u32>; 256]> {
    let mut ids = Box::new([None; 256]);
    if decoder["type"] == "ByteLevel" {
        for (id, name) in ids.iter_mut().zip(BYTE_NAMES) {
            *id = model.vocab().get(name.encode_utf8(&mut [0; 4]));
        }
    } else if has_byte_fallback(decoder) {
        for (byte, id) in ids.iter_mut().enumerate() {
            *id = model.vocab().get(&format!("<0x{byte:02X}>"));
        }
    }
    ids
}
