//! The gated feed-forward network (SwiGLU, GeGLU: Shazeer 2020, arXiv 2002.05202, section 2) behind
//! the mixers of delta-rule models and hybrids: `x += W_down (f(W_gate x̂) · W_up x̂)`, x̂ being the
//! RMS-normed x, rarely with biases. Test: `tests/parity_delta.rs`, `tests/parity_hybrid.rs`.

use super::{Bias, Input, InputScratch, Output, Part};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::model::{Pass, Source};
use crate::stage::{GateFunction, Gating, Job, Product};
use crate::tensor::{Matrix, acts_for};

/// The weights of one layer's network.
pub(crate) struct GatedMlp {
    input: Input,
    /// (d_ff, d_model) each
    gate: Matrix,
    up: Matrix,
    /// Of up and of gate.
    biases: [Bias; 2],
    f: GateFunction,
    down: Output,
}

impl Part for GatedMlp {
    const WORD: &'static str = "mlp";
    const LIST: &'static str = "network_types";
    type Scratch = Scratch;

    /// Reads `mlp_norm`, `mlp.gate`, `mlp.up` and `mlp.down`.
    fn load(source: &Source<'_>) -> Result<GatedMlp> {
        let (d_model, d_ff) = (source.config.d_model, source.config.size("d_ff")?);
        Ok(GatedMlp {
            input: Input::load(source, "mlp_norm")?,
            gate: source.mat("mlp.gate", d_ff, d_model)?,
            up: source.mat("mlp.up", d_ff, d_model)?,
            biases: [
                Bias::load(source, "mlp.up.bias", d_ff)?,
                Bias::load(source, "mlp.gate.bias", d_ff)?,
            ],
            f: match source.config.flag("gelu_mlp")? {
                true => GateFunction::GeluTanh,
                false => GateFunction::Silu,
            },
            down: Output::load_with_bias(source, "mlp.down", d_ff)?
                .normed(source, "mlp_post_norm")?,
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        let d_ff = layers.clone().map(|l| l.up.rows()).max().unwrap_or(0);
        Scratch {
            input: InputScratch::new(workspace, layers.clone().flat_map(|l| [&l.gate, &l.up])),
            gate: Panel::new(d_ff, workspace),
            up: Panel::new(d_ff, workspace),
            hidden: acts_for(workspace, layers.map(|l| &l.down.weight)),
        }
    }

    fn read(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
    }

    /// x += W_down (f(W_gate x̂) · W_up x̂).
    fn add(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let x = &s.input.acts;
        pass.stages.project([Job::prepare_gated(
            Product { w: &self.up, x, y: &mut s.up },
            Product { w: &self.gate, x, y: &mut s.gate },
            Gating { f: self.f, biases: self.biases.each_ref().map(Bias::values) },
            &mut s.hidden,
        )]);
        self.down.forward(pass, &s.hidden);
    }
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    input: InputScratch,
    /// (d_ff)
    gate: Panel,
    up: Panel,
    hidden: ActivationBuffer,
}
