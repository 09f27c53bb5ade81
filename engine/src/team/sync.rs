//! What [`super::barrier`] is made of. `tests/barrier.rs` puts the model checker's own in its
//! place.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub(crate) use std::thread::park;
use std::time::{Duration, Instant};

/// How long an idle worker spins before it parks: longer than the pause between two tokens.
pub(super) const SPIN_TIME: Duration = Duration::from_micros(500);

/// Turns of a wait before it gives its core away at times: some 20 µs, longer than a well-balanced
/// stage makes one wait.
const PURE_SPINS: u32 = 1024;

/// A wait that spins.
#[derive(Default)]
pub(crate) struct Wait {
    turns: u32,
    since: Option<Instant>,
}

impl Wait {
    /// One turn. A long wait yields now and then, for machines with fewer free cores than threads.
    #[inline]
    pub(crate) fn spin(&mut self) {
        self.turns = self.turns.saturating_add(1);
        if self.turns > PURE_SPINS && self.turns.is_multiple_of(64) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }

    /// Whether it has been long: time to park.
    #[inline]
    pub(crate) fn is_long(&mut self) -> bool {
        self.turns % 1024 == 1023
            && self.since.get_or_insert_with(Instant::now).elapsed() > SPIN_TIME
    }
}
