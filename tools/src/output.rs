//! Writing to the standard streams: results to stdout, notes to stderr.
//!
//! Nothing else in this program has the streams (`clippy.toml` says so), for two reasons. `print!`
//! panics when the reader has gone; here that is [`Failure::ClosedPipe`], which ends a command
//! quietly. And what comes from files or models must not command a terminal: reports, notes and
//! errors always show control and bidirectional characters as escapes (`visible`), texts that
//! models write do where stdout is a terminal, so that pipes and files get them unchanged. `--raw`
//! leaves reports and texts as they are; notes and errors have no raw form, JSON has its own
//! escapes. Test: `tests/cli/signals.rs` closes the pipe, `tests/cli/terminal.rs` is a terminal.

use std::borrow::Cow;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::visible;

/// Whether texts go out as they are.
static RAW: AtomicBool = AtomicBool::new(false);

/// From here on texts go out as they are.
pub(crate) fn set_raw() {
    RAW.store(true, Ordering::Relaxed);
}

/// Whether texts go out as they are.
pub(crate) fn is_raw() -> bool {
    RAW.load(Ordering::Relaxed)
}

/// Whether stdout is a terminal.
#[allow(clippy::disallowed_methods)]
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether stderr is a terminal.
#[allow(clippy::disallowed_methods)]
pub(crate) fn notes_are_seen() -> bool {
    io::stderr().is_terminal()
}

/// Whether stdout shows styles: a terminal that nobody asked to be plain (<https://no-color.org>).
pub(crate) fn has_styles() -> bool {
    let says_no = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    is_terminal() && !says_no("NO_COLOR") && !is_dumb
}

/// Columns of the terminal on stdout.
pub(crate) fn width() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size()?;
    Some(usize::from(width.0)).filter(|width| *width > 0)
}

/// A text of a model as a terminal is to show it.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    visible::text(text)
}

/// A text of a model or for one, as it is to be written.
fn passed(bytes: &[u8]) -> Cow<'_, [u8]> {
    if is_raw() || !is_terminal() { Cow::Borrowed(bytes) } else { visible::bytes(bytes) }
}

/// Writes a report to stdout and flushes it.
pub(crate) fn text(text: &str) -> Result {
    let shown = if is_raw() { Cow::Borrowed(text) } else { visible::text(text) };
    verbatim(shown.as_bytes())
}

/// A value for one line of a report.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    if is_raw() { Cow::Borrowed(text) } else { visible::line(text) }
}

/// Writes a text of a model, or for one, to stdout and flushes it. Characters must be whole, which
/// pieces of generated text are.
pub(crate) fn generated(text: &[u8]) -> Result {
    verbatim(&passed(text))
}

/// Writes bytes of our own to stdout, as they are, and flushes them.
#[allow(clippy::disallowed_methods)]
pub(crate) fn verbatim(bytes: &[u8]) -> Result {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(failed)
}

fn failed(error: io::Error) -> Failure {
    Failure::io("write to", "standard output")(error)
}

/// Writes one JSON object and a line feed to stdout.
pub(crate) fn json(value: &impl Serialize) -> Result {
    let mut line = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(format!("JSON: {error}")))?;
    line.push('\n');
    verbatim(visible::json(&line).as_bytes())
}

/// Writes one JSON object in a line of its own to stdout.
pub(crate) fn json_line(value: &impl Serialize) -> Result {
    let mut line =
        serde_json::to_string(value).map_err(|error| Failure::new(format!("JSON: {error}")))?;
    line.push('\n');
    verbatim(visible::json(&line).as_bytes())
}

/// Writes a line to stderr, where nobody is owed one: a closed stderr is not an error.
#[allow(clippy::disallowed_methods)]
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", visible::line(line));
}

/// Stdout for many short texts, which go out when they are flushed.
pub(crate) struct Lines(BufWriter<StdoutLock<'static>>);

impl Lines {
    /// Takes stdout.
    #[allow(clippy::disallowed_methods)]
    pub(crate) fn new() -> Lines {
        Lines(BufWriter::new(io::stdout().lock()))
    }

    /// Adds what [`generated`] would write.
    pub(crate) fn push(&mut self, text: &[u8]) -> Result {
        self.0.write_all(&passed(text)).map_err(failed)
    }

    /// Writes what is there.
    pub(crate) fn flush(&mut self) -> Result {
        self.0.flush().map_err(failed)
    }
}
