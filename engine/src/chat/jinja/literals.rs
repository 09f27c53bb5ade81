//! Numbers and quoted strings of the source.

use super::lexer::Kind;

/// The number that the text begins with, and its length.
pub(super) fn number(text: &str) -> Result<(Kind, usize), String> {
    for (start, radix) in [("0x", 16), ("0X", 16), ("0o", 8), ("0O", 8), ("0b", 2), ("0B", 2)] {
        if let Some(rest) = text.strip_prefix(start) {
            let digits = |c: char| c != '_' && !c.is_digit(radix);
            let len = rest.find(digits).unwrap_or(rest.len());
            let value = i64::from_str_radix(&rest[..len].replace('_', ""), radix);
            let value = value.map_err(|_| format!("the number {start}… is no 64-bit integer"))?;
            return Ok((Kind::Int(value), start.len() + len));
        }
    }
    let digits =
        |text: &str| text.find(|c: char| c != '_' && !c.is_ascii_digit()).unwrap_or(text.len());
    let starts_with_digit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let mut len = digits(text);
    let whole = len;
    if text[len..].strip_prefix('.').is_some_and(starts_with_digit) {
        len += 1 + digits(&text[len + 1..]);
    }
    if let Some(exponent) = text[len..].strip_prefix(['e', 'E']) {
        let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if starts_with_digit(unsigned) {
            len += 1 + (exponent.len() - unsigned.len()) + digits(unsigned);
        }
    }
    let plain = text[..len].replace('_', "");
    if len == whole {
        let value = plain.parse().map_err(|_| "an integer has more than 64 bits".to_owned())?;
        return Ok((Kind::Int(value), len));
    }
    let value = plain.parse().map_err(|_| format!("'{plain}' is no number"))?;
    Ok((Kind::Float(value), len))
}

/// The quoted string that the text begins with, its escapes resolved as Python does, and its
/// length.
pub(super) fn string(text: &str) -> Result<(String, usize), String> {
    let quote = text.chars().next().unwrap_or_default();
    let mut value = String::new();
    let mut rest = &text[quote.len_utf8()..];
    loop {
        let Some(c) = rest.chars().next() else {
            return Err("a string has no end".to_owned());
        };
        rest = &rest[c.len_utf8()..];
        if c == quote {
            return Ok((value, text.len() - rest.len()));
        }
        if c != '\\' {
            value.push(c);
            continue;
        }
        let Some(escape) = rest.chars().next() else {
            return Err("a string has no end".to_owned());
        };
        rest = &rest[escape.len_utf8()..];
        match escape {
            '\n' => {}
            '\\' | '\'' | '"' => value.push(escape),
            'a' => value.push('\u{7}'),
            'b' => value.push('\u{8}'),
            'f' => value.push('\u{c}'),
            'n' => value.push('\n'),
            'r' => value.push('\r'),
            't' => value.push('\t'),
            'v' => value.push('\u{b}'),
            'x' => value.push(character(code(&mut rest, 2, 16)?)),
            'u' => value.push(utf16(&mut rest)?),
            'U' => value.push(character(code(&mut rest, 8, 16)?)),
            '0'..='7' => {
                let more = rest.bytes().take(2).take_while(|b| (b'0'..=b'7').contains(b)).count();
                let first = escape.to_digit(8).unwrap_or_default();
                let mut octal = first;
                if more > 0 {
                    octal = (first << (3 * more)) | code(&mut rest, more, 8)?;
                }
                value.push(character(octal));
            }
            'N' => return Err("escapes by name (\\N{…}) are not known here".to_owned()),
            other => value.extend(['\\', other]),
        }
    }
}

/// A number of exactly `len` digits.
fn code(rest: &mut &str, len: usize, radix: u32) -> Result<u32, String> {
    let digits = rest.get(..len).filter(|digits| digits.chars().all(|c| c.is_digit(radix)));
    let value = digits.and_then(|digits| u32::from_str_radix(digits, radix).ok());
    let value = value.ok_or_else(|| "a string has a broken escape".to_owned())?;
    *rest = &rest[len..];
    Ok(value)
}

/// The four hexadecimal digits behind `\u`; two such escapes can be one character.
fn utf16(rest: &mut &str) -> Result<char, String> {
    let first = code(rest, 4, 16)?;
    if (0xd800..0xdc00).contains(&first)
        && let Some(mut after) = rest.strip_prefix("\\u")
    {
        let second = code(&mut after, 4, 16)?;
        if (0xdc00..0xe000).contains(&second) {
            *rest = after;
            let low = ((first - 0xd800) << 10) + (second - 0xdc00);
            return Ok(character(0x1_0000 + low));
        }
    }
    Ok(character(first))
}

/// Half a surrogate pair is no character here.
fn character(code: u32) -> char {
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}
