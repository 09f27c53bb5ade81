//! The buffers of a forward pass: panels of f32, activations in the forms that matrices read, and
//! the workspace that both are made in.
//!
//! They know the team (their parts are shared among its workers) and the kernels (which see them as
//! plain views). Not here: states (`state`), weights (`tensor.rs`).

mod activations;
mod panel;
mod workspace;

pub(crate) use activations::{ActivationBuffer, ActivationShare, SharedActs};
pub(crate) use panel::Panel;
pub(crate) use workspace::Workspace;
