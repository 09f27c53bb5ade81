//! Ctrl-C: the first one asks the work at hand to end cleanly, the second ends the program.
//!
//! Work that can stop half-way holds a [`Watch`] and looks at [`Watch::requested`] between its
//! steps. Without one, a Ctrl-C ends the program at once: nothing is being written then. SIGTERM
//! and SIGHUP count as Ctrl-C; the exit status is 128 and the signal's number, as shells have it.
//! On Unix no thread is needed for this. Test: `tests/cli/signals.rs`.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use crate::failure::{Failure, Result};

/// The number of SIGINT.
const SIGINT: usize = 2;

/// Watches alive.
static WATCHES: AtomicUsize = AtomicUsize::new(0);
/// The signal that came while a watch was alive; 0 if none did.
static REQUESTED: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);
/// Whether the next signal ends the program at once.
static ENDS: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(true)));

/// Takes the signals over. Where the system refuses, they end the program as they always do.
#[cfg(unix)]
pub(crate) fn install() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    use signal_hook::flag;

    // A file that outgrows the shell's limit (`ulimit -f`) shall be a failed write, not the end of
    // the program: the write fails with a reason and what was half-written is removed.
    let _ = flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // In this order: a signal that finds `ENDS` set ends the program, else it sets it for the
        // next one.
        let _ = flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&ENDS));
        let _ = flag::register(signal, Arc::clone(&ENDS));
        let _ =
            flag::register_usize(signal, Arc::clone(&REQUESTED), signal.unsigned_abs() as usize);
    }
}

/// Takes the signals over. Where the system refuses, they end the program as they always do.
#[cfg(windows)]
pub(crate) fn install() {
    let _ = ctrlc::set_handler(|| {
        if ENDS.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(exit_code()));
        }
        REQUESTED.store(SIGINT, Ordering::SeqCst);
    });
}

/// There are no signals (WebAssembly).
#[cfg(not(any(unix, windows)))]
pub(crate) fn install() {}

/// The exit status of a program that a signal ended.
pub(crate) fn exit_code() -> u8 {
    let signal = match REQUESTED.load(Ordering::SeqCst) {
        0 => SIGINT,
        signal => signal,
    };
    128 + signal as u8
}

/// Whether a signal came that nobody has answered.
#[cfg(unix)]
pub(crate) fn is_requested() -> bool {
    REQUESTED.load(Ordering::SeqCst) != 0
}

/// While it lives, Ctrl-C is a request that somebody looks at.
pub(crate) struct Watch(());

impl Watch {
    /// Starts to watch.
    pub(crate) fn new() -> Watch {
        if WATCHES.fetch_add(1, Ordering::SeqCst) == 0 {
            ENDS.store(false, Ordering::SeqCst);
        }
        Watch(())
    }

    /// Whether to stop.
    pub(crate) fn requested(&self) -> bool {
        REQUESTED.load(Ordering::SeqCst) != 0
    }

    /// `Err(Interrupted)` when it is time to stop.
    pub(crate) fn check(&self) -> Result {
        if self.requested() { Err(Failure::Interrupted) } else { Ok(()) }
    }

    /// Takes a request back that has been answered (a chat goes on after an answer was cut short).
    pub(crate) fn clear(&self) {
        REQUESTED.store(0, Ordering::SeqCst);
        ENDS.store(false, Ordering::SeqCst);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if WATCHES.fetch_sub(1, Ordering::SeqCst) == 1 {
            ENDS.store(true, Ordering::SeqCst);
        }
    }
}
