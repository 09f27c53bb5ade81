//! The normed residual stream as the input of a block's projections.

use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::model::{Norm, Pass, Source};
use crate::stage::{Owned, Piece};
use crate::tensor::{Matrix, acts_for};

/// The norm before a block; none where the layer norms what comes out of it.
pub(crate) struct Input(Option<Norm>);

impl Input {
    /// The RMS norm `name`.
    pub(crate) fn load(source: &Source<'_>, name: &str) -> Result<Input> {
        Ok(Input(if source.norms()?.before { Some(source.rms_norm(name)?) } else { None }))
    }

    /// Prepares norm(x) of every column.
    pub(crate) fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let x = &pass.streams.x;
        let owned = Owned { panels: [&mut s.normed], acts: [&mut s.acts] };
        pass.stages.columns(pass.stages.batch.columns, owned, |piece| {
            let Piece { isa, own, panels: [mut normed], acts: [mut acts], .. } = piece;
            for c in own {
                let y = &mut normed.column(c)[..x.rows()];
                match &self.0 {
                    Some(norm) => norm.apply(isa, x.column(c), y),
                    None => y.copy_from_slice(x.column(c)),
                }
                acts.fill(
                    isa,
                    c,
                    #[inline(always)]
                    |rows, out| out.copy_from_slice(&y[rows]),
                );
            }
        });
    }
}

/// Buffers of a forward pass, one column per token (d_model).
pub(crate) struct Scratch {
    pub(crate) normed: Panel,
    pub(crate) acts: ActivationBuffer,
}

impl Scratch {
    /// For the matrices that read it.
    pub(crate) fn new<'a>(
        workspace: &Workspace,
        readers: impl Iterator<Item = &'a Matrix> + Clone,
    ) -> Scratch {
        let d_model = readers.clone().next().map_or(0, Matrix::cols);
        Scratch { normed: Panel::new(d_model, workspace), acts: acts_for(workspace, readers) }
    }
}
