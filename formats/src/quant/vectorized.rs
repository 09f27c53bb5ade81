//! Loops compiled for the vectors of the processor at hand.
//!
//! Only for loops whose results do not depend on how wide vectors are: sums run within a lane, and
//! no multiplication is fused with an addition unless it says so, so that every processor writes
//! the same bytes. Not here: the loops.

/// Runs `f` with the widest vectors there are. The closure is `#[inline(always)]`, and so is all
/// that it calls: what is not inlined is compiled for the oldest processor.
#[inline]
pub(super) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(feature = "convert")]
    return pulp::Arch::new().dispatch(f);
    #[cfg(not(feature = "convert"))]
    f()
}
