//! The gate on what heads read.

use super::{Bias, Branch, BranchScratch, padded};
use crate::Result;
use crate::buffers::Workspace;
use crate::kernels::Isa;
use crate::kernels::math::{sigmoid, silu};
use crate::kernels::simd::simd;
use crate::model::Source;
use crate::ops::{Function, Inputs, List, Values};
use crate::team::Share;

/// silu or sigmoid of a projection.
pub(crate) struct HeadGate {
    pub(crate) branch: Branch,
    bias: Bias,
    is_sigmoid: bool,
    rows: usize,
}

impl HeadGate {
    /// That of `rows` channels, if the configuration says that there is one.
    pub(crate) fn load(source: &Source<'_>, rows: usize) -> Result<Option<HeadGate>> {
        if !source.config.flag("has_gate")? {
            return Ok(None);
        }
        Ok(Some(HeadGate {
            branch: Branch::load(source, "in_proj.z", "rank_gate", rows)?,
            bias: Bias::load(source, "in_proj.z.bias", rows)?,
            is_sigmoid: source.config.flag("sigmoid_gate")?,
            rows,
        }))
    }

    /// Buffers for those of all layers.
    pub(crate) fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a HeadGate> + Clone,
    ) -> BranchScratch {
        let rows = layers.clone().map(|gate| padded(gate.rows)).max().unwrap_or(0);
        Branch::scratch(workspace, rows, layers.map(|gate| &gate.branch))
    }

    /// f(z + bias), as operations.
    pub(crate) fn list<'m>(&'m self, list: &mut List<'m>, x: Inputs) -> Values {
        let z = self.branch.list(list, ["z low", "z hidden", "gate"], x);
        let f = if self.is_sigmoid { Function::Sigmoid } else { Function::Silu };
        list.map(z, self.bias.of(z).apply(f));
        z
    }

    /// z = f(z + bias).
    pub(crate) fn apply(&self, isa: Isa, z: &mut Share<'_, f32>) {
        let at = z.rows().start;
        simd!(isa, {
            for c in z.columns() {
                let z = z.column(c);
                self.bias.add(at, z);
                if self.is_sigmoid {
                    z.iter_mut().for_each(|z| *z = sigmoid(*z));
                } else {
                    z.iter_mut().for_each(|z| *z = silu(*z));
                }
            }
        });
    }
}
