//! Experts, executed: see `ops/experts.rs`.

use super::{Columns, Host, bounds};
use crate::buffers::{Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::forms::GROUP;
use crate::kernels::lanes::WIDTH;
use crate::kernels::rows::exact_rows;
use crate::ops::experts::padded;
use crate::ops::{ChooseOp, ExactOp, ExpertsOp, Formula, Inputs, SpreadOp};
use crate::team::Split;

impl Host {
    pub(super) fn exact(&mut self, exact: &ExactOp<'_>, piece: (usize, usize), n: usize) {
        let k = exact.k(self.values[exact.y.0].rows());
        let (first, end) = bounds(self.values[exact.y.0].rows() / WIDTH, piece);
        let (own, w) = (first * WIDTH..end * WIDTH, first * WIDTH * k..end * WIDTH * k);
        for c in 0..n {
            let x = self.values[exact.x.0].column(c)[..k].to_vec();
            let y = &mut self.values[exact.y.0].column_mut(c)[own.clone()];
            exact_rows(Isa::scalar(), &exact.w[w.clone()], &x, y);
        }
    }

    pub(super) fn choose(&mut self, choose: &ChooseOp<'_>, n: usize) {
        let choice = &choose.choice;
        for c in 0..n {
            let mut scores = self.values[choose.scores.0].column(c)[..choose.n_choice()].to_vec();
            let mut biased = vec![0.0; scores.len() - choice.n_always];
            let (mut chosen, mut weights) = (vec![0.0; choice.n_used], vec![0.0; choice.n_used]);
            choice.choose(
                Isa::scalar(),
                (choose.bias, choose.skip_bias),
                choose.n_expert,
                [&mut scores, &mut biased],
                [&mut chosen, &mut weights],
            );
            self.values[choose.chosen.0].column_mut(c).copy_from_slice(&chosen);
            self.values[choose.weights.0].column_mut(c).copy_from_slice(&weights);
        }
    }

    pub(super) fn spread(&mut self, spread: &SpreadOp, piece: (usize, usize), n: usize) {
        let own = self.own(spread.y, piece);
        for c in 0..n {
            let [chosen, from] =
                [spread.chosen, spread.from].map(|x| self.values[x.0].column(c).to_vec());
            for i in own.clone() {
                let place = chosen.iter().position(|chosen| *chosen == i as f32);
                let new = if i < spread.n { place.map_or(0.0, |place| from[place]) } else { 1.0 };
                self.values[spread.y.0].column_mut(c)[i] = new;
            }
        }
    }

    /// Activations of several experts: each has a column of its own.
    pub(super) fn pack_of_experts(
        &mut self,
        (f, y): (&Formula<'_>, Inputs),
        (n, piece): (usize, (usize, usize)),
        pass: &Columns<'_, '_>,
    ) {
        let (isa, k) = (Isa::scalar(), self.inputs[y.0].k());
        let (rows, groups) = (padded(k), k.div_ceil(GROUP));
        let (first, end) = bounds(self.slots[y.0] * rows / GROUP, piece);
        for slot in 0..self.slots[y.0] {
            let own = |group: &usize| (first..end).contains(&(slot * rows / GROUP + group));
            let elements = |c: usize, group: usize| {
                let of = group * GROUP..((group + 1) * GROUP).min(k);
                self.elements(f, slot * rows + of.start..slot * rows + of.end, c, pass)
            };
            let new: Vec<(usize, Vec<Vec<f32>>)> = (0..groups)
                .filter(own)
                .map(|group| (group, (0..n).map(|c| elements(c, group)).collect()))
                .collect();
            let slots = self.slots[y.0];
            let shared = self.inputs[y.0].share_rows(n * slots, Split::new(k, GROUP, groups));
            for (group, columns) in &new {
                let mut acts = shared.take(*group);
                for (c, new) in columns.iter().enumerate() {
                    acts.fill(isa, c * slots + slot, |rows, out| {
                        let at = rows.start - group * GROUP;
                        out.copy_from_slice(&new[at..at + out.len()]);
                    });
                }
            }
        }
    }

    pub(super) fn experts(&mut self, experts: &ExpertsOp<'_>, piece: (usize, usize), n: usize) {
        let n_used = experts.n;
        let (rows, own) = (experts.w.rows(), self.values[experts.y.0].rows() / n_used);
        // Of a sum pieces are rows of every expert.
        let tiles = if experts.sum.is_some() { own } else { own * n_used } / WIDTH;
        let (first, end) = bounds(tiles, piece);
        for (c, slot) in (0..n).flat_map(|c| (0..n_used).map(move |slot| (c, slot))) {
            let chosen = experts.chosen.map(|chosen| self.values[chosen.0].column(c)[slot]);
            let expert = chosen.map_or(slot, |expert| expert as usize);
            let column = match self.slots[experts.x.0] {
                0 => c,
                slots => c * slots + slot,
            };
            let mut y = Panel::new(rows, &Workspace::new(1));
            let shared = y.share_rows(1, Split::new(rows, WIDTH, 1));
            let x = (&self.inputs[experts.x.0], column);
            experts.w.matmul(Isa::scalar(), expert, x, &mut shared.take(0));
            for tile in first..end {
                let of_slot = match experts.sum {
                    Some(_) => tile,
                    None if tile / (own / WIDTH) == slot => tile % (own / WIDTH),
                    None => continue,
                };
                let new = |row: usize| y.column(0).get(row).copied().unwrap_or(0.0);
                for row in of_slot * WIDTH..(of_slot + 1) * WIDTH {
                    self.values[experts.y.0].column_mut(c)[slot * own + row] = new(row);
                }
                if let Some((weights, into)) = experts.sum {
                    let w = self.values[weights.0].column(c)[slot];
                    for row in of_slot * WIDTH..(of_slot + 1) * WIDTH {
                        self.values[into.0].column_mut(c)[row] += w * new(row);
                    }
                }
            }
        }
    }
}
