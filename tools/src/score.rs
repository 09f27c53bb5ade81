//! `brooklet score`: how likely texts are, behind one beginning or before one ending.
//!
//! Arguments and reports; the scores are `brooklet::score`'s, what texts begin with alike is read
//! once (`brooklet::prefix`). Test: `tests/cli/score.rs`.

use std::path::{Path, PathBuf};

use brooklet::prefix::PrefixCache;
use brooklet::score::{self, Score};
use brooklet::{Model, Session, Text};
use serde::Serialize;

use crate::args::EngineArgs;
use crate::failure::{Failure, Result};
use crate::interrupt::Watch;
use crate::model::{CheckpointArgs, Source};
use crate::{demo, input, output, progress};

/// Memory for what texts begin with alike.
const CACHE: usize = 256 << 20;

/// Scores texts by their log-probability.
///
/// Endings (-e, --endings) are scored behind the prompt, which is read once: which answer does the
/// model hold the likeliest? With --documents the prompt is what follows: each document is scored
/// by how likely the prompt is behind it, the best first. With --pairwise the prompt has {a} and
/// {b}, into which each two of the endings are put, both ways round; the answers A and B say which
/// of them the model prefers.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet score model.brk -p \"The sea was\" -e \" calm\" -e \" green\" -e \" on fire\"
  brooklet score model.brk -p \"The sea was\" --endings endings.txt --best
  brooklet score model.brk -p \"Who sank the ship?\" --documents pages.txt --json
  brooklet score model.brk --pairwise -e \"a storm\" -e \"a tea\" \\
      -p \"Which is worse? A: {a} B: {b} Answer:\"")]
pub(crate) struct Args {
    /// The model: a .brk file, or a checkpoint, which is converted once into the cache folder
    model: PathBuf,
    /// The beginning; with --documents what follows
    #[arg(
        short,
        long,
        value_name = "TEXT",
        required_unless_present = "file",
        conflicts_with = "file",
        allow_hyphen_values = true
    )]
    prompt: Option<String>,
    /// Read the beginning from a file (less one line feed at its end)
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A text to score. May be given several times; one that begins with a blank says so
    #[arg(short, long = "ending", value_name = "TEXT", allow_hyphen_values = true,
          required_unless_present_any = ["endings", "documents"])]
    ending: Vec<String>,
    /// More of them, one in each line
    #[arg(long, value_name = "FILE")]
    endings: Option<PathBuf>,
    /// Score documents, one in each line, by how likely the prompt is behind them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ending", "endings", "pairwise"])]
    documents: Option<PathBuf>,
    /// Compare each two of the texts, in both orders
    #[arg(long)]
    pairwise: bool,
    /// The answers of --pairwise
    #[arg(long, value_names = ["A", "B"], num_args = 2, default_values = [" A", " B"],
          requires = "pairwise")]
    answers: Vec<String>,
    /// Compare by the whole log-probability, or by that of a token or a byte on average, which is
    /// fair to longer texts
    #[arg(long, value_name = "BY", default_value = "sum")]
    by: By,
    /// Print the best text alone
    #[arg(long, conflicts_with = "json")]
    best: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
}

/// The measure that decides.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum By {
    Sum,
    Token,
    Byte,
}

/// The object that `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    prompt_tokens: usize,
    /// The best first, where they are ranked; as they were given otherwise.
    texts: Vec<Line<'a>>,
    /// The number of the best, as given.
    best: usize,
}

/// One text.
#[derive(Serialize)]
struct Line<'a> {
    /// Its number, as given.
    index: usize,
    text: &'a str,
    /// Tokens that were scored, and their log-probability in nats. With --pairwise null.
    tokens: Option<usize>,
    log_prob: Option<f64>,
    log_prob_per_token: Option<f64>,
    log_prob_per_byte: Option<f64>,
    /// Whether the model would write it at temperature 0.
    is_greedy: Option<bool>,
    /// Among the texts: shares of the measure that decides (their softmax); with --pairwise how
    /// often it is preferred.
    share: f64,
}

/// Runs the command.
pub(crate) fn run(args: &Args, quiet: bool) -> Result {
    let mut texts = args.ending.clone();
    for file in args.endings.iter().chain(&args.documents) {
        texts.extend(input::lines(file)?);
    }
    let prompt = match (&args.prompt, &args.file) {
        (Some(prompt), _) => prompt.clone(),
        (None, Some(file)) => input::text(file)?,
        (None, None) => String::new(),
    };
    check(args, &prompt, &texts)?;
    let path = demo::model_or_demo(Some(&args.model))?;
    let source = Source::new(&path, &args.checkpoint)?;
    let model = demo::open(&source.ready(quiet)?, &args.engine, quiet)?;
    let mut scorer = Scorer::new(&model, args, quiet || texts.len() < 8)?;
    let (lines, prompt_tokens) = if args.pairwise {
        scorer.pairs(args, &prompt, &texts)?
    } else {
        let (scores, prompt_tokens) = match args.documents {
            Some(_) => scorer.documents(&prompt, &texts)?,
            None => scorer.endings(&prompt, &texts)?,
        };
        let bytes =
            |text: &String| if args.documents.is_some() { prompt.len() } else { text.len() };
        let bytes: Vec<usize> = texts.iter().map(bytes).collect();
        (lines(&texts, &scores, &bytes, args.by), prompt_tokens)
    };
    report(args, &path, lines, prompt_tokens)
}

/// What makes no sense.
fn check(args: &Args, prompt: &str, texts: &[String]) -> Result {
    if texts.is_empty() {
        return Err(Failure::usage("there are no texts to score", "give some with -e"));
    }
    if args.documents.is_some() && prompt.is_empty() {
        return Err(Failure::usage(
            "there is nothing to score behind documents",
            "give it with -p",
        ));
    }
    if args.pairwise && !(prompt.contains("{a}") && prompt.contains("{b}")) {
        return Err(Failure::usage(
            "the prompt of --pairwise has no place for two texts",
            "write {a} and {b} where they belong",
        ));
    }
    if args.pairwise && texts.len() < 2 {
        return Err(Failure::usage("--pairwise compares two texts or more", "give more with -e"));
    }
    if let Some(empty) = texts.iter().position(String::is_empty) {
        return Err(Failure::usage(format!("text {empty} (from 0) is empty"), "leave it away"));
    }
    Ok(())
}

/// A model that scores.
struct Scorer {
    session: Session,
    text: Text,
    cache: PrefixCache,
    watch: Watch,
    quiet: bool,
}

impl Scorer {
    fn new(model: &Model, args: &Args, quiet: bool) -> Result<Scorer> {
        let options = args.engine.options(model, args.engine.chunk as usize)?;
        Ok(Scorer {
            session: Session::new(model, &options),
            text: Text::of(model)?,
            cache: PrefixCache::new(model, CACHE),
            watch: Watch::new(),
            quiet,
        })
    }

    /// Reads a beginning.
    fn read(&mut self, ids: &[u32]) -> Result {
        self.cache.prefill(&mut self.session, ids, &[], |_| !self.watch.requested())?;
        self.watch.check()
    }

    /// Scores endings of what was read.
    fn score(&mut self, endings: &[&[u32]], done: impl Fn(usize)) -> Result<Vec<Score>> {
        let watch = &self.watch;
        let scores = score::endings(&mut self.session, endings, |n| {
            done(n);
            !watch.requested()
        })?;
        scores.ok_or(Failure::Interrupted)
    }

    /// Scores of endings of one prompt.
    fn endings(&mut self, prompt: &str, texts: &[String]) -> Result<(Vec<Score>, usize)> {
        let ids = self.text.prompt(prompt.as_bytes())?;
        let endings = texts.iter().map(|ending| self.ending(prompt, &ids, ending));
        let endings = endings.collect::<Result<Vec<_>>>()?;
        let endings: Vec<&[u32]> = endings.iter().map(Vec::as_slice).collect();
        let all: usize = endings.iter().map(|ending| ending.len()).sum();
        let bar = progress::bar(all as u64, progress::Unit::Count, self.quiet);
        self.read(&ids)?;
        let scores = self.score(&endings, |n| bar.set_position(n as u64))?;
        bar.finish_and_clear();
        Ok((scores, ids.len()))
    }

    /// Scores of one text behind many documents.
    fn documents(&mut self, prompt: &str, documents: &[String]) -> Result<(Vec<Score>, usize)> {
        let bar = progress::bar(documents.len() as u64, progress::Unit::Count, self.quiet);
        let (mut scores, mut n) = (Vec::new(), 0);
        for document in documents {
            let document = format!("{document}\n");
            let ids = self.text.prompt(document.as_bytes())?;
            let ending = self.ending(&document, &ids, prompt)?;
            n = ending.len();
            self.session.reset();
            self.session.prefill_with(&ids, |_| !self.watch.requested())?;
            self.watch.check()?;
            scores.extend(self.score(&[&ending], |_| ())?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok((scores, n))
    }

    /// How often each text is preferred to the others.
    fn pairs<'a>(
        &mut self,
        args: &Args,
        prompt: &str,
        texts: &'a [String],
    ) -> Result<(Vec<Line<'a>>, usize)> {
        let n = texts.len();
        let bar = progress::bar((n * (n - 1)) as u64, progress::Unit::Count, self.quiet);
        let (mut preferred, mut prompt_tokens) = (vec![0.0; n], 0);
        for a in 0..n {
            for b in (0..n).filter(|b| *b != a) {
                let asked = filled(prompt, &texts[a], &texts[b]);
                let ids = self.text.prompt(asked.as_bytes())?;
                prompt_tokens = prompt_tokens.max(ids.len());
                self.read(&ids)?;
                let answers = args.answers.iter().map(|text| self.ending(&asked, &ids, text));
                let answers = answers.collect::<Result<Vec<_>>>()?;
                let answers: Vec<&[u32]> = answers.iter().map(Vec::as_slice).collect();
                let scores = self.score(&answers, |_| ())?;
                let measures: Vec<f64> = scores.iter().map(|score| score.log_prob).collect();
                let shares = shares(&measures);
                // Each two are asked twice, and each text beside n - 1 others.
                let each = 2.0 * (n - 1) as f64;
                preferred[a] += shares[0] / each;
                preferred[b] += shares[1] / each;
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        let lines = texts.iter().zip(preferred).enumerate().map(|(index, (text, share))| Line {
            index,
            text,
            tokens: None,
            log_prob: None,
            log_prob_per_token: None,
            log_prob_per_byte: None,
            is_greedy: None,
            share,
        });
        Ok((lines.collect(), prompt_tokens))
    }

    /// The tokens of an ending.
    fn ending(&self, beginning: &str, ids: &[u32], ending: &str) -> Result<Vec<u32>> {
        Ok(self.text.ending(beginning.as_bytes(), ids, ending.as_bytes())?)
    }
}

/// A prompt with two texts in their places; what the texts say is not looked at.
fn filled(prompt: &str, a: &str, b: &str) -> String {
    let (mut whole, mut rest) = (String::new(), prompt);
    while let Some(at) = rest.find("{a}").into_iter().chain(rest.find("{b}")).min() {
        whole.push_str(&rest[..at]);
        whole.push_str(if rest[at..].starts_with("{a}") { a } else { b });
        rest = &rest[at + 3..];
    }
    whole + rest
}

/// The lines of a report, as the texts were given.
fn lines<'a>(texts: &'a [String], scores: &[Score], bytes: &[usize], by: By) -> Vec<Line<'a>> {
    let per = |score: &Score, n: usize| score.log_prob / n.max(1) as f64;
    let of = |(score, bytes): (&Score, &usize)| match by {
        By::Sum => score.log_prob,
        By::Token => per(score, score.tokens),
        By::Byte => per(score, *bytes),
    };
    let measures: Vec<f64> = scores.iter().zip(bytes).map(of).collect();
    let all = texts.iter().zip(scores).zip(bytes).zip(shares(&measures)).enumerate();
    all.map(|(index, (((text, score), bytes), share))| Line {
        index,
        text,
        tokens: Some(score.tokens),
        log_prob: Some(score.log_prob),
        log_prob_per_token: Some(per(score, score.tokens)),
        log_prob_per_byte: Some(per(score, *bytes)),
        is_greedy: Some(score.is_greedy),
        share,
    })
    .collect()
}

/// The softmax of measures; equal shares where none is possible.
fn shares(measures: &[f64]) -> Vec<f64> {
    let max = measures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return vec![1.0 / measures.len() as f64; measures.len()];
    }
    let weights: Vec<f64> = measures.iter().map(|measure| (measure - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

fn report(args: &Args, path: &Path, mut lines: Vec<Line<'_>>, prompt_tokens: usize) -> Result {
    let best = lines.iter().max_by(|a, b| a.share.total_cmp(&b.share).then(b.index.cmp(&a.index)));
    let Some(best) = best.map(|line| line.index) else { return Ok(()) };
    if args.best {
        let text = lines.get(best).map_or("", |line| line.text);
        return output::text(&format!("{text}\n"));
    }
    if args.documents.is_some() || args.pairwise {
        lines.sort_by(|a, b| b.share.total_cmp(&a.share).then(a.index.cmp(&b.index)));
    }
    if args.json {
        let model = path.display().to_string();
        return output::json(&Report { model, prompt_tokens, texts: lines, best });
    }
    let mut table = "     log p  per token  tokens   share  text\n".to_owned();
    for line in &lines {
        let number =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
        let tokens = line.tokens.map_or("-".to_owned(), |tokens| tokens.to_string());
        table += &format!(
            "{:>10} {:>10} {tokens:>7} {:>6.1}%  {}\n",
            number(line.log_prob),
            number(line.log_prob_per_token),
            100.0 * line.share,
            output::line(&format!("{:?}", line.text)),
        );
    }
    output::text(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_put_into_their_places() {
        assert_eq!(filled("A {a} B {b}, {a}!", "x{b}", "y"), "A x{b} B y, x{b}!");
        assert_eq!(filled("none", "x", "y"), "none");
    }

    #[test]
    fn shares_sum_to_one() {
        assert_eq!(shares(&[0.0, 0.0]), [0.5, 0.5]);
        assert_eq!(shares(&[f64::NEG_INFINITY; 2]), [0.5, 0.5]);
        assert_eq!(shares(&[-1e9, -2e9]), [1.0, 0.0]);
    }
}
