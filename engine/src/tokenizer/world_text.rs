//! The text form of a World vocabulary: one token per line, `ID LITERAL LENGTH`.
//!
//! The literal is a Python `str` ('..' or "..") or `bytes` (b'..' or b"..") and may itself hold
//! spaces, so a line is split at its first and its last space; the length counts bytes and is
//! checked. Line ends are LF or CRLF. Source: the reference reader (`eval` in BlinkDL's
//! `rwkv_tokenizer.py`) and Python's lexical rules for escapes,
//! <https://docs.python.org/3/reference/lexical_analysis.html#escape-sequences>. Nothing is
//! evaluated here.

use super::world::MAX_VOCAB;
use crate::error::{EngineError, Result};

/// Reads the text; the tokens come back in the order of their ids, each id once.
pub(super) fn parse(text: &[u8]) -> Result<Vec<(u32, Vec<u8>)>> {
    let mut tokens = Vec::new();
    for (line, number) in text.split(|&byte| byte == b'\n').zip(1..) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !line.is_empty() {
            tokens.push(parse_line(line).map_err(|expected| bad(number, expected, line))?);
        }
    }
    if tokens.is_empty() {
        return Err(bad(1, "`ID LITERAL LENGTH`", b"no token at all"));
    }
    // The file is sorted; another order would do as well.
    tokens.sort_by_key(|(id, _)| *id);
    match tokens.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(EngineError::WorldVocabulary {
            place: "the text".to_owned(),
            expected: "each id once",
            found: format!("id {} twice", pair[0].0),
        }),
        None => Ok(tokens),
    }
}

/// `Err` says what was expected.
fn parse_line(line: &[u8]) -> Result<(u32, Vec<u8>), &'static str> {
    let shape = "`ID LITERAL LENGTH`";
    let line = std::str::from_utf8(line).map_err(|_| "UTF-8")?;
    let (id, rest) = line.split_once(' ').ok_or(shape)?;
    let (literal, length) = rest.rsplit_once(' ').ok_or(shape)?;
    let id =
        id.parse::<u32>().ok().filter(|id| (*id as usize) < MAX_VOCAB).ok_or("an id below 2^24")?;
    let length: usize = length.parse().map_err(|_| "a length in bytes")?;
    let bytes = parse_literal(literal.trim())?;
    if bytes.is_empty() {
        return Err("a token of at least one byte");
    }
    if bytes.len() != length {
        return Err("a length that is the token's");
    }
    Ok((id, bytes))
}

/// The bytes of a Python `str` (as UTF-8) or `bytes` literal.
fn parse_literal(literal: &str) -> Result<Vec<u8>, &'static str> {
    let (is_bytes, quoted) = match literal.strip_prefix('b') {
        Some(rest) => (true, rest),
        None => (false, literal),
    };
    let quote =
        quoted.chars().next().filter(|c| matches!(c, '\'' | '"')).ok_or("a quoted literal")?;
    let body = quoted[1..].strip_suffix(quote).ok_or("a literal that ends with its quote")?;
    let mut bytes = Vec::with_capacity(body.len());
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' => match parse_escape(&mut chars, is_bytes)? {
                Escape::Char(c) => c,
                Escape::Text(text) => {
                    bytes.extend(text.bytes());
                    continue;
                }
            },
            c if c == quote => return Err("quotes inside a literal escaped"),
            c if is_bytes && !c.is_ascii() => {
                return Err("only ASCII and escapes in a bytes literal");
            }
            c => c,
        };
        if !is_bytes {
            bytes.extend(c.encode_utf8(&mut [0; 4]).bytes());
        } else {
            bytes.push(
                u8::try_from(u32::from(c))
                    .map_err(|_| "escapes of single bytes in a bytes literal")?,
            );
        }
    }
    Ok(bytes)
}

enum Escape {
    /// In a bytes literal the character's number is the byte.
    Char(char),
    /// An escape that Python does not know stands for itself, backslash included.
    Text(String),
}

/// Reads what follows a backslash. The iterator stands behind the escape afterwards.
fn parse_escape(chars: &mut std::str::Chars<'_>, is_bytes: bool) -> Result<Escape, &'static str> {
    let hex = |chars: &mut std::str::Chars<'_>, digits: usize| {
        let text =
            chars.as_str().get(..digits).filter(|t| t.bytes().all(|b| b.is_ascii_hexdigit()));
        let value = text.and_then(|t| u32::from_str_radix(t, 16).ok()).and_then(char::from_u32);
        *chars = chars.as_str().get(digits..).unwrap_or("").chars();
        value.map(Escape::Char).ok_or("hexadecimal digits of a character after the escape")
    };
    let c = chars.next().ok_or("a character after the backslash")?;
    Ok(Escape::Char(match c {
        '\\' | '\'' | '"' => c,
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        'x' => return hex(chars, 2),
        'u' if !is_bytes => return hex(chars, 4),
        'U' if !is_bytes => return hex(chars, 8),
        'N' if !is_bytes => return Err("no \\N{...} escape"),
        '0'..='7' => {
            let mut value = c as u32 - '0' as u32;
            for _ in 0..2 {
                let Some(digit) = chars.as_str().chars().next().and_then(|c| c.to_digit(8)) else {
                    break;
                };
                value = value * 8 + digit;
                chars.next();
            }
            char::from_u32(value).ok_or("an octal escape of a character")?
        }
        other => return Ok(Escape::Text(format!("\\{other}"))),
    }))
}

fn bad(line: usize, expected: &'static str, found: &[u8]) -> EngineError {
    let mut found = String::from_utf8_lossy(found).into_owned();
    if let Some((end, _)) = found.char_indices().nth(80) {
        found.truncate(end);
        found.push('…');
    }
    EngineError::WorldVocabulary {
        place: format!("line {line}"),
        expected,
        found: format!("{found:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_read_as_python_does() {
        let cases: [(&str, &[u8]); 14] = [
            ("' '", b" "),
            ("\"'\"", b"'"),
            (r"'\''", b"'"),
            (r"'\n\t\r\\'", b"\n\t\r\\"),
            (r"'\xe9'", "é".as_bytes()),
            (r"b'\xe9'", b"\xe9"),
            (r"'\u2028x'", "\u{2028}x".as_bytes()),
            (r"'\U0001f600'", "😀".as_bytes()),
            (r"'\0\12\1234'", b"\0\nS4"),
            (r"'\d'", br"\d"),
            (r"b'\u12'", br"\u12"),
            ("'é'", "é".as_bytes()),
            ("'b'", b"b"),
            ("b\"a b\"", b"a b"),
        ];
        for (literal, bytes) in cases {
            assert_eq!(parse_literal(literal).as_deref(), Ok(bytes), "{literal}");
        }
    }

    #[test]
    fn bad_lines_are_refused() {
        let lines = [
            "1",
            "1 'a'",
            "x 'a' 1",
            "-1 'a' 1",
            "16777216 'a' 1",
            "1 'a' 2",
            "1 '' 0",
            "1 'a 1",
            "1 a 1",
            "1 b'é' 2",
            r"1 '\x' 1",
            r"1 '\xg0' 1",
            r"1 '\ud800' 3",
            r"1 '\' 1",
            r"1 '\N{DASH}' 1",
            "1 ''' 1",
            "1 'é' x",
            "1 ' 1",
        ];
        for line in lines {
            let error = parse(format!("0 'z' 1\n{line}\n").as_bytes()).unwrap_err();
            assert!(error.to_string().contains("line 2"), "{line}: {error}");
        }
        assert!(parse(b"1 'a' 1\n1 'b' 1\n").unwrap_err().to_string().contains("id 1 twice"));
        assert!(parse(b"1 '\xff' 1\n").is_err());
        assert!(parse(b"\r\n\n").is_err());
        assert_eq!(
            parse(b"2 ' b' 2\r\n1 'a' 1").unwrap(),
            [(1, b"a".to_vec()), (2, b" b".to_vec())]
        );
    }
}
