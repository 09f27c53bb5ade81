//! The state of one conversation: everything a recurrent model remembers, in one buffer of constant
//! size; and keys and values of attention, in pages.
//!
//! Where each part stands is described by a [`StateLayout`], made once per model: per layer the
//! shift vectors, the convolution window, the matrix or vector state. A [`State`] can be cloned
//! (that is a fork), reset and compared; it belongs to the model whose fingerprint it carries. A
//! forward pass sees those of its runs through [`RunStates`]. Not here: files (`snapshot`).

mod layout;
mod paged;
mod pages;
#[allow(unsafe_code)]
mod runs;
mod storage;

use std::borrow::Cow;
use std::sync::Arc;

use brooklet_formats::DType;
use bytemuck::{cast_slice, cast_slice_mut};
use half::f16;

use crate::kernels::lanes::Lanes;
use crate::kernels::state::StateElement;
use crate::{EngineError, Result};

pub(crate) use crate::kernels::kept::KeysOrValues;
pub use layout::{Extent, Slot, StateLayout};
pub(crate) use layout::{MAX_STATE, SlotRef};
pub use paged::Paged;
pub(crate) use paged::PagesRef;
pub(crate) use pages::Pages;
pub(crate) use runs::{PagesShare, RunStates, RunTable, SharedStates, StatesShare};
#[cfg(feature = "cuda")]
pub(crate) use storage::Remote;
use storage::Storage;

/// The memory of a model: all that it keeps of the tokens it has read.
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
#[derive(Debug)]
pub struct State {
    /// Every slot begins on a cache line.
    storage: Storage,
    layout: Arc<StateLayout>,
    fingerprint: u64,
    position: u64,
    /// Keys and values of attention.
    pages: Pages,
}

impl State {
    pub(crate) fn new(layout: Arc<StateLayout>, fingerprint: u64) -> State {
        let storage = Storage::new(layout.lines());
        let pages = Pages::new(layout.groups().len());
        let mut state = State { storage, layout, fingerprint, position: 0, pages };
        state.begin();
        state
    }

    /// Copies what a card has of it here, where a card has moved it on, so that reading, forking
    /// and comparing it cannot fail; says whether it is a state at all. Elsewhere there is nothing
    /// to do.
    ///
    /// # Errors
    /// The card failed, now or in the last pass over it: its values are no numbers until it is
    /// reset.
    pub fn fetch(&self) -> Result<()> {
        self.storage.fetch()?;
        self.pages.fetch()
    }

    /// A device has failed while it moved it on.
    #[cfg(feature = "cuda")]
    pub(crate) fn lose(&mut self, error: &EngineError) {
        self.storage.lose(error);
        self.pages.lose(error);
    }

    /// Forgets everything: the state before the first token.
    pub fn reset(&mut self) {
        self.storage.clear();
        self.pages.clear();
        self.begin();
    }

    /// The state before the first token, from zeros: touches only what begins otherwise.
    fn begin(&mut self) {
        let layout = Arc::clone(&self.layout);
        for slot in layout.slots().iter().filter(|slot| slot.initial != 0.0) {
            self.write(slot, |_| slot.initial);
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

    /// Its layout.
    pub fn layout(&self) -> &StateLayout {
        &self.layout
    }

    /// The values of slot number `slot` of the [layout](State::layout), in C order; copied where
    /// they are kept as f16.
    ///
    /// # Panics
    /// There is no such slot.
    pub fn get(&self, slot: usize) -> Cow<'_, [f32]> {
        let slot = &self.layout.slots()[slot];
        let (lines, n) = (&self.storage.lines()[slot.lines.clone()], slot.n_elements());
        match slot.dtype {
            DType::F16 => cast_slice::<_, f16>(lines)[..n].iter().map(|x| x.value()).collect(),
            _ => Cow::Borrowed(&cast_slice(lines)[..n]),
        }
    }

    /// Overwrites slot number `slot`; f16 takes the nearest values that it has, ±65504 at most.
    ///
    /// # Panics
    /// There is no such slot, or it has another number of values.
    pub fn set(&mut self, slot: usize, values: &[f32]) {
        let layout = Arc::clone(&self.layout);
        let slot = &layout.slots()[slot];
        assert_eq!(values.len(), slot.n_elements(), "values of a slot");
        self.write(slot, |i| values[i]);
    }

    /// Multiplies the matrices of what was read by a number.
    pub(crate) fn scale_matrices(&mut self, by: f32) {
        let layout = Arc::clone(&self.layout);
        for (i, slot) in layout.slots().iter().enumerate().filter(|(_, slot)| slot.is_matrix) {
            let values = self.get(i).into_owned();
            self.write(slot, |i| by * values[i]);
        }
    }

    /// Overwrites the elements of `slot`.
    fn write(&mut self, slot: &Slot, value: impl Fn(usize) -> f32) {
        fn fill<T: StateElement>(lines: &mut [Lanes], n: usize, value: impl Fn(usize) -> f32) {
            let elements = cast_slice_mut::<_, T>(lines)[..n].iter_mut();
            elements.enumerate().for_each(|(i, x)| *x = T::of(value(i)));
        }
        let n = slot.n_elements();
        let lines = &mut self.storage.lines_mut()[slot.lines.clone()];
        match slot.dtype {
            DType::F16 => fill::<f16>(lines, n, value),
            _ => fill::<f32>(lines, n, value),
        }
    }

    /// Keys, or values, of piece number `i` of those in [pages](StateLayout::paged): (head, token,
    /// values of it), for the tokens that it remembers.
    pub(crate) fn keys_or_values(&self, i: usize, part: KeysOrValues) -> Vec<f32> {
        self.pages.get(&self.layout.paged()[i], self.position as usize, part)
    }

    /// Its pages of keys and values: where each stands, and its bytes. Clones share them.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (usize, usize)> {
        self.pages.places()
    }

    /// Bytes that it takes, but for its pages.
    pub(crate) fn fixed_bytes(&self) -> usize {
        self.layout.lines().saturating_mul(size_of::<Lanes>())
    }

    /// Takes the pages of the first `position` tokens, for [`State::set_keys_or_values`].
    ///
    /// # Errors
    /// There is no memory for them.
    pub(crate) fn begin_at(&mut self, position: u64) -> Result<()> {
        self.pages.clear();
        self.position = 0;
        self.reserve(usize::try_from(position).unwrap_or(usize::MAX))?;
        self.position = position;
        Ok(())
    }

    /// Overwrites what [`State::keys_or_values`] gives.
    pub(crate) fn set_keys_or_values(&mut self, i: usize, part: KeysOrValues, values: &[f32]) {
        self.pages.set(&self.layout.paged()[i], self.position as usize, part, values);
    }

    /// Takes the memory for the next `tokens`, where a state has keys and values of them: pages of
    /// its own, which no fork reads.
    ///
    /// # Errors
    /// They do not fit the context, or there is no memory for them.
    pub fn reserve(&mut self, tokens: usize) -> Result<()> {
        if self.layout.groups().is_empty() && self.layout.context().is_none() {
            return Ok(());
        }
        let limit = self.layout.limit();
        let end = usize::try_from(self.position).ok().and_then(|at| at.checked_add(tokens));
        let end = end.filter(|end| *end <= limit);
        let end = end.ok_or(EngineError::Context { position: self.position, tokens, limit })?;
        self.pages.reserve(self.position as usize, end, self.layout.groups())
    }

    /// Whether the model with this fingerprint and layout can go on from here.
    ///
    /// # Errors
    /// Another model made it, or this one opened for another number format or window; or a device
    /// has lost it.
    pub(crate) fn check(&self, fingerprint: u64, layout: &StateLayout) -> Result<()> {
        if self.fingerprint != fingerprint {
            return Err(EngineError::ForeignState { model: fingerprint, state: self.fingerprint });
        }
        let (model, state) = (layout.window(), self.layout.window());
        if model != state {
            return Err(EngineError::StateWindow { model, state });
        }
        let (model, state) = (layout.dtype(), self.layout.dtype());
        if model != state {
            return Err(EngineError::StateFormat { model, state });
        }
        self.storage.check()?;
        self.pages.check()
    }

    /// Where its lines stand on device `number`, whose pass is about to move them on: as
    /// [`Storage::moved`] has it.
    ///
    /// # Errors
    /// The device failed, or has no memory for them.
    #[cfg(feature = "cuda")]
    pub(crate) fn moved(
        &mut self,
        number: usize,
        make: impl FnOnce(usize) -> Result<Box<dyn Remote>>,
    ) -> Result<u64> {
        self.storage.moved(number, make)
    }

    /// Where its pages stand on device `number`, added to `places`, and how many there are of each
    /// kind, as running sums added to `starts`: as [`State::moved`] has it.
    ///
    /// # Errors
    /// Likewise.
    #[cfg(feature = "cuda")]
    pub(crate) fn moved_pages(
        &mut self,
        number: usize,
        make: impl Fn(usize) -> Result<Box<dyn Remote>>,
        (places, starts): (&mut Vec<u64>, &mut Vec<u32>),
    ) -> Result<()> {
        let mut first = places.len();
        starts.extend(self.pages.counts().map(|count| {
            first += count;
            (first - count) as u32
        }));
        self.pages.moved(number, make, places)
    }

    /// So many tokens less have been read of a text without pages, whose lines a device has put
    /// back.
    #[cfg(feature = "cuda")]
    pub(crate) fn retreat(&mut self, tokens: usize) {
        self.position = self.position.saturating_sub(tokens as u64);
    }

    pub(crate) fn advance(&mut self, tokens: usize) {
        // A file may say any position.
        self.position = self.position.saturating_add(tokens as u64);
    }
}

impl Clone for State {
    fn clone(&self) -> State {
        State {
            storage: self.storage.clone(),
            layout: Arc::clone(&self.layout),
            pages: self.pages.clone(),
            ..*self
        }
    }

    /// Takes no memory where both are of one model.
    fn clone_from(&mut self, source: &State) {
        self.storage.clone_from(&source.storage);
        self.layout.clone_from(&source.layout);
        self.pages.clone_from(&source.pages);
        (self.fingerprint, self.position) = (source.fingerprint, source.position);
    }
}

impl PartialEq for State {
    /// Bit-exact equality of what is remembered, kept in the same number format.
    fn eq(&self, other: &State) -> bool {
        self.fingerprint == other.fingerprint
            && self.position == other.position
            && self.layout.dtype() == other.layout.dtype()
            && cast_slice::<_, u32>(self.storage.lines())
                == cast_slice::<_, u32>(other.storage.lines())
            && self.layout.window() == other.layout.window()
            && (0..self.layout.paged().len()).all(|i| {
                [KeysOrValues::Keys, KeysOrValues::Values].into_iter().all(|part| {
                    let [ours, theirs] = [self, other].map(|state| state.keys_or_values(i, part));
                    cast_slice::<_, u32>(&ours) == cast_slice::<_, u32>(&theirs)
                })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_state_and_a_reset_one_begin_as_the_layout_says() {
        for dtype in [DType::F32, DType::F16] {
            let mut layout = StateLayout::new("test", dtype);
            layout.push(0, "shift", &[20], 0.0);
            layout.push(0, "max", &[16], -1e38);
            layout.push_matrix(0, "wkv", &[3, 5]);
            let mut state = State::new(Arc::new(layout), 1);
            for _ in 0..2 {
                for (slot, (n, initial)) in
                    [(20, 0.0), (16, -1e38), (15, 0.0)].into_iter().enumerate()
                {
                    assert_eq!(*state.get(slot), vec![initial; n]);
                    state.set(slot, &vec![3.0; n]);
                }
                state.advance(5);
                state.reset();
                assert_eq!(state.position(), 0);
            }
        }
    }

    #[test]
    fn slots_are_kept_in_their_format() {
        let mut layout = StateLayout::new("test", DType::F16);
        layout.push(0, "shift", &[3], 0.0);
        layout.push_matrix(0, "wkv", &[1, 3]);
        let mut state = State::new(Arc::new(layout), 1);
        let values = [1.0 / 3.0, -1e9, f32::NEG_INFINITY];
        state.set(0, &values);
        state.set(1, &values);
        assert_eq!(*state.get(0), values);
        assert_eq!(*state.get(1), [0.333_251_95, -65504.0, -65504.0]);
    }
}
