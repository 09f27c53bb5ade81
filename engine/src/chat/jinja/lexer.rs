//! Source text to tokens, white space as `trim_blocks` and `lstrip_blocks` have it.
//!
//! The rules are Jinja2's: one line feed behind a block or a comment goes, and so does the white
//! space before one that begins its line; `-` takes all white space, `+` keeps it. Test: `cases`.

use std::sync::Arc;

use super::literals;
use super::{Error, MAX_SOURCE};

/// A piece of source.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// Text between tags.
    Text(String),
    BlockBegin,
    BlockEnd,
    PrintBegin,
    PrintEnd,
    Name(Arc<str>),
    String(String),
    Int(i64),
    Float(f64),
    Sign(&'static str),
    /// The end of the source.
    End,
}

/// A token and its line.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) line: u32,
}

/// Longest first.
const SIGNS: [&str; 28] = [
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";", "!", "@",
];

/// All tokens of a template.
pub(super) fn tokens(source: &str) -> Result<Vec<Token>, Error> {
    if source.len() > MAX_SOURCE {
        return Err(Error::at(1, format!("it is longer than {} KB", MAX_SOURCE >> 10)));
    }
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { rest: source, line: 1, line_start: true, tokens: Vec::new() };
    lexer.template()?;
    lexer.push(Kind::End);
    Ok(lexer.tokens)
}

struct Lexer<'s> {
    rest: &'s str,
    line: u32,
    /// Whether what comes next begins a line.
    line_start: bool,
    tokens: Vec<Token>,
}

impl<'s> Lexer<'s> {
    fn push(&mut self, kind: Kind) {
        self.tokens.push(Token { kind, line: self.line });
    }

    fn error<T>(&self, what: impl Into<String>) -> Result<T, Error> {
        Err(Error::at(self.line, what))
    }

    /// Takes `n` bytes.
    fn take(&mut self, n: usize) -> &'s str {
        let (taken, rest) = self.rest.split_at(n);
        self.line += taken.bytes().filter(|b| *b == b'\n').count() as u32;
        if !taken.is_empty() {
            self.line_start = taken.ends_with('\n');
        }
        self.rest = rest;
        taken
    }

    /// Takes `start` if it comes next.
    fn accept(&mut self, start: &str) -> bool {
        let found = self.rest.starts_with(start);
        if found {
            self.take(start.len());
        }
        found
    }

    fn take_blanks(&mut self) {
        let blanks = self.rest.len() - self.rest.trim_start().len();
        self.take(blanks);
    }

    fn template(&mut self) -> Result<(), Error> {
        loop {
            let tag = (self.rest.match_indices('{'))
                .map(|(at, _)| at)
                .find(|at| matches!(self.rest.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#')));
            let Some(at) = tag else {
                let text = self.take(self.rest.len());
                self.text(text);
                return Ok(());
            };
            self.before_tag(at, self.rest.as_bytes()[at + 1] != b'{');
            let begin = self.take(2);
            if !self.accept("-") {
                self.accept("+");
            }
            match begin {
                "{#" => self.comment()?,
                "{{" => {
                    self.push(Kind::PrintBegin);
                    self.tag(Kind::PrintEnd, "}}")?;
                }
                _ => match self.raw_tag("raw") {
                    Some(len) => self.raw(len)?,
                    None => {
                        self.push(Kind::BlockBegin);
                        self.tag(Kind::BlockEnd, "%}")?;
                    }
                },
            }
        }
    }

    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.push(Kind::Text(text.to_owned()));
        }
    }

    /// The text up to a tag at `at`, less the white space that the tag takes away.
    fn before_tag(&mut self, at: usize, block: bool) {
        let begins_line = self.line_start;
        let text = &self.rest[..at];
        let sign = self.rest.as_bytes().get(at + 2);
        let kept = if sign == Some(&b'-') {
            text.trim_end()
        } else if sign != Some(&b'+') && block {
            let line = text.rfind('\n').map_or(0, |feed| feed + 1);
            let blank = text[line..].chars().all(char::is_whitespace);
            if blank && (line > 0 || begins_line) { &text[..line] } else { text }
        } else {
            text
        };
        self.text(kept);
        self.take(at);
    }

    /// Behind a block or a comment.
    fn after_tag(&mut self, sign: Option<char>) {
        match sign {
            Some('-') => self.take_blanks(),
            Some(_) => {}
            None => {
                self.accept("\n");
            }
        }
    }

    fn comment(&mut self) -> Result<(), Error> {
        let Some(end) = self.rest.find("#}") else {
            return self.error("a comment has no end: '#}' is missing");
        };
        let sign = self.rest[..end].chars().next_back().filter(|c| matches!(c, '-' | '+'));
        self.take(end + 2);
        self.after_tag(sign);
        Ok(())
    }

    /// Length of the rest of a tag that says only `word`, and the sign at its end.
    fn raw_tag(&self, word: &str) -> Option<(usize, Option<char>)> {
        let inner = self.rest.trim_start().strip_prefix(word)?.trim_start();
        let sign = inner.chars().next().filter(|c| matches!(c, '-' | '+'));
        let after = inner.trim_start_matches(|c| Some(c) == sign).strip_prefix("%}")?;
        Some((self.rest.len() - after.len(), sign))
    }

    fn raw(&mut self, (len, sign): (usize, Option<char>)) -> Result<(), Error> {
        self.take(len);
        if sign == Some('-') {
            self.take_blanks();
        }
        let mut from = 0;
        while let Some(at) = self.rest[from..].find("{%").map(|at| from + at) {
            let signs = &self.rest[at + 2..];
            let word = signs.strip_prefix(['-', '+']).unwrap_or(signs);
            let here = Lexer { rest: word, line: 0, line_start: false, tokens: Vec::new() };
            if let Some((len, sign)) = here.raw_tag("endraw") {
                let tag = self.rest.len() - word.len() - at;
                self.before_tag(at, true);
                self.take(tag + len);
                self.after_tag(sign);
                return Ok(());
            }
            from = at + 2;
        }
        self.error("{% raw %} has no {% endraw %}")
    }

    /// The inside of a tag, and its end.
    fn tag(&mut self, end: Kind, close: &str) -> Result<(), Error> {
        let first = self.line;
        let mut open: Vec<&str> = Vec::new();
        loop {
            self.take_blanks();
            if self.rest.is_empty() {
                return Err(Error::at(first, format!("a tag has no end: '{close}' is missing")));
            }
            if open.is_empty() {
                let sign = self.rest.chars().next().filter(|c| matches!(c, '-' | '+'));
                let sign = sign.filter(|c| *c == '-' || end == Kind::BlockEnd);
                let rest = &self.rest[sign.map_or(0, char::len_utf8)..];
                if rest.starts_with(close) {
                    self.push(end.clone());
                    self.take(close.len() + usize::from(sign.is_some()));
                    match end {
                        Kind::BlockEnd => self.after_tag(sign),
                        _ if sign.is_some() => self.take_blanks(),
                        _ => {}
                    }
                    return Ok(());
                }
            }
            self.token(&mut open)?;
        }
    }

    fn token(&mut self, open: &mut Vec<&str>) -> Result<(), Error> {
        let first = self.rest.chars().next().unwrap_or_default();
        if first == '_' || first.is_alphabetic() {
            let word = |c: char| c != '_' && !c.is_alphanumeric();
            let len = self.rest.find(word).unwrap_or(self.rest.len());
            let name = self.rest[..len].into();
            self.push(Kind::Name(name));
            self.take(len);
            return Ok(());
        }
        if first.is_ascii_digit() {
            let (number, len) =
                literals::number(self.rest).map_err(|what| Error::at(self.line, what))?;
            self.push(number);
            self.take(len);
            return Ok(());
        }
        if first == '"' || first == '\'' {
            let (text, len) =
                literals::string(self.rest).map_err(|what| Error::at(self.line, what))?;
            self.push(Kind::String(text));
            self.take(len);
            return Ok(());
        }
        let Some(sign) = SIGNS.into_iter().find(|sign| self.rest.starts_with(sign)) else {
            return self.error(format!("unexpected character {first:?}"));
        };
        match sign {
            "(" | "[" | "{" => open.push(sign),
            ")" | "]" | "}" => {
                let right = match sign {
                    ")" => "(",
                    "]" => "[",
                    _ => "{",
                };
                if open.pop() != Some(right) {
                    return self.error(format!("unexpected '{sign}'"));
                }
            }
            _ => {}
        }
        self.push(Kind::Sign(sign));
        self.take(sign.len());
        Ok(())
    }
}
