//! A part whose output goes through a short convolution of its own before it is added, as Inkling's
//! do (reference: transformers `models/inkling/modeling_inkling.py`): `x += conv(part(norm(x)))`. A
//! convolution that adds its input has 1 more in its last tap. Test: `tests/parity_experts.rs`.

use super::{CausalConv, MAX_CONV, Part, padded};
use crate::Result;
use crate::buffers::{Panel, Workspace};
use crate::kernels::forms::GROUP;
use crate::kernels::lanes::update2;
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::{List, of, part, rows};
use crate::stage::{Cut, Owned, Piece};

/// The part, and the convolution over d_model channels behind it.
pub(crate) struct Convolved<P> {
    part: P,
    conv: CausalConv,
    d_model: usize,
}

impl<P: Part> Part for Convolved<P> {
    /// No file chooses between it and another one.
    const WORD: &'static str = "";
    /// Its own, and what the part adds: the residual stream as it was (d_model), the convolution's
    /// channels (d_model, padded).
    type Scratch = (P::Scratch, Panel, Panel);

    fn load(source: &Source<'_>) -> Result<Self> {
        let (part, d_model) = (P::load(source)?, source.config.d_model);
        let d_conv = source.config.size_up_to("d_conv", MAX_CONV)?;
        let name = if P::LIST == "layer_types" { "out_conv" } else { "mlp_conv" };
        Ok(Convolved {
            part,
            conv: CausalConv::load(source, (name, name), d_model, d_conv)?,
            d_model,
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Self::Scratch {
        let d_model = layers.clone().map(|layer| layer.d_model).max().unwrap_or(0);
        let parts = P::scratch(workspace, layers.map(|layer| &layer.part));
        (parts, Panel::new(d_model, workspace), Panel::new(padded(d_model), workspace))
    }

    fn read(&self, pass: &mut Pass<'_>, (part, _, _): &mut Self::Scratch) {
        self.part.read(pass, part);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let (x, before) = (list.x(), list.copy_stream());
        list.map(x, 0.0);
        list.reading(before, |list| self.part.list(list));
        let d = self.d_model;
        let y = list.place("conv behind", (1, padded(d)), [part(x, (0, 0), 0, d)]);
        self.conv.list(list, y);
        list.map(x, of(before) + rows(y, 0));
    }

    fn add(&self, pass: &mut Pass<'_>, (part, before, y): &mut Self::Scratch) {
        let columns = pass.stages.batch.columns;
        before.copy(&pass.streams.x, columns);
        pass.streams.x.clear(columns);
        self.part.add(pass, part);
        let x = &mut pass.streams.x;
        let cut = Cut { rows: y.rows(), unit: GROUP, bytes: 0 };
        let owned = Owned { panels: [&mut *y], acts: [] };
        let window = [self.conv.window];
        pass.stages.rows_and_states(cut, owned, &mut pass.states, window, |piece| {
            let Piece { isa, batch, own, panels: [mut y], states: [window], .. } = piece;
            let some = own.start..own.end.min(x.rows());
            for c in 0..batch.columns {
                let (y, rest) = y.column(c).split_at_mut(some.len());
                y.copy_from_slice(&x.column(c)[some.clone()]);
                rest.fill(0.0);
            }
            self.conv.forward(isa, batch, &mut y, window);
        });
        let owned = Owned { panels: [x], acts: [] };
        pass.stages.columns(columns, owned, |piece| {
            let Piece { isa, own, panels: [mut x], .. } = piece;
            for c in own {
                let (before, y) = (before.column(c), y.column(c));
                simd!(isa, update2(x.column(c), before, y, |_, before, y| before + y));
            }
        });
    }
}
