//! The timed runs of `bench`: reading a prompt and decoding, several times and in turn.
//!
//! Tokens are pseudo-random ids, the same for every run; nothing is sampled. Not here: what the
//! numbers are compared with and how they are printed. Test: `tests/cli/bench.rs`.

use std::fmt::{Display, Formatter};
use std::time::{Duration, Instant};

use brooklet::{Engine, Model, Run, State, Want};
use fastrand::Rng;

use crate::failure::{Failure, Result};
use crate::interrupt::Watch;

/// Lengths and repetitions of the runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Tokens of the prompt, read by one sequence.
    pub(super) prompt: usize,
    /// Tokens decoded by each sequence.
    pub(super) decode: usize,
    /// Tokens that each has read before.
    pub(super) depth: usize,
    /// Sequences decoded together.
    pub(super) sequences: usize,
    /// Times each.
    pub(super) repeat: usize,
}

impl Display for Plan {
    /// Says what is measured, for a note before it.
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} times", self.repeat)?;
        if self.prompt > 0 {
            write!(f, " a prompt of {} tokens,", self.prompt)?;
        }
        match (self.decode, self.sequences) {
            (0, _) => {}
            (n, 1) => write!(f, " {n} tokens decoded")?,
            (n, many) => write!(f, " {n} tokens of {many} sequences decoded")?,
        }
        match (self.decode, self.depth) {
            (0, _) => {}
            (_, 0) => f.write_str(",")?,
            (_, depth) => write!(f, " behind {depth} others,")?,
        }
        f.write_str(" the machine's limits")
    }
}

/// Tokens per second, the median of the repetitions, and all of them.
#[derive(Clone, Debug)]
pub(super) struct Rate {
    pub(super) median: f64,
    pub(super) all: Vec<f64>,
}

/// Results; `None` where nothing was asked for.
#[derive(Clone, Debug)]
pub(super) struct Rates {
    pub(super) prefill: Option<Rate>,
    /// All sequences together.
    pub(super) decode: Option<Rate>,
}

/// Runs the plan, after one run that is not timed. `between` is called before each repetition and
/// after the last, for what is to be measured in turn; all memory that the runs take has been taken
/// before its first call.
pub(super) fn run(
    engine: &mut Engine,
    plan: Plan,
    watch: &Watch,
    mut between: impl FnMut() -> Result,
) -> Result<Rates> {
    let mut bench = Bench::new(engine.model(), plan);
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    bench.warm_up(engine, watch)?;
    for _ in 0..plan.repeat {
        between()?;
        if plan.prompt > 0 {
            prefill.push(per_second(plan.prompt, bench.prefill(engine, watch)?));
        }
        if plan.decode > 0 {
            decode.push(per_second(plan.decode * plan.sequences, bench.decode(engine, watch)?));
        }
    }
    between()?;
    Ok(Rates { prefill: Rate::of(prefill), decode: Rate::of(decode) })
}

/// Tokens and states, made before any clock runs.
pub(super) struct Bench {
    prompt: Vec<u32>,
    /// Read before decoding.
    before: Vec<u32>,
    /// The state behind them, where there are any.
    start: Option<State>,
    /// (decode, sequences)
    ids: Vec<u32>,
    states: Vec<State>,
}

impl Bench {
    pub(super) fn new(model: &Model, plan: Plan) -> Bench {
        let n_vocab = model.n_vocab() as u32;
        let mut random = Rng::with_seed(1);
        let mut ids = |n: usize| (0..n).map(|_| random.u32(..n_vocab)).collect::<Vec<_>>();
        Bench {
            prompt: ids(plan.prompt),
            before: ids(plan.depth),
            start: (plan.depth > 0).then(|| model.new_state()),
            ids: ids(plan.decode * plan.sequences),
            states: (0..plan.sequences).map(|_| model.new_state()).collect(),
        }
    }

    /// Touches every page and starts every thread: one chunk of the prompt, what stands before the
    /// decoded tokens, one step of all sequences.
    pub(super) fn warm_up(&mut self, engine: &mut Engine, watch: &Watch) -> Result {
        let chunk = self.prompt.len().min(engine.chunk());
        if chunk > 0 {
            let tokens = &self.prompt[..chunk];
            engine.forward(&mut [Run { state: &mut self.states[0], tokens, want: Want::Last }])?;
        }
        if let Some(start) = &mut self.start {
            read(engine, watch, start, &self.before)?;
        }
        self.begin()?;
        let run = |state| Run { state, tokens: &[0], want: Want::Last };
        engine.forward(&mut self.states.iter_mut().map(run).collect::<Vec<_>>())?;
        Ok(())
    }

    /// Sets every sequence to where it decodes from, with memory for all it will decode.
    fn begin(&mut self) -> Result {
        let tokens = self.ids.len() / self.states.len();
        for state in &mut self.states {
            match &self.start {
                Some(start) => state.clone_from(start),
                None => state.reset(),
            }
            // One comes before the others.
            state.reserve(tokens + 1)?;
        }
        Ok(())
    }

    fn prefill(&mut self, engine: &mut Engine, watch: &Watch) -> Result<Duration> {
        let state = &mut self.states[0];
        state.reset();
        let start = Instant::now();
        read(engine, watch, state, &self.prompt)?;
        Ok(start.elapsed())
    }

    /// The time that all sequences take to decode their tokens.
    pub(super) fn decode(&mut self, engine: &mut Engine, watch: &Watch) -> Result<Duration> {
        self.begin()?;
        let sequences = self.states.len();
        let mut step = |ids: &[u32]| {
            watch.check()?;
            let runs = self.states.iter_mut().zip(ids.chunks(1));
            let runs = runs.map(|(state, tokens)| Run { state, tokens, want: Want::Last });
            engine.forward(&mut runs.collect::<Vec<_>>()).map_err(Failure::from)
        };
        // States move to where they are read with their first token, which is no part of the rate.
        let n = self.ids.len().min(sequences);
        step(&self.ids[..n])?;
        let start = Instant::now();
        self.ids.chunks(sequences).try_for_each(&mut step)?;
        let time = start.elapsed();
        // A fast wrong answer is no answer.
        if engine.logits(0).iter().all(|logit| logit.is_finite()) {
            Ok(time)
        } else {
            Err(Failure::with("the logits are not finite", "check the file with `brooklet verify`"))
        }
    }
}

/// Reads `tokens`, chunk by chunk; logits of the last one alone.
fn read(engine: &mut Engine, watch: &Watch, state: &mut State, tokens: &[u32]) -> Result {
    let mut n = 0;
    for part in tokens.chunks(engine.chunk()) {
        watch.check()?;
        n += part.len();
        let want = if n == tokens.len() { Want::Last } else { Want::None };
        engine.forward(&mut [Run { state, tokens: part, want }])?;
    }
    Ok(())
}

fn per_second(n: usize, time: Duration) -> f64 {
    n as f64 / time.as_secs_f64().max(1e-9)
}

impl Rate {
    fn of(all: Vec<f64>) -> Option<Rate> {
        Some(Rate { median: median(&all)?, all })
    }
}

/// The middle value, or the mean of the two in the middle; `None` of nothing.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!(Rate::of(Vec::new()).is_none());
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
