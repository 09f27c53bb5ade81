//! Prefix caches: what texts begin with alike is read once.
//!
//! Not here: the cache (`brooklet::prefix`). Tests: `tests/contract/prefixes.rs`.

use std::ffi::{c_char, c_void};

use brooklet::prefix::{DEFAULT_INTERVAL, PrefixCache};

use super::arguments::{borrow, optional_path, out, slice};
use super::failure::{Failure, brooklet_result, call};
use super::handle::{Handle, Opaque, free, make_from, message, on, on_mut};
use super::model::{brooklet_model, brooklet_progress, reporter};
use super::options::{Options, Report, init, optional_report, read};
use super::session::brooklet_session;

/// States along the texts that a model has read.
pub struct brooklet_prefix_cache(Handle<PrefixCache>);

impl Opaque for brooklet_prefix_cache {
    type Value = PrefixCache;
    const NAME: &'static str = "prefix cache";

    fn new(handle: Handle<PrefixCache>) -> Self {
        brooklet_prefix_cache(handle)
    }

    fn handle(&self) -> &Handle<PrefixCache> {
        &self.0
    }
}

/// How a prefix cache is set up. Set by brooklet_prefix_cache_options_init.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct brooklet_prefix_cache_options {
    /// Bytes of this struct, as its user was compiled.
    pub size: usize,
    /// The most memory, in bytes. Default 256 MB.
    pub bytes: u64,
    /// A folder for states, which the next process finds; NULL keeps them in memory alone.
    pub folder: *const c_char,
    /// The most that the folder holds, in bytes. Default 1 GB.
    pub folder_bytes: u64,
    /// Tokens between two states; 0 keeps them at ends and partings alone. Default 512.
    pub interval: u32,
    /// Must be 0.
    pub reserved: u32,
}

// SAFETY: numbers and a pointer.
unsafe impl Options for brooklet_prefix_cache_options {
    const FIRST_SIZE: usize = size_of::<brooklet_prefix_cache_options>();

    fn defaults() -> Self {
        brooklet_prefix_cache_options {
            size: size_of::<Self>(),
            bytes: 256 << 20,
            folder: std::ptr::null(),
            folder_bytes: 1 << 30,
            interval: DEFAULT_INTERVAL as u32,
            reserved: 0,
        }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.size
    }

    fn reserved(&self) -> u64 {
        u64::from(self.reserved)
    }
}

/// Fills in the defaults; `size` is sizeof(brooklet_prefix_cache_options).
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_prefix_cache_options_init(
    options: *mut brooklet_prefix_cache_options,
    size: usize,
) -> brooklet_result {
    // SAFETY: `options` is NULL, which is refused, or `size` bytes may be written there: promised
    // (top of the header).
    call(|| unsafe { init(options, size) })
}

/// A cache for texts of a model. `options` may be NULL.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_prefix_cache_new(
    model: *const brooklet_model,
    options: *const brooklet_prefix_cache_options,
    cache: *mut *mut brooklet_prefix_cache,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe {
        make_from(model, cache, |opened| {
            let options = read(options)?;
            let folder = optional_path(options.folder, "folder")?;
            let bytes = usize::try_from(options.bytes).unwrap_or(usize::MAX);
            let cache = PrefixCache::new(&opened.model, bytes).every(options.interval as usize);
            match folder {
                None => Ok(cache),
                Some(folder) => {
                    Ok(cache.with_folder(&opened.model, folder, options.folder_bytes)?)
                }
            }
        })
    }
}

/// Frees a cache; NULL is fine. What is in its folder stays.
///
/// Threads: any, when no other call with this handle is running or follows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_prefix_cache_free(cache: *mut brooklet_prefix_cache) {
    // SAFETY: NULL, or a handle of this library that no call uses now or later: promised (top of
    // the header).
    unsafe { free(cache) }
}

/// Copies the message of the last failure with this handle, as snprintf would; returns its length.
/// "" before the first.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_prefix_cache_message(
    cache: *const brooklet_prefix_cache,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    // SAFETY: NULL or a handle of this library, which nobody frees meanwhile; `buffer` is NULL or
    // has `capacity` bytes: promised (top of the header).
    unsafe { message(cache, buffer, capacity) }
}

/// Memory that is taken by what is kept, in bytes.
///
/// Threads: one at a time per cache.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_prefix_cache_bytes(
    cache: *const brooklet_prefix_cache,
    bytes: *mut u64,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe {
        on(cache, |cache| {
            out(bytes, "bytes")?.write(cache.bytes() as u64);
            Ok(())
        })
    }
}

/// What became of a text's tokens.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct brooklet_reading {
    /// Tokens that a kept state had read.
    pub reused: u64,
    /// Tokens that were known, but are behind the last kept state: read again.
    pub replayed: u64,
    /// Tokens that were new.
    pub computed: u64,
}

// SAFETY: three u64.
unsafe impl Report for brooklet_reading {}

/// Reads `n` tokens from the beginning of a text, whatever the session has read before, without
/// what is known; then the logits after the last one are there. `borders`, `n_borders` ascending
/// lengths of beginnings that others will share (instructions, turns), may be NULL. `progress`,
/// which may be NULL, counts tokens; when it asks to stop, there are no logits, and the result is
/// BROOKLET_CANCELLED. `reading`, which may be NULL, gets what became of the tokens; `size` is
/// sizeof(brooklet_reading).
///
/// Threads: one at a time per cache and per session; `progress` is called on the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_prefix_cache_prefill(
    cache: *mut brooklet_prefix_cache,
    session: *mut brooklet_session,
    tokens: *const u32,
    n: usize,
    borders: *const usize,
    n_borders: usize,
    progress: brooklet_progress,
    user: *mut c_void,
    reading: *mut brooklet_reading,
    size: usize,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe {
        on_mut(cache, |cache| {
            let mut own = borrow(session, brooklet_session::NAME)?.handle().write()?;
            let tokens = slice(tokens, n, "tokens")?;
            let borders = slice(borders, n_borders, "borders")?;
            if !borders.is_sorted() {
                return Err(Failure::argument("borders are not in ascending order"));
            }
            let to = optional_report(reading, size)?;
            let mut go_on = reporter(progress, user);
            own.rows = 0;
            let session = &mut own.session;
            let read = cache.prefill(session, tokens, borders, |read| go_on(read as u64, n as u64));
            let read = read?;
            if let Some(to) = to {
                to.write(brooklet_reading {
                    reused: read.reused as u64,
                    replayed: read.replayed as u64,
                    computed: read.computed as u64,
                });
            }
            if !session.has_logits() {
                let message = format!("cancelled after {} of {n} tokens", read.tokens());
                return Err(Failure::new(brooklet_result::BROOKLET_CANCELLED, message));
            }
            own.rows = 1;
            Ok(())
        })
    }
}

/// Keeps the session's state, which has read these tokens from the beginning of a text: behind an
/// answer, say, whose next question will come with it.
///
/// Threads: one at a time per cache and per session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_prefix_cache_keep(
    cache: *mut brooklet_prefix_cache,
    session: *const brooklet_session,
    tokens: *const u32,
    n: usize,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe {
        on_mut(cache, |cache| {
            let own = borrow(session, brooklet_session::NAME)?.handle().read()?;
            let tokens = slice(tokens, n, "tokens")?;
            if own.session.state().position() != n as u64 {
                return Err(Failure::argument(format!(
                    "the session has read {} tokens, not {n}",
                    own.session.state().position()
                )));
            }
            Ok(cache.keep(&own.session, tokens)?)
        })
    }
}
