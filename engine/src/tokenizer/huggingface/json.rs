//! The fields of a `tokenizer.json` that count here, as they stand in the file.
//!
//! Vocabulary and merges are read straight into the form that `bpe.rs` needs, since they are nearly
//! all of the file; the small parts stay JSON values for those who read them. Fields without a word
//! here are passed over (truncation, padding, the post-processor, dropout). Source: `tokenizers`,
//! `tokenizer/serialization.rs`, `models/bpe/serialization.rs`.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::MAX_VOCAB;
use super::vocab::Vocab;

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

/// A token that is looked for in the text itself. Its id is not here: it is the vocabulary's, or
/// the next one.
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

/// The model; a kind that cannot be run has fields that are not read.
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
    /// The place of the unknown token in a list of tokens.
    pub(super) unk_id: Option<u64>,
    pub(super) vocab: Tokens,
    pub(super) merges: Option<Merges>,
}

/// The tokens of a model: with their ids, or a list of them with scores, whose ids are their
/// places.
pub(super) struct Tokens {
    /// A token that stands twice has its last id. An empty one is none.
    pub(super) vocab: Vocab,
    /// A token without a score (`null`, which is ours) does not come from a text.
    pub(super) scores: Option<Vec<Option<f64>>>,
}

impl<'de> Deserialize<'de> for Tokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Tokens;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tokens with their ids, or a list of tokens with their scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tokens, A::Error> {
                let mut vocab = Vocab::new();
                let mut text = String::new();
                while map.next_key_seed(Append(&mut text))?.is_some() {
                    vocab.insert(&text, map.next_value()?);
                    text.clear();
                }
                Ok(Tokens { vocab, scores: None })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tokens, A::Error> {
                let mut vocab = Vocab::new();
                let mut scores = Vec::new();
                while let Some((text, score)) = list.next_element::<(String, Option<f64>)>()? {
                    if scores.len() == MAX_VOCAB {
                        return Err(A::Error::custom("expected ids below 2^24, found more"));
                    }
                    if !text.is_empty() {
                        vocab.insert(&text, scores.len() as u32);
                    }
                    scores.push(score);
                }
                Ok(Tokens { vocab, scores: Some(scores) })
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// Pairs of tokens that become one, each `"a b"` or `["a", "b"]`: their texts side by side.
pub(super) struct Merges {
    text: String,
    /// Where the second token of each pair begins, and where it ends.
    ends: Vec<(usize, usize)>,
}

impl Merges {
    /// The pairs: the two tokens one behind the other, and where the second begins.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, usize)> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|(_, end)| *end));
        self.ends.iter().zip(starts).map(|((at, end), start)| (&self.text[start..*end], at - start))
    }
}

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Merges;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merges, A::Error> {
                let mut merges = Merges { text: String::new(), ends: Vec::new() };
                while let Some(at) = list.next_element_seed(Pair(&mut merges.text))? {
                    merges.ends.push((at, merges.text.len()));
                }
                Ok(merges)
            }
        }
        deserializer.deserialize_seq(Reader)
    }
}

/// Appends a merge, and tells where its second token begins.
struct Pair<'a>(&'a mut String);

impl<'de> DeserializeSeed<'de> for Pair<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pair<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("two tokens")
    }

    fn visit_str<E: Error>(self, pair: &str) -> Result<usize, E> {
        let parts = pair.split_once(' ').filter(|(_, b)| !b.contains(' '));
        let (a, b) =
            parts.ok_or_else(|| E::custom(format!("the merge {pair:?} is not two tokens")))?;
        self.0.push_str(a);
        let at = self.0.len();
        self.0.push_str(b);
        Ok(at)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<usize, A::Error> {
        let a = list.next_element_seed(Append(self.0))?;
        let at = self.0.len();
        let b = list.next_element_seed(Append(self.0))?;
        if a.and(b).is_some() {
            Ok(at)
        } else {
            Err(A::Error::custom("a merge of less than two tokens"))
        }
    }
}

/// Appends a text.
struct Append<'a>(&'a mut String);

impl<'de> DeserializeSeed<'de> for Append<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Append<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.push_str(text);
        Ok(())
    }
}
