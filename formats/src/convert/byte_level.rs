//! Byte-level byte-pair encodings as a `tokenizer.json`: how text is cut before merging, and the
//! file around vocabulary and merges.
//!
//! The table has the pre-tokenizers by llama.cpp's names for them. Sources: llama.cpp
//! `src/llama-vocab.cpp` (names and regular expressions), `tokenization_kimi.py` of Kimi's
//! checkpoints. Not here: where vocabularies come from (`gguf_tokenizer`, `tiktoken`). Test:
//! `tests/gguf_tokenizer.rs`, `tests/cli/tokenizers.rs`.

use serde_json::{Map, Value, json};

/// The regular expression of GPT-2, where it cannot be left to the byte-level pre-tokenizer itself.
const GPT2_SPLIT: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

const QWEN35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const KIMI_SPLIT: &str = concat!(
    r"[\p{Han}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// How text is cut before the byte-pair encoding.
pub(super) struct Pre {
    names: &'static [&'static str],
    /// Splits, one after the other; none: GPT-2's.
    splits: &'static [&'static str],
    /// Whether the text is put into Unicode's normal form C first. The name does not say; GPT-NeoX
    /// tokenizers do it.
    nfc: bool,
    /// A piece that is a token whole is not merged.
    whole: bool,
}

/// GPT-2's own.
pub(super) const GPT2: Pre = Pre {
    names: &["gpt-2", "gpt2", "phi-2", "jais", "granite-docling"],
    splits: &[],
    nfc: false,
    whole: false,
};
/// Kimi's.
pub(super) const KIMI: Pre =
    Pre { names: &["kimi-k2"], splits: &[KIMI_SPLIT], nfc: false, whole: true };

/// The first row is for files without a name: early ones of Mamba, with GPT-NeoX's vocabulary.
const PRE: [Pre; 10] = [
    Pre { names: &["mpt", "olmo"], splits: &[], nfc: true, whole: false },
    GPT2,
    KIMI,
    Pre { names: &["qwen35"], splits: &[QWEN35], nfc: true, whole: false },
    Pre { names: &["tekken"], splits: &[TEKKEN], nfc: false, whole: true },
    Pre {
        names: &["default"],
        splits: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2_SPLIT, r"\p{N}+", "[0-9][0-9][0-9]"],
        nfc: false,
        whole: false,
    },
    Pre {
        names: &["falcon"],
        splits: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2_SPLIT, "[0-9][0-9][0-9]"],
        nfc: false,
        whole: false,
    },
    Pre {
        names: &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"],
        splits: &[r"\p{N}", GPT2_SPLIT],
        nfc: false,
        whole: false,
    },
    Pre {
        names: &[
            "llama3",
            "llama-v3",
            "llama-bpe",
            "falcon3",
            "falcon-h1",
            "lfm2",
            "pixtral",
            "smaug-bpe",
            "dbrx",
        ],
        splits: &[LLAMA3],
        nfc: false,
        whole: true,
    },
    Pre { names: &["qwen2", "deepseek-r1-qwen"], splits: &[QWEN2], nfc: true, whole: false },
];

impl Pre {
    /// The one that llama.cpp calls so; of files without a name, the first.
    pub(super) fn named(name: Option<&str>) -> Option<&'static Pre> {
        const ALL: &[Pre] = &PRE;
        ALL.iter().find(|pre| name.is_none_or(|name| pre.names.contains(&name)))
    }
}

/// An added token.
pub(super) fn added(id: usize, text: &str, special: bool) -> Value {
    json!({
        "id": id, "content": text, "special": special,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    })
}

/// The file.
pub(super) fn tokenizer_json(
    vocab: Map<String, Value>,
    merges: Value,
    added: Vec<Value>,
    pre: &Pre,
) -> Vec<u8> {
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": pre.splits.is_empty(),
    });
    let split = |regex: &&str| {
        json!({
            "type": "Split", "pattern": {"Regex": regex},
            "behavior": "Isolated", "invert": false,
        })
    };
    let mut steps: Vec<Value> = pre.splits.iter().map(split).collect();
    steps.push(byte_level.clone());
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
    sorted(json)
}

/// The bytes of a JSON object whose keys are sorted, in whichever order serde_json keeps them: a
/// crate anywhere in a build may turn on its `preserve_order`.
pub(super) fn sorted(mut json: Value) -> Vec<u8> {
    json.sort_all_objects();
    json.to_string().into_bytes()
}

/// Whether a character stands for a byte in GPT-2's alphabet: the printable ones of Latin-1 for
/// themselves, the others numbered from U+0100.
pub(super) fn is_byte(c: char) -> bool {
    is_printable(c) || matches!(c, '\u{100}'..='\u{143}')
}

fn is_printable(c: char) -> bool {
    matches!(c, '!'..='~' | '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{ff}')
}

/// Bytes in that alphabet.
pub(super) fn text_of(bytes: &[u8]) -> String {
    let char_of = |byte: u8| {
        let c = char::from(byte);
        let others = (0..byte).filter(|other| !is_printable(char::from(*other))).count() as u32;
        if is_printable(c) { c } else { char::from_u32(0x100 + others).unwrap_or(c) }
    };
    bytes.iter().map(|byte| char_of(*byte)).collect()
}
