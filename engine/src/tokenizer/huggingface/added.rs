//! Tokens that a `tokenizer.json` has besides its model's, and where they stand in a text.
//!
//! They are looked for before everything else, some in the text as it is, some (`normalized`)
//! behind the normalizer; of several at one place the longest counts. Source: `tokenizers`,
//! `tokenizer/added_vocabulary.rs`, also for the ids: the model's if it has the token, else the
//! next free ones in their order, whatever the file says. Test: `oracle.rs`.

use std::collections::HashMap;
use std::ops::Range;

use super::json::AddedToken;
use super::normalize::{self, Normalizer};
use super::pattern::is_word;
use super::vocab::Vocab;
use crate::tokenizer::trie::Trie;

/// Bytes of an added token: a bound on the time to look for it.
const MAX_LENGTH: usize = 1024;

/// All added tokens.
#[derive(Debug)]
pub(super) struct Added {
    /// The last one of each id.
    tokens: HashMap<u32, AddedToken>,
    /// Those to look for before the normalizer.
    exact: Trie,
    /// Those to look for behind it.
    normalized: Trie,
}

impl Added {
    /// The added tokens of a file beside the `vocab` of its model.
    pub(super) fn new(
        list: Vec<AddedToken>,
        vocab: &Vocab,
        steps: &[Normalizer],
    ) -> Result<Self, String> {
        let mut next = vocab.len() as u32;
        let mut ids: HashMap<String, u32> = HashMap::new();
        let mut tokens = HashMap::new();
        let (mut exact, mut normalized) = (Vec::new(), Vec::new());
        for token in list.into_iter().filter(|token| !token.content.is_empty()) {
            let known = ids.get(&token.content).copied().or_else(|| vocab.get(&token.content));
            let id = known.unwrap_or(next);
            next += u32::from(known.is_none());
            let sought = match token.normalized {
                true => normalize::apply(steps, &token.content)?.text,
                false => token.content.clone(),
            };
            if sought.is_empty() || sought.len() > MAX_LENGTH {
                let shown: String = token.content.chars().take(40).collect();
                return Err(format!(
                    "the added token {shown:?} is longer than {MAX_LENGTH} bytes, \
                     or normalized to nothing"
                ));
            }
            if token.normalized { &mut normalized } else { &mut exact }.push((sought, id));
            ids.insert(token.content.clone(), id);
            tokens.insert(id, token);
        }
        // Of equal ones the first counts, for the trie the last.
        let trie = |list: Vec<(String, u32)>| {
            Trie::new(list.iter().rev().map(|(text, id)| (text.as_bytes(), *id)))
        };
        Ok(Added { tokens, exact: trie(exact), normalized: trie(normalized) })
    }

    /// The tokens with their ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &AddedToken)> {
        self.tokens.iter().map(|(id, token)| (*id, token))
    }

    /// Calls `part` with the parts of a text: tokens with their id, and what lies between. Special
    /// tokens that begin where `is_spelled` says so are none.
    pub(super) fn split_exact<E>(
        &self,
        text: &str,
        is_spelled: impl Fn(usize) -> bool,
        part: impl FnMut(Range<usize>, Option<u32>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.split(&self.exact, text, is_spelled, part)
    }

    /// Whether a special token may stand in a text behind the normalizer.
    pub(super) fn has_normalized_special(&self) -> bool {
        self.tokens.values().any(|token| token.special && token.normalized)
    }

    /// The same for a text behind the normalizer.
    pub(super) fn split_normalized<E>(
        &self,
        text: &str,
        part: impl FnMut(Range<usize>, Option<u32>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.split(&self.normalized, text, |_| false, part)
    }

    fn split<E>(
        &self,
        trie: &Trie,
        text: &str,
        is_spelled: impl Fn(usize) -> bool,
        mut part: impl FnMut(Range<usize>, Option<u32>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut at, mut done) = (0, 0);
        while at < text.len() {
            let Some((id, length)) = trie.longest(&text.as_bytes()[at..]) else {
                at += 1;
                continue;
            };
            let (mut start, mut end) = (at, at + length);
            at = end;
            let Some(token) = self.tokens.get(&id) else { continue };
            if token.special && is_spelled(start) {
                at = start + 1;
                continue;
            }
            if token.single_word
                && (text[..start].chars().next_back().is_some_and(is_word)
                    || text[end..].chars().next().is_some_and(is_word))
            {
                continue;
            }
            if token.lstrip {
                start = text[..start].trim_end().len().max(done);
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            if done < start {
                part(done..start, None)?;
            }
            // A token that the white space of the one before has swallowed is none.
            if start < end {
                part(start..end, Some(id))?;
            }
            done = end;
        }
        if done < text.len() { part(done..text.len(), None) } else { Ok(()) }
    }
}
