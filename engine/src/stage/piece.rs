//! Stages whose pieces own rows of every column, or whole columns.

use std::ops::Range;

use super::{Batch, Stages};
use crate::buffers::{ActivationBuffer, ActivationShare, Panel};
use crate::kernels::Isa;
use crate::state::{PagesRef, PagesShare, RunStates, SharedStates, SlotRef, StatesShare};
use crate::team::{Share, Split};

/// The buffers that a stage's pieces own a part of.
pub(crate) struct Owned<'a, const P: usize, const A: usize> {
    pub(crate) panels: [&'a mut Panel; P],
    pub(crate) acts: [&'a mut ActivationBuffer; A],
}

/// The parts that one piece owns.
pub(crate) struct Piece<'a, const P: usize, const A: usize, const S: usize> {
    pub(crate) isa: Isa,
    pub(crate) batch: Batch<'a>,
    /// Its rows, or its columns.
    pub(crate) own: Range<usize>,
    pub(crate) panels: [Share<'a, f32>; P],
    pub(crate) acts: [ActivationShare<'a>; A],
    pub(crate) states: [StatesShare<'a>; S],
}

/// Columns from which a stage over columns is worth a hand-over to the team.
const PARALLEL_COLUMNS: usize = 4;

/// How a stage is cut by rows.
#[derive(Clone, Copy)]
pub(crate) struct Cut {
    /// Rows, in whole units of so many.
    pub(crate) rows: usize,
    pub(crate) unit: usize,
    /// Bytes of weights that the stage reads.
    pub(crate) bytes: usize,
}

impl Stages<'_> {
    /// Runs `work` for every piece of the rows.
    pub(crate) fn rows<const P: usize, const A: usize>(
        &mut self,
        cut: Cut,
        owned: Owned<'_, P, A>,
        work: impl Fn(Piece<'_, P, A, 0>) + Sync,
    ) {
        self.pieces(cut, owned, [], |_, piece| work(piece));
    }

    /// [`Stages::rows`] whose pieces also own heads of keys and values in the pages of every run;
    /// each head has equally many rows, and none is cut.
    pub(crate) fn rows_and_pages<const P: usize, const A: usize>(
        &mut self,
        cut: Cut,
        owned: Owned<'_, P, A>,
        states: &mut RunStates<'_>,
        place: PagesRef,
        work: impl Fn(Piece<'_, P, A, 0>, PagesShare<'_>) + Sync,
    ) {
        let runs = 0..self.batch.spans.len();
        let read = runs.map(|run| place.window.n_kept(states.position(run)));
        let read = read.fold(0, usize::saturating_add).saturating_mul(place.bytes_per_token());
        let cut = Cut { bytes: cut.bytes.saturating_add(read), ..cut };
        let pages = states.share_pages(place).cut_like(self.split(cut));
        self.pieces(cut, owned, [], |i, piece| work(piece, pages.take(i)));
    }

    /// How a stage is cut into pieces.
    fn split(&mut self, Cut { rows, unit, bytes }: Cut) -> Split {
        Split::new(rows, unit, self.team.pieces(bytes, self.batch.columns))
    }

    /// [`Stages::rows`] whose pieces also own what stands at `places` in every run's state, where
    /// each row has equally many elements.
    pub(crate) fn rows_and_states<const P: usize, const A: usize, const S: usize>(
        &mut self,
        cut: Cut,
        owned: Owned<'_, P, A>,
        states: &mut RunStates<'_>,
        places: [SlotRef; S],
        work: impl Fn(Piece<'_, P, A, S>) + Sync,
    ) {
        let bytes = cut.bytes + places.iter().map(SlotRef::bytes).sum::<usize>();
        let states = states.share_each(places);
        self.pieces(Cut { bytes, ..cut }, owned, states, |_, piece| work(piece));
    }

    fn pieces<const P: usize, const A: usize, const S: usize>(
        &mut self,
        cut: Cut,
        Owned { panels, acts }: Owned<'_, P, A>,
        states: [SharedStates<'_>; S],
        work: impl Fn(usize, Piece<'_, P, A, S>) + Sync,
    ) {
        let (isa, batch, split) = (self.isa, self.batch, self.split(cut));
        let panels = panels.map(|panel| panel.share_rows(batch.columns, split));
        let acts = acts.map(|acts| acts.share_rows(batch.columns, split));
        let states = states.map(|states| states.cut_like(split));
        self.team.run(split.pieces(), &|piece| {
            let own = Piece {
                isa,
                batch,
                own: split.range(piece),
                panels: panels.each_ref().map(|panel| panel.take(piece)),
                acts: acts.each_ref().map(|acts| acts.take(piece)),
                states: states.each_ref().map(|states| states.take(piece)),
            };
            work(piece, own);
        });
    }

    /// Runs `work` for every piece of `columns` whole columns: on the spot for a few, by the team
    /// for many.
    pub(crate) fn columns<const P: usize, const A: usize>(
        &mut self,
        columns: usize,
        Owned { panels, acts }: Owned<'_, P, A>,
        work: impl Fn(Piece<'_, P, A, 0>) + Sync,
    ) {
        let (isa, batch) = (self.isa, self.batch);
        let pieces = if columns >= PARALLEL_COLUMNS { self.team.threads() } else { 1 };
        let split = Split::new(columns, 1, pieces);
        let panels = panels.map(|panel| panel.share_columns(split));
        let acts = acts.map(|acts| acts.share_columns(split));
        let work = |piece| {
            work(Piece {
                isa,
                batch,
                own: split.range(piece),
                panels: panels.each_ref().map(|panel| panel.take(piece)),
                acts: acts.each_ref().map(|acts| acts.take(piece)),
                states: [],
            });
        };
        if pieces == 1 { work(0) } else { self.team.run(pieces, &work) }
    }
}

/// Prepares a piece's rows of all columns as a projection's input.
pub(crate) fn prepare(isa: Isa, rows: &mut Share<'_, f32>, input: &mut ActivationShare<'_>) {
    let start = rows.rows().start;
    for c in rows.columns() {
        let values = rows.column(c);
        input.fill(
            isa,
            c,
            #[inline(always)]
            |rows, out| out.copy_from_slice(&values[rows.start - start..rows.end - start]),
        );
    }
}
