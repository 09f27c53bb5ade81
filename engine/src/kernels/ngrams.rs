//! Where the n-grams that end at a token stand in a table: hashes of their tokens' numbers (Cheng
//! et al. 2026, arXiv 2601.07372, §2). Test: `model/parts/ngrams.rs`.

/// The most tokens of an n-gram.
pub(crate) const MAX_NGRAM: usize = 16;

/// How n-grams are hashed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hashes<'a> {
    /// Of the last token, of the one before it, …
    pub(crate) multipliers: &'a [i64],
    /// Rows and the first row of each head: those of pairs, then those of triples, …
    pub(crate) heads: &'a [[i64; 2]],
    /// The token that ends a text; it stands before the first, too.
    pub(crate) end: i64,
}

impl<'a> Hashes<'a> {
    /// Of each head the row of the n-gram that ends with the last token, `back(j)` being the one j
    /// before it.
    pub(crate) fn rows_of(&self, back: impl Fn(usize) -> i64) -> impl Iterator<Item = usize> + 'a {
        let per_order = self.heads.len() / (self.multipliers.len() - 1);
        let mut mixed = [0; MAX_NGRAM];
        let (mut sum, mut has_ended) = (0, false);
        for (j, multiplier) in self.multipliers.iter().enumerate() {
            let token = if has_ended { self.end } else { back(j) };
            // What stands before the end of another text is no part of this one.
            has_ended |= j > 0 && token == self.end;
            sum ^= token.wrapping_mul(*multiplier);
            mixed[j] = sum;
        }
        self.heads.iter().enumerate().map(move |(head, [size, first])| {
            (mixed[1 + head / per_order].rem_euclid(*size) + first) as usize
        })
    }
}
