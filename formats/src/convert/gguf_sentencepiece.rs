//! SentencePiece tokenizers of GGUF as a `tokenizer.json`: `llama` (byte-pair encoding by scores)
//! and `t5` (Unigram).
//!
//! The first becomes a model of the kind `SentencePiece`, which is ours (`SPEC.md`): scores instead
//! of merges, since equal scores cannot be written as merges. Tokens that no text leads to (control
//! tokens, bytes, the unknown one) have no score; control and user-defined ones are added tokens,
//! looked for in the text itself. Not here: `gpt2` and `rwkv` (`gguf_tokenizer`). Source: llama.cpp
//! `src/llama-vocab.cpp`. Test: `tests/gguf_tokenizer.rs`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::byte_level;
use super::gguf_tokens::{CONTROL, Found, Token, USER_DEFINED};
use crate::checkpoint::MetaValue;

/// `tokenizer.ggml.token_type`.
const UNKNOWN: i64 = 2;
const BYTE: i64 = 6;

/// The character that stands for a space.
const SPACE: &str = "\u{2581}";

/// The tokenizer of the metadata; `tokens` are those in use, of the first `n_vocab`.
pub(super) fn read(
    metadata: &BTreeMap<String, MetaValue>,
    tokens: &[Token<'_>],
    kind: &str,
) -> Found {
    let get = |name: &str| metadata.get(&format!("tokenizer.ggml.{name}"));
    let flag = |name: &str, default| get(name).and_then(MetaValue::as_bool).unwrap_or(default);
    let unigram = kind == "t5";
    let Some(scores) = get("scores").and_then(MetaValue::as_floats) else {
        return Found::Unknown(format!("the tokenizer {kind:?} of the file has no scores"));
    };
    let n_vocab = tokens.last().map_or(0, |token| token.id + 1);
    let mut vocab = vec![json!(["", null]); n_vocab];
    let mut added = Vec::new();
    let mut with_bytes = false;
    for token in tokens {
        let score = match token.kind {
            CONTROL | UNKNOWN | BYTE => None,
            _ => Some(scores.get(token.id).copied().unwrap_or_default()).filter(|s| s.is_finite()),
        };
        with_bytes |= token.kind == BYTE;
        vocab[token.id] = json!([token.text, score]);
        if matches!(token.kind, CONTROL | USER_DEFINED) {
            added.push(json!({
                "id": token.id, "content": token.text, "special": token.kind == CONTROL,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            }));
        }
    }
    let named = get("unknown_token_id").and_then(MetaValue::as_u64);
    let unknown = tokens.iter().find(|token| token.kind == UNKNOWN).map(|token| token.id as u64);
    let unknown = named.or(unknown).filter(|id| *id < n_vocab as u64);

    let prefix = flag("add_space_prefix", true);
    let mut normalizers = Vec::new();
    if let Some(table) = get("precompiled_charsmap").and_then(bytes).filter(|_| unigram) {
        normalizers.push(json!({"type": "Precompiled", "precompiled_charsmap": base64(&table)}));
    }
    if unigram && flag("remove_extra_whitespaces", false) {
        normalizers.push(json!({"type": "Strip", "strip_left": true, "strip_right": true}));
        normalizers.push(replace(json!({"Regex": " {2,}"}), " "));
    }
    if prefix {
        normalizers.push(json!({"type": "Prepend", "prepend": SPACE}));
    }
    normalizers.push(replace(json!({"String": " "}), SPACE));
    let mut decoders = vec![
        replace(json!({"String": SPACE}), " "),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": if unigram { "Unigram" } else { "SentencePiece" },
            "unk_id": unknown, "byte_fallback": with_bytes, "vocab": vocab,
        },
    });
    Found::HuggingFace(byte_level::sorted(json), None)
}

/// A step that puts `content` in place of a pattern.
fn replace(pattern: Value, content: &str) -> Value {
    json!({"type": "Replace", "pattern": pattern, "content": content})
}

/// The bytes of an array of numbers.
fn bytes(value: &MetaValue) -> Option<Vec<u8>> {
    let numbers = value.to_integers()?;
    // An i8 and a u8 of the same bits are the same byte.
    numbers.into_iter().map(|n| (-128..256).contains(&n).then_some(n as u8)).collect()
}

/// Bytes in base64 with its usual alphabet.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= three.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_everywhere() {
        for (bytes, text) in [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v")] {
            assert_eq!(base64(bytes), text);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }
}
