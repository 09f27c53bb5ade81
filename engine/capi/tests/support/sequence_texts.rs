//! Schedulers, prefix caches, guesses and horizons, in an order that bytes choose; for
//! `sequence.rs`.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::{null, null_mut};

use super::capi::brooklet_result::*;
use super::capi::*;
use super::sequence::{World, check};

/// Passes of a scheduler one after the other, at most.
const PASSES: usize = 30;

/// Counts down, and asks to stop at zero.
unsafe extern "C" fn tell(
    ticket: u64,
    text: *const c_char,
    length: usize,
    _: u32,
    ended: *const brooklet_generated,
    user: *mut c_void,
) -> i32 {
    assert!(ticket > 0);
    assert!(unsafe { CStr::from_ptr(text) }.count_bytes() <= length);
    if let Some(ended) = unsafe { ended.as_ref() } {
        assert!(ended.reason <= BROOKLET_END_FAILED);
    }
    let left = unsafe { &mut *user.cast::<u32>() };
    *left = left.saturating_sub(1);
    i32::from(*left == 0)
}

impl World<'_> {
    pub(super) unsafe fn use_a_scheduler(&mut self) {
        let World { choice, models, tokenizers, samplers, schedulers, .. } = self;
        unsafe {
            let scheduler = schedulers.any(choice);
            match choice.below(6) {
                0 => {
                    let mut options: brooklet_scheduler_options = std::mem::zeroed();
                    let size = choice.length(size_of_val(&options)).min(size_of_val(&options));
                    check(brooklet_scheduler_options_init(&raw mut options, size));
                    options.parallel = choice.below(5) as u32;
                    options.cache_bytes = u64::from(choice.word() % 200_000);
                    let options = if choice.one_in(3) { null() } else { &raw const options };
                    let (model, tokenizer) = (models.any(choice), tokenizers.any(choice));
                    schedulers.add(choice, brooklet_scheduler_free, |to| {
                        brooklet_scheduler_new(model, tokenizer, null(), options, to)
                    });
                }
                1 | 2 => {
                    let tokens = choice.tokens();
                    let n = if choice.one_in(12) { usize::MAX / 2 } else { tokens.len() };
                    let mut options: brooklet_generate_options = std::mem::zeroed();
                    let size = size_of::<brooklet_generate_options>();
                    check(brooklet_generate_options_init(&raw mut options, size));
                    options.max_tokens = choice.below(12);
                    options.ignore_end = u32::from(choice.one_in(2));
                    let stops = [c"a".as_ptr(), c"the".as_ptr()];
                    (options.stops, options.n_stop) = (stops.as_ptr(), choice.below(3));
                    let (sampler, mut ticket) = (samplers.any(choice), 0);
                    let is_taken = check(brooklet_scheduler_submit(
                        scheduler,
                        tokens.as_ptr(),
                        n,
                        sampler,
                        &raw const options,
                        &raw mut ticket,
                    ));
                    assert_eq!(is_taken, ticket > 0, "written only on success");
                }
                3 => {
                    let mut was = 7;
                    let ticket = choice.below(9) as u64;
                    if check(brooklet_scheduler_cancel(scheduler, ticket, &raw mut was)) {
                        assert!(was <= 1);
                    }
                }
                _ => {
                    let mut left = choice.below(20) as u32;
                    let user = (&raw mut left).cast();
                    let mut len = 0;
                    for _ in 0..choice.below(PASSES) {
                        if !check(brooklet_scheduler_step(scheduler, Some(tell), user)) {
                            break;
                        }
                        check(brooklet_scheduler_len(scheduler, &raw mut len));
                    }
                }
            }
        }
    }

    pub(super) unsafe fn use_a_cache(&mut self) {
        let World { choice, models, sessions, caches, .. } = self;
        unsafe {
            let cache = caches.any(choice);
            match choice.below(4) {
                0 => {
                    let mut options: brooklet_prefix_cache_options = std::mem::zeroed();
                    let size = size_of::<brooklet_prefix_cache_options>();
                    check(brooklet_prefix_cache_options_init(&raw mut options, size));
                    options.bytes = u64::from(choice.word() % 2_000_000);
                    options.interval = choice.below(9) as u32;
                    let model = models.any(choice);
                    caches.add(choice, brooklet_prefix_cache_free, |to| {
                        brooklet_prefix_cache_new(model, &raw const options, to)
                    });
                }
                _ => {
                    let (tokens, session) = (choice.tokens(), sessions.any(choice));
                    let borders = [choice.below(9), choice.below(30)];
                    let mut reading: brooklet_reading = std::mem::zeroed();
                    let size = choice.length(size_of::<brooklet_reading>());
                    let size = size.min(size_of::<brooklet_reading>());
                    check(brooklet_prefix_cache_prefill(
                        cache,
                        session,
                        tokens.as_ptr(),
                        tokens.len(),
                        borders.as_ptr(),
                        choice.below(3),
                        None,
                        null_mut(),
                        &raw mut reading,
                        size,
                    ));
                    if choice.one_in(3) {
                        check(brooklet_prefix_cache_keep(
                            cache,
                            session,
                            tokens.as_ptr(),
                            tokens.len(),
                        ));
                    }
                }
            }
            // A new one may have taken the place of that one.
            let (cache, mut bytes) = (caches.any(choice), 0);
            check(brooklet_prefix_cache_bytes(cache, &raw mut bytes));
        }
    }

    pub(super) unsafe fn use_guesses(&mut self) {
        let World { choice, models, sessions, guesses, .. } = self;
        unsafe {
            let some = guesses.any(choice);
            match choice.below(5) {
                0 => {
                    let n = choice.below(17) as u32;
                    guesses.add(choice, brooklet_speculation_free, |to| {
                        brooklet_speculation_lookup(n, to)
                    });
                }
                1 => {
                    let (draft, model, n) =
                        (models.any(choice), models.any(choice), choice.below(17) as u32);
                    guesses.add(choice, brooklet_speculation_free, |to| {
                        brooklet_speculation_draft(draft, model, null(), n, to)
                    });
                }
                2 => {
                    // One with itself is BROOKLET_BUSY.
                    let other = guesses.any(choice);
                    if other != some {
                        check(brooklet_speculation_add(some, other));
                    }
                }
                3 => {
                    let tokens = choice.tokens();
                    check(brooklet_speculation_begin(some, tokens.as_ptr(), tokens.len()));
                }
                _ => {
                    let renewal = [0, 128, 64, u64::MAX, 256][choice.below(5)];
                    let (session, retention) = (sessions.any(choice), choice.float());
                    let result = brooklet_session_keep_within(session, retention, renewal);
                    if check(result) {
                        assert!(retention > 0.0 && retention <= 1.0);
                    } else {
                        assert!(matches!(result, BROOKLET_ARGUMENT | BROOKLET_NULL));
                    }
                }
            }
        }
    }
}
