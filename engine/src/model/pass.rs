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
    /// RWKV-7's second stream: the values of the first layer (d_model), which every other mixes
    /// into its own. Empty where there is none.
    pub(crate) v_first: Panel,
}

impl Streams {
    pub(crate) fn new(d_model: usize, v_first: usize, workspace: &Workspace) -> Streams {
        let panel = |rows| Panel::new(rows, workspace);
        Streams { x: panel(d_model), y: panel(d_model), v_first: panel(v_first) }
    }
}
