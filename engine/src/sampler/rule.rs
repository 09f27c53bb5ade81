//! Choices that a device can make by itself, so that it goes on without the host: the likeliest
//! token, or one that is drawn behind a temperature, top-k, top-p and min-p in any order.
//!
//! Here is what it needs to know; `cuda/choose.cu` is the same on a card, bit by bit. Not here:
//! when a device may (`generate.rs`). Test: below, `cuda/alone.rs`, `tests/alone.rs`.

// Nothing but a card looks at its numbers.
#![cfg_attr(not(feature = "cuda"), allow(dead_code))]

use super::{Sampler, Step};

/// No token: no logit is above -∞. The sampler takes token 0 then, and no random number.
pub(crate) const NOTHING: u32 = u32::MAX;

/// The rule by which a sampler chooses.
#[derive(Debug)]
pub(crate) struct Rule<'s> {
    sampler: &'s Sampler,
    /// The first so many logits are looked at.
    pub(crate) among: usize,
    /// How a token is drawn; the likeliest is taken where there is none.
    pub(crate) draw: Option<Draw>,
}

/// The numbers of a draw, as a card reads them (`draw.cuh`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Draw {
    /// The temperature that comes first, and one that comes later.
    pub(crate) temperature: f32,
    pub(crate) later: f32,
    /// So many tokens have to be among those that are taken in.
    pub(crate) at_least: u32,
    pub(crate) top_k: u32,
    pub(crate) top_p: f32,
    pub(crate) min_p: f32,
    /// A byte for each step, 0 behind the last.
    pub(crate) steps: u32,
}

impl Rule<'_> {
    /// The share at which token `i` from here on is drawn.
    pub(crate) fn share(&self, i: usize) -> f64 {
        let mut rng = self.sampler.rng.clone();
        (0..i).for_each(|_| _ = rng.uniform());
        rng.uniform()
    }

    /// Token `i` from here on, or [`NOTHING`]: by the sampler itself.
    #[cfg(any(test, feature = "interpreter"))]
    pub(crate) fn choose(&self, i: usize, logits: &[f32]) -> u32 {
        let logits = &logits[..self.among];
        if super::truncate::max(logits) == f32::NEG_INFINITY {
            return NOTHING;
        }
        let mut sampler = self.sampler.clone();
        (0..i).for_each(|_| sampler.drew());
        sampler.sample(logits)
    }
}

impl Sampler {
    /// The rule by which [`Sampler::sample`] chooses among so many logits; `None` where a device
    /// cannot: what came before counts, or a step is none of those above.
    pub(crate) fn rule(&self, known: usize) -> Option<Rule<'_>> {
        let Sampler { chain, options, mirostat, grammar, .. } = self;
        if chain.changes_logits() || mirostat.is_some() || grammar.is_some() {
            return None;
        }
        let rule = |draw| Some(Rule { sampler: self, among: known.min(self.n_vocab), draw });
        if chain.is_argmax() {
            return rule(None);
        }
        let (temperature, at_least, steps) = chain.start(options);
        let bytes = steps.iter().map(|step| match step {
            Step::TopK => Some(1),
            Step::TopP => Some(2),
            Step::MinP => Some(3),
            Step::Temperature if options.dynatemp_range == 0.0 => Some(4),
            _ => None,
        });
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        rule(Some(Draw {
            temperature,
            later: options.temperature,
            at_least: number(at_least),
            top_k: number(options.top_k),
            top_p: options.top_p,
            min_p: options.min_p,
            // Each step comes once: four bytes hold them.
            steps: bytes.rev().try_fold(0, |steps, byte| Some(steps << 8 | byte?))?,
        }))
    }

    /// A device has drawn a token in this sampler's place.
    pub(crate) fn drew(&mut self) {
        if !self.chain.is_argmax() {
            self.rng.uniform();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::SamplerOptions;

    fn sampler(options: SamplerOptions) -> Sampler {
        Sampler::new(options.seed(7), 6).unwrap()
    }

    #[test]
    fn tokens_are_those_that_the_sampler_chooses() {
        let logits = [0.5, 1.0, 0.25, 0.5, 1.0, 9.0];
        for options in [SamplerOptions::greedy(), SamplerOptions::new().temperature(2.0).top_k(4)] {
            let mut own = sampler(options.clone());
            let device = own.clone();
            let rule = device.rule(5).unwrap();
            let mut along = own.clone();
            for i in 0..20 {
                assert_eq!(rule.choose(i, &logits), own.sample(&logits[..5]));
                along.drew();
                assert_eq!(along.state(), own.state());
            }
        }
        let drawn = sampler(SamplerOptions::new());
        let mut rng = drawn.rng.clone();
        let shares = [0, 1, 2].map(|i| drawn.rule(5).unwrap().share(i));
        assert_eq!(shares, [(); 3].map(|()| rng.uniform()));
        // Token 0, and no random number.
        let nothing = [f32::NEG_INFINITY, f32::NAN, f32::NEG_INFINITY, f32::NAN, f32::NAN, 9.0];
        assert_eq!(drawn.rule(5).unwrap().choose(0, &nothing), NOTHING);
        let mut sampled = drawn.clone();
        assert_eq!((sampled.sample(&nothing[..5]), sampled.state()), (0, drawn.state()));
    }

    #[test]
    fn whatever_looks_at_more_needs_the_host() {
        let draw = |options| sampler(options).rule(5).map(|rule| rule.draw);
        let (greedy, new) = (SamplerOptions::greedy, SamplerOptions::new);
        assert_eq!(draw(greedy()), Some(None));
        assert_eq!(draw(new().top_k(1)), Some(None));
        let first = new().temperature(0.5).top_k(3).top_p(0.9).min_p(0.1);
        let numbers = Draw {
            temperature: 0.5,
            later: 0.5,
            at_least: 3,
            top_k: 3,
            top_p: 0.9,
            min_p: 0.1,
            steps: 0x03_02_01,
        };
        assert_eq!(draw(first.clone()), Some(Some(numbers)));
        let last = first.steps(Step::TEMPERATURE_LAST);
        let numbers = Draw { temperature: 1.0, steps: 0x04_03_02_01, ..numbers };
        assert_eq!(draw(last), Some(Some(numbers)));
        let plain = draw(new()).flatten().unwrap();
        assert_eq!((plain.steps, plain.at_least), (0, u32::MAX));
        for options in [
            greedy().repetition_penalty(1.1),
            greedy().logit_bias(vec![(2, 1.0)]),
            greedy().dry_multiplier(0.5),
            new().dynatemp_range(0.5),
            new().mirostat_tau(5.0),
            new().xtc_probability(0.5),
            new().typical_p(0.9),
            new().top_n_sigma(1.0),
        ] {
            assert_eq!(draw(options.clone()), None, "{options:?}");
        }
    }
}
