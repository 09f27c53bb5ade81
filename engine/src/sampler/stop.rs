//! Stop strings: finds them wherever the borders between pieces of text fall, and never shows a
//! part of one.
//!
//! `StopMatcher` takes the pieces of `tokenizer::DecodeStream` and passes on what can no longer
//! become a stop string. Stopping at token ids is not here, the caller compares those. Tests:
//! below, against a search in the whole text.

use crate::tokenizer::PIECE;

/// Finds the first of some stop strings in a text that comes in pieces.
///
/// ```
/// use brooklet::sampler::StopMatcher;
///
/// let mut stops = StopMatcher::new(["\n\nUser:"]);
/// assert_eq!(stops.push("Hello.\n").text, "Hello.");
/// assert_eq!(stops.push("\nUs").text, "");
/// let end = stops.push("er: and");
/// assert_eq!((end.text, end.stop), ("", Some(0)));
/// ```
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// Text that came and was not passed on: the longest end of the text that begins some stop
    /// string.
    held: String,
    /// The text that `push` returns.
    text: String,
    /// Which stop string was found.
    found: Option<usize>,
}

/// The text that [`StopMatcher::push`] lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed<'a> {
    /// Text that is in no stop string.
    pub text: &'a str,
    /// The stop string that was found, by its place among those given; the text ends before it.
    pub stop: Option<usize>,
}

impl StopMatcher {
    /// A matcher for these strings; empty ones stop nothing.
    pub fn new<S: Into<String>>(stops: impl IntoIterator<Item = S>) -> Self {
        let stops: Vec<String> = stops.into_iter().map(Into::into).collect();
        let held = PIECE + stops.iter().map(String::len).max().unwrap_or(0);
        StopMatcher {
            stops,
            held: String::with_capacity(held),
            text: String::with_capacity(held),
            found: None,
        }
    }

    /// Takes a piece of text and passes on all that is certainly not part of a stop string.
    ///
    /// The stop string that is whole first counts, of several that end at one place the longest.
    /// After one was found, nothing more comes.
    pub fn push(&mut self, piece: &str) -> Passed<'_> {
        self.text.clear();
        if self.found.is_none() {
            self.held.push_str(piece);
            let whole = |(i, stop): (usize, &String)| {
                let start = self.held.find(stop.as_str()).filter(|_| !stop.is_empty())?;
                Some((start + stop.len(), start, i))
            };
            let first = self.stops.iter().enumerate().filter_map(whole).min();
            self.found = first.map(|(_, _, stop)| stop);
            let pass =
                first.map_or_else(|| self.held.len() - self.longest_open(), |(_, start, _)| start);
            self.text.push_str(&self.held[..pass]);
            self.held.drain(..pass);
            if self.found.is_some() {
                self.held.clear();
            }
        }
        Passed { text: &self.text, stop: self.found }
    }

    /// Ends the text: passes on what was held back, unless a stop string was found.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        std::mem::swap(&mut self.text, &mut self.held);
        &self.text
    }

    /// Ready for another text.
    pub fn reset(&mut self) {
        self.held.clear();
        self.text.clear();
        self.found = None;
    }

    /// Length of the longest end of `held` that is a proper beginning of some stop string.
    fn longest_open(&self) -> usize {
        let held = self.held.as_bytes();
        let open = |stop: &str| {
            let most = held.len().min(stop.len().saturating_sub(1));
            (1..=most).rev().find(|&n| held.ends_with(&stop.as_bytes()[..n])).unwrap_or(0)
        };
        self.stops.iter().map(|stop| open(stop)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All text passed on, and the stop string found.
    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let mut matcher = StopMatcher::new(stops.iter().copied());
        let mut text = String::new();
        let mut found = None;
        for piece in pieces {
            let passed = matcher.push(piece);
            text.push_str(passed.text);
            found = passed.stop;
        }
        text.push_str(matcher.finish());
        (text, found)
    }

    #[test]
    fn found_across_pieces() {
        assert_eq!(run(&["END"], &["a E", "N", "D b"]), ("a ".into(), Some(0)));
        assert_eq!(run(&["END"], &["a E", "N", "C", "END"]), ("a ENC".into(), Some(0)));
        assert_eq!(run(&["END"], &["a E", "N"]), ("a EN".into(), None));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b", "x"]), ("a".into(), Some(0)));
        assert_eq!(run(&["。\n", "é"], &["好。", "x。", "\n"]), ("好。x".into(), Some(0)));
        assert_eq!(run(&["x"], &["abc", "x", "def", "g"]), ("abc".into(), Some(0)));
        assert_eq!(run(&[], &["a", "b"]), ("ab".into(), None));
        assert_eq!(run(&["", "b"], &["a", "b"]), ("a".into(), Some(1)));
    }

    #[test]
    fn the_first_whole_one_counts() {
        assert_eq!(run(&["abcX", "bc"], &["abcX"]), ("a".into(), Some(1)));
        assert_eq!(run(&["bc", "abc"], &["abc"]), ("".into(), Some(1)));
        assert_eq!(run(&["bc", "c", "b"], &["abc"]), ("a".into(), Some(2)));
    }

    #[test]
    fn only_what_may_be_a_stop_string_is_held() {
        let mut matcher = StopMatcher::new(["\n\nUser:", "\n\nBot:"]);
        assert_eq!(matcher.push("Hi\n").text, "Hi");
        assert_eq!(matcher.push("\n").text, "");
        assert_eq!(matcher.push("\n").text, "\n");
        assert_eq!(matcher.push("Use").text, "");
        assert_eq!(matcher.push("d").text, "\n\nUsed");
        assert_eq!(matcher.push("\n\nBot: x"), Passed { text: "", stop: Some(1) });
        assert_eq!(matcher.push("more"), Passed { text: "", stop: Some(1) });
        matcher.reset();
        assert_eq!(matcher.push("more"), Passed { text: "more", stop: None });
    }

    proptest! {
        /// However the text is cut, the result is that of a search in the whole text.
        #[test]
        fn pieces_do_not_matter(
            pieces in proptest::collection::vec("[abé]{0,4}", 0..12),
            stops in proptest::collection::vec("[abé]{1,4}", 0..4),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let whole = pieces.concat();
            let (text, found) = run(&stops, &pieces);
            let found_at = |stop: &&str| whole.find(stop).map(|at| (at + stop.len(), at));
            let first = stops.iter().filter_map(found_at).min();
            match first {
                Some((_, at)) => {
                    prop_assert_eq!(text, &whole[..at]);
                    prop_assert!(whole[at..].starts_with(stops[found.unwrap()]));
                }
                None => prop_assert_eq!((text, found), (whole, None)),
            }
        }
    }
}
