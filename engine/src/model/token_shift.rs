//! Token shift: what RWKV's blocks read is a mixture of the normed x of this token and of the token
//! before (Peng et al. 2023, arXiv 2305.13048, eq. 11–13). Shared by RWKV-4 to 7.

use super::{Batch, Norm, Pass};
use crate::buffers::{Acts, Panel};
use crate::stage::{column_split, run_columns};
use crate::state::Place;
use crate::team::Buffers;

/// Which token a mixing vector weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weighs {
    /// x · m + previous · (1 − m): RWKV-4 and 5.
    Current,
    /// x + (previous − x) · m: RWKV-6 and 7.
    Previous,
}

/// `normed[c] = norm(x[c])` for every column.
pub(super) fn norm_columns(pass: &mut Pass<'_>, norm: &Norm, normed: &mut Panel) {
    let split = column_split(pass.team, pass.batch.columns);
    let (x, isa) = (&*pass.x, pass.isa);
    let normed = normed.share_columns(split);
    run_columns(pass.team, split, &|piece| {
        let mut normed = normed.take(piece);
        for c in normed.columns() {
            norm.apply(isa, x.column(c), &mut normed.column(c)[..x.rows()]);
        }
    });
}

/// The normed x of the token before column `c`: the column before it, or for the first of a run the
/// state's `shift`.
pub(super) fn previous<'a>(
    batch: Batch<'_>,
    states: &'a Buffers<'_>,
    normed: &'a Panel,
    shift: Place,
    c: usize,
) -> &'a [f32] {
    let run = batch.runs[c];
    if batch.spans[run].start == c { states.get(run, shift) } else { normed.column(c - 1) }
}

/// Prepares one mixture of each column and its predecessor for every `(mixing vector, input)`.
pub(super) fn mix<const N: usize>(
    pass: &mut Pass<'_>,
    normed: &Panel,
    shift: Place,
    weighs: Weighs,
    targets: [(&[f32], &mut Acts); N],
) {
    let Pass { team, states, batch, isa, .. } = pass;
    let split = column_split(team, batch.columns);
    let targets = targets.map(|(m, acts)| (m, acts.share_columns(split)));
    run_columns(team, split, &|piece| {
        for (m, acts) in &targets {
            let mut acts = acts.take(piece);
            for c in split.range(piece) {
                let (x, before) = (normed.column(c), previous(*batch, states, normed, shift, c));
                let (base, other) = match weighs {
                    Weighs::Current => (before, x),
                    Weighs::Previous => (x, before),
                };
                acts.fill(
                    *isa,
                    c,
                    #[inline(always)]
                    |rows, out| {
                        let inputs =
                            base[rows.clone()].iter().zip(&other[rows.clone()]).zip(&m[rows]);
                        for (out, ((base, other), m)) in out.iter_mut().zip(inputs) {
                            *out = base + (other - base) * m;
                        }
                    },
                );
            }
        }
    });
}

/// Keeps the last normed x of every run as its state's `shift`.
pub(super) fn save(pass: &mut Pass<'_>, normed: &Panel, shift: Place) {
    for (run, span) in pass.batch.spans.iter().enumerate() {
        pass.states.get_mut(run, shift).copy_from_slice(normed.column(span.end - 1));
    }
}
