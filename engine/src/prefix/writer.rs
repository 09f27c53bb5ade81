//! Copies of states on their way to a folder: a thread writes them, so that nobody who reads or
//! writes a text waits for a disk.
//!
//! The queue is bounded: where a disk is slower than copies come, some are left out, and the next
//! process reads their texts again. Dropped, it writes what waits. Test: below, `tests/prefix.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use super::folder::Place;
use crate::snapshot::Snapshot;

/// Bytes of copies that may wait, unless one alone has more.
const WAITING: usize = 64 << 20;

enum Order {
    Write {
        name: String,
        copy: Box<Snapshot>,
        bytes: usize,
    },
    /// Answers when all before it is done.
    Flush(Sender<()>),
}

/// The thread, which begins with the first copy.
pub(super) struct Writer {
    place: Arc<Place>,
    thread: Option<(Sender<Order>, JoinHandle<()>)>,
    /// Bytes that wait.
    waiting: Arc<AtomicUsize>,
}

impl Writer {
    pub(super) fn new(place: Arc<Place>) -> Writer {
        Writer { place, thread: None, waiting: Arc::default() }
    }

    /// Writes a copy some time from now. Whether it will: too much may wait.
    pub(super) fn write(&mut self, name: String, copy: Snapshot) -> bool {
        let bytes = size(&copy);
        let waiting = self.waiting.load(Ordering::Relaxed);
        if waiting > 0 && waiting.saturating_add(bytes) > WAITING {
            log::debug!("{name}: left out, {waiting} bytes wait to be written");
            return false;
        }
        if self.thread.is_none() {
            self.begin();
        }
        let Some((orders, _)) = &self.thread else {
            // A system without threads.
            self.place.write(&name, &copy);
            return true;
        };
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
        orders.send(Order::Write { name, copy: Box::new(copy), bytes }).is_ok()
    }

    fn begin(&mut self) {
        let (orders, ordered) = channel();
        let (place, waiting) = (self.place.clone(), self.waiting.clone());
        let work = move || {
            for order in ordered {
                match order {
                    Order::Write { name, copy, bytes } => {
                        place.write(&name, &copy);
                        waiting.fetch_sub(bytes, Ordering::Relaxed);
                    }
                    // Whoever asked may have gone.
                    Order::Flush(done) => drop(done.send(())),
                }
            }
        };
        let thread = std::thread::Builder::new().name("brooklet-prefix".to_owned()).spawn(work);
        self.thread = thread.ok().map(|thread| (orders, thread));
    }

    /// Waits until everything is written that was to be.
    pub(super) fn flush(&self) {
        let Some((orders, _)) = &self.thread else { return };
        let (done, wait) = channel();
        if orders.send(Order::Flush(done)).is_ok() {
            // A thread that is gone has nothing left to write.
            let _ = wait.recv();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some((orders, thread)) = self.thread.take() {
            drop(orders);
            // One that panicked has written nothing by halves.
            let _ = thread.join();
        }
    }
}

/// Bytes of a copy.
fn size(copy: &Snapshot) -> usize {
    let Snapshot { state, logits, tail, .. } = copy;
    let pages: usize = state.pages().map(|(_, bytes)| bytes).sum();
    state.fixed_bytes() + pages + size_of_val(&logits[..]) + size_of_val(&tail[..])
}
