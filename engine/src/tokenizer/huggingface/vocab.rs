//! The tokens of a model's vocabulary, by their text.
//!
//! All texts side by side and one table of hashes: tens of thousands of tokens are read in
//! milliseconds, with a few allocations in all. The hash (xxh3) is seeded at random, so that no
//! file can make its tokens collide. Not here: merges and added tokens. Test: below, and all that
//! is read.

use std::hash::{BuildHasher, RandomState};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Texts with their ids.
#[derive(Debug)]
pub(super) struct Vocab {
    /// All texts, in the order in which they came.
    text: String,
    tokens: Vec<Token>,
    /// Open addressing: the upper half of a text's hash and 1 + its place in `tokens`; 0 is free. A
    /// power of two, of which at most half is in use.
    table: Vec<u64>,
    seed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Token {
    start: usize,
    end: usize,
    id: u32,
}

impl Vocab {
    pub(super) fn new() -> Self {
        Vocab {
            text: String::new(),
            tokens: Vec::new(),
            table: vec![0; 16],
            seed: RandomState::new().hash_one(0),
        }
    }

    /// Adds a text; one that is there already has the new id from now on.
    pub(super) fn insert(&mut self, text: &str, id: u32) {
        match self.find(text) {
            Ok(place) => self.tokens[place].id = id,
            Err(slot) => {
                let start = self.text.len();
                self.text.push_str(text);
                self.tokens.push(Token { start, end: self.text.len(), id });
                self.table[slot] = entry(self.hash(text), self.tokens.len());
                if 2 * self.tokens.len() > self.table.len() {
                    self.grow();
                }
            }
        }
    }

    /// The id of a text.
    #[inline]
    pub(super) fn get(&self, text: &str) -> Option<u32> {
        self.find(text).ok().map(|place| self.tokens[place].id)
    }

    /// The number of texts.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The texts with their ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.tokens.iter().map(|token| (&self.text[token.start..token.end], token.id))
    }

    fn hash(&self, text: &str) -> u64 {
        xxh3_64_with_seed(text.as_bytes(), self.seed)
    }

    /// Where a text is among the tokens, or the slot that is free for it.
    fn find(&self, text: &str) -> Result<usize, usize> {
        let hash = self.hash(text);
        let last = self.table.len() - 1;
        let mut slot = hash as usize & last;
        while self.table[slot] != 0 {
            let place = (self.table[slot] as u32) as usize - 1;
            if self.table[slot] == entry(hash, place + 1) {
                let token = self.tokens[place];
                if self.text.as_bytes()[token.start..token.end] == *text.as_bytes() {
                    return Ok(place);
                }
            }
            slot = (slot + 1) & last;
        }
        Err(slot)
    }

    fn grow(&mut self) {
        let last = 4 * self.table.len() - 1;
        let mut table = vec![0; last + 1];
        for (place, token) in self.tokens.iter().enumerate() {
            let hash = self.hash(&self.text[token.start..token.end]);
            let mut slot = hash as usize & last;
            while table[slot] != 0 {
                slot = (slot + 1) & last;
            }
            table[slot] = entry(hash, place + 1);
        }
        self.table = table;
    }
}

/// An entry of the table; a file has fewer tokens than 2^32.
fn entry(hash: u64, place: usize) -> u64 {
    hash >> 32 << 32 | place as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_put_in() {
        let mut vocab = Vocab::new();
        assert_eq!(vocab.get(""), None);
        let texts: Vec<String> = (0..5000).map(|i| format!("{i:b}")).collect();
        texts.iter().zip(0..).for_each(|(text, id)| vocab.insert(text, id));
        vocab.insert("101", 77_777);
        vocab.insert("", 9);
        assert_eq!((vocab.len(), vocab.get("101"), vocab.get("")), (5001, Some(77_777), Some(9)));
        for (text, id) in texts.iter().zip(0..).filter(|(text, _)| *text != "101") {
            assert_eq!(vocab.get(text), Some(id));
            assert_eq!(vocab.get(&format!("{text}x")), None);
        }
        assert_eq!(vocab.iter().filter(|(text, id)| vocab.get(text) == Some(*id)).count(), 5001);
    }
}
