//! The lists that a pass over many sequences needs, which keep their memory from call to call.
//! Test: `tests/allocations.rs`.

use std::sync::RwLockWriteGuard;

use brooklet::{Run, State};

/// Lists that are empty between calls; their memory is used again.
pub(crate) struct Lists {
    pub(crate) states: Vec<RwLockWriteGuard<'static, State>>,
    pub(crate) runs: Vec<Run<'static>>,
}

impl Lists {
    /// For passes of up to `n` runs.
    pub(crate) fn new(n: usize) -> Lists {
        Lists { states: Vec::with_capacity(n), runs: Vec::with_capacity(n) }
    }
}

/// The memory of a vector, for elements of the same size: taken from `vec`, which is empty
/// afterwards.
pub(crate) fn recycled<T, U>(vec: &mut Vec<T>) -> Vec<U> {
    let mut vec = std::mem::take(vec);
    vec.clear();
    // Collecting from an emptied vector keeps its allocation (`tests/allocations.rs` would notice
    // if not).
    vec.into_iter().map(|_| unreachable!("the vector is empty")).collect()
}
