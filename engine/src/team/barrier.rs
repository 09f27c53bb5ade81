//! The spinning barrier of a team: the leader opens stages, workers take them, the leader waits
//! until all are done.
//!
//! A hand-over costs two cache lines: `epoch`, which counts stages, and `busy`, which counts
//! workers that have not finished. A worker that waits for long parks. It says so first by a swap,
//! and the leader looks by a swap, after it has advanced the epoch: of two swaps on one flag the
//! later sees what stood before the earlier, so either the worker sees the new epoch or the leader
//! sees that it has to wake somebody. (Two plain accesses would need a store that no later load
//! overtakes, which some emulators of processors do not give.)
//!
//! `tests/barrier.rs` compiles this file against the model checker `loom`, which tries every
//! interleaving.

use super::sync::{AtomicBool, AtomicUsize, Ordering, Wait, park};

/// One cache line to itself, so that spinning on it disturbs nothing else.
#[repr(align(128))]
struct Line<T>(T);

/// The meeting point of a leader and its workers.
pub(crate) struct Barrier {
    /// Counts stages; a change tells the workers that there is a new one.
    epoch: Line<AtomicUsize>,
    /// Workers that have not finished the current stage.
    busy: Line<AtomicUsize>,
    /// Set by a worker that is about to park.
    parked: Vec<AtomicBool>,
    exit: AtomicBool,
}

impl Barrier {
    /// For a leader and `workers` workers.
    pub(crate) fn new(workers: usize) -> Barrier {
        Barrier {
            epoch: Line(AtomicUsize::new(0)),
            busy: Line(AtomicUsize::new(0)),
            parked: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            exit: AtomicBool::new(false),
        }
    }

    /// The leader: lets the first `workers` workers into the next stage. `wake` is called for those
    /// that may be parked.
    ///
    /// What the leader wrote before, they see; it may not call this again before [`Barrier::join`].
    pub(crate) fn open(&self, workers: usize, wake: impl Fn(usize)) {
        self.busy.0.store(workers, Ordering::Relaxed);
        self.epoch.0.fetch_add(1, Ordering::AcqRel);
        for (worker, parked) in self.parked.iter().enumerate().take(workers) {
            if parked.swap(false, Ordering::AcqRel) {
                wake(worker);
            }
        }
    }

    /// The leader: waits until all workers have finished the stage, and sees what they wrote.
    pub(crate) fn join(&self) {
        let mut wait = Wait::default();
        while self.busy.0.load(Ordering::Acquire) != 0 {
            wait.spin();
        }
    }

    /// The leader: tells all workers to leave; it has to wake them afterwards.
    pub(crate) fn close(&self) {
        self.exit.store(true, Ordering::Release);
        self.epoch.0.fetch_add(1, Ordering::AcqRel);
    }

    /// A worker: waits for the stage after the one that `seen` counts. False: there is none any
    /// more.
    pub(crate) fn wait(&self, worker: usize, seen: &mut usize) -> bool {
        let mut wait = Wait::default();
        loop {
            let epoch = self.epoch.0.load(Ordering::Acquire);
            if epoch != *seen {
                *seen = epoch;
                return !self.exit.load(Ordering::Acquire);
            }
            if wait.is_long() {
                self.park(worker, *seen);
            }
            wait.spin();
        }
    }

    /// Parks until the epoch differs from `seen`. Says so again before each parking: a leader that
    /// is late may clear the flag for a stage that this worker has long finished.
    fn park(&self, worker: usize, seen: usize) {
        loop {
            self.parked[worker].swap(true, Ordering::AcqRel);
            if self.epoch.0.load(Ordering::Acquire) != seen {
                return;
            }
            park();
        }
    }

    /// A worker: has finished the stage.
    pub(crate) fn done(&self) {
        self.busy.0.fetch_sub(1, Ordering::Release);
    }
}
