//! Progress bars: on a terminal's stderr only, and not with `--quiet`.
//!
//! Test: none shows in `tests/`, whose stderr is a pipe; that is asserted there.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The unit that a bar counts.
pub(crate) enum Unit {
    /// Bytes, with their rate.
    Bytes,
    /// Weights or tokens, with the time left.
    Count,
}

/// Moves a bar whose total is known only when it moves.
pub(crate) fn show(bar: &ProgressBar, done: u64, total: u64) {
    if bar.length() != Some(total) {
        bar.set_length(total);
    }
    bar.set_position(done);
}

/// A bar up to `total`; invisible where nobody would see it.
pub(crate) fn bar(total: u64, unit: Unit, quiet: bool) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = match unit {
        Unit::Bytes => {
            "{bar:32} {percent:>3} %  {decimal_bytes}/{decimal_total_bytes}  \
             {decimal_bytes_per_sec}  {wide_msg}"
        }
        Unit::Count => "{bar:32} {percent:>3} %  {human_pos}/{human_len}  {eta} left  {wide_msg}",
    };
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
    bar.set_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar
}
