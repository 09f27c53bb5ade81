//! The feed-forward network of Nemotron-H: `x += W_down relu(W_up x̂)²`, x̂ being the RMS-normed x
//! (squared ReLU: So et al. 2021, arXiv 2109.08668; reference: transformers
//! `models/nemotron_h/modeling_nemotron_h.py`). Test: `tests/parity_hybrid.rs`.

use super::{Input, InputScratch, Output, Part};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::model::{Pass, Source};
use crate::ops::{Function, List, of};
use crate::stage::{Activation, Job};
use crate::tensor::{Matrix, acts_for};

/// The weights of one layer's network.
pub(crate) struct ReluMlp {
    input: Input,
    /// (d_ff, d_model)
    up: Matrix,
    down: Output,
}

impl Part for ReluMlp {
    const WORD: &'static str = "mlp";
    type Scratch = Scratch;

    /// Reads `mlp_norm`, `mlp.up` and `mlp.down`.
    fn load(source: &Source<'_>) -> Result<ReluMlp> {
        let d_ff = source.config.size("d_ff")?;
        Ok(ReluMlp {
            input: Input::load(source, "mlp_norm")?,
            up: source.mat("mlp.up", d_ff, source.config.d_model)?,
            down: Output::load(source, "mlp.down", d_ff)?,
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        let d_ff = layers.clone().map(|l| l.up.rows()).max().unwrap_or(0);
        Scratch {
            input: InputScratch::new(workspace, layers.clone().map(|l| &l.up)),
            up: Panel::new(d_ff, workspace),
            hidden: acts_for(workspace, layers.map(|l| &l.down.weight)),
        }
    }

    fn read(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
    }

    /// x += W_down relu(W_up x̂)².
    fn add(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let (x, f) = (&s.input.acts, Activation::ReluSquared);
        pass.stages.project([Job::prepare(&self.up, x, &mut s.up, f, &mut s.hidden)]);
        self.down.forward(pass, &s.hidden);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let input = self.input.list(list);
        let up = list.project("up", &self.up, input);
        let hidden = of(up).apply(Function::ReluSquared);
        let hidden = list.pack("hidden", self.up.rows(), hidden);
        self.down.list(list, hidden);
    }
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    input: InputScratch,
    /// (d_ff)
    up: Panel,
    hidden: ActivationBuffer,
}
