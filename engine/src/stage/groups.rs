//! Projections of which each reads columns of its own: those that a mixture's experts were chosen
//! for stand side by side, expert by expert, and all experts are one stage.
//!
//! The rows of all of them, and of jobs that read every column, stand in one line, which is cut
//! into shares of equal cost: one token's experts are read by the whole team. Not here: who was
//! chosen (`model/parts/router.rs`).

use super::project::{Line, listed, share};
use super::{Job, Owned, Stages};
use crate::buffers::ActivationShare;
use crate::kernels::Isa;
use crate::kernels::forms::GROUP;
use crate::team::{Segment, Share, Split};

/// The columns of a stage whose products are an expert's each.
pub(crate) struct Groups<'a, const P: usize, const A: usize> {
    /// The columns of each group, ascending; the stage cuts their rows.
    pub(crate) segments: &'a mut [Segment],
    /// Rows of each group's results.
    pub(crate) rows: usize,
    /// Bytes of weights that a group of 64 rows reads.
    pub(crate) bytes: usize,
    pub(crate) owned: Owned<'a, P, A>,
}

/// The part of one group that one piece owns.
pub(crate) struct GroupPiece<'a, const P: usize, const A: usize> {
    pub(crate) isa: Isa,
    /// The first of the group's columns.
    pub(crate) first: usize,
    pub(crate) panels: [Share<'a, f32>; P],
    pub(crate) acts: [ActivationShare<'a>; A],
}

/// Bytes of a unit of cost: a sum over all experts and columns of a large model fits 32 bits.
const UNIT: usize = 1 << 10;

/// The cost of reading a unit for so many columns: one column waits for memory, and each further
/// one costs a sixth of that.
const fn weight(columns: usize) -> usize {
    columns + 5
}

impl Stages<'_> {
    /// Runs all `jobs` on all columns and `work` for every piece of every group, as one stage.
    pub(crate) fn project_groups<'a, const P: usize, const A: usize>(
        &mut self,
        jobs: impl IntoIterator<Item = Job<'a>>,
        groups: Groups<'_, P, A>,
        work: impl Fn(GroupPiece<'_, P, A>) + Sync,
    ) {
        let (isa, columns) = (self.isa, self.batch.columns);
        let Groups { segments, rows, bytes, owned: Owned { panels, acts } } = groups;
        let (jobs, job_bytes) = listed(jobs);
        let cost = |segment: &Segment| bytes.div_ceil(UNIT) * weight(segment.columns.len());
        let of_groups: usize = segments.iter().map(cost).sum::<usize>() * rows.div_ceil(GROUP);
        let total = of_groups + job_bytes.div_ceil(UNIT) * weight(columns);
        let pieces = self.team.pieces((total / weight(1)).saturating_mul(UNIT), 1);
        let mut before = 0;
        for segment in &mut *segments {
            let cost = cost(segment);
            segment.split = Split::among(rows, GROUP, pieces, cost, before, total);
            before += cost * rows.div_ceil(GROUP);
        }
        let cost = |bytes: usize| bytes.div_ceil(UNIT) * weight(columns);
        let line = Line { pieces, cost, before, total };
        let jobs = share(jobs, columns, line);
        let segments = &*segments;
        let end = segments.last().map_or(0, |segment| segment.columns.end);
        let panels = panels.map(|panel| panel.share_segments(segments));
        let acts = acts.map(|acts| acts.share_segments(end, segments));
        self.team.run(pieces, &|piece| {
            let mut panels = panels.each_ref().map(|panel| panel.take(piece));
            let mut acts = acts.each_ref().map(|acts| acts.take(piece));
            for (i, segment) in segments.iter().enumerate() {
                if segment.split.range(piece).is_empty() {
                    continue;
                }
                work(GroupPiece {
                    isa,
                    first: segment.columns.start,
                    panels: panels.each_mut().map(|panel| panel.segment(i)),
                    acts: acts.each_mut().map(|acts| acts.segment(i)),
                });
            }
            jobs.iter().flatten().for_each(|job| job.run(isa, columns, piece));
        });
    }
}
