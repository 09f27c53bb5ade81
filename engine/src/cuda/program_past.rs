//! Operations that look back, as a card reads them. See `program.rs`.

use super::program::{Addresses, Encoder, line};
use super::structs::{CardOfHead, CardOp, Kind};
use crate::ops::{HeadConvsOp, PastOp};

impl<A: Addresses> Encoder<'_, '_, A> {
    pub(super) fn past(&self, past: &PastOp) -> CardOp {
        CardOp {
            kind: Kind::Past as u32,
            rows: self.list.rows(past.x) as u32,
            over: past.steps as u32,
            x: self.values(past.x),
            y: self.values(past.y),
            line: [line(past.window), 0, 0],
            ..CardOp::default()
        }
    }

    pub(super) fn head_convs(&self, op: &HeadConvsOp<'_>) -> CardOp {
        let convs = &op.convs;
        let more = |weights| CardOfHead { from: self.weights(weights), ..CardOfHead::default() };
        CardOp {
            kind: Kind::HeadConvs as u32,
            rows: (convs.n_head + convs.temperature.len()) as u32,
            over: convs.d_heads_conv as u32,
            n_key: convs.d_conv as u32,
            n_value: convs.d_head as u32,
            line: [convs.n_head, convs.group, op.steps + 1].map(|n| n as u32),
            x: self.values(op.x),
            y: self.values(op.y),
            weight: self.weights(convs.channels),
            bias: self.weights(convs.channels_bias),
            r: more(convs.heads),
            k: more(convs.heads_bias),
            v: more(convs.temperature),
            ..CardOp::default()
        }
    }
}
