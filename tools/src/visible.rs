//! Characters that a terminal obeys, or that nobody sees, made visible.
//!
//! A file's metadata, a name or a model's text could move the cursor, change the title, or read in
//! another order than it is stored. Here ESC becomes `\x1b` and U+202E `\u{202e}`. Characters that
//! writing needs stay: joiners within emoji and scripts, variation selectors, the zero-width space
//! between words. Not here: when this is done (`output`). Test: below.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character is written as an escape.
fn hidden(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        // The soft hyphen, Arabic's mark of direction, Mongolian's separator of vowels.
        '\u{ad}' | '\u{61c}' | '\u{180e}' => true,
        // Marks of direction; line and paragraph separators, embeddings and overrides.
        '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' => true,
        // Invisible operators, isolates, and the six that are deprecated.
        '\u{2060}'..='\u{206f}' => true,
        // The byte order mark, annotations, tags.
        '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => true,
        // C0, DEL and C1.
        _ => c.is_control(),
    }
}

/// Writes the escape of a character.
fn escape(c: char, out: &mut String) {
    let code = u32::from(c);
    let _ =
        if code < 0x100 { write!(out, "\\x{code:02x}") } else { write!(out, "\\u{{{code:x}}}") };
}

/// Replaces the characters that `is` names.
fn replaced<'t>(
    text: &'t str,
    is: impl Fn(char) -> bool,
    mut write: impl FnMut(char, &mut String),
) -> Cow<'t, str> {
    let Some(first) = text.find(&is) else { return Cow::Borrowed(text) };
    let mut shown = text[..first].to_owned();
    for c in text[first..].chars() {
        if is(c) { write(c, &mut shown) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

/// The text with escapes; its lines and tabs stay.
pub(crate) fn text(text: &str) -> Cow<'_, str> {
    replaced(text, hidden, escape)
}

/// The text with escapes, all on one line.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    let hidden = |c| matches!(c, '\n' | '\t') || hidden(c);
    replaced(text, hidden, |c, out| match c {
        '\n' => out.push_str("\\n"),
        '\t' => out.push_str("\\t"),
        _ => escape(c, out),
    })
}

/// Bytes with escapes, also of those that are not UTF-8.
pub(crate) fn bytes(bytes: &[u8]) -> Cow<'_, [u8]> {
    if let Ok(valid) = std::str::from_utf8(bytes) {
        return match text(valid) {
            Cow::Borrowed(_) => Cow::Borrowed(bytes),
            Cow::Owned(shown) => Cow::Owned(shown.into_bytes()),
        };
    }
    let mut shown = String::new();
    for chunk in bytes.utf8_chunks() {
        shown += &text(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    Cow::Owned(shown.into_bytes())
}

/// JSON text with JSON's escapes for what its writer left as it was. Such characters only stand
/// within strings.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    replaced(text, hidden, |c, out| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_shown() {
        assert_eq!(text("a\u{1b}[31m\u{7}\r\0\u{7f}\u{9b}"), "a\\x1b[31m\\x07\\x0d\\x00\\x7f\\x9b");
        assert_eq!(text("\u{202e}\u{2066}\u{200f}"), "\\u{202e}\\u{2066}\\u{200f}");
        assert_eq!(text("\u{2028}\u{feff}\u{e0041}\u{ad}"), "\\u{2028}\\u{feff}\\u{e0041}\\xad");
        assert_eq!(line("a\n\tb"), "a\\n\\tb");
        assert_eq!(bytes(b"a\x9b\xe2\x80 \x1b\xc2\x9b"), &b"a\\x9b\\xe2\\x80 \\x1b\\x9b"[..]);
        assert_eq!(json("\"\u{202e}\u{7f}\u{e0041}\"\n"), "\"\\u202e\\u007f\\udb40\\udc41\"\n");
    }

    #[test]
    fn what_is_written_stays() {
        for kept in [
            "two\nlines\tand a tab",
            "👩‍👩‍👧 ❤\u{fe0f} 🇩🇪 👍🏽 葛\u{e0100}",
            "می\u{200c}خواهم क्\u{200d}ष ភាសា\u{200b}ខ្មែរ",
            "שלום עולם é e\u{301}",
        ] {
            assert!(matches!(text(kept), Cow::Borrowed(same) if same == kept), "{kept}");
            assert!(matches!(bytes(kept.as_bytes()), Cow::Borrowed(_)), "{kept}");
            assert!(matches!(json(kept), Cow::Borrowed(_)), "{kept}");
        }
    }
}
