//! LSTM and GRU language models: an embedding, cells, a head. A layer's output is its input's
//! place taken, nothing is added to it; what its cells read of the token before passes a matrix, so
//! that tokens come one by one there, all runs side by side. What they read of the layer below is
//! one projection of all tokens. Equations: `kernels/recurrence/cells.rs`. Reference:
//! `torch.nn.LSTM`, `torch.nn.GRU`. Test: `tests/parity_cells.rs`.

use std::cmp::Reverse;

use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::recurrence::{gru, lstm};
use crate::kernels::simd::simd;
use crate::model::parts::{Bias, padded};
use crate::model::{Layer, Pass, Source};
use crate::ops::{List, of, part};
use crate::stage::{Job, Owned, Piece};
use crate::state::SlotRef;
use crate::team::Share;
use crate::tensor::{Matrix, acts_for};

/// The numbers of gates.
pub(crate) const LSTM: usize = 4;
pub(crate) const GRU: usize = 3;

/// One layer of cells with so many gates.
pub(crate) struct Cells<const GATES: usize> {
    is_first: bool,
    d_model: usize,
    /// (gates d_model, d_embed) in the first layer, (gates d_model, d_model) in others.
    input: Matrix,
    /// (gates d_model, d_model)
    recurrent: Matrix,
    /// Of both.
    biases: [Bias; 2],
    /// State: what the cells gave last (d_model).
    hidden: SlotRef,
    /// State: what they keep, of an LSTM (d_model).
    kept: Option<SlotRef>,
}

impl<const GATES: usize> Layer for Cells<GATES> {
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<Self> {
        let (config, d_model) = (source.config, source.config.d_model);
        let is_first = source.layer == 0;
        let d_input = if is_first { config.size("d_embed")? } else { d_model };
        let rows = GATES * d_model;
        Ok(Cells {
            is_first,
            d_model,
            input: source.mat("in_proj", rows, d_input)?,
            recurrent: source.mat("recurrent", rows, d_model)?,
            biases: [
                Bias::load(source, "in_proj.bias", rows)?,
                Bias::load(source, "recurrent.bias", rows)?,
            ],
            hidden: source.state("h", &[d_model], 0.0),
            kept: (GATES == LSTM).then(|| source.state("c", &[d_model], 0.0)),
        })
    }

    fn scratch(layers: &[Self], workspace: &Workspace) -> Scratch {
        let d_model = layers.first().map_or(0, |layer| layer.d_model);
        let panel = |rows| Panel::new(rows, workspace);
        let inputs = |is_first| {
            let readers = layers.iter().filter(|layer| layer.is_first == is_first);
            acts_for(workspace, readers.map(|layer| &layer.input))
        };
        Scratch {
            inputs: [true, false].map(inputs),
            from_input: panel(padded(GATES * d_model)),
            from_before: panel(padded(GATES * d_model)),
            hidden: panel(d_model),
            kept: panel(if GATES == LSTM { d_model } else { 0 }),
            before: acts_for(workspace, layers.iter().map(|l| &l.recurrent)),
            order: workspace.list(),
        }
    }

    fn input(&self) -> Option<usize> {
        Some(self.input.cols())
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let (x, d) = (list.x(), self.d_model);
        let input = list.pack("cells input", self.input.cols(), of(x));
        let gates = list.project("cells gates", &self.input, input);
        let [input_bias, bias] = &self.biases;
        if input_bias.values().is_some() {
            list.map(gates, input_bias.of(gates));
        }
        let recurrent = (&self.recurrent, bias.values());
        let hidden = list.cells("cells", recurrent, gates, (self.hidden, self.kept));
        // An embedding may be wider than what cells give.
        let width = list.rows(x);
        let hidden = match width == d {
            true => hidden,
            false => list.place("cells in place", (1, width), [part(hidden, (0, 0), 0, d)]),
        };
        list.map(x, of(hidden));
    }

    fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let (isa, columns) = (pass.stages.isa, pass.stages.batch.columns);
        let [input_bias, bias] = self.biases.each_ref().map(|bias| {
            move |y: &mut Share<'_, f32>| {
                let at = y.rows().start;
                simd!(isa, y.columns().for_each(|c| bias.add(at, y.column(c))));
            }
        });
        let [first, others] = &mut s.inputs;
        let (x, acts) = (&pass.streams.x, if self.is_first { first } else { others });
        pass.stages.columns(columns, Owned { panels: [], acts: [&mut *acts] }, |piece| {
            let Piece { isa, own, acts: [mut acts], .. } = piece;
            for c in own {
                acts.fill(
                    isa,
                    c,
                    #[inline(always)]
                    |rows, out| out.copy_from_slice(&x.column(c)[rows]),
                );
            }
        });
        let input = Job::apply(&self.input, acts, &mut s.from_input, &input_bias);
        pass.stages.project([input]);
        self.begin(pass, s);
        let spans = pass.stages.batch.spans;
        let mut active = s.order.len();
        for step in 0.. {
            // Runs with more tokens stand before those with fewer.
            while active > 0 && spans[s.order[active - 1]].len() <= step {
                active -= 1;
            }
            if active == 0 {
                break;
            }
            let before = Job::apply(&self.recurrent, &s.before, &mut s.from_before, &bias);
            pass.stages.project_columns(active, [before]);
            self.step(pass, s, (active, step));
            for (i, run) in s.order[..active].iter().enumerate() {
                let x = pass.streams.x.column_mut(spans[*run].start + step);
                x[..self.d_model].copy_from_slice(s.hidden.column(i));
            }
        }
        self.end(pass, s);
    }
}

impl<const GATES: usize> Cells<GATES> {
    /// Lays the runs out, longest first, each with its state in a column.
    fn begin(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let spans = pass.stages.batch.spans;
        s.order.clear();
        s.order.extend(0..spans.len());
        s.order.sort_unstable_by_key(|run| Reverse(spans[*run].len()));
        for (i, run) in s.order.iter().enumerate() {
            s.hidden.column_mut(i).copy_from_slice(pass.states.get(*run, self.hidden));
            if let Some(kept) = self.kept {
                s.kept.column_mut(i).copy_from_slice(pass.states.get(*run, kept));
            }
        }
        let hidden = &s.hidden;
        let owned = Owned { panels: [], acts: [&mut s.before] };
        pass.stages.columns(s.order.len(), owned, |piece| {
            let Piece { isa, own, acts: [mut acts], .. } = piece;
            for i in own {
                acts.fill(
                    isa,
                    i,
                    #[inline(always)]
                    |rows, out| out.copy_from_slice(&hidden.column(i)[rows]),
                );
            }
        });
    }

    /// The cells of a token of each of the first runs, which the matrix of the next one reads.
    fn step(&self, pass: &mut Pass<'_>, s: &mut Scratch, (active, step): (usize, usize)) {
        let Scratch { from_input, from_before, order, hidden, kept, before, .. } = s;
        let spans = pass.stages.batch.spans;
        let owned = Owned { panels: [hidden, kept], acts: [before] };
        pass.stages.columns(active, owned, |piece| {
            let Piece { isa, own, panels: [mut hidden, mut kept], acts: [mut acts], .. } = piece;
            for i in own {
                let x = from_input.column(spans[order[i]].start + step);
                let gates = [x, from_before.column(i)];
                let hidden = &mut hidden.column(i)[..self.d_model];
                match GATES {
                    LSTM => lstm(isa, gates, kept.column(i), hidden),
                    _ => gru(isa, gates, hidden),
                }
                acts.fill(
                    isa,
                    i,
                    #[inline(always)]
                    |rows, out| out.copy_from_slice(&hidden[rows]),
                );
            }
        });
    }

    /// Writes the states back.
    fn end(&self, pass: &mut Pass<'_>, s: &Scratch) {
        for (i, run) in s.order.iter().enumerate() {
            pass.states.get_mut(*run, self.hidden).copy_from_slice(s.hidden.column(i));
            if let Some(kept) = self.kept {
                pass.states.get_mut(*run, kept).copy_from_slice(s.kept.column(i));
            }
        }
    }
}

/// Buffers of a forward pass.
pub(crate) struct Scratch {
    /// What the first layer reads, and what others read, one column per token.
    inputs: [ActivationBuffer; 2],
    /// What comes of it (gates d_model).
    from_input: Panel,
    /// What comes of the token before (gates d_model), one column per run.
    from_before: Panel,
    /// The states, one column per run (d_model).
    hidden: Panel,
    kept: Panel,
    /// The former, as its matrix reads it.
    before: ActivationBuffer,
    /// The run of each column.
    order: Vec<usize>,
}
