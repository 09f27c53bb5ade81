//! Text on a terminal: words wrap, some of it is dim, nothing of it commands the terminal.
//!
//! A word is written when it is whole, so that none is torn; where words stand without blanks
//! (Chinese, Japanese) a line may end behind any character. Columns are counted as terminals do:
//! two for wide characters, none for marks. Not here: what is written (`screen`). Test: below.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::failure::Result;
use crate::output;

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";
/// To the beginning of the line, and empties it.
const AGAIN: &str = "\r\x1b[K";

/// Columns between tabulator stops.
const TAB: usize = 8;

/// Standard output as a page.
pub(crate) struct Page {
    is_terminal: bool,
    has_styles: bool,
    layout: Layout,
}

impl Page {
    /// The terminal as it is now; where stdout is none, texts go out as they are.
    pub(crate) fn of_terminal() -> Page {
        let is_terminal = output::is_terminal() && !output::is_raw();
        let has_styles = is_terminal && output::has_styles();
        let width = output::width().filter(|_| is_terminal);
        Page { is_terminal, has_styles, layout: Layout { width, ..Layout::default() } }
    }

    /// Whether there is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Writes text, dim or not.
    pub(crate) fn put(&mut self, dim: bool, text: &str) -> Result {
        if !self.is_terminal {
            return output::generated(text.as_bytes());
        }
        let dim = dim && self.has_styles;
        let mut out = String::new();
        self.layout.put(dim, &output::shown(text), &mut out);
        output::verbatim(out.as_bytes())
    }

    /// Writes a word that the next [`Page::line`] replaces.
    pub(crate) fn hint(&mut self, text: &str) -> Result {
        if !self.has_styles {
            return Ok(());
        }
        let mut out = String::new();
        self.layout.end_word(&mut out);
        out += &[DIM, text, PLAIN].concat();
        output::verbatim(out.as_bytes())
    }

    /// Writes a dim line of its own.
    pub(crate) fn line(&mut self, text: &str) -> Result {
        self.layout.column = 0;
        let line = match self.has_styles {
            true => [AGAIN, DIM, text, PLAIN, "\n"].concat(),
            false => [text, "\n"].concat(),
        };
        output::verbatim(line.as_bytes())
    }

    /// Writes what is left of the last word.
    pub(crate) fn finish(&mut self) -> Result {
        let mut out = String::new();
        self.layout.end_word(&mut out);
        self.layout.set_dim(false, &mut out);
        if out.is_empty() { Ok(()) } else { output::verbatim(out.as_bytes()) }
    }
}

/// Writes a note whose words wrap where stderr is a terminal; lines behind the first step in.
pub(crate) fn note(text: &str) {
    let width = output::width().filter(|width| output::notes_are_seen() && *width > 2);
    let Some(width) = width else { return output::note(text) };
    let mut first = true;
    for line in lines(text, width) {
        let start = if std::mem::take(&mut first) { "" } else { "  " };
        output::note(&[start, &line].concat());
    }
}

/// A text on lines of so many columns, two less behind the first.
fn lines(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let room = width - if lines.len() > 1 { 2 } else { 0 };
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.width() + 1 + word.width() <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Where the next character goes.
#[derive(Default)]
struct Layout {
    /// Columns of a line; none where lines have no end.
    width: Option<usize>,
    /// Columns used of the line.
    column: usize,
    /// A word that may go on.
    word: String,
    is_dim: bool,
}

impl Layout {
    /// Adds text; `out` gets what can be written.
    fn put(&mut self, dim: bool, text: &str, out: &mut String) {
        if dim != self.is_dim {
            self.end_word(out);
            self.set_dim(dim, out);
        }
        let Some(width) = self.width else {
            out.push_str(text);
            return;
        };
        for c in text.chars() {
            match c {
                '\n' => {
                    self.end_word(out);
                    self.end_line(out);
                }
                ' ' | '\t' => {
                    self.end_word(out);
                    let columns = if c == '\t' { TAB - self.column % TAB } else { 1 };
                    if self.column + columns > width {
                        self.end_line(out);
                    } else {
                        self.column += columns;
                        out.push(c);
                    }
                }
                _ => {
                    let is_wide = c.width() == Some(2);
                    if is_wide && !self.word.ends_with('\u{200d}') {
                        self.end_word(out);
                    }
                    self.word.push(c);
                    if self.word.width() > width {
                        self.end_word(out);
                    }
                }
            }
        }
    }

    /// Writes the word, on a new line if this one has no room for it; one that no line holds is
    /// torn.
    fn end_word(&mut self, out: &mut String) {
        let word = std::mem::take(&mut self.word);
        let width = self.width.unwrap_or(usize::MAX);
        let columns = word.width();
        if self.column > 0 && columns <= width && self.column + columns > width {
            self.end_line(out);
        }
        if columns <= width - self.column.min(width) {
            out.push_str(&word);
            self.column += columns;
            return;
        }
        for c in word.chars() {
            let columns = c.width().unwrap_or(0);
            if self.column + columns > width {
                self.end_line(out);
            }
            out.push(c);
            self.column += columns;
        }
    }

    fn end_line(&mut self, out: &mut String) {
        out.push('\n');
        self.column = 0;
    }

    fn set_dim(&mut self, dim: bool, out: &mut String) {
        if dim != self.is_dim {
            self.is_dim = dim;
            out.push_str(if dim { DIM } else { PLAIN });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text on lines of so many columns, in pieces of `n` characters.
    fn wrapped(text: &str, width: usize, n: usize) -> String {
        let mut layout = Layout { width: Some(width), ..Layout::default() };
        let (mut out, chars) = (String::new(), text.chars().collect::<Vec<_>>());
        for piece in chars.chunks(n) {
            layout.put(false, &piece.iter().collect::<String>(), &mut out);
        }
        layout.end_word(&mut out);
        out
    }

    #[test]
    fn words_are_not_torn_and_no_line_is_too_long() {
        for n in [1, 2, 3, 100] {
            assert_eq!(wrapped("one two three", 7, n), "one two\nthree", "{n}");
            assert_eq!(wrapped("one two  three\n\nx", 7, n), "one two\n three\n\nx", "{n}");
            assert_eq!(wrapped("漢字かな交じり文", 5, n), "漢字\nかな\n交じ\nり文", "{n}");
            assert_eq!(wrapped("ab 漢字", 5, n), "ab 漢\n字", "{n}");
            assert_eq!(wrapped("e\u{301}e\u{301}e\u{301} x", 3, n), "e\u{301}e\u{301}e\u{301}\nx");
            assert_eq!(wrapped("abcdefgh", 3, n), "abc\ndef\ngh", "{n}");
            assert_eq!(wrapped("x abcdefgh", 3, n), "x a\nbcd\nefg\nh", "{n}");
            assert_eq!(wrapped("a\tb\tc", 10, n), "a\tb\nc", "{n}");
        }
        let text = "The quick brown 狐 jumps over the lazy 犬, again and again, and again.";
        for width in 4..40 {
            for line in wrapped(text, width, 3).lines() {
                assert!(line.width() <= width, "{width}: {line:?}");
            }
        }
    }

    #[test]
    fn notes_wrap_too() {
        assert_eq!(lines("one two three four", 9), ["one two", "three", "four"]);
        assert_eq!(lines("one two three four", 12), ["one two", "three four"]);
        assert_eq!(lines("", 9), [""]);
    }

    #[test]
    fn styles_are_put_around_words() {
        let (mut layout, mut out) = (Layout::default(), String::new());
        layout.width = Some(40);
        layout.put(true, "think", &mut out);
        layout.put(false, "say", &mut out);
        layout.end_word(&mut out);
        assert_eq!(out, "\x1b[2mthink\x1b[0msay");
    }
}
