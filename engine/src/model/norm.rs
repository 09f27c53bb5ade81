//! The norms of layers, and of the trunk.

use crate::Result;
use crate::kernels::lanes::update;
use crate::kernels::simd::simd;
use crate::kernels::{Isa, norm};
use crate::ops::{List, NormOp, Values, of};
use crate::tensor::{Loader, Vector};

/// A norm over d_model, or none.
pub(crate) enum Norm {
    Layer { weight: Vector, bias: Vector, eps: f32 },
    Rms { weight: Vector, eps: f32 },
    None,
}

impl Norm {
    /// The layer norm `name.weight`, `name.bias`.
    pub(crate) fn layer(loader: &Loader<'_>, name: &str, n: usize, eps: f32) -> Result<Norm> {
        let weight = loader.vector(&format!("{name}.weight"), &[n])?;
        let bias = loader.vector(&format!("{name}.bias"), &[n])?;
        Ok(Norm::Layer { weight, bias, eps })
    }

    /// The RMS norm `name.weight`.
    pub(crate) fn rms(loader: &Loader<'_>, name: &str, n: usize, eps: f32) -> Result<Norm> {
        Ok(Norm::Rms { weight: loader.vector(&format!("{name}.weight"), &[n])?, eps })
    }

    /// x = norm(x).
    pub(crate) fn apply_in_place(&self, isa: Isa, x: &mut [f32]) {
        simd!(isa, {
            match self {
                Norm::Layer { weight, bias, eps } => {
                    norm::layer_norm_in_place(x, weight, bias, *eps);
                }
                Norm::Rms { weight, eps } => {
                    let inverse = norm::inverse_rms(x, *eps);
                    update(x, weight, |x, w| x * inverse * w);
                }
                Norm::None => {}
            }
        });
    }

    /// y = norm(x), as an operation; `name` is that of y.
    pub(crate) fn list<'m>(&'m self, list: &mut List<'m>, name: &'static str, x: Values) -> Values {
        let n = list.rows(x);
        let y = list.values(name, n);
        match self {
            Norm::Layer { weight, bias, eps } => {
                list.norm(y, x, NormOp::Layer { weight, bias, eps: *eps }, n);
            }
            Norm::Rms { weight, eps } => list.norm(y, x, NormOp::Rms { weight, eps: *eps }, n),
            Norm::None => list.map(y, of(x)),
        }
        y
    }

    /// y = norm(x).
    pub(crate) fn apply(&self, isa: Isa, x: &[f32], y: &mut [f32]) {
        match self {
            Norm::Layer { weight, bias, eps } => norm::layer_norm(isa, x, weight, bias, *eps, y),
            Norm::Rms { weight, eps } => norm::rms_norm(isa, x, weight, *eps, y),
            Norm::None => y.copy_from_slice(x),
        }
    }
}
