//! Portable matrix kernels.

use brooklet_formats::DType;

use super::Kernel;

/// The largest difference from the definition, as a share of `Σ abs(w x)`.
#[cfg(test)]
pub(super) const TOLERANCE: f32 = 1e-5;

/// The kernel of a format.
pub(super) fn kernel(dtype: DType) -> Kernel {
    super::scalar::kernel(dtype)
}
