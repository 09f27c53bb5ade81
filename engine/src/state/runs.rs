//! The states of the runs of a forward pass: equally long buffers, of which each piece of a stage
//! owns the same elements.
//!
//! A [`SlotRef`] says where elements stand and how they are kept. Buffers are cache lines, and a
//! place begins with one, so that it is aligned for every format; all are plain data
//! ([`StateElement`]), for which any bits are a value.

use std::marker::PhantomData;
use std::ops::Range;

use brooklet_formats::DType;

use super::{PagesRef, SlotRef, State};
use crate::kernels::lanes::Lanes;
use crate::kernels::state::{StateElement, StateSlice};
use crate::team::{Split, Taken};

/// One equally long buffer per run of a forward pass, and its pages, seen through one handle.
pub(crate) struct RunStates<'a> {
    bases: &'a [Base],
    pages: PageTable<'a>,
    lines: usize,
    buffers: PhantomData<&'a mut [Lanes]>,
}

/// Memory for the addresses of a pass's states, reused by the next.
#[derive(Default)]
pub(crate) struct RunTable {
    bases: Vec<Base>,
    /// For each run and each kind of pages, where its own begin and end in the next list.
    groups: Vec<(usize, usize)>,
    pages: Vec<Page>,
}

/// The pages of all runs.
#[derive(Clone, Copy)]
struct PageTable<'a> {
    groups: &'a [(usize, usize)],
    pages: &'a [Page],
}

impl RunTable {
    /// For so many runs.
    pub(crate) fn new(runs: usize) -> RunTable {
        let (groups, pages) = (Vec::new(), Vec::new());
        RunTable { bases: Vec::with_capacity(runs), groups, pages }
    }

    /// Bytes of a table for so many runs.
    pub(crate) fn bytes(runs: usize) -> usize {
        runs * size_of::<Base>()
    }
}

/// Where a run's buffer begins, and which pages are its own.
#[derive(Clone, Copy)]
pub(crate) struct Base {
    lines: *mut Lanes,
    /// The first of its kinds of pages.
    groups: usize,
    /// Tokens read before this pass.
    position: usize,
}

/// Where a page begins, how many lines it has, and whether it is this run's alone.
#[derive(Clone, Copy)]
pub(crate) struct Page(*mut Lanes, usize, bool);

// SAFETY: a `Page` is only followed through `PagesShare`, which borrows the states it belongs to.
unsafe impl Send for Page {}
// SAFETY: as above; pieces write to disjoint heads of it.
unsafe impl Sync for Page {}

// SAFETY: a `Base` is only followed through `RunStates`, which borrows the buffers it points to.
unsafe impl Send for Base {}
// SAFETY: as above; `RunStates` gives shared access through `&self` and disjoint parts through
// `SharedStates`.
unsafe impl Sync for Base {}

impl<'a> RunStates<'a> {
    /// A handle on `states`, each of `lines` cache lines; `table` is reused memory for their
    /// addresses.
    pub(crate) fn new(
        table: &'a mut RunTable,
        states: impl Iterator<Item = &'a mut State>,
        lines: usize,
    ) -> Self {
        let RunTable { bases, groups, pages } = table;
        bases.clear();
        groups.clear();
        pages.clear();
        bases.extend(states.map(|state| {
            let own = state.storage.lines_mut();
            assert_eq!(own.len(), lines);
            let own = own.as_mut_ptr();
            let first = groups.len();
            let mut start = pages.len();
            groups.extend(state.pages.counts().map(|count| {
                start += count;
                (start - count, start)
            }));
            pages.extend(state.pages.bases().map(|(first, lines, own)| Page(first, lines, own)));
            Base {
                lines: own,
                groups: first,
                position: usize::try_from(state.position).unwrap_or(usize::MAX),
            }
        }));
        let pages = PageTable { groups, pages };
        RunStates { bases, pages, lines, buffers: PhantomData }
    }

    /// Tokens that run `run` has read before this pass.
    pub(crate) fn position(&self, run: usize) -> usize {
        self.bases[run].position
    }

    /// Shares keys and values at `place` in the pages of all runs.
    pub(crate) fn share_pages(&mut self, place: PagesRef) -> SharedPages<'_> {
        SharedPages {
            bases: self.bases,
            pages: self.pages,
            place,
            split: Split::new(place.n_head, 1, 1),
            taken: Taken::default(),
            states: PhantomData,
        }
    }

    /// Keys and values at `place` in the pages of all runs, for everybody to read.
    pub(crate) fn view_pages(&self, place: PagesRef) -> PagesView<'_> {
        let (bases, pages, own) = (self.bases, self.pages, 0..place.n_head);
        PagesView(PagesShare { bases, pages, place, own, states: PhantomData })
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
        self.share_some(places.map(Some)).map(|shared| shared.expect("each place"))
    }

    /// [`RunStates::share_each`] of those that are there.
    ///
    /// # Panics
    /// Two places overlap: a bug in the model.
    pub(crate) fn share_some<const N: usize>(
        &mut self,
        places: [Option<SlotRef>; N],
    ) -> [Option<SharedStates<'_>>; N] {
        let lines = places.map(|place| place.map_or(0..0, |place| place.lines()));
        for (i, a) in lines.iter().enumerate() {
            let is_apart = |b: &Range<usize>| a.end <= b.start || b.end <= a.start;
            assert!(lines[i + 1..].iter().all(is_apart));
        }
        places.map(|place| {
            let place = place?;
            assert!(place.lines().end <= self.lines);
            Some(SharedStates {
                bases: self.bases,
                place,
                split: Split::new(place.len(), 1, 1),
                taken: Taken::default(),
                buffers: PhantomData,
            })
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
        self.lines.wrapping_add(place.lines().start).cast()
    }
}

/// Keys and values of a layer in the pages of all runs, whose heads are handed to the pieces of one
/// stage, each head once.
pub(crate) struct SharedPages<'a> {
    bases: &'a [Base],
    pages: PageTable<'a>,
    place: PagesRef,
    split: Split,
    taken: Taken,
    states: PhantomData<&'a mut [State]>,
}

impl<'a> SharedPages<'a> {
    /// The same, of which each piece owns the heads that belong to its rows in `rows`: every head
    /// has equally many.
    ///
    /// # Panics
    /// They are not equally many: a bug in the model.
    pub(crate) fn cut_like(self, rows: Split) -> SharedPages<'a> {
        assert!(rows.len().is_multiple_of(self.place.n_head));
        SharedPages { split: rows.per(rows.len() / self.place.n_head), ..self }
    }

    /// The heads of `piece`.
    ///
    /// # Panics
    /// They were taken before: a bug in the stage.
    pub(crate) fn take(&self, piece: usize) -> PagesShare<'_> {
        self.taken.once(piece, self.split.pieces());
        PagesShare {
            bases: self.bases,
            pages: self.pages,
            place: self.place,
            own: self.split.range(piece),
            states: PhantomData,
        }
    }
}

/// One piece's heads of keys and values in the pages of all runs.
pub(crate) struct PagesShare<'a> {
    bases: &'a [Base],
    pages: PageTable<'a>,
    place: PagesRef,
    own: Range<usize>,
    states: PhantomData<&'a mut [State]>,
}

/// All heads of keys and values in the pages of all runs, which nobody writes meanwhile.
pub(crate) struct PagesView<'a>(PagesShare<'a>);

impl PagesView<'_> {
    /// Tokens that run `run` has read before this pass.
    pub(crate) fn position(&self, run: usize) -> usize {
        self.0.position(run)
    }

    /// Page number `page` of run `run`, of a head: as [`PagesShare::page`].
    pub(crate) fn page(&self, run: usize, head: usize, page: usize) -> &[Lanes] {
        self.0.page(run, head, page)
    }
}

impl PagesShare<'_> {
    /// Its heads.
    pub(crate) fn heads(&self) -> Range<usize> {
        self.own.clone()
    }

    /// Tokens that run `run` has read before this pass.
    pub(crate) fn position(&self, run: usize) -> usize {
        self.bases[run].position
    }

    /// Page number `page` of run `run`, of one of its heads: a `HeadPage`.
    pub(crate) fn page(&self, run: usize, head: usize, page: usize) -> &[Lanes] {
        let (first, len) = self.find(run, head, page);
        // SAFETY: in bounds (`find`), aligned as a cache line is, and initialised; the states are
        // borrowed for 'a, this share alone has the head (or is a view, beside which the borrow
        // lets nobody write), and `&self` excludes its own writing.
        unsafe { std::slice::from_raw_parts(first, len) }
    }

    /// The same, to write to: a page that has tokens of this pass.
    pub(crate) fn page_mut(&mut self, run: usize, head: usize, page: usize) -> &mut [Lanes] {
        assert!(self.entry(run, page).2, "a page that is written is no fork's");
        let (first, len) = self.find(run, head, page);
        // SAFETY: as in `page`; no fork has the page (asserted), and
        // `&mut self` excludes a second borrow.
        unsafe { std::slice::from_raw_parts_mut(first, len) }
    }

    /// Page number `page` of the text of run `run`.
    fn entry(&self, run: usize, page: usize) -> Page {
        let (start, end) = self.pages.groups[self.bases[run].groups + self.place.group];
        self.pages.pages[start..end][self.place.window.place(page)]
    }

    fn find(&self, run: usize, head: usize, page: usize) -> (*mut Lanes, usize) {
        assert!(self.own.contains(&head));
        let Page(first, lines, _) = self.entry(run, page);
        let len = self.place.head_lines();
        let at = self.place.line + head * len;
        assert!(at + len <= lines);
        (first.wrapping_add(at), len)
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
    /// Tokens that run `run` has read before this pass.
    pub(crate) fn position(&self, run: usize) -> usize {
        self.bases[run].position
    }

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
