//! One forward pass over many sequences.
//!
//! Not here: the pass (`brooklet::Engine::forward`), the memory of its lists (`lists`). Tests:
//! `tests/contract/states.rs`, `tests/allocations.rs`.

use brooklet::{Run, Want};

use super::arguments::{borrow, slice};
use super::failure::{Failure, Result, brooklet_result};
use super::handle::{Opaque, on_mut};
use super::lists::recycled;
use super::session::{Talk, brooklet_session};
use super::state::brooklet_state;

/// No logits: the run only advances its state.
pub const BROOKLET_WANT_NONE: u32 = 0;
/// The logits after the run's last token.
pub const BROOKLET_WANT_LAST: u32 = 1;
/// The logits after each of the run's tokens.
pub const BROOKLET_WANT_ALL: u32 = 2;

/// One sequence's part in a forward pass.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct brooklet_run {
    /// Where the sequence stands; advanced in place.
    pub state: *mut brooklet_state,
    /// Its next tokens.
    pub tokens: *const u32,
    /// How many, at least one.
    pub n: usize,
    /// Which logits to compute: BROOKLET_WANT_.
    pub want: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// One forward pass over many sequences at once, which reads the weights once: `n` runs, each with
/// a state of its own, in all no more tokens than the option `chunk` and no more rows of logits
/// than `rows`. The rows come in the order of the runs. The session's own state is not touched.
/// Allocates nothing.
///
/// Threads: one at a time per session and per state.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_forward(
    session: *mut brooklet_session,
    runs: *const brooklet_run,
    n: usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe { on_mut(session, |own| own.forward(slice(runs, n, "runs")?)) }
}

impl Talk {
    /// # Safety
    /// Of every run, the state is NULL or live during the call, and the tokens are NULL or `n` that
    /// nobody changes.
    unsafe fn forward(&mut self, given: &[brooklet_run]) -> Result {
        self.rows = 0;
        if given.is_empty() {
            return Err(brooklet::EngineError::NoTokens.into());
        }
        let mut rows = 0_usize;
        let mut states = recycled(&mut self.lists.states);
        for run in given {
            if run.reserved != 0 {
                return Err(Failure::argument("the field reserved of a run is not 0"));
            }
            // SAFETY: NULL, or from its `_new` and not freed during the call: promised (Safety).
            // A state that is given twice is refused by its lock, as busy.
            states.push(unsafe { borrow(run.state, brooklet_state::NAME)? }.handle().write()?);
            rows = rows.saturating_add(match run.want {
                BROOKLET_WANT_NONE => 0,
                BROOKLET_WANT_LAST => 1,
                BROOKLET_WANT_ALL => run.n,
                other => {
                    return Err(Failure::argument(format!("want {other}: expected 0, 1 or 2")));
                }
            });
        }
        let mut runs = recycled(&mut self.lists.runs);
        for (run, state) in given.iter().zip(&mut states) {
            // SAFETY: NULL, or `n` tokens that nobody changes: promised (Safety).
            let tokens = unsafe { slice(run.tokens, run.n, "tokens")? };
            let want = match run.want {
                BROOKLET_WANT_NONE => Want::None,
                BROOKLET_WANT_LAST => Want::Last,
                _ => Want::All,
            };
            runs.push(Run { state: &mut *state, tokens, want });
        }
        self.session.engine().forward(&mut runs)?;
        self.rows = rows;
        self.lists.runs = recycled(&mut runs);
        drop(runs);
        self.lists.states = recycled(&mut states);
        Ok(())
    }
}
