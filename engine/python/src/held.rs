//! [`Held`]: a value for one thread at a time, whichever it is.
//!
//! Who comes while another thread works waits its turn, without Python's lock, and still hears
//! Ctrl-C. A thread that comes a second time (from a signal's handler, or a callback) gets an error
//! instead of waiting for itself for ever. Test: `tests/test_threads.py`.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use pyo3::prelude::*;

use crate::errors::{Failure, Result};
use crate::interrupt::{self, TICK};

/// A value that threads take in turn.
pub(crate) struct Held<T> {
    /// The thread whose turn it is.
    turn: Mutex<Option<ThreadId>>,
    freed: Condvar,
    value: Mutex<T>,
}

/// The value, until it goes out of scope.
pub(crate) struct Holding<'a, T> {
    // In this order: the value is free when the turn is.
    value: MutexGuard<'a, T>,
    _turn: Turn<'a>,
}

/// Ends a turn.
struct Turn<'a> {
    turn: &'a Mutex<Option<ThreadId>>,
    freed: &'a Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Held<T> {
    pub(crate) fn new(value: T) -> Held<T> {
        Held { turn: Mutex::new(None), freed: Condvar::new(), value: Mutex::new(value) }
    }

    /// Waits for the value; the caller is without Python's lock.
    ///
    /// # Errors
    /// This thread has it already, or a signal's handler raised something.
    pub(crate) fn hold(&self) -> Result<Holding<'_, T>> {
        let own = thread::current().id();
        let mut turn = lock(&self.turn);
        loop {
            match *turn {
                None => break,
                Some(holder) if holder == own => return Err(Failure::Busy),
                Some(_) => {}
            }
            let waited = self.freed.wait_timeout(turn, TICK);
            let (again, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            turn = again;
            if waited.timed_out() && turn.is_some() {
                drop(turn);
                interrupt::check()?;
                turn = lock(&self.turn);
            }
        }
        *turn = Some(own);
        drop(turn);
        let turn = Turn { turn: &self.turn, freed: &self.freed };
        Ok(Holding { value: lock(&self.value), _turn: turn })
    }

    /// Does `work` with the value, without Python's lock.
    ///
    /// # Errors
    /// Those of [`Held::hold`] and of `work`.
    pub(crate) fn with<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut T) -> Result<R> + Send,
    ) -> PyResult<R>
    where
        T: Send,
    {
        Ok(py.detach(|| work(&mut *self.hold()?))?)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(self.turn) = None;
        self.freed.notify_one();
    }
}

impl<T> Deref for Holding<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Holding<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}
