//! Cells as a card reads them. See `program.rs`.

use super::program::{Addresses, Encoder, line};
use super::structs::{CardOp, Kind};
use crate::ops::CellsOp;

impl<A: Addresses> Encoder<'_, '_, A> {
    pub(super) fn cells(&self, op: &CellsOp<'_>) -> CardOp {
        let kept = op.kept.unwrap_or(op.hidden);
        CardOp {
            kind: Kind::Cells as u32,
            rows: op.w.cols() as u32,
            n_key: op.gates() as u32,
            w: self.matrix(op.w),
            inputs: self.inputs(op.input),
            x: self.values(op.x),
            y: self.values(op.before),
            scale: self.values(op.y),
            bias: op.bias.map_or(0, |bias| self.weights(bias)),
            line: [line(op.hidden), line(kept), 0],
            ..CardOp::default()
        }
    }
}
