//! What many texts are good for: the answer that most of them give (`--vote`), and how many a
//! program finds right (`--check`).
//!
//! Votes: Wang et al. 2023, self-consistency, arXiv 2203.11171. Coverage: Brown et al. 2024, Large
//! Language Monkeys, arXiv 2407.21787, by the unbiased estimate of Chen et al. 2021, arXiv
//! 2107.03374, equation 1. Test: below, and `tests/cli/samples.rs`.

use std::io::Write;
use std::process::{Command, Stdio};

use regex_lite::Regex;
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::interrupt::Watch;

/// How texts are judged.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct JudgeArgs {
    /// Let the texts of --samples vote: the answer of each is the last match of this expression
    /// (its first group, if it has one); print the answer that most of them give
    #[arg(long, value_name = "REGEX", requires = "samples", value_parser = regex)]
    vote: Option<Regex>,
    /// Give each text of --samples to this command, which says by its exit status whether it is
    /// right: 0 is; show how many are, and pass@k
    #[arg(long, value_name = "COMMAND", requires = "samples")]
    check: Option<String>,
}

/// An expression, for the argument parser.
fn regex(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| error.to_string())
}

/// An answer, and how many texts gave it.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Votes {
    answer: String,
    votes: usize,
}

/// What the judges said.
#[derive(Serialize)]
pub(crate) struct Verdict {
    /// The answers, the most frequent first, of equal ones the earliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    votes: Option<Vec<Votes>>,
    /// Whether each text passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    passed: Option<Vec<bool>>,
    /// The chance that one of k texts passes, for k = 1, 2, 4, …, and all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pass_at: Vec<PassAt>,
}

/// pass@k.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct PassAt {
    k: usize,
    chance: f64,
}

impl JudgeArgs {
    /// Whether anybody judges.
    pub(crate) fn is_asked(&self) -> bool {
        self.vote.is_some() || self.check.is_some()
    }

    /// Judges texts.
    pub(crate) fn judge(&self, texts: &[&str], watch: &Watch) -> Result<Verdict> {
        let votes = self.vote.as_ref().map(|regex| votes(regex, texts));
        let passed = self.check.as_ref().map(|command| {
            let each = texts.iter().map(|text| {
                watch.check()?;
                check(command, text)
            });
            each.collect::<Result<Vec<bool>>>()
        });
        let passed = passed.transpose()?;
        let pass_at = passed.as_ref().map_or(Vec::new(), |passed| {
            let right = passed.iter().filter(|passed| **passed).count();
            pass_at(passed.len(), right)
        });
        Ok(Verdict { votes, passed, pass_at })
    }
}

impl Verdict {
    /// The answer that won, if texts were asked for one and any has it.
    pub(crate) fn answer(&self) -> Option<&str> {
        self.votes.as_ref()?.first().map(|first| first.answer.as_str())
    }

    /// Whether texts voted.
    pub(crate) fn has_votes(&self) -> bool {
        self.votes.is_some()
    }

    /// A line for people.
    pub(crate) fn describe(&self) -> String {
        let votes = self.votes.iter().map(|votes| {
            let all: usize = votes.iter().map(|votes| votes.votes).sum();
            let each = votes.iter().take(5).map(|of| format!("{:?} {}", of.answer, of.votes));
            format!("{all} answers: {}", each.collect::<Vec<_>>().join(", "))
        });
        let passed = self.passed.iter().map(|passed| {
            let right = passed.iter().filter(|passed| **passed).count();
            let chances = self.pass_at.iter().map(|at| format!("pass@{} {:.3}", at.k, at.chance));
            let chances = chances.collect::<Vec<_>>().join(", ");
            format!("{right} of {} passed: {chances}", passed.len())
        });
        votes.chain(passed).collect::<Vec<_>>().join("; ")
    }
}

fn votes(regex: &Regex, texts: &[&str]) -> Vec<Votes> {
    let mut all: Vec<Votes> = Vec::new();
    for text in texts {
        let Some(found) = regex.captures_iter(text).last() else { continue };
        let Some(answer) = found.get(1).or_else(|| found.get(0)) else { continue };
        let answer = answer.as_str().trim();
        match all.iter_mut().find(|votes| votes.answer == answer) {
            Some(votes) => votes.votes += 1,
            None => all.push(Votes { answer: answer.to_owned(), votes: 1 }),
        }
    }
    // Stable: the earliest stays first.
    all.sort_by_key(|votes| std::cmp::Reverse(votes.votes));
    all
}

/// Whether a command, given a text, exits with 0.
fn check(command: &str, text: &str) -> Result<bool> {
    let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
    let failed = |error| Failure::io("run", command)(error);
    let mut child = Command::new(shell)
        .args([flag, command])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // A command need not read all of it, or anything.
        let _ = input.write_all(text.as_bytes());
    }
    Ok(child.wait().map_err(failed)?.success())
}

/// pass@k of `n` texts of which `right` are: 1 - C(n - right, k) / C(n, k).
fn pass_at(n: usize, right: usize) -> Vec<PassAt> {
    let powers = std::iter::successors(Some(1usize), |k| k.checked_mul(2));
    let ks = powers.take_while(|k| *k < n).chain((n > 0).then_some(n));
    let chance = |k: usize| {
        let wrong = n - right;
        if k > wrong {
            return 1.0;
        }
        1.0 - (wrong + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
    };
    ks.map(|k| PassAt { k, chance: chance(k) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_answer_wins_and_of_equal_ones_the_earliest() {
        let regex = Regex::new("is (\\d+)").expect("an expression");
        let texts = ["it is 3, or is 7", "is 4", "no", "is 7.", "is 4"];
        let of = |answer: &str, votes| Votes { answer: answer.to_owned(), votes };
        assert_eq!(votes(&regex, &texts), [of("7", 2), of("4", 2)]);
        assert_eq!(votes(&regex, &["no"]), []);
    }

    #[test]
    fn coverage_is_that_of_all_choices() {
        // By counting: of 5 texts 2 are right; pairs without one: 3 of 10; fours: none.
        let of = |k, chance| PassAt { k, chance };
        let found = pass_at(5, 2);
        let expected = [of(1, 0.4), of(2, 0.7), of(4, 1.0), of(5, 1.0)];
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.k, expected.k);
            assert!((found.chance - expected.chance).abs() < 1e-12, "{found:?}");
        }
        assert_eq!(pass_at(1, 0), [of(1, 0.0)]);
        assert_eq!(pass_at(0, 0), []);
    }
}
