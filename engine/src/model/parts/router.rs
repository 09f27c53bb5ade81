//! The router of a mixture of experts: which experts a token gets, and with which weights (Shazeer
//! et al. 2017, arXiv 1701.06538; biases and groups: DeepSeek-AI 2024, arXiv 2412.19437, eq.
//! 12–16).
//!
//! Logits are exact products; `kernels/choice.rs` chooses. Softmax over the chosen logits, as other
//! models have it, is softmax over all whose chosen scores are normalised. Reference: transformers
//! `models/nemotron_h`, `models/lfm2_moe`, `models/qwen3_5_moe`. Test: `tests/parity_experts.rs`.

use super::RouterNetwork;
use crate::Result;
use crate::buffers::{Panel, Workspace};
use crate::kernels::choice::{Choice, MAX_GROUPS, MAX_USED};
use crate::kernels::lanes::WIDTH;
use crate::kernels::rows::exact_rows;
use crate::model::{Pass, Source};
use crate::ops::{ChooseOp, List, Values};
use crate::stage::{Cut, Owned, Piece};
use crate::tensor::Vector;

/// The most experts of a layer.
const MAX_EXPERTS: usize = 1 << 16;

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

    /// Scores, then the experts of a token and their weights, as operations.
    pub(crate) fn list<'m>(&'m self, list: &mut List<'m>, x: Values) -> [Values; 3] {
        let x = self.network.as_ref().map_or(x, |network| network.list(list, x));
        let scores = list.exact("scores", &self.weight, x, self.rows);
        let [chosen, weights] = ["chosen", "weights"].map(|name| list.values(name, self.n_used()));
        list.choose(ChooseOp {
            scores,
            n_expert: self.n_expert,
            choice: self.choice,
            bias: self.bias.as_deref(),
            skip_bias: self.skip_bias,
            chosen,
            weights,
        });
        [scores, chosen, weights]
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
        let biases = (self.bias.as_deref(), self.skip_bias);
        let panels = [&mut s.scores, &mut s.biased, &mut s.chosen, &mut s.weights];
        let owned = Owned { panels, acts: [] };
        pass.stages.columns(pass.stages.batch.columns, owned, |piece| {
            let Piece {
                isa, own, panels: [mut scores, mut biased, mut chosen, mut weights], ..
            } = piece;
            for c in own {
                let scores = &mut scores.column(c)[..self.n_choice()];
                let biased = &mut biased.column(c)[..self.n_choice() - self.choice.n_always];
                let into = [chosen.column(c), weights.column(c)];
                self.choice.choose(isa, biases, self.n_expert, [scores, biased], into);
            }
        });
    }
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
