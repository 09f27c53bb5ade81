//! Regular expressions as a program, and the machine that runs it.
//!
//! The machine goes back like Perl's: alternatives are tried in order, a repetition takes all it
//! can and then gives back. It keeps its own stack and counts its steps, so that no expression
//! overflows, hangs or fills the memory on any text. Not here: what an expression means
//! (`parse.rs`). Test: `../oracle.rs`.

use std::ops::Range;

use super::set::Set;

/// Steps that a search may take per byte of the text, of which the expressions in use need less
/// than 40.
const STEPS_PER_BYTE: u64 = 256;
/// Bytes that every text is taken to have more.
const SLACK: u64 = 16;

/// One operation. The next one stands behind it.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Takes as many characters of the set as it can, `min` to `max`; gives some back if need be,
    /// but where `keep` is set.
    Take { set: Set, min: u32, max: u32, keep: bool },
    /// Goes on behind, or else at `other`.
    Either { other: usize },
    /// Goes on at `to`.
    Jump { to: usize },
    /// Goes on at `to` if what stands behind, up to its `Match`, matches here (or does not: `not`).
    /// Takes nothing.
    Ahead { not: bool, to: usize },
    /// The end.
    Match,
}

/// A regular expression, of which the reader has made sure that it matches no empty text.
#[derive(Clone, Debug)]
pub(in super::super) struct Program(pub(super) Vec<Op>);

impl Program {
    /// Calls `found` with each match in `text`, from left to right.
    pub(super) fn each_match(
        &self,
        text: &str,
        mut found: impl FnMut(Range<usize>),
    ) -> Result<(), String> {
        let steps_left = STEPS_PER_BYTE * (text.len() as u64 + SLACK);
        let mut search = Search { ops: &self.0, text, back: Vec::new(), steps_left };
        let mut at = 0;
        while let Some(c) = text[at..].chars().next() {
            match search.run(0, at)? {
                Some(end) => {
                    found(at..end);
                    at = end;
                }
                None => at += c.len_utf8(),
            }
        }
        Ok(())
    }
}

/// A place to go back to: operation `op` at `at`, then at each character before that down to `low`.
struct Back {
    op: usize,
    low: usize,
    at: usize,
}

/// One search through a text.
struct Search<'a> {
    ops: &'a [Op],
    text: &'a str,
    back: Vec<Back>,
    steps_left: u64,
}

impl Search<'_> {
    /// Where a match that begins at `at` ends, by the operations from `op` on.
    fn run(&mut self, mut op: usize, mut at: usize) -> Result<Option<usize>, String> {
        let base = self.back.len();
        loop {
            self.spend(1)?;
            let fits = match &self.ops[op] {
                Op::Match => {
                    self.back.truncate(base);
                    return Ok(Some(at));
                }
                Op::Take { set, min, max, keep } => {
                    let (mut taken, mut low, mut end) = (0, at, at);
                    for c in self.text[at..].chars() {
                        if taken == *max || !set.contains(c) {
                            break;
                        }
                        taken += 1;
                        end += c.len_utf8();
                        if taken <= *min {
                            low = end;
                        }
                    }
                    self.spend(u64::from(taken))?;
                    op += 1;
                    if taken >= *min && end > low && !keep {
                        self.back.push(Back { op, low, at: self.before(end) });
                    }
                    at = end;
                    taken >= *min
                }
                Op::Either { other } => {
                    self.back.push(Back { op: *other, low: at, at });
                    op += 1;
                    true
                }
                Op::Jump { to } => {
                    op = *to;
                    true
                }
                Op::Ahead { not, to } => {
                    let matches = self.run(op + 1, at)?.is_some();
                    op = *to;
                    matches != *not
                }
            };
            if fits {
                continue;
            }
            if self.back.len() == base {
                return Ok(None);
            }
            let Some(back) = self.back.pop() else { return Ok(None) };
            (op, at) = (back.op, back.at);
            if at > back.low {
                self.back.push(Back { at: self.before(at), ..back });
            }
        }
    }

    /// Where the character before `at` begins.
    fn before(&self, at: usize) -> usize {
        at - self.text[..at].chars().next_back().map_or(0, char::len_utf8)
    }

    fn spend(&mut self, steps: u64) -> Result<(), String> {
        match self.steps_left.checked_sub(steps) {
            Some(left) => {
                self.steps_left = left;
                Ok(())
            }
            None => {
                Err("a regular expression of tokenizer.json takes too many steps on it".to_owned())
            }
        }
    }
}
