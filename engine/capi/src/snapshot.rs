//! Snapshots: a state and what is needed to go on from it exactly, as a file or as bytes.
//!
//! Not here: the bytes (`formats/SPEC.md`, "State file"), and saving a bare state (`state_file`).
//! Test: `tests/contract/saving.rs`.

use std::ffi::{c_char, c_void};

use brooklet::{DType, Snapshot};
use brooklet_formats::state_file::FORMATS;

use super::arguments::{self, borrow, fill, out, path, slice, string};
use super::failure::{Failure, Result, brooklet_result};
use super::handle::{Handle, Opaque, free, make_from, message, on, on_mut};
use super::model::brooklet_model;
use super::sampler::brooklet_sampler;
use super::session::brooklet_session;
use super::state::brooklet_state;

/// Where a sequence stands, and what the one who goes on has to know: the state, the last tokens,
/// the logits, the sampler, a note. To go on from it gives the same bits as never having stopped,
/// if it is saved as "f32".
pub struct brooklet_snapshot(Handle<Snapshot>);

impl Opaque for brooklet_snapshot {
    type Value = Snapshot;
    const NAME: &'static str = "snapshot";

    fn new(handle: Handle<Snapshot>) -> Self {
        brooklet_snapshot(handle)
    }

    fn handle(&self) -> &Handle<Snapshot> {
        &self.0
    }
}

/// The number format of a saved state: "f32" for NULL.
///
/// # Safety
/// `name` is NULL or a text that a zero ends and that nobody changes meanwhile.
pub(crate) unsafe fn dtype(name: *const c_char) -> Result<DType> {
    // SAFETY: NULL, or a text that a zero ends: promised (Safety).
    unsafe { arguments::dtype(name, "dtype", &FORMATS) }
}

/// A snapshot of a session: its state, and the logits if there are any. `sampler`, which may be
/// NULL, is to go on as well.
///
/// Threads: one at a time per session and per sampler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_snapshot_of_session(
    session: *const brooklet_session,
    sampler: *const brooklet_sampler,
    snapshot: *mut *mut brooklet_snapshot,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        make_from(session, snapshot, |own| {
            let mut snapshot = own.session.snapshot();
            if !sampler.is_null() {
                snapshot.sampler =
                    Some(borrow(sampler, brooklet_sampler::NAME)?.handle().read()?.state());
            }
            Ok(snapshot)
        })
    }
}

/// Frees a snapshot; NULL is fine.
///
/// Threads: any, when no other call with this handle is running or follows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_snapshot_free(snapshot: *mut brooklet_snapshot) {
    // SAFETY: the caller's promise (top of the header).
    unsafe { free(snapshot) }
}

/// Copies the message of the last failure with this handle, as snprintf would; returns its length.
/// "" before the first.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_snapshot_message(
    snapshot: *const brooklet_snapshot,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    // SAFETY: the caller's promise (top of the header).
    unsafe { message(snapshot, buffer, capacity) }
}

/// Sets the last tokens of the sequence, the newest last, of which the state has not read the last
/// `unread`: the pending token of brooklet_generated, say. With unread tokens the logits are left
/// out.
///
/// Threads: one at a time per snapshot.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_snapshot_set_tail(
    snapshot: *mut brooklet_snapshot,
    tokens: *const u32,
    n: usize,
    unread: usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on_mut(snapshot, |own| {
            let tokens = slice(tokens, n, "tokens")?;
            if unread > n {
                return Err(Failure::argument(format!("{unread} unread tokens of {n}")));
            }
            own.tail = tokens.to_vec();
            own.unread = unread;
            if unread > 0 {
                own.logits.clear();
            }
            Ok(())
        })
    }
}

/// The last tokens. `n` gets their number, `unread`, which may be NULL, how many of them the state
/// has not read; if there are more than `capacity` the result is BROOKLET_BUFFER and none is
/// written.
///
/// Threads: one at a time per snapshot.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_snapshot_tail(
    snapshot: *const brooklet_snapshot,
    tokens: *mut u32,
    capacity: usize,
    n: *mut usize,
    unread: *mut usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(snapshot, |own| {
            fill(&own.tail, tokens, capacity, n, "tokens")?;
            if !unread.is_null() {
                out(unread, "unread")?.write(own.unread().len());
            }
            Ok(())
        })
    }
}

/// Sets the note, which belongs to the program. One that no state file could hold (a megabyte is
/// always fine) is BROOKLET_ARGUMENT, and the note stays as it was.
///
/// Threads: one at a time per snapshot.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_snapshot_set_note(
    snapshot: *mut brooklet_snapshot,
    note: *const c_char,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on_mut(snapshot, |own| {
            let note = string(note, "note")?;
            check_note(note)?;
            own.note = note.to_owned();
            Ok(())
        })
    }
}

/// The note, not ended by a zero. `length` gets its bytes; if they are more than `capacity` the
/// result is BROOKLET_BUFFER and none is written.
///
/// Threads: one at a time per snapshot.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_snapshot_note(
    snapshot: *const brooklet_snapshot,
    note: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(snapshot, |own| fill(own.note.as_bytes(), note.cast::<u8>(), capacity, length, "note"))
    }
}

/// A copy of the snapshot's state.
///
/// Threads: one at a time per snapshot.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_snapshot_get_state(
    snapshot: *const brooklet_snapshot,
    state: *mut *mut brooklet_state,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe { make_from(snapshot, state, |own| Ok(own.state.clone())) }
}

/// Writes a state file (.brks), whole or not at all. `dtype` is "f32" (exact; NULL means it), "f16"
/// or "int8". Another state file is replaced, and its permissions are kept; BROOKLET_EXISTS if a
/// file of another kind is there.
///
/// Threads: one at a time per snapshot.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_snapshot_save(
    snapshot: *const brooklet_snapshot,
    path: *const c_char,
    dtype: *const c_char,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(snapshot, |own| {
            let dtype = self::dtype(dtype)?;
            Ok(own.save(self::path(path, "path")?, dtype)?)
        })
    }
}

/// Reads a state file of this model; BROOKLET_FOREIGN for another model's.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_snapshot_load(
    model: *const brooklet_model,
    path: *const c_char,
    snapshot: *mut *mut brooklet_snapshot,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        make_from(model, snapshot, |opened| {
            Ok(Snapshot::load(&opened.model, self::path(path, "path")?)?)
        })
    }
}

/// The bytes of a state file. `n` gets their number; if that is above `capacity` the result is
/// BROOKLET_BUFFER and none is written.
///
/// Threads: one at a time per snapshot.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_snapshot_to_bytes(
    snapshot: *const brooklet_snapshot,
    dtype: *const c_char,
    bytes: *mut c_void,
    capacity: usize,
    n: *mut usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(snapshot, |own| {
            fill(&own.to_bytes(self::dtype(dtype)?)?, bytes.cast::<u8>(), capacity, n, "bytes")
        })
    }
}

/// Reads the bytes of a state file of this model; BROOKLET_FOREIGN for another model's.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_snapshot_from_bytes(
    model: *const brooklet_model,
    bytes: *const c_void,
    length: usize,
    snapshot: *mut *mut brooklet_snapshot,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        make_from(model, snapshot, |opened| {
            Ok(Snapshot::from_bytes(&opened.model, slice(bytes.cast::<u8>(), length, "bytes")?)?)
        })
    }
}

/// Goes on from a snapshot: takes a copy of its state, reads what is unread of it, and has the
/// logits again; where it has none, the next thing to do is a prefill. `sampler`, which may be
/// NULL, goes on as the snapshot's did, if that has one.
///
/// Threads: one at a time per session, snapshot and sampler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_resume(
    session: *mut brooklet_session,
    snapshot: *const brooklet_snapshot,
    sampler: *mut brooklet_sampler,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on_mut(session, |own| {
            let snapshot = borrow(snapshot, brooklet_snapshot::NAME)?.handle().read()?;
            let mut changed = None;
            if !sampler.is_null() {
                let sampler = borrow(sampler, brooklet_sampler::NAME)?.handle().write()?;
                changed = snapshot.sampler.as_ref().map(|state| (sampler, state));
            }
            if let Some((sampler, state)) = &mut changed {
                // Tried on a copy: nothing changes where the session refuses.
                sampler.clone().restore(state)?;
            }
            own.rows = usize::from(own.session.resume(&snapshot)?);
            if let Some((mut sampler, state)) = changed {
                sampler.restore(state)?;
            }
            Ok(())
        })
    }
}

/// Refuses a note that is too long for a state file, which has it escaped as JSON has texts.
fn check_note(note: &str) -> Result {
    let len = brooklet_formats::state_file::note_len(note);
    let most = brooklet_formats::state_file::MAX_NOTE_LEN;
    if len > most {
        return Err(Failure::argument(format!(
            "the note takes {len} bytes of a state file, which has {most} for it"
        )));
    }
    Ok(())
}
