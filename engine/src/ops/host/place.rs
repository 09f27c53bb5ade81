//! Values laid out anew, executed: see `ops/place.rs`.

use super::{Host, bounds};
use crate::ops::{BlocksOp, PlaceOp};

impl Host {
    pub(super) fn place(&mut self, op: &PlaceOp, piece: (usize, usize), n: usize) {
        let (first, end) = bounds(op.heads, piece);
        let own = self.values[op.y.0].rows() / op.heads;
        for c in 0..n {
            for (head, i) in (first..end).flat_map(|head| (0..own).map(move |i| (head, i))) {
                let found = op.parts.iter().find_map(|part| Some((part, part.at(head, i)?)));
                let new = found.map_or(0.0, |(part, at)| self.values[part.from.0].column(c)[at]);
                self.values[op.y.0].column_mut(c)[head * own + i] = new;
            }
        }
    }

    pub(super) fn blocks(&mut self, op: &BlocksOp<'_>, piece: (usize, usize), n: usize) {
        let BlocksOp { d, w, bias, x, y } = *op;
        let (first, end) = bounds(bias.len() / d, piece);
        for (c, row) in (0..n).flat_map(|c| (first * d..end * d).map(move |row| (c, row))) {
            let (block, output) = (row / d, row % d);
            let x = &self.values[x.0].column(c)[block * d..(block + 1) * d];
            let of_output = w[block * d * d..].chunks_exact(d).map(|w| w[output]);
            let sum = x.iter().zip(of_output).fold(bias[row], |sum, (x, w)| sum + x * w);
            self.values[y.0].column_mut(c)[row] = sum;
        }
    }
}
