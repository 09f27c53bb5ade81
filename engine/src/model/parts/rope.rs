//! Rotary positions (Su et al. 2021, arXiv 2104.09864): pairs of a head's channels turn by angles
//! that grow with the token's position in the text (`kernels/rope.rs`). Test:
//! `tests/parity_hybrid.rs`.

use crate::Result;
use crate::buffers::Panel;
use crate::kernels::rope;
use crate::model::{Pass, Source};
use crate::ops::{List, Values};
use crate::stage::{Owned, Piece};
use crate::tensor::Vector;

/// The frequencies of the pairs (i, i + n), n of them; none where nothing turns. Those of channels
/// that stand still among them are 0.
pub(crate) struct Rope(Option<Vector>);

impl Rope {
    /// Those called `name`, of the first `n_rot` channels of a head of `d_head`.
    pub(crate) fn load(source: &Source<'_>, name: &str, d_head: usize) -> Result<Rope> {
        let n_rot = source.config.optional_size("n_rot")?.unwrap_or(0);
        Ok(Rope(match n_rot.min(d_head) / 2 {
            0 => None,
            pairs => Some(source.vector(name, pairs)?),
        }))
    }

    /// Those called `name`, of all channels of a head of `d_head`, if the file has them.
    pub(crate) fn optional(source: &Source<'_>, name: &str, d_head: usize) -> Result<Rope> {
        Ok(Rope(source.optional_vector(name, d_head / 2)?))
    }

    /// Values of a column of [`Rope::angles`].
    pub(crate) fn rows(&self) -> usize {
        self.0.as_ref().map_or(0, |rope| 2 * rope.len())
    }

    /// cos, then sin, of every pair's angle at the position of each column.
    pub(crate) fn angles(&self, pass: &mut Pass<'_>, angles: &mut Panel) {
        let Some(frequencies) = &self.0 else { return };
        let (batch, states) = (pass.stages.batch, &pass.states);
        let owned = Owned { panels: [angles], acts: [] };
        pass.stages.columns(batch.columns, owned, |piece| {
            let Piece { own, panels: [mut angles], .. } = piece;
            for c in own {
                let run = batch.runs[c];
                let position = states.position(run) + c - batch.spans[run].start;
                rope::angles(frequencies, position, angles.column(c));
            }
        });
    }

    /// The same at one position.
    pub(crate) fn angles_at(&self, position: usize, angles: &mut [f32]) {
        if let Some(frequencies) = &self.0 {
            rope::angles(frequencies, position, angles);
        }
    }

    /// Turns the pairs of `x` by the angles of its column.
    pub(crate) fn turn(&self, x: &mut [f32], angles: &[f32]) {
        if let Some(frequencies) = &self.0 {
            rope::turn(x, &angles[..2 * frequencies.len()]);
        }
    }

    /// Turns heads of `d_head` channels, as an operation.
    pub(crate) fn list(&self, list: &mut List<'_>, x: Values, d_head: usize) {
        self.list_blocks(list, x, d_head, 1);
    }

    /// The same as at the first token of blocks of so many.
    pub(crate) fn list_blocks(&self, list: &mut List<'_>, x: Values, d_head: usize, block: usize) {
        if let Some(frequencies) = &self.0 {
            let angles = list.angles(frequencies, block);
            list.turn(x, d_head, angles);
        }
    }
}
