//! Sessions, in an order that bytes choose; for `sequence.rs`.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::null;

use super::capi::brooklet_result::*;
use super::capi::*;
use super::sequence::{World, check};

/// Counts down, and asks to stop at zero.
pub(super) unsafe extern "C" fn progress(_: u64, _: u64, user: *mut c_void) -> i32 {
    let left = unsafe { &mut *user.cast::<u32>() };
    *left = left.saturating_sub(1);
    i32::from(*left == 0)
}

unsafe extern "C" fn emit(text: *const c_char, length: usize, _: u32, user: *mut c_void) -> i32 {
    let text = unsafe { CStr::from_ptr(text) };
    assert!(text.count_bytes() <= length);
    unsafe { progress(0, 0, user) }
}

impl World<'_> {
    pub(super) unsafe fn use_a_session(&mut self) {
        let World { choice, tokenizers, samplers, states, sessions, guesses, .. } = self;
        let session = sessions.any(choice);
        unsafe {
            let tokens = choice.tokens();
            let n = if choice.one_in(12) { usize::MAX / 2 } else { tokens.len() };
            let mut left = choice.below(8) as u32;
            let user = (&raw mut left).cast();
            match choice.below(8) {
                0 => {
                    check(brooklet_session_prefill(
                        session,
                        tokens.as_ptr(),
                        n,
                        Some(progress),
                        user,
                    ));
                }
                1 => {
                    check(brooklet_session_step(
                        session,
                        tokens.first().copied().unwrap_or(u32::MAX),
                    ));
                }
                2 => {
                    let mut embedding = vec![0.125_f32; 512];
                    let (to, room, pool) =
                        (embedding.as_mut_ptr(), choice.below(513), choice.below(3) as u32);
                    let from = tokens.as_ptr();
                    let room = if choice.one_in(2) { 512 } else { room };
                    let result = brooklet_session_embed(
                        session,
                        from,
                        n,
                        pool,
                        to,
                        room,
                        Some(progress),
                        user,
                    );
                    assert!(
                        check(result) || embedding.iter().all(|&x| x == 0.125),
                        "written only on success"
                    );
                }
                3 => {
                    check(brooklet_session_reset(session));
                }
                4 => {
                    let runs: Vec<brooklet_run> = (0..choice.below(4))
                        .map(|_| {
                            let n =
                                if choice.one_in(20) { usize::MAX } else { tokens.len().min(4) };
                            let (state, want) = (states.any(choice), choice.below(9) as u32 % 4);
                            brooklet_run { state, tokens: tokens.as_ptr(), n, want, reserved: 0 }
                        })
                        .collect();
                    let result = brooklet_session_forward(session, runs.as_ptr(), runs.len());
                    let twice = (0..runs.len())
                        .any(|i| runs[..i].iter().any(|run| run.state == runs[i].state));
                    assert!(
                        result == BROOKLET_BUSY && twice || check(result) || result != BROOKLET_OK
                    );
                }
                5 => {
                    let mut options = std::mem::zeroed::<brooklet_generate_options>();
                    let size = size_of::<brooklet_generate_options>();
                    check(brooklet_generate_options_init(&raw mut options, size));
                    options.max_tokens =
                        if choice.one_in(9) { usize::MAX } else { choice.below(9) };
                    options.ignore_end = u32::from(choice.one_in(2));
                    if choice.one_in(3) {
                        options.speculation = guesses.any(choice);
                    }
                    let (sampler, tokenizer) = (samplers.any(choice), tokenizers.any(choice));
                    let emit: brooklet_emit = if choice.one_in(20) { None } else { Some(emit) };
                    let mut ended = std::mem::zeroed();
                    let (to, size) = (&raw mut ended, size_of::<brooklet_generated>());
                    let asked = &raw const options;
                    check(brooklet_session_generate(
                        session, sampler, tokenizer, asked, emit, user, to, size,
                    ));
                }
                6 => {
                    let (mut reach, back) = (0, choice.below(40));
                    if choice.one_in(3) {
                        check(brooklet_session_keep_rollback(session, back));
                    }
                    // The session may be NULL.
                    let is_one = check(brooklet_session_rollback_reach(session, &raw mut reach));
                    let back = if choice.one_in(9) { usize::MAX } else { back };
                    let is_back = check(brooklet_session_rollback(session, back));
                    assert!(is_back == (is_one && back <= reach), "{back} of {reach}");
                }
                _ => {}
            }
            let (mut logits, mut n, row) = (null(), 0, choice.below(5));
            if check(brooklet_session_logits(session, row, &raw mut logits, &raw mut n)) {
                let logits = std::slice::from_raw_parts(logits, n);
                assert!(!logits.is_empty());
                let mut token = 0;
                check(brooklet_sampler_sample(
                    samplers.any(choice),
                    logits.as_ptr(),
                    n,
                    &raw mut token,
                ));
            }
            let mut position = 0;
            check(brooklet_session_position(session, &raw mut position));
        }
    }
}
