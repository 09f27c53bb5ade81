//! A card as a backend.

use std::sync::OnceLock;

use super::Run;
use super::backend::{Backend, Columns};
use crate::cuda::{CardLines, Places, Program, pass_bytes};
pub(super) use crate::cuda::{Size, plan};
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
    places: Places,
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
            places: Places::default(),
            nothing: vec![0.0; model.n_vocab()],
        }
    }

    /// Bytes of this machine's memory: passes and logits on their way.
    pub(super) fn bytes(model: &Model, (columns, rows): (usize, usize)) -> usize {
        pass_bytes(columns).saturating_add(4 * (rows + 1) * model.n_vocab())
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
        let card = loaded.card();
        self.places.clear(self.model.state_layout().kinds());
        for run in &mut *runs {
            let make = |lines| Ok(Box::new(CardLines::new(card, lines)?) as Box<_>);
            let Places { states, positions, pages, starts, .. } = &mut self.places;
            states.push(run.state.moved(card.number(), make)?);
            positions.push(u32::try_from(run.state.position()).unwrap_or(u32::MAX));
            run.state.moved_pages(card.number(), make, (pages, starts))?;
        }
        self.x.iter_mut().for_each(|x| *x = OnceLock::new());
        let passed = program.run(batch, wanted, &self.places);
        passed.inspect_err(|error| runs.iter_mut().for_each(|run| run.state.lose(error)))
    }

    fn logits(&self, i: usize) -> &[f32] {
        self.program.as_ref().and_then(|program| program.logits(i)).unwrap_or(&self.nothing)
    }

    fn logits_mut(&mut self, i: usize) -> &mut [f32] {
        let Cuda { program, nothing, .. } = self;
        program.as_mut().and_then(|program| program.logits_mut(i)).unwrap_or(nothing)
    }

    fn x(&self, column: usize) -> Result<&[f32]> {
        let missing = EngineError::NoSuchColumn { column, limit: 0 };
        let (Some(program), Some(x)) = (&self.program, self.x.get(column)) else {
            return Err(missing);
        };
        let read = match x.get() {
            Some(_) => Vec::new(),
            None => program.x(column)?,
        };
        Ok(x.get_or_init(|| read))
    }

    fn threads(&self) -> usize {
        1
    }
}
