//! Many texts at a time, which come and go when they like (continuous batching).
//!
//! Not here: how they share passes (`brooklet::schedule`). Tests: `tests/contract/schedules.rs`.

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_void};
use std::ops::ControlFlow;
use std::ptr::null;

use brooklet::generate::Limits;
use brooklet::prefix::PrefixCache;
use brooklet::schedule::{Event, Request, Scheduler, Ticket};

use super::arguments::{borrow, out, slice, strings};
use super::failure::{Failure, brooklet_result, c_string, call};
use super::generate::{
    BROOKLET_END_FAILED, brooklet_generate_options, brooklet_generated, reported,
};
use super::handle::{Handle, Opaque, free, make_from, message, on, on_mut};
use super::model::brooklet_model;
use super::options::{Options, init, read};
use super::sampler::brooklet_sampler;
use super::session::brooklet_session_options;
use super::tokenizer::{BROOKLET_NO_TOKEN, Piece, brooklet_tokenizer};

/// Texts of one model.
pub struct brooklet_scheduler(Handle<Texts>);

/// What stands behind the handle.
pub struct Texts {
    scheduler: Scheduler<'static>,
    /// Numbers for the caller.
    numbers: HashMap<Ticket, u64>,
    next: u64,
}

impl Opaque for brooklet_scheduler {
    type Value = Texts;
    const NAME: &'static str = "scheduler";

    fn new(handle: Handle<Texts>) -> Self {
        brooklet_scheduler(handle)
    }

    fn handle(&self) -> &Handle<Texts> {
        &self.0
    }
}

/// How a scheduler is set up. Set by brooklet_scheduler_options_init.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct brooklet_scheduler_options {
    /// Bytes of this struct, as its user was compiled.
    pub size: usize,
    /// Texts in a pass at most; each takes a state. Default 8.
    pub parallel: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Memory for what prompts begin with alike, in bytes. Default 256 MB.
    pub cache_bytes: u64,
}

/// The most texts in a pass.
const MAX_PARALLEL: u32 = 1024;

// SAFETY: numbers.
unsafe impl Options for brooklet_scheduler_options {
    const FIRST_SIZE: usize = size_of::<brooklet_scheduler_options>();

    fn defaults() -> Self {
        brooklet_scheduler_options {
            size: size_of::<Self>(),
            parallel: 8,
            reserved: 0,
            cache_bytes: 256 << 20,
        }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.size
    }

    fn reserved(&self) -> u64 {
        u64::from(self.reserved)
    }
}

/// Fills in the defaults; `size` is sizeof(brooklet_scheduler_options).
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_scheduler_options_init(
    options: *mut brooklet_scheduler_options,
    size: usize,
) -> brooklet_result {
    // SAFETY: `options` is NULL, which is refused, or `size` bytes may be written there: promised
    // (top of the header).
    call(|| unsafe { init(options, size) })
}

/// A scheduler for texts of a model, whose words and ends are the tokenizer's. `session`, how its
/// engine is set up, and `options` may be NULL.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_scheduler_new(
    model: *const brooklet_model,
    tokenizer: *const brooklet_tokenizer,
    session: *const brooklet_session_options,
    options: *const brooklet_scheduler_options,
    scheduler: *mut *mut brooklet_scheduler,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe {
        make_from(model, scheduler, |opened| {
            let (engine, options) = (read(session)?.engine()?, read(options)?);
            if !(1..=MAX_PARALLEL).contains(&options.parallel) {
                let (most, found) = (MAX_PARALLEL, options.parallel);
                let what = format!("parallel: expected 1 to {most}, found {found}");
                return Err(Failure::argument(what));
            }
            let tokenizer = borrow(tokenizer, brooklet_tokenizer::NAME)?.handle().read()?;
            let cache = usize::try_from(options.cache_bytes).unwrap_or(usize::MAX);
            let cache = PrefixCache::new(&opened.model, cache);
            let most = options.parallel as usize;
            let text = tokenizer.clone();
            let scheduler = Scheduler::owning(&opened.model, text, &engine, most, cache);
            Ok(Texts { scheduler, numbers: HashMap::new(), next: 1 })
        })
    }
}

/// Frees a scheduler with all of its texts; NULL is fine.
///
/// Threads: any, when no other call with this handle is running or follows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_scheduler_free(scheduler: *mut brooklet_scheduler) {
    // SAFETY: NULL, or a handle of this library that no call uses now or later: promised (top of
    // the header).
    unsafe { free(scheduler) }
}

/// Copies the message of the last failure with this handle, as snprintf would; returns its length.
/// "" before the first.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_scheduler_message(
    scheduler: *const brooklet_scheduler,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    // SAFETY: NULL or a handle of this library, which nobody frees meanwhile; `buffer` is NULL or
    // has `capacity` bytes: promised (top of the header).
    unsafe { message(scheduler, buffer, capacity) }
}

/// Asks for a text behind `n` tokens of a prompt. Its tokens are chosen by a copy of the sampler as
/// it stands, so that one sampler can serve many texts (brooklet_sampler_reset with another seed
/// between them). `options` may be NULL; `speculation` in them must be. `ticket` gets the number
/// that the text has from here on: 1 and ascending.
///
/// Threads: one at a time per scheduler and per sampler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_scheduler_submit(
    scheduler: *mut brooklet_scheduler,
    tokens: *const u32,
    n: usize,
    sampler: *const brooklet_sampler,
    options: *const brooklet_generate_options,
    ticket: *mut u64,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe {
        on_mut(scheduler, |own| {
            let (options, to) = (read(options)?, out(ticket, "ticket")?);
            if !options.speculation.is_null() {
                return Err(Failure::argument("speculation: texts of a scheduler have no guesses"));
            }
            let prompt = slice(tokens, n, "tokens")?.to_vec();
            let sampler = borrow(sampler, brooklet_sampler::NAME)?.handle().read()?.clone();
            let limits = Limits::new(options.max_tokens).ignore_end(options.ignore_end != 0);
            let mut request = Request::new(prompt, sampler, limits);
            request.stops = strings(options.stops, options.n_stop, "stops")?;
            let number = own.next;
            own.numbers.insert(own.scheduler.submit(request)?, number);
            own.next += 1;
            to.write(number);
            Ok(())
        })
    }
}

/// Takes what happened to a text: a piece, as brooklet_emit does; or its end, with `ended`, of
/// which only the first fields that the program knows may be read. `ended` is NULL before the end.
/// The reason BROOKLET_END_FAILED says that the text failed, and `text` why. Non-zero asks to end
/// that text; its end is still told. It must not throw or jump away, and calls with this scheduler
/// are BROOKLET_BUSY from within.
pub type brooklet_scheduler_emit = Option<
    unsafe extern "C" fn(
        ticket: u64,
        text: *const c_char,
        length: usize,
        token: u32,
        ended: *const brooklet_generated,
        user: *mut c_void,
    ) -> i32,
>;

/// One pass over all texts: prompts are read, and each text that is being written gets a token.
/// Called until brooklet_scheduler_len gives 0. A text that fails ends; the others go on. `emit`
/// may not be NULL.
///
/// Threads: one at a time per scheduler; `emit` is called on the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_scheduler_step(
    scheduler: *mut brooklet_scheduler,
    emit: brooklet_scheduler_emit,
    user: *mut c_void,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // `emit` may be called with these arguments: promised (top of the header).
    unsafe {
        on_mut(scheduler, |own| {
            let emit =
                emit.ok_or_else(|| Failure::new(brooklet_result::BROOKLET_NULL, "emit is NULL"))?;
            let Texts { scheduler, numbers, .. } = own;
            let mut piece = Piece::default();
            scheduler.step(|ticket, event| {
                let number = numbers.get(&ticket).copied().unwrap_or_default();
                let stop = match event {
                    Event::Piece(next) => {
                        let (text, length) = piece.set(next.text);
                        let token = next.token.unwrap_or(BROOKLET_NO_TOKEN);
                        emit(number, text, length, token, null(), user)
                    }
                    Event::Ended(ended) => {
                        numbers.remove(&ticket);
                        let (report, why) = match ended {
                            Ok(ended) => (reported(&ended), CString::default()),
                            Err(error) => (failed(), c_string(&error.to_string())),
                        };
                        let (text, length) = (why.as_ptr(), why.as_bytes().len());
                        emit(number, text, length, BROOKLET_NO_TOKEN, &raw const report, user)
                    }
                    _ => 0,
                };
                if stop == 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            Ok(())
        })
    }
}

/// Of a text that failed.
fn failed() -> brooklet_generated {
    brooklet_generated { tokens: 0, reason: BROOKLET_END_FAILED, pending: BROOKLET_NO_TOKEN }
}

/// Forgets a text, of which nothing more is told. `was_there`, which may be NULL, gets 1, or 0
/// where it had ended before.
///
/// Threads: one at a time per scheduler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_scheduler_cancel(
    scheduler: *mut brooklet_scheduler,
    ticket: u64,
    was_there: *mut u32,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // `was_there` is NULL, or a number may be written there: promised (top of the header).
    unsafe {
        on_mut(scheduler, |own| {
            let found = own.numbers.iter().find(|(_, number)| **number == ticket);
            let found = found.map(|(ticket, _)| *ticket);
            let was = found.is_some_and(|found| own.scheduler.cancel(found));
            found.and_then(|found| own.numbers.remove(&found));
            if !was_there.is_null() {
                out(was_there, "was_there")?.write(u32::from(was));
            }
            Ok(())
        })
    }
}

/// Texts that have not ended: those in the passes and those that wait.
///
/// Threads: one at a time per scheduler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_scheduler_len(
    scheduler: *const brooklet_scheduler,
    len: *mut usize,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // `len` is NULL, which is refused, or a number may be written there: promised (top of the
    // header).
    unsafe {
        on(scheduler, |own| {
            out(len, "len")?.write(own.scheduler.len());
            Ok(())
        })
    }
}
