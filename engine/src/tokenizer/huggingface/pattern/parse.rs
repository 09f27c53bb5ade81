//! Reads regular expressions: the part of their language that tokenizers use.
//!
//! Characters, `.`, escapes, `\s \d \w` and their opposites, general categories (`\p{L}`,
//! `\P{Lu}`), Chinese characters (`\p{Han}`), sets of those, what two sets have in common
//! (`[…&&[…]]`), alternatives, groups, `(?i:…)` over ASCII, looking ahead, and the repetitions
//! `? * + {n,m}`, also possessive ones. All else is refused by name: looking behind, anchors,
//! references, other scripts, other sets in sets, lazy repetitions, and what may match an empty
//! text.
//! The meaning is that of the crates `regex` and `fancy-regex`. Test: `../oracle.rs`.

use super::program::{Op, Program};
use super::set::{Item, Set};

/// Bytes of an expression. The longest in use has 600.
const MAX_LENGTH: usize = 4096;
/// Groups in groups.
const MAX_DEPTH: usize = 32;
/// Operations of a program, after repeated groups are written out.
const MAX_OPS: usize = 1 << 14;

/// Reads an expression.
pub(super) fn parse(expression: &str) -> Result<Program, String> {
    let refuse = |why: String| format!("regular expression {expression:?}: {why}");
    if expression.len() > MAX_LENGTH {
        return Err(format!(
            "a regular expression of {} bytes: at most {MAX_LENGTH} are read",
            expression.len()
        ));
    }
    let mut parser = Parser { rest: expression, depth: 0 };
    let node = parser.alternatives(false).map_err(refuse)?;
    if !parser.rest.is_empty() {
        return Err(refuse("a group is closed that was not opened".to_owned()));
    }
    if node.least() == 0 {
        return Err(refuse("it matches the empty text".to_owned()));
    }
    let mut ops = Vec::new();
    node.compile(&mut ops).map_err(refuse)?;
    ops.push(Op::Match);
    Ok(Program(ops))
}

/// An expression as a tree.
enum Node {
    Set(Set),
    Sequence(Vec<Node>),
    /// In the order in which they are tried.
    Either(Vec<Node>),
    /// `max` is `u32::MAX` for no bound.
    Repeat {
        node: Box<Node>,
        min: u32,
        max: u32,
        keep: bool,
    },
    Ahead {
        node: Box<Node>,
        not: bool,
    },
}

impl Node {
    /// The least number of characters that it matches.
    fn least(&self) -> u64 {
        match self {
            Node::Set(_) => 1,
            Node::Sequence(nodes) => nodes.iter().map(Node::least).sum(),
            Node::Either(nodes) => nodes.iter().map(Node::least).min().unwrap_or(0),
            // No more than that, so that nested repetitions do not overflow.
            Node::Repeat { node, min, .. } => (node.least() * u64::from(*min)).min(1 << 32),
            Node::Ahead { .. } => 0,
        }
    }

    fn compile(&self, ops: &mut Vec<Op>) -> Result<(), String> {
        if ops.len() > MAX_OPS {
            return Err("it is too long when its repetitions are written out".to_owned());
        }
        match self {
            Node::Set(set) => ops.push(Op::Take { set: set.clone(), min: 1, max: 1, keep: true }),
            Node::Sequence(nodes) => nodes.iter().try_for_each(|node| node.compile(ops))?,
            Node::Either(nodes) => {
                let mut ends = Vec::new();
                for (i, node) in nodes.iter().enumerate() {
                    let choice = ops.len();
                    if i + 1 < nodes.len() {
                        ops.push(Op::Either { other: 0 });
                    }
                    node.compile(ops)?;
                    if i + 1 < nodes.len() {
                        ends.push(ops.len());
                        ops.push(Op::Jump { to: 0 });
                        ops[choice] = Op::Either { other: ops.len() };
                    }
                }
                let to = ops.len();
                ends.into_iter().for_each(|end| ops[end] = Op::Jump { to });
            }
            Node::Repeat { node, min, max, keep } => match &**node {
                Node::Set(set) => {
                    ops.push(Op::Take { set: set.clone(), min: *min, max: *max, keep: *keep });
                }
                _ => repeat(node, *min, *max, *keep, ops)?,
            },
            Node::Ahead { node, not } => {
                let at = ops.len();
                ops.push(Op::Match);
                node.compile(ops)?;
                ops.push(Op::Match);
                ops[at] = Op::Ahead { not: *not, to: ops.len() };
            }
        }
        Ok(())
    }
}

/// A repeated group, written out.
fn repeat(node: &Node, min: u32, max: u32, keep: bool, ops: &mut Vec<Op>) -> Result<(), String> {
    if keep {
        return Err("possessive repetition of a group".to_owned());
    }
    if node.least() == 0 {
        return Err("repetition of what may be empty".to_owned());
    }
    for _ in 0..min {
        node.compile(ops)?;
    }
    let choice = ops.len();
    if max == u32::MAX {
        ops.push(Op::Match);
        node.compile(ops)?;
        ops.push(Op::Jump { to: choice });
        ops[choice] = Op::Either { other: ops.len() };
        return Ok(());
    }
    let mut choices = Vec::new();
    for _ in min..max {
        choices.push(ops.len());
        ops.push(Op::Match);
        node.compile(ops)?;
    }
    let other = ops.len();
    choices.into_iter().for_each(|choice| ops[choice] = Op::Either { other });
    Ok(())
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    fn take(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        self.rest = chars.as_str();
        Some(c)
    }

    fn eat(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Alternatives up to the end or to a closing parenthesis; `fold`: upper and lower case are
    /// one.
    fn alternatives(&mut self, fold: bool) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("groups are nested too deep".to_owned());
        }
        let mut all = vec![self.sequence(fold)?];
        while self.eat("|") {
            all.push(self.sequence(fold)?);
        }
        self.depth -= 1;
        Ok(Node::Either(all))
    }

    fn sequence(&mut self, fold: bool) -> Result<Node, String> {
        let mut nodes = Vec::new();
        while !self.rest.is_empty() && !self.rest.starts_with(['|', ')']) {
            let node = self.atom(fold)?;
            nodes.push(self.repeated(node)?);
        }
        Ok(Node::Sequence(nodes))
    }

    fn atom(&mut self, fold: bool) -> Result<Node, String> {
        let single = |item: Item| Ok(Node::Set(Set::new(vec![item], false)));
        match self.take().ok_or("it ends early")? {
            '(' => self.group(fold),
            '[' => self.set(fold).map(Node::Set),
            '.' => Ok(Node::Set(Set::new(vec![Item::Range('\n', '\n')], true))),
            '\\' => match self.escape()? {
                Item::Range(c, _) => self.character(c, fold),
                Item::Category(_) | Item::Not(_) | Item::Word if fold => {
                    Err("classes where case does not matter".to_owned())
                }
                item => single(item),
            },
            c @ ('^' | '$') => Err(format!("the anchor {c}")),
            c @ ('?' | '*' | '+' | '{') => Err(format!("{c} repeats nothing")),
            c => self.character(c, fold),
        }
    }

    fn character(&self, c: char, fold: bool) -> Result<Node, String> {
        let mut items = vec![Item::Range(c, c)];
        if fold {
            add_other_case(&mut items)?;
        }
        Ok(Node::Set(Set::new(items, false)))
    }

    fn group(&mut self, fold: bool) -> Result<Node, String> {
        let ahead = |node, not| Node::Ahead { node: Box::new(node), not };
        let node = if self.eat("?:") {
            self.alternatives(fold)?
        } else if self.eat("?i:") {
            self.alternatives(true)?
        } else if self.eat("?!") {
            ahead(self.alternatives(fold)?, true)
        } else if self.eat("?=") {
            ahead(self.alternatives(fold)?, false)
        } else if self.rest.starts_with('?') {
            return Err(format!("the group ({}…", self.rest.chars().take(3).collect::<String>()));
        } else {
            self.alternatives(fold)?
        };
        if self.eat(")") { Ok(node) } else { Err("a group is not closed".to_owned()) }
    }

    fn repeated(&mut self, node: Node) -> Result<Node, String> {
        let (min, max) = if self.eat("?") {
            (0, 1)
        } else if self.eat("*") {
            (0, u32::MAX)
        } else if self.eat("+") {
            (1, u32::MAX)
        } else if self.eat("{") {
            self.bounds()?
        } else {
            return Ok(node);
        };
        let keep = self.eat("+");
        if self.rest.starts_with(['?', '*', '+', '{']) {
            return Err("repetition of a repetition, or a lazy one".to_owned());
        }
        Ok(Node::Repeat { node: Box::new(node), min, max, keep })
    }

    fn bounds(&mut self) -> Result<(u32, u32), String> {
        let bad = || "bounds of a repetition that are no numbers".to_owned();
        let (bounds, rest) = self.rest.split_once('}').ok_or_else(bad)?;
        self.rest = rest;
        let is_number = |digits: &&str| digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = |digits: &str| {
            Some(digits)
                .filter(is_number)
                .and_then(|digits| digits.parse().ok())
                .filter(|&n| n < 1000)
                .ok_or_else(bad)
        };
        let (min, max) = match bounds.split_once(',') {
            None => (number(bounds)?, number(bounds)?),
            Some((min, "")) => (number(min)?, u32::MAX),
            Some((min, max)) => (number(min)?, number(max)?),
        };
        if min <= max && max > 0 { Ok((min, max)) } else { Err(bad()) }
    }

    /// A set behind its opening bracket.
    fn set(&mut self, fold: bool) -> Result<Set, String> {
        let negated = self.eat("^");
        let mut items = Vec::new();
        loop {
            if !items.is_empty() && self.eat("&&[") {
                // A set in this one: no deeper, and nothing behind it.
                if fold || self.depth == MAX_DEPTH {
                    return Err("sets in sets".to_owned());
                }
                self.depth += 1;
                let other = self.set(fold)?;
                self.depth -= 1;
                if !self.eat("]") {
                    return Err("a set behind a set in a set".to_owned());
                }
                return Ok(Set::new(vec![Item::Both(items, Box::new(other))], negated));
            }
            let first = match self.take().ok_or("a set is not closed")? {
                ']' if !items.is_empty() => break,
                c @ ('[' | ']') => return Err(format!("{c} in a set")),
                c @ ('&' | '-' | '~') if self.rest.starts_with(c) => {
                    return Err(format!("{c}{c} in a set"));
                }
                '\\' => self.escape()?,
                c => Item::Range(c, c),
            };
            let is_range = self.rest.starts_with('-') && !self.rest.starts_with("-]");
            items.push(match first {
                Item::Range(first, _) if is_range => {
                    self.eat("-");
                    let last = match self.take().ok_or("a set is not closed")? {
                        '\\' => self.escape()?,
                        c @ ('[' | '-') => return Err(format!("{c} at the end of a range")),
                        c => Item::Range(c, c),
                    };
                    match last {
                        Item::Range(last, _) if first <= last => Item::Range(first, last),
                        _ => {
                            return Err(
                                "a range that ends before it begins, or with a class".to_owned()
                            );
                        }
                    }
                }
                _ if is_range => return Err("a range that begins with a class".to_owned()),
                item => item,
            });
        }
        if fold {
            add_other_case(&mut items)?;
        }
        Ok(Set::new(items, negated))
    }

    /// The meaning of a backslash and of what follows it.
    fn escape(&mut self) -> Result<Item, String> {
        let not = |item| Item::Not(Box::new(item));
        let one = |c| Item::Range(c, c);
        Ok(match self.take().ok_or("it ends with a backslash")? {
            's' => Item::Space,
            'S' => not(Item::Space),
            'd' => Item::DIGIT,
            'D' => not(Item::DIGIT),
            'w' => Item::Word,
            'W' => not(Item::Word),
            'p' => self.category()?,
            'P' => not(self.category()?),
            'n' => one('\n'),
            'r' => one('\r'),
            't' => one('\t'),
            'f' => one('\x0c'),
            'v' => one('\x0b'),
            'x' => one(self.code(2)?),
            'u' => one(self.code(4)?),
            c if c.is_ascii_punctuation() && !matches!(c, '<' | '>') => one(c),
            c => return Err(format!("the escape \\{c}")),
        })
    }

    /// A character by its number: `digits` hexadecimal ones, or any in braces.
    fn code(&mut self, digits: usize) -> Result<char, String> {
        let bad = || "a character's number that is none".to_owned();
        let (number, rest) = match self.rest.strip_prefix('{') {
            Some(rest) => rest.split_once('}').ok_or_else(bad)?,
            None => self.rest.split_at_checked(digits).ok_or_else(bad)?,
        };
        self.rest = rest;
        let is_hex = number.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u32::from_str_radix(number, 16).ok().filter(|_| is_hex);
        number.and_then(char::from_u32).ok_or_else(bad)
    }

    fn category(&mut self) -> Result<Item, String> {
        let (name, rest) = match self.rest.strip_prefix('{') {
            Some(rest) => rest.split_once('}').ok_or("a category's name is not closed")?,
            None => self.rest.split_at_checked(1).ok_or("a category without a name")?,
        };
        self.rest = rest;
        Item::category(name).ok_or_else(|| format!("the category {name:?}"))
    }
}

/// Adds to ASCII letters what is the same but for case: the other letter, and U+212A (K) or U+017F
/// (s).
fn add_other_case(items: &mut Vec<Item>) -> Result<(), String> {
    let mut more = Vec::new();
    for item in items.iter() {
        match item {
            Item::Range(first, last) if last.is_ascii() => {
                for letter in (*first..=*last).filter(char::is_ascii_alphabetic) {
                    let extra = match letter.to_ascii_lowercase() {
                        'k' => Some('\u{212a}'),
                        's' => Some('\u{17f}'),
                        _ => None,
                    };
                    let cases = [
                        Some(letter.to_ascii_lowercase()),
                        Some(letter.to_ascii_uppercase()),
                        extra,
                    ];
                    more.extend(cases.into_iter().flatten().map(|c| Item::Range(c, c)));
                }
            }
            Item::Space => {}
            _ => return Err("other than ASCII where case does not matter".to_owned()),
        }
    }
    items.append(&mut more);
    Ok(())
}
