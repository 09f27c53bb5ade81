//! Vocabularies in files: a `tokenizer.json`, or a World vocabulary as text or as JSON.
//!
//! World vocabularies go around as BlinkDL's text and, with web-rwkv, as JSON: ids with their
//! tokens, which are texts or, where they are no UTF-8, lists of bytes. A mark of byte order, as
//! editors on Windows leave it, is taken away; line ends may be CRLF. Not here: GGUF's
//! (`gguf_tokenizer`), and reading a vocabulary for use, which is the engine's. Test: below, and
//! `tests/cli/convert.rs`.

use std::collections::BTreeMap;

use serde::Deserialize;
use xxhash_rust::xxh3::Xxh3;

use crate::brk::TokenizerKind;
use crate::checkpoint::without_mark;

/// xxh3-64 of the usual World vocabulary's text, as [`world`] writes it.
const WORLD_HASH: u64 = 0x895f_6384_56ab_ada3;

/// Ids from here on are of no vocabulary.
const MAX_VOCAB: u32 = 1 << 24;

/// The kind of a vocabulary file, and the section of a `.brk` file that it becomes.
pub fn vocabulary(file: Vec<u8>) -> (TokenizerKind, Vec<u8>) {
    let file = without_mark(file);
    if file.trim_ascii_start().first() != Some(&b'{') {
        // Nothing would be the usual vocabulary; an empty line is an error to who reads it.
        return (TokenizerKind::World, if file.is_empty() { vec![b'\n'] } else { file });
    }
    match world_of_json(&file) {
        Some(text) => (TokenizerKind::World, text),
        None => (TokenizerKind::HuggingFace, file),
    }
}

/// A token of a World vocabulary as JSON.
#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Bytes(Vec<u8>),
}

/// The section of a World vocabulary as JSON, if it is one.
fn world_of_json(file: &[u8]) -> Option<Vec<u8>> {
    // The first key tells, so that a tokenizer.json is not read twice.
    let key = file.trim_ascii_start().get(1..)?.trim_ascii_start().strip_prefix(b"\"")?;
    if !key.first()?.is_ascii_digit() {
        return None;
    }
    let tokens: BTreeMap<u32, Token> = serde_json::from_slice(file).ok()?;
    let bytes = |token| match token {
        Token::Text(text) => text.into_bytes(),
        Token::Bytes(bytes) => bytes,
    };
    let tokens = tokens.into_iter().map(|(id, token)| (id, bytes(token)));
    Some(world(tokens.filter(|(id, bytes)| *id < MAX_VOCAB && !bytes.is_empty())))
}

/// The section of a World vocabulary, given as its tokens in the order of their ids: its text,
/// `ID LITERAL LENGTH` per line, or nothing if it is the usual one.
pub(super) fn world(tokens: impl IntoIterator<Item = (u32, Vec<u8>)>) -> Vec<u8> {
    let mut text = String::new();
    for (id, bytes) in tokens {
        text += &format!("{id} b'{}' {}\n", escape(&bytes), bytes.len());
    }
    let mut hash = Xxh3::new();
    hash.update(text.as_bytes());
    if hash.digest() == WORLD_HASH { Vec::new() } else { text.into_bytes() }
}

/// The inside of a Python bytes literal, where only ASCII stands for itself.
fn escape(bytes: &[u8]) -> String {
    let escaped = |byte: &u8| match byte {
        b'\'' | b'\\' => format!("\\x{byte:02x}"),
        b' '..=b'~' => char::from(*byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    bytes.iter().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart() {
        let of = |text: &str| {
            let (kind, section) = vocabulary(text.as_bytes().to_vec());
            (kind, String::from_utf8(section).unwrap())
        };
        let json = "{\"model\": {}}";
        assert_eq!(of(json), (TokenizerKind::HuggingFace, json.to_owned()));
        assert_eq!(of(&format!("\u{feff}{json}")), (TokenizerKind::HuggingFace, json.to_owned()));
        let lines = "1 'a' 1\r\n2 ' b' 2\r\n";
        assert_eq!(of(&format!("\u{feff}{lines}")), (TokenizerKind::World, lines.to_owned()));
        let world = "\u{feff} {\r\n \"10\": \"\\nit's\", \"2\": [255, 0],\r\n \"3\": \"é\"}\r\n";
        let text = "2 b'\\xff\\x00' 2\n3 b'\\xc3\\xa9' 2\n10 b'\\x0ait\\x27s' 5\n";
        assert_eq!(of(world), (TokenizerKind::World, text.to_owned()));
        for other in ["{\"1\": {}}", "{\"1\": [256]}", "{\"1x\": \"a\"}", "{"] {
            assert_eq!(of(other), (TokenizerKind::HuggingFace, other.to_owned()));
        }
    }

    #[test]
    fn escapes_are_of_ascii() {
        assert_eq!(escape(b"it's \xff\n\\"), r"it\x27s \xff\x0a\x5c");
    }
}
