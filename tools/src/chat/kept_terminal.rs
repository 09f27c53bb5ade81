//! The terminal as it was, for a signal that ends the program while a line is edited: a shell whose
//! keys are not shown any more is what the person would be left with.
//!
//! A thread waits for the signals, as a handler may not do any of this. Test:
//! `tests/cli/chat_terminal.rs`.

use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::interrupt::{Watch, is_requested};
use crate::output;

/// Ends the paste mode that the editor begins (xterm, "Bracketed Paste Mode").
const PASTE_OFF: &[u8] = b"\x1b[?2004l\r\n";

/// How the terminal was before a line began to be edited.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
static WAITS: Once = Once::new();

/// While it lives, a signal ends the program behind a terminal that is as it was.
pub(super) struct KeptTerminal {
    /// Leaves signals to the thread.
    _watch: Watch,
}

impl KeptTerminal {
    /// Remembers how the terminal is.
    pub(super) fn new() -> KeptTerminal {
        WAITS.call_once(|| {
            // Without it a signal ends the program as before.
            if let Ok(signals) = Signals::new([SIGTERM, SIGHUP, SIGINT]) {
                let _ = std::thread::Builder::new().spawn(move || wait(signals));
            }
        });
        *before() = tcgetattr(std::io::stdin()).ok();
        KeptTerminal { _watch: Watch::new() }
    }
}

impl Drop for KeptTerminal {
    fn drop(&mut self) {
        *before() = None;
    }
}

fn before() -> MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait(mut signals: Signals) {
    for signal in signals.forever() {
        // One that has ended an answer is told late on a busy machine.
        if !is_requested() {
            continue;
        }
        if let Some(termios) = before().take() {
            let _ = output::verbatim(PASTE_OFF);
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &termios);
            std::process::exit(128 + signal);
        }
    }
}
