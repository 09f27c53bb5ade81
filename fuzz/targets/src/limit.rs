//! The system's allocator, which ends the program at a request that no small file justifies.
//!
//! libFuzzer's own `-malloc_limit_mb` needs a sanitizer's allocator; this one works on any
//! toolchain, and in `cargo test`. Memory in all is bounded by `-rss_limit_mb`. Test:
//! `tests/corpus.rs` runs under it.

use std::alloc::{GlobalAlloc, Layout, System};

/// The largest request. The largest legal one: a session of the C sequences with 983295 tokens in a
/// pass.
const MOST: usize = 1 << 29;

struct Limited;

#[global_allocator]
static ALLOCATOR: Limited = Limited;

fn check(size: usize) {
    if size > MOST {
        eprintln!("an allocation of {size} bytes");
        std::process::abort();
    }
}

// SAFETY: every call goes to `System` unchanged, or does not return.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check(size);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}
