//! [`Lookup`]: guesses that what followed the last tokens once will follow them again (prompt
//! lookup; Saxena 2023). Costs nothing, and is often right where a text repeats its sources: code
//! that is edited, summaries, names, JSON.
//!
//! The last time that the same three tokens stood before is looked up, else the same two. Test:
//! below.

use std::collections::HashMap;

use super::Draft;
use crate::Result;
use crate::sampler::Sampler;

/// The lengths of what is looked up, the longest first.
const LENGTHS: [usize; 2] = [3, 2];

/// The most places in a table: it begins anew then.
const LONGEST: usize = 1 << 20;

/// Guesses from the text itself.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    /// The tokens that are in the tables.
    seen: Vec<u32>,
    /// For each length, by the tokens, where they ended last.
    ends: [HashMap<[u32; 3], usize>; 2],
}

impl Lookup {
    /// Nothing was read yet.
    pub fn new() -> Lookup {
        Lookup::default()
    }

    /// The tables' key of the last tokens before `end`.
    fn key(text: &[u32], end: usize, length: usize) -> Option<[u32; 3]> {
        let start = end.checked_sub(length)?;
        let mut key = [0; 3];
        key[..length].copy_from_slice(&text[start..end]);
        Some(key)
    }

    /// Takes in what is new of the text, all but its end.
    fn take_in(&mut self, text: &[u32]) {
        if text.len() < self.seen.len() || text[..self.seen.len()] != self.seen[..] {
            *self = Lookup::default();
        }
        for end in self.seen.len()..text.len() {
            // The tokens that end before this one; those that end the text are looked up.
            for (length, ends) in LENGTHS.into_iter().zip(&mut self.ends) {
                if ends.len() >= LONGEST {
                    ends.clear();
                }
                ends.extend(Self::key(text, end, length).map(|key| (key, end)));
            }
        }
        self.seen.extend_from_slice(&text[self.seen.len()..]);
    }
}

impl Draft for Lookup {
    fn guess(
        &mut self,
        text: &[u32],
        _: &Sampler,
        most: usize,
        guesses: &mut Vec<u32>,
    ) -> Result<()> {
        self.take_in(text);
        let found = LENGTHS
            .into_iter()
            .zip(&self.ends)
            .find_map(|(length, ends)| ends.get(&Self::key(text, text.len(), length)?));
        let Some(&end) = found else { return Ok(()) };
        // What follows may run into the guesses themselves: a text that goes round in a circle.
        let first = guesses.len();
        for i in 0..most {
            let guess = text.get(end + i).copied();
            guesses.push(guess.unwrap_or_else(|| guesses[first + (end + i - text.len())]));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::SamplerOptions;

    fn guesses(lookup: &mut Lookup, text: &[u32], most: usize) -> Vec<u32> {
        let sampler = Sampler::new(SamplerOptions::greedy(), 100).expect("options");
        let mut guesses = Vec::new();
        lookup.guess(text, &sampler, most, &mut guesses).expect("no model");
        guesses
    }

    #[test]
    fn the_last_and_longest_match_counts() {
        let mut lookup = Lookup::new();
        assert!(guesses(&mut lookup, &[], 4).is_empty());
        assert!(guesses(&mut lookup, &[1, 2, 3], 4).is_empty());
        // 2 3 stood before, with 4 behind it.
        let text = [1, 2, 3, 4, 5, 2, 3];
        assert_eq!(guesses(&mut lookup, &text, 3), [4, 5, 2]);
        // Twice now, with something else the second time; 1 2 3 was only the first.
        let text = [1, 2, 3, 4, 5, 2, 3, 9, 2, 3];
        assert_eq!(guesses(&mut lookup, &text, 2), [9, 2]);
        let text = [1, 2, 3, 4, 5, 2, 3, 9, 1, 2, 3];
        assert_eq!(guesses(&mut lookup, &text, 2), [4, 5]);
        // Another text.
        assert!(guesses(&mut lookup, &[7, 2, 3], 2).is_empty());
    }

    #[test]
    fn a_circle_goes_on() {
        let mut lookup = Lookup::new();
        assert_eq!(guesses(&mut lookup, &[5, 1, 2, 1, 2], 5), [1, 2, 1, 2, 1]);
        assert_eq!(guesses(&mut Lookup::new(), &[3, 3, 3], 4), [3, 3, 3, 3]);
    }
}
