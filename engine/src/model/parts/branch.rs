//! A projection of a block's input whose values gate something or let it fade: straight, or through
//! a lower rank. Its values are made in one stage or in two: [`Branch::first`] is a job among the
//! block's projections, [`Branch::second`] one behind them.

use super::{LowRank, LowRankScratch};
use crate::Result;
use crate::buffers::{ActivationBuffer, Workspace};
use crate::model::Source;
use crate::ops::{Inputs, List, Values};
use crate::stage::{Activation, Apply, Job};
use crate::tensor::Matrix;

/// The matrix, or both.
pub(crate) enum Branch {
    /// (rows, d_model)
    Straight(Matrix),
    LowRank(LowRank),
}

impl Branch {
    /// The branch called `name`, to `rows` values; where the configuration says a `rank`, its
    /// halves are `name.a` and `name.b`.
    pub(crate) fn load(source: &Source<'_>, name: &str, rank: &str, rows: usize) -> Result<Branch> {
        let d_model = source.config.d_model;
        Ok(match source.config.optional_size(rank)? {
            None => Branch::Straight(source.mat(name, rows, d_model)?),
            Some(rank) => {
                let halves = [&*format!("{name}.a"), &*format!("{name}.b")];
                Branch::LowRank(LowRank::load(source, halves, rows, rank, d_model)?)
            }
        })
    }

    /// W x, or the lower rank's values, as operations; names as [`LowRank::list`] has them.
    pub(crate) fn list<'m>(
        &'m self,
        list: &mut List<'m>,
        names: [&'static str; 3],
        x: Inputs,
    ) -> Values {
        match self {
            Branch::Straight(matrix) => list.project(names[2], matrix, x),
            Branch::LowRank(branch) => branch.list(list, names, x, None),
        }
    }

    /// The matrix that reads the block's input.
    pub(crate) fn reader(&self) -> &Matrix {
        match self {
            Branch::Straight(matrix) => matrix,
            Branch::LowRank(branch) => &branch.first,
        }
    }

    /// Buffers for `branches` of one kind, each to `rows` values; there may be none.
    pub(crate) fn scratch<'a>(
        workspace: &Workspace,
        rows: usize,
        branches: impl Iterator<Item = &'a Branch> + Clone,
    ) -> Scratch {
        let low = branches.filter_map(|branch| match branch {
            Branch::Straight(_) => None,
            Branch::LowRank(branch) => Some(branch),
        });
        LowRankScratch::new(workspace, rows, low)
    }

    /// `out` = f(W x), or the lower rank's values.
    pub(crate) fn first<'a>(
        &'a self,
        x: &'a ActivationBuffer,
        s: &'a mut Scratch,
        f: Apply<'a>,
    ) -> Job<'a> {
        match self {
            Branch::Straight(matrix) => Job::apply(matrix, x, &mut s.out, f),
            Branch::LowRank(branch) => branch.first(x, Activation::Identity, s),
        }
    }

    /// `out` = f(W x), where that is not done.
    pub(crate) fn second<'a>(&'a self, s: &'a mut Scratch, f: Apply<'a>) -> Option<Job<'a>> {
        match self {
            Branch::Straight(_) => None,
            Branch::LowRank(branch) => {
                let LowRankScratch { hidden, out, .. } = s;
                Some(branch.second_apply(hidden, out, f))
            }
        }
    }
}

/// The values stand in `out`.
pub(crate) type Scratch = LowRankScratch;
