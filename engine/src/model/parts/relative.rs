//! Scores by distance, in the place of rotary positions (Shaw et al. 2018, arXiv 1803.02155, as
//! Inkling has it): profiles over the distances back to a key, which every head of every token
//! mixes by numbers of its own. Attention to every token may grow sharper with the text: its scores
//! are multiplied by 1 + α ln(max(1, n / floor)), n tokens being there. Reference: transformers
//! `models/inkling/modeling_inkling.py`. Test: `tests/parity_experts.rs`, `kernels/relative.rs`.

use std::ops::Range;

use crate::Result;
use crate::buffers::Panel;
use crate::kernels::relative::{Relative as Distances, growth};
use crate::model::{Pass, Source};
use crate::ops::{Inputs, List, Positional, RelativeOp, Values, of, one_of};
use crate::stage::{Owned, Piece};
use crate::team::Share;
use crate::tensor::{Matrix, Vector};

/// The weights of one layer's scores by distance.
pub(crate) struct Relative {
    /// Profiles.
    pub(crate) n: usize,
    /// (n_head n, d_model)
    pub(crate) input: Matrix,
    /// (n, distances): beyond them nothing is added.
    pub(crate) profiles: Vector,
    /// The floor and α.
    growth: Option<(f32, f32)>,
}

impl Relative {
    /// Those of `n_head` heads, which see a window or every token, if the configuration says that
    /// there are some.
    pub(crate) fn load(
        source: &Source<'_>,
        n_head: usize,
        window: Option<usize>,
    ) -> Result<Option<Relative>> {
        let config = source.config;
        let Some(n) = config.optional_size("n_profile")? else { return Ok(None) };
        let (distances, growth) = match window {
            Some(window) => (window, None),
            None => {
                let growth = match config.optional_size("score_floor")? {
                    Some(floor) => Some((floor as f32, config.float("score_growth")?)),
                    None => None,
                };
                (config.size("n_distance")?, growth)
            }
        };
        Ok(Some(Relative {
            n,
            input: source.mat("attn.mix", n_head * n, config.d_model)?,
            profiles: source.vector("attn.profiles", n * distances)?,
            growth,
        }))
    }

    /// The factor of each column's scores.
    pub(crate) fn factors(&self, pass: &mut Pass<'_>, factors: &mut Panel) {
        let (batch, states) = (pass.stages.batch, &pass.states);
        let owned = Owned { panels: [factors], acts: [] };
        pass.stages.columns(batch.columns, owned, |piece| {
            let Piece { own, panels: [mut factors], .. } = piece;
            for c in own {
                let run = batch.runs[c];
                let n = states.position(run) + c - batch.spans[run].start + 1;
                factors.column(c)[0] = self.growth.map_or(1.0, |of| growth(of, n));
            }
        });
    }

    /// The numbers of heads, times the factor of scores, as operations; and that factor.
    pub(crate) fn list<'m>(
        &'m self,
        list: &mut List<'m>,
        input: Inputs,
    ) -> (RelativeOp<'m>, Option<Values>) {
        let mix = list.project("attention mix", &self.input, input);
        let factor = self.growth.map(|(floor, alpha)| {
            list.positional("attention growth", Positional::Growth { floor, alpha })
        });
        if let Some(factor) = factor {
            list.map(mix, of(mix) * one_of((factor, 0), list.rows(mix)));
        }
        (RelativeOp { mix, n: self.n, profiles: &self.profiles }, factor)
    }

    /// What the kernel of attention sees of some heads.
    pub(crate) fn view<'a>(
        &'a self,
        mix: &'a Panel,
        columns: Range<usize>,
        heads: Range<usize>,
    ) -> Distances<'a> {
        let mix = mix.view(columns, heads.start * self.n..heads.end * self.n);
        Distances { mix, n: self.n, profiles: &self.profiles }
    }

    /// The numbers of a token's heads, times its factor.
    pub(crate) fn scale(&self, mix: &mut Share<'_, f32>, factors: &Panel) {
        for c in mix.columns() {
            let factor = factors.column(c)[0];
            mix.column(c).iter_mut().for_each(|mix| *mix *= factor);
        }
    }
}
