//! How much memory a model and a session will need, before it is taken.
//!
//! Not here: the counting (`brooklet::Engine::memory`). Test: `tests/contract/models.rs`.

use std::ffi::c_char;

use brooklet::{Engine, Model};
use brooklet_formats::brk::BrkFile;

use super::arguments::path;
use super::failure::{Result, brooklet_result, call};
use super::handle::on;
use super::model::{Opened, brooklet_model, brooklet_model_options, copied_bytes};
use super::options::{Report, read, report};
use super::session::brooklet_session_options;

/// Memory that a model and one session will take. A further session takes session_bytes and
/// state_bytes again. What a card takes of its own memory is not counted.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct brooklet_plan {
    /// Bytes of the file: pages of the system's cache that processes share, where it is mapped.
    pub file_bytes: u64,
    /// Bytes of it that will be copied into memory of this process.
    pub copied_bytes: u64,
    /// Bytes of a session without its state: scratch memory and logits. Stacks of threads are not
    /// counted.
    pub session_bytes: u64,
    /// Bytes of a state.
    pub state_bytes: u64,
    /// Private bytes in all: copied, session and state.
    pub private_bytes: u64,
}

// SAFETY: five u64.
unsafe impl Report for brooklet_plan {}

fn plan(
    model: &Model,
    copied_bytes: u64,
    options: &brooklet_session_options,
) -> Result<brooklet_plan> {
    let session_bytes = Engine::memory(model, &options.engine()?) as u64;
    let state_bytes = model.state_layout().bytes() as u64;
    Ok(brooklet_plan {
        file_bytes: model.file().file_len(),
        copied_bytes,
        session_bytes,
        state_bytes,
        private_bytes: copied_bytes + session_bytes + state_bytes,
    })
}

/// Writes what opening the file at `path` and one session would take; reads the file's header only
/// and allocates nothing of that size. Both options may be NULL; `size` is sizeof(brooklet_plan).
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_plan_file(
    path: *const c_char,
    model_options: *const brooklet_model_options,
    session_options: *const brooklet_session_options,
    plan: *mut brooklet_plan,
    size: usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    call(|| unsafe {
        let (mut options, session) = (read(model_options)?, read(session_options)?);
        let copies = std::mem::take(&mut options.copy) != 0;
        // Nothing is copied to a card.
        options.device = std::ptr::null();
        let Opened { model, .. } =
            Opened::new(BrkFile::open_with(self::path(path, "path")?, options.file())?, &options)?;
        let copied_bytes = if copies { model.file().file_len() } else { copied_bytes(&model) };
        report(plan, size)?.write(self::plan(&model, copied_bytes, &session)?);
        Ok(())
    })
}

/// The same for a model that is open. `options` may be NULL; `size` is sizeof(brooklet_plan).
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_model_plan(
    model: *const brooklet_model,
    options: *const brooklet_session_options,
    plan: *mut brooklet_plan,
    size: usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(model, |Opened { model, .. }| {
            report(plan, size)?.write(self::plan(model, copied_bytes(model), &read(options)?)?);
            Ok(())
        })
    }
}
