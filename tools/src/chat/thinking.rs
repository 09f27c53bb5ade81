//! Tells a model's reasoning, between `<think>` and `</think>`, from what it says.
//!
//! Pieces come as they are written, a tag may lie in several. Not here: how either is shown
//! (`screen`). Test: below.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Cuts a text where reasoning begins and ends.
pub(crate) struct Thinking {
    /// Whether the text is inside reasoning.
    inside: bool,
    /// What may be the beginning of a tag.
    held: String,
}

impl Thinking {
    /// A text that begins inside reasoning, or outside.
    pub(crate) fn new(inside: bool) -> Thinking {
        Thinking { inside, held: String::new() }
    }

    /// Whether the text is inside reasoning now.
    pub(crate) fn is_inside(&self) -> bool {
        self.inside
    }

    /// Takes a piece; gives parts of the text, with whether they are reasoning. Tags are part of
    /// it.
    pub(crate) fn push(&mut self, piece: &str) -> Vec<(bool, String)> {
        self.held.push_str(piece);
        let text = std::mem::take(&mut self.held);
        let (mut rest, mut parts) = (text.as_str(), Vec::new());
        while let Some(at) = rest.find(self.tag()) {
            // The tag that closes goes with what it closes, the one that opens with what it opens.
            let end = at + if self.inside { CLOSE.len() } else { 0 };
            parts.push((self.inside, rest[..end].to_owned()));
            rest = &rest[end..];
            if !self.inside {
                parts.push((true, OPEN.to_owned()));
                rest = &rest[OPEN.len()..];
            }
            self.inside = !self.inside;
        }
        let tag = self.tag();
        let begun = (1..tag.len()).rev().find(|&n| rest.ends_with(&tag[..n])).unwrap_or(0);
        let (sure, held) = rest.split_at(rest.len() - begun);
        parts.push((self.inside, sure.to_owned()));
        self.held.push_str(held);
        parts.retain(|(_, text)| !text.is_empty());
        parts
    }

    /// The part that was held back, at the end of the text.
    pub(crate) fn finish(&mut self) -> (bool, String) {
        (self.inside, std::mem::take(&mut self.held))
    }

    /// The tag that is looked for.
    fn tag(&self) -> &'static str {
        if self.inside { CLOSE } else { OPEN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a text that comes in pieces of `n` characters, neighbours joined.
    fn parts(text: &str, n: usize, inside: bool) -> Vec<(bool, String)> {
        let mut thinking = Thinking::new(inside);
        let chars: Vec<char> = text.chars().collect();
        let pieces = chars.chunks(n).map(|piece| piece.iter().collect::<String>());
        let mut found: Vec<_> = pieces.flat_map(|piece| thinking.push(&piece)).collect();
        found.push(thinking.finish());
        let mut joined = Vec::<(bool, String)>::new();
        for (is_thought, text) in found.into_iter().filter(|(_, text)| !text.is_empty()) {
            match joined.last_mut() {
                Some((last, whole)) if *last == is_thought => whole.push_str(&text),
                _ => joined.push((is_thought, text)),
            }
        }
        joined
    }

    #[test]
    fn tags_are_found_however_they_come() {
        let own = |parts: &[(bool, &str)]| -> Vec<(bool, String)> {
            parts.iter().map(|(is_thought, text)| (*is_thought, (*text).to_owned())).collect()
        };
        for n in 1..12 {
            let text = "a<b<think>c</thin</think>d<think";
            let cut = [(false, "a<b"), (true, "<think>c</thin</think>"), (false, "d<think")];
            assert_eq!(parts(text, n, false), own(&cut), "{n}");
            let cut = [(true, "so</think>"), (false, "é"), (true, "<think>")];
            assert_eq!(parts("so</think>é<think>", n, true), own(&cut), "{n}");
        }
        assert_eq!(parts("", 1, true), own(&[]));
    }
}
