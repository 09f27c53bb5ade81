//! [`Threads`]: the caller and others, for work that comes out the same whoever does it.
//!
//! Here: the pool, and work beside what only the caller can do (reading with its callbacks,
//! writing). Not here: the work; the engine's team, whose threads wait for the next stage without
//! sleeping. Without the cargo feature `threads` the caller does everything. Test:
//! `quant/tests/isas.rs`, `convert/tests.rs`.

#[cfg(feature = "threads")]
use std::sync::{Arc, OnceLock};

#[cfg(feature = "threads")]
use rayon::ThreadPool;

/// A number of threads, the caller among them.
#[derive(Clone, Debug)]
pub(crate) struct Threads {
    count: usize,
    #[cfg(feature = "threads")]
    pool: Option<Arc<ThreadPool>>,
}

impl Threads {
    /// So many; 0: one for each processor, or those of the pool that the caller belongs to. As few
    /// as the system gives.
    pub(crate) fn new(count: usize) -> Self {
        #[cfg(feature = "threads")]
        {
            static ALL: OnceLock<Option<Arc<ThreadPool>>> = OnceLock::new();
            let made = |count| {
                rayon::ThreadPoolBuilder::new().num_threads(count).build().ok().map(Arc::new)
            };
            let pool = match count {
                0 if rayon::current_thread_index().is_some() => {
                    return Self { count: rayon::current_num_threads(), pool: None };
                }
                0 => ALL.get_or_init(|| made(0)).clone(),
                1 => None,
                _ => made(count - 1),
            };
            let others = pool.as_ref().map_or(0, |pool| pool.current_num_threads());
            Self { count: if count == 0 { others.max(1) } else { others + 1 }, pool }
        }
        #[cfg(not(feature = "threads"))]
        {
            let _ = count;
            Self { count: 1 }
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Runs `work` on the other threads, and on the caller's once it is done with `first`, whose
    /// result is given back. `work` ends when there is no more of it, on each thread for itself.
    pub(crate) fn beside<R>(&self, work: impl Fn() + Sync, first: impl FnOnce() -> R) -> R {
        #[cfg(feature = "threads")]
        if self.count > 1 {
            return match &self.pool {
                Some(pool) => pool.in_place_scope(|scope| self.spread(scope, &work, first)),
                None => rayon::in_place_scope(|scope| self.spread(scope, &work, first)),
            };
        }
        let result = first();
        work();
        result
    }

    #[cfg(feature = "threads")]
    fn spread<'a, R>(
        &self,
        scope: &rayon::Scope<'a>,
        work: &'a (impl Fn() + Sync),
        first: impl FnOnce() -> R,
    ) -> R {
        (1..self.count).for_each(|_| scope.spawn(|_| work()));
        let result = first();
        work();
        result
    }
}
