//! Long texts: states kept fresh past the length that a model was trained on.
//!
//! Not here: what is done to a state (`brooklet::horizon`). Tests: `tests/contract/states.rs`.

use brooklet::horizon::Horizon;

use super::failure::brooklet_result;
use super::handle::on_mut;
use super::session::brooklet_session;

/// Keeps the session's state fresh past the length that its model was trained on: with `retention`
/// (above 0, 1 at most; 1 loses nothing) every token leaves that part of the state's matrices, and
/// after `renewal` tokens (a multiple of 128; 0 for never) the state is made anew from the last
/// half of them. Guesses are not made then. Since version 4 of the interface.
///
/// Threads: one at a time per session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_keep_within(
    session: *mut brooklet_session,
    retention: f32,
    renewal: u64,
) -> brooklet_result {
    // SAFETY: NULL, which is refused, or a handle of this library, which nobody frees meanwhile:
    // promised (top of the header).
    unsafe {
        on_mut(session, |own| {
            let renewal = usize::try_from(renewal).unwrap_or(usize::MAX);
            let horizon = Horizon::new()
                .retention((retention != 1.0).then_some(retention))
                .renewal((renewal != 0).then_some(renewal));
            Ok(own.session.keep_within(horizon)?)
        })
    }
}
