//! Writing to the standard streams without panics: results to stdout, notes to stderr.
//!
//! `print!` panics when the reader has gone; here that is [`Failure::ClosedPipe`], which ends a
//! command quietly. Test: `tests/cli/signals.rs` closes the pipe.

use std::io::{self, Write};

use serde::Serialize;

use crate::failure::{Failure, Result};

/// Writes text to stdout and flushes it.
pub(crate) fn text(text: &str) -> Result {
    bytes(text.as_bytes())
}

/// Writes bytes to stdout and flushes them.
pub(crate) fn bytes(bytes: &[u8]) -> Result {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(Failure::io("write to", "standard output"))
}

/// Writes one JSON object and a line feed to stdout.
pub(crate) fn json(value: &impl Serialize) -> Result {
    let mut line = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(format!("JSON: {error}")))?;
    line.push('\n');
    text(&line)
}

/// Writes a line to stderr, where nobody is owed one: a closed stderr is not an error.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
