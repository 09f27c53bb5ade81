//! The router of a mixture of experts: which experts a token gets, and with which weights (Shazeer
//! et al. 2017, arXiv 1701.06538; biases and groups: DeepSeek-AI 2024, arXiv 2412.19437, eq.
//! 12–16).
//!
//! Scores are softmax or sigmoid of exact products. The k best are chosen, a correction bias
//! counting in the choice alone, at first among groups of experts where there are such; of equals
//! the one of the lower number. Softmax over the chosen logits, as other models have it, is softmax
//! over all whose chosen scores are normalised. Reference: transformers `models/nemotron_h`,
//! `models/lfm2_moe`, `models/qwen3_5_moe`. Test: below, `tests/parity_experts.rs`.

use super::RouterNetwork;
use crate::Result;
use crate::buffers::{Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::lanes::{WIDTH, sum_of, update};
use crate::kernels::math::{exp, sigmoid};
use crate::kernels::rows::exact_rows;
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::stage::{Cut, Owned, Piece};
use crate::tensor::Vector;

/// The most experts of a layer, those of a token, and groups of them.
const MAX_EXPERTS: usize = 1 << 16;
const MAX_USED: usize = 64;
const MAX_GROUPS: usize = 64;

/// The weights of one layer's router.
pub(crate) struct Router {
    pub(crate) n_expert: usize,
    /// Rows of the experts, and of what else is scored, in blocks of 16.
    rows: usize,
    /// (blocks, d_model, 16)
    weight: Vector,
    /// Added to scores for the choice (n_expert, without those that every token gets).
    bias: Option<Vector>,
    choice: Choice,
    /// The network before the scores, where there is one.
    network: Option<RouterNetwork>,
    /// The bias of one more choice, with which a token goes through no expert.
    skip_bias: Option<f32>,
}

/// How experts are chosen by their logits.
struct Choice {
    has_sigmoid: bool,
    /// Experts that a token gets.
    n_used: usize,
    /// Those behind the others that every token gets, among these.
    n_always: usize,
    /// Groups of experts, and those that a token may choose among.
    groups: Option<(usize, usize)>,
    /// Chosen scores are divided by their sum and this.
    norm_eps: Option<f32>,
    /// All weights are multiplied by this.
    scale: f32,
}

impl Router {
    /// Reads `router.weight`, of `n_more` rows behind the experts', and `router.bias`.
    pub(crate) fn load(source: &Source<'_>, n_more: usize) -> Result<Router> {
        let config = source.config;
        let n_expert = config.size_up_to("n_expert", MAX_EXPERTS)?;
        let skip_bias = config.optional_float("skip_bias")?;
        let n_more = n_more.max(usize::from(skip_bias.is_some()));
        let blocks = (n_expert + n_more).div_ceil(WIDTH);
        let n_used = config.size_up_to("n_expert_used", n_expert.min(MAX_USED))?;
        let n_always = match config.optional_size("n_expert_always")? {
            None => 0,
            Some(_) => config.size_up_to("n_expert_always", n_used - 1)?,
        };
        let network = RouterNetwork::load(source)?;
        let width = network.as_ref().map_or(config.d_model, |network| network.down.rows);
        let groups = match config.optional_size("n_expert_group")? {
            None | Some(1) => None,
            Some(_) => {
                let n = config.size_up_to("n_expert_group", MAX_GROUPS)?;
                config.divide(n_expert - n_always, n, "n_expert_group")?;
                Some((n, config.size_up_to("n_expert_group_used", n)?))
            }
        };
        Ok(Router {
            n_expert,
            rows: blocks * WIDTH,
            weight: source.tensor("router.weight", &[blocks, width, WIDTH])?,
            bias: source.optional_vector("router.bias", n_expert - n_always)?,
            network,
            skip_bias,
            choice: Choice {
                has_sigmoid: config.flag("has_sigmoid_router")?,
                n_used,
                n_always,
                groups,
                norm_eps: match config.flag("has_router_norm")? {
                    true => Some(config.optional_float("router_eps")?.unwrap_or(0.0)),
                    false => None,
                },
                scale: config.optional_float("router_scale")?.unwrap_or(1.0),
            },
        })
    }

    /// Experts that a token gets.
    pub(crate) fn n_used(&self) -> usize {
        self.choice.n_used
    }

    /// Values that a router's network gets from that of the layer below.
    pub(crate) fn second(&self) -> usize {
        self.network.as_ref().map_or(0, |network| network.down.rows)
    }

    /// Scores among which it chooses.
    fn n_choice(&self) -> usize {
        self.n_expert + usize::from(self.skip_bias.is_some())
    }

    /// Scores x̂ of every column, and chooses.
    pub(crate) fn forward(&self, pass: &mut Pass<'_>, x: &Panel, s: &mut Scratch) {
        if let Some(network) = &self.network {
            network.forward(pass, x, &mut s.hidden);
        }
        let x = if self.network.is_some() { &s.hidden } else { x };
        let bytes = self.weight.len() * size_of::<f32>();
        let cut = Cut { rows: self.rows, unit: WIDTH, bytes };
        let owned = Owned { panels: [&mut s.scores], acts: [] };
        pass.stages.rows(cut, owned, |piece| {
            let Piece { isa, own, panels: [mut scores], .. } = piece;
            let width = self.weight.len() / self.rows;
            let weight = &self.weight[own.start * width..own.end * width];
            for c in scores.columns() {
                exact_rows(isa, weight, &x.column(c)[..width], scores.column(c));
            }
        });
        let panels = [&mut s.scores, &mut s.biased, &mut s.chosen, &mut s.weights];
        let owned = Owned { panels, acts: [] };
        pass.stages.columns(pass.stages.batch.columns, owned, |piece| {
            let Piece {
                isa, own, panels: [mut scores, mut biased, mut chosen, mut weights], ..
            } = piece;
            for c in own {
                let scores = &mut scores.column(c)[..self.n_choice()];
                let biased = &mut biased.column(c)[..self.n_choice() - self.choice.n_always];
                let biases = (self.bias.as_deref(), self.skip_bias);
                let (experts, n) = self.choice.best(isa, biases, scores, biased);
                let (experts, mut own) = (&experts[..n], [0.0; MAX_USED]);
                let own = &mut own[..n];
                own.iter_mut().zip(experts).for_each(|(w, e)| *w = scores[*e]);
                self.choice.normalise(own);
                // In the order of their numbers, in which their results are added.
                let (chosen, weights) = (chosen.column(c), weights.column(c));
                for (e, w) in experts.iter().zip(own) {
                    let place = experts.iter().filter(|other| *other < e).count();
                    // Without an expert it goes through any, times 0.
                    let (e, w) = if *e < self.n_expert { (*e, *w) } else { (0, 0.0) };
                    (chosen[place], weights[place]) = (e as f32, w);
                }
            }
        });
    }
}

impl Choice {
    /// Makes scores of logits; the experts with the best of them, best first.
    fn best(
        &self,
        isa: Isa,
        (bias, skip_bias): (Option<&[f32]>, Option<f32>),
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

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    /// Scores of the experts, then the products of what else has a row.
    pub(crate) scores: Panel,
    /// What the router's network gives.
    hidden: Panel,
    /// The same, as they count in the choice (n_expert).
    biased: Panel,
    /// Numbers of the chosen experts, ascending, exact in f32; and their weights (n_used).
    pub(crate) chosen: Panel,
    pub(crate) weights: Panel,
}

impl Scratch {
    pub(crate) fn new<'a>(
        workspace: &Workspace,
        routers: impl Iterator<Item = &'a Router> + Clone,
    ) -> Scratch {
        let panel = |rows: fn(&Router) -> usize| {
            Panel::new(routers.clone().map(rows).max().unwrap_or(0), workspace)
        };
        Scratch {
            scores: panel(|r| r.rows),
            hidden: panel(|r| 2 * r.network.as_ref().map_or(0, RouterNetwork::padded)),
            biased: panel(Router::n_choice),
            chosen: panel(Router::n_used),
            weights: panel(Router::n_used),
        }
    }
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
