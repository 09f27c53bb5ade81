//! Opaque handles: a value, a lock that never waits, and the message of the last failure.
//!
//! A handle is used through `&`, never `&mut`, so that two threads, or a callback that calls back,
//! cannot make two mutable borrows of one value: the second call is BROOKLET_BUSY. After a panic
//! the lock is poisoned, and every further call but the freeing one fails. Test:
//! `tests/contract/border.rs`.

use std::ffi::{CString, c_char};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use super::arguments::{Out, borrow, out};
use super::failure::brooklet_result::{BROOKLET_BUSY, BROOKLET_INTERNAL};
use super::failure::{Failure, Result, brooklet_result, c_string, call};

/// The inside of a handle.
pub(crate) struct Handle<T> {
    value: RwLock<T>,
    message: Mutex<CString>,
}

/// A type of handles.
pub(crate) trait Opaque: Sized {
    /// The value behind the handle.
    type Value;
    /// Its name in messages.
    const NAME: &'static str;
    fn new(handle: Handle<Self::Value>) -> Self;
    fn handle(&self) -> &Handle<Self::Value>;
}

impl<T> Handle<T> {
    /// The value, to look at.
    pub(crate) fn read(&self) -> Result<RwLockReadGuard<'_, T>> {
        self.value.try_read().map_err(refusal)
    }

    /// The value, to change.
    pub(crate) fn write(&self) -> Result<RwLockWriteGuard<'_, T>> {
        self.value.try_write().map_err(refusal)
    }

    /// Runs `body` as [`call`] does, and keeps its message here too.
    fn noting(&self, body: impl FnOnce() -> Result) -> brooklet_result {
        call(|| {
            body().inspect_err(|failure| {
                *self.message.lock().unwrap_or_else(PoisonError::into_inner) =
                    c_string(&failure.message);
            })
        })
    }
}

fn refusal<G>(error: TryLockError<G>) -> Failure {
    match error {
        TryLockError::WouldBlock => Failure::new(
            BROOKLET_BUSY,
            "the handle is in use, by another thread or by the caller of this callback",
        ),
        TryLockError::Poisoned(_) => Failure::new(
            BROOKLET_INTERNAL,
            "an earlier call failed inside brooklet: this handle can only be freed",
        ),
    }
}

/// A function that looks at a handle's value.
///
/// # Safety
/// `handle` is NULL or live: from [`make`], and not freed before this returns.
pub(crate) unsafe fn on<H: Opaque>(
    handle: *const H,
    body: impl FnOnce(&H::Value) -> Result,
) -> brooklet_result {
    // SAFETY: NULL, or from `make` and not freed before this returns: promised (Safety).
    // Shared only: what changes in it stands behind its locks.
    match unsafe { borrow(handle, H::NAME) } {
        Ok(opaque) => opaque.handle().noting(|| body(&*opaque.handle().read()?)),
        Err(failure) => call(|| Err(failure)),
    }
}

/// A function that changes a handle's value.
///
/// # Safety
/// `handle` is NULL or live, as in [`on`].
pub(crate) unsafe fn on_mut<H: Opaque>(
    handle: *const H,
    body: impl FnOnce(&mut H::Value) -> Result,
) -> brooklet_result {
    // SAFETY: NULL, or from `make` and not freed before this returns: promised (Safety).
    // Shared only: what changes in it stands behind its locks.
    match unsafe { borrow(handle, H::NAME) } {
        Ok(opaque) => opaque.handle().noting(|| body(&mut *opaque.handle().write()?)),
        Err(failure) => call(|| Err(failure)),
    }
}

/// A function that makes a handle and writes it through `to`.
///
/// # Safety
/// `to` is NULL or points to where a pointer may be written.
pub(crate) unsafe fn make<H: Opaque>(
    to: *mut *mut H,
    body: impl FnOnce() -> Result<H::Value>,
) -> brooklet_result {
    // SAFETY: NULL, or a pointer may be written there: promised (Safety).
    call(|| unsafe { place(to, body) })
}

/// A function that makes a handle from another one.
///
/// # Safety
/// `from` is NULL or live, as in [`on`]; `to` is as in [`make`].
pub(crate) unsafe fn make_from<S: Opaque, H: Opaque>(
    from: *const S,
    to: *mut *mut H,
    body: impl FnOnce(&S::Value) -> Result<H::Value>,
) -> brooklet_result {
    // SAFETY: `from` is NULL or live: promised (Safety).
    // `to` is NULL, or a pointer may be written there: promised (Safety).
    unsafe { on(from, |value| place(to, || body(value))) }
}

/// # Safety
/// As [`make`].
unsafe fn place<H: Opaque>(to: *mut *mut H, body: impl FnOnce() -> Result<H::Value>) -> Result {
    // SAFETY: NULL, or a pointer may be written there: promised (Safety).
    let to: Out<*mut H> = unsafe { out(to, "the pointer for the new handle")? };
    let handle = Handle { value: RwLock::new(body()?), message: Mutex::default() };
    to.write(Box::into_raw(Box::new(H::new(handle))));
    Ok(())
}

/// Frees a handle; NULL is fine.
///
/// # Safety
/// `handle` is NULL, or from [`make`] and not freed before; no call uses it now or later.
pub(crate) unsafe fn free<H: Opaque>(handle: *mut H) {
    if !handle.is_null() {
        // The result is not for the caller: freeing cannot fail but by a bug.
        let _ = call(|| {
            // SAFETY: not NULL: checked above.
            // From `place`, so a box; not freed before, and no call uses it: promised (Safety).
            drop(unsafe { Box::from_raw(handle) });
            Ok(())
        });
    }
}

/// Copies the message of a handle's last failure, as `snprintf` would: cut to the buffer, always
/// ended by a zero; returns the length of the whole message.
///
/// # Safety
/// `handle` is NULL or live, as in [`on`]; `buffer` is NULL or has `capacity` bytes.
pub(crate) unsafe fn message<H: Opaque>(
    handle: *const H,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    let mut length = 0;
    let _ = call(|| {
        // SAFETY: NULL, or from `make` and not freed before this returns: promised (Safety).
        let opaque = unsafe { borrow(handle, H::NAME)? };
        let message = opaque.handle().message.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = message.as_bytes();
        length = bytes.len();
        if !buffer.is_null() && capacity > 0 {
            let n = length.min(capacity - 1);
            // SAFETY: `n` bytes and a zero are at most `capacity`: the line above.
            // The buffer is not NULL (checked), and has `capacity` bytes: promised (Safety).
            // It is not the message's memory, which no caller has a pointer to.
            unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), buffer, n);
                buffer.add(n).write(0);
            }
        }
        Ok(())
    });
    length
}
