//! The thread team: a leader and workers that stay hot for the length of a forward pass and do its
//! *stages* together.
//!
//! A stage is a closure and a number of *pieces*; it runs once for every piece, on whichever member
//! claims it ([`claims`]). [`Split`] says which units (tiles, heads, columns) belong to which
//! piece, and [`Shared`] hands out each piece's own part of a buffer: who computes a piece never
//! changes its bits. A stage is cut finer than there are members ([`Team::pieces`]), so that
//! whoever is faster does more, and nobody waits for a worker that the system has taken away
//! between two pieces.
//!
//! Workers spin between stages (a hand-over takes under a microsecond, waking a sleeping thread
//! 50–100 µs) and sleep after a bounded wait. No thread starts before the first stage that needs
//! one, and no more than there are processors this process may use. A process that forks has no
//! workers in the child; its leader does all by itself there.
//!
//! Tests: below; `tests/claims.rs` (every interleaving of the claims), `tests/threads.rs` and
//! `tests/sessions.rs` (many sessions on many threads); `benches/busy.py` (a busy machine).

mod claims;
mod governor;
mod share;
mod split;
mod sync;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::AtomicPtr;
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, Thread, available_parallelism};
use std::time::Instant;

use claims::{Claims, Stage};
use governor::Governor;
pub(crate) use share::{Segment, Segments, SegmentsShare, Share, Shared, Taken};
pub(crate) use split::{Split, lcm};
use sync::{Ordering, Patience, lock};

/// The most members a team may have.
pub(crate) const MAX_THREADS: usize = if cfg!(feature = "threads") { 64 } else { 1 };

/// The most pieces of a stage.
pub(crate) const MAX_PIECES: usize = 4 * MAX_THREADS;

/// The most pieces of a stage for each member: a quarter of a share is little to wait for.
const PIECES_EACH: usize = 4;

/// Bytes of weights that are worth a piece of their own: some 10 µs of a core. Claiming one costs
/// a hundredth of that.
const PIECE_BYTES: usize = 96 << 10;

/// A stage's closure, called with the number of a piece.
type Work<'a> = &'a (dyn Fn(usize) + Sync + 'a);

/// The state that leader and workers share.
struct Bridge {
    claims: Claims,
    /// The open stage's [`Work`], which stands on the leader's stack; valid from its opening until
    /// all its pieces are done.
    work: AtomicPtr<Work<'static>>,
    /// The payload of a piece that panicked.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A leader (the calling thread) and up to `threads - 1` workers.
pub(crate) struct Team {
    threads: usize,
    /// Members that there may be: `threads`, but no more than processors.
    members: usize,
    /// Of these, those that do the current pass.
    active: usize,
    governor: Governor,
    /// When the current pass began.
    begun: Option<Instant>,
    bridge: Arc<Bridge>,
    workers: Vec<(Thread, JoinHandle<()>)>,
    stage: Stage,
    patience: Patience,
    /// The process that the workers belong to.
    process: u32,
}

impl Team {
    /// A team of `threads` (clamped to 1..=[`MAX_THREADS`]), as far as there are processors for
    /// them; they start with the first stage.
    pub(crate) fn new(threads: usize) -> Team {
        Team::on(threads, available_parallelism().map_or(1, std::num::NonZero::get))
    }

    /// [`Team::new`] on a machine with that many `processors`.
    fn on(threads: usize, processors: usize) -> Team {
        let threads = threads.clamp(1, MAX_THREADS);
        let members = threads.min(processors);
        let bridge = Bridge {
            claims: Claims::new(members),
            work: AtomicPtr::default(),
            panic: Mutex::new(None),
        };
        Team {
            threads,
            members,
            active: members,
            governor: Governor::new(members),
            begun: None,
            bridge: Arc::new(bridge),
            workers: Vec::new(),
            stage: Stage::default(),
            patience: Patience::default(),
            process: process(),
        }
    }

    /// The most threads, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Into how many pieces to cut a stage that reads `bytes` of weights for each of `columns`
    /// columns: depends on how many threads were asked for, not on how many there are.
    pub(crate) fn pieces(&self, bytes: usize, columns: usize) -> usize {
        if self.threads == 1 {
            return 1;
        }
        // One column waits for memory; from the second on, a column costs a sixth of that.
        let work = bytes.saturating_mul(columns.saturating_add(5)) / 6;
        let each = (work / self.threads / PIECE_BYTES).clamp(1, PIECES_EACH);
        self.threads * each
    }

    /// Begins a forward pass over `columns` columns, which [`Team::end`] ends.
    ///
    /// Starts the workers if they are not running; the system may refuse some, and then there are
    /// fewer. How many take part in the pass is up to the [`Governor`].
    pub(crate) fn begin(&mut self, columns: usize) {
        if cfg!(not(feature = "threads")) || self.members == 1 {
            return;
        }
        if self.workers.len() + 1 < self.members {
            self.start();
        }
        self.active = self.governor.begin(columns).min(self.members);
        self.patience.take_lost();
        self.begun = Some(Instant::now());
    }

    /// Ends the pass.
    pub(crate) fn end(&mut self) {
        if let Some(begun) = self.begun.take() {
            self.governor.end(begun.elapsed(), self.patience.take_lost());
        }
    }

    /// Runs `work(piece)` once for every piece, and returns when all are done.
    ///
    /// A panic in any piece is carried to the caller after all are done.
    pub(crate) fn run(&mut self, pieces: usize, work: Work<'_>) {
        assert!(pieces <= MAX_PIECES);
        let members = self.active.min(pieces);
        if cfg!(not(feature = "threads")) || members <= 1 {
            return (0..pieces).for_each(work);
        }
        let bridge = &*self.bridge;
        // SAFETY: only the lifetime changes. A member follows this pointer between a claim of a
        // piece and `done`, and this function does not return or unwind before all are done.
        let erased = unsafe { std::mem::transmute::<&Work<'_>, &Work<'static>>(&work) };
        bridge.work.store(std::ptr::from_ref(erased).cast_mut(), Ordering::Relaxed);
        let wake = |member: usize| self.workers[member - 1].0.unpark();
        bridge.claims.open(&mut self.stage, members, pieces, wake);
        let mut own = 0;
        while let Some(piece) = bridge.claims.claim(0, self.stage) {
            bridge.run(piece);
            own += 1;
        }
        bridge.claims.join(own, &mut self.patience);
        if let Some(panic) = lock(&bridge.panic).take() {
            resume_unwind(panic);
        }
    }

    fn start(&mut self) {
        for member in 1..self.members {
            let bridge = Arc::clone(&self.bridge);
            let name = format!("brooklet-{member}");
            match std::thread::Builder::new().name(name).spawn(move || bridge.work(member)) {
                Ok(handle) => self.workers.push((handle.thread().clone(), handle)),
                // Fewer threads than asked for: the team shrinks; results do not depend on it.
                Err(error) => {
                    log::warn!("{member} threads instead of {}: {error}", self.members);
                    self.members = member;
                    self.governor = Governor::new(member);
                    break;
                }
            }
        }
    }
}

/// The number of this process; WebAssembly has none.
fn process() -> u32 {
    if cfg!(target_family = "wasm") { 0 } else { std::process::id() }
}

impl Drop for Team {
    fn drop(&mut self) {
        // Threads do not survive a fork: the child has nobody to wait for.
        if self.process != process() {
            return std::mem::take(&mut self.workers).into_iter().for_each(std::mem::forget);
        }
        self.bridge.claims.close(|member| self.workers[member - 1].0.unpark());
        for (_, handle) in self.workers.drain(..) {
            // A worker catches its panics, so joining cannot fail.
            let _ = handle.join();
        }
    }
}

impl Bridge {
    /// Does a piece that the caller has claimed.
    fn run(&self, piece: usize) {
        let work = self.work.load(Ordering::Relaxed);
        // SAFETY: the leader stored it before it opened the stage, which the claim has seen; it
        // stands on the leader's stack until all pieces are done, and this one is not yet.
        let run = || unsafe { (*work)(piece) };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            *lock(&self.panic) = Some(panic);
        }
    }

    /// A worker's life: wait for a stage, claim its pieces.
    fn work(&self, member: usize) {
        let (mut stage, mut patience) = (Stage::default(), Patience::default());
        while let Some(opened) = self.claims.wait(member, stage, &mut patience) {
            stage = opened;
            while let Some(piece) = self.claims.claim(member, stage) {
                self.run(piece);
                self.claims.done();
            }
        }
    }
}

#[cfg(all(test, feature = "threads"))]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::sync::LONGEST;
    use super::*;

    fn team(threads: usize) -> Team {
        let mut team = Team::on(threads, threads);
        team.begin(1);
        team
    }

    #[test]
    fn every_piece_of_every_stage_runs_once() {
        for threads in [1, 2, 3, 5] {
            let mut team = team(threads);
            for round in 0..300 {
                let pieces = 1 + round % (4 * threads);
                let counts: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
                team.run(pieces, &|piece| {
                    counts[piece].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
                if round % 100 == 50 {
                    std::thread::sleep(LONGEST * 2);
                }
            }
        }
    }

    #[test]
    fn nobody_waits_for_a_worker_that_does_not_come() {
        // One that has claimed a piece of the stage before and is held there; its own range of the
        // next stage would be the last two pieces.
        let mut team = Team::on(2, 2);
        let pieces: Vec<AtomicUsize> = (0..4).map(|_| AtomicUsize::new(0)).collect();
        // The threads have not started: the worker is as absent as can be.
        team.workers.clear();
        let thread = std::thread::current();
        let handle = std::thread::spawn(|| {});
        team.workers.push((thread, handle));
        team.run(4, &|piece| {
            pieces[piece].fetch_add(1, Ordering::Relaxed);
        });
        assert!(pieces.iter().all(|c| c.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn a_stage_is_cut_for_the_threads_asked_for_and_no_finer_than_pays() {
        let team = |threads, processors| Team::on(threads, processors);
        assert_eq!(team(1, 8).pieces(1 << 30, 64), 1);
        assert_eq!(team(2, 8).pieces(1000, 1), 2);
        assert_eq!(team(2, 8).pieces(1 << 30, 1), 2 * PIECES_EACH);
        assert_eq!(team(3, 1).pieces(1 << 30, 1), 3 * PIECES_EACH);
        assert!(team(2, 8).pieces(400 << 10, 1) < team(2, 8).pieces(400 << 10, 64));
        assert_eq!(team(1000, 1000).pieces(usize::MAX, 64), MAX_PIECES);
    }

    #[test]
    fn parts_are_disjoint_and_cover() {
        let mut buffer = vec![0u32; 3 * 100];
        let mut team = team(3);
        let shared = Shared::rows(&mut buffer, 100, 3, Split::new(90, 32, 7));
        team.run(7, &|piece| {
            let mut part = shared.take(piece);
            for c in part.columns() {
                part.column(c).iter_mut().for_each(|v| *v += 1);
            }
        });
        for (i, v) in buffer.iter().enumerate() {
            assert_eq!(*v, u32::from(i % 100 < 90));
        }
    }

    #[test]
    fn parts_of_segments_are_disjoint_and_cover() {
        let segment = |columns, len| Segment { columns, split: Split::new(len, 32, 7) };
        let segments = [segment(0..1, 90), segment(1..4, 100), segment(5..6, 20)];
        let mut team = team(3);
        for turned in [false, true] {
            // Two elements of the buffer for each of a split, and rows of 7 columns if turned.
            let (mut buffer, stride) = (vec![0u32; 6 * 200], if turned { 12 } else { 200 });
            let shared = match turned {
                false => Segments::rows(&mut buffer, stride, &segments, [1, 2]),
                true => Segments::turned(&mut buffer, stride, &segments, [1, 2]),
            };
            team.run(7, &|piece| {
                let mut parts = shared.take(piece);
                for i in 0..segments.len() {
                    let mut part = parts.segment(i);
                    for c in part.columns() {
                        part.column(c).iter_mut().for_each(|v| *v += 1);
                    }
                }
            });
            for (i, v) in buffer.iter().enumerate() {
                let (row, column) = match turned {
                    false => (i % stride / 2, i / stride),
                    true => (i / stride, i % stride / 2),
                };
                let of = segments.iter().find(|segment| segment.columns.contains(&column));
                let expected = of.is_some_and(|segment| row < segment.split.len());
                assert_eq!(*v, u32::from(expected), "{row} {column}");
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_survives() {
        let mut team = team(2);
        for falls in 0..4 {
            let done = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.run(4, &|piece| {
                    done.fetch_add(1, Ordering::Relaxed);
                    assert!(piece != falls, "a piece fell");
                });
            }));
            assert!(result.is_err());
            assert_eq!(done.load(Ordering::Relaxed), 4, "the others are done all the same");
        }
        team.run(4, &|_| {});
    }
}
