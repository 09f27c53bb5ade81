//! Mirostat 2: keeps the surprise of a text near a target, by cutting off tokens whose own surprise
//! is above a bound that follows the texts'.
//!
//! The bound μ begins at 2τ. Tokens with `-log2 p > μ` are cut; of the token drawn, with the
//! probability p' that it had among those that were left, μ learns: `μ ← μ - η (-log2 p' - τ)`.
//! Source: Basu et al. 2021 (arXiv 2007.14966), algorithm 1 without its estimate of Zipf's
//! exponent, which is the authors' second version (github.com/basusourya/mirostat). Test:
//! `oracles.rs`.

use super::SamplerOptions;

/// The bound, and what it follows.
#[derive(Clone, Debug)]
pub(super) struct Mirostat {
    /// μ, in bits.
    pub(super) bound: f64,
    tau: f64,
    eta: f64,
}

impl Mirostat {
    /// `None` where it is off.
    pub(super) fn new(options: &SamplerOptions) -> Option<Mirostat> {
        let (tau, eta) = (f64::from(options.mirostat_tau), f64::from(options.mirostat_eta));
        options.is_mirostat().then_some(Mirostat { bound: 2.0 * tau, tau, eta })
    }

    /// Learns of the surprise of a token that was drawn, in bits.
    pub(super) fn learn(&mut self, surprise: f64) {
        self.bound -= self.eta * (surprise - self.tau);
    }

    pub(super) fn reset(&mut self) {
        self.bound = 2.0 * self.tau;
    }
}
