//! The weights of the levels that a head of log-linear attention reads (Guo et al. 2025, arXiv
//! 2506.04761): softplus(L · (W x + bias)), one for each level of each head. Reference: fla
//! `layers/log_linear_mamba2.py`. Test: `tests/parity_mamba.rs`.

use super::{Bias, padded};
use crate::Result;
use crate::buffers::{Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::lanes::update;
use crate::kernels::math::softplus;
use crate::kernels::simd::simd;
use crate::model::Source;
use crate::ops::{Formula, Function, Inputs, List, Values};
use crate::team::Share;
use crate::tensor::{Matrix, Vector};

/// The most levels: a text of 2³¹ tokens.
const MAX_LEVELS: usize = 32;

/// The projection and what its values are multiplied by.
pub(crate) struct LevelWeights {
    pub(crate) n_level: usize,
    /// (n_head n_level, d_model)
    pub(crate) in_levels: Matrix,
    bias: Bias,
    /// (n_head n_level)
    scale: Vector,
}

impl LevelWeights {
    /// Those of `n_head` heads, if the configuration has levels; they bound the text.
    pub(crate) fn load(source: &Source<'_>, n_head: usize) -> Result<Option<LevelWeights>> {
        let config = source.config;
        if config.optional_size("n_level")?.is_none() {
            return Ok(None);
        }
        let n_level = config.size_up_to("n_level", MAX_LEVELS)?;
        let rows = n_head * n_level;
        source.bound(1 << (n_level - 1));
        Ok(Some(LevelWeights {
            n_level,
            in_levels: source.mat("in_proj.levels", rows, config.d_model)?,
            bias: Bias::load(source, "in_proj.levels.bias", rows)?,
            scale: source.vector("level_scale", rows)?,
        }))
    }

    /// The buffer of those of all layers.
    pub(crate) fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a LevelWeights>,
    ) -> Panel {
        let rows = layers.map(|levels| padded(levels.in_levels.rows())).max();
        Panel::new(rows.unwrap_or(0), workspace)
    }

    /// softplus(L (W x + bias)), as operations.
    pub(crate) fn list<'m>(&'m self, list: &mut List<'m>, input: Inputs) -> Values {
        let y = list.project("levels", &self.in_levels, input);
        let scaled = Formula::from(&self.scale) * self.bias.of(y);
        list.map(y, scaled.apply(Function::Softplus));
        y
    }

    /// x = softplus(L (x + bias)).
    pub(crate) fn apply(&self, isa: Isa, x: &mut Share<'_, f32>) {
        let at = x.rows().start;
        let scale = &self.scale[at.min(self.scale.len())..];
        simd!(isa, {
            for c in x.columns() {
                let x = x.column(c);
                self.bias.add(at, x);
                update(x, scale, |x, scale| softplus(scale * x));
            }
        });
    }
}
