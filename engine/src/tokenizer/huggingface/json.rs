//! The fields of a `tokenizer.json` that count here, as they stand in the file.
//!
//! Vocabulary and merges are read straight into the form that `bpe.rs` needs, since they are nearly all of the file; the
//! small parts stay JSON values for those who read them. Fields without a word here are passed over (truncation, padding,
//! the post-processor, dropout). Source: `tokenizers`, `tokenizer/serialization.rs`, `models/bpe/serialization.rs`.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// A whole file.
#[derive(Deserialize)]
pub(super) struct File {
    pub(super) version: Option<String>,
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pub(super) normalizer: Value,
    #[serde(default)]
    pub(super) pre_tokenizer: Value,
    #[serde(default)]
    pub(super) decoder: Value,
    pub(super) model: Model,
}

/// A token that is looked for in the text itself. Its id is not here: it is the vocabulary's, or the next one.
#[derive(Debug, Deserialize)]
pub(super) struct AddedToken {
    pub(super) content: String,
    /// Not beside another character of a word.
    pub(super) single_word: bool,
    /// Takes the white space before it.
    pub(super) lstrip: bool,
    /// Takes the white space behind it.
    pub(super) rstrip: bool,
    /// Looked for after the normalizer, not before.
    pub(super) normalized: bool,
    pub(super) special: bool,
}

/// The model; a kind other than byte-pair encoding has fields that are not read.
#[derive(Deserialize)]
pub(super) struct Model {
    /// Absent in early files.
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) unk_token: Option<String>,
    pub(super) continuing_subword_prefix: Option<String>,
    pub(super) end_of_word_suffix: Option<String>,
    pub(super) fuse_unk: Option<bool>,
    pub(super) byte_fallback: Option<bool>,
    pub(super) ignore_merges: Option<bool>,
    pub(super) vocab: Vocab,
    pub(super) merges: Option<Vec<Merge>>,
}

/// Tokens and their ids; a token that stands twice has its last id.
pub(super) struct Vocab(pub(super) Vec<(String, u32)>);

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Vocab;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tokens with their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = map.next_entry()? {
                    tokens.push(token);
                }
                Ok(Vocab(tokens))
            }

            /// Another kind of model, which its name tells better.
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocab, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Vocab(Vec::new()))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// Two tokens that become one: `"a b"` or `["a", "b"]`.
pub(super) struct Merge {
    /// Both, one behind the other.
    pub(super) both: String,
    /// Where the second begins.
    pub(super) at: usize,
}

impl Merge {
    pub(super) fn parts(&self) -> (&str, &str) {
        self.both.split_at(self.at)
    }
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("two tokens")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Merge, E> {
                let parts = text.split_once(' ').filter(|(_, b)| !b.contains(' '));
                let (a, b) = parts.ok_or_else(|| E::custom(format!("merge {text:?} is not two tokens")))?;
                Ok(Merge { both: [a, b].concat(), at: a.len() })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merge, A::Error> {
                let a: Option<String> = list.next_element()?;
                let b: Option<String> = list.next_element()?;
                let (Some(mut both), Some(b)) = (a, b) else {
                    return Err(A::Error::custom("a merge of one token"));
                };
                let at = both.len();
                both.push_str(&b);
                Ok(Merge { both, at })
            }
        }
        deserializer.deserialize_any(Reader)
    }
}
