//! Every interleaving of the team's barrier, by the model checker `loom`: no lost wake-up, no
//! deadlock, no data race.
//!
//! The file under test is the engine's own, compiled against loom's atomics and threads. Waiting is
//! made short here: a worker parks as soon as it finds no stage.

use std::rc::Rc;

use loom::cell::Cell;
use loom::thread;

#[path = "../engine/src/team/barrier.rs"]
mod barrier;

/// What the barrier is made of, under loom.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    pub(crate) use loom::thread::park;

    #[derive(Default)]
    pub(crate) struct Wait {}

    impl Wait {
        pub(crate) fn spin(&mut self) {
            loom::thread::yield_now();
        }

        pub(crate) fn is_long(&mut self) -> bool {
            true
        }
    }
}

/// What leader and workers share: the stage's input, and the output of each worker.
struct Desk {
    barrier: barrier::Barrier,
    input: Cell<usize>,
    output: Vec<Cell<usize>>,
}

/// A leader runs `stages` stages with `workers` workers; each worker must see each input, the
/// leader each output. Tries all orders that interrupt threads at most `preemptions` times where
/// they need not wait.
fn run(workers: usize, stages: usize, preemptions: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || {
        let desk = Rc::new(Desk {
            barrier: barrier::Barrier::new(workers),
            input: Cell::new(0),
            output: (0..workers).map(|_| Cell::new(0)).collect(),
        });
        let threads: Vec<_> = (0..workers)
            .map(|worker| {
                let desk = Rc::clone(&desk);
                thread::spawn(move || {
                    let mut seen = 0;
                    let mut done = 0;
                    while desk.barrier.wait(worker, &mut seen) {
                        desk.output[worker].set(10 * desk.input.get());
                        done += 1;
                        desk.barrier.done();
                    }
                    assert_eq!(done, stages);
                })
            })
            .collect();
        for stage in 1..=stages {
            desk.input.set(stage);
            desk.barrier.open(workers, |worker| threads[worker].thread().unpark());
            desk.barrier.join();
            for output in &desk.output {
                assert_eq!(output.get(), 10 * stage);
            }
        }
        desk.barrier.close();
        for thread in threads {
            thread.thread().unpark();
            thread.join().unwrap();
        }
    });
}

#[test]
fn one_worker() {
    run(1, 3, 3);
}

#[test]
fn two_workers() {
    run(2, 1, 2);
    run(2, 2, 1);
}
