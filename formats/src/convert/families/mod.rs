//! The architectures that can be converted, one page each: a page is a table, and nothing else.
//!
//! A new one is a page and a line here. Those that a `model_type` tells stand before those that
//! their tensors tell; where the marks of one are among another's tensors, the richer one stands
//! first. How the tables are read: `super::table`. Test: below, that every cell can be read.

mod bamba;
mod cells;
mod deltanet;
mod falcon_h1;
mod fla;
mod granitemoehybrid;
mod gsa;
mod hgrn;
mod hybrid;
mod inkling;
mod jamba;
mod kimi_linear;
mod lara_mini;
mod lfm2;
mod lfm3;
mod lightnet;
mod linear;
mod log_linear_mamba2;
mod mamba;
mod mamba1;
mod mamba2;
mod mamba3;
mod mesa_net;
mod minimax;
mod mom;
mod nemotron_h;
mod olmo_hybrid;
mod pairs;
mod qwen3_5;
mod qwen3_5_moe;
mod qwen3_next;
mod qwen4_exp;
mod recurrent_gemma;
mod retnet;
mod rodimus;
mod rwkv;
mod rwkv4;
mod rwkv5;
mod rwkv6;
mod rwkv6_fla;
mod rwkv7;
mod samba;
mod xlstm;
mod zamba;
mod zamba2;
mod zaya;

use super::table::Architecture;

/// All of them, in the order in which they are tried.
pub(super) static ARCHITECTURES: &[&Architecture] = &[
    &cells::LSTM,
    &cells::GRU,
    &deltanet::GATED_DELTANET,
    &deltanet::DELTANET,
    &deltanet::GATED_DELTAPRODUCT,
    &deltanet::KDA,
    &deltanet::COMBA,
    &mom::MOM,
    &linear::GLA,
    &linear::HGRN2,
    &hgrn::HGRN,
    &gsa::GSA,
    &lightnet::LIGHTNET,
    &retnet::RETNET,
    &granitemoehybrid::GRANITEMOEHYBRID_MOE,
    &granitemoehybrid::GRANITEMOEHYBRID,
    &bamba::BAMBA,
    &nemotron_h::NEMOTRON_H,
    &jamba::JAMBA,
    &minimax::MINIMAX,
    &inkling::INKLING,
    &falcon_h1::FALCON_H1,
    &olmo_hybrid::OLMO_HYBRID,
    &mamba3::MAMBA3,
    &log_linear_mamba2::LOG_LINEAR_MAMBA2,
    &mesa_net::MESA_NET,
    &xlstm::XLSTM,
    &zamba::ZAMBA,
    &zamba2::ZAMBA2,
    &zaya::ZAYA,
    &lfm2::LFM2,
    &lfm3::LFM3,
    &samba::SAMBA,
    &rodimus::RODIMUS_PLUS,
    &rodimus::RODIMUS,
    &lfm2::LFM2_MOE,
    &recurrent_gemma::RECURRENT_GEMMA,
    &qwen3_5::QWEN3_5,
    &qwen3_5_moe::QWEN3_5_MOE,
    &qwen3_next::QWEN3_NEXT,
    &qwen4_exp::QWEN4_EXP,
    &lara_mini::LARA_MINI,
    &kimi_linear::KIMI_LINEAR,
    &kimi_linear::BAILING_HYBRID,
    &rwkv7::RWKV7,
    &rwkv6_fla::RWKV6_FLA,
    &rwkv6::RWKV6,
    &rwkv5::RWKV5,
    &rwkv4::RWKV4,
    &mamba1::MAMBA1,
    &mamba2::MAMBA2,
];

#[cfg(test)]
mod tests {
    use super::ARCHITECTURES;
    use crate::convert::equalize::Pair;
    use crate::convert::syntax::{Cell, formula};

    /// Every cell can be read, and every dimension and condition is a formula.
    #[test]
    fn tables_have_no_typos() {
        for architecture in ARCHITECTURES {
            let rows = || {
                let layers = architecture.layers.iter().flat_map(|(_, rows)| rows.iter());
                architecture.trunk.iter().chain(layers)
            };
            let cells = architecture.hyper.iter().flat_map(|param| param.3);
            for cell in cells.chain(rows().flat_map(|row| row.2)).filter(|cell| !cell.is_empty()) {
                assert!(Cell::parse(cell).is_ok(), "{}: {cell:?}", architecture.name);
            }
            let sides = architecture.checks.iter().map(|check| check.split_once(" = ").unwrap());
            let sides = sides.flat_map(|(left, right)| [left, right]);
            for dim in rows().flat_map(|row| row.1.dims()).chain(sides) {
                let is_known = |name: &str| architecture.hyper.iter().any(|param| param.0 == name);
                let names = dim.split(|c: char| !(c.is_alphanumeric() || c == '_'));
                let mut names = names.filter(|name| name.contains(char::is_alphabetic));
                assert!(formula(dim).is_ok(), "{}: {dim:?}", architecture.name);
                assert!(names.all(is_known), "{}: {dim:?}", architecture.name);
            }
            // Lines that relatives share have cells for layouts that not all of them have.
            let layouts = ARCHITECTURES.iter().flat_map(|each| each.layouts);
            let columns = layouts.map(|layout| layout.column + 1).max();
            let widest =
                rows().map(|row| row.2.len()).chain(architecture.hyper.iter().map(|p| p.3.len()));
            assert!(widest.max() <= columns, "{}: cells without a layout", architecture.name);
        }
    }

    /// Every tensor of a pair is in the tables of an architecture that has that pair.
    #[test]
    fn pairs_have_no_typos() {
        let rows = |architecture: &super::Architecture| {
            let layers = architecture.layers.iter().flat_map(|(_, rows)| rows.iter());
            architecture.trunk.iter().chain(layers).map(|row| row.0).collect::<Vec<_>>()
        };
        let pairs = || ARCHITECTURES.iter().flat_map(|each| each.pairs.iter().copied().flatten());
        for pair in pairs() {
            for name in pair.names() {
                let is_like =
                    |other: &Pair| (other.first, other.second) == (pair.first, pair.second);
                let mut with_it = ARCHITECTURES
                    .iter()
                    .filter(|each| each.pairs.iter().copied().flatten().any(is_like));
                assert!(with_it.any(|each| rows(each).contains(&name)), "{name}");
            }
        }
    }
}
