//! One RMS norm over all heads of a layer, in front of its output, and a gate behind the norm.

use crate::Result;
use crate::buffers::{ActivationBuffer, Panel};
use crate::kernels::lanes::update;
use crate::kernels::math::silu;
use crate::kernels::norm::inverse_rms;
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::{Function, Inputs, List, NormOp, Values, of};
use crate::stage::{Owned, Piece};
use crate::tensor::Vector;

/// The weights of one.
pub(crate) struct WideNorm {
    /// (width)
    weight: Vector,
    eps: f32,
    /// Whether a SiLU comes before it.
    after_silu: bool,
}

impl WideNorm {
    /// `out_norm` over `width` channels.
    pub(crate) fn load(source: &Source<'_>, width: usize, eps: f32) -> Result<WideNorm> {
        let weight = source.vector("out_norm.weight", width)?;
        Ok(WideNorm { weight, eps, after_silu: false })
    }

    /// The same behind a SiLU.
    pub(crate) fn after_silu(self) -> WideNorm {
        WideNorm { after_silu: true, ..self }
    }

    /// y / √(mean(y²) + eps) · w · gate, as operations; y is overwritten.
    pub(crate) fn list<'m>(
        &'m self,
        list: &mut List<'m>,
        y: Values,
        gate: Option<Values>,
    ) -> Inputs {
        if self.after_silu {
            list.map(y, of(y).apply(Function::Silu));
        }
        let normed = list.values("wide normed", list.rows(y));
        let norm = NormOp::Rms { weight: &self.weight, eps: self.eps };
        list.norm(normed, y, norm, list.rows(y));
        let gated = gate.map_or(of(normed), |gate| of(normed) * gate);
        list.pack("gated", list.rows(y), gated)
    }

    /// `out` = y / √(mean(y²) + eps) · w · gate.
    pub(crate) fn forward(
        &self,
        pass: &mut Pass<'_>,
        y: &mut Panel,
        gate: Option<&Panel>,
        out: &mut ActivationBuffer,
    ) {
        let (columns, width) = (pass.stages.batch.columns, self.weight.len());
        pass.stages.columns(columns, Owned { panels: [y], acts: [out] }, |piece| {
            let Piece { isa, own, panels: [mut y], acts: [mut acts], .. } = piece;
            for c in own {
                let y = &mut y.column(c)[..width];
                simd!(isa, {
                    if self.after_silu {
                        y.iter_mut().for_each(|y| *y = silu(*y));
                    }
                    let inverse = inverse_rms(y, self.eps);
                    update(y, &self.weight, |y, w| y * inverse * w);
                    if let Some(gate) = gate {
                        update(y, gate.column(c), |y, gate| y * gate);
                    }
                });
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
