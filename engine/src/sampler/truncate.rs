//! From logits to one token: weights, the cuts that keep only likely tokens, the draw.
//!
//! All three cuts keep a prefix of the tokens sorted by weight (of equal weights the lower id
//! first), yet nothing is sorted: the end of the prefix is found by its weight's bits
//! (`select.rs`), in time linear in the vocabulary whatever the distribution. Sums are f64 in one
//! fixed order and `exp` is our own, so the same logits and seed give the same token on every
//! machine. Inlined into `Sampler::sample`, which is compiled for each instruction set. Sources:
//! top-k, Fan et al. 2018 (arXiv 1805.04833); top-p, Holtzman et al. 2020 (arXiv 1904.09751);
//! min-p, Nguyen et al. 2024 (arXiv 2407.01082). Tests: below.

use super::select::{N_BUCKET, Tally, border};
use crate::kernels::math::exp;

/// `exp` of this is 0, as of everything below it.
pub(super) const NO_WEIGHT: f32 = -100.0;
/// Bits of 1.0, the largest weight.
const ONE: u32 = 0x3f80_0000;
/// Tokens are near the best one within these distances of its logit, in units of T; the first that
/// will do is taken.
const NEAR: [f32; 2] = [7.0, 14.0];

/// The tokens still in the running, with their weights `exp((l - max l) / T)`. Allocates in `new`
/// only.
#[derive(Clone, Debug)]
pub(super) struct Candidates {
    /// Ascending. `(n)`
    pub(super) ids: Vec<u32>,
    /// The best one is 1, unless a cut took it. `(n)`
    pub(super) weights: Vec<f32>,
    /// Scratch of the selection. `(N_BUCKET)`
    pub(super) buckets: Vec<Tally>,
    /// The logit that weighs 1.
    pub(super) max: f32,
    /// T.
    pub(super) temperature: f32,
}

impl Candidates {
    pub(super) fn new(n_vocab: usize) -> Self {
        Candidates {
            ids: Vec::with_capacity(n_vocab),
            weights: Vec::with_capacity(n_vocab),
            buckets: vec![Tally::default(); N_BUCKET],
            max: 0.0,
            temperature: 1.0,
        }
    }

    /// Takes in `logits`, at most n_vocab many, at a temperature above 0; of the `k` heaviest none
    /// is missing then.
    ///
    /// `max` is the largest logit and not -∞. NaN weighs nothing; if some logits are +∞, only they
    /// weigh.
    #[inline(always)]
    pub(super) fn fill(&mut self, logits: &[f32], max: f32, temperature: f32, k: usize) {
        (self.max, self.temperature) = (max, temperature);
        self.ids.clear();
        self.weights.clear();
        // Where logits near the best are enough, the others need no exponential.
        let floors = NEAR.map(|near| max - near * temperature);
        match floors.into_iter().find(|&floor| count(logits, floor) >= k) {
            Some(floor) => {
                for (id, &logit) in (0..).zip(logits).filter(|(_, logit)| **logit >= floor) {
                    self.ids.push(id);
                    self.weights.push(logit);
                }
            }
            None => {
                self.ids.extend(0..logits.len() as u32);
                self.weights.extend_from_slice(logits);
            }
        }
        for weight in &mut self.weights {
            *weight = weigh(*weight, max, temperature);
        }
    }

    /// Weighs the tokens that are left at another temperature; `logits` are those that were taken
    /// in.
    #[inline(always)]
    pub(super) fn temper(&mut self, logits: &[f32], temperature: f32) {
        self.temperature = temperature;
        for (weight, &id) in self.weights.iter_mut().zip(&self.ids) {
            *weight = weigh(logits[id as usize], self.max, temperature);
        }
    }

    /// Weighs the tokens that are left by other logits, at temperature 1; `false` where none is
    /// above -∞.
    #[inline(always)]
    pub(super) fn reweigh(&mut self, logits: &[f32]) -> bool {
        let left = self.ids.iter().map(|&id| logits[id as usize]);
        self.max = left.fold(f32::NEG_INFINITY, |max, logit| if logit > max { logit } else { max });
        self.temper(logits, 1.0);
        self.max > f32::NEG_INFINITY
    }

    /// Keeps the `k` heaviest.
    #[inline(always)]
    pub(super) fn top_k(&mut self, k: usize) {
        if k < self.weights.len() {
            self.keep_until(|tally| tally.count >= k);
        }
    }

    /// Keeps the smallest number of heaviest tokens that together have a share of at least `p`;
    /// never none.
    #[inline(always)]
    pub(super) fn top_p(&mut self, p: f32) {
        if p < 1.0 {
            let target = f64::from(p) * self.mass();
            self.keep_until(|tally| tally.count > 0 && tally.mass >= target);
        }
    }

    /// Keeps the tokens at least `p` times as likely as the likeliest.
    #[inline(always)]
    pub(super) fn min_p(&mut self, p: f32) {
        if p > 0.0 {
            // The best one weighs 1, unless a cut before took it.
            let floor = p * max(&self.weights);
            self.keep(|weight| weight >= floor);
        }
    }

    /// The token at the share `u` in [0, 1) of all weight, in the order of ids.
    #[inline(always)]
    pub(super) fn draw(&self, u: f64) -> u32 {
        let mut left = u * self.mass();
        for (weights, ids) in self.weights.chunks(CHUNK).zip(self.ids.chunks(CHUNK)) {
            let mass = chunk_mass(weights);
            if left >= mass {
                left -= mass;
                continue;
            }
            for (&weight, &id) in weights.iter().zip(ids) {
                left -= f64::from(weight);
                if left < 0.0 {
                    return id;
                }
            }
        }
        // Rounding ate the rest.
        self.weights.iter().rposition(|&weight| weight > 0.0).map_or(0, |at| self.ids[at])
    }

    /// The sum of all weights.
    #[inline(always)]
    pub(super) fn mass(&self) -> f64 {
        self.weights.chunks(CHUNK).map(chunk_mass).sum()
    }

    /// Keeps the heaviest tokens up to the first that makes `enough` true of all so far; all, where
    /// none does.
    #[inline(always)]
    fn keep_until(&mut self, enough: impl Fn(Tally) -> bool) {
        // Mostly a few tokens near the best one are enough; looking for them is cheap.
        if let Some(floor) = NEAR
            .map(|near| exp(-near))
            .into_iter()
            .find(|&floor| enough(tally(&self.weights, floor)))
        {
            self.keep(|weight| weight >= floor);
        }
        // Keys grow as weights fall.
        let key = |weight: f32| ONE.saturating_sub(weight.to_bits());
        let weights = &self.weights;
        let tokens = || weights.iter().map(|&weight| (key(weight), weight));
        if let Some((last, above)) = border(tokens, &mut self.buckets, &enough) {
            self.keep_before(last, above, enough, |_, weight| key(weight));
        }
    }

    /// Keeps the tokens of keys below `last`, and of those with that key so many as are needed, the
    /// lowest ids first; `above` tallies the keys below.
    #[inline(always)]
    pub(super) fn keep_before(
        &mut self,
        last: u32,
        mut above: Tally,
        enough: impl Fn(Tally) -> bool,
        key: impl Fn(u32, f32) -> u32,
    ) {
        self.keep_those(|id, weight| {
            let key = key(id, weight);
            weight > 0.0
                && (key < last
                    || key == last && {
                        let take = !enough(above);
                        above = above.plus_one(weight);
                        take
                    })
        });
    }

    /// Keeps the tokens whose weight is `wanted`.
    #[inline(always)]
    fn keep(&mut self, wanted: impl Fn(f32) -> bool) {
        self.keep_those(|_, weight| wanted(weight));
    }

    /// Keeps the tokens of which `wanted` is true, asked in the order of ids.
    #[inline(always)]
    pub(super) fn keep_those(&mut self, mut wanted: impl FnMut(u32, f32) -> bool) {
        let mut kept = 0;
        for at in 0..self.weights.len() {
            let (id, weight) = (self.ids[at], self.weights[at]);
            if wanted(id, weight) {
                (self.weights[kept], self.ids[kept]) = (weight, id);
                kept += 1;
            }
        }
        self.weights.truncate(kept);
        self.ids.truncate(kept);
    }
}

/// The weight of a logit. The largest logit first: ∞ - ∞ is no number. Selects, not branches: this
/// is vector code.
#[inline(always)]
fn weigh(logit: f32, max: f32, temperature: f32) -> f32 {
    let x = if logit == max { 0.0 } else { (logit - max) / temperature };
    exp(if x > NO_WEIGHT { x } else { NO_WEIGHT })
}

/// Weights that are summed together.
pub(super) const CHUNK: usize = 64;

/// The sum of a chunk, in eight lanes that are then added in order: a fixed tree that becomes
/// vector code.
#[inline(always)]
fn chunk_mass(weights: &[f32]) -> f64 {
    let mut lanes = [0.0; 8];
    let (eights, rest) = weights.as_chunks::<8>();
    for eight in eights {
        for (lane, &weight) in lanes.iter_mut().zip(eight) {
            *lane += f64::from(weight);
        }
    }
    for (lane, &weight) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(weight);
    }
    lanes.iter().sum()
}

/// Number of values from `floor` up.
#[inline(always)]
fn count(values: &[f32], floor: f32) -> usize {
    let chunk_count =
        |chunk: &[f32]| chunk.iter().map(|&value| u32::from(value >= floor)).sum::<u32>();
    values.chunks(CHUNK).map(|chunk| chunk_count(chunk) as usize).sum()
}

/// Number and sum of the weights from `floor` up.
#[inline(always)]
fn tally(weights: &[f32], floor: f32) -> Tally {
    let mut heavy = [0.0; CHUNK];
    let mut mass = 0.0;
    for chunk in weights.chunks(CHUNK) {
        for (heavy, &weight) in heavy.iter_mut().zip(chunk) {
            *heavy = if weight >= floor { weight } else { 0.0 };
        }
        mass += chunk_mass(&heavy[..chunk.len()]);
    }
    Tally { count: count(weights, floor), mass }
}

/// The largest number among `logits`; -∞ where there is none.
#[inline(always)]
pub(super) fn max(logits: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (sixteens, rest) = logits.as_chunks::<16>();
    for sixteen in sixteens {
        for (lane, &logit) in lanes.iter_mut().zip(sixteen) {
            *lane = larger(*lane, logit);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &logit| larger(max, logit))
}

/// Where the first of the `logits` stands that equals `max`.
#[inline(always)]
pub(super) fn position(logits: &[f32], max: f32) -> Option<usize> {
    let has_max = |chunk: &[f32]| chunk.iter().fold(false, |found, &logit| found | (logit == max));
    let chunk = logits.chunks(CHUNK).position(has_max)? * CHUNK;
    logits[chunk..].iter().position(|&logit| logit == max).map(|at| chunk + at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(logits: &[f32], temperature: f32) -> Candidates {
        let mut candidates = Candidates::new(logits.len());
        candidates.fill(logits, max(logits), temperature, logits.len());
        candidates
    }

    /// Logits of these probabilities.
    fn logits<const N: usize>(probabilities: [f32; N]) -> [f32; N] {
        probabilities.map(f32::ln)
    }

    fn kept(logits: &[f32], cut: impl FnOnce(&mut Candidates)) -> Vec<u32> {
        let mut candidates = filled(logits, 1.0);
        cut(&mut candidates);
        candidates.ids
    }

    #[test]
    fn weights_are_relative_to_the_best() {
        let half = std::f32::consts::LN_2;
        assert_eq!(
            filled(&[0.0, half, f32::NAN, f32::NEG_INFINITY], 1.0).weights,
            [0.5, 1.0, 0.0, 0.0]
        );
        assert_eq!(filled(&[0.0, half], 0.5).weights, [0.25, 1.0]);
        assert_eq!(
            filled(&[0.0, f32::INFINITY, 1.0, f32::INFINITY], 1.0).weights,
            [0.0, 1.0, 0.0, 1.0]
        );
        assert_eq!(filled(&[3.0, 3.0, 1.0], f32::MIN_POSITIVE / 8.0).weights, [1.0, 1.0, 0.0]);
        assert_eq!(filled(&[3.0, f32::MIN], f32::MAX).weights[0], 1.0);
        assert_eq!(max(&[f32::NAN, f32::NEG_INFINITY]), f32::NEG_INFINITY);
        assert_eq!(max(&[]), f32::NEG_INFINITY);
        let long: Vec<f32> = (0..100).map(|i| ((i * 37) % 100) as f32).collect();
        assert_eq!(max(&long), 99.0);
    }

    #[test]
    fn each_cut_by_hand() {
        let four = logits([0.1, 0.4, 0.2, 0.3]);
        assert_eq!(kept(&four, |c| c.top_k(1)), [1]);
        assert_eq!(kept(&four, |c| c.top_k(3)), [1, 2, 3]);
        assert_eq!(kept(&four, |c| c.top_k(9)), [0, 1, 2, 3]);
        assert_eq!(kept(&four, |c| c.top_p(0.0)), [1]);
        assert_eq!(kept(&four, |c| c.top_p(0.39)), [1]);
        assert_eq!(kept(&four, |c| c.top_p(0.41)), [1, 3]);
        assert_eq!(kept(&four, |c| c.top_p(0.89)), [1, 2, 3]);
        assert_eq!(kept(&four, |c| c.top_p(1.0)), [0, 1, 2, 3]);
        assert_eq!(kept(&four, |c| c.min_p(0.6)), [1, 3]);
        assert_eq!(kept(&four, |c| c.min_p(1.0)), [1]);
        // Top-p counts shares of what top-k left: 0.4 of 0.7 is more than half.
        let both = |c: &mut Candidates| {
            c.top_k(2);
            c.top_p(0.5);
        };
        assert_eq!(kept(&four, both), [1]);
        // Of equals the lower ids.
        assert_eq!(kept(&[0.0, 1.0, 1.0, 1.0, 0.0], |c| c.top_k(2)), [1, 2]);
        assert_eq!(kept(&[0.0; 10], |c| c.top_p(0.25)), [0, 1, 2]);
    }

    #[test]
    fn the_draw_goes_by_share() {
        let candidates = filled(&logits([0.5, 0.25, 0.25]), 1.0);
        assert_eq!(
            [0.0, 0.49, 0.51, 0.74, 0.76, 0.999].map(|u| candidates.draw(u)),
            [0, 0, 1, 1, 2, 2]
        );
        // Nothing without weight is drawn, not even by the last share.
        let logits = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY];
        assert_eq!([0.0, 1.0 - f64::EPSILON / 2.0].map(|u| filled(&logits, 1.0).draw(u)), [1, 1]);
    }

    /// The same cuts by sorting.
    fn by_sorting(candidates: &Candidates, enough: impl Fn(usize, f64) -> bool) -> Vec<u32> {
        let mut order: Vec<usize> = (0..candidates.ids.len()).collect();
        order.sort_by(|&a, &b| candidates.weights[b].total_cmp(&candidates.weights[a]));
        let mut mass = 0.0;
        let mut kept = Vec::new();
        for at in order.into_iter().filter(|&at| candidates.weights[at] > 0.0) {
            kept.push(at as u32);
            mass += f64::from(candidates.weights[at]);
            if enough(kept.len(), mass) {
                break;
            }
        }
        kept.sort_unstable();
        kept
    }

    proptest! {
        /// Selection and sorting agree, on spread and on nearly flat logits.
        #[test]
        fn cuts_are_those_of_sorting(
            steps in proptest::collection::vec(-200i32..200, 1..300),
            scale in prop_oneof![Just(0.1f32), Just(1e-3), Just(1e-7)],
            k in 1usize..100,
            p in 0.01f32..0.999,
        ) {
            let logits: Vec<f32> = steps.iter().map(|&step| step as f32 * scale).collect();
            let full = filled(&logits, 1.0);
            let mut by_k = full.clone();
            by_k.top_k(k);
            prop_assert_eq!(&by_k.ids, &by_sorting(&full, |count, _| count >= k));
            let mut by_p = full.clone();
            by_p.top_p(p);
            let sorted = by_sorting(&full, |_, mass| mass >= f64::from(p) * full.mass());
            // Sums in another order may put the border one token further.
            prop_assert!(by_p.ids.len().abs_diff(sorted.len()) <= 1);
            let smaller = if by_p.ids.len() < sorted.len() { &by_p.ids } else { &sorted };
            prop_assert!(smaller.iter().all(|id| by_p.ids.contains(id) && sorted.contains(id)));
        }
    }
}
