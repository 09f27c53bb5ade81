//! Going back in a session: the last tokens taken out again, exactly.
//!
//! Test: `tests/contract/states.rs`.

use brooklet::Session;

use super::arguments::out;
use super::failure::brooklet_result;
use super::handle::{on, on_mut};
use super::session::brooklet_session;

/// Keeps what it takes to go back at most `tokens` tokens from now on; 0, the default, nothing.
/// Takes memory for so many copies of a state, and the time of one for every token
/// (brooklet_session_rollback_bytes).
///
/// Threads: one at a time per session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_keep_rollback(
    session: *mut brooklet_session,
    tokens: usize,
) -> brooklet_result {
    // SAFETY: NULL or a session of this library, which nobody frees meanwhile: promised (top of the
    // header). NULL is refused.
    unsafe {
        on_mut(session, |own| {
            own.session.keep_rollback(tokens);
            Ok(())
        })
    }
}

/// The most memory that going back `tokens` tokens takes.
///
/// Threads: one at a time per session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_rollback_bytes(
    session: *const brooklet_session,
    tokens: usize,
    bytes: *mut u64,
) -> brooklet_result {
    // SAFETY: NULL or a session of this library, which nobody frees meanwhile: promised (top of the
    // header). NULL is refused.
    unsafe {
        on(session, |own| {
            let needed = Session::rollback_bytes(own.session.model(), tokens);
            out(bytes, "bytes")?.write(needed as u64);
            Ok(())
        })
    }
}

/// How many tokens brooklet_session_rollback can go back now: those read since
/// brooklet_session_keep_rollback, since the state was exchanged or reset, and no more than asked
/// for.
///
/// Threads: one at a time per session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_rollback_reach(
    session: *const brooklet_session,
    tokens: *mut usize,
) -> brooklet_result {
    // SAFETY: NULL or a session of this library, which nobody frees meanwhile: promised (top of the
    // header). NULL is refused.
    unsafe {
        on(session, |own| {
            out(tokens, "tokens")?.write(own.session.rollback_reach());
            Ok(())
        })
    }
}

/// Goes back `tokens` tokens: the state and the logits have the bits that they had before those
/// were read. There are no logits where nobody knows them: before the first token, or behind a
/// state that was put in. BROOKLET_ARGUMENT if it cannot go back so far; nothing has happened then.
///
/// Threads: one at a time per session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_rollback(
    session: *mut brooklet_session,
    tokens: usize,
) -> brooklet_result {
    // SAFETY: NULL or a session of this library, which nobody frees meanwhile: promised (top of the
    // header). NULL is refused.
    unsafe {
        on_mut(session, |own| {
            own.session.rollback(tokens)?;
            if tokens > 0 {
                own.rows = usize::from(own.session.has_logits());
            }
            Ok(())
        })
    }
}
