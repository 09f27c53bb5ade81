//! From logits to the next token: `Sampler`, a chain of steps with a seeded generator.
//!
//! The chain, in this order: penalties (`penalty.rs`), logit bias, temperature, top-k, top-p, min-p
//! (`truncate.rs`), the draw (`rng.rs`); the temperature may also come after the cuts. Stop strings
//! are found by `StopMatcher` (`stop.rs`); `SamplerState` (`state.rs`) saves what a sampler
//! remembers. All arithmetic is integer or plain IEEE in a fixed order: the same logits, options
//! and seed give the same tokens on every machine. Tests: beside each step; the chain and its
//! distributions in `tests.rs`.

mod options;
mod penalty;
mod rng;
mod state;
mod stop;
mod truncate;

#[cfg(test)]
mod tests;

pub use self::options::SamplerOptions;
use self::penalty::{History, SavedHistory};
use self::rng::Rng;
pub use self::state::SamplerState;
pub use self::stop::{Passed, StopMatcher};
use self::truncate::Candidates;
use crate::error::Result;
use crate::kernels::Isa;
use crate::kernels::simd::simd;

/// Chooses tokens. After `new`, nothing allocates.
///
/// ```
/// use brooklet::sampler::{Sampler, SamplerOptions};
///
/// let options = SamplerOptions { top_p: 0.9, seed: Some(1), ..SamplerOptions::default() };
/// let mut sampler = Sampler::new(options, 4)?;
/// let token = sampler.sample(&[0.0, 9.0, 1.0, 0.5]);
/// sampler.accept(token);
/// assert_eq!(token, 1);
/// # Ok::<(), brooklet::EngineError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    n_vocab: usize,
    isa: Isa,
    seed: u64,
    rng: Rng,
    /// `None` where no penalty is on.
    history: Option<History>,
    /// The logits after penalties and bias. `(n_vocab)`, empty where there are neither.
    changed: Vec<f32>,
    candidates: Candidates,
}

impl Sampler {
    /// A sampler for logits of `n_vocab` tokens.
    ///
    /// # Errors
    /// An option outside its range, a bias on a token outside the vocabulary.
    pub fn new(options: SamplerOptions, n_vocab: usize) -> Result<Self> {
        options.check(n_vocab)?;
        let seed = options.seed.unwrap_or_else(rng::random_seed);
        let history = History::new(&options, n_vocab);
        let changes = history.is_some() || !options.logit_bias.is_empty();
        let draws = !options.is_greedy();
        Ok(Sampler {
            n_vocab,
            // The bits are the same on each; a wrong name is the model's to refuse.
            isa: Isa::from_env().unwrap_or_else(|_| Isa::detect()),
            seed,
            rng: Rng::from_seed(seed),
            history,
            changed: Vec::with_capacity(if changes { n_vocab } else { 0 }),
            candidates: Candidates::new(if draws { n_vocab } else { 0 }),
            options,
        })
    }

    /// The options as given.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// The seed in use: the one given, or the one chosen where none was.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Chooses a token; it counts for later penalties only after [`Sampler::accept`].
    ///
    /// At temperature 0 (or top-k 1) the largest logit wins, of equal ones the lowest id; otherwise
    /// one number is taken from the generator. A NaN is never chosen, +∞ only competes with +∞;
    /// where no logit is above -∞, token 0 is chosen. Logits beyond n_vocab are not looked at,
    /// missing ones are never chosen.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        simd!(self.isa, self.choose(logits))
    }

    #[inline(always)]
    fn choose(&mut self, logits: &[f32]) -> u32 {
        let logits = &logits[..logits.len().min(self.n_vocab)];
        let logits =
            change(logits, self.history.as_mut(), &self.options.logit_bias, &mut self.changed);
        let max = truncate::max(logits);
        if max == f32::NEG_INFINITY {
            return 0;
        }
        if self.options.is_greedy() {
            return truncate::position(logits, max).unwrap_or(0) as u32;
        }
        let candidates = &mut self.candidates;
        let top_k = if self.options.top_k > 0 { self.options.top_k } else { usize::MAX };
        let temperature = self.options.temperature;
        let last = self.options.temperature_last && temperature != 1.0;
        candidates.fill(logits, max, if last { 1.0 } else { temperature }, top_k);
        candidates.top_k(top_k);
        candidates.top_p(self.options.top_p);
        candidates.min_p(self.options.min_p);
        if last {
            candidates.temper(logits, max, temperature);
        }
        candidates.draw(self.rng.uniform())
    }

    /// Takes a token into the penalty history: each one sampled, and those of the prompt where they
    /// shall count.
    ///
    /// Tokens outside the vocabulary are not remembered, and none is where no penalty is on.
    pub fn accept(&mut self, token: u32) {
        if let Some(history) = self.history.as_mut().filter(|_| (token as usize) < self.n_vocab) {
            history.accept(token);
        }
    }

    /// Back to the start: the generator at its seed, the history empty.
    pub fn reset(&mut self) {
        self.rng = Rng::from_seed(self.seed);
        if let Some(history) = &mut self.history {
            history.reset();
        }
    }

    /// Starts the generator at another seed; the penalty history stays.
    pub fn reseed(&mut self, seed: u64) {
        self.seed = seed;
        self.rng = Rng::from_seed(seed);
    }

    /// The sampler's memory: enough to go on exactly from here, with the same options.
    pub fn state(&self) -> SamplerState {
        SamplerState {
            seed: self.seed,
            rng: self.rng.clone(),
            history: self.history.as_ref().map_or(SavedHistory::Off, History::save),
        }
    }

    /// Goes on from a saved state. The options stay this sampler's own.
    ///
    /// # Errors
    /// A token outside the vocabulary, or totals over all tokens where the options ask for a
    /// window. The sampler is unchanged then.
    pub fn restore(&mut self, state: &SamplerState) -> Result<()> {
        let largest = match &state.history {
            SavedHistory::Off => None,
            SavedHistory::Window(tokens) => tokens.iter().copied().max(),
            SavedHistory::All(counts) => counts.iter().map(|(token, _)| *token).max(),
        };
        if let Some(token) = largest.filter(|&token| token as usize >= self.n_vocab) {
            let expected = format!("tokens of a vocabulary of {}", self.n_vocab);
            return Err(state::bad(&expected, format!("token {token}")));
        }
        if let Some(history) = &mut self.history
            && !history.restore(&state.history)
        {
            let expected = format!("the last {} tokens", self.options.penalty_window);
            return Err(state::bad(
                &expected,
                "counts of all tokens, saved without a window".to_owned(),
            ));
        }
        self.seed = state.seed;
        self.rng = state.rng.clone();
        Ok(())
    }
}

/// The logits after penalties and bias: in `changed` where there are any, else as they came.
fn change<'a>(
    logits: &'a [f32],
    history: Option<&mut History>,
    bias: &[(u32, f32)],
    changed: &'a mut Vec<f32>,
) -> &'a [f32] {
    if history.is_none() && bias.is_empty() {
        return logits;
    }
    changed.clear();
    changed.extend_from_slice(logits);
    if let Some(history) = history {
        history.apply(changed);
    }
    for &(token, bias) in bias {
        if let Some(logit) = changed.get_mut(token as usize) {
            *logit += bias;
        }
    }
    changed
}
