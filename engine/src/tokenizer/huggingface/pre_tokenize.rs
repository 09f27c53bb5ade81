//! How a `tokenizer.json` cuts a text into the pieces that the model takes one by one: its
//! pre-tokenizer.
//!
//! Read here: ByteLevel, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, Metaspace and
//! Sequence; others are refused by name. Not here: added tokens, which are cut out before
//! (`added.rs`). Source: `tokenizers`, `pre_tokenizers/`, `tokenizer/normalizer.rs` (what a split
//! does with the matches). Test: `oracle.rs`.

use std::ops::Range;

use serde_json::Value;

use super::normalize::{check_growth, is_between};
use super::pattern::{Pattern, is_punctuation as is_punctuation_now};
use super::pieces::BYTE_NAMES;

/// The pieces that ByteLevel cuts a text into: words, numbers, other signs, white space (GPT-2's
/// encoder.py).
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// One step of cutting.
#[derive(Debug)]
pub(super) enum Step {
    /// A space before each piece that does not begin with one.
    PrefixSpace,
    /// Cuts each piece at the matches of a pattern, or with `invert` at what lies between.
    Split { pattern: Pattern, behavior: Behavior, invert: bool },
    /// Another character for each space, and before the pieces that do not begin with it.
    Spaces { replacement: char, prepend: Prepend },
    /// Each byte's name in GPT-2's alphabet.
    ByteNames,
}

/// The fate of the matches of a split.
#[derive(Clone, Copy, Debug)]
pub(super) enum Behavior {
    Removed,
    Isolated,
    MergedWithPrevious,
    MergedWithNext,
    Contiguous,
}

/// Before which pieces a space's replacement is put.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Prepend {
    Always,
    /// Only at the start of the text.
    First,
    Never,
}

impl Prepend {
    /// The scheme of a Metaspace, pre-tokenizer or decoder.
    pub(super) fn from_json(json: &Value) -> Result<Self, String> {
        match (json["prepend_scheme"].as_str(), json["add_prefix_space"].as_bool()) {
            (Some("never"), _) | (None, Some(false)) => Ok(Prepend::Never),
            (Some("always") | None, Some(true) | None) => Ok(Prepend::Always),
            (Some("first"), Some(true) | None) => Ok(Prepend::First),
            _ => Err(format!("a Metaspace whose prefix is not clear: {json}")),
        }
    }
}

/// The steps of a pre-tokenizer, one after the other. `null`: none.
pub(super) fn read(json: &Value) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    if !json.is_null() {
        read_into(json, &mut steps)?;
    }
    Ok(steps)
}

fn read_into(json: &Value, steps: &mut Vec<Step>) -> Result<(), String> {
    let flag = |name: &str, default: Option<bool>| match &json[name] {
        Value::Null => default.ok_or_else(|| format!("pre-tokenizer without {name}: {json}")),
        value => value
            .as_bool()
            .ok_or_else(|| format!("pre-tokenizer with another {name} than true or false: {json}")),
    };
    let split = |pattern, behavior| Step::Split { pattern, behavior, invert: false };
    match json["type"].as_str() {
        Some("Sequence") => {
            let list =
                json["pretokenizers"].as_array().ok_or("a sequence without pre-tokenizers")?;
            list.iter().try_for_each(|json| read_into(json, steps))?;
        }
        Some("ByteLevel") => {
            if flag("add_prefix_space", None)? {
                steps.push(Step::PrefixSpace);
            }
            if flag("use_regex", Some(true))? {
                steps.push(split(Pattern::regex(GPT2)?, Behavior::Isolated));
            }
            steps.push(Step::ByteNames);
        }
        Some("Split") => steps.push(Step::Split {
            pattern: Pattern::from_json(&json["pattern"])?,
            behavior: Behavior::from_json(&json["behavior"])?,
            invert: flag("invert", None)?,
        }),
        Some("Digits") => {
            let single = flag("individual_digits", None)?;
            let behavior = if single { Behavior::Isolated } else { Behavior::Contiguous };
            steps.push(split(Pattern::Character(char::is_numeric), behavior));
        }
        Some("Punctuation") => {
            let behavior = match &json["behavior"] {
                Value::Null => Behavior::Isolated,
                behavior => Behavior::from_json(behavior)?,
            };
            steps.push(split(Pattern::Character(is_punctuation), behavior));
        }
        Some("Whitespace") => steps.push(Step::Split {
            pattern: Pattern::regex(r"\w+|[^\w\s]+")?,
            behavior: Behavior::Removed,
            invert: true,
        }),
        Some("WhitespaceSplit") => {
            steps.push(split(Pattern::Character(char::is_whitespace), Behavior::Removed));
        }
        Some("Metaspace") => {
            let replacement = json["replacement"].as_str().unwrap_or_default();
            let mut chars = replacement.chars();
            let (Some(c), None) = (chars.next(), chars.next()) else {
                return Err(format!("a Metaspace whose replacement is not one character: {json}"));
            };
            steps.push(Step::Spaces { replacement: c, prepend: Prepend::from_json(json)? });
            if flag("split", Some(true))? {
                steps.push(split(Pattern::Text(replacement.to_owned()), Behavior::MergedWithNext));
            }
        }
        Some(other) => return Err(format!("the pre-tokenizer {other} is not supported")),
        None => return Err(format!("expected a pre-tokenizer, found {json}")),
    }
    Ok(())
}

impl Behavior {
    fn from_json(json: &Value) -> Result<Self, String> {
        Ok(match json.as_str() {
            Some("Removed") => Behavior::Removed,
            Some("Isolated") => Behavior::Isolated,
            Some("MergedWithPrevious") => Behavior::MergedWithPrevious,
            Some("MergedWithNext") => Behavior::MergedWithNext,
            Some("Contiguous") => Behavior::Contiguous,
            _ => return Err(format!("expected what a split does with the matches, found {json}")),
        })
    }

    /// Appends to `pieces` what this makes of the parts of a piece, each a match or what lies
    /// between two.
    fn apply(self, parts: &[(Range<usize>, bool)], pieces: &mut Vec<Range<usize>>) {
        let mut last = None;
        for (i, (part, matches)) in parts.iter().enumerate() {
            let joins = match self {
                Behavior::Removed | Behavior::Isolated => false,
                Behavior::Contiguous => last == Some(*matches),
                Behavior::MergedWithPrevious => *matches && last == Some(false),
                // A match goes to the text behind it, of several matches the last one.
                Behavior::MergedWithNext => !*matches && last == Some(true),
            };
            match pieces.last_mut().filter(|_| joins && i > 0) {
                Some(piece) => piece.end = part.end,
                None if *matches && matches!(self, Behavior::Removed) => {}
                None => pieces.push(part.clone()),
            }
            last = Some(*matches);
        }
    }
}

/// A text, cut.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) text: String,
    /// Where the pieces are in it; none is empty.
    pub(super) pieces: Vec<Range<usize>>,
    /// Whether the first piece begins where the whole text did.
    from_start: bool,
}

impl Cut {
    /// The pieces of a text; `from_start`: nothing was before it.
    pub(super) fn new(steps: &[Step], text: &str, from_start: bool) -> Result<Self, String> {
        let mut cut = Cut { text: text.to_owned(), pieces: Vec::new(), from_start };
        if !text.is_empty() {
            cut.pieces.push(0..text.len());
        }
        for step in steps {
            step.apply(&mut cut)?;
            check_growth(cut.text.len(), text.len())?;
        }
        Ok(cut)
    }

    /// Writes each piece anew; `write` also learns whether it is the start of the text.
    fn rewrite(&mut self, mut write: impl FnMut(&mut String, &str, bool)) {
        let mut text = String::with_capacity(2 * self.text.len());
        self.from_start &= self.pieces.first().is_some_and(|piece| piece.start == 0);
        for (i, piece) in self.pieces.iter_mut().enumerate() {
            let start = text.len();
            write(&mut text, &self.text[piece.clone()], self.from_start && i == 0);
            *piece = start..text.len();
        }
        self.text = text;
    }
}

impl Step {
    fn apply(&self, cut: &mut Cut) -> Result<(), String> {
        match self {
            Step::PrefixSpace => cut.rewrite(|text, piece, _| {
                if !piece.starts_with(' ') {
                    text.push(' ');
                }
                text.push_str(piece);
            }),
            Step::Split { pattern, behavior, invert } => {
                let mut pieces = Vec::new();
                let mut parts = Vec::new();
                for piece in &cut.pieces {
                    parts.clear();
                    pattern.each_part(&cut.text[piece.clone()], |part, matches| {
                        parts.push((
                            piece.start + part.start..piece.start + part.end,
                            matches != *invert,
                        ));
                    })?;
                    behavior.apply(&parts, &mut pieces);
                }
                cut.pieces = pieces;
            }
            Step::Spaces { replacement, prepend } => cut.rewrite(|text, piece, first| {
                let begins = piece.starts_with([' ', *replacement]);
                if !begins && (*prepend == Prepend::Always || (*prepend == Prepend::First && first))
                {
                    text.push(*replacement);
                }
                text.extend(piece.chars().map(|c| if c == ' ' { *replacement } else { c }));
            }),
            Step::ByteNames => {
                cut.rewrite(|text, piece, _| {
                    text.extend(piece.bytes().map(|byte| BYTE_NAMES[usize::from(byte)]))
                });
            }
        }
        Ok(())
    }
}

/// Characters that became punctuation after Unicode 8, by which `tokenizers` goes here, or ceased
/// to be: where each run of them begins and where it ends, in turn.
const LATER_PUNCTUATION: [u32; 82] = [
    0x61d, 0x61e, 0x9fd, 0x9fe, 0xa76, 0xa77, 0xc77, 0xc78, 0xc84, 0xc85, 0x166d, 0x166e, 0x1b4e,
    0x1b50, 0x1b7d, 0x1b80, 0x2e43, 0x2e50, 0x2e52, 0x2e5e, 0x10d6e, 0x10d6f, 0x10ead, 0x10eae,
    0x10f55, 0x10f5a, 0x10f86, 0x10f8a, 0x111c9, 0x111ca, 0x113d4, 0x113d6, 0x113d7, 0x113d9,
    0x1144b, 0x11450, 0x1145a, 0x1145c, 0x1145d, 0x1145e, 0x11660, 0x1166d, 0x116b9, 0x116ba,
    0x1183b, 0x1183c, 0x11944, 0x11947, 0x119e2, 0x119e3, 0x11a3f, 0x11a47, 0x11a9a, 0x11a9d,
    0x11a9e, 0x11aa3, 0x11b00, 0x11b0a, 0x11be1, 0x11be2, 0x11c41, 0x11c46, 0x11c70, 0x11c72,
    0x11ef7, 0x11ef9, 0x11f43, 0x11f50, 0x11fff, 0x12000, 0x12ff1, 0x12ff3, 0x16d6d, 0x16d70,
    0x16e97, 0x16e9b, 0x16fe2, 0x16fe3, 0x1e5ff, 0x1e600, 0x1e95e, 0x1e960,
];

/// Punctuation of Unicode and of ASCII.
fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || (is_punctuation_now(c) != is_between(&LATER_PUNCTUATION, c))
}
