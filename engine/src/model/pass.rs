//! A forward pass as layers see it.

use crate::buffers::{Panel, Workspace};
use crate::stage::Stages;
use crate::state::RunStates;

/// A forward pass over the columns of a batch.
pub(crate) struct Pass<'a> {
    pub(crate) stages: Stages<'a>,
    /// The states of the runs.
    pub(crate) states: RunStates<'a>,
    pub(crate) streams: &'a mut Streams,
}

/// Panels that go through all layers, one column per token.
pub(crate) struct Streams {
    /// The residual stream (d_model).
    pub(crate) x: Panel,
    /// The result of a layer, to be added to x (d_model).
    pub(crate) y: Panel,
    /// A second stream that all layers see (d_model): of RWKV-7 the values of the first layer,
    /// `v_first`, which every other mixes into its own; of Zamba the embedding. Empty where there
    /// is none.
    pub(crate) second: Panel,
}

impl Streams {
    pub(crate) fn new(d_model: usize, second: usize, workspace: &Workspace) -> Streams {
        let panel = |rows| Panel::new(rows, workspace);
        Streams { x: panel(d_model), y: panel(d_model), second: panel(second) }
    }
}
