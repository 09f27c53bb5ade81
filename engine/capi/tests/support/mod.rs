//! Shared by the tests of the C interface: the interface itself, the models, and the lines that a
//! program would write around it.
//!
//! The library makes no Rust library (its name is the engine's), so its sources are a module here;
//! so the tests count its allocations and a fuzz target sees its branches. The library as it is
//! shipped: `programs.rs`.

#![allow(dead_code, unreachable_pub, clippy::undocumented_unsafe_blocks)]

#[path = "../../src/lib.rs"]
#[allow(unused_imports)]
pub mod capi;
mod choice;
pub mod sequence;
mod sequence_saving;
mod sequence_session;
mod sequence_texts;
mod sequence_words;

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};

use capi::*;

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The demo model: RWKV-7 with a tokenizer of its own.
pub fn demo() -> PathBuf {
    root().join("models/rwkv7-nano-int8.brk")
}

/// A path as C has it.
pub fn c_path(path: &Path) -> CString {
    CString::new(path.to_str().expect("a path of UTF-8")).expect("a path without zeros")
}

/// The message of the last failure.
pub fn last_message() -> String {
    unsafe { CStr::from_ptr(brooklet_last_message()) }.to_string_lossy().into_owned()
}

/// Calls a function that writes one value, which must succeed.
#[track_caller]
pub fn get<T: Default>(call: impl FnOnce(*mut T) -> brooklet_result) -> T {
    let mut value = T::default();
    let result = call(&raw mut value);
    assert_eq!(result, brooklet_result::BROOKLET_OK, "{}", last_message());
    value
}

/// Calls a function that makes a handle, which must succeed.
#[track_caller]
pub fn made<T>(call: impl FnOnce(*mut *mut T) -> brooklet_result) -> *mut T {
    let mut handle = std::ptr::null_mut();
    ok(call(&raw mut handle));
    assert!(!handle.is_null());
    handle
}

/// A call that must succeed.
#[track_caller]
pub fn ok(result: brooklet_result) {
    assert_eq!(result, brooklet_result::BROOKLET_OK, "{}", last_message());
}

/// The demo model, opened.
pub fn open_demo() -> *mut brooklet_model {
    let path = c_path(&demo());
    made(|model| unsafe { brooklet_model_open(path.as_ptr(), std::ptr::null(), model) })
}

/// A tokenizer for the demo model: its own, or bytes in a build that cannot read that.
pub fn tokenizer_of(model: *const brooklet_model) -> *mut brooklet_tokenizer {
    if cfg!(feature = "huggingface") {
        return made(|to| unsafe { brooklet_tokenizer_of_model(model, to) });
    }
    made(|to| unsafe { brooklet_tokenizer_new(c"bytes".as_ptr(), std::ptr::null(), 0, to) })
}

/// Session options with this many threads and tokens a pass.
pub fn session_options(threads: u32, chunk: u32, rows: u32) -> brooklet_session_options {
    let mut options = std::mem::MaybeUninit::uninit();
    ok(unsafe {
        brooklet_session_options_init(options.as_mut_ptr(), size_of::<brooklet_session_options>())
    });
    brooklet_session_options { threads, chunk, rows, ..unsafe { options.assume_init() } }
}

/// Sampler options with this temperature and seed.
pub fn sampler_options(temperature: f32, seed: u64) -> brooklet_sampler_options {
    let mut options = std::mem::MaybeUninit::uninit();
    ok(unsafe {
        brooklet_sampler_options_init(options.as_mut_ptr(), size_of::<brooklet_sampler_options>())
    });
    brooklet_sampler_options { temperature, seed, has_seed: 1, ..unsafe { options.assume_init() } }
}
