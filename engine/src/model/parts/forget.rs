//! How much of a state's rows a token keeps: α, one for each head or for each key, from a
//! projection of the block's input.

use std::ops::Range;

use super::{Branch, BranchScratch};
use crate::Result;
use crate::buffers::{Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::columns::Columns;
use crate::kernels::lanes::update2;
use crate::kernels::math::{exp, sigmoid, softplus};
use crate::kernels::recurrence::Decay;
use crate::kernels::simd::simd;
use crate::model::Source;
use crate::ops::{DecayOp, Formula, Function, Inputs, List, OfHead, of};
use crate::team::Share;
use crate::tensor::Vector;

/// The projection and the curve behind it.
pub(crate) struct Forget {
    pub(crate) branch: Branch,
    /// Values for each head: 1, or as many as it has keys.
    each: usize,
    n_head: usize,
    /// (n_head each) both; A is negative.
    dt_bias: Vector,
    a: Vector,
    /// The least ln α, where it has a bound.
    least: Option<f32>,
}

impl Forget {
    /// That of `n_head` heads with `d_key` keys each.
    pub(crate) fn load(source: &Source<'_>, n_head: usize, d_key: usize) -> Result<Forget> {
        let config = source.config;
        let each = if config.flag("decay_per_key")? { d_key } else { 1 };
        let rows = n_head * each;
        Ok(Forget {
            branch: Branch::load(source, "in_proj.dt", "rank_decay", rows)?,
            each,
            n_head,
            dt_bias: source.vector("dt_bias", rows)?,
            a: source.vector("A", rows)?,
            least: config.optional_float("least_log_decay")?,
        })
    }

    fn rows(&self) -> usize {
        self.n_head * self.each
    }

    /// Buffers for those of all layers.
    pub(crate) fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Forget> + Clone,
    ) -> BranchScratch {
        let rows = layers.clone().map(Forget::rows).max().unwrap_or(0);
        Branch::scratch(workspace, rows, layers.map(|forget| &forget.branch))
    }

    /// α = exp(A softplus(x + dt_bias)); where it has a bound, α = exp(least sigmoid(−A (x +
    /// dt_bias))).
    pub(crate) fn alpha(&self, isa: Isa, x: &mut Share<'_, f32>) {
        let own = x.rows();
        let (dt_bias, a) = (&self.dt_bias[own.clone()], &self.a[own]);
        simd!(isa, {
            for c in x.columns() {
                let x = x.column(c);
                match self.least {
                    None => update2(x, dt_bias, a, |x, bias, a| exp(a * softplus(x + bias))),
                    Some(least) => {
                        update2(x, dt_bias, a, |x, bias, a| exp(least * sigmoid(-a * (x + bias))))
                    }
                }
            }
        });
    }

    /// α as operations.
    pub(crate) fn list<'m>(&'m self, list: &mut List<'m>, x: Inputs) -> DecayOp {
        let decay = self.branch.list(list, ["dt low", "dt hidden", "decay"], x);
        let step = of(decay) + &self.dt_bias;
        let rate = match self.least {
            None => Formula::from(&self.a) * step.apply(Function::Softplus),
            Some(least) => {
                let sigmoid = (-Formula::from(&self.a) * step).apply(Function::Sigmoid);
                Formula::from(least) * sigmoid
            }
        };
        list.map(decay, rate.apply(Function::Exp));
        match self.each {
            1 => DecayOp::PerHead(decay),
            each => DecayOp::PerKey(OfHead::own(decay, each)),
        }
    }

    /// That of a head, of what stands in `panel`.
    pub(crate) fn of<'a>(&self, panel: &'a Panel, columns: Range<usize>, head: usize) -> Decay<'a> {
        let view = panel.view(columns, head * self.each..(head + 1) * self.each);
        if self.each == 1 { Decay::PerHead(view) } else { Decay::PerKey(view) }
    }
}

/// That of a state from which nothing fades, for `tokens`.
pub(crate) fn nothing(tokens: usize) -> Decay<'static> {
    Decay::PerHead(Columns::same(&[1.0], tokens))
}
