//! The equally long buffers of several runs (their states), of which each piece owns the same
//! elements.
//!
//! A [`Place`] says where elements stand and how they are kept. Buffers are cache lines, and a
//! place begins with one, so that it is aligned for every format; all are plain data ([`Stored`]),
//! for which any bits are a value.

use std::marker::PhantomData;
use std::ops::Range;

use brooklet_formats::DType;

use super::Split;
use super::share::Taken;
use crate::kernels::lanes::Lanes;
use crate::kernels::stored::{Elements, Stored};
use crate::state::Place;

/// One equally long buffer per run of a forward pass (their states), seen through one handle.
pub(crate) struct Buffers<'a> {
    bases: &'a [Base],
    lines: usize,
    buffers: PhantomData<&'a mut [Lanes]>,
}

/// Where a run's buffer begins.
#[derive(Clone, Copy)]
pub(crate) struct Base(*mut Lanes);

// SAFETY: a `Base` is only followed through `Buffers`, which borrows the buffers it points to.
unsafe impl Send for Base {}
// SAFETY: as above; `Buffers` gives shared access through `&self` and disjoint parts through
// `SharedBuffers`.
unsafe impl Sync for Base {}

impl<'a> Buffers<'a> {
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
        Buffers { bases: table, lines, buffers: PhantomData }
    }

    /// The elements at `place`, which are f32, in the buffer of run `run`.
    pub(crate) fn get(&self, run: usize, place: Place) -> &[f32] {
        let first = self.first(run, place);
        // SAFETY: in bounds and aligned; the buffers are borrowed for 'a, and `&self` excludes
        // writers.
        unsafe { std::slice::from_raw_parts(first, place.len()) }
    }

    /// The elements at `place`, which are f32, in the buffer of run `run`.
    pub(crate) fn get_mut(&mut self, run: usize, place: Place) -> &mut [f32] {
        let first = self.first(run, place);
        // SAFETY: in bounds and aligned; the buffers are borrowed for 'a, and `&mut self` excludes
        // everybody else.
        unsafe { std::slice::from_raw_parts_mut(first, place.len()) }
    }

    /// The first of the elements at `place`, all of which are in the buffer.
    fn first(&self, run: usize, place: Place) -> *mut f32 {
        assert!(place.lines().end <= self.lines);
        self.bases[run].at(place)
    }

    /// Shares the elements at `place` in every buffer; `split` says which of them each piece owns.
    pub(crate) fn share(&mut self, place: Place, split: Split) -> SharedBuffers<'_> {
        let [shared] = self.share_each([place], split);
        shared
    }

    /// [`Buffers::share`] of several places at once, all split alike.
    ///
    /// # Panics
    /// Two places overlap: a bug in the model.
    pub(crate) fn share_each<const N: usize>(
        &mut self,
        places: [Place; N],
        split: Split,
    ) -> [SharedBuffers<'_>; N] {
        let lines = places.map(|place| place.lines());
        for (i, a) in lines.iter().enumerate() {
            assert!(lines[i + 1..].iter().all(|b| a.end <= b.start || b.end <= a.start));
        }
        places.map(|place| {
            assert!(place.lines().end <= self.lines && split.len <= place.len());
            SharedBuffers {
                bases: self.bases,
                place,
                split,
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
    fn at<T: Stored>(self, place: Place) -> *mut T {
        assert!(place.dtype() == T::DTYPE);
        self.0.wrapping_add(place.lines().start).cast()
    }
}

/// Places in several buffers whose parts are handed to the pieces of one stage, each part once.
pub(crate) struct SharedBuffers<'a> {
    bases: &'a [Base],
    place: Place,
    split: Split,
    taken: Taken,
    buffers: PhantomData<&'a mut [Lanes]>,
}

impl SharedBuffers<'_> {
    /// The part of `piece`: the same elements of every buffer.
    ///
    /// # Panics
    /// It was taken before: a bug in the stage.
    pub(crate) fn take(&self, piece: usize) -> BuffersPart<'_> {
        self.taken.once(piece, self.split.pieces());
        BuffersPart {
            bases: self.bases,
            place: self.place,
            own: self.split.range(piece),
            buffers: PhantomData,
        }
    }
}

/// One piece's elements of several buffers.
pub(crate) struct BuffersPart<'a> {
    bases: &'a [Base],
    place: Place,
    own: Range<usize>,
    buffers: PhantomData<&'a mut [Lanes]>,
}

impl BuffersPart<'_> {
    /// This part's elements of run `run`, which are f32.
    pub(crate) fn get(&mut self, run: usize) -> &mut [f32] {
        self.kept_as(run)
    }

    /// This part's elements of run `run`, as they are kept.
    pub(crate) fn elements(&mut self, run: usize) -> Elements<'_> {
        match self.place.dtype() {
            DType::F16 => Elements::F16(self.kept_as(run)),
            _ => Elements::F32(self.kept_as(run)),
        }
    }

    fn kept_as<T: Stored>(&mut self, run: usize) -> &mut [T] {
        let first: *mut T = self.bases[run].at(self.place);
        // SAFETY: in bounds (checked when shared); parts are disjoint and taken once; `&mut self`
        // excludes a second borrow.
        unsafe { std::slice::from_raw_parts_mut(first.add(self.own.start), self.own.len()) }
    }
}
