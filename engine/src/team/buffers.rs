//! The equally long buffers of several runs (their states), of which each worker owns the same elements.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{MAX_THREADS, Split};

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
        assert!(worker < self.split.workers() && worker < MAX_THREADS);
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
