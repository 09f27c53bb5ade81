//! Projections: several matrices at once, and what comes of their results on the piece that
//! computed them.

use super::Stages;
use crate::buffers::{ActivationBuffer, ActivationShare, Panel, SharedActs};
use crate::kernels::Isa;
use crate::kernels::lanes::{update, update2};
use crate::kernels::math;
use crate::kernels::simd::simd;
use crate::state::{SharedStates, StatesShare};
use crate::team::{Share, Shared, Split};
use crate::tensor::Matrix;

/// The most jobs of one stage.
const MAX_JOBS: usize = 8;

/// An element-wise function applied to a projection's result.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Activation {
    Identity,
    Tanh,
    Sigmoid,
    Silu,
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
            Activation::Silu => y.iter_mut().zip(x).for_each(|(y, x)| *y = math::silu(*x)),
            Activation::ReluSquared => {
                y.iter_mut().zip(x).for_each(|(y, x)| *y = math::relu_squared(*x))
            }
        }
    }
}

/// The gate of a product: f(G x + b') · (W x + b).
#[derive(Clone, Copy)]
pub(crate) struct Gating<'a> {
    pub(crate) f: GateFunction,
    /// b and b'.
    pub(crate) biases: [Option<&'a [f32]>; 2],
}

/// The function of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GateFunction {
    Silu,
    /// With erf.
    Gelu,
    GeluTanh,
}

impl Gating<'_> {
    /// silu(G x) · W x.
    pub(crate) const SILU: Gating<'static> = Gating { f: GateFunction::Silu, biases: [None; 2] };

    /// out = f(gate + b') · (y + b), `at` being the first of the rows.
    #[inline(always)]
    fn apply(&self, at: usize, gate: &[f32], y: &[f32], out: &mut [f32]) {
        out.copy_from_slice(gate);
        if let Some(bias) = self.biases[1] {
            update(out, &bias[at..], |out, b| out + b);
        }
        match self.f {
            GateFunction::Silu => out.iter_mut().for_each(|out| *out = math::silu(*out)),
            GateFunction::Gelu => out.iter_mut().for_each(|out| *out = math::gelu(*out)),
            GateFunction::GeluTanh => out.iter_mut().for_each(|out| *out = math::gelu_tanh(*out)),
        }
        match self.biases[0] {
            None => update(out, y, |gate, y| gate * y),
            Some(bias) => update2(out, y, &bias[at..], |gate, y, b| gate * (y + b)),
        }
    }
}

/// `y = W x`.
pub(crate) struct Product<'a> {
    pub(crate) w: &'a Matrix,
    pub(crate) x: &'a ActivationBuffer,
    pub(crate) y: &'a mut Panel,
}

/// Code over the rows of a result that a piece has computed.
pub(crate) type Apply<'a> = &'a (dyn Fn(&mut Share<'_, f32>) + Sync);
/// The same with those rows of a second panel.
type ApplyWith<'a> = &'a (dyn Fn(&mut Share<'_, f32>, &mut Share<'_, f32>) + Sync);
/// The same with what those rows have in the states.
type Advance<'a> = &'a (dyn Fn(&mut Share<'_, f32>, StatesShare<'_>) + Sync);

/// The use of a product.
enum Then<'a> {
    /// It stays in `y`.
    Keep,
    /// It is added to the residual stream.
    AddTo(&'a mut Panel),
    /// It is added to the residual stream, times sigmoid of the job's second product.
    AddGatedTo(&'a mut Panel),
    /// f(y) becomes the input of a later projection.
    Prepare(Activation, &'a mut ActivationBuffer),
    /// Gated by the job's second product it becomes the input of a later projection.
    PrepareGated(Gating<'a>, &'a mut ActivationBuffer),
    /// It is changed in place.
    Apply(Apply<'a>),
    /// It is changed in place, and so is another panel.
    ApplyWith(&'a mut Panel, ApplyWith<'a>),
    /// It is changed in place and advances the states.
    Advance(SharedStates<'a>, Advance<'a>),
}

/// A product of a stage, or two of the same rows, and what happens then.
pub(crate) struct Job<'a> {
    product: Product<'a>,
    second: Option<Product<'a>>,
    then: Then<'a>,
}

impl<'a> Job<'a> {
    fn new(w: &'a Matrix, x: &'a ActivationBuffer, y: &'a mut Panel, then: Then<'a>) -> Self {
        Job { product: Product { w, x, y }, second: None, then }
    }

    /// `y = W x`.
    pub(crate) fn keep(w: &'a Matrix, x: &'a ActivationBuffer, y: &'a mut Panel) -> Self {
        Job::new(w, x, y, Then::Keep)
    }

    /// `y = W x; residual += y`.
    pub(crate) fn add(
        w: &'a Matrix,
        x: &'a ActivationBuffer,
        y: &'a mut Panel,
        residual: &'a mut Panel,
    ) -> Self {
        Job::new(w, x, y, Then::AddTo(residual))
    }

    /// `residual += sigmoid(G x') · W x`, of two products.
    pub(crate) fn add_gated(
        product: Product<'a>,
        gate: Product<'a>,
        residual: &'a mut Panel,
    ) -> Self {
        Job { product, second: Some(gate), then: Then::AddGatedTo(residual) }
    }

    /// `out = f(W x)`, ready to be projected; `y` is workspace for `W x`.
    pub(crate) fn prepare(
        w: &'a Matrix,
        x: &'a ActivationBuffer,
        y: &'a mut Panel,
        f: Activation,
        out: &'a mut ActivationBuffer,
    ) -> Self {
        Job::new(w, x, y, Then::Prepare(f, out))
    }

    /// `out = f(G x') · W x`, ready to be projected, of two products.
    pub(crate) fn prepare_gated(
        product: Product<'a>,
        gate: Product<'a>,
        gating: Gating<'a>,
        out: &'a mut ActivationBuffer,
    ) -> Self {
        Job { product, second: Some(gate), then: Then::PrepareGated(gating, out) }
    }

    /// `y = f(W x)`.
    pub(crate) fn apply(
        w: &'a Matrix,
        x: &'a ActivationBuffer,
        y: &'a mut Panel,
        f: Apply<'a>,
    ) -> Self {
        Job::new(w, x, y, Then::Apply(f))
    }

    /// `(y, other) = f(W x)`.
    pub(crate) fn apply_with(
        w: &'a Matrix,
        x: &'a ActivationBuffer,
        y: &'a mut Panel,
        other: &'a mut Panel,
        f: ApplyWith<'a>,
    ) -> Self {
        Job::new(w, x, y, Then::ApplyWith(other, f))
    }

    /// `(y, states) = f(W x, states)`.
    pub(crate) fn advance(
        w: &'a Matrix,
        x: &'a ActivationBuffer,
        y: &'a mut Panel,
        states: SharedStates<'a>,
        f: Advance<'a>,
    ) -> Self {
        Job::new(w, x, y, Then::Advance(states, f))
    }

    /// Bytes that its products read, of all rows or of one group of them.
    fn cost(&self, bytes: impl Fn(&Matrix) -> usize) -> usize {
        bytes(self.product.w) + self.second.as_ref().map_or(0, |second| bytes(second.w))
    }
}

// At most MAX_JOBS of them stand on the stack; boxing would allocate.
#[allow(clippy::large_enum_variant)]
enum SharedThen<'a> {
    Keep,
    AddTo(Shared<'a, f32>),
    AddGatedTo(Shared<'a, f32>),
    Prepare(Activation, SharedActs<'a>),
    PrepareGated(Gating<'a>, SharedActs<'a>),
    Apply(Apply<'a>),
    ApplyWith(Shared<'a, f32>, ApplyWith<'a>),
    Advance(SharedStates<'a>, Advance<'a>),
}

/// A product whose result is shared by the pieces.
struct SharedProduct<'a> {
    w: &'a Matrix,
    x: &'a ActivationBuffer,
    y: Shared<'a, f32>,
}

/// A job whose buffers are shared by the pieces.
pub(super) struct SharedJob<'a> {
    product: SharedProduct<'a>,
    second: Option<SharedProduct<'a>>,
    then: SharedThen<'a>,
}

impl<'a> SharedJob<'a> {
    fn new(job: Job<'a>, columns: usize, split: Split) -> SharedJob<'a> {
        let product = |Product { w, x, y }: Product<'a>| SharedProduct {
            w,
            x,
            y: y.share_rows(columns, split),
        };
        let then = match job.then {
            Then::Keep => SharedThen::Keep,
            Then::AddTo(residual) => SharedThen::AddTo(residual.share_rows(columns, split)),
            Then::AddGatedTo(residual) => {
                SharedThen::AddGatedTo(residual.share_rows(columns, split))
            }
            Then::Prepare(f, acts) => SharedThen::Prepare(f, acts.share_rows(columns, split)),
            Then::PrepareGated(gating, acts) => {
                SharedThen::PrepareGated(gating, acts.share_rows(columns, split))
            }
            Then::Apply(f) => SharedThen::Apply(f),
            Then::ApplyWith(other, f) => SharedThen::ApplyWith(other.share_rows(columns, split), f),
            Then::Advance(states, f) => SharedThen::Advance(states.cut_like(split), f),
        };
        SharedJob { product: product(job.product), second: job.second.map(product), then }
    }
}

impl Stages<'_> {
    /// Runs all `jobs` on all columns, as one stage.
    pub(crate) fn project<'a>(&mut self, jobs: impl IntoIterator<Item = Job<'a>>) {
        self.project_columns(self.batch.columns, jobs);
    }

    /// Runs all `jobs` on the first `columns` columns, as one stage: the rows of all matrices stand
    /// in one line, which is cut into equal shares of bytes.
    pub(crate) fn project_columns<'a>(
        &mut self,
        columns: usize,
        jobs: impl IntoIterator<Item = Job<'a>>,
    ) {
        let (list, total) = listed(jobs);
        self.run(columns, total, list);
    }

    fn run(&mut self, columns: usize, total: usize, jobs: Jobs<'_>) {
        let (isa, mut pieces) = (self.isa, self.team.pieces(total, columns));
        // Memory has columns in runs of a piece's rows, which should be long; and each piece looks
        // for the inputs that are not zero.
        let has_columns = |job: &Job<'_>| job.product.w.layout().by_columns;
        if jobs.iter().flatten().any(has_columns) {
            pieces = pieces.min(self.team.threads());
        }
        let shared = share(jobs, columns, Line { pieces, cost: |bytes| bytes, before: 0, total });
        self.team.run(pieces, &|piece| {
            shared.iter().flatten().for_each(|job| job.run(isa, columns, piece));
        });
    }
}

/// The jobs of a stage.
pub(super) type Jobs<'a> = [Option<Job<'a>>; MAX_JOBS];

/// The jobs as a list, and the bytes that their products read.
pub(super) fn listed<'a>(jobs: impl IntoIterator<Item = Job<'a>>) -> (Jobs<'a>, usize) {
    let mut list = [const { None }; MAX_JOBS];
    let mut total = 0;
    for (i, job) in jobs.into_iter().enumerate() {
        total += job.cost(Matrix::len);
        list[i] = Some(job);
    }
    (list, total)
}

/// Where jobs stand in the line of a stage's work.
pub(super) struct Line<C> {
    pub(super) pieces: usize,
    /// The cost of bytes of their matrices.
    pub(super) cost: C,
    /// The costs of what stands before them, and of all.
    pub(super) before: usize,
    pub(super) total: usize,
}

/// Shares the buffers of all jobs.
pub(super) fn share<'a>(
    jobs: Jobs<'a>,
    columns: usize,
    line: Line<impl Fn(usize) -> usize>,
) -> [Option<SharedJob<'a>>; MAX_JOBS] {
    let Line { pieces, cost: of_bytes, mut before, total } = line;
    jobs.map(|job| {
        let job = job?;
        let unit = job.product.w.rows_together();
        let cost = of_bytes(job.cost(|w| w.bytes_per_rows(unit)));
        // The rows of the panel: it may be padded to whole tiles, as the matrix is.
        let split = Split::among(job.product.y.rows(), unit, pieces, cost, before, total);
        before += of_bytes(job.cost(Matrix::len));
        Some(SharedJob::new(job, columns, split))
    })
}

impl SharedJob<'_> {
    /// Does what is `piece`'s.
    pub(super) fn run(&self, isa: Isa, columns: usize, piece: usize) {
        let SharedJob { product, second, then } = self;
        let mut y = product.y.take(piece);
        product.w.matmul(isa, product.x, &mut y);
        match then {
            SharedThen::Keep => {}
            SharedThen::AddTo(residual) => {
                let mut residual = residual.take(piece);
                for c in 0..columns {
                    let y = y.column(c);
                    simd!(isa, residual.column(c).iter_mut().zip(y).for_each(|(r, y)| *r += *y));
                }
            }
            SharedThen::AddGatedTo(residual) => {
                let Some(second) = second else { return };
                let (mut residual, mut gate) = (residual.take(piece), second.y.take(piece));
                second.w.matmul(isa, second.x, &mut gate);
                for c in 0..columns {
                    let inputs = gate.column(c).iter().zip(&*y.column(c));
                    simd!(isa, {
                        for (r, (gate, y)) in residual.column(c).iter_mut().zip(inputs) {
                            *r += math::sigmoid(*gate) * y;
                        }
                    });
                }
            }
            SharedThen::Prepare(f, acts) => {
                prepare_activated(isa, *f, &mut y, &mut acts.take(piece));
            }
            SharedThen::PrepareGated(gating, acts) => {
                let Some(second) = second else { return };
                let mut gate = second.y.take(piece);
                second.w.matmul(isa, second.x, &mut gate);
                prepare_gated(isa, *gating, [&mut gate, &mut y], &mut acts.take(piece));
            }
            SharedThen::Apply(f) => f(&mut y),
            SharedThen::ApplyWith(other, f) => f(&mut y, &mut other.take(piece)),
            SharedThen::Advance(states, f) => f(&mut y, states.take(piece)),
        }
    }
}

/// `acts` = f(y), for the rows and columns of `y`.
pub(crate) fn prepare_activated(
    isa: Isa,
    f: Activation,
    y: &mut Share<'_, f32>,
    acts: &mut ActivationShare<'_>,
) {
    let start = y.rows().start;
    for c in y.columns() {
        let y = y.column(c);
        acts.fill(
            isa,
            c,
            #[inline(always)]
            |rows, out| f.apply(&y[rows.start - start..rows.end - start], out),
        );
    }
}

/// `acts` = f(gate) · y, for the rows and columns of `y`.
pub(crate) fn prepare_gated(
    isa: Isa,
    gating: Gating<'_>,
    [gate, y]: [&mut Share<'_, f32>; 2],
    acts: &mut ActivationShare<'_>,
) {
    let start = y.rows().start;
    for c in y.columns() {
        let (y, gate) = (y.column(c), gate.column(c));
        acts.fill(
            isa,
            c,
            #[inline(always)]
            |rows, out| {
                let own = rows.start - start..rows.end - start;
                gating.apply(rows.start, &gate[own.clone()], &y[own], out);
            },
        );
    }
}
