//! Bare states as files and bytes, and states that were trained elsewhere.
//!
//! Not here: snapshots, which hold more than the state (`snapshot`). Test:
//! `tests/contract/saving.rs`.

use std::ffi::{c_char, c_void};

use brooklet::State;

use super::arguments::{fill, path, slice};
use super::failure::brooklet_result;
use super::handle::{make_from, on};
use super::model::brooklet_model;
use super::snapshot::dtype;
use super::state::brooklet_state;

/// Writes a state file (.brks) that holds the state alone, whole or not at all. `dtype` is "f32"
/// (exact; NULL means it), "f16" or "int8". Another state file is replaced, and its permissions are
/// kept; BROOKLET_EXISTS if a file of another kind is there.
///
/// Threads: one at a time per state.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_state_save(
    state: *const brooklet_state,
    path: *const c_char,
    dtype: *const c_char,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(state, |own| {
            let dtype = self::dtype(dtype)?;
            Ok(own.save(self::path(path, "path")?, dtype)?)
        })
    }
}

/// The state in a state file of this model; BROOKLET_FOREIGN for another model's.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_state_load(
    model: *const brooklet_model,
    path: *const c_char,
    state: *mut *mut brooklet_state,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        make_from(model, state, |opened| Ok(State::load(&opened.model, self::path(path, "path")?)?))
    }
}

/// The bytes of a state file that holds the state alone. `n` gets their number; if that is above
/// `capacity` the result is BROOKLET_BUFFER and none is written.
///
/// Threads: one at a time per state.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_state_to_bytes(
    state: *const brooklet_state,
    dtype: *const c_char,
    bytes: *mut c_void,
    capacity: usize,
    n: *mut usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(state, |own| {
            fill(&own.to_bytes(self::dtype(dtype)?)?, bytes.cast::<u8>(), capacity, n, "bytes")
        })
    }
}

/// The state in the bytes of a state file of this model; BROOKLET_FOREIGN for another model's.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_state_from_bytes(
    model: *const brooklet_model,
    bytes: *const c_void,
    length: usize,
    state: *mut *mut brooklet_state,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        make_from(model, state, |opened| {
            Ok(State::from_bytes(&opened.model, slice(bytes.cast::<u8>(), length, "bytes")?)?)
        })
    }
}

/// The state that an RWKV state-tuning checkpoint (`blocks.N.att.time_state`) trained for this
/// model: where a sequence begins. BROOKLET_UNSUPPORTED without BROOKLET_FEATURE_CONVERT.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_state_import(
    model: *const brooklet_model,
    path: *const c_char,
    state: *mut *mut brooklet_state,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe { make_from(model, state, |opened| import(&opened.model, self::path(path, "path")?)) }
}

#[cfg(feature = "convert")]
fn import(model: &brooklet::Model, path: &std::path::Path) -> super::failure::Result<State> {
    Ok(State::from_tuned(model, &brooklet_formats::checkpoint::Checkpoint::open(path)?)?)
}

#[cfg(not(feature = "convert"))]
fn import(_: &brooklet::Model, _: &std::path::Path) -> super::failure::Result<State> {
    Err(brooklet::EngineError::NotBuilt { what: "brooklet_state_import", feature: "convert" }
        .into())
}
