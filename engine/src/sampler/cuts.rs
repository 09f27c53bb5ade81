//! The cuts that do not keep the heaviest tokens, and the entropy: top-n-sigma, typical, XTC, the
//! bound of mirostat, dynamic temperature.
//!
//! With `x = (l - max l) / T` a token's weight is `w = eˣ`, its probability `p = w / Z` and its
//! surprise `-ln p = ln Z - x`; the logarithm of a probability is never taken. All sums are f64 in
//! one order. Sources: top-n-sigma, Tang et al. 2024 (arXiv 2411.07641) eq. 3; typical, Meister et
//! al. 2022 (arXiv 2202.00666) eq. 9; XTC, p-e-w's definition in text-generation-webui (pull
//! request 6335); dynamic temperature, kalomaze's, as llama.cpp's `temp_ext` has it. Tests:
//! `oracles.rs`.

use super::logprobs::ln;
use super::select::{Tally, border};
use super::truncate::{CHUNK, Candidates, NO_WEIGHT};

impl Candidates {
    /// Keeps logits of at least `max l - n σ`, where max l and the standard deviation σ are those
    /// of the finite logits that are left.
    #[inline(always)]
    pub(super) fn top_n_sigma(&mut self, logits: &[f32], n: f32) {
        // +∞ competes with +∞ alone, and those are all that have weight.
        if !self.max.is_finite() {
            return;
        }
        let logit = |id: u32| Some(f64::from(logits[id as usize])).filter(|l| l.is_finite());
        let counted = self.sum(|id, _| f64::from(u8::from(logit(id).is_some())));
        let mean = self.sum(|id, _| logit(id).unwrap_or(0.0)) / counted;
        let squares = self.sum(|id, _| logit(id).map_or(0.0, |l| (l - mean) * (l - mean)));
        let largest = self.ids.iter().filter_map(|&id| logit(id)).fold(f64::NEG_INFINITY, f64::max);
        let floor = largest - f64::from(n) * (squares / counted).sqrt();
        self.keep_those(|id, _| f64::from(logits[id as usize]) >= floor);
    }

    /// Keeps the smallest number of tokens nearest to the expected surprise, by `|-ln p - H|`, that
    /// together have a share of at least `p`; of equally near ones the lower ids, never none.
    #[inline(always)]
    pub(super) fn typical(&mut self, logits: &[f32], p: f32) {
        let (max, temperature) = (self.max, self.temperature);
        // -ln p - H = E[x] - x: ln Z cancels.
        let expected = self.expected(logits);
        let key = |id: u32| {
            let away = (x(logits[id as usize], max, temperature) - expected).abs();
            (away as f32).to_bits()
        };
        let target = f64::from(p) * self.mass();
        let enough = |tally: Tally| tally.count > 0 && tally.mass >= target;
        let Candidates { ids, weights, buckets, .. } = self;
        let tokens = || ids.iter().zip(&*weights).map(|(&id, &weight)| (key(id), weight));
        if let Some((last, above)) = border(tokens, buckets, enough) {
            self.keep_before(last, above, enough, |id, _| key(id));
        }
    }

    /// Drops all tokens of a share of `threshold` or more but the least likely of them (of equal
    /// ones the highest id), where there are two at least.
    #[inline(always)]
    pub(super) fn xtc(&mut self, threshold: f32) {
        let floor = f64::from(threshold) * self.mass();
        let is_top = |weight: f32| weight > 0.0 && f64::from(weight) >= floor;
        let tops = self.ids.iter().zip(&self.weights).filter(|(_, weight)| is_top(**weight));
        let least = tops.fold(None, |least, (&id, &weight)| match least {
            Some((_, lightest)) if weight > lightest => least,
            _ => Some((id, weight)),
        });
        if let Some((least, _)) = least {
            self.keep_those(|id, weight| id == least || !is_top(weight));
        }
    }

    /// Keeps the tokens whose surprise is at most `bits`; the likeliest, where none is.
    #[inline(always)]
    pub(super) fn at_most(&mut self, logits: &[f32], bits: f64) {
        let (max, temperature) = (self.max, self.temperature);
        let floor = ln(self.mass()) - bits * std::f64::consts::LN_2;
        let is_in = |id: u32| x(logits[id as usize], max, temperature) >= floor;
        if self.ids.iter().zip(&self.weights).any(|(&id, &weight)| weight > 0.0 && is_in(id)) {
            self.keep_those(|id, weight| weight > 0.0 && is_in(id));
        } else {
            self.top_k(1);
        }
    }

    /// The surprise of a token among those that are left, in bits.
    #[inline(always)]
    pub(super) fn surprise(&self, logits: &[f32], id: u32) -> f64 {
        let x = x(logits[id as usize], self.max, self.temperature);
        (ln(self.mass()) - x) / std::f64::consts::LN_2
    }

    /// The entropy of the tokens that are left, as a part of the most that it could be for their
    /// number; `None` for one token.
    #[inline(always)]
    pub(super) fn relative_entropy(&self, logits: &[f32]) -> Option<f64> {
        let n = self.weights.iter().filter(|&&weight| weight > 0.0).count();
        let entropy = ln(self.mass()) - self.expected(logits);
        (n > 1).then(|| (entropy / ln(n as f64)).clamp(0.0, 1.0))
    }

    /// E[x], at most 0.
    #[inline(always)]
    fn expected(&self, logits: &[f32]) -> f64 {
        let (max, temperature) = (self.max, self.temperature);
        let sum =
            self.sum(|id, weight| f64::from(weight) * x(logits[id as usize], max, temperature));
        sum / self.mass()
    }

    /// The sum of a value of each token, in the order of ids, some at a time.
    #[inline(always)]
    fn sum(&self, value: impl Fn(u32, f32) -> f64) -> f64 {
        let mut sum = 0.0;
        for (ids, weights) in self.ids.chunks(CHUNK).zip(self.weights.chunks(CHUNK)) {
            let mut lanes = [0.0; 8];
            for (i, (&id, &weight)) in ids.iter().zip(weights).enumerate() {
                lanes[i % 8] += value(id, weight);
            }
            sum += lanes.iter().sum::<f64>();
        }
        sum
    }
}

/// `(l - max) / T`, as far as a weight tells it apart from nothing.
#[inline(always)]
fn x(logit: f32, max: f32, temperature: f32) -> f64 {
    let x = if logit == max { 0.0 } else { (logit - max) / temperature };
    f64::from(if x > NO_WEIGHT { x } else { NO_WEIGHT })
}
