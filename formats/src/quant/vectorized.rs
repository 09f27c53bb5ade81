//! Loops compiled for the vectors of the processor at hand.
//!
//! Only for loops whose results do not depend on how wide vectors are: sums run within a lane, and
//! no multiplication is fused with an addition unless it says so, so that every processor writes
//! the same bytes. `pulp` makes the choice: it detects what the processor has once, and its tokens
//! keep functions compiled for an instruction set safe to call, so that this crate needs no unsafe
//! code for them. Not here: the loops. Test: `quant/tests/isas.rs`.

/// Runs `f` with the widest vectors there are. The closure is `#[inline(always)]`, and so is all
/// that it calls: what is not inlined is compiled for the oldest processor.
#[inline]
pub(crate) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(feature = "convert")]
    return arch().dispatch(f);
    #[cfg(not(feature = "convert"))]
    f()
}

/// The instruction set of this processor; in tests, the one that [`on`] says.
#[cfg(feature = "convert")]
#[inline]
pub(super) fn arch() -> pulp::Arch {
    #[cfg(test)]
    if let Some(arch) = FORCED.get() {
        return arch;
    }
    pulp::Arch::new()
}

#[cfg(all(test, feature = "convert"))]
thread_local! {
    static FORCED: std::cell::Cell<Option<pulp::Arch>> = const { std::cell::Cell::new(None) };
}

/// Runs `f` as if this thread's processor had no more than `arch`.
#[cfg(all(test, feature = "convert"))]
pub(super) fn on<R>(arch: pulp::Arch, f: impl FnOnce() -> R) -> R {
    FORCED.set(Some(arch));
    let result = f();
    FORCED.set(None);
    result
}
