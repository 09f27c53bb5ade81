//! The projection from a block back to the residual stream, rarely with a bias, or with a norm of
//! its own behind it ("sandwich": Ding et al. 2021, arXiv 2105.13290, §2.4).

use crate::Result;
use crate::buffers::ActivationBuffer;
use crate::kernels::lanes::update;
use crate::kernels::norm::inverse_rms;
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::{Inputs, List, NormOp, of};
use crate::stage::{Job, Owned, Piece};
use crate::tensor::{Matrix, Vector};

/// `(d_model, cols)`
pub(crate) struct Output {
    pub(crate) weight: Matrix,
    bias: Option<Vector>,
    /// Its weights (d_model) and epsilon.
    norm: Option<(Vector, f32)>,
}

impl Output {
    /// The matrix `name`, whose input has `cols` values.
    pub(crate) fn load(source: &Source<'_>, name: &str, cols: usize) -> Result<Output> {
        let weight = source.mat(name, source.config.d_model, cols)?;
        Ok(Output { weight, bias: None, norm: None })
    }

    /// The same; with the bias `name.bias` if the file has it.
    pub(crate) fn load_with_bias(source: &Source<'_>, name: &str, cols: usize) -> Result<Output> {
        let bias = source.optional_vector(&format!("{name}.bias"), source.config.d_model)?;
        Ok(Output { bias, ..Output::load(source, name, cols)? })
    }

    /// The same; with the RMS norm `norm` behind it if the layer norms its outputs.
    pub(crate) fn normed(self, source: &Source<'_>, norm: &str) -> Result<Output> {
        if !source.norms()?.after {
            return Ok(self);
        }
        let weight = source.vector(&format!("{norm}.weight"), source.config.d_model)?;
        Ok(Output { norm: Some((weight, source.config.float("norm_eps")?)), ..self })
    }

    /// x = x + norm(W input + b), as operations.
    pub(crate) fn list<'m>(&'m self, list: &mut List<'m>, input: Inputs) {
        let x = list.x();
        let y = list.project("y", &self.weight, input);
        match (&self.norm, &self.bias) {
            (None, None) => list.map(x, of(x) + y),
            (None, Some(bias)) => list.map(x, of(x) + bias + y),
            (Some((weight, eps)), bias) => {
                if let Some(bias) = bias {
                    list.map(y, of(y) + bias);
                }
                let post = list.values("post", list.rows(y));
                list.norm(post, y, NormOp::Rms { weight, eps: *eps }, list.rows(y));
                list.map(x, of(x) + post);
            }
        }
    }

    /// x = x + norm(W input + b).
    pub(crate) fn forward(&self, pass: &mut Pass<'_>, input: &ActivationBuffer) {
        let (x, y) = (&mut pass.streams.x, &mut pass.streams.y);
        let Some((weight, eps)) = &self.norm else {
            if let Some(bias) = &self.bias {
                for c in 0..pass.stages.batch.columns {
                    x.column_mut(c).iter_mut().zip(&bias[..]).for_each(|(x, b)| *x += *b);
                }
            }
            pass.stages.project([Job::add(&self.weight, input, y, x)]);
            return;
        };
        pass.stages.project([Job::keep(&self.weight, input, y)]);
        let owned = Owned { panels: [x, y], acts: [] };
        pass.stages.columns(pass.stages.batch.columns, owned, |piece| {
            let Piece { isa, own, panels: [mut x, mut y], .. } = piece;
            for c in own {
                let y = &mut y.column(c)[..weight.len()];
                simd!(isa, {
                    if let Some(bias) = &self.bias {
                        update(y, bias, |y, b| y + b);
                    }
                    let inverse = inverse_rms(y, *eps);
                    update(y, weight, |y, w| y * inverse * w);
                    update(x.column(c), y, |x, y| x + y);
                });
            }
        });
    }
}
