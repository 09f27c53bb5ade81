//! The gated short convolution of LFM2 and LFM3 (reference: transformers
//! `models/lfm2/modeling_lfm2.py`): `x += W_out (C · conv(B · x̃))`, with (B, C, x̃) = W_in
//! norm(x). It remembers the last products B · x̃. Test: `tests/parity_hybrid.rs`.

use super::{Bias, Input, InputScratch, MAX_CONV, Output, Part, padded};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::conv::{Convolution, causal_conv};
use crate::kernels::forms::GROUP;
use crate::kernels::lanes::{WIDTH, update};
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::{ConvOp, List, of, rows};
use crate::stage::{Cut, Job, Owned, Piece, prepare};
use crate::state::SlotRef;
use crate::team::Share;
use crate::tensor::{Matrix, Vector, acts_for};

/// The weights of one layer's convolution.
pub(crate) struct ShortConv {
    input: Input,
    /// B, C, x̃: (d_model, d_model) each, and their biases.
    inputs: [(Matrix, Bias); 3],
    d_conv: usize,
    /// (blocks, d_conv, 16)
    taps: Vector,
    /// (blocks, 16)
    bias: Vector,
    output: Output,
    /// State: the last products, oldest first (blocks, d_conv − 1, 16).
    window: SlotRef,
}

impl Part for ShortConv {
    const WORD: &'static str = "conv";
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<ShortConv> {
        let d_model = source.config.d_model;
        let (blocks, d_conv) =
            (d_model.div_ceil(WIDTH), source.config.size_up_to("d_conv", MAX_CONV)?);
        let input = |name: &str| -> Result<(Matrix, Bias)> {
            let bias = Bias::load(source, &format!("{name}.bias"), d_model)?;
            Ok((source.mat(name, d_model, d_model)?, bias))
        };
        Ok(ShortConv {
            input: Input::load(source, "norm")?,
            inputs: [input("conv.in_b")?, input("conv.in_c")?, input("conv.in_x")?],
            d_conv,
            taps: source.tensor("conv.weight", &[blocks, d_conv, WIDTH])?,
            bias: source.vector("conv.bias", padded(d_model))?,
            output: Output::load_with_bias(source, "conv.out", d_model)?
                .normed(source, "post_norm")?,
            window: source.state("conv", &[blocks, d_conv - 1, WIDTH], 0.0),
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        let d_model = layers.clone().next().map_or(0, |l| padded(l.output.weight.rows()));
        let readers = layers.clone().flat_map(|l| l.inputs.iter().map(|(matrix, _)| matrix));
        let panel = || Panel::new(d_model, workspace);
        Scratch {
            input: InputScratch::new(workspace, readers),
            b: panel(),
            c: panel(),
            x: panel(),
            gated: acts_for(workspace, layers.map(|l| &l.output.weight)),
        }
    }

    fn read(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
    }

    fn add(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let (isa, input) = (pass.stages.isa, &s.input.acts);
        let add = |bias: &Bias, x: &mut Share<'_, f32>| {
            let (at, columns) = (x.rows().start, x.columns());
            simd!(isa, columns.for_each(|c| bias.add(at, x.column(c))));
        };
        let [(b, b_bias), (c, c_bias), (x, x_bias)] = &self.inputs;
        pass.stages.project([
            Job::apply(b, input, &mut s.b, &|b| add(b_bias, b)),
            Job::apply(c, input, &mut s.c, &|c| add(c_bias, c)),
            Job::apply(x, input, &mut s.x, &|x| add(x_bias, x)),
        ]);
        let Scratch { b, c, x, gated, .. } = s;
        let cut = Cut { rows: x.rows(), unit: GROUP, bytes: 0 };
        let owned = Owned { panels: [x], acts: [gated] };
        pass.stages.rows_and_states(cut, owned, &mut pass.states, [self.window], |piece| {
            let Piece {
                batch, own, panels: [mut x], acts: [mut gated], states: [mut window], ..
            } = piece;
            for (run, span) in batch.spans.iter().enumerate() {
                let (b, c) = (b.view(span.clone(), own.clone()), c.view(span.clone(), own.clone()));
                let mut x = x.view_mut(span.clone(), own.clone());
                simd!(isa, (0..x.len()).for_each(|i| update(x.at(i), b.at(i), |x, b| b * x)));
                causal_conv(
                    isa,
                    Convolution {
                        windows: window.get(run),
                        taps: &self.taps[own.start * self.d_conv..own.end * self.d_conv],
                        bias: &self.bias[own.clone()],
                        x: x.view_mut(),
                    },
                );
                simd!(isa, (0..x.len()).for_each(|i| update(x.at(i), c.at(i), |x, c| c * x)));
            }
            prepare(isa, &mut x, &mut gated);
        });
        self.output.forward(pass, &s.gated);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let input = self.input.list(list);
        let n = self.output.weight.cols();
        let [b, c, x] = ["conv b", "conv c", "conv x"].map(|name| list.values(name, padded(n)));
        for (y, (w, bias)) in [b, c, x].into_iter().zip(&self.inputs) {
            list.project_to(y, w, input);
            if bias.values().is_some() {
                list.map(y, bias.of(y));
            }
        }
        list.map(x, of(b) * x);
        let (taps, bias, window) = (&*self.taps, &*self.bias, self.window);
        list.conv(ConvOp { taps, bias, window, y: x, seen: None });
        let gated = list.pack("gated", n, rows(c, 0) * rows(x, 0));
        self.output.list(list, gated);
    }
}

/// Buffers of a forward pass, one column per token (d_model).
pub(crate) struct Scratch {
    input: InputScratch,
    b: Panel,
    c: Panel,
    x: Panel,
    gated: ActivationBuffer,
}
