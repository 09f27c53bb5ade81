//! Heads: the stage in which everything of a head (its channels' gates, its recurrence, its norm)
//! stays with the piece that owns it. The equations are the page's.

use std::ops::Range;

use crate::Result;
use crate::kernels::Isa;
use crate::kernels::columns::ColumnsMut;
use crate::kernels::forms::GROUP;
use crate::kernels::state::StateSlice;
use crate::model::{Config, Source};
use crate::stage::{Cut, Owned, Piece, Stages, prepare};
use crate::state::{RunStates, SlotRef};
use crate::team::{Share, lcm};

/// The largest head.
const MAX_HEAD: usize = 256;

/// The heads of a layer and their matrix state.
pub(crate) struct Heads {
    /// Channels of a head: values.
    d_head: usize,
    /// State: (n_head, keys, d_head values).
    state: SlotRef,
}

/// One head, over the tokens of one run.
pub(crate) struct Head<'a, const P: usize> {
    pub(crate) isa: Isa,
    /// Its channels.
    pub(crate) own: Range<usize>,
    /// The run's columns.
    pub(crate) columns: Range<usize>,
    /// Its channels of the stage's panels, one column per token.
    pub(crate) panels: [ColumnsMut<'a>; P],
    /// (keys, values)
    pub(crate) state: StateSlice<'a>,
}

impl Heads {
    /// Heads of `d_head` of `width` channels, with `keys` rows of state each, called `name`.
    pub(crate) fn load(
        source: &Source<'_>,
        name: &'static str,
        (width, d_head): (usize, usize),
        keys: usize,
    ) -> Result<Heads> {
        let n_head = source.config.divide(width, d_head, "d_head")?;
        Ok(Heads { d_head, state: source.matrix_state(name, &[n_head, keys, d_head]) })
    }

    /// The size of a head that a configuration says.
    pub(crate) fn d_head(config: &Config) -> Result<usize> {
        config.size_up_to("d_head", MAX_HEAD)
    }

    /// For every piece: `channels` once for its rows of all columns of `owned`, then `head` for
    /// each of its heads and each run. The first panel is then prepared as the inputs in `owned`,
    /// if there is one. `bytes` are those of the weights that `channels` reads.
    pub(crate) fn forward<const P: usize, const A: usize>(
        &self,
        stages: &mut Stages<'_>,
        states: &mut RunStates<'_>,
        bytes: usize,
        owned: Owned<'_, P, A>,
        channels: impl Fn(Isa, Range<usize>, &mut [Share<'_, f32>; P]) + Sync,
        head: impl Fn(Head<'_, P>) + Sync,
    ) {
        let d_head = self.d_head;
        let unit = if A == 0 { d_head } else { lcm(d_head, GROUP) };
        let cut = Cut { rows: owned.panels[0].rows(), unit, bytes };
        stages.rows_and_states(cut, owned, states, [self.state], |piece| {
            let Piece { isa, batch, own, mut panels, mut acts, states: [mut states] } = piece;
            channels(isa, own.clone(), &mut panels);
            for (run, span) in batch.spans.iter().enumerate() {
                let mut states = states.elements(run);
                let each = self.state.len() / cut.rows * d_head;
                for (i, at) in own.clone().step_by(d_head).enumerate() {
                    let own = at..at + d_head;
                    head(Head {
                        isa,
                        columns: span.clone(),
                        panels: panels
                            .each_mut()
                            .map(|panel| panel.view_mut(span.clone(), own.clone())),
                        own,
                        state: states.part(i * each..(i + 1) * each),
                    });
                }
            }
            for acts in &mut acts {
                prepare(isa, &mut panels[0], acts);
            }
        });
    }
}
