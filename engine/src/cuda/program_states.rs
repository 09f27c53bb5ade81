//! Operations of angles that grow, of heads that are no linear attention, and of what chosen
//! experts have among all, as a card reads them. See `program.rs`.

use brooklet_formats::DType;

use super::program::{Addresses, Encoder, line};
use super::structs::{CardOp, Kind};
use crate::ops::{LevelsOp, MesaOp, OfHead, SpinOp, SpreadOp};

impl<A: Addresses> Encoder<'_, '_, A> {
    pub(super) fn spin(&self, spin: &SpinOp) -> CardOp {
        CardOp {
            kind: Kind::Spin as u32,
            rows: spin.n_head as u32,
            over: spin.first as u32,
            line: [line(spin.state), 0, 0],
            n_key: spin.n_pair as u32,
            n_value: (spin.state.len() / spin.n_head) as u32,
            x: self.values(spin.speed),
            y: self.values(spin.y),
            scale: self.values(spin.step),
            ..CardOp::default()
        }
    }

    pub(super) fn levels(&self, levels: &LevelsOp) -> CardOp {
        CardOp {
            kind: Kind::Levels as u32,
            rows: levels.n_head as u32,
            over: levels.n_level as u32,
            line: [line(levels.state), 0, 0],
            is_half: u32::from(levels.state.dtype() == DType::F16),
            n_key: levels.n_key as u32,
            n_value: levels.n_value as u32,
            x: self.values(levels.weights),
            y: self.values(levels.y),
            r: self.of_head(levels.r),
            k: self.of_head(levels.k),
            v: self.of_head(levels.v),
            decay: self.of_head(OfHead::own(levels.decay, 1)),
            scale: self.values(levels.scale),
            ..CardOp::default()
        }
    }

    pub(super) fn spread(&self, spread: &SpreadOp) -> CardOp {
        CardOp {
            kind: Kind::Spread as u32,
            rows: self.list.rows(spread.y) as u32,
            over: spread.n as u32,
            x: self.values(spread.chosen),
            y: self.values(spread.y),
            scale: self.values(spread.from),
            ..CardOp::default()
        }
    }

    pub(super) fn mesa(&self, mesa: &MesaOp<'_>) -> CardOp {
        CardOp {
            kind: Kind::Mesa as u32,
            rows: mesa.n_head as u32,
            over: mesa.steps as u32,
            line: [line(mesa.state), 0, 0],
            is_half: u32::from(mesa.state.dtype() == DType::F16),
            n_key: mesa.d as u32,
            n_value: mesa.d as u32,
            weight: self.weights(mesa.lambda),
            y: self.values(mesa.y),
            r: self.of_head(mesa.q),
            k: self.of_head(mesa.k),
            v: self.of_head(mesa.v),
            decay: self.of_head(mesa.decay),
            a: self.of_head(mesa.beta),
            ..CardOp::default()
        }
    }
}
