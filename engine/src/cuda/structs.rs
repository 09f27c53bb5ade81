//! `program.cuh` in Rust: the structs that a card reads, field by field. Test: below.

use bytemuck::{Pod, Zeroable};

/// Bytes of a group of activations as int8 (`rows.cuh`).
pub(super) const INT8_GROUP: usize = 144;
/// Bytes of the same group of eight columns, as tensor cores read it.
pub(super) const EIGHT: usize = 8 * (64 + 4);

/// Operations, by the numbers that a card knows them by.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Embed,
    Gather,
    Map,
    Sum,
    LayerNorm,
    RmsNorm,
    Pack,
    Project,
    Keep,
    Conv,
    Heads,
    Scan,
    Average,
    Turn,
    Remember,
    Attend,
    Exact,
    Choose,
    Experts,
    Fold,
    Place,
    Blocks,
    Slots,
    Spin,
    Levels,
    Spread,
    Mesa,
    Past,
    HeadConvs,
    Ngrams,
    Best,
    Cells,
}

/// Terms of a formula, likewise.
#[derive(Clone, Copy, Debug)]
pub(super) enum TermKind {
    Values,
    Weights,
    /// The column before.
    Before,
    Number,
}

/// A term of a formula.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(super) struct CardTerm {
    pub(super) kind: u32,
    pub(super) first: u32,
    pub(super) each: u32,
    pub(super) stride: u32,
    pub(super) number: f32,
    pub(super) line: u32,
    pub(super) from: u64,
}

#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(super) struct CardValues {
    pub(super) first: u64,
    pub(super) stride: u32,
    pub(super) rows: u32,
}

#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(super) struct CardInputs {
    pub(super) int8: u64,
    pub(super) f32: u64,
    pub(super) bf16: u64,
    pub(super) k: u32,
    pub(super) groups: u32,
}

#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(super) struct CardMatrix {
    pub(super) tiles: u64,
    pub(super) sheet: u64,
    pub(super) format: u32,
    pub(super) rows: u32,
    pub(super) cols: u32,
    pub(super) group: u32,
    pub(super) pair_bytes: u32,
    pub(super) pairs: u32,
}

#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(super) struct CardOfHead {
    pub(super) from: u64,
    pub(super) stride: u32,
    pub(super) first: u32,
    pub(super) step: u32,
    pub(super) share: u32,
}

#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(super) struct CardOp {
    pub(super) kind: u32,
    pub(super) rows: u32,
    pub(super) over: u32,
    pub(super) first_term: u32,
    pub(super) terms: u32,
    pub(super) eps: f32,
    pub(super) line: [u32; 3],
    pub(super) is_half: u32,
    pub(super) n_key: u32,
    pub(super) n_value: u32,
    /// Of a formula: a byte for each step, 0 behind the last.
    pub(super) steps: [u64; 2],
    pub(super) y: CardValues,
    pub(super) x: CardValues,
    pub(super) inputs: CardInputs,
    pub(super) eights: u64,
    pub(super) w: CardMatrix,
    pub(super) weight: u64,
    pub(super) bias: u64,
    pub(super) r: CardOfHead,
    pub(super) k: CardOfHead,
    pub(super) v: CardOfHead,
    pub(super) decay: CardOfHead,
    pub(super) a: CardOfHead,
    pub(super) b: CardOfHead,
    pub(super) scale: CardValues,
    pub(super) factor: CardValues,
    pub(super) is_per_key: u32,
    pub(super) delta: u32,
    pub(super) window: u32,
    pub(super) beginning: u32,
    /// Its number among compiled formulas, and whether elements can be read by four.
    pub(super) formula: u32,
    pub(super) is_by_four: u32,
    /// Stages are copied sixteen bytes at a time.
    pub(super) unused: u64,
}

#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(super) struct CardChain {
    pub(super) first_op: u32,
    pub(super) ops: u32,
    pub(super) pieces: u32,
    pub(super) unused: u32,
}

#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(super) struct CardStage {
    pub(super) preludes: u32,
    pub(super) chains: u32,
    pub(super) pieces: u32,
    pub(super) is_wanted: u32,
    pub(super) ops_at: u32,
    pub(super) terms_at: u32,
    pub(super) next_at: u32,
    pub(super) next_bytes: u32,
}

#[cfg(test)]
mod tests {
    use brooklet_formats::DType;

    use super::*;

    /// The sizes that the card's side asserts of its structs.
    #[test]
    fn both_sides_have_structs_of_one_size() {
        let theirs = include_str!("program.cuh");
        for (name, ours) in [
            ("Term", size_of::<CardTerm>()),
            ("Op", size_of::<CardOp>()),
            ("Chain", size_of::<CardChain>()),
            ("Stage", size_of::<CardStage>()),
        ] {
            let line = format!("static_assert(sizeof({name}) == {ours});");
            assert!(theirs.contains(&line), "{line}");
        }
        let end = "float scale;\n    u32 unused;\n};";
        assert!(include_str!("rows.cuh").contains(end), "Int8Group");
        assert_eq!(INT8_GROUP, 64 + 64 + 2 * 4 + 4 + 4);
    }

    /// The names of an enumeration of the card's side, in lower case.
    fn names(of: &str) -> Vec<String> {
        let (theirs, head) = (include_str!("program.cuh"), format!("enum {of} : u32 {{"));
        let list = theirs.split(&head).nth(1).and_then(|rest| rest.split('}').next());
        let names = list.expect("their numbers").split(',');
        names.map(|name| name.trim().replace('_', "").to_lowercase()).collect()
    }

    #[test]
    fn both_sides_number_formats_alike() {
        let theirs = names("Format");
        assert_eq!(theirs.len(), DType::ALL.len());
        for dtype in DType::ALL {
            let number = super::super::program::format(dtype) as usize;
            assert_eq!(theirs[number], format!("{dtype:?}").to_lowercase());
        }
    }

    #[test]
    fn both_sides_number_operations_alike() {
        let theirs = names("Kind");
        let ours = [
            Kind::Embed,
            Kind::Gather,
            Kind::Map,
            Kind::Sum,
            Kind::LayerNorm,
            Kind::RmsNorm,
            Kind::Pack,
            Kind::Project,
            Kind::Keep,
            Kind::Conv,
            Kind::Heads,
            Kind::Scan,
            Kind::Average,
            Kind::Turn,
            Kind::Remember,
            Kind::Attend,
            Kind::Exact,
            Kind::Choose,
            Kind::Experts,
            Kind::Fold,
            Kind::Place,
            Kind::Blocks,
            Kind::Slots,
            Kind::Spin,
            Kind::Levels,
            Kind::Spread,
            Kind::Mesa,
            Kind::Past,
            Kind::HeadConvs,
            Kind::Ngrams,
            Kind::Best,
            Kind::Cells,
        ];
        assert_eq!(theirs.len(), ours.len());
        for (number, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
            assert_eq!((theirs, number), (&format!("{ours:?}").to_lowercase(), ours as usize));
        }
    }
}
