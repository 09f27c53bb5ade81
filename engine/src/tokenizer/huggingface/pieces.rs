//! The bytes that each token of a `tokenizer.json` stands for: its decoder.
//!
//! `tokenizers` decodes whole sequences into strings, which loses bytes that are no UTF-8 yet. Its
//! common decoders work on each token alone, though, but for the first one, which may lose a space;
//! those are restated here over bytes: ByteLevel (GPT-2's alphabet, Radford et al. 2019,
//! `bytes_to_unicode` in its encoder.py), Metaspace, SentencePiece's sequence Replace,
//! ByteFallback, Fuse, Strip, and none. Others are refused (WordPiece, CTC, …). Tests: below,
//! against that crate.

use serde_json::Value;

use super::pre_tokenize::Prepend;
use crate::tokenizer::stream::Start;

/// A bound on the bytes of all tokens.
const MAX_BYTES: usize = 1 << 28;

/// The bytes of every token, side by side.
#[derive(Debug)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// Where each token's bytes end. `(n_vocab)`
    ends: Vec<u32>,
    start: Start,
}

/// How a token's text becomes bytes.
enum Rule {
    ByteLevel,
    /// A space before each token; the first one is the text's start.
    Separate,
    /// Replace each pattern in turn, then read `<0xNN>` as a byte.
    Replace {
        patterns: Vec<(String, String)>,
        byte_fallback: bool,
    },
}

impl Pieces {
    /// The pieces of tokens (their texts by id, `None` for ids in no use) under the decoder of a
    /// `tokenizer.json`.
    pub(super) fn new(tokens: &[Option<&str>], decoder: &Value) -> Result<Self, String> {
        let (rule, start) = read_decoder(decoder)?;
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(tokens.len());
        for token in tokens {
            match (&rule, token) {
                (_, None) => {}
                (Rule::ByteLevel, Some(text)) => push_byte_level(text, &mut bytes),
                (Rule::Separate, Some(text)) => bytes.extend([" ", text].concat().bytes()),
                (Rule::Replace { patterns, byte_fallback }, Some(text)) => {
                    let mut text = (*text).to_owned();
                    for (from, to) in patterns {
                        let added = text.matches(from.as_str()).count().saturating_mul(to.len());
                        check_bytes(text.len().saturating_add(added))?;
                        text = text.replace(from, to);
                    }
                    match byte_token(&text).filter(|_| *byte_fallback) {
                        Some(byte) => bytes.push(byte),
                        None => bytes.extend(text.bytes()),
                    }
                }
            }
            check_bytes(bytes.len())?;
            ends.push(bytes.len() as u32);
        }
        Ok(Pieces { bytes, ends, start })
    }

    /// The bytes of a token; empty for ids without one, `None` from n_vocab on.
    pub(super) fn get(&self, id: u32) -> Option<&[u8]> {
        let end = *self.ends.get(id as usize)? as usize;
        let start = id.checked_sub(1).map_or(0, |before| self.ends[before as usize] as usize);
        Some(&self.bytes[start..end])
    }

    /// The bytes that the start of a text loses.
    pub(super) fn start(&self) -> Start {
        self.start
    }
}

fn check_bytes(len: usize) -> Result<(), String> {
    if len > MAX_BYTES {
        Err(format!("its tokens have more than {MAX_BYTES} bytes"))
    } else {
        Ok(())
    }
}

/// The rule that a decoder amounts to.
fn read_decoder(decoder: &Value) -> Result<(Rule, Start), String> {
    let steps = match decoder["type"].as_str() {
        None if decoder.is_null() => return Ok((Rule::Separate, Start::Leading(1))),
        Some("Sequence") => decoder["decoders"].as_array().map_or(&[][..], Vec::as_slice),
        _ => std::slice::from_ref(decoder),
    };
    let text = |json: &Value| json.as_str().map(str::to_owned);
    let mut patterns = Vec::new();
    let mut byte_fallback = false;
    let mut fused = false;
    let mut start = Start::Keep;
    for step in steps {
        let refused = || format!("the decoder {step} is not supported where it stands");
        match step["type"].as_str() {
            Some("ByteLevel") if steps.len() == 1 => return Ok((Rule::ByteLevel, Start::Keep)),
            Some("Metaspace") if steps.len() == 1 => {
                patterns.push((text(&step["replacement"]).ok_or_else(refused)?, " ".to_owned()));
                if Prepend::from_json(step)? != Prepend::Never {
                    start = Start::FirstToken;
                }
            }
            Some("Replace") if !byte_fallback && !fused => {
                let pattern =
                    text(&step["pattern"]["String"]).filter(|pattern| !pattern.is_empty());
                patterns.push((
                    pattern.ok_or_else(refused)?,
                    text(&step["content"]).ok_or_else(refused)?,
                ));
            }
            Some("ByteFallback") if !fused => byte_fallback = true,
            Some("Fuse") => fused = true,
            Some("Strip")
                if fused && start == Start::Keep && step["content"] == " " && step["stop"] == 0 =>
            {
                let most = step["start"].as_u64().and_then(|most| usize::try_from(most).ok());
                start = Start::Leading(most.ok_or_else(refused)?);
            }
            _ => return Err(refused()),
        }
    }
    Ok((Rule::Replace { patterns, byte_fallback }, start))
}

/// The byte of `<0xNN>`.
pub(super) fn byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
}

/// GPT-2's names for bytes: printable Latin-1 characters stand for themselves, the other bytes are
/// numbered from U+0100 on.
pub(in crate::tokenizer) const BYTE_NAMES: [char; 256] = {
    let mut names = ['\0'; 256];
    let (mut byte, mut number) = (0, 0x100);
    while byte < 256 {
        names[byte] = if matches!(byte as u8, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) {
            byte as u8 as char
        } else {
            number += 1;
            match char::from_u32(number - 1) {
                Some(name) => name,
                None => unreachable!(),
            }
        };
        byte += 1;
    }
    names
};

/// The names of bytes are below this.
pub(super) const NAMES_END: usize = 0x144;

/// The byte of each name.
static NAMED_BYTES: [Option<u8>; NAMES_END] = {
    let mut bytes = [None; NAMES_END];
    let mut byte = 0;
    while byte < 256 {
        bytes[BYTE_NAMES[byte] as usize] = Some(byte as u8);
        byte += 1;
    }
    bytes
};

/// A token's bytes where all its characters are names of bytes; else (added tokens) its text.
fn push_byte_level(text: &str, bytes: &mut Vec<u8>) {
    let before = bytes.len();
    for c in text.chars() {
        match NAMED_BYTES.get(c as usize).copied().flatten() {
            Some(byte) => bytes.push(byte),
            None => {
                bytes.truncate(before);
                bytes.extend(text.bytes());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokenizers::{Decoder, DecoderWrapper};

    /// Decodes token by token and compares with the crate on texts that are UTF-8.
    fn compare(decoder: Value, tokens: &[&str]) {
        let texts: Vec<Option<&str>> = tokens.iter().copied().map(Some).collect();
        let pieces = Pieces::new(&texts, &decoder).expect("a decoder that works token by token");
        let reference: DecoderWrapper = serde_json::from_value(decoder).unwrap();
        // Each token in turn comes first.
        for first in 0..tokens.len() {
            let order: Vec<usize> = (first..tokens.len()).chain(0..first).collect();
            let mut start = pieces.start();
            let ours: Vec<u8> = order
                .iter()
                .flat_map(|&id| start.strip(pieces.get(id as u32).unwrap()).into_owned())
                .collect();
            let theirs =
                reference.decode(order.iter().map(|&id| tokens[id].to_string()).collect()).unwrap();
            assert_eq!(String::from_utf8_lossy(&ours), theirs, "{order:?}");
        }
    }

    #[test]
    fn agrees_with_the_crate() {
        let byte_level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
            "use_regex": true});
        compare(byte_level, &["Hello", "Ġworld", "Ċ", "Ã©", "  ", "<|end|>", "日本", "é", ""]);
        let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always",
            "split": true});
        compare(metaspace, &["▁Hello", "▁▁", "wor▁ld", "é", "▁"]);
        let never = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never",
            "split": true});
        compare(never, &["▁Hello", "▁▁", "wor▁ld"]);
        let llama = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        compare(llama, &["▁", "▁Hello", "<s>", "<0x41>", "<0x0A>", "<0xZZ>", "▁▁▁", "<0xE2>x"]);
        let gemma = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}]});
        compare(gemma, &["▁▁", "x", "<0x20>"]);
    }

    #[test]
    fn bytes_stay_bytes() {
        let texts = [Some("Ã"), Some("<0xE9>"), None];
        let byte_level = Pieces::new(&texts, &json!({"type": "ByteLevel"})).unwrap();
        assert_eq!(byte_level.get(0), Some(&b"\xc3"[..]));
        assert_eq!(byte_level.get(2), Some(&b""[..]));
        assert_eq!(byte_level.get(3), None);
        let fallback = Pieces::new(&texts, &json!({"type": "ByteFallback"})).unwrap();
        assert_eq!(fallback.get(1), Some(&b"\xe9"[..]));
    }

    #[test]
    fn other_decoders_are_refused() {
        for decoder in [
            json!("ByteLevel"),
            json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            json!({"type": "BPEDecoder", "suffix": "</w>"}),
            json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}),
            json!({"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""}),
            json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]}),
        ] {
            assert!(Pieces::new(&[], &decoder).is_err(), "{decoder}");
        }
    }
}
