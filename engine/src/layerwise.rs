//! One layer after the other over many texts: how weights are calibrated.
//!
//! A forward pass takes one text through all layers; here all texts go through one layer before the
//! next is read ([`Layerwise`]). Each layer's matrices may be replaced ([`Weights`]), and an
//! [`Observer`] is told the inputs of every product. Any architecture runs so: a layer is loaded
//! and run as a model's pass does it. Not here: what is made of the inputs (`tools/quantize`).
//! Test: `tests/layerwise.rs`.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::buffers::{Panel, Workspace};
use crate::model::{Model, Pass, Ready, Streams};
use crate::stage::{Batch, Stages};
use crate::state::{RunStates, RunTable, State, StateLayout};
use crate::team::Team;
use crate::tensor::{Altered, Loader};
pub use crate::tensor::{Inputs, Observer, TensorSpec, Weights};
use crate::{EngineError, EngineOptions, Result};

/// The residual streams of many texts, between two layers of a model.
///
/// ```
/// use std::collections::HashMap;
/// use brooklet::layerwise::Layerwise;
/// use brooklet::{EngineOptions, Model};
///
/// let model = Model::open("../models/rwkv7-nano-int8.brk")?;
/// let texts = vec![vec![1, 2, 3], vec![4, 5]];
/// let mut texts = Layerwise::new(&model, texts, &EngineOptions::default())?;
/// for i in 0..model.n_layer() {
///     let mut layer = texts.layer(i, &HashMap::new(), None)?;
///     for text in 0..2 {
///         texts.run(&mut layer, text, true)?;
///     }
/// }
/// assert_eq!(texts.x(1).len(), 2 * model.d_model());
/// # Ok::<(), brooklet::EngineError>(())
/// ```
pub struct Layerwise {
    model: Model,
    team: Team,
    workspace: Workspace,
    /// The tokens of all texts, and those of each in all of them.
    tokens: Vec<u32>,
    texts: Vec<Range<usize>>,
    /// (tokens, width)
    x: Vec<f32>,
    /// The second stream of architectures that have one: (tokens, its width).
    second: Vec<f32>,
    second_width: usize,
    spans: Vec<Range<usize>>,
    runs: Vec<usize>,
    states: RunTable,
}

/// Residual streams of all texts, between two layers.
#[derive(Clone, Debug)]
pub struct Kept {
    x: Vec<f32>,
    second: Vec<f32>,
}

/// One layer, ready to run.
pub struct LoadedLayer {
    index: usize,
    ready: Box<dyn Ready>,
    streams: Streams,
    layout: Arc<StateLayout>,
}

impl Layerwise {
    /// The texts before the first layer: their tokens' embeddings. Of the options, the rows of
    /// logits do not matter.
    ///
    /// # Errors
    /// A text is empty, or has a token outside the vocabulary.
    pub fn new(model: &Model, texts: Vec<Vec<u32>>, options: &EngineOptions) -> Result<Layerwise> {
        let n_vocab = model.n_vocab();
        if texts.iter().any(Vec::is_empty) {
            return Err(EngineError::NoTokens);
        }
        if let Some(&id) = texts.iter().flatten().find(|&&id| id as usize >= n_vocab) {
            return Err(EngineError::UnknownToken { id, n_vocab });
        }
        let mut team = options.team();
        let workspace = Workspace::new(options.chunk.max(1));
        let mut embedded = Panel::new(model.width(), &workspace);
        let mut x = Vec::with_capacity(texts.iter().map(Vec::len).sum::<usize>() * model.width());
        let mut ranges = Vec::with_capacity(texts.len());
        let mut start = 0;
        for text in &texts {
            ranges.push(start..start + text.len());
            start += text.len();
            for tokens in text.chunks(workspace.columns()) {
                let batch = Batch { columns: tokens.len(), spans: &[], runs: &[], tokens };
                team.begin(tokens.len());
                let mut stages = Stages { isa: model.isa(), team: &mut team, batch };
                model.trunk().embed(&mut stages, &mut embedded);
                team.end();
                (0..tokens.len()).for_each(|c| x.extend_from_slice(embedded.column(c)));
            }
        }
        let second_width = model.second();
        Ok(Layerwise {
            model: model.clone(),
            team,
            second: vec![0.0; start * second_width],
            second_width,
            tokens: texts.concat(),
            texts: ranges,
            x,
            spans: Vec::with_capacity(1),
            runs: vec![0; workspace.columns()],
            states: RunTable::new(1),
            workspace,
        })
    }

    /// Number of texts.
    pub fn n_texts(&self) -> usize {
        self.texts.len()
    }

    /// Bytes of the residual streams: 4 for each value of each token.
    pub fn memory(&self) -> usize {
        size_of_val(&*self.x) + size_of_val(&*self.second)
    }

    /// Values of a token in the residual stream: `d_model`, or those of an embedding that is
    /// wider; what stands behind `d_model` is of no use after the first layer.
    pub fn width(&self) -> usize {
        self.model.width()
    }

    /// The residual stream of a text, (tokens, [`Layerwise::width`]).
    pub fn x(&self, text: usize) -> &[f32] {
        let Range { start, end } = self.texts[text];
        let width = self.model.width();
        &self.x[start * width..end * width]
    }

    /// The tensors that layer `layer` is made of.
    ///
    /// # Errors
    /// A hyper-parameter is absent or cannot be.
    pub fn tensors(&self, layer: usize) -> Result<Vec<TensorSpec>> {
        self.model.tensors_of(layer)
    }

    /// Layer `layer`, with the matrices of `instead` in the place of the file's. Where there is an
    /// observer, the others become f32, so that it sees inputs before they are rounded, and takes
    /// 4 bytes for each of the layer's weights.
    ///
    /// # Errors
    /// A replacement has another shape than the matrix; the system has no memory.
    ///
    /// # Panics
    /// The model has no such layer.
    pub fn layer(
        &self,
        layer: usize,
        instead: &HashMap<String, Weights>,
        observer: Option<Arc<dyn Observer>>,
    ) -> Result<LoadedLayer> {
        assert!(layer < self.model.n_layer());
        let altered = Altered { file: self.model.file(), instead, observer };
        let (stack, layout) = self.model.load_layer(layer, &Loader::Altered(&altered))?;
        Ok(LoadedLayer {
            index: layer,
            ready: stack.ready(&self.workspace),
            streams: Streams::new(self.model.width(), self.second_width, &self.workspace),
            layout: Arc::new(layout),
        })
    }

    /// Runs a layer over text number `text`, from its first token. If `keep`, its output replaces
    /// the text's residual stream.
    ///
    /// # Errors
    /// The text is longer than the model's context, or there is no memory for keys and values.
    ///
    /// # Panics
    /// There is no such text.
    pub fn run(&mut self, layer: &mut LoadedLayer, text: usize, keep: bool) -> Result<()> {
        let range = self.texts[text].clone();
        let (width, second_width) = (self.model.width(), self.second_width);
        let mut state = State::new(Arc::clone(&layer.layout), layer.index as u64);
        for start in range.clone().step_by(self.workspace.columns()) {
            let tokens = start..range.end.min(start + self.workspace.columns());
            let columns = tokens.len();
            let streams = &mut layer.streams;
            for (c, token) in tokens.clone().enumerate() {
                streams.x.column_mut(c).copy_from_slice(&self.x[token * width..][..width]);
                let second = &self.second[token * second_width..][..second_width];
                streams.second.column_mut(c).copy_from_slice(second);
            }
            state.reserve(columns)?;
            self.team.begin(columns);
            self.spans.clear();
            self.spans.push(0..columns);
            let batch = Batch {
                columns,
                spans: &self.spans,
                runs: &self.runs[..columns],
                tokens: &self.tokens[tokens.clone()],
            };
            let stages = Stages { isa: self.model.isa(), team: &mut self.team, batch };
            let lines = layer.layout.lines();
            let states = RunStates::new(&mut self.states, [&mut state].into_iter(), lines);
            layer.ready.forward(&mut Pass { stages, states, streams });
            state.advance(columns);
            self.team.end();
            if keep {
                for (c, token) in tokens.enumerate() {
                    self.x[token * width..][..width].copy_from_slice(streams.x.column(c));
                    self.second[token * second_width..][..second_width]
                        .copy_from_slice(streams.second.column(c));
                }
            }
        }
        Ok(())
    }

    /// The residual streams of all texts as they are, to come back to.
    pub fn streams(&self) -> Kept {
        Kept { x: self.x.clone(), second: self.second.clone() }
    }

    /// Puts residual streams back that [`Layerwise::streams`] gave, of the same texts.
    ///
    /// # Panics
    /// They are of other texts, or of a model of another width.
    pub fn put(&mut self, kept: &Kept) {
        self.x.copy_from_slice(&kept.x);
        self.second.copy_from_slice(&kept.second);
    }

    /// The logits behind the last layer after these tokens of text number `text`: `out` gets them
    /// in the place of what it holds, (tokens, n_vocab).
    ///
    /// # Panics
    /// There is no such text, or it has fewer tokens.
    pub fn logits(&mut self, text: usize, tokens: Range<usize>, out: &mut Vec<f32>) {
        let (width, n_vocab) = (self.model.width(), self.model.n_vocab());
        let range = self.texts[text].clone();
        assert!(tokens.end <= range.len());
        let columns = tokens.len().clamp(1, self.workspace.columns());
        let workspace = Workspace::new(columns);
        let mut x = Panel::new(width, &workspace);
        let mut scratch = self.model.trunk().scratch(&workspace);
        let wanted: Vec<usize> = (0..columns).collect();
        out.clear();
        out.reserve(tokens.len() * n_vocab);
        for first in tokens.clone().step_by(columns) {
            let some = range.start + first..range.start + tokens.end.min(first + columns);
            for (c, token) in some.clone().enumerate() {
                x.column_mut(c).copy_from_slice(&self.x[token * width..][..width]);
            }
            self.team.begin(some.len());
            let tokens = &self.tokens[some.clone()];
            let batch = Batch { columns: some.len(), spans: &[], runs: &[], tokens };
            let mut stages = Stages { isa: self.model.isa(), team: &mut self.team, batch };
            self.model.trunk().logits(&mut stages, &x, &wanted[..some.len()], &mut scratch);
            self.team.end();
            (0..some.len()).for_each(|c| out.extend_from_slice(scratch.logits.column(c)));
        }
    }

    /// Tells `observer` the inputs of the head, `name`, behind the last layer, of text number
    /// `text`.
    ///
    /// # Panics
    /// There is no such text.
    pub fn head(&self, name: &str, text: usize, observer: &dyn Observer) {
        let width = self.model.width();
        let mut normed = vec![0.0; self.model.d_model()];
        for x in self.x(text).chunks_exact(width) {
            self.model.trunk().hidden(self.model.isa(), x, &mut normed);
            observer.product(name, 0, &Inputs::new(&normed, normed.len()));
        }
    }
}
