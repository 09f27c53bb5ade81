//! From logits to the next token: `Sampler`, a chain of steps with a seeded generator.
//!
//! | module | |
//! |---|---|
//! | `step` | the steps by name, and their orders |
//! | `options` | numbers of the steps, with their ranges |
//! | `chain` | runs the steps over the logits of one token |
//! | `penalty`, `dry` | steps that lower logits by what came before |
//! | `truncate`, `cuts`, `mirostat` | steps that leave out tokens; the draw |
//! | `select` | the end of a sorted prefix, without sorting |
//! | `rng` | the random numbers |
//! | `rule` | choices that a device can make by itself |
//! | `state` | what a sampler remembers, as bytes |
//! | `logprobs` | log-probabilities and the likeliest tokens, for callers |
//! | `stop` | strings that end a text |
//!
//! All arithmetic is integer or plain IEEE in a fixed order: the same logits, options
//! and seed give the same tokens on every machine. Tests: beside each step; the chain and its
//! distributions in `tests.rs`, formulas against plain f64 in `oracles.rs`.

mod chain;
mod cuts;
mod dry;
mod logprobs;
mod mirostat;
mod options;
#[cfg(test)]
mod oracles;
mod penalty;
mod rng;
mod rule;
mod select;
mod state;
mod step;
mod stop;
mod truncate;

#[cfg(test)]
mod tests;

use self::chain::Chain;
use self::dry::Dry;
pub use self::logprobs::{LogSoftmax, log_softmax, top_k};
use self::mirostat::Mirostat;
pub use self::options::SamplerOptions;
use self::penalty::{History, SavedHistory};
use self::rng::Rng;
#[cfg(feature = "cuda")]
pub(crate) use self::rule::Draw;
pub(crate) use self::rule::{NOTHING, Rule};
pub use self::state::SamplerState;
pub use self::step::Step;
pub use self::stop::{Passed, StopMatcher};
use self::truncate::Candidates;
use crate::error::Result;
use crate::grammar::Grammar;
use crate::kernels::Isa;
use crate::kernels::simd::simd;

/// Chooses tokens. After `new`, nothing allocates.
///
/// ```
/// use brooklet::sampler::{Sampler, SamplerOptions};
///
/// let options = SamplerOptions::new().top_p(0.9).seed(1);
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
    chain: Chain,
    rng: Rng,
    /// `None` where no penalty is on.
    history: Option<History>,
    /// `None` where it is off.
    dry: Option<Dry>,
    /// `None` where it is off.
    mirostat: Option<Mirostat>,
    /// The logits after penalties and biases. `(n_vocab)`, empty where there are none.
    changed: Vec<f32>,
    candidates: Candidates,
    grammar: Option<Grammar>,
}

impl Sampler {
    /// A sampler for logits of `n_vocab` tokens.
    ///
    /// # Errors
    /// An option outside its range, a bias on a token outside the vocabulary.
    pub fn new(options: SamplerOptions, n_vocab: usize) -> Result<Self> {
        options.check(n_vocab)?;
        let seed = options.seed.unwrap_or_else(rng::random_seed);
        let chain = Chain::new(&options);
        let is_on = |step| options.steps.contains(&step);
        let changes = chain.changes_logits();
        let draws = !chain.is_argmax();
        Ok(Sampler {
            n_vocab,
            // The bits are the same on each; a wrong name is the model's to refuse.
            isa: Isa::from_env().unwrap_or_else(|_| Isa::detect()),
            seed,
            rng: Rng::from_seed(seed),
            history: History::new(&options, n_vocab).filter(|_| is_on(Step::Penalties)),
            dry: Dry::new(&options, n_vocab).filter(|_| is_on(Step::Dry)),
            mirostat: Mirostat::new(&options).filter(|_| draws),
            changed: Vec::with_capacity(if changes { n_vocab } else { 0 }),
            candidates: Candidates::new(if draws { n_vocab } else { 0 }),
            chain,
            options,
            grammar: None,
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
    /// one number is taken from the generator, and one more for XTC. A NaN is never chosen, +∞ only
    /// competes with +∞; where no logit is above -∞, token 0 is chosen. Logits beyond n_vocab are
    /// not looked at, missing ones are never chosen.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        simd!(self.isa, self.choose(logits))
    }

    /// Chooses only tokens that a grammar lets follow, from here on; with `None`, any. The grammar
    /// goes on with every token that [`Sampler::accept`] takes, and allocates.
    pub fn constrain(&mut self, grammar: impl Into<Option<Grammar>>) {
        self.grammar = grammar.into();
        if self.grammar.is_some() {
            self.changed.reserve(self.n_vocab);
        }
    }

    /// The grammar, and how far the text is in it.
    pub fn grammar(&self) -> Option<&Grammar> {
        self.grammar.as_ref()
    }

    /// Lets the grammar begin anew, for another text.
    pub fn restart_grammar(&mut self) {
        if let Some(grammar) = &mut self.grammar {
            grammar.reset();
        }
    }

    /// Whether the grammar lets nothing follow any more, so that the text is at its end.
    pub fn is_over(&self) -> bool {
        self.grammar.as_ref().is_some_and(Grammar::is_over)
    }

    /// What went wrong with the grammar, if anything did.
    ///
    /// # Errors
    /// The model holds none of the tokens that can follow for possible, or finding them asks for
    /// too much work.
    pub fn check(&self) -> Result<()> {
        self.grammar.as_ref().map_or(Ok(()), Grammar::check)
    }

    /// How many of `tokens` the grammar lets follow; all, where there is none.
    pub(crate) fn allowed(&self, tokens: &[u32]) -> usize {
        self.grammar.as_ref().map_or(tokens.len(), |grammar| grammar.allowed(tokens))
    }

    /// Takes a token into the history of the penalties and of DRY: each one sampled, and those of
    /// the prompt where they shall count.
    ///
    /// Tokens outside the vocabulary are not remembered, and none is where nothing looks back.
    pub fn accept(&mut self, token: u32) {
        if token as usize >= self.n_vocab {
            return;
        }
        if let Some(history) = &mut self.history {
            history.accept(token);
        }
        if let Some(dry) = &mut self.dry {
            dry.accept(token);
        }
        if let Some(grammar) = &mut self.grammar {
            grammar.accept(token);
        }
    }

    /// Back to the start: the generator at its seed, the history empty, mirostat's bound and the
    /// grammar as they were.
    pub fn reset(&mut self) {
        self.rng = Rng::from_seed(self.seed);
        if let Some(history) = &mut self.history {
            history.reset();
        }
        if let Some(dry) = &mut self.dry {
            dry.reset();
        }
        if let Some(mirostat) = &mut self.mirostat {
            mirostat.reset();
        }
        self.restart_grammar();
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
            dry: self.dry.as_ref().map(|dry| dry.tokens().collect()),
            bound: self.mirostat.as_ref().map(|mirostat| mirostat.bound),
            grammar: self.grammar.as_ref().map(|grammar| {
                let (print, tokens) = grammar.position();
                (print, tokens.to_vec())
            }),
        }
    }

    /// Goes on from a saved state. The options stay this sampler's own; its grammar goes on where
    /// the state's was, if that is the same one, else it stays where it is.
    ///
    /// # Errors
    /// A token outside the vocabulary, totals over all tokens where the options ask for a window,
    /// or tokens that the grammar does not allow. The sampler is unchanged then.
    pub fn restore(&mut self, state: &SamplerState) -> Result<()> {
        let largest = match &state.history {
            SavedHistory::Off => None,
            SavedHistory::Window(tokens) => tokens.iter().copied().max(),
            SavedHistory::All(counts) => counts.iter().map(|(token, _)| *token).max(),
        };
        let largest = largest.max(state.dry.iter().flatten().copied().max());
        let in_grammar = state.grammar.iter().flat_map(|(_, tokens)| tokens);
        let largest = largest.max(in_grammar.copied().max());
        if let Some(token) = largest.filter(|&token| token as usize >= self.n_vocab) {
            let expected = format!("tokens of a vocabulary of {}", self.n_vocab);
            return Err(state::bad(&expected, format!("token {token}")));
        }
        let grammar = match (&self.grammar, &state.grammar) {
            (Some(grammar), Some((print, tokens))) if grammar.position().0 == *print => {
                Some(grammar.behind(tokens)?)
            }
            _ => None,
        };
        if let Some(history) = &mut self.history
            && !history.restore(&state.history)
        {
            let expected = format!("the last {} tokens", self.options.penalty_window);
            return Err(state::bad(
                &expected,
                "counts of all tokens, saved without a window".to_owned(),
            ));
        }
        if let Some(dry) = &mut self.dry {
            dry.reset();
            state.dry.iter().flatten().for_each(|token| dry.accept(*token));
        }
        if let Some(mirostat) = &mut self.mirostat {
            mirostat.reset();
            mirostat.bound = state.bound.unwrap_or(mirostat.bound);
        }
        self.grammar = grammar.or(self.grammar.take());
        self.seed = state.seed;
        self.rng = state.rng.clone();
        Ok(())
    }
}
