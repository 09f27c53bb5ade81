//! Operations of attention as a card reads them. See `program.rs`.

use brooklet_formats::DType;

use super::program::{Addresses, Encoder};
use super::structs::{CardOfHead, CardOp, CardValues, Kind};
use crate::ops::{AttendOp, OfHead, RememberOp, TurnOp};
use crate::state::PagesRef;

impl<A: Addresses> Encoder<'_, '_, A> {
    /// An operation on pages.
    pub(super) fn pages(&self, pages: PagesRef) -> CardOp {
        let (group, first) = pages.place();
        CardOp {
            n_value: pages.d_head as u32,
            line: [first, group, pages.head_lines()].map(|n| n as u32),
            is_half: match pages.dtype {
                DType::F16 => 1,
                DType::Int8 => 2,
                _ => 0,
            },
            // A text has fewer tokens than that.
            window: u32::try_from(pages.window.last).unwrap_or(u32::MAX),
            beginning: pages.window.first as u32,
            ..CardOp::default()
        }
    }

    pub(super) fn turn(&self, turn: &TurnOp) -> CardOp {
        let heads = self.list.rows(turn.x) / turn.d_head;
        CardOp {
            kind: Kind::Turn as u32,
            rows: heads as u32,
            over: u32::from(turn.is_own),
            n_key: turn.n_pair(self.list.rows(turn.angles), heads) as u32,
            n_value: turn.d_head as u32,
            x: self.values(turn.angles),
            y: self.values(turn.x),
            ..CardOp::default()
        }
    }

    pub(super) fn remember(&self, RememberOp { k, v, pages, block }: &RememberOp) -> CardOp {
        // All heads may have the same keys.
        let is_own = self.list.rows(*k) == pages.n_head() * pages.d_head;
        let of_values = |v| self.of_head(OfHead::own(v, pages.d_head));
        let step = if is_own { pages.d_head } else { 0 };
        CardOp {
            kind: Kind::Remember as u32,
            rows: pages.n_head() as u32,
            k: self.of_head(OfHead::own(*k, step)),
            v: v.map_or_else(CardOfHead::default, of_values),
            over: *block as u32,
            ..self.pages(*pages)
        }
    }

    pub(super) fn attend(&self, attend: &AttendOp<'_>) -> CardOp {
        let (blocks, size) = attend.chosen.unzip();
        let none = CardValues::default;
        CardOp {
            kind: Kind::Attend as u32,
            rows: (attend.group * attend.pages.n_head()) as u32,
            n_key: attend.group as u32,
            x: self.values(attend.q),
            y: self.values(attend.y),
            over: attend.relative.map_or(0, |relative| relative.n as u32),
            is_per_key: attend.relative.map_or(0, |r| (r.profiles.len() / r.n) as u32),
            weight: attend.relative.map_or(0, |relative| self.weights(relative.profiles)),
            scale: attend.relative.map_or_else(none, |relative| self.values(relative.mix)),
            factor: blocks.map_or_else(none, |blocks| self.values(blocks)),
            delta: size.unwrap_or(0) as u32,
            ..self.pages(attend.pages)
        }
    }
}
