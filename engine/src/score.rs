//! What a model thinks of texts: log-probabilities of endings behind one beginning, and embeddings
//! of many texts. Both run many texts in a pass, and give the bits of one at a time.
//!
//! Not here: which texts (the command line's `score` and `embed`). Test: `tests/score.rs`.

use crate::engine::{Engine, Run, Want};
use crate::sampler::LogSoftmax;
use crate::session::{Pooling, Session};
use crate::state::State;
use crate::{EngineError, Result};

/// Texts in a pass at most: each has a state of its own.
const MOST_TEXTS: usize = 16;

/// How likely an ending is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// The log-probability of all its tokens, in nats: Σ ln p(token | those before). 0 for none.
    pub log_prob: f64,
    /// Its tokens.
    pub tokens: usize,
    /// Whether each of them was the likeliest.
    pub is_greedy: bool,
}

/// Scores endings of what a session has read; it stays where it is, and keeps its logits.
/// `progress(tokens scored)` is called between passes and ends the work when it gives false: no
/// scores are given then. The engine reads as many tokens in a pass as it gives rows of logits
/// ([`crate::EngineOptions::logits`]).
///
/// # Errors
/// The session has no logits, a token is outside the vocabulary, a text does not fit the model's
/// context, or a device failed.
pub fn endings(
    session: &mut Session,
    endings: &[&[u32]],
    mut progress: impl FnMut(usize) -> bool,
) -> Result<Option<Vec<Score>>> {
    let n_vocab = session.model().n_vocab();
    let mut ids = endings.iter().flat_map(|ending| ending.iter());
    if let Some(&id) = ids.find(|id| **id as usize >= n_vocab) {
        return Err(EngineError::UnknownToken { id, n_vocab });
    }
    session.beside(|engine, state, logits| {
        let new = Score { is_greedy: true, ..Score::default() };
        let mut scores = vec![new; endings.len()];
        let first = LogSoftmax::of(logits);
        for (score, ending) in scores.iter_mut().zip(endings) {
            if let Some(token) = ending.first() {
                score.add(&first, logits, *token);
            }
        }
        // The last token of an ending is scored, and need not be read.
        let texts = endings.iter().map(|ending| &ending[..ending.len().saturating_sub(1)]);
        let texts: Vec<&[u32]> = texts.collect();
        let (most, mut done) = (engine.max_logits(), 0);
        let start = |_| state.clone();
        let is_whole = in_passes(engine, &texts, most, Want::All, start, |engine, part| {
            for column in 0..part.tokens {
                let logits = engine.logits(part.column + column);
                let next = endings[part.text][part.at + column + 1];
                scores[part.text].add(&LogSoftmax::of(logits), logits, next);
            }
            done += part.tokens;
            !part.is_last_of_pass || progress(done)
        })?;
        Ok(is_whole.then_some(scores))
    })
}

impl Score {
    fn add(&mut self, of: &LogSoftmax, logits: &[f32], token: u32) {
        let log_prob = of.log_prob(logits, token);
        self.log_prob += f64::from(log_prob);
        self.tokens += 1;
        let own = logits[token as usize];
        // NaN is larger than nothing.
        self.is_greedy &= !logits.iter().any(|logit| *logit > own);
    }
}

/// Embeddings of many texts: of each the hidden state behind the final norm (`d_model` values),
/// after its last token or as the mean over all. `progress(tokens read)` is called between passes
/// and ends the work when it gives false.
///
/// # Errors
/// A text without tokens, a token outside the vocabulary, a text that does not fit the model's
/// context, or a device failed.
pub fn embeddings(
    engine: &mut Engine,
    texts: &[&[u32]],
    pooling: Pooling,
    mut progress: impl FnMut(usize) -> bool,
) -> Result<Option<Vec<Vec<f32>>>> {
    if texts.iter().any(|text| text.is_empty()) {
        return Err(EngineError::NoTokens);
    }
    let model = engine.model().clone();
    let mut hidden = vec![0.0; model.d_model()];
    // Summed token by token in f64: the same however texts are cut.
    let mut sums = vec![vec![0.0_f64; hidden.len()]; texts.len()];
    let (most, mut done, mut failed) = (engine.chunk(), 0, None);
    let start = |_| model.new_state();
    let is_whole = in_passes(engine, texts, most, Want::None, start, |engine, part| {
        let is_end = part.at + part.tokens == texts[part.text].len();
        let columns = match pooling {
            Pooling::Mean => 0..part.tokens,
            Pooling::Last if is_end => part.tokens - 1..part.tokens,
            Pooling::Last => 0..0,
        };
        for column in columns {
            if let Err(error) = engine.hidden(part.column + column, &mut hidden) {
                failed = Some(error);
                return false;
            }
            let sum = sums[part.text].iter_mut();
            sum.zip(&hidden).for_each(|(sum, h)| *sum += f64::from(*h));
        }
        done += part.tokens;
        !part.is_last_of_pass || progress(done)
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let mean = |(sum, text): (Vec<f64>, &&[u32])| {
        let n = if pooling == Pooling::Mean { text.len() } else { 1 };
        sum.into_iter().map(|sum| (sum / n as f64) as f32).collect()
    };
    Ok(is_whole.then(|| sums.into_iter().zip(texts).map(mean).collect()))
}

/// A part of a text, which a pass has read.
struct Part {
    text: usize,
    /// Its first token, in the text and in the pass.
    at: usize,
    column: usize,
    tokens: usize,
    is_last_of_pass: bool,
}

/// A text that is being read.
struct Reading {
    text: usize,
    at: usize,
    state: State,
}

/// Reads texts, up to `most` tokens of them in a pass, each from the state that `start` gives.
/// After a pass `each` gets every part of it, in order, until it gives false. Whether it never did.
fn in_passes(
    engine: &mut Engine,
    texts: &[&[u32]],
    most: usize,
    want: Want,
    start: impl Fn(usize) -> State,
    mut each: impl FnMut(&Engine, &Part) -> bool,
) -> Result<bool> {
    let most = most.min(engine.chunk());
    let mut waiting = (0..texts.len()).filter(|text| !texts[*text].is_empty());
    let mut reading: Vec<Reading> = Vec::new();
    loop {
        let (mut parts, mut column) = (Vec::new(), 0);
        // Texts that were begun go on before others begin: few states at a time.
        for i in 0.. {
            if column == most || i == MOST_TEXTS {
                break;
            }
            if i == reading.len() {
                let Some(text) = waiting.next() else { break };
                reading.push(Reading { text, at: 0, state: start(text) });
            }
            let Reading { text, at, .. } = reading[i];
            let tokens = (texts[text].len() - at).min(most - column);
            parts.push(Part { text, at, column, tokens, is_last_of_pass: false });
            column += tokens;
        }
        let Some(last) = parts.last_mut() else { return Ok(true) };
        last.is_last_of_pass = true;
        let of_pass = reading.iter_mut().zip(&parts);
        let mut runs: Vec<Run<'_>> = of_pass
            .map(|(Reading { state, .. }, part)| {
                let tokens = &texts[part.text][part.at..part.at + part.tokens];
                Run { state, tokens, want }
            })
            .collect();
        engine.forward(&mut runs)?;
        for (reading, part) in reading.iter_mut().zip(&parts) {
            reading.at += part.tokens;
            if !each(engine, part) {
                return Ok(false);
            }
        }
        reading.retain(|reading| reading.at < texts[reading.text].len());
    }
}
