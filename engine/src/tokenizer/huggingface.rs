//! Hugging Face's `tokenizer.json` through the `tokenizers` crate, which reads the file and encodes.
//!
//! Here: decoding to bytes (`pieces.rs` has the bytes of each token; decoders that it does not know are the crate's
//! own), text that is no UTF-8, special tokens. Left out on purpose: truncation, padding, dropout and the template of
//! special tokens that a file may ask for; an engine reads exactly the text it is given.
//! Tests: `tests.rs`, with every case of `fixtures/tokenizer-gpt-neox-20b`.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;
use tokenizers::{
    DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, Tokenizer, TokenizerBuilder,
    TokenizerImpl,
};

use super::pieces::{Pieces, Start, byte_alphabet};
use super::pre_tokenizer::Pre;
use crate::error::{EngineError, Result};

/// Names under which the end of text goes, the more exact ones first.
const EOS_NAMES: [&str; 6] = ["<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "[EOS]"];

/// Ids from here on are refused: a bound on memory, far above any vocabulary in use.
const MAX_VOCAB: usize = 1 << 24;

/// The crate's tokenizer with our pre-tokenizer, and without a post-processor: that adds what we leave out.
type Encoder = TokenizerImpl<ModelWrapper, NormalizerWrapper, Pre, PostProcessorWrapper, DecoderWrapper>;

/// A loaded `tokenizer.json`.
#[derive(Debug)]
pub(super) struct HuggingFace {
    tokenizer: Encoder,
    n_vocab: usize,
    /// `None`: the crate's decoder has to see whole sequences.
    pieces: Option<Pieces>,
    /// Sorted by id.
    special: Vec<(u32, String)>,
    /// The token of each single byte, where the model is byte-level and has it (GPT-NeoX lacks those that no UTF-8
    /// text holds).
    byte_ids: Box<[Option<u32>; 256]>,
}

impl HuggingFace {
    /// Reads the JSON.
    pub(super) fn from_json(json: &[u8]) -> Result<Self> {
        let mut tokenizer = no_panic(|| Tokenizer::from_bytes(json)).map_err(bad_json)?;
        if let ModelWrapper::BPE(bpe) = tokenizer.get_model()
            && bpe.dropout.is_some()
        {
            let mut bpe = bpe.clone();
            bpe.dropout = None;
            tokenizer.with_model(bpe);
        }
        let vocab = tokenizer.get_vocab(true);
        let n_vocab = vocab.values().max().map_or(0, |&id| id as usize + 1);
        if n_vocab > MAX_VOCAB {
            return Err(bad_json(format!("expected ids below 2^24, found {}", n_vocab - 1).into()));
        }
        let decoder = serde_json::to_value(tokenizer.get_decoder()).unwrap_or(Value::Null);
        let added = tokenizer.get_added_tokens_decoder();
        let mut special: Vec<(u32, String)> = added
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (id, token.content))
            .collect();
        special.sort();
        Ok(HuggingFace {
            n_vocab,
            pieces: Pieces::new(&vocab, n_vocab, &decoder),
            special,
            byte_ids: byte_ids(&vocab, decoder["type"] == "ByteLevel"),
            tokenizer: no_panic(|| encoder(&tokenizer)).map_err(bad_json)?,
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
        self.tokenizer.token_to_id(token)
    }

    /// The bytes of one token, or its bare text where the decoder has to see whole sequences.
    pub(super) fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.pieces.as_ref()?.get(id)
    }

    /// What the start of a text loses; `None` where decoding does not go token by token.
    pub(super) fn start(&self) -> Option<Start> {
        self.pieces.as_ref().map(Pieces::start)
    }

    /// Appends the ids of `text`; bytes that are no UTF-8 become the tokens of single bytes where the model has them.
    pub(super) fn encode(&self, text: &[u8], ids: &mut Vec<u32>) -> Result<()> {
        let mut offset = 0;
        for chunk in text.utf8_chunks() {
            offset += chunk.valid().len();
            if !chunk.valid().is_empty() {
                let encoding = no_panic(|| self.tokenizer.encode_fast(chunk.valid(), false));
                ids.extend_from_slice(encoding.map_err(|source| EngineError::Encode { source })?.get_ids());
            }
            for &byte in chunk.invalid() {
                ids.push(self.byte_ids[byte as usize].ok_or(EngineError::NotUtf8 { byte, offset })?);
                offset += 1;
            }
        }
        Ok(())
    }

    /// The bytes of a whole sequence.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<Vec<u8>> {
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.n_vocab) {
            return Err(EngineError::UnknownToken { id, n_vocab: self.n_vocab });
        }
        let Some(pieces) = &self.pieces else {
            let text = no_panic(|| self.tokenizer.decode(ids, false));
            return text.map(String::into_bytes).map_err(|source| EngineError::Decode { source });
        };
        let mut start = pieces.start();
        let mut bytes = Vec::new();
        for &id in ids {
            bytes.extend_from_slice(&start.strip(pieces.get(id).unwrap_or_default()));
        }
        Ok(bytes)
    }
}

/// The parts of the crate's tokenizer that encode and decode.
fn encoder(tokenizer: &Tokenizer) -> tokenizers::Result<Encoder> {
    let pre = tokenizer.get_pre_tokenizer().map(Pre::new).transpose()?;
    TokenizerBuilder::new()
        .with_model(tokenizer.get_model().clone())
        .with_normalizer(tokenizer.get_normalizer().cloned())
        .with_pre_tokenizer(pre)
        .with_post_processor(None)
        .with_decoder(tokenizer.get_decoder().cloned())
        .with_added_vocabulary(tokenizer.get_added_vocabulary().clone())
        .build()
}

/// The ids of the tokens that stand for one byte each.
fn byte_ids(vocab: &HashMap<String, u32>, byte_level: bool) -> Box<[Option<u32>; 256]> {
    let mut ids = Box::new([None; 256]);
    for (c, byte) in byte_alphabet().into_iter().filter(|_| byte_level) {
        ids[byte as usize] = vocab.get(c.encode_utf8(&mut [0; 4]) as &str).copied();
    }
    ids
}

fn bad_json(source: tokenizers::Error) -> EngineError {
    EngineError::TokenizerJson { source }
}

/// The crate panics on some malformed vocabularies and regular expressions; here that is an error like any other.
fn no_panic<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("the `tokenizers` library panicked".into()))
}
