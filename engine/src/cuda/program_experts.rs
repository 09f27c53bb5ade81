//! Operations of experts, heads of several steps and values laid out anew, as a card reads them.
//! See `program.rs`.

use brooklet_formats::DType;

use super::program::{Addresses, Encoder, groups, line};
use super::structs::{CardInputs, CardOp, CardTerm, CardValues, Kind};
use crate::kernels::choice::Choice;
use crate::kernels::lanes::WIDTH;
use crate::ops::{
    BlocksOp, ChooseOp, ExactOp, ExpertsOp, HeadsOp, OfHead, Op, PlaceOp, PlacePart, SlotsOp,
    Values,
};

impl<A: Addresses> Encoder<'_, '_, A> {
    pub(super) fn exact(&self, exact: &ExactOp<'_>) -> CardOp {
        let rows = self.list.rows(exact.y) as u32;
        CardOp {
            kind: Kind::Exact as u32,
            rows: rows / WIDTH as u32,
            over: exact.w.len() as u32 / rows,
            weight: self.weights(exact.w),
            x: self.values(exact.x),
            y: self.values(exact.y),
            ..CardOp::default()
        }
    }

    pub(super) fn blocks(&self, blocks: &BlocksOp<'_>) -> CardOp {
        let BlocksOp { d, w, bias, x, y } = *blocks;
        CardOp {
            kind: Kind::Blocks as u32,
            rows: (self.list.rows(y) / d) as u32,
            n_key: d as u32,
            weight: self.weights(w),
            bias: self.weights(bias),
            x: self.values(x),
            y: self.values(y),
            ..CardOp::default()
        }
    }

    pub(super) fn slots(&self, slots: &SlotsOp) -> CardOp {
        CardOp {
            kind: Kind::Slots as u32,
            rows: slots.n_head as u32,
            n_key: slots.n_key as u32,
            n_value: slots.n_slot as u32,
            r: self.of_head(slots.q),
            k: self.of_head(slots.k),
            v: self.of_head(slots.share),
            decay: self.of_head(slots.decay),
            y: self.values(slots.y),
            line: [line(slots.state), 0, 0],
            is_half: u32::from(slots.state.dtype() == DType::F16),
            ..CardOp::default()
        }
    }

    pub(super) fn choose(&self, choose: &ChooseOp<'_>) -> CardOp {
        let Choice { has_sigmoid, n_used, n_always, groups, norm_eps, scale } = choose.choice;
        let (n_key, n_value) = groups.unwrap_or((0, 0));
        CardOp {
            kind: Kind::Choose as u32,
            rows: choose.n_choice() as u32,
            over: n_used as u32,
            eps: norm_eps.unwrap_or(0.0),
            line: [choose.n_expert as u32, n_always as u32, u32::from(norm_eps.is_some())],
            is_half: u32::from(has_sigmoid),
            n_key: n_key as u32,
            n_value: n_value as u32,
            x: self.values(choose.scores),
            y: self.values(choose.chosen),
            scale: self.values(choose.weights),
            weight: choose.bias.map_or(0, |bias| self.weights(bias)),
            delta: u32::from(choose.skip_bias.is_some()),
            window: scale.to_bits(),
            beginning: choose.skip_bias.unwrap_or(0.0).to_bits(),
            ..CardOp::default()
        }
    }

    /// Heads of several steps: each is as a column.
    pub(super) fn stepped(&self, heads: &HeadsOp<'_>, terms: &mut Vec<CardTerm>) -> CardOp {
        let steps = heads.steps as u32;
        let mut op = self.op(&Op::Heads(HeadsOp { steps: 1, ..*heads }), terms);
        op.over = steps;
        for of in [&mut op.r, &mut op.k, &mut op.v, &mut op.decay, &mut op.a, &mut op.b] {
            of.stride /= steps;
        }
        for values in [&mut op.y, &mut op.scale, &mut op.factor] {
            values.stride /= steps;
        }
        op
    }

    pub(super) fn place(&self, place: &PlaceOp) -> CardOp {
        let mut op = CardOp {
            kind: Kind::Place as u32,
            rows: place.heads as u32,
            y: self.values(place.y),
            ..CardOp::default()
        };
        let CardOp { r, k, v, decay, a, b, n_key, n_value, over, line, .. } = &mut op;
        let targets = [(r, decay, n_key), (k, a, n_value), (v, b, over)].into_iter().zip(line);
        for (((of, by, to), n), part) in targets.zip(&place.parts) {
            let PlacePart { from, first, step, share, .. } = *part;
            *of = self.of_head(OfHead { from, first, step, share });
            (by.step, *to, *n) = (part.by as u32, part.to as u32, part.n as u32);
        }
        op
    }

    pub(super) fn experts(&self, experts: &ExpertsOp<'_>) -> CardOp {
        let tiles = experts.w.rows().div_ceil(WIDTH);
        let all = self.list.rows(experts.y) / WIDTH;
        let each = self.list.each(experts.x);
        let inputs = self.inputs(experts.x);
        let k = each.unwrap_or(inputs.k as usize);
        let sum = |of: Option<Values>| of.map_or(CardValues::default(), |x| self.values(x));
        CardOp {
            kind: Kind::Experts as u32,
            rows: (all / experts.n) as u32,
            over: tiles as u32,
            n_key: experts.w.rows() as u32,
            x: CardValues { rows: experts.n as u32, ..sum(experts.chosen) },
            y: self.values(experts.y),
            inputs: CardInputs { k: k as u32, groups: groups(k) as u32, ..inputs },
            w: self.matrix(experts.w.all()),
            scale: sum(experts.sum.map(|(weights, _)| weights)),
            factor: sum(experts.sum.map(|(_, into)| into)),
            delta: u32::from(each.is_some()),
            ..CardOp::default()
        }
    }
}
