//! Writing text: the engine's loop with a callback.
//!
//! Not here: the loop (`brooklet::generate`). Tests: `tests/contract/words.rs`,
//! `tests/allocations.rs`.

use std::ffi::{c_char, c_void};
use std::mem::offset_of;
use std::ops::ControlFlow;

use brooklet::generate::{Ended, Limits, Piece as Text, Reason, generate_with};

use super::arguments::{borrow, strings};
use super::failure::{Failure, brooklet_result, call};
use super::handle::{Opaque, on_mut};
use super::options::{Options, Report, init, optional_report, read};
use super::sampler::brooklet_sampler;
use super::session::brooklet_session;
use super::speculation::brooklet_speculation;
use super::tokenizer::{BROOKLET_NO_TOKEN, Piece, brooklet_tokenizer};

/// When to stop. Set by brooklet_generate_options_init.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct brooklet_generate_options {
    /// Bytes of this struct, as its user was compiled.
    pub size: usize,
    /// Tokens at most. Default 128.
    pub max_tokens: usize,
    /// Strings that end the text and are not part of it; NULL where there are none.
    pub stops: *const *const c_char,
    /// How many.
    pub n_stop: usize,
    /// Not 0: go on after a token that ends a text. Default 0.
    pub ignore_end: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Guesses of what comes next, or NULL: the same text, in fewer passes. Before each text
    /// brooklet_speculation_begin says what the session has read.
    pub speculation: *mut brooklet_speculation,
}

// SAFETY: numbers and pointers.
unsafe impl Options for brooklet_generate_options {
    const FIRST_SIZE: usize = offset_of!(brooklet_generate_options, speculation);

    fn defaults() -> Self {
        brooklet_generate_options {
            size: size_of::<Self>(),
            max_tokens: 128,
            stops: std::ptr::null(),
            n_stop: 0,
            ignore_end: 0,
            reserved: 0,
            speculation: std::ptr::null_mut(),
        }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.size
    }

    fn reserved(&self) -> u64 {
        u64::from(self.reserved)
    }
}

/// Fills in the defaults; `size` is sizeof(brooklet_generate_options).
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_generate_options_init(
    options: *mut brooklet_generate_options,
    size: usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    call(|| unsafe { init(options, size) })
}

/// As many tokens as asked for.
pub const BROOKLET_END_LENGTH: u32 = 0;
/// The model ended the text.
pub const BROOKLET_END_OF_TEXT: u32 = 1;
/// A stop string.
pub const BROOKLET_END_STOP: u32 = 2;
/// The callback asked to stop.
pub const BROOKLET_END_CANCELLED: u32 = 3;
/// The sampler's grammar lets nothing follow. Since version 3 of the interface.
pub const BROOKLET_END_GRAMMAR: u32 = 4;
/// A text of a scheduler failed. Since version 4 of the interface.
pub const BROOKLET_END_FAILED: u32 = 5;

/// How a text ended.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct brooklet_generated {
    /// Tokens given to the callback; one that ended the text does not count.
    pub tokens: u64,
    /// Why it ended: BROOKLET_END_.
    pub reason: u32,
    /// The last token sampled, which the session has not read yet: it comes first when the
    /// conversation goes on. BROOKLET_NO_TOKEN if none was.
    pub pending: u32,
}

// SAFETY: a u64 and two u32.
unsafe impl Report for brooklet_generated {}

/// Takes a piece of text as soon as it is certain: `length` bytes of UTF-8 with a zero behind them,
/// often none, valid during the call; and the token just chosen, or BROOKLET_NO_TOKEN for text that
/// comes out at the end. Non-zero asks to stop, and no call follows. It must not throw or jump
/// away, and calls with this session or sampler are BROOKLET_BUSY from within.
pub type brooklet_emit = Option<
    unsafe extern "C" fn(text: *const c_char, length: usize, token: u32, user: *mut c_void) -> i32,
>;

/// Writes text from the session's logits on: samples, decodes, gives it to `emit`, steps, until
/// there is a reason to stop, the callback's wish among them: that is no failure, the result is
/// BROOKLET_OK and the reason BROOKLET_END_CANCELLED. Only tokens that the tokenizer knows are
/// chosen. `options` may be NULL; `emit` may not (the result is BROOKLET_NULL). `generated`, which
/// may be NULL, gets how it ended; `size` is sizeof(brooklet_generated). Between two tokens nothing
/// is allocated.
///
/// Threads: one at a time per session and per sampler; `emit` is called on the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_session_generate(
    session: *mut brooklet_session,
    sampler: *mut brooklet_sampler,
    tokenizer: *const brooklet_tokenizer,
    options: *const brooklet_generate_options,
    emit: brooklet_emit,
    user: *mut c_void,
    generated: *mut brooklet_generated,
    size: usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on_mut(session, |own| {
            let options = read(options)?;
            let mut sampler = borrow(sampler, brooklet_sampler::NAME)?.handle().write()?;
            let text = borrow(tokenizer, brooklet_tokenizer::NAME)?.handle().read()?;
            let stops = strings(options.stops, options.n_stop, "stops")?;
            let emit =
                emit.ok_or_else(|| Failure::new(brooklet_result::BROOKLET_NULL, "emit is NULL"))?;
            let to = optional_report(generated, size)?;
            let speculation = match options.speculation.is_null() {
                true => None,
                false => Some(borrow(options.speculation, brooklet_speculation::NAME)?),
            };
            let mut guesses = match speculation {
                Some(speculation) => Some(speculation.handle().write()?),
                None => None,
            };
            if own.rows == 0 {
                return Err(Failure::argument("the session has no logits: give it a prompt first"));
            }
            let limits = Limits::new(options.max_tokens)
                .stops(&stops)
                .ignore_end(options.ignore_end != 0)
                .without_logits(true);
            let (mut piece, mut stopped) = (Piece::default(), false);
            let give = |next: Text<'_>| {
                if !stopped {
                    let (pointer, length) = piece.set(next.text);
                    let token = next.token.unwrap_or(BROOKLET_NO_TOKEN);
                    stopped = emit(pointer, length, token, user) != 0;
                }
                let flow = if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
                Ok::<_, Failure>(flow)
            };
            let (session, guesses) = (&mut own.session, guesses.as_deref_mut());
            let ended = generate_with(session, &mut sampler, guesses, &text, &limits, give)?;
            own.rows = 1;
            let report = reported(&ended);
            if let Some(to) = to {
                to.write(report);
            }
            Ok(())
        })
    }
}

/// How a text ended, for C.
pub(crate) fn reported(ended: &Ended) -> brooklet_generated {
    let reason = match ended.reason {
        Reason::Length => BROOKLET_END_LENGTH,
        Reason::End => BROOKLET_END_OF_TEXT,
        Reason::Stop => BROOKLET_END_STOP,
        Reason::Grammar => BROOKLET_END_GRAMMAR,
        _ => BROOKLET_END_CANCELLED,
    };
    let pending = ended.pending.unwrap_or(BROOKLET_NO_TOKEN);
    brooklet_generated { tokens: ended.tokens as u64, reason, pending }
}
