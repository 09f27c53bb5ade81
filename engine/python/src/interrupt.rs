//! Ctrl-C: Python's signal handlers run between passes, and what they raise ends the work.
//!
//! Python runs handlers on its main thread alone: on any other, and in tasks of asyncio, nothing is
//! heard here. Asking takes Python's lock, for which others may make one wait: it is done a few
//! times a second. Test: `tests/test_interrupt.py`.

use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::errors::Result;

/// The time between two looks.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// Lets handlers of signals run; the caller is without Python's lock.
///
/// # Errors
/// What a handler raised.
pub(crate) fn check() -> Result<()> {
    Ok(Python::attach(|py| py.check_signals())?)
}

/// Looks for signals while something goes on.
pub(crate) struct Watch {
    next: Instant,
    raised: Result<()>,
}

impl Watch {
    pub(crate) fn new() -> Watch {
        Watch { next: Instant::now() + TICK, raised: Ok(()) }
    }

    /// Whether to go on.
    pub(crate) fn goes_on(&mut self) -> bool {
        if self.raised.is_ok() && Instant::now() >= self.next {
            self.raised = check();
            self.next = Instant::now() + TICK;
        }
        self.raised.is_ok()
    }

    /// The end of the work.
    ///
    /// # Errors
    /// What ended it early.
    pub(crate) fn end(self) -> Result<()> {
        self.raised
    }
}
