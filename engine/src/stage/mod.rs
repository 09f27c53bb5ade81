//! Stages: the steps of a forward pass, each of which the team takes in pieces.
//!
//! A page of a model says what a stage computes; who computes which rows or columns of it is
//! decided here. Four kinds: projections ([`Stages::project`]), projections of columns that are
//! grouped by expert ([`Stages::project_groups`]), work on the rows that a piece owns in every
//! column ([`Stages::rows`]), and work on whole columns ([`Stages::columns`]). Not here: threads
//! (`team`), equations (`model`).

mod groups;
mod piece;
mod project;

pub(crate) use groups::{GroupPiece, Groups};
pub(crate) use piece::{Cut, Owned, Piece, prepare};
pub(crate) use project::{
    Activation, Apply, GateFunction, Gating, Job, Product, prepare_activated, prepare_gated,
};

use std::ops::Range;

use crate::kernels::Isa;
use crate::team::Team;

/// How the columns of a forward pass belong to runs.
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    /// Number of columns: the tokens of all runs.
    pub(crate) columns: usize,
    /// The columns of each run; run i owns state i.
    pub(crate) spans: &'a [Range<usize>],
    /// The run of each column.
    pub(crate) runs: &'a [usize],
    /// The token of each column.
    pub(crate) tokens: &'a [u32],
}

/// The team, at work on the columns of a forward pass.
pub(crate) struct Stages<'a> {
    pub(crate) isa: Isa,
    pub(crate) team: &'a mut Team,
    pub(crate) batch: Batch<'a>,
}
