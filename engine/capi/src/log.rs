//! The log callback: what the library has to say beside its results.
//!
//! The library writes to the `log` crate and never to stderr; here those lines go to the program.
//! Not here: failures, which have codes and messages. Test: `tests/contract/border.rs`.

use std::ffi::{c_char, c_void};
use std::sync::{Once, PoisonError, RwLock};

use super::failure::{Failure, brooklet_result, c_string, call};

/// Something went wrong that no result tells.
pub const BROOKLET_LOG_ERROR: u32 = 1;
/// It works, but not as asked: fewer threads, a copy in place of a map.
pub const BROOKLET_LOG_WARNING: u32 = 2;
/// Worth knowing.
pub const BROOKLET_LOG_INFO: u32 = 3;
/// For those who look for a fault: which kernels were chosen.
pub const BROOKLET_LOG_DEBUG: u32 = 4;

/// Takes a line. `message` is UTF-8, ends with a zero and is valid during the call. It must not
/// throw or jump away.
pub type brooklet_log =
    Option<unsafe extern "C" fn(level: u32, message: *const c_char, user: *mut c_void)>;

#[derive(Clone, Copy)]
struct Sink {
    callback: unsafe extern "C" fn(u32, *const c_char, *mut c_void),
    user: *mut c_void,
}

// SAFETY: callback and user pointer may be used from any thread: promised (`brooklet_set_log`).
unsafe impl Send for Sink {}
// SAFETY: several threads may call it at once: promised (`brooklet_set_log`).
unsafe impl Sync for Sink {}

static SINK: RwLock<Option<Sink>> = RwLock::new(None);

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        // A copy: the callback may set another one.
        let sink = *SINK.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(sink) = sink {
            let message = c_string(&record.args().to_string());
            // SAFETY: the callback takes any level, text and its own user pointer, from any thread:
            // promised (`brooklet_set_log`).
            // The text is valid until it returns: `message` lives to the end of this block.
            unsafe { (sink.callback)(record.level() as u32, message.as_ptr(), sink.user) }
        }
    }

    fn flush(&self) {}
}

/// Sends the library's log lines of `level` (BROOKLET_LOG_) and graver to `callback`; NULL, the
/// state at the start, sends them nowhere. It holds for the whole process.
///
/// Threads: any. The callback is called from whatever thread has something to say, the library's
/// own included, from several at once, and for a moment still after another one was set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_set_log(
    callback: brooklet_log,
    user: *mut c_void,
    level: u32,
) -> brooklet_result {
    call(|| {
        let filter = match level {
            BROOKLET_LOG_ERROR => log::LevelFilter::Error,
            BROOKLET_LOG_WARNING => log::LevelFilter::Warn,
            BROOKLET_LOG_INFO => log::LevelFilter::Info,
            BROOKLET_LOG_DEBUG => log::LevelFilter::Debug,
            _ => return Err(Failure::argument(format!("log level {level}: expected 1 to 4"))),
        };
        static ONCE: Once = Once::new();
        // Refused only where the process is a Rust program with a logger of its own, which then
        // gets the lines.
        ONCE.call_once(|| drop(log::set_logger(&Logger)));
        *SINK.write().unwrap_or_else(PoisonError::into_inner) =
            callback.map(|callback| Sink { callback, user });
        log::set_max_level(if callback.is_some() { filter } else { log::LevelFilter::Off });
        Ok(())
    })
}
