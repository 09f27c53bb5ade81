//! When threads start: none before the first forward pass, none at all with one thread, never more
//! than processors. Linux counts them in /proc.

#![cfg(target_os = "linux")]

use std::path::Path;

use brooklet::{EngineOptions, Model, Session};

fn tasks() -> usize {
    std::fs::read_dir("/proc/self/task").expect("Linux").count()
}

// One test in this program, so that no other starts threads meanwhile.
#[test]
fn threads_start_with_the_first_pass() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/rwkv7-nano-int8.brk");
    let before = tasks();
    let model = Model::open(path).expect("the demo model");
    let tokenizer = model.tokenizer().expect("a tokenizer");
    let tokens = tokenizer.encode("Once upon a time").expect("tokens");
    let session = |threads| Session::new(&model, &EngineOptions::new().threads(threads).chunk(16));
    let (mut one, mut three) = (session(1), session(3));
    assert_eq!(tasks(), before, "opening, encoding, and making sessions");
    one.prefill(&tokens).expect("a prompt");
    assert_eq!(tasks(), before, "one thread is the caller's");
    three.prefill(&tokens).expect("a prompt");
    let processors = std::thread::available_parallelism().expect("Linux").get();
    let workers = 3.min(processors) - 1;
    assert_eq!(tasks(), before + workers, "one is the caller's, and each has a processor");
    drop(three);
    assert!(one.step(tokens[0]).is_ok());
}
