//! Portable matrix kernels.

use brooklet_formats::DType;

use super::Kernel;

/// The kernel of a format.
pub(super) fn kernel(dtype: DType) -> Kernel {
    super::scalar::kernel(dtype)
}
