//! Layers: where they come from ([`Source`]), what they can do ([`Layer`]), and a model's list of
//! them without their type ([`Stack`]).

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use super::{Config, Norm, Pass};
use crate::Result;
use crate::buffers::Workspace;
use crate::ops::List;
use crate::state::{PagesRef, SlotRef, StateLayout};
use crate::tensor::{ExpertMatrices, Loader, Matrix, Vector};

/// One layer of an architecture: weights and, in `forward`, the equations. Where layers differ in
/// kind, it is an enum of them.
pub(crate) trait Layer: Send + Sync + Sized + 'static {
    /// Buffers for the columns of a forward pass, shared by all layers.
    type Scratch: Send + 'static;

    /// Reads the layer and describes its state.
    fn load(source: &Source<'_>) -> Result<Self>;

    /// Makes the buffers for the columns of `workspace`.
    fn scratch(layers: &[Self], workspace: &Workspace) -> Self::Scratch;

    /// Adds this layer's output to the residual stream and advances its part of every run's state.
    fn forward(&self, pass: &mut Pass<'_>, scratch: &mut Self::Scratch);

    /// Writes itself down as operations: the same as `forward`.
    fn list<'m>(&'m self, list: &mut List<'m>);

    /// Values of the second stream through the layers: see [`super::Streams`].
    fn second(&self) -> usize {
        0
    }

    /// Values that it reads of each token, of the first layer, where they may be others than
    /// d_model.
    fn input(&self) -> Option<usize> {
        None
    }
}

/// Where a layer comes from: its tensors by the names they have in it, the hyper-parameters, and
/// the layout of the state that it describes its part of.
pub(crate) struct Source<'a> {
    pub(crate) config: &'a Config,
    loader: &'a Loader<'a>,
    state: &'a RefCell<StateLayout>,
    pub(crate) layer: usize,
    /// The layer whose tensors it has: another one where weights are shared.
    weights: Weights,
}

/// The tensors that a source has.
#[derive(Clone, Copy)]
enum Weights {
    Layer(usize),
    /// Those outside of the layers.
    Trunk,
}

/// Where the norms of a part stand: before its projections, behind its output, both, neither.
pub(crate) struct Norms {
    pub(crate) before: bool,
    pub(crate) after: bool,
}

impl<'a> Source<'a> {
    /// The same with the weights of layer `layer`.
    pub(crate) fn sharing(&self, layer: usize) -> Source<'a> {
        Source { weights: Weights::Layer(layer), ..*self }
    }

    /// The same with the weights outside of the layers.
    pub(crate) fn outside(&self) -> Source<'a> {
        Source { weights: Weights::Trunk, ..*self }
    }

    fn name(&self, name: &str) -> String {
        match self.weights {
            Weights::Layer(layer) => format!("layers.{layer}.{name}"),
            Weights::Trunk => name.to_owned(),
        }
    }

    /// The matrix `name` of shape (rows, cols).
    pub(crate) fn mat(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        self.loader.mat(&self.name(name), rows, cols)
    }

    /// The matrix `name` of shape (rows, cols), rows of which are looked up.
    pub(crate) fn table(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        self.loader.table(&self.name(name), rows, cols)
    }

    /// The matrices `name` of `n` experts, of shape (rows, cols) each.
    pub(crate) fn experts(
        &self,
        name: &str,
        n: usize,
        rows: usize,
        cols: usize,
    ) -> Result<ExpertMatrices> {
        let all = self.mat(name, ExpertMatrices::rows_of_all(n, rows), cols)?;
        self.loader.parts(rows);
        Ok(ExpertMatrices::new(all, rows))
    }

    /// The f32 tensor `name` of that shape, flat.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vector> {
        self.loader.vector(&self.name(name), shape)
    }

    /// The vector `name` of `n` values.
    pub(crate) fn vector(&self, name: &str, n: usize) -> Result<Vector> {
        self.tensor(name, &[n])
    }

    /// The vector `name`, if the file has it.
    pub(crate) fn optional_vector(&self, name: &str, n: usize) -> Result<Option<Vector>> {
        self.loader.optional_vector(&self.name(name), &[n])
    }

    /// The layer norm `name` over d_model.
    pub(crate) fn layer_norm(&self, name: &str) -> Result<Norm> {
        let eps = self.config.float("ln_eps")?;
        Norm::layer(self.loader, &self.name(name), self.config.d_model, eps)
    }

    /// The RMS norm `name` over d_model.
    pub(crate) fn rms_norm(&self, name: &str) -> Result<Norm> {
        self.rms_norm_of(name, self.config.d_model)
    }

    /// The RMS norm `name` over `n` values.
    pub(crate) fn rms_norm_of(&self, name: &str, n: usize) -> Result<Norm> {
        Norm::rms(self.loader, &self.name(name), n, self.config.float("norm_eps")?)
    }

    /// Where the norms of this layer's parts stand.
    pub(crate) fn norms(&self) -> Result<Norms> {
        match self.config.optional_word("norms", self.layer)? {
            None => Ok(Norms { before: true, after: self.config.flag("has_post_norm")? }),
            Some("before") => Ok(Norms { before: true, after: false }),
            Some("after") => Ok(Norms { before: false, after: true }),
            Some("none") => Ok(Norms { before: false, after: false }),
            Some(_) => Err(self.config.unknown_word("norms")),
        }
    }

    /// A part of the state that stays f32: what is small, or needs the range.
    pub(crate) fn state(&self, name: &'static str, shape: &[usize], initial: f32) -> SlotRef {
        self.state.borrow_mut().push(self.layer, name, shape, initial)
    }

    /// Says that a text may have so many tokens at most, though nothing grows with them.
    pub(crate) fn bound(&self, context: usize) {
        self.state.borrow_mut().bound_all(context);
    }

    /// Keys and values of so many heads, of the last `window` tokens or of every one. A model with
    /// those of every token says how many there may be (`n_context`).
    pub(crate) fn pages(
        &self,
        n_head: usize,
        d_head: usize,
        window: Option<usize>,
    ) -> Result<PagesRef> {
        let mut state = self.state.borrow_mut();
        if window.is_none() {
            state.bound(self.config.size("n_context")?);
        }
        Ok(state.push_pages(self.layer, (n_head, d_head), window))
    }

    /// Keys and values of so many heads, of every token, whatever window was asked for; and keys of
    /// size `d` of every block of so many tokens.
    pub(crate) fn pages_with_blocks(
        &self,
        heads: (usize, usize),
        (d, block): (usize, usize),
    ) -> Result<[PagesRef; 2]> {
        let mut state = self.state.borrow_mut();
        state.bound(self.config.size("n_context")?);
        let pages = state.push_pages_of_all(self.layer, heads);
        Ok([pages, state.push_block_keys(self.layer, d, block)])
    }

    /// A matrix of the state, zero before the first token.
    pub(crate) fn matrix_state(&self, name: &'static str, shape: &[usize]) -> SlotRef {
        self.state.borrow_mut().push_matrix(self.layer, name, shape)
    }
}

/// A model's layers, seen without their type.
pub(crate) trait Stack: Send + Sync {
    /// The layers with buffers for the columns of `workspace`.
    fn ready(&self, workspace: &Workspace) -> Box<dyn Ready>;
    /// Writes all layers down as operations.
    fn list<'m>(&'m self, list: &mut List<'m>);
    /// Values of the second stream.
    fn second(&self) -> usize;
    /// The width of the embedding, where it may be another than d_model.
    fn input(&self) -> Option<usize>;
}

/// Layers with buffers, seen without their type.
pub(crate) trait Ready: Send {
    /// Runs all layers.
    fn forward(&mut self, pass: &mut Pass<'_>);
}

/// Reads those of a model's layers, which are `L`, and describes their state.
pub(super) fn load<L: Layer>(
    loader: &Loader<'_>,
    config: &Config,
    state: &RefCell<StateLayout>,
    layers: Range<usize>,
) -> Result<Box<dyn Stack>> {
    let layers = layers
        .map(|layer| {
            L::load(&Source { config, loader, state, layer, weights: Weights::Layer(layer) })
        })
        .collect::<Result<Arc<[L]>>>()?;
    Ok(Box::new(layers))
}

impl<L: Layer> Stack for Arc<[L]> {
    fn ready(&self, workspace: &Workspace) -> Box<dyn Ready> {
        Box::new(ReadyLayers { layers: Arc::clone(self), scratch: L::scratch(self, workspace) })
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        for layer in self.iter() {
            list.layer();
            layer.list(list);
        }
    }

    fn second(&self) -> usize {
        self.first().map_or(0, L::second)
    }

    fn input(&self) -> Option<usize> {
        self.first().and_then(L::input)
    }
}

struct ReadyLayers<L: Layer> {
    layers: Arc<[L]>,
    scratch: L::Scratch,
}

impl<L: Layer> Ready for ReadyLayers<L> {
    fn forward(&mut self, pass: &mut Pass<'_>) {
        for layer in self.layers.iter() {
            layer.forward(pass, &mut self.scratch);
        }
    }
}
