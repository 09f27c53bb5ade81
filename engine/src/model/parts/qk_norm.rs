//! The norms of attention's queries and keys, of each head or of all heads together.

use crate::Result;
use crate::kernels::Isa;
use crate::kernels::lanes::update;
use crate::kernels::norm::inverse_rms;
use crate::kernels::simd::simd;
use crate::model::Source;
use crate::tensor::Vector;

/// The norms of queries and keys.
pub(super) struct QkNorm {
    /// (d_head), or (n_head d_head)
    pub(super) q: Vector,
    /// (d_head), or (n_kv_head d_head)
    pub(super) k: Vector,
    /// All heads are normed together.
    pub(super) is_whole: bool,
}

impl QkNorm {
    /// Those of queries and keys of these widths, if the configuration says that there are some.
    pub(super) fn load(
        source: &Source<'_>,
        d_head: usize,
        widths: [usize; 2],
    ) -> Result<Option<QkNorm>> {
        if !source.config.flag("has_qk_norm")? {
            return Ok(None);
        }
        let is_whole = source.config.flag("whole_qk_norm")?;
        let [q, k] = if is_whole { widths } else { [d_head; 2] };
        let (q, k) =
            (source.vector("attn.q_norm.weight", q)?, source.vector("attn.k_norm.weight", k)?);
        Ok(Some(QkNorm { q, k, is_whole }))
    }
}

/// x = x / √(mean(x²) + eps) · w.
pub(super) fn norm(isa: Isa, x: &mut [f32], weight: &Vector, eps: f32) {
    simd!(isa, {
        let inverse = inverse_rms(x, eps);
        update(x, weight, |x, w| x * inverse * w);
    });
}
