//! The list of operations as a card reads it. No call of the driver.
//!
//! Addresses come from outside: `Addresses` says where weights and buffers stand on the card. Not
//! here: the structs (`structs.rs`). Test: below, and `tests/operations.rs` on a card.

use brooklet_formats::DType;
use brooklet_formats::quant::MAX_GROUP;

use super::structs::{
    CardChain, CardInputs, CardMatrix, CardOfHead, CardOp, CardStage, CardTerm, CardValues, Kind,
    TermKind,
};
use super::token_words::formula_number;
use crate::kernels::forms::{Form, GROUP};
use crate::kernels::lanes::WIDTH;
use crate::ops::{
    Chain, DecayOp, DeltaOp, Formula, Inputs, List, NormOp, OfHead, Op, Plan, STEPS, Stage, Step,
    Term, Values,
};
use crate::state::SlotRef;
use crate::tensor::Matrix;

/// Where things stand on a card.
pub(super) trait Addresses: Sync {
    /// Of weights that begin here at `first`.
    fn weights(&self, first: *const u8) -> u64;
    /// Of a buffer.
    fn values(&self, values: Values) -> u64;
    /// Of activations in a form; 0 where they do not have it.
    fn inputs(&self, inputs: Inputs, form: Form) -> u64;
    /// Of activations as int8 by eight columns; 0 where they are not.
    fn eights(&self, inputs: Inputs) -> u64;
}

/// The most bytes of a stage (`rows.cuh`).
pub(super) const STAGE_BYTES: usize = 16384;

/// A program: stages one behind the other.
#[derive(Debug, Default)]
pub(super) struct Stages {
    pub(super) bytes: Vec<u8>,
    /// Where each lies, and its bytes.
    pub(super) places: Vec<(u32, u32)>,
    /// The first whose columns are those whose logits are wanted.
    pub(super) first_wanted: usize,
}

/// Groups of a column of `k` activations, with what pads every format's matrices.
pub(super) fn groups(k: usize) -> usize {
    k.next_multiple_of(2 * MAX_GROUP) / GROUP
}

/// The number of a format (`program.cuh`).
pub(super) fn format(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Bf16 => 2,
        DType::Int8 => 3,
        DType::Int4V1 => 4,
        DType::Int4 => 5,
        DType::Int5 => 6,
        DType::Int6 => 7,
        DType::Fp8E4m3 => 8,
        DType::Fp8E5m2 => 9,
        DType::Lmul => 10,
    }
}

/// A list on its way to a card.
pub(super) struct Encoder<'a, 'm, A> {
    pub(super) list: &'a List<'m>,
    pub(super) addresses: &'a A,
}

impl<A: Addresses> Encoder<'_, '_, A> {
    /// The program of the list for a card with so many blocks; none if a stage is too long.
    pub(super) fn encode(&self, blocks: usize) -> Option<Stages> {
        let mut all = Stages::default();
        let mut is_wanted = false;
        let stages = self.list.stages(&Plan::many(blocks));
        for Stage { prelude, chains } in &stages {
            let ops = || prelude.iter().chain(chains.iter().flat_map(|chain| &chain.ops));
            if !is_wanted && ops().any(|op| matches!(self.list.ops()[*op], Op::Gather { .. })) {
                (is_wanted, all.first_wanted) = (true, all.places.len());
            }
            let bytes = self.stage(prelude, chains, is_wanted);
            if bytes.len() > STAGE_BYTES {
                return None;
            }
            all.places.push((all.bytes.len() as u32, bytes.len() as u32));
            all.bytes.extend(bytes);
        }
        // Each knows where the next one lies.
        for i in 1..all.places.len() {
            let (at, next) = (all.places[i - 1].0 as usize, all.places[i]);
            let next_at = at + std::mem::offset_of!(CardStage, next_at);
            all.bytes[next_at..next_at + 4].copy_from_slice(&next.0.to_le_bytes());
            all.bytes[next_at + 4..next_at + 8].copy_from_slice(&next.1.to_le_bytes());
        }
        Some(all)
    }

    /// A stage, its operations in the order of preludes and chains.
    fn stage(&self, prelude: &[usize], chains: &[Chain], is_wanted: bool) -> Vec<u8> {
        let mut terms: Vec<CardTerm> = Vec::new();
        let mut ops: Vec<CardOp> = Vec::new();
        let mut put = |numbers: &[usize]| {
            let first = ops.len() as u32;
            ops.extend(numbers.iter().map(|op| self.op(&self.list.ops()[*op], &mut terms)));
            first
        };
        put(prelude);
        let card_chains: Vec<CardChain> = chains
            .iter()
            .map(|chain| CardChain {
                first_op: put(&chain.ops),
                ops: chain.ops.len() as u32,
                pieces: chain.pieces as u32,
                unused: 0,
            })
            .collect();
        let ops_at = size_of::<CardStage>() + size_of_val(&*card_chains);
        let stage = CardStage {
            preludes: prelude.len() as u32,
            chains: chains.len() as u32,
            pieces: card_chains.iter().map(|chain| chain.pieces).sum(),
            is_wanted: u32::from(is_wanted),
            ops_at: ops_at as u32,
            terms_at: (ops_at + size_of_val(&*ops)) as u32,
            next_at: 0,
            next_bytes: 0,
        };
        let mut bytes = bytemuck::bytes_of(&stage).to_vec();
        bytes.extend(bytemuck::cast_slice::<_, u8>(&card_chains));
        bytes.extend(bytemuck::cast_slice::<_, u8>(&ops));
        bytes.extend(bytemuck::cast_slice::<_, u8>(&terms));
        bytes
    }

    pub(super) fn values(&self, values: Values) -> CardValues {
        CardValues {
            first: self.addresses.values(values),
            stride: self.list.stride(values) as u32,
            rows: self.list.rows(values) as u32,
        }
    }

    pub(super) fn inputs(&self, inputs: Inputs) -> CardInputs {
        let k = self.list.k(inputs);
        let address = |form| self.addresses.inputs(inputs, form);
        CardInputs {
            int8: address(Form::Int8),
            f32: address(Form::F32),
            bf16: address(Form::Bf16),
            k: k as u32,
            groups: groups(k) as u32,
        }
    }

    pub(super) fn weights(&self, weights: &[f32]) -> u64 {
        self.addresses.weights(weights.as_ptr().cast())
    }

    pub(super) fn matrix(&self, w: &Matrix) -> CardMatrix {
        let layout = w.layout();
        let tiles = self.addresses.weights(w.bytes().as_ptr());
        CardMatrix {
            tiles,
            sheet: tiles + (layout.n_tiles() * layout.tile_bytes()) as u64,
            format: format(layout.dtype),
            rows: layout.rows as u32,
            cols: layout.cols as u32,
            group: layout.group as u32,
            pair_bytes: layout.pair_bytes() as u32,
            pairs: layout.n_pairs() as u32,
        }
    }

    pub(super) fn of_head(&self, of: OfHead) -> CardOfHead {
        let CardValues { first: from, stride, .. } = self.values(of.from);
        let (first, step, share) = (of.first as u32, of.step as u32, of.share as u32);
        CardOfHead { from, stride, first, step, share }
    }

    /// An operation with this formula, whose terms come to the end of `terms`.
    pub(super) fn formula(&self, f: &Formula<'_>, terms: &mut Vec<CardTerm>) -> CardOp {
        let first_term = terms.len() as u32;
        let mut steps = [0u8; STEPS];
        for (step, code) in f.steps().iter().zip(&mut steps) {
            *code = match step {
                Step::Push(_) => 1,
                Step::Apply(f) => 2 + *f as u8,
            };
        }
        terms.extend(f.terms().map(|term| self.term(term)));
        let steps = [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|i| steps[at + i])));
        let own = &terms[first_term as usize..];
        // Compiled formulas find their elements by shifts alone.
        let is_shifted = own.iter().all(|term| term.each.max(1).is_power_of_two());
        let formula = if is_shifted { formula_number(steps) } else { u32::MAX };
        let is_by_four = |term: &CardTerm| match term.each {
            0 | 1 => (term.first | term.stride).is_multiple_of(4),
            each => each >= 4,
        };
        let is_by_four = u32::from(formula != u32::MAX && own.iter().all(is_by_four));
        let terms = own.len() as u32;
        CardOp { first_term, terms, steps, formula, is_by_four, ..CardOp::default() }
    }

    fn term(&self, term: Term<'_>) -> CardTerm {
        let none = CardTerm::default();
        match term {
            Term::Number(number) => CardTerm { kind: TermKind::Number as u32, number, ..none },
            Term::Weights { from, each } => CardTerm {
                kind: TermKind::Weights as u32,
                each: each as u32,
                from: self.weights(from),
                ..none
            },
            Term::Values { from, first, each } => {
                let CardValues { first: address, stride, .. } = self.values(from);
                let (first, each) = (first as u32, each as u32);
                CardTerm {
                    kind: TermKind::Values as u32,
                    first,
                    each,
                    stride,
                    from: address,
                    ..none
                }
            }
            Term::Before { from, state } => {
                let CardValues { first, stride, .. } = self.values(from);
                CardTerm {
                    kind: TermKind::Before as u32,
                    each: 1,
                    stride,
                    line: line(state),
                    from: first,
                    ..none
                }
            }
        }
    }

    pub(super) fn op(&self, op: &Op<'_>, terms: &mut Vec<CardTerm>) -> CardOp {
        let none = CardOp::default();
        let rows = |values: Values| self.list.rows(values) as u32;
        match op {
            Op::Embed { table, y } => CardOp {
                kind: Kind::Embed as u32,
                w: self.matrix(table),
                y: self.values(*y),
                ..none
            },
            Op::Gather { x, y } => {
                let (x, rows, y) = (self.values(*x), rows(*y), self.values(*y));
                CardOp { kind: Kind::Gather as u32, rows, x, y, ..none }
            }
            Op::Map { f, y } | Op::Fold { f, y } => {
                let (rows, y) = (rows(*y), self.values(*y));
                let kind = if matches!(op, Op::Map { .. }) { Kind::Map } else { Kind::Fold };
                CardOp { kind: kind as u32, rows, y, ..self.formula(f, terms) }
            }
            Op::Sum { f, over, y } => {
                let (rows, over, y) = (rows(*y), *over as u32, self.values(*y));
                CardOp { kind: Kind::Sum as u32, rows, over, y, ..self.formula(f, terms) }
            }
            Op::Norm { x, norm, over, y } => {
                let (n, over) = (rows(*y), *over as u32);
                let (x, y) = (self.values(*x), self.values(*y));
                let op = CardOp { rows: n, over, x, y, ..none };
                match norm {
                    NormOp::Layer { weight, bias, eps } => {
                        let (weight, bias) = (self.weights(weight), self.weights(bias));
                        CardOp { kind: Kind::LayerNorm as u32, weight, bias, eps: *eps, ..op }
                    }
                    NormOp::Rms { weight, eps } => CardOp {
                        kind: Kind::RmsNorm as u32,
                        weight: self.weights(weight),
                        eps: *eps,
                        // Weights of one group serve all.
                        n_key: u32::from(weight.len() as u32 == over),
                        ..op
                    },
                }
            }
            Op::Pack { f, y } => CardOp {
                kind: Kind::Pack as u32,
                inputs: self.inputs(*y),
                eights: self.addresses.eights(*y),
                ..self.formula(f, terms)
            },
            Op::Project { w, x, y } => CardOp {
                kind: Kind::Project as u32,
                w: self.matrix(w),
                inputs: self.inputs(*x),
                eights: self.addresses.eights(*x),
                y: self.values(*y),
                ..none
            },
            Op::Keep { x, state } => {
                let (rows, x) = (rows(*x), self.values(*x));
                CardOp { kind: Kind::Keep as u32, rows, x, line: [line(*state), 0, 0], ..none }
            }
            Op::Conv(conv) => CardOp {
                kind: Kind::Conv as u32,
                rows: rows(conv.y),
                n_key: conv.n_tap() as u32,
                n_value: (conv.bias.len() / WIDTH) as u32,
                weight: self.weights(conv.taps),
                bias: self.weights(conv.bias),
                x: conv.seen.map_or(CardValues::default(), |seen| self.values(seen)),
                y: self.values(conv.y),
                line: [line(conv.window), 0, 0],
                ..none
            },
            Op::Heads(heads) if heads.steps > 1 => self.stepped(heads, terms),
            Op::Heads(heads) => {
                let mut op = CardOp {
                    kind: Kind::Heads as u32,
                    rows: heads.n_head as u32,
                    n_key: heads.n_key as u32,
                    n_value: heads.n_value as u32,
                    r: self.of_head(heads.r),
                    k: self.of_head(heads.k),
                    v: self.of_head(heads.v),
                    y: self.values(heads.y),
                    line: [line(heads.state), 0, 0],
                    is_half: u32::from(heads.state.dtype() == DType::F16),
                    bias: heads.bonus.map_or(0, |bonus| self.weights(bonus)),
                    scale: heads.scale.map_or(CardValues::default(), |x| self.values(x)),
                    x: heads.seen.map_or(CardValues::default(), |(seen, each)| CardValues {
                        rows: each as u32,
                        ..self.values(seen)
                    }),
                    ..none
                };
                match heads.decay {
                    DecayOp::PerHead(x) => op.decay = self.of_head(OfHead::own(x, 1)),
                    DecayOp::PerKey(of) => (op.decay, op.is_per_key) = (self.of_head(of), 1),
                }
                match heads.delta {
                    None => {}
                    Some(DeltaOp::General { a, b }) => {
                        (op.a, op.b, op.delta) = (self.of_head(a), self.of_head(b), 1);
                    }
                    Some(DeltaOp::Rule { factor }) => {
                        (op.factor, op.delta) = (self.values(factor), 2);
                    }
                }
                op
            }
            Op::Scan(scan) => CardOp {
                kind: Kind::Scan as u32,
                rows: rows(scan.x),
                n_key: scan.d_state as u32,
                n_value: scan.d_head as u32,
                weight: self.weights(scan.a),
                bias: self.weights(scan.d),
                x: self.values(scan.x),
                y: self.values(scan.delta_y),
                k: self.of_head(OfHead::own(scan.b_c, self.list.rows(scan.b_c))),
                line: [line(scan.state), 0, 0],
                is_half: u32::from(scan.state.dtype() == DType::F16),
                ..none
            },
            Op::Average(average) => CardOp {
                kind: Kind::Average as u32,
                rows: rows(average.y),
                k: self.of_head(OfHead::own(average.k, 1)),
                v: self.of_head(OfHead::own(average.v, 1)),
                weight: self.weights(average.decay),
                bias: self.weights(average.bonus),
                y: self.values(average.y),
                line: average.state.map(line),
                ..none
            },
            Op::Turn(turn) => self.turn(turn),
            Op::Remember(remember) => self.remember(remember),
            Op::Attend(attend) => self.attend(attend),
            Op::Exact(exact) => self.exact(exact),
            Op::Choose(choose) => self.choose(choose),
            Op::Place(place) => self.place(place),
            Op::Blocks(blocks) => self.blocks(blocks),
            Op::Slots(slots) => self.slots(slots),
            Op::Spin(spin) => self.spin(spin),
            Op::Levels(levels) => self.levels(levels),
            Op::Spread(spread) => self.spread(spread),
            Op::Mesa(mesa) => self.mesa(mesa),
            Op::Cells(cells) => self.cells(cells),
            Op::Ngrams(ngrams) => self.ngrams(ngrams),
            Op::Best(best) => self.best(best),
            Op::Past(past) => self.past(past),
            Op::HeadConvs(convs) => self.head_convs(convs),
            Op::Experts(experts) => self.experts(experts),
        }
    }
}

/// The cache line where a slot begins.
pub(super) fn line(state: SlotRef) -> u32 {
    state.lines().start as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{of, rows};

    /// Every buffer stands at a thousand times its number.
    struct Thousands;

    impl Addresses for Thousands {
        fn weights(&self, first: *const u8) -> u64 {
            first.addr() as u64
        }
        fn values(&self, values: Values) -> u64 {
            1000 * (1 + u64::from(values != Values::default()))
        }
        fn inputs(&self, _: Inputs, form: Form) -> u64 {
            if form == Form::Int8 { 7 } else { 0 }
        }
        fn eights(&self, _: Inputs) -> u64 {
            0
        }
    }

    #[test]
    fn formulas_become_terms_and_steps() {
        let mut list = List::default();
        let (x, y) = (list.values("x", 32), list.values("y", 16));
        let weights = [1.0; 16];
        list.map(y, (rows(x, 16) + &weights[..]) * 2.5 - of(y));
        let mut terms = Vec::new();
        let encoder = Encoder { list: &list, addresses: &Thousands };
        let op = encoder.op(&list.ops()[0], &mut terms);
        assert_eq!((op.kind, op.rows, op.first_term, op.terms), (Kind::Map as u32, 16, 0, 4));
        // Push, push, add; push, multiply; push, subtract.
        assert_eq!(op.steps[0].to_le_bytes(), [1, 1, 2, 1, 4, 1, 3, 0]);
        let kinds: Vec<u32> = terms.iter().map(|term| term.kind).collect();
        assert_eq!(kinds, [0, 1, 3, 0]);
        assert_eq!((terms[0].from, terms[0].first, terms[0].stride), (1000, 16, 32));
        assert_eq!((terms[1].from, terms[2].number), (weights.as_ptr().addr() as u64, 2.5));
        assert_eq!((terms[3].from, op.y.first), (2000, 2000));
        assert_eq!((groups(1), groups(256), groups(257)), (4, 4, 8));
    }
}
