//! Token shift: what RWKV's blocks read is a mixture of the normed x of this token and of the token
//! before (Peng et al. 2023, arXiv 2305.13048, eq. 11–13). Shared by RWKV-4 to 7.

use crate::Result;
use crate::buffers::{ActivationBuffer, Panel};
use crate::model::{Norm, Pass, Source};
use crate::ops::{Formula, List, Values, before, of};
use crate::stage::{Batch, Owned, Piece};
use crate::state::{RunStates, SlotRef};

/// Which token a mixing vector weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weighs {
    /// x · m + previous · (1 − m): RWKV-4 and 5.
    Current,
    /// x + (previous − x) · m: RWKV-6 and 7.
    Previous,
}

/// The norm before a block, and what the block remembers of the token before.
pub(crate) struct TokenShift {
    norm: Norm,
    weighs: Weighs,
    /// State: the normed x of the token before (d_model).
    shift: SlotRef,
}

impl TokenShift {
    /// The shift behind the layer norm `norm`, whose state is called `state`.
    pub(crate) fn load(
        source: &Source<'_>,
        norm: &str,
        state: &'static str,
        weighs: Weighs,
    ) -> Result<TokenShift> {
        let d_model = source.config.d_model;
        let norm = source.layer_norm(norm)?;
        Ok(TokenShift { norm, weighs, shift: source.state(state, &[d_model], 0.0) })
    }

    /// norm(x) in a buffer called `name`, as an operation.
    pub(crate) fn list_norm<'m>(&'m self, list: &mut List<'m>, name: &'static str) -> Values {
        let x = list.x();
        self.norm.list(list, name, x)
    }

    /// Where the state keeps the token before.
    pub(crate) fn state(&self) -> SlotRef {
        self.shift
    }

    /// The mixture of `normed` with the token before by `m`.
    pub(crate) fn mixture<'m>(&self, normed: Values, m: impl Into<Formula<'m>>) -> Formula<'m> {
        let (x, past) = (of(normed), before(normed, self.shift));
        match self.weighs {
            Weighs::Current => past.clone() + (x - past) * m,
            Weighs::Previous => x.clone() + (past - x) * m,
        }
    }

    /// The state keeps the last token, as an operation.
    pub(crate) fn list_save(&self, list: &mut List<'_>, normed: Values) {
        list.keep(normed, self.shift);
    }

    /// `normed = norm(x)`; `inputs[i]` = its mixture with the token before by `mixes[i]`.
    pub(crate) fn forward<const N: usize>(
        &self,
        pass: &mut Pass<'_>,
        normed: &mut Panel,
        mixes: [&[f32]; N],
        inputs: [&mut ActivationBuffer; N],
    ) {
        self.norm(pass, normed);
        self.mix(pass, normed, mixes, inputs);
        self.save(pass, normed);
    }

    /// `normed[c] = norm(x[c])` for every column.
    pub(crate) fn norm(&self, pass: &mut Pass<'_>, normed: &mut Panel) {
        let x = &pass.streams.x;
        let owned = Owned { panels: [normed], acts: [] };
        pass.stages.columns(pass.stages.batch.columns, owned, |piece| {
            let Piece { isa, own, panels: [mut normed], .. } = piece;
            for c in own {
                self.norm.apply(isa, x.column(c), &mut normed.column(c)[..x.rows()]);
            }
        });
    }

    /// Prepares one mixture of each column and its predecessor for every mixing vector.
    pub(crate) fn mix<const N: usize>(
        &self,
        pass: &mut Pass<'_>,
        normed: &Panel,
        mixes: [&[f32]; N],
        inputs: [&mut ActivationBuffer; N],
    ) {
        let states = &pass.states;
        let owned = Owned { panels: [], acts: inputs };
        pass.stages.columns(pass.stages.batch.columns, owned, |piece| {
            let Piece { isa, batch, own, mut acts, .. } = piece;
            for (m, acts) in mixes.iter().zip(&mut acts) {
                for c in own.clone() {
                    let (x, before) = (normed.column(c), self.previous(batch, states, normed, c));
                    let (base, other) = match self.weighs {
                        Weighs::Current => (before, x),
                        Weighs::Previous => (x, before),
                    };
                    acts.fill(
                        isa,
                        c,
                        #[inline(always)]
                        |rows, out| {
                            let inputs =
                                base[rows.clone()].iter().zip(&other[rows.clone()]).zip(&m[rows]);
                            for (out, ((base, other), m)) in out.iter_mut().zip(inputs) {
                                *out = base + (other - base) * m;
                            }
                        },
                    );
                }
            }
        });
    }

    /// The normed x of the token before column `c`: the column before it, or for the first of a run
    /// the state's.
    pub(crate) fn previous<'a>(
        &self,
        batch: Batch<'_>,
        states: &'a RunStates<'_>,
        normed: &'a Panel,
        c: usize,
    ) -> &'a [f32] {
        let run = batch.runs[c];
        if batch.spans[run].start == c { states.get(run, self.shift) } else { normed.column(c - 1) }
    }

    /// Keeps the last normed x of every run in its state.
    pub(crate) fn save(&self, pass: &mut Pass<'_>, normed: &Panel) {
        for (run, span) in pass.stages.batch.spans.iter().enumerate() {
            pass.states.get_mut(run, self.shift).copy_from_slice(normed.column(span.end - 1));
        }
    }
}
