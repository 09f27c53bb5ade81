//! The gated feed-forward network (SwiGLU, GeGLU: Shazeer 2020, arXiv 2002.05202, section 2) behind
//! the mixers of delta-rule models and hybrids: `x += W_down (f(W_gate x̂) · W_up x̂)`, x̂ being
//! the RMS-normed x, rarely with biases. Test: `tests/parity_delta.rs`, `tests/parity_hybrid.rs`.

use super::{Bias, Input, InputScratch, LowRank, LowRankScratch, Output, Part};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::forms::GROUP;
use crate::model::{Pass, Source};
use crate::ops::{Function, Inputs, List, of};
use crate::stage::{
    Activation, Cut, GateFunction, Gating, Job, Owned, Piece, Product, prepare_gated,
};
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
    /// Added to both, of one low-rank half; of a network that layers share.
    adapter: Option<Adapter>,
    pub(crate) down: Output,
}

/// (rank, d_model), and (d_ff, rank) for the gate and for the other.
struct Adapter {
    gate: LowRank,
    up: Matrix,
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
            f: match (source.config.flag("gelu_mlp")?, source.config.flag("exact_gelu")?) {
                (false, false) => GateFunction::Silu,
                (true, false) => GateFunction::GeluTanh,
                (_, true) => GateFunction::Gelu,
            },
            adapter: None,
            down: Output::load_with_bias(source, "mlp.down", d_ff)?
                .normed(source, "mlp_post_norm")?,
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        let d_ff = layers.clone().map(|l| l.up.rows()).max().unwrap_or(0);
        let adapters = layers.clone().filter_map(|l| l.adapter.as_ref());
        let d_adapted = adapters.clone().map(|adapter| adapter.up.rows()).max().unwrap_or(0);
        let readers = layers.clone().flat_map(|l| {
            [&l.gate, &l.up].into_iter().chain(l.adapter.as_ref().map(|own| &own.gate.first))
        });
        let (gates, ups) = (adapters.clone().map(|own| &own.gate), adapters.map(|own| &own.up));
        Scratch {
            input: InputScratch::new(workspace, readers),
            adapter: LowRankScratch::shared(workspace, d_adapted, gates, ups),
            adapter_up: Panel::new(d_adapted, workspace),
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
        self.hidden(pass, s);
        self.down.forward(pass, &s.hidden);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let hidden = self.list_hidden(list);
        self.down.list(list, hidden);
    }
}

impl GatedMlp {
    /// hidden = f(W_gate x̂) · W_up x̂, as operations.
    pub(crate) fn list_hidden<'m>(&'m self, list: &mut List<'m>) -> Inputs {
        let input = self.input.list(list);
        let gate = list.project("mlp gate", &self.gate, input);
        let up = list.project("mlp up", &self.up, input);
        if let Some(adapter) = &self.adapter {
            let low = adapter.gate.list_first(list, ["adapter low", "adapter input"], input, None);
            let to_gate = adapter.gate.list_second(list, "adapter gate", low);
            list.map(gate, of(gate) + to_gate);
            let to_up = list.project("adapter up", &adapter.up, low);
            list.map(up, of(up) + to_up);
        }
        let f = match self.f {
            GateFunction::Silu => Function::Silu,
            GateFunction::Gelu => Function::Gelu,
            GateFunction::GeluTanh => Function::GeluTanh,
        };
        let [of_up, of_gate] = &self.biases;
        let hidden = of_gate.of(gate).apply(f) * of_up.of(up);
        list.pack("mlp hidden", self.up.rows(), hidden)
    }

    /// The same with the adapter of the layer, through `rank` values.
    pub(crate) fn adapted(self, source: &Source<'_>, rank: usize) -> Result<GatedMlp> {
        let (rows, cols) = (self.up.rows(), self.up.cols());
        let names = ["mlp.adapter", "mlp.gate.adapter"];
        let gate = LowRank::load(source, names, rows, rank, cols)?;
        let adapter = Adapter { gate, up: source.mat("mlp.up.adapter", rows, rank)? };
        Ok(GatedMlp { adapter: Some(adapter), ..self })
    }

    /// hidden = f(W_gate x̂) · W_up x̂, of what was read.
    pub(crate) fn hidden(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let x = &s.input.acts;
        let biases = self.biases.each_ref().map(Bias::values);
        let gating = Gating { f: self.f, biases };
        let Some(adapter) = &self.adapter else {
            pass.stages.project([Job::prepare_gated(
                Product { w: &self.up, x, y: &mut s.up },
                Product { w: &self.gate, x, y: &mut s.gate },
                gating,
                &mut s.hidden,
            )]);
            return;
        };
        pass.stages.project([
            Job::keep(&self.gate, x, &mut s.gate),
            Job::keep(&self.up, x, &mut s.up),
            adapter.gate.first(x, Activation::Identity, &mut s.adapter),
        ]);
        let LowRankScratch { hidden: low, out, .. } = &mut s.adapter;
        pass.stages.project([
            adapter.gate.second_add(low, out, &mut s.gate),
            Job::add(&adapter.up, low, &mut s.adapter_up, &mut s.up),
        ]);
        let cut = Cut { rows: s.up.rows(), unit: GROUP, bytes: 0 };
        let owned = Owned { panels: [&mut s.gate, &mut s.up], acts: [&mut s.hidden] };
        pass.stages.rows(cut, owned, |piece| {
            let Piece { isa, panels: [mut gate, mut up], acts: [mut hidden], .. } = piece;
            prepare_gated(isa, gating, [&mut gate, &mut up], &mut hidden);
        });
    }
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    input: InputScratch,
    /// (d_ff)
    gate: Panel,
    up: Panel,
    adapter: LowRankScratch,
    adapter_up: Panel,
    pub(crate) hidden: ActivationBuffer,
}
