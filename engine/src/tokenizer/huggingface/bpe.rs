//! Byte-pair encoding: a piece of text to tokens by merging neighbours, the pair of the lowest rank
//! first.
//!
//! A piece begins as one symbol per character and is merged by a heap of the pairs that may be, in
//! O(n log n). Pairs are looked up by their first symbol, then by halving, so that no hash can be
//! made to collide. Sources: Sennrich et al. 2016 (arXiv 1508.07909); `tokenizers`, `models/bpe/`.
//! Not here: dropout, which is for training. Test: `oracle.rs`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::MAX_VOCAB;
use super::json::{self, Model, Tokens};
use super::pieces::NAMES_END;
use super::unigram::{self, byte_tokens, check_tokens};
use super::vocab::Vocab;

/// Bytes of a prefix or suffix of symbols.
const MAX_AFFIX: usize = 64;
/// Stands for no symbol.
const NONE: u32 = u32::MAX;

/// A byte-pair encoding.
#[derive(Debug)]
pub(super) struct Bpe {
    /// Every token of the model.
    pub(super) vocab: Vocab,
    /// One more than the largest id.
    pub(super) n_vocab: usize,
    merges: Merges,
    /// Characters that are part of tokens without being some, in order: symbols from `n_vocab` on.
    loose: Vec<char>,
    /// The tokens of the first characters, among them the names of bytes: nearly all lookups.
    first: Box<[u32; NAMES_END]>,
    /// Put before a character that is not the first of its piece.
    prefix: String,
    /// Put behind the last character of a piece.
    suffix: String,
    unknown: Unknown,
    /// Unknown characters side by side are one token.
    fuse_unknown: bool,
    /// Unknown characters stand where they are, as in SentencePiece.
    in_order: bool,
    /// The tokens `<0xNN>`, for characters that have none.
    bytes: Option<Box<[u32; 256]>>,
    /// A piece that is a token is not made up from its characters.
    whole: bool,
}

/// The fate of a character without a token.
#[derive(Debug)]
enum Unknown {
    Dropped,
    Token(u32),
    /// The file names a token that it does not have.
    Missing(String),
}

/// Which pairs are merged: sorted by the first symbol, then by the second.
#[derive(Debug)]
struct Merges {
    /// Where the pairs of each first symbol begin; they end where the next one's begin.
    /// `(n_vocab + 1)`
    starts: Vec<u32>,
    /// Second symbol, rank, merged symbol.
    pairs: Vec<(u32, u32, u32)>,
}

/// Memory for the encoding of one piece after the other.
#[derive(Default)]
pub(super) struct Work {
    symbols: Vec<Symbol>,
    /// Rank and place of the pairs that may be merged.
    heap: BinaryHeap<Reverse<(u32, u32)>>,
}

/// A symbol and its neighbours; one that was merged into the one before has `id` [`NONE`].
struct Symbol {
    id: u32,
    before: u32,
    behind: u32,
}

impl Bpe {
    /// Reads the model of a file.
    pub(super) fn new(model: Model) -> Result<Self, String> {
        let merges = model.merges.ok_or("a model of kind BPE without merges")?;
        let Tokens { vocab, scores: None } = model.vocab else {
            return Err("a model of kind BPE whose tokens have no ids".to_owned());
        };
        let largest = vocab.iter().map(|(_, id)| id as usize).max();
        let n_vocab = largest.map_or(0, |largest| largest + 1);
        if n_vocab > MAX_VOCAB {
            return Err(format!("expected ids below 2^24, found {}", n_vocab - 1));
        }
        let prefix = model.continuing_subword_prefix.unwrap_or_default();
        let suffix = model.end_of_word_suffix.unwrap_or_default();
        if prefix.len().max(suffix.len()) > MAX_AFFIX {
            return Err(format!("a prefix or suffix of more than {MAX_AFFIX} bytes"));
        }
        let token = |text: &str| vocab.get(text);
        let bytes = model.byte_fallback.unwrap_or_default().then(|| byte_tokens(&vocab));
        let unknown = match model.unk_token {
            None => Unknown::Dropped,
            Some(text) => token(&text).map_or(Unknown::Missing(text), Unknown::Token),
        };
        Ok(Bpe {
            merges: Merges::new(&merges, &vocab, &prefix, n_vocab)?,
            n_vocab,
            first: first_tokens(&vocab),
            loose: Vec::new(),
            in_order: false,
            prefix,
            suffix,
            unknown,
            fuse_unknown: model.fuse_unk.unwrap_or_default(),
            bytes,
            whole: model.ignore_merges.unwrap_or_default(),
            vocab,
        })
    }

    /// Reads SentencePiece's encoding, which has scores in place of merges: of all neighbours that
    /// together are a token, those of the best score are merged first, the first ones of equals.
    ///
    /// A character may be part of tokens without being one; it takes part in merges all the same.
    pub(super) fn of_scores(model: Model) -> Result<Self, String> {
        let Tokens { vocab, scores } = model.vocab;
        let scores = scores.ok_or("a model of kind SentencePiece whose tokens have no scores")?;
        check_tokens(&vocab)?;
        let n_vocab = scores.len();
        let unknown = unigram::unknown(model.unk_id, n_vocab)?;
        let score = |id: u32| scores.get(id as usize).copied().flatten();
        let known = || vocab.iter().filter_map(|(text, id)| Some((text, id, score(id)?)));
        let alone = |c: char| vocab.get(c.encode_utf8(&mut [0; 4]));
        let mut loose: Vec<char> =
            known().flat_map(|(text, ..)| text.chars()).filter(|c| alone(*c).is_none()).collect();
        loose.sort_unstable();
        loose.dedup();
        let symbol = |text: &str| {
            let token = vocab.get(text).filter(|id| score(*id).is_some());
            let mut chars = text.chars();
            token.or_else(|| match (chars.next(), chars.next()) {
                (Some(c), None) => Some((n_vocab + loose.binary_search(&c).ok()?) as u32),
                _ => None,
            })
        };
        let mut by_score: Vec<(&str, u32, f64)> = known().collect();
        by_score.sort_by(|a, b| b.2.total_cmp(&a.2));
        let mut pairs = Vec::new();
        let mut rank = 0;
        for (i, &(text, merged, score)) in by_score.iter().enumerate() {
            if i > 0 && by_score[i - 1].2 != score {
                rank += 1;
            }
            for (at, _) in text.char_indices().skip(1) {
                let (a, b) = text.split_at(at);
                if let (Some(a), Some(b)) = (symbol(a), symbol(b)) {
                    pairs.push((a, b, Reverse(rank), merged));
                }
            }
        }
        let bytes = model.byte_fallback.unwrap_or_default().then(|| byte_tokens(&vocab));
        Ok(Bpe {
            merges: Merges::of_pairs(pairs, n_vocab + loose.len()),
            n_vocab,
            first: first_tokens(&vocab),
            loose,
            in_order: true,
            prefix: String::new(),
            suffix: String::new(),
            unknown: unknown.map_or(Unknown::Dropped, Unknown::Token),
            fuse_unknown: true,
            bytes,
            whole: false,
            vocab,
        })
    }

    /// Appends the tokens of a piece.
    pub(super) fn encode(
        &self,
        piece: &str,
        work: &mut Work,
        ids: &mut Vec<u32>,
    ) -> Result<(), String> {
        if self.whole
            && let Some(id) = self.vocab.get(piece)
        {
            ids.push(id);
            return Ok(());
        }
        // The places of symbols are counted in 32 bits, and a character may become so many.
        if piece.len() > u32::MAX as usize / (1 + self.prefix.len() + self.suffix.len()) {
            return Err(format!("a piece of {} bytes is too long", piece.len()));
        }
        work.symbols.clear();
        self.split(piece, &mut work.symbols)?;
        self.merge(work);
        let symbols = work.symbols.iter().map(|symbol| symbol.id).filter(|&id| id != NONE);
        if self.loose.is_empty() {
            ids.extend(symbols);
        } else {
            let start = ids.len();
            symbols.for_each(|id| self.push(id, start, ids));
        }
        Ok(())
    }

    /// Appends a symbol to the tokens of its piece, which begin at `start`. A character that is
    /// part of tokens only is as good as an unknown one.
    fn push(&self, id: u32, start: usize, ids: &mut Vec<u32>) {
        let unknown = match self.unknown {
            Unknown::Token(unknown) => Some(unknown),
            _ => None,
        };
        let loose = (id as usize).checked_sub(self.n_vocab).map(|i| self.loose[i]);
        let mut text = [0; 4];
        let bytes = match (loose, &self.bytes) {
            (Some(c), Some(bytes)) => {
                let text = c.encode_utf8(&mut text).bytes();
                Some(text.map(|byte| bytes[usize::from(byte)]))
            }
            _ => None,
        };
        match (loose, bytes) {
            (None, _) if Some(id) != unknown => ids.push(id),
            (Some(_), Some(bytes)) if bytes.clone().all(|id| id != NONE) => ids.extend(bytes),
            // Unknown ones side by side are one token.
            _ if ids.len() > start && ids.last().copied() == unknown => {}
            _ => ids.extend(unknown),
        }
    }

    /// The symbols of the characters.
    fn split(&self, piece: &str, symbols: &mut Vec<Symbol>) -> Result<(), String> {
        let mut push = |id| {
            let at = symbols.len() as u32;
            symbols.push(Symbol { id, before: at.wrapping_sub(1), behind: at + 1 });
        };
        let mut unknown = None;
        for (at, c) in piece.char_indices() {
            let end = at + c.len_utf8();
            if let Some(id) = self.symbol(&piece[at..end], c, at == 0, end == piece.len()) {
                unknown.take().map(&mut push);
                push(id);
                continue;
            }
            if let Some(bytes) = &self.bytes {
                let text = self.affixed(&piece[at..end], at == 0, end == piece.len());
                let ids = || text.bytes().map(|byte| bytes[usize::from(byte)]);
                if ids().all(|id| id != NONE) {
                    // `tokenizers` puts an unknown character behind the bytes that follow it.
                    if self.in_order {
                        unknown.take().map(&mut push);
                    }
                    ids().for_each(&mut push);
                    continue;
                }
            }
            match &self.unknown {
                Unknown::Dropped => {}
                Unknown::Token(id) => {
                    if !self.fuse_unknown {
                        unknown.take().map(&mut push);
                    }
                    unknown = Some(*id);
                }
                Unknown::Missing(text) => {
                    return Err(format!(
                        "{c:?} is no token, and neither is {text:?}, which is to stand for it"
                    ));
                }
            }
        }
        unknown.map(push);
        Ok(())
    }

    /// The token of one character of a piece.
    fn symbol(&self, text: &str, c: char, is_first: bool, is_last: bool) -> Option<u32> {
        let bare = (is_first || self.prefix.is_empty()) && (!is_last || self.suffix.is_empty());
        match self.first.get(c as usize).filter(|_| bare) {
            Some(&id) => Some(id).filter(|&id| id != NONE),
            None => self.vocab.get(self.affixed(text, is_first, is_last).as_str()),
        }
        .or_else(|| Some((self.n_vocab + self.loose.binary_search(&c).ok()?) as u32))
    }

    fn affixed(&self, text: &str, is_first: bool, is_last: bool) -> String {
        let prefix = if is_first { "" } else { &self.prefix };
        let suffix = if is_last { &self.suffix } else { "" };
        [prefix, text, suffix].concat()
    }

    fn merge(&self, work: &mut Work) {
        let Work { symbols, heap } = work;
        heap.clear();
        for (at, pair) in symbols.windows(2).enumerate() {
            if let Some((rank, _)) = self.merges.get(pair[0].id, pair[1].id) {
                heap.push(Reverse((rank, at as u32)));
            }
        }
        while let Some(Reverse((rank, at))) = heap.pop() {
            let Symbol { id, before, behind } = symbols[at as usize];
            let Some(next) = symbols.get(behind as usize).filter(|_| id != NONE) else { continue };
            // A pair may have changed since it was pushed.
            let Some((_, merged)) = self.merges.get(id, next.id).filter(|&(now, _)| now == rank)
            else {
                continue;
            };
            let far = next.behind;
            symbols[behind as usize].id = NONE;
            symbols[at as usize].id = merged;
            symbols[at as usize].behind = far;
            if let Some(far_symbol) = symbols.get_mut(far as usize) {
                far_symbol.before = at;
                if let Some((rank, _)) = self.merges.get(merged, far_symbol.id) {
                    heap.push(Reverse((rank, at)));
                }
            }
            if let Some(symbol) = symbols.get(before as usize)
                && let Some((rank, _)) = self.merges.get(symbol.id, merged)
            {
                heap.push(Reverse((rank, before)));
            }
        }
    }
}

/// The tokens of the first characters.
fn first_tokens(vocab: &Vocab) -> Box<[u32; NAMES_END]> {
    let mut first = Box::new([NONE; NAMES_END]);
    for (slot, c) in first.iter_mut().zip('\0'..) {
        *slot = vocab.get(c.encode_utf8(&mut [0; 4])).unwrap_or(NONE);
    }
    first
}

impl Merges {
    /// The merges in the order of their ranks; of equal ones the last counts.
    fn new(
        merges: &json::Merges,
        vocab: &Vocab,
        prefix: &str,
        n_vocab: usize,
    ) -> Result<Self, String> {
        let token = |text: &str| {
            let missing =
                || format!("a merge needs the token {text:?}, which is not in the vocabulary");
            vocab.get(text).ok_or_else(missing)
        };
        let mut sorted = Vec::new();
        for (rank, (both, at)) in merges.iter().enumerate() {
            let (a, b) = both.split_at(at);
            let merged = match prefix {
                "" => token(both)?,
                _ => token(&[a, b.get(prefix.len()..).unwrap_or_default()].concat())?,
            };
            sorted.push((token(a)?, token(b)?, Reverse(rank as u32), merged));
        }
        Ok(Self::of_pairs(sorted, n_vocab))
    }

    /// Pairs with their ranks and what they become; of equal ones the one of the last rank counts.
    fn of_pairs(mut sorted: Vec<(u32, u32, Reverse<u32>, u32)>, n_symbol: usize) -> Self {
        sorted.sort_unstable();
        sorted.dedup_by_key(|(a, b, _, _)| (*a, *b));
        let mut starts = vec![0; n_symbol + 1];
        for (a, ..) in &sorted {
            starts[*a as usize + 1] += 1;
        }
        for i in 0..n_symbol {
            starts[i + 1] += starts[i];
        }
        Merges {
            starts,
            pairs: sorted.into_iter().map(|(_, b, rank, merged)| (b, rank.0, merged)).collect(),
        }
    }

    /// Rank and merged symbol of a pair.
    #[inline]
    fn get(&self, a: u32, b: u32) -> Option<(u32, u32)> {
        let pairs =
            &self.pairs[self.starts[a as usize] as usize..self.starts[a as usize + 1] as usize];
        let at = pairs.binary_search_by_key(&b, |pair| pair.0).ok()?;
        Some((pairs[at].1, pairs[at].2))
    }
}
