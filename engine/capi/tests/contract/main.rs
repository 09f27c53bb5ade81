//! Promises of the header, call by call: values, refusals, messages, callbacks, handles in every
//! order.

// These tests are C programs in Rust: their unsafe blocks are calls that keep what the header asks.
#![allow(clippy::undocumented_unsafe_blocks)]

mod border;
#[cfg_attr(not(feature = "chat"), allow(dead_code))]
mod chat;
#[cfg(all(unix, feature = "threads"))]
mod fork;
mod guesses;
mod models;
mod overwriting;
mod prefixes;
mod saving;
mod schedules;
mod states;
#[path = "../support/mod.rs"]
mod support;
mod words;

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{null, null_mut};

use support::capi::brooklet_result::*;
use support::capi::*;
use support::{
    c_path, demo, get, last_message, made, ok, open_demo, root, sampler_options, session_options,
    tokenizer_of,
};

fn info(model: *const brooklet_model) -> brooklet_model_info {
    let mut info = unsafe { std::mem::zeroed() };
    ok(unsafe { brooklet_model_get_info(model, &raw mut info, size_of::<brooklet_model_info>()) });
    info
}

/// Options that keep matrix states as f16.
fn half_states() -> Box<brooklet_model_options> {
    unsafe {
        let mut options = Box::new(std::mem::zeroed::<brooklet_model_options>());
        ok(brooklet_model_options_init(&raw mut *options, size_of::<brooklet_model_options>()));
        options.state = c"f16".as_ptr();
        options
    }
}

fn text(pointer: *const c_char) -> String {
    assert!(!pointer.is_null());
    unsafe { CStr::from_ptr(pointer) }.to_str().expect("UTF-8").to_owned()
}

/// Row 0 of a session's logits.
fn logits(session: *mut brooklet_session) -> Vec<f32> {
    let (mut logits, mut n) = (null(), 0);
    unsafe {
        ok(brooklet_session_logits(session, 0, &raw mut logits, &raw mut n));
        std::slice::from_raw_parts(logits, n).to_vec()
    }
}

fn position(session: *const brooklet_session) -> u64 {
    get(|to| unsafe { brooklet_session_position(session, to) })
}

fn prefill(session: *mut brooklet_session, tokens: &[u32]) -> brooklet_result {
    unsafe { brooklet_session_prefill(session, tokens.as_ptr(), tokens.len(), None, null_mut()) }
}

/// Ids of a text.
fn encode(tokenizer: *const brooklet_tokenizer, text: &str) -> Vec<u32> {
    let mut n = 0;
    unsafe {
        let (bytes, len) = (text.as_ptr().cast(), text.len());
        let mut ids = vec![0; len + 1];
        ok(brooklet_tokenizer_encode(
            tokenizer,
            bytes,
            len,
            ids.as_mut_ptr(),
            ids.len(),
            &raw mut n,
        ));
        ids.truncate(n);
        ids
    }
}

/// Stops after as many calls as `user` says, which counts down.
unsafe extern "C" fn stop_after(done: u64, total: u64, user: *mut c_void) -> i32 {
    assert!(done <= total);
    let left = unsafe { &mut *user.cast::<i32>() };
    *left -= 1;
    i32::from(*left <= 0)
}
