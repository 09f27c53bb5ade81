//! Options of a sampler: their ranges, and what each means.
//!
//! Only the numbers and their checks; the formulas' code is in `penalty.rs`, `dry.rs`,
//! `truncate.rs`, `cuts.rs` and `mirostat.rs`, with their sources.
//! Tests: `tests.rs`.

use super::step::{self, Step};
use crate::error::{EngineError, Result};

/// The most tokens that a penalty window may hold: a bound on memory.
const MAX_WINDOW: usize = 1 << 20;

/// How to sample. The default draws from the model's own distribution, with nothing cut or
/// penalized.
///
/// With `l` a token's logit, `w = exp(l - max l)` its weight, `c` how often it came (see
/// `penalty_decay`):
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SamplerOptions {
    /// `l ← l / T`. 0 takes the likeliest token always; 1 is the model's own distribution. Default
    /// 1.
    pub temperature: f32,
    /// Keep the k likeliest tokens; 0 keeps all. Default 0.
    pub top_k: usize,
    /// Keep the fewest likeliest tokens whose shares (of what top-k left) sum to at least p; 1
    /// keeps all, 0 one. Default 1.
    pub top_p: f32,
    /// Keep tokens at least p times as likely as the likeliest; 0 keeps all. Default 0.
    pub min_p: f32,
    /// θ: tokens that came get `l ← l / θ` where l > 0, else `l ← l · θ`; 1 is off. Default 1.
    pub repetition_penalty: f32,
    /// `l ← l - presence_penalty` for tokens that came; 0 is off. Default 0.
    pub presence_penalty: f32,
    /// `l ← l - frequency_penalty · c`; 0 is off. Default 0.
    pub frequency_penalty: f32,
    /// Each coming counts `decay^age` in `c`, the newest token being of age 0; RWKV's
    /// `alpha_decay`. 1 counts all alike. Default 1.
    pub penalty_decay: f32,
    /// Tokens that the penalties look back on; 0 is all of them. Default 0.
    pub penalty_window: usize,
    /// m: a token that would lengthen a repetition of n tokens gets
    /// `l ← l - m · base^(n - allowed)` (DRY); 0 is off. Default 0.
    pub dry_multiplier: f32,
    /// Growth of DRY's penalty with each repeated token, 1 at least. Default 1.75.
    pub dry_base: f32,
    /// Repeated tokens from which on DRY lowers the next. Default 2.
    pub dry_allowed_length: usize,
    /// Tokens that DRY looks back on, 1 at least. Default 1024.
    pub dry_window: usize,
    /// Tokens that no repetition goes across, and that DRY does not lower
    /// ([`crate::Text::breakers`] finds them by their text). Default none.
    pub dry_breakers: Vec<u32>,
    /// Added to the logits of these tokens; -∞ forbids a token ([`crate::Text::bias`] finds tokens
    /// by their text). Default none.
    pub logit_bias: Vec<(u32, f32)>,
    /// n: keep tokens with `l ≥ max l - n σ`, σ being the standard deviation of the logits that are
    /// left; 0 keeps all. Default 0.
    pub top_n_sigma: f32,
    /// Keep the fewest tokens nearest to the expected surprise, by `|-ln p - H|`, whose shares sum
    /// to at least this; 1 keeps all. Default 1.
    pub typical_p: f32,
    /// The chance that XTC drops all tokens of a share of `xtc_threshold` or more but the least
    /// likely of them, where there are two at least; 0 is off. Default 0.
    pub xtc_probability: f32,
    /// See `xtc_probability`; above 0.5 there are never two. Default 0.1.
    pub xtc_threshold: f32,
    /// r: the temperature becomes `T - r + 2 r (H / ln n)^exponent`, 0 at least, with the entropy H
    /// of the n tokens that are left; 0 is off. Nothing happens to a temperature of 0. Default 0.
    pub dynatemp_range: f32,
    /// See `dynatemp_range`. Default 1.
    pub dynatemp_exponent: f32,
    /// τ: the surprise in bits that mirostat 2 steers to, in place of all cuts (top-n-sigma, top-k,
    /// typical, top-p, min-p, XTC); 0 is off. Default 0.
    pub mirostat_tau: f32,
    /// η: how fast mirostat learns. Default 0.1.
    pub mirostat_eta: f32,
    /// The steps in their order; one that is not in it is off. Default
    /// [`Step::TEMPERATURE_FIRST`].
    pub steps: Vec<Step>,
    /// Start of the generator; `None` chooses one, see `Sampler::seed`. Default `None`.
    pub seed: Option<u64>,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_decay: 1.0,
            penalty_window: 0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_window: 1024,
            dry_breakers: Vec::new(),
            logit_bias: Vec::new(),
            top_n_sigma: 0.0,
            typical_p: 1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            mirostat_tau: 0.0,
            mirostat_eta: 0.1,
            steps: Step::TEMPERATURE_FIRST.to_vec(),
            seed: None,
        }
    }
}

impl SamplerOptions {
    /// The defaults; options are set one after the other:
    ///
    /// ```
    /// use brooklet::sampler::SamplerOptions;
    ///
    /// let options = SamplerOptions::new().temperature(0.8).top_p(0.9).seed(1);
    /// assert_eq!(options.seed, Some(1));
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        temperature: f32,
        top_k: usize,
        top_p: f32,
        min_p: f32,
        repetition_penalty: f32,
        presence_penalty: f32,
        frequency_penalty: f32,
        penalty_decay: f32,
        penalty_window: usize,
        dry_multiplier: f32,
        dry_base: f32,
        dry_allowed_length: usize,
        dry_window: usize,
        top_n_sigma: f32,
        typical_p: f32,
        xtc_probability: f32,
        xtc_threshold: f32,
        dynatemp_range: f32,
        dynatemp_exponent: f32,
        mirostat_tau: f32,
        mirostat_eta: f32,
    }

    /// Sets [`SamplerOptions::dry_breakers`].
    #[must_use]
    pub fn dry_breakers(mut self, tokens: impl Into<Vec<u32>>) -> Self {
        self.dry_breakers = tokens.into();
        self
    }

    /// Adds to [`SamplerOptions::logit_bias`].
    #[must_use]
    pub fn logit_bias(mut self, biases: impl IntoIterator<Item = (u32, f32)>) -> Self {
        self.logit_bias.extend(biases);
        self
    }

    /// Sets [`SamplerOptions::steps`].
    #[must_use]
    pub fn steps(mut self, steps: &[Step]) -> Self {
        self.steps = steps.to_vec();
        self
    }

    optional_setters! { seed: u64 }

    /// Options that take the likeliest token always.
    pub fn greedy() -> Self {
        SamplerOptions { temperature: 0.0, ..Self::default() }
    }

    /// Whether the likeliest token is always taken, so that the seed does not matter: at
    /// temperature 0, or with top-k 1, where those are among the steps.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0 && self.steps.contains(&Step::Temperature)
            || self.top_k == 1 && !self.is_mirostat() && self.steps.contains(&Step::TopK)
    }

    /// Whether mirostat takes the place of the cuts.
    pub(super) fn is_mirostat(&self) -> bool {
        self.mirostat_tau > 0.0
    }

    /// Whether a step changes anything.
    pub(super) fn is_on(&self, step: Step) -> bool {
        let cuts = !self.is_mirostat();
        match step {
            Step::Penalties => {
                self.repetition_penalty != 1.0
                    || self.presence_penalty != 0.0
                    || self.frequency_penalty != 0.0
            }
            Step::Dry => self.dry_multiplier != 0.0,
            Step::Bias => !self.logit_bias.is_empty(),
            Step::TopNSigma => cuts && self.top_n_sigma > 0.0,
            Step::TopK => cuts && self.top_k > 0,
            Step::Typical => cuts && self.typical_p < 1.0,
            Step::TopP => cuts && self.top_p < 1.0,
            Step::MinP => cuts && self.min_p > 0.0,
            Step::Xtc => cuts && self.xtc_probability > 0.0 && self.xtc_threshold <= 0.5,
            Step::Temperature => self.temperature != 1.0 || self.dynatemp_range > 0.0,
        }
    }

    /// Checks every option against its range, and tokens against a vocabulary of `n_vocab` tokens.
    ///
    /// # Errors
    /// The first option that is outside, by name.
    pub fn check(&self, n_vocab: usize) -> Result<()> {
        let numbers = self.numbers();
        if let Some((name, expected, found, _)) = numbers.iter().find(|(_, _, _, inside)| !inside) {
            return Err(EngineError::SamplerOption { name, expected, found: found.to_string() });
        }
        let windows =
            [("penalty_window", 0, self.penalty_window), ("dry_window", 1, self.dry_window)];
        if let Some((name, least, found)) =
            windows.into_iter().find(|(_, least, found)| !(*least..=MAX_WINDOW).contains(found))
        {
            let expected =
                if least == 0 { "at most 1048576 tokens" } else { "1 to 1048576 tokens" };
            return Err(EngineError::SamplerOption { name, expected, found: found.to_string() });
        }
        step::check(&self.steps)?;
        let tokens = self.logit_bias.iter().map(|(id, _)| id).chain(&self.dry_breakers);
        if let Some(&id) = tokens.into_iter().find(|id| **id as usize >= n_vocab) {
            return Err(EngineError::UnknownToken { id, n_vocab });
        }
        match self.logit_bias.iter().find(|(_, bias)| bias.is_nan() || *bias == f32::INFINITY) {
            None => Ok(()),
            Some((id, bias)) => Err(EngineError::SamplerOption {
                name: "logit_bias",
                expected: "a finite number or -inf",
                found: format!("{bias} for token {id}"),
            }),
        }
    }

    /// The numbers: name, range in words, value, whether it is inside.
    fn numbers(&self) -> [(&'static str, &'static str, f32, bool); 17] {
        type Check = fn(f32) -> bool;
        let finite: (&str, Check) = ("a finite number", f32::is_finite);
        let at_least_0: (&str, Check) = ("a number from 0 up", |x| x.is_finite() && x >= 0.0);
        let at_least_1: (&str, Check) = ("a number from 1 up", |x| x.is_finite() && x >= 1.0);
        let above_0: (&str, Check) = ("a number above 0", |x| x.is_finite() && x > 0.0);
        let share: (&str, Check) = ("a number from 0 to 1", |x| (0.0..=1.0).contains(&x));
        let factor: (&str, Check) = ("a number above 0, at most 1", |x| x > 0.0 && x <= 1.0);
        [
            ("temperature", self.temperature, at_least_0),
            ("top_p", self.top_p, share),
            ("min_p", self.min_p, share),
            ("repetition_penalty", self.repetition_penalty, above_0),
            ("presence_penalty", self.presence_penalty, finite),
            ("frequency_penalty", self.frequency_penalty, finite),
            ("penalty_decay", self.penalty_decay, factor),
            ("dry_multiplier", self.dry_multiplier, at_least_0),
            ("dry_base", self.dry_base, at_least_1),
            ("top_n_sigma", self.top_n_sigma, at_least_0),
            ("typical_p", self.typical_p, share),
            ("xtc_probability", self.xtc_probability, share),
            ("xtc_threshold", self.xtc_threshold, share),
            ("dynatemp_range", self.dynatemp_range, at_least_0),
            ("dynatemp_exponent", self.dynatemp_exponent, at_least_0),
            ("mirostat_tau", self.mirostat_tau, at_least_0),
            ("mirostat_eta", self.mirostat_eta, above_0),
        ]
        .map(|(name, found, (expected, check))| (name, expected, found, check(found)))
    }
}
