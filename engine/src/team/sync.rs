//! The atomics and locks of [`super::claims`]. `tests/claims.rs` puts the model checker's own in
//! its place.

pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
pub(crate) use std::thread::park;
use std::time::{Duration, Instant};

/// The longest that a thread spins: longer than the pause between two tokens.
pub(super) const LONGEST: Duration = Duration::from_micros(500);
/// How long it spins on a busy machine: longer than a well-balanced stage makes one wait.
const BUSY: Duration = Duration::from_micros(20);
/// Waits without a long one after which the machine counts as quiet again: some ten tokens.
const CALM: u32 = 2000;
/// Turns of a spinning wait between two looks at the clock: one to three microseconds.
const TURNS: u32 = 32;

/// The lock, whoever panicked with it: what the team keeps in locks is whole at all times.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Wakes one sleeper.
#[derive(Default)]
pub(crate) struct Bell {
    rings: Mutex<()>,
    heard: Condvar,
}

impl Bell {
    /// Sleeps while `condition` holds; whoever ends it rings afterwards.
    pub(crate) fn wait_while(&self, condition: impl Fn() -> bool) {
        let mut guard = lock(&self.rings);
        while condition() {
            guard = self.heard.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    /// Wakes the sleeper, if there is one. The lock is taken so that it does not ring between the
    /// sleeper's look at the condition and its falling asleep.
    pub(crate) fn ring(&self) {
        drop(lock(&self.rings));
        self.heard.notify_one();
    }
}

/// How long one thread spins before it sleeps.
///
/// A wait that is longer than [`LONGEST`] is for a thread that the system has taken away, or for
/// the next request. Spinning was a waste then, and time that is wasted on a busy machine is
/// missing later: for some while after it, waits spin only shortly.
pub(crate) struct Patience {
    limit: Duration,
    /// Waits since the last long one.
    calm: u32,
    /// The duration of all waits, but for the shortest, which nobody timed.
    lost: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { limit: LONGEST, calm: 0, lost: Duration::ZERO }
    }
}

impl Patience {
    pub(crate) fn wait(&self) -> Wait {
        Wait { limit: self.limit, turns: 0, since: None }
    }

    /// The time lost since this was asked last.
    pub(super) fn take_lost(&mut self) -> Duration {
        std::mem::take(&mut self.lost)
    }

    /// After `wait`, asleep or not.
    #[inline]
    pub(crate) fn learn(&mut self, wait: Wait) {
        self.calm = self.calm.saturating_add(1);
        if self.calm == CALM {
            self.limit = LONGEST;
        }
        // Most waits are over before the first look at the clock.
        let Some(since) = wait.since else { return };
        let waited = since.elapsed();
        self.lost += waited;
        if waited > LONGEST {
            (self.limit, self.calm) = (BUSY, 0);
        }
    }
}

/// A wait that spins.
pub(crate) struct Wait {
    limit: Duration,
    turns: u32,
    since: Option<Instant>,
}

impl Wait {
    #[inline]
    pub(crate) fn spin(&mut self) {
        self.turns = self.turns.wrapping_add(1);
        std::hint::spin_loop();
    }

    /// Whether it has been long: time to sleep.
    #[inline]
    pub(crate) fn is_long(&mut self) -> bool {
        self.turns % TURNS == TURNS - 1
            && self.since.get_or_insert_with(Instant::now).elapsed() > self.limit
    }
}
