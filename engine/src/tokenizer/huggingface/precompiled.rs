//! SentencePiece's table of replacements, which a `tokenizer.json` carries as the normalizer
//! `Precompiled`: at each place of a text the longest entry that begins there is replaced.
//!
//! The table is the length of a trie in bytes, the trie as a double array of 32-bit units, then the
//! replacements, each ended by a zero byte. A unit is a label in its low 8 bits (bit 31 set: a
//! value), bit 8 for "a value follows", and a distance to its children; the root is unit 0.
//! (`tokenizers` looks at grapheme clusters below six bytes and else at single characters; that
//! tells apart only what no table in use has.) Source: sentencepiece `src/normalizer.cc`;
//! darts-clone's `darts.h`. Test: below, and `oracle.rs`.

/// A table of replacements.
#[derive(Debug)]
pub(super) struct Precompiled {
    units: Vec<u32>,
    replacements: Vec<u8>,
}

impl Precompiled {
    /// Reads the table, in base64.
    pub(super) fn read(base64: &str) -> Result<Self, String> {
        let refused = || "the table of the normalizer Precompiled cannot be read".to_owned();
        let bytes = decode(base64).ok_or_else(refused)?;
        let (len, rest) = bytes.split_first_chunk().ok_or_else(refused)?;
        let len = u32::from_le_bytes(*len) as usize;
        if !len.is_multiple_of(4) || len > rest.len() {
            return Err(refused());
        }
        let (trie, replacements) = rest.split_at(len);
        let units = trie.as_chunks().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        Ok(Precompiled { units, replacements: replacements.to_vec() })
    }

    /// The text with everything replaced.
    pub(super) fn apply(&self, text: &str) -> String {
        let mut new = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            match self.longest(rest.as_bytes()).filter(|(len, _)| rest.is_char_boundary(*len)) {
                Some((len, with)) => {
                    new += with;
                    rest = &rest[len..];
                }
                None => {
                    new.push(c);
                    rest = &rest[c.len_utf8()..];
                }
            }
        }
        new
    }

    /// The longest entry that the text begins with: its length, and its replacement.
    fn longest(&self, text: &[u8]) -> Option<(usize, &str)> {
        let children = |unit: u32| ((unit >> 10) << ((unit & 0x200) >> 6)) as usize;
        let mut at = children(*self.units.first()?);
        let mut found = None;
        for (i, &byte) in text.iter().enumerate() {
            at ^= usize::from(byte);
            let Some(&unit) = self.units.get(at) else { break };
            if unit & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            at ^= children(unit);
            if unit & 0x100 != 0 {
                let value = self.units.get(at).map(|value| (value & !(1 << 31)) as usize);
                let with = value.and_then(|start| self.replacement(start));
                found = with.map(|with| (i + 1, with)).or(found);
            }
        }
        found
    }

    /// The replacement that begins at `start`.
    fn replacement(&self, start: usize) -> Option<&str> {
        let rest = self.replacements.get(start..)?;
        let end = rest.iter().position(|&byte| byte == 0)?;
        std::str::from_utf8(&rest[..end]).ok()
    }
}

/// The bytes of base64 with its usual alphabet; `None` if it is none.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut n) = (0u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        let digit = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        n += 6;
        if n >= 8 {
            n -= 8;
            bytes.push((bits >> n) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        assert_eq!(decode("aGVsbG8=").as_deref(), Some(&b"hello"[..]));
        assert_eq!(decode("/+8").as_deref(), Some(&[0xff, 0xef][..]));
        assert_eq!(decode("a-b"), None);
    }

    #[test]
    fn broken_tables_are_refused_or_harmless() {
        for text in ["", "AAA", "////", "AgAAAA==", "!"] {
            assert!(Precompiled::read(text).is_err(), "{text}");
        }
        // A trie of one unit that leads nowhere.
        let nowhere = Precompiled::read("BAAAAP////8=").unwrap();
        assert_eq!(nowhere.apply("aé漢"), "aé漢");
    }
}
