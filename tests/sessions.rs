//! Many sessions of one model on many threads, each with workers of its own: none disturbs
//! another's results.
//!
//! More threads than processors, so that workers park, are woken late and give their core away in
//! the middle of stages. Not here: the claims themselves (`claims.rs`).

use std::path::Path;
use std::sync::Mutex;

use brooklet::{EngineOptions, Model, Session, State};
use brooklet_tests::{bits, some_tokens};

const THREADS: usize = 8;
const ROUNDS: usize = 12;

fn session(model: &Model, threads: usize, chunk: usize) -> Session {
    Session::new(model, &EngineOptions::new().threads(threads).chunk(chunk).logits(1))
}

#[test]
fn many_sessions_on_many_threads() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/rwkv7-nano-int8.brk");
    let model = Model::open(path).expect("the demo model");
    let prompts: Vec<_> = (0..THREADS).map(|i| some_tokens(&model, 20 + 3 * i, i)).collect();
    let next = some_tokens(&model, 4, 99);
    // The logits after each prompt and its tokens, alone and on one thread.
    let expected: Vec<_> = prompts
        .iter()
        .map(|prompt| {
            let mut alone = session(&model, 1, 64);
            let first = bits(alone.prefill(prompt).expect("a prompt"));
            let state = alone.state().clone();
            let rest: Vec<_> = next.iter().map(|t| bits(alone.step(*t).expect("a step"))).collect();
            (first, state, rest)
        })
        .collect();

    // States wander from thread to thread: each round leaves one here, and goes on from one that
    // another thread left.
    let left: Mutex<Vec<(usize, State)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (model, prompts, next, expected, left) =
                (&model, &prompts, &next, &expected, &left);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let which = (thread + 3 * round) % THREADS;
                    let (first, state, rest) = &expected[which];
                    let mut own = session(model, 1 + (thread + round) % 3, [7, 16, 64][round % 3]);
                    assert!(bits(own.prefill(&prompts[which]).expect("a prompt")) == *first);
                    assert!(own.state() == state);
                    if round % 4 == 3 {
                        // Longer than a worker spins: it has parked when the next stage comes.
                        std::thread::sleep(std::time::Duration::from_millis(2));
                    }
                    let mut states = left.lock().expect("no thread panicked");
                    states.push((which, own.state().clone()));
                    let at = (round * 5 + thread) % states.len();
                    let (which, state) = states.swap_remove(at);
                    drop(states);
                    own.set_state(state).expect("a state of this model");
                    for (token, rest) in next.iter().zip(&expected[which].2) {
                        assert!(bits(own.step(*token).expect("a step")) == *rest, "prompt {which}");
                    }
                    assert_eq!(rest.len(), next.len());
                }
            });
        }
    });
}

#[test]
fn logits_that_somebody_looks_at_stay() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/rwkv7-nano-int8.brk");
    let model = Model::open(path).expect("the demo model");
    let mut own = session(&model, 1, 64);
    let first = bits(own.prefill(&[1, 2, 3]).expect("a prompt"));
    let place = own.logits().as_ptr();
    let mut shown = own.new_logits();
    assert!(own.exchange_logits(&mut shown) && !own.has_logits());
    let second = bits(own.step(4).expect("a step"));
    assert!(own.has_logits() && own.logits().as_ptr() != place);
    assert!(shown.row(0).as_ptr() == place && bits(shown.row(0)) == first && first != second);
    // Memory of another size is not taken.
    let wide = Session::new(&model, &EngineOptions::new().logits(2));
    assert!(!own.exchange_logits(&mut wide.new_logits()));
    assert!(own.has_logits() && bits(own.logits()) == second);
}
