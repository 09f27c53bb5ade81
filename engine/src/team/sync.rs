//! What [`super::claims`] is made of. `tests/claims.rs` puts the model checker's own in its place.

pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
pub(crate) use std::sync::{Mutex, MutexGuard};
pub(crate) use std::thread::{Thread, current, park};
use std::time::{Duration, Instant};

/// The longest that a thread spins: longer than the pause between two tokens.
pub(super) const LONGEST: Duration = Duration::from_micros(500);
/// The shortest: about what it costs to fall asleep.
const SHORTEST: Duration = Duration::from_micros(5);
/// Turns of a spinning wait between two looks at the clock: one to three microseconds.
const TURNS: u32 = 32;

/// The lock, whoever panicked with it: what the team keeps in locks is whole at all times.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// How long one thread spins before it sleeps: learned from how long its waits were.
///
/// A wait that ended within [`LONGEST`] would have been worth spinning through. One that took
/// longer was for a thread that the system had taken away, or for the next request: the time spun
/// was wasted, and what is wasted on a busy machine is missing later.
pub(crate) struct Patience {
    limit: Duration,
    /// What all waits took, but for the shortest, which nobody timed.
    lost: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { limit: LONGEST, lost: Duration::ZERO }
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
    pub(crate) fn learn(&mut self, wait: Wait) {
        // Most waits are over before the first look at the clock.
        let Some(since) = wait.since else { return };
        let waited = since.elapsed();
        self.lost += waited;
        if waited > LONGEST {
            self.limit = (self.limit / 2).max(SHORTEST);
        } else if waited > self.limit / 2 {
            self.limit = (waited * 2).min(LONGEST);
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
