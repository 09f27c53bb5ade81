//! The list of operations of a model: what its pages compute, written down once as plain operations
//! over named buffers, for devices that execute a list.
//!
//! Each page and part of `model` has, beside `forward`, a `list` that appends its operations to a
//! [`List`], in the order of its equations. A card executes the list; `host.rs` does so here, as
//! plainly as it can be done, and is what holds every architecture's list against its `forward`:
//! with integer-coded formats to the same bits.
//!
//! ```text
//! formula    what an element becomes: a small program of functions over terms
//! operation  embed, gather, map, sum, norm, pack, project, keep, conv, heads, scan, average,
//!            turn, remember, attend, exact, choose, experts, fold, place, blocks, slots, spin,
//!            levels, spread, mesa, past, head convolutions, n-grams, best, cells
//! list       the operations of all layers, then of the head, over buffers that layers share
//! stage      operations that need nothing of each other but what a piece itself has computed:
//!            between stages everybody waits for everybody (`stages.rs`)
//! ```
//!
//! Here: the types ([`Op`]), the builder (`list.rs`), the check of shapes (`check.rs`), the stages,
//! the printer, the interpreter. Not here: equations (`model`), a card's kernels. Tests: below, and
//! `tests/operations.rs` over all architectures.

// Without a device nobody executes a list: it is printed alone.
#![cfg_attr(not(all(feature = "cuda", feature = "interpreter")), allow(dead_code))]

mod attention;
mod cells;
mod check;
mod chosen;
mod experts;
mod formula;
#[cfg(any(test, feature = "interpreter"))]
mod host;
mod levels;
mod list;
mod mesa;
mod past;
mod place;
mod print;
mod slots;
mod spin;
mod spread;
mod stages;

use crate::state::SlotRef;
use crate::tensor::Matrix;

pub(crate) use attention::{AttendOp, Positional, RelativeOp, RememberOp, TurnOp};
pub(crate) use cells::CellsOp;
pub(crate) use chosen::{BestOp, NgramsOp};
pub(crate) use experts::{ChooseOp, ExactOp, ExpertsOp, padded};
#[cfg(any(test, feature = "cuda"))]
pub(crate) use formula::Term;
pub(crate) use formula::{Formula, Function, before, of, of_head, one_of, rows, weight_of_head};
#[cfg(feature = "cuda")]
pub(crate) use formula::{STEPS, Step};
#[cfg(feature = "interpreter")]
pub(crate) use host::{Columns as HostColumns, Host};
pub(crate) use levels::LevelsOp;
pub(crate) use list::List;
pub(crate) use mesa::MesaOp;
pub(crate) use past::{HeadConvsOp, PastOp};
pub(crate) use place::{BlocksOp, PlaceOp, PlacePart, part};
pub(crate) use print::{Listing, Names};
pub(crate) use slots::SlotsOp;
pub(crate) use spin::SpinOp;
pub(crate) use spread::SpreadOp;
pub(crate) use stages::Plan;
#[cfg(feature = "cuda")]
pub(crate) use stages::{Chain, Stage, Thing};

/// A buffer of f32: so many rows, one column per token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Values(usize);

/// A buffer of activations, in the forms that the matrices reading them want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Inputs(usize);

/// One operation, on every column of the pass.
#[derive(Debug)]
pub(crate) enum Op<'m> {
    /// y = the row of `table` of the column's token.
    Embed { table: &'m Matrix, y: Values },
    /// y = the column of x whose logits are wanted; the operations behind it run for these.
    Gather { x: Values, y: Values },
    /// y = f, element by element.
    Map { f: Formula<'m>, y: Values },
    /// y = Σ f over every so many elements, in the order of `kernels/lanes.rs`.
    Sum { f: Formula<'m>, over: usize, y: Values },
    /// y = norm(x) over every so many elements.
    Norm { x: Values, norm: NormOp<'m>, over: usize, y: Values },
    /// y = f, rounded into the forms of y.
    Pack { f: Formula<'m>, y: Inputs },
    /// y = W x.
    Project { w: &'m Matrix, x: Inputs, y: Values },
    /// The state keeps the last column of every run.
    Keep { x: Values, state: SlotRef },
    /// y = its causal convolution, in blocks of sixteen channels; the window moves on.
    Conv(ConvOp<'m>),
    /// y = what heads with a matrix state read, which moves on.
    Heads(HeadsOp<'m>),
    /// y = Mamba-1's scan, in blocks of sixteen channels.
    Scan(ScanOp<'m>),
    /// y = RWKV-4's weighted average.
    Average(AverageOp<'m>),
    /// x = its heads, turned by their position.
    Turn(TurnOp),
    /// The state keeps keys and values of every column.
    Remember(RememberOp),
    /// y = what heads read of the keys and values that the state keeps.
    Attend(AttendOp<'m>),
    /// y = W x in f32, whatever the formats of weights are.
    Exact(ExactOp<'m>),
    /// The experts of a token.
    Choose(ChooseOp<'m>),
    /// y = W x, of every expert that was chosen, or of every head.
    Experts(ExpertsOp<'m>),
    /// y = f, element by element, column after column; f has y of the column before.
    Fold { f: Formula<'m>, y: Values },
    /// y = elements of other buffers, head by head.
    Place(PlaceOp),
    /// y = W x + b, of blocks of channels.
    Blocks(BlocksOp<'m>),
    /// y = how much of its slots a head reads; keys move into them.
    Slots(SlotsOp),
    /// y = angles that grow with every token, their cosines and sines.
    Spin(SpinOp),
    /// y = what heads with a state for each level read, which move on.
    Levels(LevelsOp),
    /// y = of all experts what those that were chosen have.
    Spread(SpreadOp),
    /// y = what heads read by the solution of a least-squares problem; their state moves on.
    Mesa(MesaOp<'m>),
    /// y = the last columns of x, element by element; the window moves on.
    Past(PastOp),
    /// y = cells, whose tokens pass a matrix one by one.
    Cells(CellsOp<'m>),
    /// y = the rows of a table for the n-grams that end at the column's token.
    Ngrams(NgramsOp<'m>),
    /// y = the blocks of tokens that are nearest to the queries.
    Best(BestOp),
    /// y = heads of queries and keys by their means and convolutions.
    HeadConvs(HeadConvsOp<'m>),
}

impl<'m> Op<'m> {
    /// The formula of an operation that has one.
    pub(crate) fn formula(&self) -> Option<&Formula<'m>> {
        match self {
            Op::Map { f, .. } | Op::Sum { f, .. } | Op::Pack { f, .. } | Op::Fold { f, .. } => {
                Some(f)
            }
            _ => None,
        }
    }
}

/// Weights of a norm, and its epsilon.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NormOp<'m> {
    /// (x − mean) / √(var + eps) · w + b.
    Layer { weight: &'m [f32], bias: &'m [f32], eps: f32 },
    /// x / √(mean(x²) + eps) · w; w may be that of every so many elements.
    Rms { weight: &'m [f32], eps: f32 },
}

/// [`Op::Conv`]: see `kernels/conv.rs`.
#[derive(Debug)]
pub(crate) struct ConvOp<'m> {
    /// (blocks, d_conv, 16)
    pub(crate) taps: &'m [f32],
    /// (blocks, 16)
    pub(crate) bias: &'m [f32],
    /// State: (groups, blocks, d_conv − 1, 16).
    pub(crate) window: SlotRef,
    /// (groups, blocks · 16), in place.
    pub(crate) y: Values,
    /// Of every group whether it sees the column: others pass it by, and it stays as it is there.
    /// Without this there is one group.
    pub(crate) seen: Option<Values>,
}

impl ConvOp<'_> {
    pub(crate) fn n_tap(&self) -> usize {
        self.taps.len().checked_div(self.bias.len()).unwrap_or(0)
    }
}

/// [`Op::Heads`]: linear attention with decay and a delta term, as `kernels/recurrence/span.rs`
/// defines it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadsOp<'m> {
    pub(crate) n_head: usize,
    /// Rows and columns of a head's state.
    pub(crate) n_key: usize,
    pub(crate) n_value: usize,
    /// State: (n_head, n_key, n_value).
    pub(crate) state: SlotRef,
    /// (n_key) of a head each.
    pub(crate) r: OfHead,
    pub(crate) k: OfHead,
    /// (n_value) of a head.
    pub(crate) v: OfHead,
    /// The factor of a head's value (n_head).
    pub(crate) scale: Option<Values>,
    pub(crate) decay: DecayOp,
    pub(crate) delta: Option<DeltaOp>,
    /// Where the state is read before the update, the bonus of the token itself (n_head, n_key).
    pub(crate) bonus: Option<&'m [f32]>,
    /// (n_head, n_value)
    pub(crate) y: Values,
    /// Steps of a token. Where there are several, every buffer has those of each step one behind
    /// the other, in whole tiles.
    pub(crate) steps: usize,
    /// Of every so many heads whether they see the column: others pass it by, and read 0.
    pub(crate) seen: Option<(Values, usize)>,
}

/// A head's elements of a buffer, which some heads in a row may share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OfHead {
    pub(crate) from: Values,
    /// Where those of head 0 begin.
    pub(crate) first: usize,
    /// Elements from a group's to the next group's.
    pub(crate) step: usize,
    /// Heads of a group.
    pub(crate) share: usize,
}

impl OfHead {
    /// `n` elements for each head, from the first row.
    pub(crate) fn own(from: Values, n: usize) -> OfHead {
        OfHead { from, first: 0, step: n, share: 1 }
    }

    /// Where the elements of `head` begin.
    pub(crate) fn at(&self, head: usize) -> usize {
        self.first + head / self.share * self.step
    }
}

/// The factors of a state's rows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DecayOp {
    /// One for all rows of a head (n_head).
    PerHead(Values),
    /// One for each row.
    PerKey(OfHead),
}

/// The delta term.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DeltaOp {
    /// `b (aᵀ S)`.
    General { a: OfHead, b: OfHead },
    /// `k (factor · kᵀ diag(w) S)`; (n_head).
    Rule { factor: Values },
}

/// [`Op::Scan`]: see `kernels/recurrence/scan.rs`.
#[derive(Debug)]
pub(crate) struct ScanOp<'m> {
    /// (blocks, d_state, 16)
    pub(crate) a: &'m [f32],
    /// (blocks, 16)
    pub(crate) d: &'m [f32],
    /// (blocks · 16)
    pub(crate) x: Values,
    /// B and C of every head (n_head, 2, d_state).
    pub(crate) b_c: Values,
    pub(crate) d_state: usize,
    /// Channels of a head.
    pub(crate) d_head: usize,
    /// State: (blocks, d_state, 16).
    pub(crate) state: SlotRef,
    /// Δ, which y takes the place of (blocks · 16).
    pub(crate) delta_y: Values,
}

/// [`Op::Average`]: see `kernels/recurrence/average.rs`.
#[derive(Debug)]
pub(crate) struct AverageOp<'m> {
    pub(crate) k: Values,
    pub(crate) v: Values,
    /// The logarithm of the past's factor, and of the token's own.
    pub(crate) decay: &'m [f32],
    pub(crate) bonus: &'m [f32],
    /// State: numerator, denominator, largest exponent.
    pub(crate) state: [SlotRef; 3],
    pub(crate) y: Values,
}
