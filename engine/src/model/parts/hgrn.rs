//! HGRN (Qin, Yang & Zhong 2023, arXiv 2311.04823, eq. 4-8), the first version, whose state is a
//! number for each channel: `h = α h + (1 − α) silu(i)`. Reference: fla `layers/hgrn.py`. Test:
//! `tests/parity_linear.rs`.

use super::{Input, InputScratch, Output, Part, Projections, Wanted, WideNorm, padded};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::forms::GROUP;
use crate::kernels::math::{sigmoid, silu};
use crate::kernels::recurrence::{Leaky, leaky};
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::{Formula, Function, List, before, of};
use crate::stage::{Cut, Owned, Piece};
use crate::state::SlotRef;
use crate::tensor::{Vector, acts_for};

/// The weights of one layer, over `width` channels.
pub(crate) struct Hgrn {
    input: Input,
    /// i, f and the gate: (width, d_model) each.
    inputs: Projections<3>,
    /// The least α (width).
    least: Vector,
    norm: WideNorm,
    output: Output,
    /// State: h (width).
    state: SlotRef,
}

impl Part for Hgrn {
    const WORD: &'static str = "hgrn";
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<Hgrn> {
        let width = source.config.size("d_inner")?;
        let wanted = |name, conv, is_silu| Wanted { name, conv, rows: width, is_silu };
        Ok(Hgrn {
            input: Input::load(source, "norm")?,
            inputs: Projections::load(
                source,
                [
                    wanted("in_proj.i", Some("conv_i"), false),
                    wanted("in_proj.f", Some("conv_f"), false),
                    wanted("in_proj.z", None, true),
                ],
            )?,
            least: source.vector("least_decay", width)?,
            norm: WideNorm::load(source, width, source.config.float("out_norm_eps")?)?,
            output: Output::load(source, "out_proj", width)?,
            state: source.state("h", &[width], 0.0),
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        let width = layers.clone().map(|l| padded(l.inputs.rows(0))).max().unwrap_or(0);
        let panel = || Panel::new(width, workspace);
        Scratch {
            input: InputScratch::new(workspace, layers.clone().flat_map(|l| l.inputs.readers())),
            i: panel(),
            f: panel(),
            z: panel(),
            normed: acts_for(workspace, layers.map(|l| &l.output.weight)),
        }
    }

    fn read(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
    }

    /// x += W_out (norm(h) · silu(W_z x̂)).
    fn add(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let Scratch { input, i, f, z, normed } = s;
        self.inputs.forward(pass, &input.acts, [Some(&mut *i), Some(&mut *f), Some(&mut *z)], []);
        let cut = Cut { rows: self.least.len(), unit: GROUP, bytes: 0 };
        let owned = Owned { panels: [&mut *i, f], acts: [] };
        pass.stages.rows_and_states(cut, owned, &mut pass.states, [self.state], |piece| {
            let Piece { isa, batch, own, panels: [mut i, mut f], states: [mut h], .. } = piece;
            let least = &self.least[own.clone()];
            simd!(isa, {
                for c in i.columns() {
                    let inputs = i.column(c).iter_mut().zip(f.column(c));
                    for ((i, f), least) in inputs.zip(least) {
                        // 1 − sigmoid(x) = sigmoid(−x), which does not cancel.
                        *i = silu(*i) * ((1.0 - least) * sigmoid(-*f));
                        *f = least + (1.0 - least) * sigmoid(*f);
                    }
                }
            });
            for (run, span) in batch.spans.iter().enumerate() {
                let decay = f.view_mut(span.clone(), own.clone());
                let x = i.view_mut(span.clone(), own.clone());
                leaky(isa, Leaky { decay: decay.view(), h: h.get(run), x });
            }
        });
        self.norm.forward(pass, i, Some(z), normed);
        self.output.forward(pass, &s.normed);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let input = self.input.list(list);
        let [i, f, z] = [(0, "i"), (1, "f"), (2, "z")].map(|of| self.inputs.list(list, of, input));
        let [h, decay] = ["h", "decay"].map(|name| list.values(name, self.least.len()));
        let rest = || Formula::from(1.0) - &self.least;
        let new = of(i).apply(Function::Silu) * (rest() * (-of(f)).apply(Function::Sigmoid));
        let new_at = list.values("h new", self.least.len());
        list.map(new_at, new);
        list.map(decay, Formula::from(&self.least) + rest() * of(f).apply(Function::Sigmoid));
        // h = α h + (1 − α) silu(i).
        list.fold(h, of(decay) * before(h, self.state) + new_at);
        list.keep(h, self.state);
        let normed = self.norm.list(list, h, Some(z));
        self.output.list(list, normed);
    }
}

/// Buffers of a forward pass, one column per token (width).
pub(crate) struct Scratch {
    input: InputScratch,
    /// i, then h
    i: Panel,
    /// f, then α
    f: Panel,
    /// The gate.
    z: Panel,
    normed: ActivationBuffer,
}
