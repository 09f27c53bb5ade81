//! What each token of a `tokenizer.json` stands for, as bytes, so that decoding can go token by token.
//!
//! `tokenizers` decodes whole sequences into strings, which loses bytes that are no UTF-8 yet. Its common decoders
//! work on each token alone, though, but for the first one, which may lose a space; those are restated here over
//! bytes: ByteLevel (GPT-2's alphabet, Radford et al. 2019, `bytes_to_unicode` in its encoder.py), Metaspace, and
//! SentencePiece's sequence Replace, ByteFallback, Fuse, Strip. Any other decoder is left to the crate (`Pieces::new`
//! gives `None`). Tests: below, against the crate.

use std::collections::HashMap;

use serde_json::Value;

/// The bytes of every token, side by side.
#[derive(Debug)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// Where each token's bytes end. `(n_vocab)`
    ends: Vec<u32>,
    start: Start,
}

/// What happens at the start of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Start {
    /// Nothing.
    Keep,
    /// The first token loses its spaces (Metaspace).
    FirstToken,
    /// The text loses up to so many leading spaces (Strip).
    Leading(usize),
}

impl Start {
    /// Takes from a token's bytes what the start of the text loses; `self` becomes what is left to do.
    pub(super) fn strip<'a>(&mut self, bytes: &'a [u8]) -> std::borrow::Cow<'a, [u8]> {
        match *self {
            Start::Keep => bytes.into(),
            Start::FirstToken => {
                *self = Start::Keep;
                bytes.iter().copied().filter(|&byte| byte != b' ').collect::<Vec<u8>>().into()
            }
            Start::Leading(most) => {
                let spaces = bytes.iter().take(most).take_while(|&&byte| byte == b' ').count();
                *self = match spaces == bytes.len() {
                    true if most > spaces => Start::Leading(most - spaces),
                    _ => Start::Keep,
                };
                bytes[spaces..].into()
            }
        }
    }
}

/// How a token's text becomes bytes.
enum Rule {
    ByteLevel,
    /// Replace each pattern in turn, then read `<0xNN>` as a byte.
    Replace {
        patterns: Vec<(String, String)>,
        byte_fallback: bool,
    },
}

impl Pieces {
    /// The pieces of `vocab` (token text to id, all ids below `n_vocab`) under the decoder of a `tokenizer.json`;
    /// `None` where the decoder is one that does not work token by token.
    pub(super) fn new(vocab: &HashMap<String, u32>, n_vocab: usize, decoder: &Value) -> Option<Self> {
        let (rule, start) = read_decoder(decoder)?;
        let alphabet = byte_alphabet();
        let mut texts = vec![""; n_vocab];
        for (text, &id) in vocab {
            if let Some(slot) = texts.get_mut(id as usize) {
                *slot = text;
            }
        }
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(n_vocab);
        for text in texts {
            match &rule {
                Rule::ByteLevel => push_byte_level(text, &alphabet, &mut bytes),
                Rule::Replace { patterns, byte_fallback } => {
                    let text =
                        patterns.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
                    match byte_token(&text).filter(|_| *byte_fallback) {
                        Some(byte) => bytes.push(byte),
                        None => bytes.extend(text.bytes()),
                    }
                }
            }
            ends.push(u32::try_from(bytes.len()).ok()?);
        }
        Some(Pieces { bytes, ends, start })
    }

    /// The bytes of a token; empty for ids without one, `None` from n_vocab on.
    pub(super) fn get(&self, id: u32) -> Option<&[u8]> {
        let end = *self.ends.get(id as usize)? as usize;
        let start = id.checked_sub(1).map_or(0, |before| self.ends[before as usize] as usize);
        Some(&self.bytes[start..end])
    }

    /// What the start of a text loses.
    pub(super) fn start(&self) -> Start {
        self.start
    }
}

/// The rule that a decoder amounts to.
fn read_decoder(decoder: &Value) -> Option<(Rule, Start)> {
    let steps = match decoder["type"].as_str()? {
        "Sequence" => decoder["decoders"].as_array()?.as_slice(),
        _ => std::slice::from_ref(decoder),
    };
    let mut patterns = Vec::new();
    let mut byte_fallback = false;
    let mut fused = false;
    let mut start = Start::Keep;
    for step in steps {
        match step["type"].as_str()? {
            "ByteLevel" if steps.len() == 1 => return Some((Rule::ByteLevel, Start::Keep)),
            "Metaspace" if steps.len() == 1 => {
                patterns.push((step["replacement"].as_str()?.to_owned(), " ".to_owned()));
                if step["prepend_scheme"].as_str()? != "never" {
                    start = Start::FirstToken;
                }
            }
            "Replace" if !byte_fallback && !fused => {
                let pattern = step["pattern"]["String"].as_str().filter(|pattern| !pattern.is_empty())?;
                patterns.push((pattern.to_owned(), step["content"].as_str()?.to_owned()));
            }
            "ByteFallback" if !fused => byte_fallback = true,
            "Fuse" => fused = true,
            "Strip" if fused && start == Start::Keep && step["content"] == " " && step["stop"] == 0 => {
                start = Start::Leading(usize::try_from(step["start"].as_u64()?).ok()?);
            }
            _ => return None,
        }
    }
    Some((Rule::Replace { patterns, byte_fallback }, start))
}

/// The byte of `<0xNN>`.
pub(super) fn byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
}

/// GPT-2's names for bytes: printable Latin-1 characters stand for themselves, the other bytes are numbered from
/// U+0100 on.
pub(super) fn byte_alphabet() -> HashMap<char, u8> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let themselves = (0..=255u8).filter(printable).map(|byte| (char::from(byte), byte));
    let numbered = ('\u{100}'..).zip((0..=255u8).filter(|byte| !printable(byte)));
    themselves.chain(numbered).collect()
}

/// A token's bytes where all its characters are in the alphabet; else (added tokens) its text.
fn push_byte_level(text: &str, alphabet: &HashMap<char, u8>, bytes: &mut Vec<u8>) {
    let before = bytes.len();
    for c in text.chars() {
        match alphabet.get(&c) {
            Some(&byte) => bytes.push(byte),
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
        let vocab = tokens.iter().zip(0..).map(|(t, id)| (t.to_string(), id)).collect();
        let pieces =
            Pieces::new(&vocab, tokens.len(), &decoder).expect("a decoder that works token by token");
        let reference: DecoderWrapper = serde_json::from_value(decoder).unwrap();
        // Each token in turn comes first.
        for first in 0..tokens.len() {
            let order: Vec<usize> = (first..tokens.len()).chain(0..first).collect();
            let mut start = pieces.start();
            let ours: Vec<u8> = order
                .iter()
                .flat_map(|&id| start.strip(pieces.get(id as u32).unwrap()).into_owned())
                .collect();
            let theirs = reference.decode(order.iter().map(|&id| tokens[id].to_string()).collect()).unwrap();
            assert_eq!(String::from_utf8_lossy(&ours), theirs, "{order:?}");
        }
    }

    #[test]
    fn agrees_with_the_crate() {
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        compare(byte_level, &["Hello", "Ġworld", "Ċ", "Ã©", "  ", "<|end|>", "日本", "é", ""]);
        let metaspace =
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
        compare(metaspace, &["▁Hello", "▁▁", "wor▁ld", "é", "▁"]);
        let never =
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": true});
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
        let vocab = [("Ã".to_owned(), 0), ("<0xE9>".to_owned(), 1)].into();
        let byte_level = Pieces::new(&vocab, 3, &json!({"type": "ByteLevel"})).unwrap();
        assert_eq!(byte_level.get(0), Some(&b"\xc3"[..]));
        assert_eq!(byte_level.get(2), Some(&b""[..]));
        assert_eq!(byte_level.get(3), None);
        let fallback = Pieces::new(&vocab, 2, &json!({"type": "ByteFallback"})).unwrap();
        assert_eq!(fallback.get(1), Some(&b"\xe9"[..]));
    }

    #[test]
    fn other_decoders_are_left_alone() {
        let vocab = HashMap::new();
        for decoder in [
            json!(null),
            json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            json!({"type": "BPEDecoder", "suffix": "</w>"}),
            json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}),
            json!({"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""}),
            json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]}),
        ] {
            assert!(Pieces::new(&vocab, 1, &decoder).is_none(), "{decoder}");
        }
    }
}
