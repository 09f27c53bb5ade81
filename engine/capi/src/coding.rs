//! Texts packed by a model's predictions.
//!
//! Not here: the code (`brooklet::coding`). Tests: `tests/contract/guesses.rs`.

use std::ffi::c_void;

use brooklet::coding;

use super::arguments::{out, slice};
use super::failure::{Failure, brooklet_result};
use super::handle::{Handle, Opaque, free, make_from, on};
use super::model::{brooklet_model, brooklet_progress, reporter};
use super::options::read;
use super::session::brooklet_session_options;

/// Bytes that the library made.
pub struct brooklet_bytes(Handle<Vec<u8>>);

impl Opaque for brooklet_bytes {
    type Value = Vec<u8>;
    const NAME: &'static str = "bytes";

    fn new(handle: Handle<Vec<u8>>) -> Self {
        brooklet_bytes(handle)
    }

    fn handle(&self) -> &Handle<Vec<u8>> {
        &self.0
    }
}

/// Where the bytes are, and how many; valid until they are freed.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_bytes_get(
    bytes: *const brooklet_bytes,
    data: *mut *const u8,
    n: *mut usize,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe {
        on(bytes, |own| {
            let (data, n) = (out(data, "data")?, out(n, "n")?);
            data.write(own.as_ptr());
            n.write(own.len());
            Ok(())
        })
    }
}

/// Frees bytes; NULL is fine.
///
/// Threads: any, when no other call with this handle is running or follows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_bytes_free(bytes: *mut brooklet_bytes) {
    // SAFETY: NULL, or a handle of this library that no call uses now or later: promised (top of
    // the header).
    unsafe { free(bytes) }
}

/// Packs `n` bytes of text by the model's predictions, without loss: brooklet_decompress unpacks
/// them with the same model file; with int4 to int8 on any machine, in other formats maybe only on
/// processors of the same kind. After `clear_every` tokens the model forgets what it has read; 0 is
/// never. `options` may be NULL. `progress`, which may be NULL, counts tokens; when it asks to
/// stop, the result is BROOKLET_CANCELLED.
///
/// Threads: any; `progress` is called on the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_compress(
    model: *const brooklet_model,
    options: *const brooklet_session_options,
    text: *const u8,
    n: usize,
    clear_every: u64,
    progress: brooklet_progress,
    user: *mut c_void,
    packed: *mut *mut brooklet_bytes,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe {
        make_from(model, packed, |opened| {
            let options = read(options)?.engine()?;
            let text = slice(text, n, "text")?;
            let mut go_on = reporter(progress, user);
            let packed = coding::compress(&opened.model, &options, text, clear_every, &mut go_on)?;
            packed.ok_or_else(cancelled)
        })
    }
}

/// Unpacks what brooklet_compress, or the command line, has packed with the same model.
///
/// Threads: any; `progress` is called on the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_decompress(
    model: *const brooklet_model,
    options: *const brooklet_session_options,
    packed: *const u8,
    n: usize,
    progress: brooklet_progress,
    user: *mut c_void,
    text: *mut *mut brooklet_bytes,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe {
        make_from(model, text, |opened| {
            let options = read(options)?.engine()?;
            let packed = slice(packed, n, "packed")?;
            let mut go_on = reporter(progress, user);
            let text = coding::decompress(&opened.model, &options, packed, &mut go_on)?;
            text.ok_or_else(cancelled)
        })
    }
}

fn cancelled() -> Failure {
    Failure::new(brooklet_result::BROOKLET_CANCELLED, "cancelled")
}
