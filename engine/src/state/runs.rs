//! The states of the runs of a forward pass: equally long buffers, of which each piece of a stage
//! owns the same elements.
//!
//! A [`SlotRef`] says where elements stand and how they are kept. Buffers are cache lines, and a
//! place begins with one, so that it is aligned for every format; all are plain data ([`StateElement`]),
//! for which any bits are a value.

use std::marker::PhantomData;
use std::ops::Range;

use brooklet_formats::DType;

use super::SlotRef;
use crate::kernels::lanes::Lanes;
use crate::kernels::state::{StateElement, StateSlice};
use crate::team::{Split, Taken};

/// One equally long buffer per run of a forward pass, seen through one handle.
pub(crate) struct RunStates<'a> {
    bases: &'a [Base],
    lines: usize,
    buffers: PhantomData<&'a mut [Lanes]>,
}

/// Where a run's buffer begins.
#[derive(Clone, Copy)]
pub(crate) struct Base(*mut Lanes);

// SAFETY: a `Base` is only followed through `RunStates`, which borrows the buffers it points to.
unsafe impl Send for Base {}
// SAFETY: as above; `RunStates` gives shared access through `&self` and disjoint parts through
// `SharedStates`.
unsafe impl Sync for Base {}

impl<'a> RunStates<'a> {
    /// A handle on `buffers`, each of `lines` cache lines; `table` is reused memory for their
    /// addresses.
    pub(crate) fn new(
        table: &'a mut Vec<Base>,
        buffers: impl Iterator<Item = &'a mut [Lanes]>,
        lines: usize,
    ) -> Self {
        table.clear();
        table.extend(buffers.map(|buffer| {
            assert_eq!(buffer.len(), lines);
            Base(buffer.as_mut_ptr())
        }));
        RunStates { bases: table, lines, buffers: PhantomData }
    }

    /// The elements at `place`, which are f32, in the buffer of run `run`.
    pub(crate) fn get(&self, run: usize, place: SlotRef) -> &[f32] {
        let first = self.first(run, place);
        // SAFETY: in bounds and aligned; the buffers are borrowed for 'a, and `&self` excludes
        // writers.
        unsafe { std::slice::from_raw_parts(first, place.len()) }
    }

    /// The elements at `place`, which are f32, in the buffer of run `run`.
    pub(crate) fn get_mut(&mut self, run: usize, place: SlotRef) -> &mut [f32] {
        let first = self.first(run, place);
        // SAFETY: in bounds and aligned; the buffers are borrowed for 'a, and `&mut self` excludes
        // everybody else.
        unsafe { std::slice::from_raw_parts_mut(first, place.len()) }
    }

    /// The first of the elements at `place`, all of which are in the buffer.
    fn first(&self, run: usize, place: SlotRef) -> *mut f32 {
        assert!(place.lines().end <= self.lines);
        self.bases[run].at(place)
    }

    /// Shares the elements at `place` in every buffer.
    pub(crate) fn share(&mut self, place: SlotRef) -> SharedStates<'_> {
        let [shared] = self.share_each([place]);
        shared
    }

    /// [`RunStates::share`] of several places at once.
    ///
    /// # Panics
    /// Two places overlap: a bug in the model.
    pub(crate) fn share_each<const N: usize>(
        &mut self,
        places: [SlotRef; N],
    ) -> [SharedStates<'_>; N] {
        let lines = places.map(|place| place.lines());
        for (i, a) in lines.iter().enumerate() {
            assert!(lines[i + 1..].iter().all(|b| a.end <= b.start || b.end <= a.start));
        }
        places.map(|place| {
            assert!(place.lines().end <= self.lines);
            SharedStates {
                bases: self.bases,
                place,
                split: Split::new(place.len(), 1, 1),
                taken: Taken::default(),
                buffers: PhantomData,
            }
        })
    }
}

impl Base {
    /// The first of the elements at `place`.
    ///
    /// # Panics
    /// They are kept in another format: a bug in the model.
    fn at<T: StateElement>(self, place: SlotRef) -> *mut T {
        assert!(place.dtype() == T::DTYPE);
        self.0.wrapping_add(place.lines().start).cast()
    }
}

/// Places in several buffers whose parts are handed to the pieces of one stage, each part once.
pub(crate) struct SharedStates<'a> {
    bases: &'a [Base],
    place: SlotRef,
    split: Split,
    taken: Taken,
    buffers: PhantomData<&'a mut [Lanes]>,
}

impl<'a> SharedStates<'a> {
    /// The same, of which each piece owns what belongs to its rows in `rows`: every row has equally
    /// many elements.
    ///
    /// # Panics
    /// They are not equally many: a bug in the model.
    pub(crate) fn cut_like(self, rows: Split) -> SharedStates<'a> {
        let each = self.place.len() / rows.len().max(1);
        assert!(each * rows.len() == self.place.len());
        SharedStates { split: rows.times(each), taken: Taken::default(), ..self }
    }

    /// The part of `piece`: the same elements of every buffer.
    ///
    /// # Panics
    /// It was taken before: a bug in the stage.
    pub(crate) fn take(&self, piece: usize) -> StatesShare<'_> {
        self.taken.once(piece, self.split.pieces());
        StatesShare {
            bases: self.bases,
            place: self.place,
            own: self.split.range(piece),
            buffers: PhantomData,
        }
    }
}

/// One piece's elements of several buffers.
pub(crate) struct StatesShare<'a> {
    bases: &'a [Base],
    place: SlotRef,
    own: Range<usize>,
    buffers: PhantomData<&'a mut [Lanes]>,
}

impl StatesShare<'_> {
    /// This part's elements of run `run`, which are f32.
    pub(crate) fn get(&mut self, run: usize) -> &mut [f32] {
        self.kept_as(run)
    }

    /// This part's elements of run `run`, as they are kept.
    pub(crate) fn elements(&mut self, run: usize) -> StateSlice<'_> {
        match self.place.dtype() {
            DType::F16 => StateSlice::F16(self.kept_as(run)),
            _ => StateSlice::F32(self.kept_as(run)),
        }
    }

    fn kept_as<T: StateElement>(&mut self, run: usize) -> &mut [T] {
        let first: *mut T = self.bases[run].at(self.place);
        // SAFETY: in bounds (checked when shared); parts are disjoint and taken once; `&mut self`
        // excludes a second borrow.
        unsafe { std::slice::from_raw_parts_mut(first.add(self.own.start), self.own.len()) }
    }
}
