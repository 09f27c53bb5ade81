//! The RWKV World tokenizer: greedy longest match over bytes, no normalization, no
//! pre-tokenization.
//!
//! Here: the vocabulary in memory (packed form below), encode, decode. The text form is read in
//! `world_text.rs`, the match itself is `trie.rs`. Source: BlinkDL's `rwkv_tokenizer.py` and its
//! `rwkv_vocab_v20230424.txt`, of which `assets/world/` holds the packed form (see the README
//! there). Decoding needs no table beyond the packed bytes; the trie is built at the first encode.
//! Tests: below, and every case of `fixtures/tokenizer-rwkv-world` in `tests.rs`.

use std::borrow::Cow;
use std::sync::OnceLock;

use super::trie::Trie;
use super::world_text;
use crate::error::{EngineError, Result};

/// The packed vocabulary that is built in.
#[cfg(feature = "world")]
static BUILT_IN: &[u8] = include_bytes!("../../assets/world/rwkv_vocab_v20230424.bin");

/// First bytes of a packed vocabulary.
const MAGIC: &[u8; 8] = b"brkworld";
const VERSION: u32 = 1;
/// Magic, version, n_vocab, n_run.
const HEADER: usize = 20;
/// The most rows a vocabulary may claim: a bound on memory, far above any in use.
pub(super) const MAX_VOCAB: usize = 1 << 24;
/// End of text in World models: no bytes, in no vocabulary file.
pub(super) const END_OF_TEXT: u32 = 0;

/// A World vocabulary.
///
/// Packed form, all integers u32 little-endian: `"brkworld"`, version (1), n_vocab, n_run, then
/// n_run pairs (count, length), then the bytes of all tokens in the order of their ids. A run says
/// that the next `count` ids have tokens of `length` bytes; 0 means ids without a token. The runs
/// cover the ids `0..n_vocab`. The vocabulary of 2023 is sorted by length, so that its 65530 ids
/// are 69 runs, and 374 KB hold it all.
#[derive(Debug)]
pub(super) struct World {
    n_vocab: usize,
    runs: Vec<Run>,
    packed: Cow<'static, [u8]>,
    trie: OnceLock<Trie>,
}

/// Ids `first..` up to the next run's, each with `length` bytes, side by side from `offset` in the
/// packed bytes.
#[derive(Debug)]
struct Run {
    first: u32,
    offset: u32,
    length: u32,
}

impl World {
    /// The vocabulary of 2023-04-24, which all World models share.
    #[cfg(feature = "world")]
    pub(super) fn built_in() -> Self {
        Self::from_packed(Cow::Borrowed(BUILT_IN)).expect("the asset is one that a test has read")
    }

    /// Reads the packed form, or the text form where the bytes do not begin with the packed form's
    /// magic.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        if bytes.starts_with(MAGIC) {
            Self::from_packed(Cow::Owned(bytes.to_vec()))
        } else {
            Self::from_packed(Cow::Owned(pack(&world_text::parse(bytes)?)))
        }
    }

    /// The packed form of the vocabulary.
    pub(super) fn packed(&self) -> &[u8] {
        &self.packed
    }

    fn from_packed(packed: Cow<'static, [u8]>) -> Result<Self> {
        let word = |at: usize| -> Result<u32> {
            let bytes = packed.get(at..at + 4).and_then(|b| b.try_into().ok());
            bytes.map(u32::from_le_bytes).ok_or_else(|| {
                bad("the header", "a whole header", format!("{} bytes in all", packed.len()))
            })
        };
        let version = word(8)?;
        if version != VERSION {
            return Err(bad("the header", "version 1", format!("version {version}")));
        }
        let n_vocab = word(12)? as usize;
        if n_vocab > MAX_VOCAB {
            return Err(bad("the header", "at most 2^24 tokens", format!("{n_vocab}")));
        }
        let n_run = word(16)? as usize;
        if n_run > n_vocab || n_run > packed.len() / 8 {
            return Err(bad(
                "the header",
                "no more runs than tokens and bytes allow",
                format!("{n_run}"),
            ));
        }
        let mut runs = Vec::with_capacity(n_run);
        let mut first = 0u64;
        let mut offset = (HEADER + 8 * n_run) as u64;
        for i in 0..n_run {
            let (count, length) = (word(HEADER + 8 * i)?, word(HEADER + 8 * i + 4)?);
            // Both sums stay below 2^64: each product is, and `offset` is checked against the file
            // in every turn.
            runs.push(Run { first: first as u32, offset: offset as u32, length });
            first += u64::from(count);
            offset = offset.saturating_add(u64::from(count) * u64::from(length));
            if first > n_vocab as u64 || offset > packed.len() as u64 {
                let expected = "runs that fit the tokens and bytes of the file";
                return Err(bad(
                    &format!("run {i}"),
                    expected,
                    format!("{count} of length {length}"),
                ));
            }
        }
        if first != n_vocab as u64 || offset != packed.len() as u64 || offset > u64::from(u32::MAX)
        {
            let found = format!("{first} tokens, {offset} bytes of {}", packed.len());
            return Err(bad("the runs", "all tokens and bytes covered", found));
        }
        Ok(World { n_vocab, runs, packed, trie: OnceLock::new() })
    }

    /// One more than the largest id, unused ids included.
    pub(super) fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// The bytes of a token: empty for ids in no use, `None` outside the vocabulary.
    pub(super) fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        if id as usize >= self.n_vocab {
            return None;
        }
        let run = &self.runs[self.runs.partition_point(|run| run.first <= id) - 1];
        let start = run.offset as usize + (id - run.first) as usize * run.length as usize;
        Some(&self.packed[start..start + run.length as usize])
    }

    /// The id of exactly these bytes.
    pub(super) fn token(&self, bytes: &[u8]) -> Option<u32> {
        self.trie().longest(bytes).filter(|&(_, length)| length == bytes.len()).map(|(id, _)| id)
    }

    /// Appends the ids of `text`, until there are more than `most` in all; fails only in a
    /// vocabulary that lacks single bytes.
    pub(super) fn encode(&self, text: &[u8], most: usize, ids: &mut Vec<u32>) -> Result<()> {
        let trie = self.trie();
        let mut at = 0;
        while at < text.len() && ids.len() <= most {
            let (id, length) = trie
                .longest(&text[at..])
                .ok_or(EngineError::NoTokenForByte { byte: text[at], offset: at })?;
            ids.push(id);
            at += length;
        }
        Ok(())
    }

    fn trie(&self) -> &Trie {
        self.trie.get_or_init(|| {
            let ends = self.runs.iter().skip(1).map(|run| run.first).chain([self.n_vocab as u32]);
            let runs = self.runs.iter().zip(ends).filter(|(run, _)| run.length > 0);
            Trie::new(runs.flat_map(|(run, end)| {
                let bytes = &self.packed[run.offset as usize..];
                bytes.chunks_exact(run.length as usize).zip(run.first..end)
            }))
        })
    }
}

/// Packs tokens, given as (id, bytes) in the order of ids, each id once.
fn pack(tokens: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let n_vocab = tokens.last().map_or(0, |(id, _)| *id as usize + 1);
    let mut runs: Vec<(u32, u32)> = Vec::new();
    let mut push = |count: usize, length: usize| match runs.last_mut() {
        _ if count == 0 => {}
        Some(run) if run.1 as usize == length => run.0 += count as u32,
        _ => runs.push((count as u32, length as u32)),
    };
    let mut next = 0;
    for (id, bytes) in tokens {
        push(*id as usize - next, 0);
        push(1, bytes.len());
        next = *id as usize + 1;
    }

    let mut packed = MAGIC.to_vec();
    for word in [VERSION, n_vocab as u32, runs.len() as u32] {
        packed.extend(word.to_le_bytes());
    }
    for (count, length) in runs {
        packed.extend(count.to_le_bytes());
        packed.extend(length.to_le_bytes());
    }
    tokens.iter().for_each(|(_, bytes)| packed.extend(bytes));
    packed
}

fn bad(place: &str, expected: &'static str, found: String) -> EngineError {
    EngineError::WorldVocabulary { place: place.to_owned(), expected, found }
}
