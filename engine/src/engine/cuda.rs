//! A card as a backend.

use std::sync::OnceLock;

use super::Run;
use super::backend::{Backend, Columns};
use crate::cuda::{CardLines, Program};
use crate::model::Model;
use crate::{EngineError, Result};

/// A program, its sizes and states, of passes on a card.
pub(super) struct Cuda {
    model: Model,
    /// Columns and rows of logits.
    sizes: (usize, usize),
    /// Made by the first pass, which can say what is wrong.
    program: Option<Program>,
    /// Columns of the residual stream that somebody has asked for.
    x: Vec<OnceLock<Vec<f32>>>,
    states: Vec<u64>,
    /// Row of logits of an engine that has made none, or whose card has failed.
    nothing: Vec<f32>,
}

impl Cuda {
    pub(super) fn new(model: &Model, sizes: (usize, usize)) -> Cuda {
        Cuda {
            model: model.clone(),
            sizes,
            program: None,
            x: (0..sizes.0).map(|_| OnceLock::new()).collect(),
            states: Vec::with_capacity(sizes.0),
            nothing: vec![0.0; model.n_vocab()],
        }
    }
}

impl Backend for Cuda {
    fn forward(&mut self, columns: Columns<'_>, runs: &mut [Run<'_>]) -> Result<()> {
        let Columns { batch, wanted } = columns;
        let loaded = self.model.loaded().ok_or(EngineError::NoDriver)?;
        let program = match &mut self.program {
            Some(program) => program,
            none => none.insert(Program::new(loaded, &self.model.list()?, self.sizes)?),
        };
        self.states.clear();
        let card = loaded.card();
        for run in runs {
            let make = |lines| Ok(Box::new(CardLines::new(card, lines)?) as Box<_>);
            self.states.push(run.state.moved(card.number(), make)?);
        }
        self.x.iter_mut().for_each(|x| *x = OnceLock::new());
        program.run(batch, wanted, &self.states)
    }

    fn logits(&self, i: usize) -> &[f32] {
        self.program.as_ref().and_then(|program| program.logits(i)).unwrap_or(&self.nothing)
    }

    fn logits_mut(&mut self, i: usize) -> &mut [f32] {
        let Cuda { program, nothing, .. } = self;
        program.as_mut().and_then(|program| program.logits_mut(i)).unwrap_or(nothing)
    }

    fn x(&self, column: usize) -> &[f32] {
        self.x[column].get_or_init(|| {
            let read = self.program.as_ref().map(|program| program.x(column));
            read.and_then(|x| x.inspect_err(|error| log::error!("{error}")).ok())
                .unwrap_or_else(|| vec![f32::NAN; self.model.width()])
        })
    }

    fn threads(&self) -> usize {
        1
    }
}
