//! Options of a sampler: their ranges, and what each means.
//!
//! Only the numbers and their checks; the formulas' code is in `penalty.rs` and `truncate.rs`.
//! Tests: `tests.rs`.

use crate::error::{EngineError, Result};

/// The most tokens that a penalty window may hold: a bound on memory.
const MAX_WINDOW: usize = 1 << 20;

/// How to sample. The default draws from the model's own distribution, with nothing cut or
/// penalized.
///
/// With `l` a token's logit, `w = exp(l - max l)` its weight, `c` how often it came (see
/// `penalty_decay`):
#[derive(Clone, Debug, PartialEq)]
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
    /// Added to the logits of these tokens, after the penalties; -∞ forbids a token. Default none.
    pub logit_bias: Vec<(u32, f32)>,
    /// The temperature comes after top-k, top-p and min-p, which then cut the model's own
    /// distribution: the order of llama.cpp and of RWKV's own package. Otherwise it comes before
    /// them, as in Hugging Face's transformers. Default false.
    pub temperature_last: bool,
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
            logit_bias: Vec::new(),
            temperature_last: false,
            seed: None,
        }
    }
}

impl SamplerOptions {
    /// Options that take the likeliest token always.
    pub fn greedy() -> Self {
        SamplerOptions { temperature: 0.0, ..Self::default() }
    }

    /// Whether the likeliest token is always taken, so that the seed does not matter.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0 || self.top_k == 1
    }

    /// Checks every option against its range, and the biases against a vocabulary of `n_vocab`
    /// tokens.
    ///
    /// # Errors
    /// The first option that is outside, by name.
    pub fn check(&self, n_vocab: usize) -> Result<()> {
        let at_least_0 = |x: f32| x.is_finite() && x >= 0.0;
        let share = |x: f32| (0.0..=1.0).contains(&x);
        let checks: [(&'static str, &'static str, f32, bool); 7] = [
            ("temperature", "a number from 0 up", self.temperature, at_least_0(self.temperature)),
            ("top_p", "a number from 0 to 1", self.top_p, share(self.top_p)),
            ("min_p", "a number from 0 to 1", self.min_p, share(self.min_p)),
            (
                "repetition_penalty",
                "a number above 0",
                self.repetition_penalty,
                at_least_0(self.repetition_penalty) && self.repetition_penalty > 0.0,
            ),
            (
                "presence_penalty",
                "a finite number",
                self.presence_penalty,
                self.presence_penalty.is_finite(),
            ),
            (
                "frequency_penalty",
                "a finite number",
                self.frequency_penalty,
                self.frequency_penalty.is_finite(),
            ),
            (
                "penalty_decay",
                "a number above 0, at most 1",
                self.penalty_decay,
                share(self.penalty_decay) && self.penalty_decay > 0.0,
            ),
        ];
        if let Some((name, expected, found, _)) =
            checks.into_iter().find(|(_, _, _, inside)| !inside)
        {
            return Err(EngineError::SamplerOption { name, expected, found: found.to_string() });
        }
        if self.penalty_window > MAX_WINDOW {
            return Err(EngineError::SamplerOption {
                name: "penalty_window",
                expected: "at most 1048576 tokens",
                found: self.penalty_window.to_string(),
            });
        }
        for &(id, bias) in &self.logit_bias {
            if id as usize >= n_vocab {
                return Err(EngineError::UnknownToken { id, n_vocab });
            }
            if bias.is_nan() || bias == f32::INFINITY {
                return Err(EngineError::SamplerOption {
                    name: "logit_bias",
                    expected: "a finite number or -inf",
                    found: format!("{bias} for token {id}"),
                });
            }
        }
        Ok(())
    }
}
