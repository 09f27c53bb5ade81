//! GGUF's tokenizer metadata as a tokenizer that a `.brk` file carries.
//!
//! `gpt2` (byte-level BPE) becomes a Hugging Face `tokenizer.json`, `rwkv` the text of a World
//! vocabulary; `llama` and `t5` are in `gguf_sentencepiece`. llama.cpp does not store the
//! pre-tokenizer but a name for it (`byte_level`). Source: llama.cpp `convert_hf_to_gguf.py`. Test:
//! `tests/gguf_tokenizer.rs`.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::byte_level::{self, GPT2, Pre};
use super::gguf_tokens::{CONTROL, Found, Token, USER_DEFINED};
use super::{gguf_sentencepiece, vocabulary};
use crate::checkpoint::MetaValue;

/// `tokenizer.ggml.token_type` of a row that is no token.
const UNUSED: i64 = 5;

/// The tokenizer of the metadata, for a model of `n_vocab` rows.
pub(super) fn read(metadata: &BTreeMap<String, MetaValue>, n_vocab: usize) -> Found {
    let get = |name: &str| metadata.get(&format!("tokenizer.ggml.{name}"));
    let Some(model) = get("model").and_then(MetaValue::as_str) else { return Found::Nothing };
    let Some(texts) = get("tokens").and_then(MetaValue::as_texts) else {
        return Found::Unknown(format!("the tokenizer {model:?} of the file has no tokens"));
    };
    let types = get("token_type").and_then(MetaValue::to_integers).unwrap_or_default();
    let tokens: Vec<Token<'_>> = texts
        .iter()
        .take(n_vocab)
        .enumerate()
        .map(|(id, text)| Token { id, text, kind: types.get(id).copied().unwrap_or(1) })
        .filter(|token| token.kind != UNUSED)
        .collect();
    match model {
        "gpt2" => match get("merges").and_then(MetaValue::as_texts) {
            Some(merges) => huggingface(&tokens, merges, get("pre").and_then(MetaValue::as_str)),
            None => Found::Unknown("the tokenizer \"gpt2\" of the file has no merges".to_owned()),
        },
        "rwkv" => world(&tokens),
        "llama" | "t5" => gguf_sentencepiece::read(metadata, &tokens, model),
        "no_vocab" | "none" => Found::Nothing,
        other => {
            Found::Unknown(format!("the tokenizer {other:?} of the file cannot be carried over"))
        }
    }
}

/// A `tokenizer.json` of byte-level BPE.
fn huggingface(tokens: &[Token<'_>], merges: &[String], name: Option<&str>) -> Found {
    let known = Pre::named(name);
    let note = match (known, name) {
        (None, Some(name)) => {
            Some(format!("its pre-tokenizer {name:?} is unknown, GPT-2's is used"))
        }
        _ => None,
    };
    let mut vocab: HashMap<&str, usize> = HashMap::new();
    let mut added = Vec::new();
    for token in tokens {
        vocab.entry(token.text).or_insert(token.id);
        // Tokens outside the byte alphabet cannot come from merges: they are matched in the text as
        // it is.
        let special = token.kind == CONTROL;
        if special || token.kind == USER_DEFINED || !token.text.chars().all(byte_level::is_byte) {
            added.push(byte_level::added(token.id, token.text, special));
        }
    }
    let whole = |merge: &&String| match merge.split_once(' ') {
        Some((a, b)) => [a, b, &[a, b].concat()].iter().all(|part| vocab.contains_key(*part)),
        None => false,
    };
    let merges: Vec<&String> = merges.iter().filter(whole).collect();
    let vocab: Map<String, Value> =
        vocab.iter().map(|(text, id)| ((*text).to_owned(), json!(id))).collect();
    let json = byte_level::tokenizer_json(vocab, json!(merges), added, known.unwrap_or(&GPT2));
    Found::HuggingFace(json, note)
}

/// The text of a World vocabulary: `ID LITERAL LENGTH` per line.
fn world(tokens: &[Token<'_>]) -> Found {
    let (mut list, mut seen) = (Vec::new(), HashSet::new());
    for token in tokens.iter().filter(|token| token.kind != CONTROL) {
        let Some(bytes) = unescape(token.text).filter(|bytes| !bytes.is_empty()) else {
            return Found::Unknown(format!(
                "token {} of the file's World vocabulary is {:?}",
                token.id, token.text
            ));
        };
        if seen.insert(bytes.clone()) {
            list.push((token.id as u32, bytes));
        }
    }
    if list.is_empty() {
        return Found::Unknown("the file's World vocabulary is empty".to_owned());
    }
    Found::World(vocabulary::world(list))
}

/// The bytes that the inside of Python's `repr(bytes)` stands for.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'\\' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let (&kind, after) = after.split_first()?;
        rest = after;
        match kind {
            b'n' => bytes.push(b'\n'),
            b'r' => bytes.push(b'\r'),
            b't' => bytes.push(b'\t'),
            b'\\' | b'\'' | b'"' => bytes.push(kind),
            b'x' => {
                let digits = std::str::from_utf8(after.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &after[2..];
            }
            _ => return None,
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_literals() {
        assert_eq!(unescape(r"a\x00\n\\'\xff").as_deref(), Some(&b"a\0\n\\'\xff"[..]));
        assert_eq!(unescape(r"\q"), None);
        assert_eq!(unescape(r"\x1"), None);
    }

    #[test]
    fn the_alphabet_has_256_characters() {
        assert_eq!(
            (0..0x200).filter_map(char::from_u32).filter(|c| byte_level::is_byte(*c)).count(),
            256
        );
    }
}
