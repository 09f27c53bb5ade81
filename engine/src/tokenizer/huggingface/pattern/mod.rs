//! Patterns that a `tokenizer.json` looks for in texts, to cut there or to replace them: a text, a
//! regular expression, characters.
//!
//! `parse.rs` reads regular expressions, `program.rs` runs them, `set.rs` has the sets of
//! characters. Written for the few expressions that tokenizers have, because a general engine is
//! larger than all the rest of the library. Source of their meaning: `tokenizers`,
//! `tokenizer/pattern.rs`. Test: `../oracle.rs`, against that crate.

mod parse;
mod program;
mod set;

use std::ops::Range;

use serde_json::Value;

use self::program::Program;
pub(super) use self::set::{is_punctuation, is_word};

/// A pattern. No match is empty.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    Text(String),
    Regex(Program),
    /// Each character of a kind is a match by itself.
    Character(fn(char) -> bool),
}

impl Pattern {
    /// A regular expression.
    pub(super) fn regex(expression: &str) -> Result<Self, String> {
        parse::parse(expression).map(Pattern::Regex)
    }

    /// `{"String": …}` or `{"Regex": …}`.
    pub(super) fn from_json(json: &Value) -> Result<Self, String> {
        match (json["String"].as_str(), json["Regex"].as_str()) {
            (Some(""), None) => Err("a pattern that is the empty text".to_owned()),
            (Some(text), None) => Ok(Pattern::Text(text.to_owned())),
            (None, Some(expression)) => Self::regex(expression),
            _ => Err(format!("expected a pattern, found {json}")),
        }
    }

    /// Calls `part` with the parts of `text` in order, whether each is a match or lies between two.
    pub(super) fn each_part(
        &self,
        text: &str,
        mut part: impl FnMut(Range<usize>, bool),
    ) -> Result<(), String> {
        let mut end = 0;
        let mut found = |range: Range<usize>| {
            if end < range.start {
                part(end..range.start, false);
            }
            end = range.end;
            part(range, true);
        };
        match self {
            Pattern::Text(pattern) => {
                text.match_indices(pattern).for_each(|(at, _)| found(at..at + pattern.len()));
            }
            Pattern::Regex(program) => program.each_match(text, found)?,
            Pattern::Character(is) => text
                .char_indices()
                .filter(|(_, c)| is(*c))
                .for_each(|(at, c)| found(at..at + c.len_utf8())),
        }
        if end < text.len() {
            part(end..text.len(), false);
        }
        Ok(())
    }
}
