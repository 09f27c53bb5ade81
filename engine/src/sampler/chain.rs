//! The steps between the logits and the draw, in the order that the options say.
//!
//! Steps that change logits stand mostly before those that leave out tokens, and run over all of
//! them. One that comes later changes the logits as the steps before have left them (divided by the
//! temperature, if that came), and the tokens that are left are weighed again. Not here: what a
//! step does. Test: `tests.rs`.

use super::options::SamplerOptions;
use super::step::Step;
use super::truncate::{self, Candidates};
use super::{Dry, History, Sampler};

/// The steps that do anything.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    /// Those that change all logits, before any token is left out.
    before: Vec<Step>,
    /// The others.
    after: Vec<Step>,
    is_greedy: bool,
}

impl Chain {
    pub(super) fn new(options: &SamplerOptions) -> Chain {
        let mut after = options.steps.clone();
        after.retain(|step| options.is_on(*step));
        let n = after.iter().take_while(|step| step.changes_logits()).count();
        let before = after.drain(..n).collect();
        Chain { before, after, is_greedy: options.is_greedy() }
    }

    /// Whether any step changes logits.
    pub(super) fn changes_logits(&self) -> bool {
        !self.before.is_empty() || self.after.iter().any(|step| step.changes_logits())
    }

    /// Whether the largest logit wins, whatever else the options say.
    pub(super) fn is_argmax(&self) -> bool {
        self.is_greedy && !self.after.iter().any(|step| step.changes_logits())
    }

    /// The temperature that comes first, and the number of tokens that are enough, if tokens are
    /// left out by their number first; the steps behind that temperature.
    pub(super) fn start(&self, options: &SamplerOptions) -> (f32, usize, &[Step]) {
        let is_plain = options.temperature > 0.0 && options.dynatemp_range == 0.0;
        let (temperature, steps) = match self.after.split_first() {
            Some((Step::Temperature, rest)) if is_plain => (options.temperature, rest),
            _ => (1.0, &self.after[..]),
        };
        let k = if steps.first() == Some(&Step::TopK) { options.top_k } else { usize::MAX };
        (temperature, k, steps)
    }
}

impl Sampler {
    /// Runs the chain over logits, and draws.
    #[inline(always)]
    pub(super) fn choose(&mut self, logits: &[f32]) -> u32 {
        let Sampler { options, chain, history, dry, changed, candidates, rng, grammar, .. } = self;
        let logits = &logits[..logits.len().min(self.n_vocab)];
        let changes = chain.changes_logits() || grammar.is_some();
        if changes {
            changed.clear();
            changed.extend_from_slice(logits);
            if let Some(grammar) = grammar {
                grammar.forbid(changed);
            }
            for step in &chain.before {
                change(*step, changed, options, history, dry);
            }
        }
        let start: &[f32] = if changes { changed } else { logits };
        let max = truncate::max(start);
        if max == f32::NEG_INFINITY {
            return 0;
        }
        if chain.is_argmax() {
            return truncate::position(start, max).unwrap_or(0) as u32;
        }
        let (temperature, k, steps) = chain.start(options);
        candidates.fill(start, max, temperature, k);
        for step in steps {
            if step.changes_logits() {
                if candidates.temperature != 1.0 {
                    changed.iter_mut().for_each(|logit| *logit /= candidates.temperature);
                }
                change(*step, changed, options, history, dry);
                if !candidates.reweigh(changed) {
                    return candidates.ids.first().copied().unwrap_or(0);
                }
                continue;
            }
            let logits: &[f32] = if changes { changed } else { logits };
            match step {
                Step::TopNSigma => candidates.top_n_sigma(logits, options.top_n_sigma),
                Step::TopK => candidates.top_k(options.top_k),
                Step::Typical => candidates.typical(logits, options.typical_p),
                Step::TopP => candidates.top_p(options.top_p),
                Step::MinP => candidates.min_p(options.min_p),
                Step::Xtc => {
                    if !chain.is_greedy && rng.uniform() < f64::from(options.xtc_probability) {
                        candidates.xtc(options.xtc_threshold);
                    }
                }
                Step::Temperature => match temperature_of(options, candidates, logits) {
                    0.0 => candidates.top_k(1),
                    temperature => candidates.temper(logits, temperature),
                },
                Step::Penalties | Step::Dry | Step::Bias => {}
            }
        }
        if chain.is_greedy {
            candidates.top_k(1);
            return candidates.ids.first().copied().unwrap_or(0);
        }
        let logits: &[f32] = if changes { changed } else { logits };
        match &mut self.mirostat {
            None => candidates.draw(rng.uniform()),
            Some(mirostat) => {
                candidates.at_most(logits, mirostat.bound);
                let token = candidates.draw(rng.uniform());
                mirostat.learn(candidates.surprise(logits, token));
                token
            }
        }
    }
}

/// T, or what entropy makes of it.
#[inline(always)]
fn temperature_of(options: &SamplerOptions, candidates: &Candidates, logits: &[f32]) -> f32 {
    let (temperature, range) = (options.temperature, options.dynatemp_range);
    if temperature == 0.0 || range == 0.0 {
        return temperature;
    }
    match candidates.relative_entropy(logits) {
        None => 1.0,
        Some(entropy) => {
            let (low, high) = (f64::from((temperature - range).max(0.0)), temperature + range);
            let part = super::logprobs::power(entropy, options.dynatemp_exponent);
            (low + (f64::from(high) - low) * part) as f32
        }
    }
}

/// One of the steps that change logits.
#[inline(always)]
fn change(
    step: Step,
    logits: &mut [f32],
    options: &SamplerOptions,
    history: &mut Option<History>,
    dry: &mut Option<Dry>,
) {
    match (step, history, dry) {
        (Step::Penalties, Some(history), _) => history.apply(logits),
        (Step::Dry, _, Some(dry)) => dry.apply(logits),
        (Step::Bias, ..) => {
            for &(token, bias) in &options.logit_bias {
                if let Some(logit) = logits.get_mut(token as usize) {
                    *logit += bias;
                }
            }
        }
        _ => {}
    }
}
