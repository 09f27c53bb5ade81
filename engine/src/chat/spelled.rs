//! Special tokens that a message spells out: they are text, whatever the tokenizer would make of
//! them.
//!
//! A person, a web page or a tool's answer may contain `<|im_end|>`; read as the token, it would
//! end the turn and let the rest speak for somebody else. Each one gets a marker, a character that
//! no message has, behind its first character. Templates carry it along (they may trim, cut and
//! join); in the rendered text it says where spelled tokens stand, and is taken out. Not here: the
//! tokens (`tokenizer`). Test: `tests` beside this file.

use std::collections::HashSet;

use crate::tokenizer::Trie;

/// A character that stands in no message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Marker(char);

impl Marker {
    /// One that none of the texts has. There are more for private use than a message could have
    /// within the bounds of memory; where all are taken, the last one is used.
    pub(super) fn absent_from<'a>(texts: impl Iterator<Item = &'a str>) -> Marker {
        let private = '\u{f0000}'..='\u{ffffd}';
        let found: HashSet<char> =
            texts.flat_map(str::chars).filter(|c| private.contains(c)).collect();
        Marker(private.clone().find(|c| !found.contains(c)).unwrap_or('\u{ffffd}'))
    }
}

/// The names of special tokens.
#[derive(Debug)]
pub(super) struct Specials(Trie);

impl Specials {
    /// Those of a tokenizer. Tags around reasoning are left out: templates look for them in
    /// answers, and they speak for nobody.
    pub(super) fn new(specials: &[(u32, String)]) -> Specials {
        let names = specials.iter().map(|(id, name)| (name.as_bytes(), *id));
        let tags = [&b"<think>"[..], b"</think>"];
        Specials(Trie::new(names.filter(|(name, _)| !name.is_empty() && !tags.contains(name))))
    }

    /// The text with a marker in each special token that it spells out.
    pub(super) fn mark(&self, text: &str, marker: Marker) -> String {
        let mut marked = String::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            marked.push(c);
            if self.0.longest(&text.as_bytes()[at..]).is_some() {
                marked.push(marker.0);
            }
        }
        marked
    }
}

/// A conversation as one text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rendered {
    text: String,
    /// Where special tokens begin that are only spelled out, in ascending order.
    spelled: Vec<usize>,
}

impl Rendered {
    /// Takes the markers out.
    pub(super) fn new(marked: &str, marker: Marker) -> Rendered {
        let (mut text, mut spelled) = (String::with_capacity(marked.len()), Vec::new());
        for c in marked.chars() {
            if c == marker.0 {
                spelled.extend(text.char_indices().next_back().map(|(at, _)| at));
            } else {
                text.push(c);
            }
        }
        Rendered { text, spelled }
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text alone.
    pub fn into_text(self) -> String {
        self.text
    }

    /// Whether it goes on from the bytes `read`, in which special tokens are spelled out at
    /// `spelled`.
    pub fn goes_on_from(&self, read: &[u8], spelled: &[usize]) -> bool {
        self.text.as_bytes().starts_with(read)
            && self.text.is_char_boundary(read.len())
            && self.spelled_before(read.len()) == spelled
    }

    /// Where special tokens are spelled out before byte `end`.
    pub fn spelled_before(&self, end: usize) -> &[usize] {
        &self.spelled[..self.spelled.partition_point(|at| *at < end)]
    }

    /// The text from byte `from` on, and where in it special tokens are spelled out; nothing where
    /// no character begins there.
    pub(super) fn from(&self, from: usize) -> (&str, Vec<usize>) {
        let text = self.text.get(from..).unwrap_or_default();
        let spelled = self.spelled.iter().filter_map(|at| at.checked_sub(from)).collect();
        (text, spelled)
    }
}
