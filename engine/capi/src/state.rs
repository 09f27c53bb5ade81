//! States: what a conversation has come to, as a value of constant size.
//!
//! Not here: sessions, which own one state each (`session`). Test: `tests/contract/states.rs`.

use std::ffi::c_char;

use brooklet::{Slot, State, StateLayout};

use super::arguments::{fill, out, slice};
use super::failure::{Failure, Result, brooklet_result};
use super::handle::{Handle, Opaque, free, make_from, message, on, on_mut};
use super::model::brooklet_model;
use super::options::{Report, report};

/// A model's memory of the tokens it has read.
pub struct brooklet_state(Handle<State>);

impl Opaque for brooklet_state {
    type Value = State;
    const NAME: &'static str = "state";

    fn new(handle: Handle<State>) -> Self {
        brooklet_state(handle)
    }

    fn handle(&self) -> &Handle<State> {
        &self.0
    }
}

/// A state before the first token.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_state_new(
    model: *const brooklet_model,
    state: *mut *mut brooklet_state,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe { make_from(model, state, |opened| Ok(opened.model.new_state())) }
}

/// A copy: a fork of the conversation.
///
/// Threads: one at a time per state.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_state_clone(
    state: *const brooklet_state,
    clone: *mut *mut brooklet_state,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        make_from(state, clone, |own| {
            own.fetch()?;
            Ok(own.clone())
        })
    }
}

/// Frees a state; NULL is fine.
///
/// Threads: any, when no other call with this handle is running or follows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_state_free(state: *mut brooklet_state) {
    // SAFETY: the caller's promise (top of the header).
    unsafe { free(state) }
}

/// Copies the message of the last failure with this handle, as snprintf would; returns its length.
/// "" before the first.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_state_message(
    state: *const brooklet_state,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    // SAFETY: the caller's promise (top of the header).
    unsafe { message(state, buffer, capacity) }
}

/// Forgets everything: the state before the first token.
///
/// Threads: one at a time per state.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_state_reset(state: *mut brooklet_state) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on_mut(state, |own| {
            own.reset();
            Ok(())
        })
    }
}

/// Tokens read since the last reset.
///
/// Threads: one at a time per state.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_state_position(
    state: *const brooklet_state,
    position: *mut u64,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(state, |own| {
            out(position, "position")?.write(own.position());
            Ok(())
        })
    }
}

/// Copies the values of piece `index` (see brooklet_model_slot), whatever format they are kept in.
/// `n` gets their number; if that is above `capacity` the result is BROOKLET_BUFFER and none is
/// written.
///
/// Threads: one at a time per state.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_state_get(
    state: *const brooklet_state,
    index: usize,
    values: *mut f32,
    capacity: usize,
    n: *mut usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(state, |own| {
            slot(own.layout(), index)?;
            own.fetch()?;
            fill(&own.get(index), values, capacity, n, "values")
        })
    }
}

/// Overwrites the values of piece `index`, all `n` of them. A piece that is kept as "f16" takes the
/// nearest that it has.
///
/// Threads: one at a time per state.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_state_set(
    state: *mut brooklet_state,
    index: usize,
    values: *const f32,
    n: usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on_mut(state, |own| {
            let expected = slot(own.layout(), index)?.n_elements();
            if n != expected {
                return Err(Failure::argument(format!(
                    "slot {index} has {expected} values, found {n}"
                )));
            }
            own.fetch()?;
            own.set(index, slice(values, n, "values")?);
            Ok(())
        })
    }
}

/// Slot number `index`.
fn slot(layout: &StateLayout, index: usize) -> Result<&Slot> {
    let slots = layout.slots();
    slots
        .get(index)
        .ok_or_else(|| Failure::argument(format!("slot {index}: the state has {}", slots.len())))
}

/// Dimensions of a piece of a state at most.
pub const BROOKLET_MAX_DIMS: usize = 4;

/// A piece of a state.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct brooklet_slot {
    /// The layer it belongs to.
    pub layer: u64,
    /// How many values it has.
    pub length: u64,
    /// Dimensions.
    pub n_dim: u64,
    /// Its shape, outermost first; 0 behind the last dimension.
    pub shape: [u64; BROOKLET_MAX_DIMS],
    /// Its values before the first token.
    pub initial: f64,
    /// Their number format: "f32" or "f16", zeros behind it.
    pub dtype: [c_char; 8],
}

// SAFETY: seven u64, an f64 and eight bytes.
unsafe impl Report for brooklet_slot {}

/// Describes piece `index` of a model's states: `slot`, of which `size` is sizeof(brooklet_slot),
/// and its name (such as "att.wkv") as brooklet_tokenizer_decode gives text: `length` bytes, no
/// zero behind them.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_model_slot(
    model: *const brooklet_model,
    index: usize,
    slot: *mut brooklet_slot,
    size: usize,
    name: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(model, |opened| {
            let own = self::slot(opened.model.state_layout(), index)?;
            let to = report(slot, size)?;
            fill(own.name.as_bytes(), name.cast::<u8>(), capacity, length, "name")?;
            let mut shape = [0; BROOKLET_MAX_DIMS];
            shape.iter_mut().zip(&own.shape).for_each(|(to, n)| *to = *n as u64);
            let mut dtype = [0; 8];
            dtype
                .iter_mut()
                .zip(own.dtype.name().bytes())
                .for_each(|(to, byte)| *to = byte as c_char);
            to.write(brooklet_slot {
                layer: own.layer as u64,
                length: own.n_elements() as u64,
                n_dim: own.shape.len() as u64,
                shape,
                initial: f64::from(own.initial),
                dtype,
            });
            Ok(())
        })
    }
}
