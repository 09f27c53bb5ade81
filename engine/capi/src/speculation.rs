//! Guesses of what comes next, for brooklet_session_generate.
//!
//! Not here: guessing (`brooklet::speculate`). Tests: `tests/contract/guesses.rs`.

use std::ffi::c_char;

use brooklet::speculate::{DraftModel, Lookup, MAX_GUESSES, Speculation};

use super::arguments::{borrow, slice};
use super::failure::{Failure, Result, brooklet_result};
use super::handle::{Handle, Opaque, free, make, make_from, message, on, on_mut};
use super::model::brooklet_model;
use super::options::{Report, read, report};
use super::session::brooklet_session_options;

/// Guesses for one session at a time.
pub struct brooklet_speculation(Handle<Speculation>);

impl Opaque for brooklet_speculation {
    type Value = Speculation;
    const NAME: &'static str = "speculation";

    fn new(handle: Handle<Speculation>) -> Self {
        brooklet_speculation(handle)
    }

    fn handle(&self) -> &Handle<Speculation> {
        &self.0
    }
}

/// The most guesses of a pass.
pub const BROOKLET_MAX_GUESSES: u32 = 15;
const _: () = assert!(BROOKLET_MAX_GUESSES as usize == MAX_GUESSES);

fn checked(guesses: u32) -> Result<usize> {
    if (1..=BROOKLET_MAX_GUESSES).contains(&guesses) {
        return Ok(guesses as usize);
    }
    Err(Failure::argument(format!(
        "guesses: expected 1 to {BROOKLET_MAX_GUESSES}, found {guesses}"
    )))
}

/// Guesses that what followed the last tokens before, in the text itself, follows again; up to
/// `guesses` at a time, fewer where they do not pay. A session checks as many as it has `rows`,
/// less one.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_speculation_lookup(
    guesses: u32,
    speculation: *mut *mut brooklet_speculation,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe { make(speculation, || Ok(Speculation::new(Lookup::new(), checked(guesses)?))) }
}

/// Guesses what `draft`, a smaller model with the same vocabulary as `model`, would write.
/// `options`, of the session that the draft runs in, may be NULL.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_speculation_draft(
    draft: *const brooklet_model,
    model: *const brooklet_model,
    options: *const brooklet_session_options,
    guesses: u32,
    speculation: *mut *mut brooklet_speculation,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe {
        make_from(draft, speculation, |draft| {
            let model = borrow(model, brooklet_model::NAME)?.handle().read()?;
            let options = read(options)?.engine()?;
            let draft = DraftModel::new(&draft.model, &model.model, &options)?;
            Ok(Speculation::new(draft, checked(guesses)?))
        })
    }
}

/// Lets one pass check the guesses of `speculation` and of `other`, whose part is taken over: it
/// guesses nothing any more, and is freed as before. A session then needs as many `rows` for each
/// as for one. Since version 4 of the interface.
///
/// Threads: one at a time per handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_speculation_add(
    speculation: *mut brooklet_speculation,
    other: *mut brooklet_speculation,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile:
    // promised (top of the header).
    unsafe {
        on_mut(speculation, |own| {
            own.append(&mut *borrow(other, brooklet_speculation::NAME)?.handle().write()?);
            Ok(())
        })
    }
}

/// Frees guesses; NULL is fine.
///
/// Threads: any, when no other call with this handle is running or follows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_speculation_free(speculation: *mut brooklet_speculation) {
    // SAFETY: NULL, or a handle of this library that no call uses now or later: promised (top of
    // the header).
    unsafe { free(speculation) }
}

/// Copies the message of the last failure with this handle, as snprintf would; returns its length.
/// "" before the first.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_speculation_message(
    speculation: *const brooklet_speculation,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    // SAFETY: NULL or a handle of this library, which nobody frees meanwhile; `buffer` is NULL or
    // has `capacity` bytes: promised (top of the header).
    unsafe { message(speculation, buffer, capacity) }
}

/// Says what the session has read, to its last token (all of it, or as much as guesses shall be
/// made of): before each text.
///
/// Threads: one at a time per speculation.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_speculation_begin(
    speculation: *mut brooklet_speculation,
    tokens: *const u32,
    n: usize,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe {
        on_mut(speculation, |own| {
            own.begin(slice(tokens, n, "tokens")?);
            Ok(())
        })
    }
}

/// What came of guesses.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct brooklet_guessed {
    /// Tokens that were read.
    pub tokens: u64,
    /// Passes of the model.
    pub passes: u64,
    /// Guesses made.
    pub guesses: u64,
    /// Those that were right.
    pub right: u64,
}

// SAFETY: four u64.
unsafe impl Report for brooklet_guessed {}

/// What came of all guesses so far; `size` is sizeof(brooklet_guessed).
///
/// Threads: one at a time per speculation.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_speculation_guessed(
    speculation: *const brooklet_speculation,
    guessed: *mut brooklet_guessed,
    size: usize,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe {
        on(speculation, |own| {
            let of = own.guessed();
            report(guessed, size)?.write(brooklet_guessed {
                tokens: of.tokens as u64,
                passes: of.passes as u64,
                guesses: of.guesses as u64,
                right: of.right as u64,
            });
            Ok(())
        })
    }
}
