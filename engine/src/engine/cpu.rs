//! The processor as a backend: pages of the model, a team of threads, scratch.

use brooklet_formats::brk::TensorInfo;

use super::backend::{Backend, Columns};
use super::{EngineOptions, Run};
use crate::Result;
use crate::buffers::{Panel, Workspace};
use crate::kernels::matmul;
use crate::model::{Model, Pass, Ready, Streams, TrunkScratch};
use crate::stage::Stages;
use crate::state::{RunStates, RunTable};
use crate::team::Team;

/// Threads, scratch memory and states of passes on the processor.
pub(super) struct Cpu {
    model: Model,
    team: Team,
    layers: Box<dyn Ready>,
    streams: Streams,
    trunk: TrunkScratch,
    states: RunTable,
}

impl Cpu {
    /// For the columns of `columns` and the rows of logits of `rows`.
    pub(super) fn new(
        model: &Model,
        options: &EngineOptions,
        (columns, rows): (&Workspace, &Workspace),
    ) -> Cpu {
        Cpu {
            model: model.clone(),
            team: options.team(),
            layers: model.layers(columns),
            streams: model.streams(columns),
            trunk: model.trunk().scratch(rows),
            states: RunTable::new(columns.columns()),
        }
    }

    /// Bytes of what is not in a workspace, for passes of so many columns by so many threads.
    pub(super) fn bytes(model: &Model, columns: usize, threads: usize) -> usize {
        let tensors = model.file().tensors().iter();
        let layouts = tensors.filter_map(TensorInfo::tile_layout).filter(|l| l.by_columns);
        let room = layouts.map(|layout| matmul::room(model.isa(), &layout, columns)).max();
        RunTable::bytes(columns) + threads * room.unwrap_or(0)
    }
}

impl Backend for Cpu {
    fn forward(&mut self, columns: Columns<'_>, runs: &mut [Run<'_>]) -> Result<()> {
        let Columns { batch, wanted } = columns;
        runs.iter().try_for_each(|run| run.state.fetch())?;
        self.model.settle();
        self.team.begin(batch.columns);
        let trunk = self.model.trunk();
        let states = runs.iter_mut().map(|run| &mut *run.state);
        let mut pass = Pass {
            stages: Stages { isa: self.model.isa(), team: &mut self.team, batch },
            states: RunStates::new(&mut self.states, states, self.model.state_layout().lines()),
            streams: &mut self.streams,
        };
        trunk.embed(&mut pass.stages, &mut pass.streams.x);
        self.layers.forward(&mut pass);
        trunk.logits(&mut pass.stages, &pass.streams.x, wanted, &mut self.trunk);
        self.team.end();
        Ok(())
    }

    fn logits(&self, i: usize) -> &[f32] {
        self.trunk.logits.column(i)
    }

    fn logits_mut(&mut self, i: usize) -> &mut [f32] {
        self.trunk.logits.column_mut(i)
    }

    fn exchange_logits(&mut self, other: &mut Panel) -> bool {
        let fits = self.trunk.logits.is_like(other);
        if fits {
            std::mem::swap(&mut self.trunk.logits, other);
        }
        fits
    }

    fn x(&self, column: usize) -> Result<&[f32]> {
        Ok(self.streams.x.column(column))
    }

    fn threads(&self) -> usize {
        self.team.threads()
    }
}
