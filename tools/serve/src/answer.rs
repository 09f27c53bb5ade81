//! Reasoning and calls of tools are told from an answer's words, as the answer is written.
//!
//! Reasoning stands between `<think>` and `</think>`; a call is JSON between `<tool_call>` and
//! `</tool_call>`, as Hermes and Qwen write it. Tags come in pieces, too. A call that is no JSON
//! stays text. Test: below.

use serde_json::{Value, json};

const TAGS: [(&str, Kind); 2] = [("<think>", Kind::Reasoning), ("<tool_call>", Kind::Call)];

/// What a part of an answer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Words,
    Reasoning,
    Call,
}

impl Kind {
    fn close(self) -> &'static str {
        match self {
            Kind::Words => "",
            Kind::Reasoning => "</think>",
            Kind::Call => "</tool_call>",
        }
    }
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Part {
    Words(String),
    Reasoning(String),
    /// The name of a tool, and its arguments as JSON.
    Call {
        name: String,
        arguments: String,
    },
}

/// Cuts an answer into parts. By default one of words alone.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    kind: Kind,
    /// What may be the beginning of a tag, or a call that is not whole.
    held: String,
    /// Whether calls are looked for.
    calls: bool,
    /// Whether nothing but blanks has come of the words or the reasoning since a tag.
    is_fresh: bool,
    /// Whether there was a call.
    pub(crate) has_called: bool,
}

impl Answer {
    /// An answer that begins within reasoning or not, and may have calls or not.
    pub(crate) fn new(thinks: bool, calls: bool) -> Answer {
        let kind = if thinks { Kind::Reasoning } else { Kind::Words };
        Answer { kind, held: String::new(), calls, is_fresh: thinks, has_called: false }
    }

    /// Takes a piece, and gives what is certain.
    pub(crate) fn push(&mut self, piece: &str) -> Vec<Part> {
        self.held.push_str(piece);
        let text = std::mem::take(&mut self.held);
        let (mut rest, mut parts) = (text.as_str(), Vec::new());
        while let Some((at, tag, next)) = self.next_tag(rest) {
            self.give(&rest[..at], true, &mut parts);
            rest = &rest[at + tag.len()..];
            (self.kind, self.is_fresh) = (next, true);
        }
        let held = self.open(rest);
        let (sure, held) = rest.split_at(rest.len() - held);
        self.give(sure, false, &mut parts);
        self.held.push_str(held);
        parts
    }

    /// Gives the rest.
    pub(crate) fn finish(&mut self) -> Vec<Part> {
        let rest = std::mem::take(&mut self.held);
        let mut parts = Vec::new();
        if self.kind == Kind::Call {
            // Broken off: its words are all there is.
            self.kind = Kind::Words;
            parts.push(Part::Words(format!("<tool_call>{rest}")));
        } else {
            self.give(&rest, false, &mut parts);
        }
        parts
    }

    /// The first tag that counts here: where, which, and what is behind it.
    fn next_tag(&self, text: &str) -> Option<(usize, &'static str, Kind)> {
        if self.kind != Kind::Words {
            let tag = self.kind.close();
            return text.find(tag).map(|at| (at, tag, Kind::Words));
        }
        let tags = self.tags();
        tags.filter_map(|(tag, kind)| Some((text.find(tag)?, tag, kind))).min_by_key(|tag| tag.0)
    }

    /// The tags that open something.
    fn tags(&self) -> impl Iterator<Item = (&'static str, Kind)> {
        let calls = self.calls;
        TAGS.into_iter().filter(move |(_, kind)| calls || *kind != Kind::Call)
    }

    /// How many bytes at the end may belong to a tag; all, within a call.
    fn open(&self, text: &str) -> usize {
        let open = |tag: &str| {
            (1..tag.len()).rev().find(|&n| text.ends_with(&tag[..n])).unwrap_or_default()
        };
        match self.kind {
            Kind::Call => text.len(),
            Kind::Reasoning => open(self.kind.close()),
            Kind::Words => self.tags().map(|(tag, _)| open(tag)).max().unwrap_or_default(),
        }
    }

    fn give(&mut self, text: &str, is_whole: bool, parts: &mut Vec<Part>) {
        // Line feeds around what tags enclose belong to the tags.
        let text = match self.is_fresh && self.kind != Kind::Call {
            true => text.trim_start_matches(['\n', '\r']),
            false => text,
        };
        if text.is_empty() {
            return;
        }
        self.is_fresh = false;
        parts.push(match self.kind {
            Kind::Words => Part::Words(text.to_owned()),
            Kind::Reasoning => Part::Reasoning(text.to_owned()),
            Kind::Call if is_whole => self.call(text),
            Kind::Call => return,
        });
    }

    /// A call, if it is one.
    fn call(&mut self, text: &str) -> Part {
        let parsed = serde_json::from_str::<Value>(text.trim()).ok();
        let name = parsed.as_ref().and_then(|call| call["name"].as_str());
        match (name, &parsed) {
            (Some(name), Some(call)) => {
                let arguments = match &call["arguments"] {
                    Value::Null => json!({}).to_string(),
                    Value::String(arguments) => arguments.clone(),
                    arguments => arguments.to_string(),
                };
                self.has_called = true;
                Part::Call { name: name.to_owned(), arguments }
            }
            _ => Part::Words(format!("<tool_call>{text}</tool_call>")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All parts of an answer that comes in pieces of `n` characters, neighbours joined.
    fn parts(text: &str, n: usize, thinks: bool) -> Vec<Part> {
        let mut answer = Answer::new(thinks, true);
        let chars: Vec<char> = text.chars().collect();
        let pieces = chars.chunks(n).map(|piece| piece.iter().collect::<String>());
        let mut found: Vec<Part> = pieces.flat_map(|piece| answer.push(&piece)).collect();
        found.extend(answer.finish());
        found.into_iter().fold(Vec::new(), |mut all, part| {
            match (all.last_mut(), part) {
                (Some(Part::Words(all)), Part::Words(more)) => all.push_str(&more),
                (Some(Part::Reasoning(all)), Part::Reasoning(more)) => all.push_str(&more),
                (_, part) => all.push(part),
            }
            all
        })
    }

    #[test]
    fn parts_are_found_however_they_come() {
        let words = |text: &str| Part::Words(text.to_owned());
        let reasoning = |text: &str| Part::Reasoning(text.to_owned());
        let call = |name: &str, arguments: &str| Part::Call {
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        };
        for n in 1..30 {
            let text = "<think>\nwell <t</think>\n\na < b<tool_call>\n{\"name\": \"f\", \
                        \"arguments\": {\"x\": 1}}\n</tool_call><tool_call>{no</tool_call>c<think";
            let expected = [
                reasoning("well <t"),
                words("a < b"),
                call("f", "{\"x\":1}"),
                words("<tool_call>{no</tool_call>c<think"),
            ];
            assert_eq!(parts(text, n, false), expected, "{n}");
            assert_eq!(parts("so</think>é", n, true), [reasoning("so"), words("é")], "{n}");
            let broken = "x<tool_call>{\"name\"";
            assert_eq!(parts(broken, n, false), [words(broken)], "{n}");
        }
        let mut plain = Answer::new(false, false);
        assert_eq!(plain.push("<tool_call>1"), [words("<tool_call>1")]);
    }
}
