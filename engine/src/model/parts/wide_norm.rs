//! The RMS norm over all heads together, in front of a mixer's output. Test:
//! `tests/parity_linear.rs`.

use crate::buffers::{ActivationBuffer, Panel};
use crate::kernels::lanes::update;
use crate::kernels::norm::inverse_rms;
use crate::kernels::simd::simd;
use crate::model::Pass;
use crate::stage::{Owned, Piece};
use crate::tensor::Vector;

/// `out` = y / √(mean(y²) + eps) · w, ready to be projected; `y` is overwritten.
pub(crate) fn wide_norm(
    pass: &mut Pass<'_>,
    y: &mut Panel,
    (weight, eps): (&Vector, f32),
    out: &mut ActivationBuffer,
) {
    let (columns, width) = (pass.stages.batch.columns, weight.len());
    pass.stages.columns(columns, Owned { panels: [y], acts: [out] }, |piece| {
        let Piece { isa, own, panels: [mut y], acts: [mut acts], .. } = piece;
        for c in own {
            let y = &mut y.column(c)[..width];
            simd!(isa, {
                let inverse = inverse_rms(y, eps);
                update(y, weight, |y, w| y * inverse * w);
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
