//! The thread team: workers that stay hot for the length of a forward pass and take *stages* from a
//! spinning barrier.
//!
//! A stage is a closure that every worker runs with its own index; [`Split`] says which units
//! (tiles, heads, columns) belong to which worker, and [`Shared`] hands each worker its own part of
//! a buffer. Workers spin between stages (a hand-over takes under a microsecond, waking a parked
//! thread 50–100 µs) and park after a bounded wait. No thread starts before the first stage that
//! needs one. Tests: below; `tests/barrier.rs` (every interleaving of the barrier) and
//! `tests/threads.rs` (many sessions on many threads).

mod barrier;
mod buffers;
mod share;
mod split;
mod sync;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, Thread};

use barrier::Barrier;
pub(crate) use buffers::{Base, Buffers, BuffersPart};
pub(crate) use share::{Part, Shared};
pub(crate) use split::{Split, lcm};

/// The most workers a team may have.
pub(crate) const MAX_THREADS: usize = if cfg!(feature = "threads") { 64 } else { 1 };

/// A stage with its lifetime erased; valid while [`Team::run`] waits for the workers.
#[derive(Clone, Copy)]
struct Stage(*const (dyn Fn(usize) + Sync));

// SAFETY: the closure behind the pointer is `Sync`, and `Team::run` keeps it alive until every
// worker is done.
unsafe impl Send for Stage {}

struct Bridge {
    barrier: Barrier,
    /// Written by the leader before it opens the barrier.
    stage: Mutex<Option<Stage>>,
    /// What a worker's stage panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A leader (the calling thread) and `threads - 1` workers.
pub(crate) struct Team {
    threads: usize,
    bridge: Arc<Bridge>,
    workers: Vec<(Thread, JoinHandle<()>)>,
}

impl Team {
    /// A team of `threads` (clamped to 1..=[`MAX_THREADS`]); its threads start with the first
    /// stage.
    pub(crate) fn new(threads: usize) -> Team {
        let threads = threads.clamp(1, MAX_THREADS);
        let bridge = Bridge {
            barrier: Barrier::new(threads - 1),
            stage: Mutex::new(None),
            panic: Mutex::new(None),
        };
        Team { threads, bridge: Arc::new(bridge), workers: Vec::new() }
    }

    /// Number of threads, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Starts the workers if they are not running; the system may refuse some, and then the team is
    /// smaller.
    ///
    /// Called once before the stages of a forward pass are split, since splits depend on
    /// [`Team::threads`].
    pub(crate) fn prepare(&mut self) {
        if cfg!(feature = "threads") && self.workers.len() + 1 < self.threads {
            self.start();
        }
    }

    /// Runs `stage(worker)` once for every worker, worker 0 on the calling thread, and returns when
    /// all are done.
    ///
    /// A panic in any worker is carried to the caller after all have stopped.
    pub(crate) fn run(&mut self, stage: &(dyn Fn(usize) + Sync)) {
        if cfg!(not(feature = "threads")) || self.threads == 1 {
            return stage(0);
        }
        let bridge = &*self.bridge;
        // SAFETY: only the lifetime changes. Every worker drops the pointer before it is done, and
        // this function does not return or unwind before all are (`Join` waits in its drop).
        let erased = Stage(unsafe {
            std::mem::transmute::<
                *const (dyn Fn(usize) + Sync + '_),
                *const (dyn Fn(usize) + Sync + 'static),
            >(stage)
        });
        *lock(&bridge.stage) = Some(erased);
        bridge.barrier.open(self.threads - 1, |worker| self.workers[worker].0.unpark());
        let join = Join(&bridge.barrier);
        stage(0);
        drop(join);
        if let Some(panic) = lock(&bridge.panic).take() {
            resume_unwind(panic);
        }
    }

    fn start(&mut self) {
        for index in 1..self.threads {
            let bridge = Arc::clone(&self.bridge);
            let name = format!("brooklet-{index}");
            match std::thread::Builder::new().name(name).spawn(move || work(&bridge, index)) {
                Ok(handle) => self.workers.push((handle.thread().clone(), handle)),
                // Fewer threads than asked for: the team shrinks; results do not depend on its
                // size.
                Err(error) => {
                    log::warn!("{index} threads instead of {}: {error}", self.threads);
                    self.threads = index;
                    break;
                }
            }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.bridge.barrier.close();
        for (thread, handle) in self.workers.drain(..) {
            thread.unpark();
            // A worker catches its panics, so joining cannot fail.
            let _ = handle.join();
        }
    }
}

/// Waits, when dropped, until every worker has finished the stage.
struct Join<'a>(&'a Barrier);

impl Drop for Join<'_> {
    fn drop(&mut self) {
        self.0.join();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A worker's life: wait for a stage, run it, report.
fn work(bridge: &Bridge, index: usize) {
    let mut seen = 0;
    while bridge.barrier.wait(index - 1, &mut seen) {
        let stage = *lock(&bridge.stage);
        if let Some(stage) = stage {
            // SAFETY: the leader keeps the closure alive until all workers are done, which this one
            // says below.
            let run = || unsafe { (*stage.0)(index) };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
                *lock(&bridge.panic) = Some(panic);
            }
        }
        bridge.barrier.done();
    }
}

#[cfg(all(test, feature = "threads"))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::sync::SPIN_TIME;
    use super::*;

    #[test]
    fn every_worker_runs_every_stage_once() {
        for threads in [1, 2, 3, 5] {
            let mut team = Team::new(threads);
            team.prepare();
            for round in 0..300 {
                let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
                team.run(&|worker| {
                    counts[worker].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
                if round % 100 == 50 {
                    std::thread::sleep(SPIN_TIME * 2);
                }
            }
        }
    }

    #[test]
    fn parts_are_disjoint_and_cover() {
        let mut buffer = vec![0u32; 3 * 100];
        let mut team = Team::new(3);
        team.prepare();
        let shared = Shared::rows(&mut buffer, 100, 3, Split::new(90, 32, 3));
        team.run(&|worker| {
            let mut part = shared.take(worker);
            for c in part.columns() {
                part.column(c).iter_mut().for_each(|v| *v += 1);
            }
        });
        for (i, v) in buffer.iter().enumerate() {
            assert_eq!(*v, u32::from(i % 100 < 90));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_survives() {
        let mut team = Team::new(2);
        team.prepare();
        let result = catch_unwind(AssertUnwindSafe(|| {
            team.run(&|worker| assert!(worker == 0, "worker fell"))
        }));
        assert!(result.is_err());
        team.run(&|_| {});
    }
}
