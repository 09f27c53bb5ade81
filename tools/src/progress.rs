//! Progress bars: on a terminal's stderr only, and not with `--quiet`.
//!
//! Test: none shows in `tests/`, whose stderr is a pipe; that is asserted there.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{output, visible};

/// The unit that a bar counts.
pub(crate) enum Unit {
    /// Bytes, with their rate.
    Bytes,
    /// Weights or tokens, with the time left.
    Count,
    /// Parts that mean nothing to people: the time left alone.
    Parts,
}

/// A bar, whose messages show nothing that a terminal would obey.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// The thing that is being worked on: a tensor, a file.
    pub(crate) fn set_message(&self, doing: &str) {
        let doing = visible::line(doing);
        if self.0.message() != doing {
            self.0.set_message(doing.into_owned());
        }
    }

    pub(crate) fn set_position(&self, done: u64) {
        self.0.set_position(done);
    }

    pub(crate) fn inc(&self, more: u64) {
        self.0.inc(more);
    }

    pub(crate) fn finish_and_clear(&self) {
        self.0.finish_and_clear();
    }
}

/// Moves a bar whose total is known only when it moves.
pub(crate) fn show(Bar(bar): &Bar, done: u64, total: u64) {
    if bar.length() != Some(total) {
        bar.set_length(total);
    }
    bar.set_position(done);
}

/// A bar up to `total`; invisible where nobody would see it.
pub(crate) fn bar(total: u64, unit: Unit, quiet: bool) -> Bar {
    if quiet || !output::notes_are_seen() {
        return Bar(ProgressBar::hidden());
    }
    let template = match unit {
        Unit::Bytes => {
            "{bar:32} {percent:>3} %  {decimal_bytes}/{decimal_total_bytes}  \
             {decimal_bytes_per_sec}  {wide_msg}"
        }
        Unit::Parts => "{bar:32} {percent:>3} %  {eta} left  {wide_msg}",
        Unit::Count => "{bar:32} {percent:>3} %  {human_pos}/{human_len}  {eta} left  {wide_msg}",
    };
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
    bar.set_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    Bar(bar)
}
