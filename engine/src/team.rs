//! The thread team: workers that stay hot for the length of a forward pass and take *stages* from a spinning barrier.
//!
//! A stage is a closure that every worker runs with its own index; [`Split`] says which units (tiles, heads, columns)
//! belong to which worker, and [`Shared`] hands each worker its own part of a buffer. Workers spin between stages (a
//! hand-over takes under a microsecond, waking a parked thread 50–100 µs) and park after a bounded wait. No thread
//! starts before the first stage that needs one. Tests: below; the stress test is `tests/team.rs`.

use brooklet_formats::quant::TILE_ROWS;
use std::any::Any;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// The most workers a team may have.
pub(crate) const MAX_THREADS: usize = if cfg!(feature = "threads") { 64 } else { 1 };

/// How long an idle worker spins before it parks: longer than the pause between two tokens.
const SPIN_TIME: Duration = Duration::from_micros(500);

/// A stage with its lifetime erased; valid while [`Team::run`] waits for the workers.
#[derive(Clone, Copy)]
struct Stage(*const (dyn Fn(usize) + Sync));

// SAFETY: the closure behind the pointer is `Sync`, and `Team::run` keeps it alive until every worker is done.
unsafe impl Send for Stage {}

/// One cache line to itself, so that spinning on it disturbs nothing else.
#[repr(align(128))]
#[derive(Default)]
struct Line<T>(T);

struct Bridge {
    /// Counts stages; a change tells the workers that `stage` is new.
    epoch: Line<AtomicUsize>,
    /// Workers that have not finished the current stage.
    busy: Line<AtomicUsize>,
    /// Written by the leader before it advances `epoch`.
    stage: Mutex<Option<Stage>>,
    /// Set by a worker that is about to park.
    parked: Vec<AtomicBool>,
    exit: AtomicBool,
    /// What a worker's stage panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A leader (the calling thread) and `threads - 1` workers.
pub(crate) struct Team {
    threads: usize,
    bridge: Arc<Bridge>,
    workers: Vec<(Thread, JoinHandle<()>)>,
}

impl Team {
    /// A team of `threads` (clamped to 1..=[`MAX_THREADS`]); its threads start with the first stage.
    pub(crate) fn new(threads: usize) -> Team {
        let threads = threads.clamp(1, MAX_THREADS);
        let bridge = Bridge {
            epoch: Line::default(),
            busy: Line::default(),
            stage: Mutex::new(None),
            parked: (1..threads).map(|_| AtomicBool::new(false)).collect(),
            exit: AtomicBool::new(false),
            panic: Mutex::new(None),
        };
        Team { threads, bridge: Arc::new(bridge), workers: Vec::new() }
    }

    /// Number of threads, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Starts the workers if they are not running; the system may refuse some, and then the team is smaller.
    ///
    /// Called once before the stages of a forward pass are split, since splits depend on [`Team::threads`].
    pub(crate) fn prepare(&mut self) {
        if cfg!(feature = "threads") && self.workers.len() + 1 < self.threads {
            self.start();
        }
    }

    /// Runs `stage(worker)` once for every worker, worker 0 on the calling thread, and returns when all are done.
    ///
    /// A panic in any worker is carried to the caller after all have stopped.
    pub(crate) fn run(&mut self, stage: &(dyn Fn(usize) + Sync)) {
        if cfg!(not(feature = "threads")) || self.threads == 1 {
            return stage(0);
        }
        let bridge = &*self.bridge;
        // SAFETY: only the lifetime changes. Every worker drops the pointer before it lowers `busy`, and this function
        // does not return or unwind before `busy` is zero (`Join` waits in its drop).
        let erased = Stage(unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync + 'static)>(
                stage,
            )
        });
        *lock(&bridge.stage) = Some(erased);
        bridge.busy.0.store(self.threads - 1, Ordering::Relaxed);
        bridge.epoch.0.fetch_add(1, Ordering::SeqCst);
        for (parked, (thread, _)) in bridge.parked.iter().zip(&self.workers) {
            if parked.load(Ordering::SeqCst) {
                thread.unpark();
            }
        }
        let join = Join(bridge);
        stage(0);
        drop(join);
        if let Some(panic) = lock(&bridge.panic).take() {
            resume_unwind(panic);
        }
    }

    fn start(&mut self) {
        for index in 1..self.threads {
            let bridge = Arc::clone(&self.bridge);
            let name = format!("brooklet-{index}");
            match std::thread::Builder::new().name(name).spawn(move || work(&bridge, index)) {
                Ok(handle) => self.workers.push((handle.thread().clone(), handle)),
                // Fewer threads than asked for: the team shrinks; results do not depend on its size.
                Err(error) => {
                    log::warn!("{index} threads instead of {}: {error}", self.threads);
                    self.threads = index;
                    break;
                }
            }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.bridge.exit.store(true, Ordering::SeqCst);
        self.bridge.epoch.0.fetch_add(1, Ordering::SeqCst);
        for (thread, handle) in self.workers.drain(..) {
            thread.unpark();
            // A worker catches its panics, so joining cannot fail.
            let _ = handle.join();
        }
    }
}

/// Waits, when dropped, until every worker has finished the stage.
struct Join<'a>(&'a Bridge);

impl Drop for Join<'_> {
    fn drop(&mut self) {
        let mut spins = 0u32;
        while self.0.busy.0.load(Ordering::Acquire) != 0 {
            spin(&mut spins);
        }
    }
}

/// Turns of a wait before it gives its core away at times: some 20 µs, longer than a well-balanced stage makes one wait.
const PURE_SPINS: u32 = 1024;

/// One turn of a spinning wait. A long one yields now and then, for machines with fewer free cores than threads.
#[inline]
fn spin(spins: &mut u32) {
    *spins = spins.saturating_add(1);
    if *spins > PURE_SPINS && spins.is_multiple_of(64) {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A worker's life: wait for a new epoch, run its stage, report.
fn work(bridge: &Bridge, index: usize) {
    let mut seen = 0;
    loop {
        seen = wait_for_epoch(bridge, index, seen);
        if bridge.exit.load(Ordering::SeqCst) {
            return;
        }
        let stage = *lock(&bridge.stage);
        if let Some(stage) = stage {
            // SAFETY: the leader keeps the closure alive until `busy` reaches zero, which needs the decrement below.
            let run = || unsafe { (*stage.0)(index) };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
                *lock(&bridge.panic) = Some(panic);
            }
        }
        bridge.busy.0.fetch_sub(1, Ordering::Release);
    }
}

/// Spins until the epoch differs from `seen`, parks when that takes longer than [`SPIN_TIME`]; returns the new epoch.
fn wait_for_epoch(bridge: &Bridge, index: usize, seen: usize) -> usize {
    let mut spins = 0u32;
    let mut since: Option<Instant> = None;
    loop {
        let epoch = bridge.epoch.0.load(Ordering::Acquire);
        if epoch != seen {
            return epoch;
        }
        spin(&mut spins);
        if spins.is_multiple_of(1024) && since.get_or_insert_with(Instant::now).elapsed() > SPIN_TIME {
            let parked = &bridge.parked[index - 1];
            // A swap: emulators of processors with weaker ordering let the load below overtake a mere store, and the leader
            // would wake nobody.
            parked.swap(true, Ordering::SeqCst);
            while bridge.epoch.0.load(Ordering::SeqCst) == seen {
                std::thread::park();
            }
            parked.store(false, Ordering::SeqCst);
        }
    }
}

/// Which elements of a buffer each worker owns: `len` elements in units of `unit`, the last one maybe shorter.
///
/// Several buffers of one stage may be split together ([`Split::among`]): their units stand in one row, each with its
/// cost, and the row is cut into equal costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    len: usize,
    unit: usize,
    workers: usize,
    /// Cost of one unit, of all units before this buffer's, and of the whole stage.
    cost: usize,
    before: usize,
    total: usize,
}

impl Split {
    /// `len` elements in units of `unit`, shared equally by `workers` workers.
    pub(crate) fn new(len: usize, unit: usize, workers: usize) -> Split {
        Split::among(len, unit, workers, 1, 0, len.div_ceil(unit.max(1)))
    }

    /// As [`Split::new`], as one buffer of a stage of cost `total`: a unit costs `cost`, the buffers before it `before`.
    pub(crate) fn among(
        len: usize,
        unit: usize,
        workers: usize,
        cost: usize,
        before: usize,
        total: usize,
    ) -> Split {
        Split { len, unit: unit.max(1), workers: workers.max(1), cost: cost.max(1), before, total }
    }

    /// The elements of `worker`: whole units, contiguous, ascending with the worker.
    pub(crate) fn range(&self, worker: usize) -> Range<usize> {
        self.bound(worker)..self.bound(worker + 1)
    }

    /// Number of workers it is for.
    pub(crate) fn workers(&self) -> usize {
        self.workers
    }

    /// The same split of a buffer that holds `by` elements for every one of this one.
    pub(crate) fn times(&self, by: usize) -> Split {
        Split { len: self.len * by, unit: self.unit * by, ..*self }
    }

    /// The same split of a buffer that holds one element for every `by` of this one.
    pub(crate) fn per(&self, by: usize) -> Split {
        assert!(self.unit.is_multiple_of(by));
        Split { len: self.len.div_ceil(by), unit: self.unit / by, ..*self }
    }

    fn bound(&self, worker: usize) -> usize {
        if worker >= self.workers {
            return self.len;
        }
        let target = self.total * worker / self.workers;
        (target.saturating_sub(self.before).div_ceil(self.cost) * self.unit).min(self.len)
    }
}

/// Least common multiple: the unit that is whole in both `a` and `b`.
pub(crate) fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x.max(1) * b
}

/// What a [`Shared`] buffer is cut along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Axis {
    Rows,
    Columns,
}

/// A mutable buffer whose parts are handed to the workers of one stage, each part once.
///
/// The buffer is a matrix of columns, each `stride` elements long; a part is a block of it (see [`Part`]).
pub(crate) struct Shared<'a, T> {
    base: *mut T,
    stride: usize,
    columns: usize,
    axis: Axis,
    split: Split,
    taken: AtomicU64,
    buffer: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Shared` only hands out disjoint `&mut` parts, each to one taker; that needs `T: Send`.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Shares the first `columns` columns of `buffer`; each worker gets the rows that `split` gives it, in every column.
    pub(crate) fn rows(buffer: &'a mut [T], stride: usize, columns: usize, split: Split) -> Self {
        assert!(split.len <= stride);
        Shared::new(buffer, stride, columns, Axis::Rows, split)
    }

    /// Shares whole columns of `buffer`: each worker gets the columns that `split` gives it.
    pub(crate) fn columns(buffer: &'a mut [T], stride: usize, split: Split) -> Self {
        Shared::new(buffer, stride, split.len, Axis::Columns, split)
    }

    fn new(buffer: &'a mut [T], stride: usize, columns: usize, axis: Axis, split: Split) -> Self {
        assert!(columns * stride <= buffer.len());
        let base = buffer.as_mut_ptr();
        Shared { base, stride, columns, axis, split, taken: AtomicU64::new(0), buffer: PhantomData }
    }

    /// The part of `worker`.
    ///
    /// # Panics
    /// It was taken before: a bug in the stage.
    pub(crate) fn take(&self, worker: usize) -> Part<'_, T> {
        assert!(worker < self.split.workers && worker < MAX_THREADS);
        let before = self.taken.fetch_or(1 << worker, Ordering::Relaxed);
        assert!(before & (1 << worker) == 0, "a part is taken once");
        let own = self.split.range(worker);
        let is_last = own.end == self.split.len;
        let (rows, columns) = match self.axis {
            Axis::Rows => (own, 0..self.columns),
            Axis::Columns => (0..self.stride, own),
        };
        Part { base: self.base, stride: self.stride, columns, rows, is_last, buffer: PhantomData }
    }
}

/// A block of a [`Shared`] buffer (`rows` of each of `columns`), owned by one worker for one stage.
pub(crate) struct Part<'a, T> {
    base: *mut T,
    stride: usize,
    columns: Range<usize>,
    rows: Range<usize>,
    /// No other part lies behind this one.
    is_last: bool,
    buffer: PhantomData<&'a mut [T]>,
}

impl<T> Part<'_, T> {
    /// Where the tiles of this part start, the distance between columns, and how many tiles of 16 rows it has.
    ///
    /// The last tile may reach past `rows`, into padding that belongs to no other part.
    ///
    /// # Panics
    /// The part does not hold whole tiles of all columns: a bug in the stage.
    pub(crate) fn tiles(&mut self) -> (*mut T, usize, usize) {
        let tiles = self.rows.len().div_ceil(TILE_ROWS);
        if tiles == 0 {
            // A worker without rows may stand at the end of a matrix that does not end with a tile.
            return (self.base, self.stride, 0);
        }
        assert!(self.columns.start == 0 && self.rows.start.is_multiple_of(TILE_ROWS));
        assert!(self.rows.len().is_multiple_of(TILE_ROWS) || self.is_last);
        assert!(tiles == 0 || self.rows.start + tiles * TILE_ROWS <= self.stride);
        // SAFETY: `rows.start` lies within the stride (checked when shared).
        (unsafe { self.base.add(self.rows.start) }, self.stride, tiles)
    }

    /// The elements this part covers in each of its columns.
    pub(crate) fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// The columns this part covers.
    pub(crate) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// This part's elements of column `c`.
    #[inline]
    pub(crate) fn column(&mut self, c: usize) -> &mut [T] {
        assert!(self.columns.contains(&c));
        // SAFETY: `rows` lies within `stride`, `c` within the buffer's columns (checked when shared); parts are disjoint.
        unsafe {
            std::slice::from_raw_parts_mut(self.base.add(c * self.stride + self.rows.start), self.rows.len())
        }
    }
}

/// One equally long buffer per run of a forward pass (their states), seen through one handle.
pub(crate) struct Buffers<'a> {
    bases: &'a [Base],
    len: usize,
    buffers: PhantomData<&'a mut [f32]>,
}

/// Where a run's buffer begins.
#[derive(Clone, Copy)]
pub(crate) struct Base(*mut f32);

// SAFETY: a `Base` is only followed through `Buffers`, which borrows the buffers it points to.
unsafe impl Send for Base {}
// SAFETY: as above; `Buffers` gives shared access through `&self` and disjoint parts through `SharedBuffers`.
unsafe impl Sync for Base {}

impl<'a> Buffers<'a> {
    /// A handle on `buffers`, each `len` long; `table` is reused memory for their addresses.
    pub(crate) fn new(
        table: &'a mut Vec<Base>,
        buffers: impl Iterator<Item = &'a mut [f32]>,
        len: usize,
    ) -> Self {
        table.clear();
        table.extend(buffers.map(|buffer| {
            assert_eq!(buffer.len(), len);
            Base(buffer.as_mut_ptr())
        }));
        Buffers { bases: table, len, buffers: PhantomData }
    }

    /// Elements `range` of the buffer of run `run`.
    pub(crate) fn get(&self, run: usize, range: Range<usize>) -> &[f32] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: in bounds; the buffers are borrowed for 'a, and `&self` excludes writers.
        unsafe { std::slice::from_raw_parts(self.bases[run].0.add(range.start), range.len()) }
    }

    /// Elements `range` of the buffer of run `run`.
    pub(crate) fn get_mut(&mut self, run: usize, range: Range<usize>) -> &mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: in bounds; the buffers are borrowed for 'a, and `&mut self` excludes everybody else.
        unsafe { std::slice::from_raw_parts_mut(self.bases[run].0.add(range.start), range.len()) }
    }

    /// Shares the elements `range` of every buffer; `split` says which of them (counted from its start) each worker owns.
    pub(crate) fn share(&mut self, range: Range<usize>, split: Split) -> SharedBuffers<'_> {
        let [shared] = self.share_each([range], split);
        shared
    }

    /// [`Buffers::share`] of several ranges at once, all split alike.
    ///
    /// # Panics
    /// Two ranges overlap: a bug in the model.
    pub(crate) fn share_each<const N: usize>(
        &mut self,
        ranges: [Range<usize>; N],
        split: Split,
    ) -> [SharedBuffers<'_>; N] {
        for (i, a) in ranges.iter().enumerate() {
            assert!(ranges[i + 1..].iter().all(|b| a.end <= b.start || b.end <= a.start));
        }
        ranges.map(|range| {
            assert!(range.start <= range.end && range.end <= self.len && split.len <= range.len());
            SharedBuffers {
                bases: self.bases,
                start: range.start,
                split,
                taken: AtomicU64::new(0),
                buffers: PhantomData,
            }
        })
    }
}

/// Ranges of several buffers whose parts are handed to the workers of one stage, each part once.
pub(crate) struct SharedBuffers<'a> {
    bases: &'a [Base],
    start: usize,
    split: Split,
    taken: AtomicU64,
    buffers: PhantomData<&'a mut [f32]>,
}

impl SharedBuffers<'_> {
    /// The part of `worker`: the same elements of every buffer.
    ///
    /// # Panics
    /// It was taken before: a bug in the stage.
    pub(crate) fn take(&self, worker: usize) -> BuffersPart<'_> {
        assert!(worker < self.split.workers && worker < MAX_THREADS);
        let before = self.taken.fetch_or(1 << worker, Ordering::Relaxed);
        assert!(before & (1 << worker) == 0, "a part is taken once");
        BuffersPart {
            bases: self.bases,
            start: self.start,
            own: self.split.range(worker),
            buffers: PhantomData,
        }
    }
}

/// One worker's elements of several buffers.
pub(crate) struct BuffersPart<'a> {
    bases: &'a [Base],
    start: usize,
    own: Range<usize>,
    buffers: PhantomData<&'a mut [f32]>,
}

impl BuffersPart<'_> {
    /// This part's elements of run `run`.
    pub(crate) fn get(&mut self, run: usize) -> &mut [f32] {
        // SAFETY: in bounds (checked when shared); parts are disjoint and taken once; `&mut self` excludes a second borrow.
        unsafe {
            std::slice::from_raw_parts_mut(self.bases[run].0.add(self.start + self.own.start), self.own.len())
        }
    }
}

#[cfg(all(test, feature = "threads"))]
mod tests {
    use super::*;

    #[test]
    fn every_worker_runs_every_stage_once() {
        for threads in [1, 2, 3, 5] {
            let mut team = Team::new(threads);
            team.prepare();
            for round in 0..300 {
                let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
                team.run(&|worker| {
                    counts[worker].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
                if round % 100 == 50 {
                    std::thread::sleep(SPIN_TIME * 2);
                }
            }
        }
    }

    #[test]
    fn parts_are_disjoint_and_cover() {
        let mut buffer = vec![0u32; 3 * 100];
        let mut team = Team::new(3);
        team.prepare();
        let shared = Shared::rows(&mut buffer, 100, 3, Split::new(90, 32, 3));
        team.run(&|worker| {
            let mut part = shared.take(worker);
            for c in part.columns() {
                part.column(c).iter_mut().for_each(|v| *v += 1);
            }
        });
        for (i, v) in buffer.iter().enumerate() {
            assert_eq!(*v, u32::from(i % 100 < 90));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_survives() {
        let mut team = Team::new(2);
        team.prepare();
        let result =
            catch_unwind(AssertUnwindSafe(|| team.run(&|worker| assert!(worker == 0, "worker fell"))));
        assert!(result.is_err());
        team.run(&|_| {});
    }
}
