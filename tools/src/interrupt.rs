//! Ctrl-C: the first one asks the work at hand to end cleanly, the second ends the program.
//!
//! Work that can stop half-way holds a [`Watch`] and looks at [`Watch::requested`] between its steps. Without one, a
//! Ctrl-C ends the program at once: nothing is being written then. SIGTERM and SIGHUP count as Ctrl-C.
//! Test: `tests/cli/signals.rs`.

#[cfg(unix)]
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[cfg(unix)]
use signal_hook::consts::SIGXFSZ;

use crate::failure::{Failure, INTERRUPTED, Result};

/// Watches alive.
static WATCHES: AtomicUsize = AtomicUsize::new(0);
/// Whether Ctrl-C came while a watch was alive.
static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Takes the signals over. Where the system refuses, they end the program as they always do.
pub(crate) fn install() {
    // A file that outgrows the shell's limit (`ulimit -f`) shall be a failed write, not the end of the program: the write
    // fails with a reason and what was half-written is removed.
    #[cfg(unix)]
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
    let _ = ctrlc::set_handler(|| {
        if WATCHES.load(Ordering::SeqCst) == 0 || REQUESTED.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(INTERRUPTED));
        }
    });
}

/// While it lives, Ctrl-C is a request that somebody looks at.
pub(crate) struct Watch(());

impl Watch {
    /// Starts to watch.
    pub(crate) fn new() -> Watch {
        WATCHES.fetch_add(1, Ordering::SeqCst);
        Watch(())
    }

    /// Whether to stop.
    pub(crate) fn requested(&self) -> bool {
        REQUESTED.load(Ordering::SeqCst)
    }

    /// `Err(Interrupted)` when it is time to stop.
    pub(crate) fn check(&self) -> Result {
        if self.requested() { Err(Failure::Interrupted) } else { Ok(()) }
    }

    /// Takes a request back that has been answered (a chat goes on after an answer was cut short).
    pub(crate) fn clear(&self) {
        REQUESTED.store(false, Ordering::SeqCst);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHES.fetch_sub(1, Ordering::SeqCst);
    }
}
