//! The projection from a block back to the residual stream, rarely with a bias.

use crate::Result;
use crate::buffers::ActivationBuffer;
use crate::model::{Pass, Source};
use crate::stage::Job;
use crate::tensor::{Matrix, Vector};

/// `(d_model, cols)`
pub(crate) struct Output {
    pub(crate) weight: Matrix,
    bias: Option<Vector>,
}

impl Output {
    /// The matrix `name`, whose input has `cols` values.
    pub(crate) fn load(source: &Source<'_>, name: &str, cols: usize) -> Result<Output> {
        Ok(Output { weight: source.mat(name, source.config.d_model, cols)?, bias: None })
    }

    /// The same; with the bias `name.bias` if the file has it.
    pub(crate) fn load_with_bias(source: &Source<'_>, name: &str, cols: usize) -> Result<Output> {
        let bias = source.optional_vector(&format!("{name}.bias"), source.config.d_model)?;
        Ok(Output { bias, ..Output::load(source, name, cols)? })
    }

    /// x = x + W input + b.
    pub(crate) fn forward(&self, pass: &mut Pass<'_>, input: &ActivationBuffer) {
        let (x, y) = (&mut pass.streams.x, &mut pass.streams.y);
        if let Some(bias) = &self.bias {
            for c in 0..pass.stages.batch.columns {
                x.column_mut(c).iter_mut().zip(&bias[..]).for_each(|(x, b)| *x += *b);
            }
        }
        pass.stages.project([Job::add(&self.weight, input, y, x)]);
    }
}
