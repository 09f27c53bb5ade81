//! The state of one conversation: everything a recurrent model remembers, in one buffer of constant size.
//!
//! What stands where is described by a [`StateLayout`], made once per model: per layer the shift vectors, the convolution
//! window, the matrix or vector state. A [`State`] can be cloned (that is a fork), reset, compared, saved and loaded
//! (`snapshot`); it belongs to the model whose fingerprint it carries. `tuned` begins one from a state-tuning checkpoint.

mod snapshot;
#[cfg(feature = "convert")]
mod tuned;

use std::ops::Range;
use std::sync::Arc;

use brooklet_formats::zeroed::Zeroed;
use bytemuck::{cast_slice, cast_slice_mut};

use crate::kernels::lanes::{Lanes, WIDTH};

pub use snapshot::Snapshot;

/// A named piece of a state.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// The layer it belongs to.
    pub layer: usize,
    /// `shift`, `wkv`, `conv`, `ssm`, … with the block it belongs to.
    pub name: &'static str,
    /// Its shape, outermost first.
    pub shape: Vec<usize>,
    /// Where it stands in the buffer, in elements.
    pub range: Range<usize>,
    /// The value of its elements before the first token.
    pub initial: f32,
}

/// What stands where in a model's states.
#[derive(Clone, Debug, PartialEq)]
pub struct StateLayout {
    architecture: &'static str,
    slots: Vec<Slot>,
    len: usize,
}

impl StateLayout {
    /// A layout without slots.
    pub(crate) fn new(architecture: &'static str) -> StateLayout {
        StateLayout { architecture, slots: Vec::new(), len: 0 }
    }

    /// Appends a slot and returns where it stands; it starts at a multiple of 16 elements.
    pub(crate) fn push(
        &mut self,
        layer: usize,
        name: &'static str,
        shape: &[usize],
        initial: f32,
    ) -> Range<usize> {
        // Saturating: a model whose state is too large is refused when it has been described.
        let len = shape.iter().fold(1usize, |product, n| product.saturating_mul(*n));
        let range = self.len..self.len.saturating_add(len);
        self.slots.push(Slot { layer, name, shape: shape.to_vec(), range: range.clone(), initial });
        self.len = range.end.checked_next_multiple_of(16).unwrap_or(usize::MAX);
        range
    }

    /// Name of the model's architecture.
    pub fn architecture(&self) -> &'static str {
        self.architecture
    }

    /// The slots, in the order of the buffer.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Elements in a state.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether a state has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes in a state (f32).
    pub fn bytes(&self) -> usize {
        self.len * size_of::<f32>()
    }
}

/// What a model remembers of the tokens it has read.
///
/// ```
/// use brooklet::{EngineOptions, Model, Session};
///
/// let model = Model::open("../models/rwkv7-nano-int8.brk")?;
/// let mut session = Session::new(&model, &EngineOptions::default());
/// session.prefill(&[1, 2, 3])?;
/// let fork = session.state().clone();
/// let one = session.step(4)?.to_vec();
/// session.set_state(fork)?;
/// assert_ne!(session.step(5)?, one); // another ending of the same beginning
/// # Ok::<(), brooklet::EngineError>(())
/// ```
#[derive(Clone, Debug)]
pub struct State {
    /// Whole cache lines, on which every slot begins.
    values: Zeroed<Lanes>,
    layout: Arc<StateLayout>,
    fingerprint: u64,
    position: u64,
}

impl State {
    pub(crate) fn new(layout: Arc<StateLayout>, fingerprint: u64) -> State {
        let mut state = State { values: Zeroed::new(layout.len() / WIDTH), layout, fingerprint, position: 0 };
        state.begin();
        state
    }

    /// Forgets everything: the state before the first token.
    pub fn reset(&mut self) {
        self.values.fill(Lanes::ZERO);
        self.begin();
    }

    /// The state before the first token, from zeros: touches only what begins otherwise.
    fn begin(&mut self) {
        let values: &mut [f32] = cast_slice_mut(&mut self.values);
        for slot in self.layout.slots().iter().filter(|slot| slot.initial != 0.0) {
            values[slot.range.clone()].fill(slot.initial);
        }
        self.position = 0;
    }

    /// Tokens read since the last reset.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The fingerprint of the model it belongs to.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// What stands where.
    pub fn layout(&self) -> &StateLayout {
        &self.layout
    }

    /// The whole buffer; see [`State::layout`].
    pub fn values(&self) -> &[f32] {
        cast_slice(&self.values)
    }

    /// The whole buffer; see [`State::layout`].
    pub fn values_mut(&mut self) -> &mut [f32] {
        cast_slice_mut(&mut self.values)
    }

    pub(crate) fn advance(&mut self, tokens: usize) {
        // A file may say any position.
        self.position = self.position.saturating_add(tokens as u64);
    }
}

impl PartialEq for State {
    /// Bit-exact equality of what is remembered.
    fn eq(&self, other: &State) -> bool {
        self.fingerprint == other.fingerprint
            && self.position == other.position
            && cast_slice::<_, u32>(&self.values) == cast_slice::<_, u32>(&other.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_state_and_a_reset_one_begin_as_the_layout_says() {
        let mut layout = StateLayout::new("test");
        let (zero, low) = (layout.push(0, "shift", &[20], 0.0), layout.push(0, "max", &[16], -1e38));
        let mut state = State::new(Arc::new(layout), 1);
        for _ in 0..2 {
            assert!(state.values()[zero.clone()].iter().all(|value| *value == 0.0));
            assert!(state.values()[low.clone()].iter().all(|value| *value == -1e38));
            state.values_mut().fill(3.0);
            state.advance(5);
            state.reset();
            assert_eq!(state.position(), 0);
        }
    }
}
