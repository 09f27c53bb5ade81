//! The steps of a sampler and their order.
//!
//! [`TABLE`] has a row per step: its name and what it does. Not here: how (`chain.rs` calls each
//! step's code). Test: below, and `tests.rs` for the order's effect.

use std::fmt;

use crate::error::{EngineError, Result};

/// A step between the logits and the draw. Each acts on the tokens that the steps before it have
/// left; one whose options are neutral does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Repetition, presence and frequency penalties.
    Penalties,
    /// DRY, a penalty on repeated sequences.
    Dry,
    /// Logit bias.
    Bias,
    /// Tokens within n standard deviations of the best.
    TopNSigma,
    /// The k likeliest tokens.
    TopK,
    /// The tokens closest to the expected surprise.
    Typical,
    /// The likeliest tokens up to a share.
    TopP,
    /// Tokens that are not much less likely than the best.
    MinP,
    /// Now and then without the best.
    Xtc,
    /// Temperature, fixed or by entropy.
    Temperature,
}

/// Every step: its name, what it does.
const TABLE: [(Step, &str, &str); 10] = [
    (Step::Penalties, "penalties", "lowers the logits of tokens that came"),
    (Step::Dry, "dry", "lowers the logits of tokens that would go on with a repetition"),
    (Step::Bias, "bias", "adds the biases of single tokens"),
    (Step::TopNSigma, "top-n-sigma", "keeps logits within n standard deviations of the largest"),
    (Step::TopK, "top-k", "keeps the k likeliest tokens"),
    (Step::Typical, "typical", "keeps the tokens whose surprise is nearest to the expected one"),
    (Step::TopP, "top-p", "keeps the likeliest tokens whose shares sum to p"),
    (Step::MinP, "min-p", "keeps tokens at least p times as likely as the likeliest"),
    (Step::Xtc, "xtc", "now and then drops all tokens above a share but the least likely of them"),
    (Step::Temperature, "temperature", "divides the logits, by a number or by what entropy says"),
];

impl Step {
    /// The temperature before the cuts, as in Hugging Face's transformers.
    pub const TEMPERATURE_FIRST: &'static [Step] = &[
        Step::Penalties,
        Step::Dry,
        Step::Bias,
        Step::Temperature,
        Step::TopNSigma,
        Step::TopK,
        Step::Typical,
        Step::TopP,
        Step::MinP,
        Step::Xtc,
    ];

    /// The temperature after the cuts, which then cut the model's own distribution: the order of
    /// llama.cpp and of RWKV's own package.
    pub const TEMPERATURE_LAST: &'static [Step] = &[
        Step::Penalties,
        Step::Dry,
        Step::Bias,
        Step::TopNSigma,
        Step::TopK,
        Step::Typical,
        Step::TopP,
        Step::MinP,
        Step::Xtc,
        Step::Temperature,
    ];

    /// Every step there is.
    pub fn all() -> impl Iterator<Item = Step> {
        TABLE.iter().map(|row| row.0)
    }

    /// The name in [`Step::list`], such as "top-k".
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// A few words on the step.
    pub fn summary(self) -> &'static str {
        self.row().2
    }

    /// Whether it changes logits; the others cut the list of tokens, or reshape it.
    pub(super) fn changes_logits(self) -> bool {
        matches!(self, Step::Penalties | Step::Dry | Step::Bias)
    }

    /// Steps by their names, with semicolons or commas between them:
    /// `"penalties;top-k;temperature"`. Underscores stand for hyphens.
    ///
    /// ```
    /// use brooklet::sampler::Step;
    ///
    /// assert_eq!(Step::list("top-k; temperature")?, [Step::TopK, Step::Temperature]);
    /// # Ok::<(), brooklet::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// A name that no step has, or one that comes twice.
    pub fn list(names: &str) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        for name in names.split([';', ',']).map(str::trim).filter(|name| !name.is_empty()) {
            let plain = name.replace('_', "-").to_ascii_lowercase();
            let plain = match plain.as_str() {
                // As llama.cpp has it.
                "typ-p" | "typical-p" => "typical",
                other => other,
            };
            let row = TABLE.iter().find(|row| row.1 == plain);
            let step = row.map(|row| row.0).ok_or_else(|| EngineError::SamplerStep {
                found: name.to_owned(),
                known: TABLE.map(|row| row.1).join(", "),
            })?;
            steps.push(step);
        }
        check(&steps)?;
        Ok(steps)
    }

    fn row(self) -> &'static (Step, &'static str, &'static str) {
        // Every step has a row: the test below.
        TABLE.iter().find(|row| row.0 == self).unwrap_or(&TABLE[0])
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Refuses a step that comes twice: its memory (a history, a random number) is one.
pub(super) fn check(steps: &[Step]) -> Result<()> {
    match steps.iter().enumerate().find(|(at, step)| steps[..*at].contains(step)) {
        None => Ok(()),
        Some((_, step)) => Err(EngineError::SamplerOption {
            name: "steps",
            expected: "each step once at most",
            found: format!("{step} twice"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_round_and_others_are_refused() {
        for step in Step::all() {
            assert_eq!(Step::list(step.name()).unwrap(), [step]);
            assert_eq!(step.row().0, step);
        }
        for order in [Step::TEMPERATURE_FIRST, Step::TEMPERATURE_LAST] {
            assert_eq!(order.len(), TABLE.len());
            let names: Vec<&str> = order.iter().map(|step| step.name()).collect();
            assert_eq!(Step::list(&names.join(";")).unwrap(), order);
        }
        assert_eq!(Step::list("Top_K,xtc;").unwrap(), [Step::TopK, Step::Xtc]);
        assert_eq!(Step::list("typ_p").unwrap(), [Step::Typical]);
        assert_eq!(Step::list("").unwrap(), []);
        let error = Step::list("top-q").unwrap_err().to_string();
        assert!(error.contains("top-q") && error.contains("top-n-sigma"), "{error}");
        assert!(Step::list("xtc;dry;xtc").unwrap_err().to_string().contains("xtc twice"));
    }
}
