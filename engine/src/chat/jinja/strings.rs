//! Methods of Python's strings that Rust's do not have: lines, cases, classes of characters.

use super::print;

/// The lines of a text as Python tells them, and whether each was ended.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let feeds = |c: char| {
            matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}')
                || matches!(c, '\u{2028}' | '\u{2029}')
        };
        let Some(at) = rest.find(feeds) else {
            return Some((std::mem::take(&mut rest), false));
        };
        let line = &rest[..at];
        rest = &rest[at + end_of_line(&rest[at..])..];
        Some((line, true))
    })
}

/// Length of the line end that the text begins with.
pub(super) fn end_of_line(text: &str) -> usize {
    if text.starts_with("\r\n") { 2 } else { text.chars().next().map_or(0, char::len_utf8) }
}

/// The first character in upper case, the others in lower.
pub(super) fn title_word(word: &str) -> String {
    let mut chars = word.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().collect::<String>() + &chars.as_str().to_lowercase(),
        None => String::new(),
    }
}

/// `str.title`: each run of letters begins with a capital.
pub(super) fn title(text: &str) -> String {
    let mut inside = false;
    let mut titled = String::with_capacity(text.len());
    for c in text.chars() {
        if inside {
            titled.extend(c.to_lowercase());
        } else {
            titled.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    titled
}

/// Upper and lower case exchanged.
pub(super) fn swapped(text: &str) -> String {
    let mut swapped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_uppercase() {
            swapped.extend(c.to_lowercase());
        } else {
            swapped.extend(c.to_uppercase());
        }
    }
    swapped
}

/// `isalpha` and the like.
pub(super) fn is(text: &str, name: &str) -> bool {
    let all = |holds: fn(char) -> bool| !text.is_empty() && text.chars().all(holds);
    let cased = |wrong: fn(char) -> bool| {
        text.chars().any(|c| c.is_lowercase() || c.is_uppercase()) && !text.chars().any(wrong)
    };
    match name {
        "isalnum" => all(char::is_alphanumeric),
        "isalpha" => all(char::is_alphabetic),
        "isascii" => text.is_ascii(),
        "isdecimal" | "isdigit" | "isnumeric" => all(char::is_numeric),
        "isspace" => all(char::is_whitespace),
        "islower" => cased(char::is_uppercase),
        "isupper" => cased(char::is_lowercase),
        "istitle" => cased(|_| false) && title(text) == text,
        "isprintable" => text.chars().all(print::printable),
        _ => {
            text.starts_with(|c: char| c == '_' || c.is_alphabetic())
                && text.chars().all(|c| c == '_' || c.is_alphanumeric())
        }
    }
}
