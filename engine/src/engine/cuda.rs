//! A card as a backend.

use std::sync::OnceLock;

use super::Run;
use super::backend::{Backend, Columns};
use crate::cuda::{CardLines, Places, Program, pass_bytes};
pub(super) use crate::cuda::{Size, plan};
use crate::model::Model;
use crate::sampler::Rule;
use crate::state::State;
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

impl Cuda {
    /// The program, made now if this is the first pass.
    fn program(&mut self) -> Result<&mut Program> {
        if self.program.is_none() {
            let loaded = self.model.loaded().ok_or(EngineError::NoDriver)?;
            self.program = Some(Program::new(loaded, &self.model.list()?, self.sizes)?);
        }
        made(&mut self.program)
    }

    /// Brings the states of `runs` to the card, for a pass that moves them on, and writes down where
    /// they stand.
    fn stand(&mut self, runs: &mut [Run<'_>]) -> Result<()> {
        self.program()?;
        let loaded = self.model.loaded().ok_or(EngineError::NoDriver)?;
        let card = loaded.card();
        self.places.clear(self.model.state_layout().kinds());
        for run in runs {
            let make = |lines| Ok(Box::new(CardLines::new(card, lines)?) as Box<_>);
            let Places { states, positions, pages, starts, .. } = &mut self.places;
            states.push(run.state.moved(card.number(), make)?);
            positions.push(u32::try_from(run.state.position()).unwrap_or(u32::MAX));
            run.state.moved_pages(card.number(), make, (pages, starts))?;
        }
        self.x.iter_mut().for_each(|x| *x = OnceLock::new());
        Ok(())
    }
}

/// A program that has been made.
fn made(program: &mut Option<Program>) -> Result<&mut Program> {
    program.as_mut().ok_or(EngineError::NoDriver)
}

impl Backend for Cuda {
    fn forward(&mut self, columns: Columns<'_>, runs: &mut [Run<'_>]) -> Result<()> {
        let Columns { batch, wanted } = columns;
        self.stand(runs)?;
        let Cuda { program, places, .. } = self;
        let passed = made(program)?.run(batch, wanted, places);
        passed.inspect_err(|error| runs.iter_mut().for_each(|run| run.state.lose(error)))
    }

    fn alone(
        &mut self,
        columns: Columns<'_>,
        run: &mut Run<'_>,
        rule: &Rule<'_>,
        chosen: &mut [u32],
    ) -> Result<bool> {
        let layout = self.model.state_layout();
        // Keys and values are the host's to place.
        if layout.has_pages() {
            return Ok(false);
        }
        let bytes = layout.bytes();
        if !self.program()?.can_go_alone(chosen.len(), bytes)? {
            return Ok(false);
        }
        self.stand(std::slice::from_mut(run))?;
        let Cuda { program, places, .. } = self;
        let passed =
            made(program)?.run_alone(columns.batch, (columns.wanted, places), rule, chosen);
        passed.inspect_err(|error| run.state.lose(error))?;
        Ok(true)
    }

    fn back(&mut self, state: &mut State, tokens: usize) -> Result<()> {
        let loaded = self.model.loaded().ok_or(EngineError::NoDriver)?;
        let make = |lines| Ok(Box::new(CardLines::new(loaded.card(), lines)?) as Box<_>);
        let place = state.moved(loaded.card().number(), make)?;
        let put = made(&mut self.program)?.put_back(place);
        put.inspect_err(|error| state.lose(error))?;
        state.retreat(tokens);
        Ok(())
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
