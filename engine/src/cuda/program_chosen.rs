//! Operations by the tokens themselves, as a card reads them. See `program.rs`.

use super::program::{Addresses, Encoder, line};
use super::structs::{CardOfHead, CardOp, Kind};
use crate::ops::{BestOp, NgramsOp};

impl<A: Addresses> Encoder<'_, '_, A> {
    pub(super) fn ngrams(&self, op: &NgramsOp<'_>) -> CardOp {
        let numbers =
            |first| CardOfHead { from: self.addresses.weights(first), ..CardOfHead::default() };
        CardOp {
            kind: Kind::Ngrams as u32,
            rows: op.hashes.heads.len() as u32,
            n_key: op.hashes.multipliers.len() as u32,
            window: op.hashes.end as u32,
            w: self.matrix(op.table),
            y: self.values(op.y),
            r: numbers(op.hashes.multipliers.as_ptr().cast()),
            k: numbers(op.hashes.heads.as_ptr().cast()),
            line: [line(op.tokens), 0, 0],
            ..CardOp::default()
        }
    }

    pub(super) fn best(&self, op: &BestOp) -> CardOp {
        CardOp {
            kind: Kind::Best as u32,
            rows: (self.list.rows(op.q) / op.pages.d_head) as u32,
            over: op.size as u32,
            x: self.values(op.q),
            y: self.values(op.y),
            ..self.pages(op.pages)
        }
    }
}
