//! The interpreter of the list of operations as a backend, for tests.

use super::Run;
use super::backend::{Backend, Columns};
use crate::Result;
use crate::buffers::Workspace;
use crate::model::Model;
use crate::ops::{Host, HostColumns, Values};
use crate::sampler::{NOTHING, Rule};
use crate::stage::Batch;
use crate::state::{RunStates, RunTable, State};

/// The interpreter with its buffers and states.
pub(super) struct Interpreter {
    model: Model,
    host: Host,
    x: Values,
    logits: Values,
    states: RunTable,
    /// The state before tokens that were chosen here.
    before: Option<State>,
}

impl Interpreter {
    /// For the columns of `workspace`.
    ///
    /// # Panics
    /// The model has no list: it was opened for another device.
    pub(super) fn new(model: &Model, workspace: &Workspace) -> Interpreter {
        let list = model.list().expect("checked when the model was opened");
        let (host, x, logits) = (Host::new(&list, workspace), list.x(), list.logits());
        let (model, states) = (model.clone(), RunTable::default());
        Interpreter { model, host, x, logits, states, before: None }
    }
}

impl Backend for Interpreter {
    fn forward(&mut self, columns: Columns<'_>, runs: &mut [Run<'_>]) -> Result<()> {
        let Columns { batch, wanted } = columns;
        runs.iter().try_for_each(|run| run.state.fetch())?;
        let list = self.model.list()?;
        let states = runs.iter_mut().map(|run| &mut *run.state);
        let states = RunStates::new(&mut self.states, states, self.model.state_layout().lines());
        self.host.run(&list, &mut HostColumns { batch, wanted, states });
        Ok(())
    }

    fn alone(
        &mut self,
        columns: Columns<'_>,
        run: &mut Run<'_>,
        rule: &Rule<'_>,
        chosen: &mut [u32],
    ) -> Result<bool> {
        // As a card has it: keys and values are the host's to place.
        if run.state.layout().has_pages() {
            return Ok(false);
        }
        self.before = Some(run.state.clone());
        let mut tokens = [columns.batch.tokens[0]];
        for (i, chosen) in chosen.iter_mut().enumerate() {
            let batch = Batch { tokens: &tokens, ..columns.batch };
            self.forward(Columns { batch, ..columns }, std::slice::from_mut(run))?;
            *chosen = rule.choose(i, self.logits(0));
            tokens = [if *chosen == NOTHING { 0 } else { *chosen }];
        }
        Ok(true)
    }

    fn back(&mut self, state: &mut State, _: usize) -> Result<()> {
        if let Some(before) = &self.before {
            state.clone_from(before);
        }
        Ok(())
    }

    fn logits(&self, i: usize) -> &[f32] {
        self.host.column(self.logits, i)
    }

    fn logits_mut(&mut self, i: usize) -> &mut [f32] {
        self.host.column_mut(self.logits, i)
    }

    fn x(&self, column: usize) -> Result<&[f32]> {
        Ok(self.host.column(self.x, column))
    }

    fn threads(&self) -> usize {
        1
    }
}
