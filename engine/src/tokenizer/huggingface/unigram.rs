//! Unigram: a piece of text as the sequence of tokens whose scores have the greatest sum.
//!
//! The best way to each place is found from left to right, over all tokens that begin there
//! (Viterbi). Where no token is one character long, the character may also be unknown, at a score
//! below all others; runs of unknown characters are one token, or the tokens of their bytes.
//! Sources: Kudo 2018 (arXiv 1804.10959); `tokenizers`, `models/unigram/`. Test: `oracle.rs`.

use super::json::{Model, Tokens};
use super::vocab::Vocab;
use crate::tokenizer::trie::Trie;

/// How far an unknown character's score is below the least of the tokens'.
const UNKNOWN_PENALTY: f64 = 10.0;
/// Bytes of a token: a bound on the time to look for it.
pub(super) const MAX_TOKEN: usize = 1024;
/// Stands for no token.
const NONE: u32 = u32::MAX;

/// A unigram model.
#[derive(Debug)]
pub(super) struct Unigram {
    /// Every token of the model.
    pub(super) vocab: Vocab,
    /// `(n_vocab)`
    scores: Vec<f64>,
    trie: Trie,
    unknown: Option<u32>,
    /// Score of an unknown character.
    unknown_score: f64,
    /// The tokens `<0xNN>`, for characters that have none.
    bytes: Option<Box<[u32; 256]>>,
}

/// The best way to a place of a piece.
#[derive(Clone, Copy)]
struct Node {
    score: f64,
    /// The last token on it; [`NONE`] where an unknown character is, or where no way leads.
    id: u32,
    /// Where that begins; the place itself where no way leads to it.
    start: usize,
}

/// Memory for the encoding of one piece after the other.
#[derive(Default)]
pub(super) struct Work {
    best: Vec<Node>,
    /// The parts of the best way, from the end.
    parts: Vec<(usize, usize, u32)>,
}

impl Unigram {
    /// Reads the model of a file.
    pub(super) fn new(model: Model) -> Result<Self, String> {
        let Tokens { vocab, scores } = model.vocab;
        let scores = scores.ok_or("a model of kind Unigram whose tokens have no scores")?;
        check_tokens(&vocab)?;
        let unknown = unknown(model.unk_id, scores.len())?;
        // A token without a score is none that a text could hold.
        let known = |id: u32| scores.get(id as usize).is_some_and(Option::is_some);
        let texts = vocab.iter().filter(|(text, id)| !text.is_empty() && known(*id));
        let trie = Trie::new(texts.map(|(text, id)| (text.as_bytes(), id)));
        let least = scores.iter().flatten().copied().fold(f64::INFINITY, f64::min);
        Ok(Unigram {
            trie,
            unknown,
            unknown_score: least - UNKNOWN_PENALTY,
            bytes: model.byte_fallback.unwrap_or_default().then(|| byte_tokens(&vocab)),
            scores: scores.into_iter().map(Option::unwrap_or_default).collect(),
            vocab,
        })
    }

    /// One more than the largest id.
    pub(super) fn n_vocab(&self) -> usize {
        self.scores.len()
    }

    /// Appends the tokens of a piece.
    pub(super) fn encode(
        &self,
        piece: &str,
        work: &mut Work,
        ids: &mut Vec<u32>,
    ) -> Result<(), String> {
        self.find(piece, &mut work.best);
        work.parts.clear();
        let mut end = piece.len();
        while end > 0 {
            let Node { id, start, .. } = work.best[end];
            match work.parts.last_mut() {
                Some((before, _, NONE)) if id == NONE => *before = start,
                _ => work.parts.push((start, end, id)),
            }
            end = start;
        }
        for &(start, end, id) in work.parts.iter().rev() {
            match id {
                NONE => self.push_unknown(&piece[start..end], ids)?,
                id => ids.push(id),
            }
        }
        Ok(())
    }

    /// The best way to every place.
    fn find(&self, piece: &str, best: &mut Vec<Node>) {
        best.clear();
        best.extend((0..=piece.len()).map(|at| Node { score: 0.0, id: NONE, start: at }));
        for (at, c) in piece.char_indices() {
            let so_far = best[at].score;
            let mut offer = |end: usize, id: u32, score: f64| {
                let node = &mut best[end];
                if node.start == end || score > node.score {
                    *node = Node { score, id, start: at };
                }
            };
            let mut alone = false;
            self.trie.each_prefix(&piece.as_bytes()[at..], |id, len| {
                alone |= len == c.len_utf8();
                offer(at + len, id, self.scores[id as usize] + so_far);
            });
            if !alone {
                offer(at + c.len_utf8(), NONE, self.unknown_score + so_far);
            }
        }
    }

    /// The tokens of characters that have none.
    fn push_unknown(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        if let Some(bytes) = &self.bytes {
            let tokens = text.bytes().map(|byte| bytes[usize::from(byte)]);
            if tokens.clone().all(|id| id != NONE) {
                ids.extend(tokens);
                return Ok(());
            }
        }
        let shown: String = text.chars().take(20).collect();
        ids.push(self.unknown.ok_or_else(|| {
            format!("{shown:?} is no token, and no token stands for what is unknown")
        })?);
        Ok(())
    }
}

/// The token of what is unknown, by its place in the list.
pub(super) fn unknown(unk_id: Option<u64>, n_vocab: usize) -> Result<Option<u32>, String> {
    match unk_id {
        Some(id) if id >= n_vocab as u64 => {
            Err(format!("the unknown token is number {id} of {n_vocab}"))
        }
        id => Ok(id.map(|id| id as u32)),
    }
}

/// Refuses tokens that it would take too long to look for.
pub(super) fn check_tokens(vocab: &Vocab) -> Result<(), String> {
    match vocab.iter().find(|(text, _)| text.len() > MAX_TOKEN) {
        Some((_, id)) => Err(format!("token {id} is longer than {MAX_TOKEN} bytes")),
        None => Ok(()),
    }
}

/// The tokens `<0xNN>`.
pub(super) fn byte_tokens(vocab: &Vocab) -> Box<[u32; 256]> {
    let mut bytes = Box::new([NONE; 256]);
    for (byte, slot) in bytes.iter_mut().enumerate() {
        *slot = vocab.get(&format!("<0x{byte:02X}>")).unwrap_or(NONE);
    }
    bytes
}
