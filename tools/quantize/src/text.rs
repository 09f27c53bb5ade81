//! Texts to calibrate on: the built-in one, and how a text becomes sequences of tokens.
//!
//! The built-in text is `assets/calibration.txt` (its README says whence). Test: below,
//! and `tests/calibration.rs`: it shares nothing with the text that formats are judged on.

use brooklet::Model;

use crate::{QuantizeError, Result};

/// The built-in text.
pub const BUILT_IN: &str = include_str!("../assets/calibration.txt");

/// Tokens of a sequence.
const LENGTH: usize = 1024;

/// Sequences of a text that has as much.
const SEQUENCES: usize = 40;

/// A text with fewer tokens than this says too little of most inputs.
pub const MIN_TOKENS: usize = 4096;

/// A text of fewer different tokens than this is no text.
const MIN_DIFFERENT: usize = 16;

/// One in so many sequences is held out.
const HELD_OUT: usize = 8;

/// A text to calibrate on.
#[derive(Clone, Debug)]
pub enum Text {
    /// [`BUILT_IN`].
    BuiltIn,
    /// This one. Some of the built-in text is held out beside some of it, so that a strange text
    /// does not make a model that knows nothing else.
    Own(Vec<u8>),
    /// These tokens alone: for models without a tokenizer.
    Tokens(Vec<u32>),
}

/// Sequences of tokens, and which of them are held out to judge the result.
#[derive(Clone, Debug)]
pub(crate) struct Sequences {
    pub(crate) tokens: Vec<Vec<u32>>,
    pub(crate) held_out: Vec<bool>,
}

impl Sequences {
    /// Those of `text`.
    ///
    /// # Errors
    /// The model has no tokenizer, or the text says too little.
    pub(crate) fn new(model: &Model, text: &Text) -> Result<Sequences> {
        let ids = encode(model, text)?;
        check(&ids, MIN_TOKENS)?;
        let length = LENGTH.min(longest(model));
        let tokens = spread(&ids, length, SEQUENCES);
        let last = tokens.len() - 1;
        let held_out =
            (0..=last).map(|i| i % HELD_OUT == HELD_OUT - 1 || last < HELD_OUT && i == last);
        let mut sequences = Sequences { held_out: held_out.collect(), tokens };
        if let Text::Own(_) = text {
            let ids = encode(model, &Text::BuiltIn)?;
            let more = spread(&ids, length, SEQUENCES / HELD_OUT);
            sequences.held_out.extend(more.iter().map(|_| true));
            sequences.tokens.extend(more);
        }
        Ok(sequences)
    }
}

/// The tokens of a text.
fn encode(model: &Model, text: &Text) -> Result<Vec<u32>> {
    let text = match text {
        Text::BuiltIn => BUILT_IN.as_bytes(),
        Text::Own(text) => text,
        Text::Tokens(ids) => return Ok(ids.clone()),
    };
    let tokenizer = model.tokenizer()?;
    if !tokenizer.has_text() {
        return Err(QuantizeError::NoTokenizer { file: model.file().path().to_owned() });
    }
    Ok(tokenizer.encode(text)?)
}

/// The most tokens of a sequence that the model was made for.
fn longest(model: &Model) -> usize {
    let context = model.meta().config.get("n_context").and_then(|n| n.as_u64());
    context.map_or(usize::MAX, |n| n.max(1) as usize)
}

/// About `n` tokens of a text in sequences of `length`, spread over it.
///
/// # Errors
/// As [`Sequences::new`].
pub(crate) fn passages(
    model: &Model,
    text: &Text,
    n: usize,
    length: usize,
) -> Result<Vec<Vec<u32>>> {
    let ids = encode(model, text)?;
    check(&ids, MIN_TOKENS)?;
    let length = length.min(longest(model));
    Ok(spread(&ids, length, (n / length).max(1)))
}

/// Whether a text says enough.
fn check(ids: &[u32], least: usize) -> Result<()> {
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    let different = sorted.chunk_by(|a, b| a == b);
    let (mut n, mut most) = (0, 0);
    for same in different {
        n += 1;
        most = most.max(same.len());
    }
    if ids.len() < least {
        return Err(QuantizeError::ShortText { found: ids.len(), least });
    }
    if n < MIN_DIFFERENT || most > ids.len() / 2 {
        return Err(QuantizeError::EmptyText { tokens: ids.len(), different: n, most });
    }
    Ok(())
}

/// Up to `n` sequences of `length` tokens, spread over all of them.
fn spread(ids: &[u32], length: usize, n: usize) -> Vec<Vec<u32>> {
    if ids.len() <= n * length {
        let whole = ids.chunks(length).filter(|part| part.len() == length.min(ids.len()));
        return whole.map(<[u32]>::to_vec).collect();
    }
    let last = ids.len() - length;
    (0..n).map(|i| ids[i * last / (n - 1).max(1)..][..length].to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_text_says_enough() {
        check(&BUILT_IN.chars().map(u32::from).collect::<Vec<_>>(), 130_000).expect("a text");
    }

    #[test]
    fn sequences_are_spread() {
        let ids: Vec<u32> = (0..1000).collect();
        let sequences = spread(&ids, 100, 4);
        assert_eq!(sequences.iter().map(|s| s[0]).collect::<Vec<_>>(), [0, 300, 600, 900]);
        assert!(sequences.iter().all(|s| s.len() == 100));
        assert_eq!(spread(&ids, 300, 4).len(), 3);
        assert_eq!(spread(&ids[..50], 300, 4), [&ids[..50]]);
    }

    #[test]
    fn texts_that_say_nothing_are_refused() {
        let short = check(&[1; 10], 20).expect_err("too short").to_string();
        assert!(short.contains("10 tokens"), "{short}");
        let zeros = check(&[0; 5000], 20).expect_err("one token").to_string();
        assert!(zeros.contains("1 different"), "{zeros}");
        let mut mostly: Vec<u32> = (0..2000).collect();
        mostly.resize(5000, 7);
        assert!(check(&mostly, 20).is_err());
        check(&(0..5000).map(|i| i % 90).collect::<Vec<_>>(), 20).expect("a text");
    }
}
