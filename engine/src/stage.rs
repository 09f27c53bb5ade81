//! Stages that all models share: projections of several matrices at once, and work on whole
//! columns.

use crate::buffers::{Acts, Panel, SharedActs};
use crate::kernels::forms::GROUP;
use crate::kernels::{Isa, math};
use crate::team::{Shared, Split, Team};
use crate::tensor::Mat;

/// The most matrices one stage multiplies.
const MAX_JOBS: usize = 8;

/// An element-wise function applied to a projection's result.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Activation {
    Identity,
    Tanh,
    Sigmoid,
    ReluSquared,
}

impl Activation {
    /// Writes f(x) to `y`.
    #[inline(always)]
    fn apply(self, x: &[f32], y: &mut [f32]) {
        match self {
            Activation::Identity => y.copy_from_slice(x),
            Activation::Tanh => y.iter_mut().zip(x).for_each(|(y, x)| *y = math::tanh(*x)),
            Activation::Sigmoid => y.iter_mut().zip(x).for_each(|(y, x)| *y = math::sigmoid(*x)),
            Activation::ReluSquared => {
                y.iter_mut().zip(x).for_each(|(y, x)| *y = math::relu_squared(*x))
            }
        }
    }
}

/// What happens to a projection's result as soon as a piece of it is computed.
pub(crate) enum Then<'a> {
    /// It stays in `y`.
    Keep,
    /// It is added to the residual stream.
    AddTo(&'a mut Panel),
    /// It is added to the residual stream, times sigmoid of the panel.
    AddGatedTo(&'a Panel, &'a mut Panel),
    /// f(y) becomes the input of a later projection.
    Prepare(Activation, &'a mut Acts),
}

/// One matrix of a projection stage: `y = W x`, then `then`.
pub(crate) struct Job<'a> {
    pub(crate) w: &'a Mat,
    pub(crate) x: &'a Acts,
    pub(crate) y: &'a mut Panel,
    pub(crate) then: Then<'a>,
}

impl<'a> Job<'a> {
    /// `y = W x`.
    pub(crate) fn keep(w: &'a Mat, x: &'a Acts, y: &'a mut Panel) -> Self {
        Job { w, x, y, then: Then::Keep }
    }

    /// `y = W x; residual += y`.
    pub(crate) fn add(w: &'a Mat, x: &'a Acts, y: &'a mut Panel, residual: &'a mut Panel) -> Self {
        Job { w, x, y, then: Then::AddTo(residual) }
    }

    /// `y = W x; residual += sigmoid(gate) · y`.
    pub(crate) fn add_gated(
        w: &'a Mat,
        x: &'a Acts,
        y: &'a mut Panel,
        gate: &'a Panel,
        residual: &'a mut Panel,
    ) -> Self {
        Job { w, x, y, then: Then::AddGatedTo(gate, residual) }
    }

    /// `out = f(W x)`, ready to be projected.
    pub(crate) fn prepare(
        w: &'a Mat,
        x: &'a Acts,
        y: &'a mut Panel,
        f: Activation,
        out: &'a mut Acts,
    ) -> Self {
        Job { w, x, y, then: Then::Prepare(f, out) }
    }
}

// At most MAX_JOBS of them stand on the stack; boxing would allocate.
#[allow(clippy::large_enum_variant)]
enum SharedThen<'a> {
    Keep,
    AddTo(Shared<'a, f32>),
    AddGatedTo(&'a Panel, Shared<'a, f32>),
    Prepare(Activation, SharedActs<'a>),
}

/// Runs all `jobs` on the first `columns` columns as one stage: the rows of all matrices stand in
/// one line, which is cut into equal shares of bytes.
pub(crate) fn project<const N: usize>(
    team: &mut Team,
    isa: Isa,
    columns: usize,
    jobs: [Job<'_>; N],
) {
    const { assert!(N <= MAX_JOBS) };
    let total = jobs.iter().map(|job| job.w.len()).sum::<usize>();
    let pieces = team.pieces(total, columns);
    let mut before = 0;
    let shared = jobs.map(|job| {
        let cost = job.w.bytes_per_rows(GROUP);
        let split = Split::among(job.w.rows(), GROUP, pieces, cost, before, total);
        before += job.w.len();
        let then = match job.then {
            Then::Keep => SharedThen::Keep,
            Then::AddTo(residual) => SharedThen::AddTo(residual.share_rows(columns, split)),
            Then::AddGatedTo(gate, residual) => {
                SharedThen::AddGatedTo(gate, residual.share_rows(columns, split))
            }
            Then::Prepare(f, acts) => SharedThen::Prepare(f, acts.share_rows(columns, split)),
        };
        (job.w, job.x, job.y.share_rows(columns, split), then)
    });
    team.run(pieces, &|piece| {
        for (w, x, y, then) in &shared {
            let mut y = y.take(piece);
            w.matmul(isa, x, &mut y);
            match then {
                SharedThen::Keep => {}
                SharedThen::AddTo(residual) => {
                    let mut residual = residual.take(piece);
                    for c in 0..columns {
                        let y = y.column(c);
                        isa.run(
                            #[inline(always)]
                            || residual.column(c).iter_mut().zip(y).for_each(|(r, y)| *r += *y),
                        );
                    }
                }
                SharedThen::AddGatedTo(gate, residual) => {
                    let mut residual = residual.take(piece);
                    let own = y.rows();
                    for c in 0..columns {
                        let gates = &gate.column(c)[own.clone()];
                        let inputs = gates.iter().zip(&*y.column(c));
                        isa.run(
                            #[inline(always)]
                            || {
                                for (r, (gate, y)) in residual.column(c).iter_mut().zip(inputs) {
                                    *r += math::sigmoid(*gate) * y;
                                }
                            },
                        );
                    }
                }
                SharedThen::Prepare(f, acts) => {
                    let mut acts = acts.take(piece);
                    let start = y.rows().start;
                    for c in 0..columns {
                        let y = y.column(c);
                        acts.fill(
                            isa,
                            c,
                            #[inline(always)]
                            |rows, out| f.apply(&y[rows.start - start..rows.end - start], out),
                        );
                    }
                }
            }
        }
    });
}

/// Columns from which a stage over columns is worth a hand-over to the team.
const PARALLEL_COLUMNS: usize = 4;

/// How a stage over `columns` whole columns is cut: in one piece (inline) for few.
pub(crate) fn column_split(team: &Team, columns: usize) -> Split {
    let pieces = if columns >= PARALLEL_COLUMNS { team.threads() } else { 1 };
    Split::new(columns, 1, pieces)
}

/// Runs a stage over columns: inline when it has one piece.
pub(crate) fn run_columns(team: &mut Team, split: Split, stage: &(dyn Fn(usize) + Sync)) {
    if split.pieces() == 1 { stage(0) } else { team.run(split.pieces(), stage) }
}
