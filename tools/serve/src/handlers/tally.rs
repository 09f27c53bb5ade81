//! What an answer took: tokens, and time.

use std::time::Instant;

use brooklet::prefix::Reading;
use serde_json::{Value, json};

use crate::jobs::{End, Update, What};

/// A text's share.
#[derive(Clone, Default)]
struct Times {
    reading: Option<(Reading, Instant)>,
    end: Option<(End, Instant)>,
}

/// Tokens and times of all texts of a request.
pub(super) struct Tally {
    came: Instant,
    /// Texts of each prompt.
    n: usize,
    /// Tokens that the states had read before the prompts.
    before: usize,
    texts: Vec<Times>,
}

impl Tally {
    pub(super) fn new(came: Instant, n: usize, texts: usize, before: usize) -> Tally {
        Tally { came, n, before, texts: vec![Times::default(); texts] }
    }

    pub(super) fn take(&mut self, update: &Update) {
        let Some(times) = self.texts.get_mut(update.index) else { return };
        match &update.what {
            What::Read(reading) => times.reading = Some((*reading, update.at)),
            What::Ended(Ok(end)) => times.end = Some((*end, update.at)),
            _ => {}
        }
    }

    /// Whether all texts have ended.
    pub(super) fn is_over(&self) -> bool {
        self.texts.iter().all(|times| times.end.is_some())
    }

    /// As OpenAI counts: a prompt counts once, however many texts follow it.
    fn usage(&self) -> Value {
        let (prompt, cached, written) = self.sums();
        json!({
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "prompt_tokens_details": { "cached_tokens": cached },
        })
    }

    /// As llama.cpp's server tells it; of the first text.
    fn timings(&self) -> Value {
        let Some(Times { reading: Some((reading, read)), end: Some((end, ended)) }) =
            self.texts.first()
        else {
            return Value::Null;
        };
        let computed = reading.computed + reading.replayed;
        let (reading_s, writing_s) =
            ((*read - self.came).as_secs_f64(), (*ended - *read).as_secs_f64());
        let rate = |n: usize, seconds: f64| n as f64 / seconds.max(1e-9);
        json!({
            "cache_n": reading.reused + self.before,
            "prompt_n": computed,
            "prompt_ms": reading_s * 1e3,
            "prompt_per_second": rate(computed, reading_s),
            "predicted_n": end.tokens,
            "predicted_ms": writing_s * 1e3,
            "predicted_per_second": rate(end.tokens, writing_s),
        })
    }

    /// An answer with these numbers, and the id of the state that was kept.
    pub(super) fn told(&self, mut answer: Value, state: Option<&String>) -> Value {
        answer["usage"] = self.usage();
        answer["timings"] = self.timings();
        if let Some(id) = state {
            answer["state_id"] = json!(id);
        }
        answer
    }

    /// For the log.
    pub(super) fn line(&self, what: &str) -> String {
        let (prompt, cached, written) = self.sums();
        let seconds = self.came.elapsed().as_secs_f64();
        let texts = self.texts.len();
        format!(
            "{what}: {texts} texts, {prompt} tokens read ({cached} cached), {written} written, \
             {seconds:.2} s"
        )
    }

    fn sums(&self) -> (usize, usize, usize) {
        let leaders = self.texts.iter().step_by(self.n.max(1));
        let readings = leaders.filter_map(|times| Some(times.reading?.0));
        let (mut prompt, mut cached) = (0, 0);
        for reading in readings {
            prompt += reading.tokens() + self.before;
            cached += reading.reused + self.before;
        }
        let written = self.texts.iter().filter_map(|times| Some(times.end?.0.tokens)).sum();
        (prompt, cached, written)
    }
}
