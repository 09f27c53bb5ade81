//! A part whose output and the residual stream are scaled and shifted, channel by channel, before
//! they are added: `x = (part(x) + b_y) · s_y + (x + b_x) · s_x` (Zyphra 2025, arXiv 2511.17127).
//! Test: `tests/parity_experts.rs`.

use super::Part;
use crate::Result;
use crate::buffers::{Panel, Workspace};
use crate::kernels::lanes::update2;
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::{List, of};
use crate::stage::{Owned, Piece};
use crate::tensor::Vector;

/// The part, and what is done to its output and to the stream: shift, then scale (d_model) each.
pub(crate) struct Scaled<P> {
    part: P,
    of_y: [Vector; 2],
    of_x: [Vector; 2],
}

impl<P: Part> Part for Scaled<P> {
    const WORD: &'static str = P::WORD;
    const LIST: &'static str = P::LIST;
    /// Last, the residual stream as it was (d_model).
    type Scratch = (P::Scratch, Panel);

    fn is_called(word: &str) -> bool {
        P::is_called(word)
    }

    /// Reads `residual.*` of a mixer, `mlp_residual.*` of a network.
    fn load(source: &Source<'_>) -> Result<Self> {
        let name = if P::LIST == "network_types" { "mlp_residual" } else { "residual" };
        let vector = |of: &str| source.vector(&format!("{name}.{of}"), source.config.d_model);
        Ok(Scaled {
            part: P::load(source)?,
            of_y: [vector("y_shift")?, vector("y_scale")?],
            of_x: [vector("x_shift")?, vector("x_scale")?],
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Self::Scratch {
        let d_model = layers.clone().map(|layer| layer.of_x[0].len()).max().unwrap_or(0);
        (P::scratch(workspace, layers.map(|layer| &layer.part)), Panel::new(d_model, workspace))
    }

    fn second(&self) -> usize {
        self.part.second()
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let (x, before) = (list.x(), list.copy_stream());
        let kept = list.values("residual kept", list.rows(x));
        let [shift, scale] = &self.of_x;
        list.map(kept, (of(x) + shift) * scale);
        list.map(x, 0.0);
        list.reading(before, |list| self.part.list(list));
        let [shift, scale] = &self.of_y;
        list.map(x, (of(x) + shift) * scale + kept);
    }

    fn read(&self, pass: &mut Pass<'_>, (part, _): &mut Self::Scratch) {
        self.part.read(pass, part);
    }

    fn add(&self, pass: &mut Pass<'_>, (part, before): &mut Self::Scratch) {
        let columns = pass.stages.batch.columns;
        let owned = Owned { panels: [&mut pass.streams.x, before], acts: [] };
        pass.stages.columns(columns, owned, |piece| {
            let Piece { isa, own, panels: [mut x, mut before], .. } = piece;
            for c in own {
                let (x, before) = (x.column(c), before.column(c));
                before.copy_from_slice(x);
                let [shift, scale] = &self.of_x;
                simd!(isa, update2(before, shift, scale, |x, shift, scale| (x + shift) * scale));
                x.fill(0.0);
            }
        });
        self.part.add(pass, part);
        let before = &*before;
        let owned = Owned { panels: [&mut pass.streams.x], acts: [] };
        pass.stages.columns(columns, owned, |piece| {
            let Piece { isa, own, panels: [mut x], .. } = piece;
            for c in own {
                let (y, [shift, scale]) = (x.column(c), &self.of_y);
                simd!(isa, {
                    update2(y, shift, scale, |y, shift, scale| (y + shift) * scale);
                    y.iter_mut().zip(before.column(c)).for_each(|(y, x)| *y += x);
                });
            }
        });
    }
}
