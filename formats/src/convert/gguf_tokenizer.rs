//! GGUF's tokenizer metadata as a tokenizer that a `.brk` file carries.
//!
//! `gpt2` (byte-level BPE) becomes a Hugging Face `tokenizer.json`, `rwkv` the text of a World
//! vocabulary; `llama` and `t5` are in `gguf_sentencepiece`. llama.cpp does not store the
//! pre-tokenizer but a name for it; the table below says what each name stands for. Sources:
//! llama.cpp `convert_hf_to_gguf.py` (what is written), `src/llama-vocab.cpp` (the names and their
//! regular expressions). Test: `tests/gguf_tokenizer.rs`.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::gguf_tokens::{CONTROL, Found, Token, USER_DEFINED};
use super::{gguf_sentencepiece, vocabulary};
use crate::checkpoint::MetaValue;

/// `tokenizer.ggml.token_type` of a row that is no token.
const UNUSED: i64 = 5;

/// The regular expression of GPT-2, where it cannot be left to the byte-level pre-tokenizer itself.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How text is cut before the byte-pair encoding.
struct Pre {
    names: &'static [&'static str],
    /// Splits, one after the other; none: GPT-2's.
    splits: &'static [&'static str],
    /// Whether the text is put into Unicode's normal form C first. The name does not say; GPT-NeoX
    /// tokenizers do it.
    nfc: bool,
    /// A piece that is a token whole is not merged.
    whole: bool,
}

/// The first row is for files without a name: early ones of Mamba, with GPT-NeoX's vocabulary.
const PRE: [Pre; 7] = [
    Pre { names: &["mpt", "olmo"], splits: &[], nfc: true, whole: false },
    Pre { names: &["gpt-2", "gpt2", "phi-2", "jais"], splits: &[], nfc: false, whole: false },
    Pre {
        names: &["default"],
        splits: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        nfc: false,
        whole: false,
    },
    Pre {
        names: &["falcon"],
        splits: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
        nfc: false,
        whole: false,
    },
    Pre {
        names: &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"],
        splits: &[r"\p{N}", GPT2],
        nfc: false,
        whole: false,
    },
    Pre {
        names: &["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "smaug-bpe", "dbrx"],
        splits: &[LLAMA3],
        nfc: false,
        whole: true,
    },
    Pre { names: &["qwen2", "deepseek-r1-qwen"], splits: &[QWEN2], nfc: true, whole: false },
];

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
    let known = PRE.iter().find(|pre| name.is_none_or(|name| pre.names.contains(&name)));
    let note = match (known, name) {
        (None, Some(name)) => {
            Some(format!("its pre-tokenizer {name:?} is unknown, GPT-2's is used"))
        }
        _ => None,
    };
    let pre = known.unwrap_or(&PRE[1]);
    let mut vocab: HashMap<&str, usize> = HashMap::new();
    let mut added = Vec::new();
    for token in tokens {
        vocab.entry(token.text).or_insert(token.id);
        // Tokens outside the byte alphabet cannot come from merges: they are matched in the text as
        // it is.
        let special = token.kind == CONTROL;
        if special || token.kind == USER_DEFINED || !token.text.chars().all(is_byte) {
            added.push(json!({
                "id": token.id, "content": token.text, "special": special,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            }));
        }
    }
    let whole = |merge: &&String| match merge.split_once(' ') {
        Some((a, b)) => [a, b, &[a, b].concat()].iter().all(|part| vocab.contains_key(*part)),
        None => false,
    };
    let merges: Vec<&String> = merges.iter().filter(whole).collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": pre.splits.is_empty(),
    });
    let mut steps: Vec<Value> = pre
        .splits
        .iter()
        .map(|regex| {
            json!({
                "type": "Split", "pattern": {"Regex": regex},
                "behavior": "Isolated", "invert": false,
            })
        })
        .collect();
    steps.push(byte_level.clone());
    let vocab: Map<String, Value> =
        vocab.iter().map(|(text, id)| ((*text).to_owned(), json!(id))).collect();
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": if pre.nfc { json!({"type": "NFC"}) } else { Value::Null },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre.whole,
            "vocab": vocab, "merges": merges,
        },
    });
    Found::HuggingFace(json.to_string().into_bytes(), note)
}

/// Whether a character stands for a byte in GPT-2's alphabet: the printable ones of Latin-1 for
/// themselves, the others numbered from U+0100.
fn is_byte(c: char) -> bool {
    matches!(c, '!'..='~' | '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{ff}' | '\u{100}'..='\u{143}')
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
        assert_eq!((0..0x200).filter_map(char::from_u32).filter(|c| is_byte(*c)).count(), 256);
    }
}
