//! Sessions: tokens in, logits and embeddings out.
//!
//! A session owns its state, its threads and its scratch memory; after its first pass nothing is
//! allocated per token. Not here: the loop that writes text (`generate`). Tests:
//! `tests/contract/states.rs`, `tests/allocations.rs`.

use std::ffi::{c_char, c_void};

use brooklet::{EngineOptions, Pooling, Session};

use super::arguments::{borrow, out, slice};
use super::failure::{Failure, Result, brooklet_result, call};
use super::handle::{Handle, Opaque, free, make_from, message, on, on_mut};
use super::lists::Lists;
use super::model::{brooklet_model, brooklet_progress, reporter};
use super::options::{Options, init, read};
use super::state::brooklet_state;

/// The most tokens in one forward pass: a bound on memory, far above what makes it faster.
const MAX_CHUNK: u32 = 1 << 16;
/// The most threads.
const MAX_THREADS: u32 = 1 << 10;

/// One conversation with a model.
pub struct brooklet_session(Handle<Talk>);

/// A session, and what its batches need.
pub(crate) struct Talk {
    pub(crate) session: Session,
    /// Rows of logits that the last pass left.
    pub(crate) rows: usize,
    pub(crate) lists: Lists,
}

impl Opaque for brooklet_session {
    type Value = Talk;
    const NAME: &'static str = "session";

    fn new(handle: Handle<Talk>) -> Self {
        brooklet_session(handle)
    }

    fn handle(&self) -> &Handle<Talk> {
        &self.0
    }
}

/// How a session is set up. Set by brooklet_session_options_init.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct brooklet_session_options {
    /// Bytes of this struct, as its user was compiled.
    pub size: usize,
    /// Threads, the caller's included; 0 means one per processor. Default 0.
    pub threads: u32,
    /// The most tokens in one forward pass; scratch memory grows with it. 1 to 65536. Default 64.
    pub chunk: u32,
    /// The most rows of logits of one forward pass: above 1 only for brooklet_session_forward. 1 to
    /// chunk. Default 1.
    pub rows: u32,
    /// Must be 0.
    pub reserved: u32,
}

// SAFETY: numbers.
unsafe impl Options for brooklet_session_options {
    const FIRST_SIZE: usize = size_of::<brooklet_session_options>();

    fn defaults() -> Self {
        let own = EngineOptions::default();
        brooklet_session_options {
            size: size_of::<Self>(),
            threads: own.threads as u32,
            chunk: own.chunk as u32,
            rows: own.logits as u32,
            reserved: 0,
        }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.size
    }

    fn reserved(&self) -> u64 {
        u64::from(self.reserved)
    }
}

impl brooklet_session_options {
    /// The engine's options, checked.
    pub(crate) fn engine(&self) -> Result<EngineOptions> {
        let check = |name: &str, value: u32, least: u32, most: u32| {
            if (least..=most).contains(&value) {
                return Ok(value as usize);
            }
            Err(Failure::argument(format!(
                "session option {name}: expected {least} to {most}, found {value}"
            )))
        };
        Ok(EngineOptions::new()
            .threads(check("threads", self.threads, 0, MAX_THREADS)?)
            .chunk(check("chunk", self.chunk, 1, MAX_CHUNK)?)
            .logits(check("rows", self.rows, 1, self.chunk)?))
    }
}

/// Fills in the defaults; `size` is sizeof(brooklet_session_options).
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_options_init(
    options: *mut brooklet_session_options,
    size: usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    call(|| unsafe { init(options, size) })
}

/// A session at the start of a sequence. `options` may be NULL. All memory is allocated here;
/// threads start with the first pass.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_new(
    model: *const brooklet_model,
    options: *const brooklet_session_options,
    session: *mut *mut brooklet_session,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        make_from(model, session, |opened| {
            let options = read(options)?.engine()?;
            let bytes = brooklet::Engine::memory(&opened.model, &options)
                + opened.model.state_layout().bytes();
            // An allocation that fails later would end the process; this one is only tried.
            if Vec::<u8>::new().try_reserve_exact(bytes).is_err() {
                let message = format!("a session of {bytes} bytes does not fit into memory");
                return Err(Failure::new(brooklet_result::BROOKLET_MEMORY, message));
            }
            let chunk = options.chunk;
            Ok(Talk {
                session: Session::new(&opened.model, &options),
                rows: 0,
                lists: Lists::new(chunk),
            })
        })
    }
}

/// Frees a session and ends its threads; NULL is fine.
///
/// Threads: any, when no other call with this handle is running or follows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_free(session: *mut brooklet_session) {
    // SAFETY: the caller's promise (top of the header).
    unsafe { free(session) }
}

/// Copies the message of the last failure with this handle, as snprintf would; returns its length.
/// "" before the first.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_message(
    session: *const brooklet_session,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    // SAFETY: the caller's promise (top of the header).
    unsafe { message(session, buffer, capacity) }
}

/// Reads `n` tokens, in chunks; then the logits after the last one are there. `progress`, which may
/// be NULL, counts tokens and is called after each chunk; when it asks to stop, the tokens up to
/// there have been read, there are no logits, and the result is BROOKLET_CANCELLED.
///
/// Threads: one at a time per session; `progress` is called on the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_prefill(
    session: *mut brooklet_session,
    tokens: *const u32,
    n: usize,
    progress: brooklet_progress,
    user: *mut c_void,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on_mut(session, |own| {
            let tokens = slice(tokens, n, "tokens")?;
            let mut go_on = reporter(progress, user);
            own.pass(n, |session| session.prefill_with(tokens, |read| go_on(read as u64, n as u64)))
        })
    }
}

/// The hidden state after the last token.
pub const BROOKLET_POOL_LAST: u32 = 0;
/// The mean of the hidden states after every token.
pub const BROOKLET_POOL_MEAN: u32 = 1;

/// Reads `n` tokens as brooklet_session_prefill does, and writes an embedding of them: the hidden
/// state behind the final norm, pooled as `pooling` (BROOKLET_POOL_) says, d_model floats.
/// `capacity` is the room for floats. It costs no second pass, and the logits are there as well.
/// For the embedding of a text by itself, reset the session before.
///
/// Threads: one at a time per session; `progress` is called on the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_embed(
    session: *mut brooklet_session,
    tokens: *const u32,
    n: usize,
    pooling: u32,
    embedding: *mut f32,
    capacity: usize,
    progress: brooklet_progress,
    user: *mut c_void,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on_mut(session, |own| {
            let pooling = match pooling {
                BROOKLET_POOL_LAST => Pooling::Last,
                BROOKLET_POOL_MEAN => Pooling::Mean,
                other => {
                    return Err(Failure::argument(format!("pooling {other}: expected 0 or 1")));
                }
            };
            let tokens = slice(tokens, n, "tokens")?;
            let mut values = vec![0.0; own.session.model().d_model()];
            out(embedding, "embedding")?;
            if capacity < values.len() {
                let message =
                    format!("embedding holds {capacity} floats, {} are needed", values.len());
                return Err(Failure::new(brooklet_result::BROOKLET_BUFFER, message));
            }
            let mut go_on = reporter(progress, user);
            own.pass(n, |session| {
                session
                    .embed_with(tokens, pooling, &mut values, |read| go_on(read as u64, n as u64))
            })?;
            std::ptr::copy_nonoverlapping(values.as_ptr(), embedding, values.len());
            Ok(())
        })
    }
}

/// Reads one token; then the logits after it are there. Allocates nothing.
///
/// Threads: one at a time per session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_step(
    session: *mut brooklet_session,
    token: u32,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe { on_mut(session, |own| own.pass(1, |session| session.step(token).map(|_| 1))) }
}

/// Row `row` of the logits that the last pass left: n_vocab floats, valid until the next pass of
/// this session. After brooklet_session_prefill, _step and _rollback there is row 0.
///
/// Threads: one at a time per session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_logits(
    session: *mut brooklet_session,
    row: usize,
    logits: *mut *const f32,
    n: *mut usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on_mut(session, |own| {
            let (to, n) = (out(logits, "logits")?, out(n, "n")?);
            if row >= own.rows {
                let message = format!("logits of row {row}: the last pass left {} rows", own.rows);
                return Err(Failure::argument(message));
            }
            // The engine forgets which logits are the session's; it is asked for rows of a batch
            // only.
            let values =
                if row == 0 { own.session.logits() } else { own.session.engine().logits(row) };
            to.write(values.as_ptr());
            n.write(values.len());
            Ok(())
        })
    }
}

/// Back to the start of a sequence. There are no logits then.
///
/// Threads: one at a time per session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_reset(session: *mut brooklet_session) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on_mut(session, |own| {
            own.session.reset();
            own.rows = 0;
            Ok(())
        })
    }
}

/// Tokens read since the last reset.
///
/// Threads: one at a time per session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_position(
    session: *const brooklet_session,
    position: *mut u64,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(session, |own| {
            out(position, "position")?.write(own.session.state().position());
            Ok(())
        })
    }
}

/// A copy of the session's state.
///
/// Threads: one at a time per session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_get_state(
    session: *const brooklet_session,
    state: *mut *mut brooklet_state,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        make_from(session, state, |own| {
            own.session.state().fetch()?;
            Ok(own.session.state().clone())
        })
    }
}

/// Goes on from a copy of `state`. There are no logits until the next token.
///
/// Threads: one at a time per session and per state.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_set_state(
    session: *mut brooklet_session,
    state: *const brooklet_state,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on_mut(session, |own| {
            let state = borrow(state, brooklet_state::NAME)?.handle().read()?;
            own.session.set_state(state.clone())?;
            own.rows = 0;
            Ok(())
        })
    }
}

/// Exchanges the session's state for `state`, without a copy: one session can serve many
/// conversations. There are no logits until the next token.
///
/// Threads: one at a time per session and per state.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_swap_state(
    session: *mut brooklet_session,
    state: *mut brooklet_state,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on_mut(session, |own| {
            let mut state = borrow(state, brooklet_state::NAME)?.handle().write()?;
            own.session.swap_state(&mut state)?;
            own.rows = 0;
            Ok(())
        })
    }
}

impl Talk {
    /// One pass of the session over `n` tokens; afterwards there is a row of logits, if all were
    /// read.
    fn pass(
        &mut self,
        n: usize,
        pass: impl FnOnce(&mut Session) -> brooklet::Result<usize>,
    ) -> Result {
        self.rows = 0;
        let read = pass(&mut self.session)?;
        if read < n {
            let message = format!("cancelled after {read} of {n} tokens");
            return Err(Failure::new(brooklet_result::BROOKLET_CANCELLED, message));
        }
        self.rows = 1;
        Ok(())
    }
}
