//! The normed residual stream as the input of a block's projections.

use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::lanes::update;
use crate::kernels::simd::simd;
use crate::model::{Norm, Pass, Source};
use crate::ops::{Inputs, List, Values, of, part};
use crate::stage::{Owned, Piece};
use crate::tensor::{Matrix, Vector, acts_for};

/// The norm before a block; none where the layer norms what comes out of it.
pub(crate) struct Input {
    norm: Option<Norm>,
    /// The second stream stands behind the first, and both are normed together.
    is_double: bool,
    /// The residual stream becomes what is normed, times so much, before the block adds to it (the
    /// norm behind a sum: Vaswani et al. 2017, arXiv 1706.03762, §3.1).
    residual: Option<Vector>,
}

impl Input {
    /// The RMS norm `name`; with `name.residual`, if the file has it.
    pub(crate) fn load(source: &Source<'_>, name: &str) -> Result<Input> {
        let norm = if source.norms()?.before { Some(source.rms_norm(name)?) } else { None };
        let residual = source.optional_vector(&format!("{name}.residual"), 1)?;
        Ok(Input { norm, is_double: false, residual })
    }

    /// The RMS norm `name` over both streams.
    pub(crate) fn double(source: &Source<'_>, name: &str) -> Result<Input> {
        let norm = source.rms_norm_of(name, 2 * source.config.d_model)?;
        Ok(Input { norm: Some(norm), is_double: true, residual: None })
    }

    /// Number of values.
    pub(crate) fn width(&self, d_model: usize) -> usize {
        if self.is_double { 2 * d_model } else { d_model }
    }

    /// norm(x) of every column, as operations.
    pub(crate) fn list<'m>(&'m self, list: &mut List<'m>) -> Inputs {
        self.list_both(list).1
    }

    /// The same, its values and what matrices read of them.
    pub(crate) fn list_both<'m>(&'m self, list: &mut List<'m>) -> (Values, Inputs) {
        let (x, mut stream) = (list.x(), list.stream());
        if self.is_double {
            let (n, embedding) = (list.rows(x), list.embedding());
            let both = [part(stream, (0, 0), 0, n), part(embedding, (0, 0), n, n)];
            stream = list.place("both streams", (1, 2 * n), both);
        }
        let normed = match &self.norm {
            Some(norm) => norm.list(list, "normed", stream),
            // It changes before everybody has read it.
            None if self.residual.is_some() => {
                let normed = list.values("normed", list.rows(stream));
                list.map(normed, of(stream));
                normed
            }
            None => stream,
        };
        let input = list.pack("input", list.rows(stream), of(normed));
        if let Some(residual) = &self.residual {
            list.map(x, of(normed) * residual[0]);
        }
        (normed, input)
    }

    /// Prepares norm(x) of every column.
    pub(crate) fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let (x, second) = (&mut pass.streams.x, &pass.streams.second);
        let d_model = x.rows();
        let owned = Owned { panels: [&mut s.normed, x], acts: [&mut s.acts] };
        pass.stages.columns(pass.stages.batch.columns, owned, |piece| {
            let Piece { isa, own, panels: [mut normed, mut x], acts: [mut acts], .. } = piece;
            for c in own {
                let x = &mut x.column(c)[..d_model];
                let y = &mut normed.column(c)[..self.width(d_model)];
                match &self.norm {
                    Some(norm) if self.is_double => {
                        y[..d_model].copy_from_slice(x);
                        y[d_model..].copy_from_slice(second.column(c));
                        norm.apply_in_place(isa, y);
                    }
                    Some(norm) => norm.apply(isa, x, y),
                    None => y.copy_from_slice(x),
                }
                if let Some(residual) = &self.residual {
                    simd!(isa, update(x, y, |_, y| residual[0] * y));
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

/// Buffers of a forward pass, one column per token (d_model, or twice that).
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
