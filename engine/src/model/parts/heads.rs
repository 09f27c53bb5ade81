//! Heads: the stage in which everything of a head (its channels' gates, its recurrence, its norm)
//! stays with the piece that owns it. The equations are the page's.

use std::ops::Range;

use crate::Result;
use crate::kernels::Isa;
use crate::kernels::columns::ColumnsMut;
use crate::kernels::forms::GROUP;
use crate::kernels::state::StateSlice;
use crate::model::{Config, Source};
use crate::ops::{DecayOp, HeadsOp, OfHead, Values};
use crate::stage::{Cut, Owned, Piece, Stages, prepare};
use crate::state::{RunStates, SlotRef};
use crate::team::{Share, lcm};

/// The largest head.
const MAX_HEAD: usize = 512;

/// The heads of a layer and their matrix state.
pub(crate) struct Heads {
    n_head: usize,
    /// Channels of a head: values.
    d_head: usize,
    /// State: (n_head, keys, d_head values).
    state: SlotRef,
    /// State: what else a head keeps, f32 (n_head, d_head, so many).
    kept: SlotRef,
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
    /// Tokens that the run has read before them.
    pub(crate) position: usize,
    /// (keys, values)
    pub(crate) state: StateSlice<'a>,
    /// What else it keeps; there may be more than it asked for.
    pub(crate) kept: &'a mut [f32],
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
        let state = source.matrix_state(name, &[n_head, keys, d_head]);
        Ok(Heads { n_head, d_head, state, kept: SlotRef::NONE })
    }

    /// The same heads, each of which also keeps `n` numbers called `name`, as f32.
    pub(crate) fn with(self, source: &Source<'_>, name: &'static str, n: usize) -> Heads {
        let shape = [self.n_head, self.d_head, n.div_ceil(self.d_head)];
        Heads { kept: source.state(name, &shape, 0.0), ..self }
    }

    /// Channels of one.
    pub(crate) fn d_head_of(&self) -> usize {
        self.d_head
    }

    /// State: (n_head, keys, values).
    pub(crate) fn state(&self) -> SlotRef {
        self.state
    }

    /// State: what else they keep (n_head, so many).
    pub(crate) fn kept(&self) -> SlotRef {
        self.kept
    }

    /// Their recurrence as an operation, without a delta term and without more; `n_key` keys.
    pub(crate) fn list<'m>(
        &self,
        n_key: usize,
        [r, k, v]: [OfHead; 3],
        decay: DecayOp,
        y: Values,
    ) -> HeadsOp<'m> {
        let (n_head, n_value, state) = (self.n_head, self.d_head, self.state);
        HeadsOp {
            n_head,
            n_key,
            n_value,
            state,
            r,
            k,
            v,
            scale: None,
            decay,
            delta: None,
            bonus: None,
            y,
            steps: 1,
            seen: None,
        }
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
        let places = [self.state, self.kept];
        stages.rows_and_states(cut, owned, states, places, |piece| {
            let Piece { isa, batch, own, mut panels, mut acts, states } = piece;
            let [mut states, mut kept] = states;
            channels(isa, own.clone(), &mut panels);
            for (run, span) in batch.spans.iter().enumerate() {
                let position = states.position(run);
                let (mut states, kept) = (states.elements(run), kept.get(run));
                let each = self.state.len() / cut.rows * d_head;
                let each_kept = self.kept.len() / cut.rows * d_head;
                for (i, at) in own.clone().step_by(d_head).enumerate() {
                    let own = at..at + d_head;
                    head(Head {
                        isa,
                        columns: span.clone(),
                        panels: panels
                            .each_mut()
                            .map(|panel| panel.view_mut(span.clone(), own.clone())),
                        own,
                        position,
                        state: states.part(i * each..(i + 1) * each),
                        kept: &mut kept[i * each_kept..(i + 1) * each_kept],
                    });
                }
            }
            for acts in &mut acts {
                prepare(isa, &mut panels[0], acts);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use brooklet_formats::DType;

    use super::*;
    use crate::buffers::{Panel, Workspace};
    use crate::stage::Batch;
    use crate::state::{RunTable, State, StateLayout};
    use crate::team::Team;

    const N_HEAD: usize = 5;
    const D_HEAD: usize = 4;
    const KEYS: usize = 3;
    const WIDTH: usize = N_HEAD * D_HEAD;
    /// The columns of two runs.
    const SPANS: [Range<usize>; 2] = [0..2, 2..5];
    const COLUMNS: usize = 5;

    fn input(c: usize, row: usize) -> f32 {
        (100 * c + row) as f32
    }

    fn remembered(run: usize, i: usize) -> f32 {
        (10_000 * run + 1000 + i) as f32
    }

    /// Every piece adds 1 to its channels of the input, and every head adds its state's first row
    /// to each column of its run and then writes its first channel into its state.
    fn run(threads: usize) -> (Vec<f32>, [Vec<f32>; 2]) {
        let mut layout = StateLayout::new("test", DType::F32);
        layout.push(0, "shift", &[7], 0.0);
        let heads = Heads {
            n_head: N_HEAD,
            d_head: D_HEAD,
            kept: SlotRef::NONE,
            state: layout.push_matrix(0, "heads", &[N_HEAD, KEYS, D_HEAD]),
        };
        let layout = Arc::new(layout);
        let mut own = [0, 1].map(|run| {
            let mut state = State::new(Arc::clone(&layout), 0);
            let values: Vec<f32> = (0..heads.state.len()).map(|i| remembered(run, i)).collect();
            state.set(1, &values);
            state
        });
        let workspace = Workspace::new(COLUMNS);
        let [mut y, mut x] = [0, 1].map(|_| Panel::new(WIDTH, &workspace));
        for c in 0..COLUMNS {
            let column = x.column_mut(c).iter_mut().enumerate();
            column.for_each(|(row, x)| *x = input(c, row));
        }
        let mut team = Team::new(threads);
        team.begin(COLUMNS);
        let batch = Batch {
            columns: COLUMNS,
            spans: &SPANS,
            runs: &[0, 0, 1, 1, 1],
            tokens: &[0; COLUMNS],
        };
        let mut stages = Stages { isa: Isa::scalar(), team: &mut team, batch };
        let mut table = RunTable::default();
        let mut states = RunStates::new(&mut table, own.iter_mut(), layout.lines());
        let pieces = Mutex::new(Vec::new());
        heads.forward(
            &mut stages,
            &mut states,
            0,
            Owned { panels: [&mut y, &mut x], acts: [] },
            |_, own, [_, x]| {
                assert_eq!((x.rows(), x.columns()), (own.clone(), 0..COLUMNS));
                for c in x.columns() {
                    x.column(c).iter_mut().for_each(|x| *x += 1.0);
                }
                pieces.lock().expect("no panic").push(own);
            },
            |Head { own, columns, panels: [mut y, mut x], state, .. }| {
                let StateSlice::F32(state) = state else { panic!("f32") };
                assert_eq!((own.len(), state.len()), (D_HEAD, KEYS * D_HEAD));
                for panel in [&y, &x] {
                    assert_eq!((panel.len(), panel.rows()), (columns.len(), D_HEAD));
                }
                for c in 0..columns.len() {
                    for (i, y) in y.at(c).iter_mut().enumerate() {
                        *y = x.at(c)[i] + state[i];
                    }
                }
                state.fill(own.start as f32);
            },
        );
        team.end();
        let mut pieces = pieces.into_inner().expect("no panic");
        pieces.sort_by_key(|own| own.start);
        assert_eq!(pieces.len(), threads);
        assert!(pieces.is_sorted_by(|a, b| a.end == b.start), "each channel once: {pieces:?}");
        assert_eq!((pieces[0].start, pieces[threads - 1].end), (0, WIDTH));
        let y = (0..COLUMNS).flat_map(|c| y.column(c).to_vec()).collect();
        (y, own.map(|state| state.get(1).into_owned()))
    }

    /// However many members there are, channels are prepared once, and each head of each run meets
    /// its own columns, rows and part of the state.
    #[test]
    fn a_head_has_its_own_rows_columns_and_state() {
        let y = |(c, row): (usize, usize)| {
            let (run, head) = (usize::from(!SPANS[0].contains(&c)), row / D_HEAD);
            input(c, row) + 1.0 + remembered(run, head * KEYS * D_HEAD + row % D_HEAD)
        };
        let y: Vec<f32> =
            (0..COLUMNS).flat_map(|c| (0..WIDTH).map(move |row| (c, row))).map(y).collect();
        let state: Vec<f32> =
            (0..N_HEAD * KEYS * D_HEAD).map(|i| (i / (KEYS * D_HEAD) * D_HEAD) as f32).collect();
        for threads in [1, 3] {
            assert_eq!(run(threads), (y.clone(), [state.clone(), state.clone()]), "{threads}");
        }
    }
}
