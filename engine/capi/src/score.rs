//! How likely endings of a text are.
//!
//! Not here: the scores (`brooklet::score`). Tests: `tests/contract/prefixes.rs`.

use std::ffi::c_void;

use brooklet::score;

use super::arguments::{out, slice};
use super::failure::{Failure, brooklet_result};
use super::handle::on_mut;
use super::model::{brooklet_progress, reporter};
use super::session::brooklet_session;

/// The log-probabilities, in nats, of `n` endings of what the session has read; it stays where it
/// is, and keeps its logits (row 0). Ending i has lengths[i] tokens; `tokens` has those of all, one
/// ending after the other. `log_probs` has room for `n` doubles. Several endings are read in a
/// pass, as many tokens at a time as the session gives rows of logits. `progress`, which may be
/// NULL, counts tokens; when it asks to stop, the result is BROOKLET_CANCELLED.
///
/// Threads: one at a time per session; `progress` is called on the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_score(
    session: *mut brooklet_session,
    tokens: *const u32,
    lengths: *const usize,
    n: usize,
    log_probs: *mut f64,
    progress: brooklet_progress,
    user: *mut c_void,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe {
        on_mut(session, |own| {
            let lengths = slice(lengths, n, "lengths")?;
            let all = lengths.iter().try_fold(0usize, |all, n| all.checked_add(*n));
            let all = all.ok_or_else(|| Failure::argument("lengths exceed the address space"))?;
            let mut rest = slice(tokens, all, "tokens")?;
            if n > 0 {
                out(log_probs, "log_probs")?;
            }
            let endings = lengths.iter().map(|n| {
                let (ending, others) = rest.split_at(*n);
                rest = others;
                ending
            });
            let endings: Vec<&[u32]> = endings.collect();
            let mut go_on = reporter(progress, user);
            let scores = score::endings(&mut own.session, &endings, |scored| {
                go_on(scored as u64, all as u64)
            })?;
            own.rows = 1;
            let scores = scores.ok_or_else(|| {
                Failure::new(brooklet_result::BROOKLET_CANCELLED, "cancelled while scoring")
            })?;
            for (i, score) in scores.iter().enumerate() {
                log_probs.add(i).write(score.log_prob);
            }
            Ok(())
        })
    }
}
