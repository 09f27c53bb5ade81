//! What a model takes of a card's memory, and where its buffers stand there. No call of the driver.
//!
//! Not here: weights (`loaded.rs`). Test: below, and `tests/operations.rs` on a card.

use std::collections::HashMap;

use super::loaded::{Loaded, weight_bytes};
use super::program::{Addresses, Encoder, groups};
use super::structs::{EIGHT, INT8_GROUP};
use super::token::Rooms;
use crate::kernels::forms::{Form, GROUP};
use crate::ops::{Inputs, List, Values};
use crate::{EngineError, Result};

/// Where buffers begin.
pub(super) const ALIGN: usize = 256;
/// Bytes of the head of a pass: `struct Pass`, and the count of blocks that have arrived.
pub(super) const HEAD: usize = 128;

/// Bytes of a card's memory that a model takes, beside the driver's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CardPlan {
    /// Its weights, once for all engines.
    pub weights: usize,
    /// The state of a sequence.
    pub state: usize,
    /// An engine's buffers, and its list of operations.
    pub engine: usize,
}

impl CardPlan {
    /// All of it, for so many sequences in one engine.
    pub fn total(&self, sequences: usize) -> usize {
        let states = self.state.saturating_mul(sequences);
        self.weights.saturating_add(states).saturating_add(self.engine)
    }
}

/// The multiprocessors of a card, and the bytes that a block of the kernel of one token has of its
/// own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) blocks: usize,
    pub(crate) token_bytes: usize,
    pub(crate) copies: bool,
}

impl Size {
    /// An H200's, for plans where there is no card.
    pub(crate) const TYPICAL: Size = Size { blocks: 132, token_bytes: 226 << 10, copies: true };
}

/// The plan of a list for passes of so many columns. Its states take `state` bytes.
///
/// # Errors
/// The list does not fit the kernels.
pub(crate) fn plan(list: &List<'_>, state: usize, columns: usize, size: Size) -> Result<CardPlan> {
    let mut layout = Layout::new(None);
    let buffers = layout.place(list, columns, size.copies);
    let encoder = Encoder { list, addresses: &layout };
    let stages = encoder.encode(size.blocks).ok_or_else(too_long)?;
    let token = encoder.token(size.blocks, Rooms::most(size.token_bytes, size.copies));
    let token = token.map_or(0, |token| token.words.len() + size_of_val(&*token.starts));
    let engine = buffers + stages.bytes.len() + token + pass_bytes(columns);
    Ok(CardPlan { weights: weight_bytes(list), state, engine })
}

/// The most bytes that the plan of a list can come to, for passes of one column and one sequence:
/// found without the program of one token, which takes long to make.
///
/// # Errors
/// The list does not fit the kernels.
pub(crate) fn most(list: &List<'_>, state: usize, size: Size) -> Result<usize> {
    let mut layout = Layout::new(None);
    let buffers = layout.place(list, 1, size.copies);
    let encoder = Encoder { list, addresses: &layout };
    let stages = encoder.encode(size.blocks).ok_or_else(too_long)?;
    let token = encoder.most_of_token(size.blocks, Rooms::most(size.token_bytes, size.copies));
    let engine = buffers + stages.bytes.len() + token + pass_bytes(1);
    Ok(CardPlan { weights: weight_bytes(list), state, engine }.total(1))
}

/// A stage that no block's memory holds.
pub(super) fn too_long() -> EngineError {
    EngineError::NotListed {
        file: "the list of operations".into(),
        part: "stages of so many operations",
    }
}

/// Bytes of what a pass of so many columns brings.
pub(crate) fn pass_bytes(columns: usize) -> usize {
    HEAD + 4 * (3 * columns + columns + 1) + 8 * columns + 64
}

/// The form in which activations lie there: 8-bit floats are made of f32 where they are read.
fn stored(form: Form) -> Form {
    match form {
        Form::Fp8 | Form::Lmul => Form::F32,
        form => form,
    }
}

/// Buffers one behind the other; weights where they were loaded, if they were.
pub(super) struct Layout<'a> {
    loaded: Option<&'a Loaded>,
    /// Where the first stands.
    pub(super) first: u64,
    values: HashMap<Values, usize>,
    inputs: HashMap<(Inputs, u8), usize>,
    /// Activations by eight columns, for tensor cores.
    eights: HashMap<Inputs, usize>,
}

impl Addresses for Layout<'_> {
    fn weights(&self, first: *const u8) -> u64 {
        self.loaded.map_or(ALIGN as u64, |loaded| loaded.place(first))
    }

    fn values(&self, values: Values) -> u64 {
        self.first + self.at(values) as u64
    }

    fn inputs(&self, inputs: Inputs, form: Form) -> u64 {
        self.inputs.get(&(inputs, stored(form) as u8)).map_or(0, |at| self.first + *at as u64)
    }

    fn eights(&self, inputs: Inputs) -> u64 {
        self.eights.get(&inputs).map_or(0, |at| self.first + *at as u64)
    }
}

impl Layout<'_> {
    pub(super) fn new(loaded: Option<&Loaded>) -> Layout<'_> {
        let (values, inputs, eights) = (HashMap::new(), HashMap::new(), HashMap::new());
        Layout { loaded, first: ALIGN as u64, values, inputs, eights }
    }

    /// Where a buffer stands, from the first one on.
    pub(super) fn at(&self, values: Values) -> usize {
        self.values[&values]
    }

    /// Places every buffer for so many columns; their bytes. Cards that copy by themselves multiply
    /// on tensor cores, which read activations in a form of their own.
    pub(super) fn place(&mut self, list: &List<'_>, columns: usize, copies: bool) -> usize {
        let mut bytes = 0;
        let mut next = |n: usize, columns: usize| {
            let at = bytes;
            bytes += (n * columns).next_multiple_of(ALIGN);
            at
        };
        for values in list.all_values() {
            self.values.insert(values, next(4 * list.stride(values), columns));
        }
        for (inputs, forms) in list.all_inputs() {
            let groups = groups(list.k(inputs));
            for form in forms.iter().map(stored) {
                let per_group = match form {
                    Form::Int8 => INT8_GROUP,
                    Form::Bf16 => 2 * GROUP,
                    _ => 4 * GROUP,
                };
                let place = self.inputs.entry((inputs, form as u8));
                place.or_insert_with(|| next(groups * per_group, columns));
                if copies && form == Form::Int8 {
                    let place = self.eights.entry(inputs);
                    place.or_insert_with(|| next(groups * EIGHT, columns.div_ceil(8)));
                }
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::of;

    #[test]
    fn buffers_stand_apart_for_every_column() {
        let mut list = List::default();
        let (x, y) = (list.values("x", 32), list.values("y", 60));
        let weights = [1.0; 32];
        list.map(x, of(x) * &weights[..]);
        let mut layout = Layout::new(None);
        assert_eq!(layout.place(&list, 1, true), 2 * ALIGN);
        assert_eq!((layout.at(x), layout.at(y)), (0, ALIGN));
        // 32 values, and 60 with what pads them.
        let of_x = (4 * 100 * 32_usize).next_multiple_of(ALIGN);
        assert_eq!(layout.place(&list, 100, true), of_x + 4 * 100 * 64);
        assert_eq!((layout.at(y), layout.values(y)), (of_x, (ALIGN + of_x) as u64));
        let plan = CardPlan { weights: weight_bytes(&list), state: 1000, engine: 5 };
        assert_eq!(plan.total(3), ALIGN + 3000 + 5);
    }
}
