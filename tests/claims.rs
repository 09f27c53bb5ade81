//! Every interleaving of the team's claims, by the model checker `loom`: each piece is done once,
//! the leader sees what all pieces wrote, no wake-up is lost, nobody waits for ever.
//!
//! The file under test is the engine's own, compiled against loom's atomics and threads. Waiting is
//! made short here: a thread sleeps as soon as it finds nothing to do.

#![cfg(target_pointer_width = "64")]

use std::rc::Rc;

use loom::cell::Cell;
use loom::thread;

#[path = "../engine/src/team/claims.rs"]
mod claims;

use claims::{Claims, Stage};
use sync::Patience;

/// The atomics and locks of the claims, under loom.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
    use loom::sync::{Condvar, Mutex};
    pub(crate) use loom::thread::park;

    #[derive(Default)]
    pub(crate) struct Bell {
        rings: Mutex<()>,
        heard: Condvar,
    }

    impl Bell {
        pub(crate) fn wait_while(&self, condition: impl Fn() -> bool) {
            let mut guard = self.rings.lock().expect("nobody panics with it");
            while condition() {
                guard = self.heard.wait(guard).expect("nobody panics with it");
            }
        }

        pub(crate) fn ring(&self) {
            drop(self.rings.lock().expect("nobody panics with it"));
            self.heard.notify_one();
        }
    }

    #[derive(Default)]
    pub(crate) struct Patience;

    impl Patience {
        pub(crate) fn wait(&self) -> Wait {
            Wait
        }

        pub(crate) fn learn(&mut self, _: Wait) {}
    }

    pub(crate) struct Wait;

    impl Wait {
        pub(crate) fn spin(&mut self) {
            loom::thread::yield_now();
        }

        pub(crate) fn is_long(&mut self) -> bool {
            true
        }
    }
}

/// The memory that the members share: the stage's input, and the output of each piece.
struct Desk {
    claims: Claims,
    input: Cell<usize>,
    output: Vec<Cell<usize>>,
}

impl Desk {
    /// Does the pieces of `stage` that `member` gets, and says so of each by `done`.
    fn work(&self, member: usize, stage: Stage, mut done: impl FnMut()) {
        while let Some(piece) = self.claims.claim(member, stage) {
            let before = self.output[piece].replace(10 * self.input.get());
            assert_ne!(before, 10 * self.input.get(), "a piece is done once");
            done();
        }
    }
}

/// A leader runs `stages` stages of `pieces` pieces with `workers` workers. Tries all orders that
/// interrupt threads at most `preemptions` times where they need not wait.
fn run(workers: usize, pieces: usize, stages: usize, preemptions: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || {
        let desk = Rc::new(Desk {
            claims: Claims::new(workers + 1),
            input: Cell::new(0),
            output: (0..pieces).map(|_| Cell::new(0)).collect(),
        });
        let threads: Vec<_> = (1..=workers)
            .map(|member| {
                let desk = Rc::clone(&desk);
                thread::spawn(move || {
                    let (mut stage, mut patience) = (Stage::default(), Patience);
                    while let Some(opened) = desk.claims.wait(member, stage, &mut patience) {
                        stage = opened;
                        desk.work(member, stage, || desk.claims.done());
                    }
                })
            })
            .collect();
        let wake = |member: usize| threads[member - 1].thread().unpark();
        let mut stage = Stage::default();
        for input in 1..=stages {
            desk.input.set(input);
            desk.claims.open(&mut stage, workers + 1, pieces, wake);
            let mut own = 0;
            desk.work(0, stage, || own += 1);
            desk.claims.join(own, &mut Patience);
            for output in &desk.output {
                assert_eq!(output.get(), 10 * input);
            }
        }
        desk.claims.close(wake);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
#[cfg_attr(
    all(windows, target_env = "gnu"),
    ignore = "the checker's coroutines cannot unwind there"
)]
fn one_worker() {
    run(1, 3, 2, 2);
}

#[test]
#[cfg_attr(
    all(windows, target_env = "gnu"),
    ignore = "the checker's coroutines cannot unwind there"
)]
fn two_workers() {
    run(2, 3, 1, 1);
}
