//! Through the C interface too: once a session has made its first pass, a token allocates nothing.

// A C program in Rust: its unsafe blocks are calls that keep what the header asks.
#![allow(clippy::undocumented_unsafe_blocks)]

#[path = "support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{c_char, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::capi::*;
use support::{get, made, ok, open_demo, sampler_options, session_options, tokenizer_of};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations() -> usize {
    ALLOCATIONS.load(Ordering::Relaxed)
}

/// Counts allocations from the 20th token on.
unsafe extern "C" fn count(_: *const c_char, _: usize, token: u32, user: *mut c_void) -> i32 {
    let counts = unsafe { &mut *user.cast::<Counts>() };
    counts.tokens += usize::from(token != BROOKLET_NO_TOKEN);
    match counts.tokens {
        20 => counts.early = allocations(),
        60 => counts.late = allocations(),
        _ => {}
    }
    0
}

#[derive(Default)]
struct Counts {
    tokens: usize,
    early: usize,
    late: usize,
}

#[test]
fn a_token_allocates_nothing() {
    for threads in [1, if cfg!(feature = "threads") { 2 } else { 1 }] {
        unsafe {
            let model = open_demo();
            let tokenizer = tokenizer_of(model);
            let decoder = made(|to| brooklet_decoder_new(tokenizer, 1, null_mut(), 0, to));
            let mut options = sampler_options(0.8, 1);
            (options.top_k, options.repetition_penalty, options.penalty_window) = (40, 1.1, 64);
            let mut info = std::mem::zeroed();
            ok(brooklet_model_get_info(model, &raw mut info, size_of::<brooklet_model_info>()));
            let sampler =
                made(|to| brooklet_sampler_new(&raw const options, info.n_vocab as usize, to));
            let session =
                made(|to| brooklet_session_new(model, &session_options(threads, 32, 8), to));
            let (one, two) = (
                made(|to| brooklet_state_new(model, to)),
                made(|to| brooklet_state_new(model, to)),
            );
            let prompt: Vec<u32> = (0..100).map(|i| i % 250).collect();
            let run = |state, want| brooklet_run {
                state,
                tokens: prompt.as_ptr(),
                n: 4,
                want,
                reserved: 0,
            };

            let round = || {
                ok(brooklet_session_prefill(
                    session,
                    prompt.as_ptr(),
                    prompt.len(),
                    None,
                    null_mut(),
                ));
                for _ in 0..20 {
                    let (mut logits, mut n) = (std::ptr::null(), 0);
                    ok(brooklet_session_logits(session, 0, &raw mut logits, &raw mut n));
                    let token = get(|token| brooklet_sampler_sample(sampler, logits, n, token));
                    ok(brooklet_sampler_accept(sampler, token));
                    let (mut text, mut length) = (std::ptr::null(), 0);
                    ok(brooklet_decoder_push(
                        decoder,
                        token,
                        &raw mut text,
                        &raw mut length,
                        null_mut(),
                    ));
                    ok(brooklet_session_step(session, token));
                }
                let runs = [run(one, BROOKLET_WANT_ALL), run(two, BROOKLET_WANT_LAST)];
                ok(brooklet_session_forward(session, runs.as_ptr(), runs.len()));
                ok(brooklet_session_swap_state(session, one));
                ok(brooklet_session_reset(session));
            };
            // The first passes start the threads and bring the buffers of text to their size.
            round();
            round();
            let before = allocations();
            round();
            assert_eq!(allocations() - before, 0, "{threads} threads");

            ok(brooklet_session_step(session, 1));
            let mut counts = Counts::default();
            let mut options = std::mem::zeroed();
            ok(brooklet_generate_options_init(
                &raw mut options,
                size_of::<brooklet_generate_options>(),
            ));
            (options.max_tokens, options.ignore_end) = (64, 1);
            let user = (&raw mut counts).cast();
            let size = size_of::<brooklet_generated>();
            ok(brooklet_session_generate(
                session,
                sampler,
                tokenizer,
                &raw const options,
                Some(count),
                user,
                null_mut(),
                size,
            ));
            assert!(
                counts.early > 0 && counts.late == counts.early,
                "{} allocations",
                counts.late - counts.early
            );

            brooklet_decoder_free(decoder);
            brooklet_tokenizer_free(tokenizer);
            brooklet_sampler_free(sampler);
            brooklet_session_free(session);
            brooklet_state_free(one);
            brooklet_state_free(two);
            brooklet_model_free(model);
        }
    }
}
