//! Which experts of a mixture a token gets, by its scores, and with which weights.
//!
//! Scores are softmax or sigmoid of logits. The k best are chosen, a correction bias counting in
//! the choice alone, at first among groups of experts where there are such; of equals the one of
//! the lower number. What the choice is for, and its sources: `model/parts/router.rs`. Test: below.

use super::Isa;
use super::lanes::{sum_of, update};
use super::math::{exp, sigmoid};
use super::simd::simd;

/// The most experts of a token, and groups of experts.
pub(crate) const MAX_USED: usize = 64;
pub(crate) const MAX_GROUPS: usize = 64;

/// How experts are chosen by their logits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    pub(crate) has_sigmoid: bool,
    /// Experts that a token gets.
    pub(crate) n_used: usize,
    /// Those behind the others that every token gets, among these.
    pub(crate) n_always: usize,
    /// Groups of experts, and those that a token may choose among.
    pub(crate) groups: Option<(usize, usize)>,
    /// Chosen scores are divided by their sum and this.
    pub(crate) norm_eps: Option<f32>,
    /// All weights are multiplied by this.
    pub(crate) scale: f32,
}

/// Added to the scores for the choice: of the experts, and of going through none.
pub(crate) type Biases<'a> = (Option<&'a [f32]>, Option<f32>);

impl Choice {
    /// Scores of the logits `scores`, which may have that of going through none behind those of
    /// `n_expert` experts. `chosen` = the numbers of the experts that a token gets, exact in f32,
    /// ascending: in this order their results are added. `weights` = theirs. Where no expert is
    /// chosen the token goes through any, times 0. `biased` is workspace, without the experts that
    /// every token gets.
    pub(crate) fn choose(
        &self,
        isa: Isa,
        biases: Biases<'_>,
        n_expert: usize,
        [scores, biased]: [&mut [f32]; 2],
        [chosen, weights]: [&mut [f32]; 2],
    ) {
        let (experts, n) = self.best(isa, biases, scores, biased);
        let (experts, mut own) = (&experts[..n], [0.0; MAX_USED]);
        let own = &mut own[..n];
        own.iter_mut().zip(experts).for_each(|(w, e)| *w = scores[*e]);
        self.normalise(own);
        for (e, w) in experts.iter().zip(own) {
            let place = experts.iter().filter(|other| *other < e).count();
            let (e, w) = if *e < n_expert { (*e, *w) } else { (0, 0.0) };
            (chosen[place], weights[place]) = (e as f32, w);
        }
    }

    /// Makes scores of logits; the experts with the best of them, best first.
    fn best(
        &self,
        isa: Isa,
        (bias, skip_bias): Biases<'_>,
        scores: &mut [f32],
        biased: &mut [f32],
    ) -> ([usize; MAX_USED], usize) {
        simd!(isa, {
            if self.has_sigmoid {
                scores.iter_mut().for_each(|score| *score = sigmoid(*score));
            } else {
                let max = scores.iter().fold(f32::NEG_INFINITY, |m, s| if *s > m { *s } else { m });
                scores.iter_mut().for_each(|score| *score = exp(*score - max));
                let sum = sum_of(scores, |score| score);
                scores.iter_mut().for_each(|score| *score /= sum);
            }
            biased.copy_from_slice(&scores[..biased.len()]);
            if let Some(bias) = bias {
                update(biased, bias, |score, bias| score + bias);
            }
            if let (Some(bias), Some(score)) = (skip_bias, biased.last_mut()) {
                *score += bias;
            }
            // What is no number is chosen last.
            for score in &mut *biased {
                *score = if score.is_nan() { f32::NEG_INFINITY } else { *score };
            }
        });
        if let Some((n, used)) = self.groups {
            let size = biased.len() / n;
            let mut of_groups = [0.0; MAX_GROUPS];
            for (score, group) in of_groups.iter_mut().zip(biased.chunks_exact(size)) {
                let (two, found) = best::<2>(group, 2.min(size));
                *score = two[..found].iter().map(|i| group[*i]).sum();
            }
            let (groups, found) = best::<MAX_GROUPS>(&of_groups[..n], used);
            for (i, group) in biased.chunks_exact_mut(size).enumerate() {
                if !groups[..found].contains(&i) {
                    group.fill(f32::NEG_INFINITY);
                }
            }
        }
        let (mut experts, mut n) = best(biased, self.n_used - self.n_always);
        for always in biased.len()..scores.len() {
            experts[n] = always;
            n += 1;
        }
        (experts, n)
    }

    /// Weights of the chosen scores.
    fn normalise(&self, weights: &mut [f32]) {
        if let Some(eps) = self.norm_eps {
            let sum = weights.iter().fold(0.0, |sum, w| sum + w) + eps;
            weights.iter_mut().for_each(|w| *w /= sum);
        }
        weights.iter_mut().for_each(|w| *w *= self.scale);
    }
}

/// The indices of the `n` largest values (at most `N`, and as many as there are), largest first, of
/// equals the lower one first.
fn best<const N: usize>(values: &[f32], n: usize) -> ([usize; N], usize) {
    let mut found = [0; N];
    let mut len = 0;
    for (i, value) in values.iter().enumerate() {
        let is_full = len == n;
        if is_full && *value <= values[found[n - 1]] {
            continue;
        }
        let mut place = if is_full { n - 1 } else { len };
        while place > 0 && *value > values[found[place - 1]] {
            found[place] = found[place - 1];
            place -= 1;
        }
        found[place] = i;
        len += usize::from(!is_full);
    }
    (found, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(choice: &Choice, bias: Option<&[f32]>, logits: &[f32]) -> (Vec<usize>, Vec<f32>) {
        let mut scores = logits.to_vec();
        let mut biased = vec![0.0; logits.len() - choice.n_always];
        let (experts, n) = choice.best(Isa::detect(), (bias, None), &mut scores, &mut biased);
        let mut weights: Vec<f32> = experts[..n].iter().map(|e| scores[*e]).collect();
        choice.normalise(&mut weights);
        (experts[..n].to_vec(), weights)
    }

    const PLAIN: Choice = Choice {
        has_sigmoid: false,
        n_used: 3,
        n_always: 0,
        groups: None,
        norm_eps: None,
        scale: 1.0,
    };

    #[test]
    fn equals_are_chosen_by_their_numbers_and_what_is_no_number_last() {
        assert_eq!(chosen(&PLAIN, None, &[1.0; 6]).0, [0, 1, 2]);
        assert_eq!(chosen(&PLAIN, None, &[0.0, 2.0, 1.0, 2.0, 1.0]).0, [1, 3, 2]);
        let nan = Choice { has_sigmoid: true, ..PLAIN };
        assert_eq!(chosen(&nan, None, &[f32::NAN, 1.0, f32::NAN, 2.0]).0, [3, 1, 0]);
        assert_eq!(chosen(&PLAIN, None, &[f32::NAN; 4]).0, [0, 1, 2]);
    }

    #[test]
    fn normed_softmax_is_softmax_of_the_chosen() {
        let logits = [0.3, -1.0, 2.0, 0.5, 1.1];
        let normed = Choice { norm_eps: Some(0.0), scale: 2.5, ..PLAIN };
        let (experts, weights) = chosen(&normed, None, &logits);
        let exps: Vec<f64> = [2.0f64, 1.1, 0.5].iter().map(|l| l.exp()).collect();
        assert_eq!(experts, [2, 4, 3]);
        for (weight, e) in weights.iter().zip(&exps) {
            assert!((f64::from(*weight) - 2.5 * e / exps.iter().sum::<f64>()).abs() < 1e-6);
        }
    }

    #[test]
    fn a_bias_counts_in_the_choice_alone() {
        let sigmoid = Choice { has_sigmoid: true, n_used: 1, ..PLAIN };
        let (experts, weights) = chosen(&sigmoid, Some(&[0.0, 0.5, 0.0]), &[0.1, 0.0, 0.2]);
        assert_eq!((experts, weights), (vec![1], vec![0.5]));
    }

    #[test]
    fn the_bias_of_no_expert_is_that_of_the_last_choice() {
        let one = Choice { n_used: 1, ..PLAIN };
        let choice = |skip_bias| {
            let (mut scores, mut biased) = ([0.1, 0.3, 0.2], [0.0; 3]);
            one.best(Isa::detect(), (None, Some(skip_bias)), &mut scores, &mut biased).0[0]
        };
        assert_eq!((choice(-1.0), choice(0.0), choice(0.1)), (1, 1, 2));
    }

    #[test]
    fn every_token_gets_those_behind_the_others() {
        let shared =
            Choice { has_sigmoid: true, n_always: 2, norm_eps: Some(0.0), scale: 8.0, ..PLAIN };
        let (experts, weights) = chosen(&shared, Some(&[0.0, 0.9, 0.0]), &[0.0; 5]);
        assert_eq!((experts, weights), (vec![1, 3, 4], vec![8.0 / 3.0; 3]));
    }

    #[test]
    fn groups_are_chosen_by_their_two_best() {
        // Of pairs, the sums are 0.9, 1.1 and 1.0: the best expert of all stands in the worst.
        let bias = [0.9, 0.0, 0.6, 0.5, 0.8, 0.2];
        let grouped = Choice { has_sigmoid: true, groups: Some((3, 2)), n_used: 2, ..PLAIN };
        assert_eq!(chosen(&grouped, Some(&bias), &[0.0; 6]).0, [4, 2]);
        // More experts than the groups have: the rest comes from the others.
        let all = Choice { n_used: 5, ..grouped };
        assert_eq!(chosen(&all, Some(&bias), &[0.0; 6]).0, [4, 2, 3, 5, 0]);
    }
}
