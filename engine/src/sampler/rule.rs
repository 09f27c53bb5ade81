//! The choice that a device can make by itself, so that it goes on without the host: the likeliest
//! token.
//!
//! Here is what it chooses; `cuda/choose.cu` is the same on a card. Not here: when a device may
//! (`generate.rs`). Test: `cuda/alone.rs`, `tests/alone.rs`.

use super::{Sampler, truncate};

/// The largest of the first `among` logits, of equal ones the lowest id; a NaN is never chosen, and
/// where no logit is above -∞, token 0 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Likeliest {
    pub(crate) among: usize,
}

impl Likeliest {
    /// The token.
    #[cfg(any(test, feature = "interpreter"))]
    pub(crate) fn of(self, logits: &[f32]) -> u32 {
        let logits = &logits[..self.among];
        match truncate::max(logits) {
            f32::NEG_INFINITY => 0,
            max => truncate::position(logits, max).unwrap_or(0) as u32,
        }
    }
}

impl Sampler {
    /// The rule by which [`Sampler::sample`] chooses among so many logits; none where it is no rule
    /// of a device's.
    pub(crate) fn rule(&self, known: usize) -> Option<Likeliest> {
        let is_plain = self.chain.is_argmax() && !self.chain.changes_logits();
        let among = known.min(self.n_vocab);
        (is_plain && self.grammar.is_none()).then_some(Likeliest { among })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::SamplerOptions;

    fn rule(options: SamplerOptions) -> Option<Likeliest> {
        Sampler::new(options, 6).unwrap().rule(5)
    }

    #[test]
    fn it_is_what_the_sampler_chooses() {
        let (none, nan) = (f32::NEG_INFINITY, f32::NAN);
        let mut sampler = Sampler::new(SamplerOptions::greedy(), 6).unwrap();
        let rule = sampler.rule(5).unwrap();
        for (logits, expected) in [
            ([1.0, 3.0, 2.0, 3.0, 0.0, 9.0], 1),
            ([nan, -5.0, nan, -1.0, nan, 9.0], 3),
            ([-0.0, 0.0, -0.0, 0.0, -1.0, 9.0], 0),
            ([none, nan, none, none, nan, 9.0], 0),
            ([none, f32::INFINITY, nan, f32::INFINITY, 0.0, nan], 1),
        ] {
            assert_eq!((rule.of(&logits), sampler.sample(&logits[..5])), (expected, expected));
        }
    }

    #[test]
    fn whatever_looks_at_more_than_logits_needs_the_host() {
        let greedy = SamplerOptions::greedy;
        assert_eq!(rule(greedy()), Some(Likeliest { among: 5 }));
        assert_eq!(rule(SamplerOptions::new().top_k(1)), Some(Likeliest { among: 5 }));
        assert_eq!(rule(greedy().repetition_penalty(1.1)), None);
        assert_eq!(rule(greedy().logit_bias(vec![(2, 1.0)])), None);
        assert_eq!(rule(greedy().dry_multiplier(0.5)), None);
        assert_eq!(rule(SamplerOptions::new()), None);
    }
}
