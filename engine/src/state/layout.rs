//! The layout of a model's states: named slots of f32 or f16, each on cache lines of its
//! own.
//!
//! [`StateLayout`] is what callers see of it; with a [`SlotRef`] the layers of a model find a
//! slot's elements in the states of a forward pass (`RunStates`), in the format that they are kept
//! in.

use std::ops::Range;

use brooklet_formats::DType;

use crate::kernels::attention::PAGE;
use crate::kernels::lanes::{Lanes, WIDTH};

/// The most elements accepted in a state: 4 GiB of f32.
pub(crate) const MAX_STATE: usize = 1 << 30;

/// A named piece of a state.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// The layer it belongs to.
    pub layer: usize,
    /// `shift`, `wkv`, `conv`, `ssm`, … with the block it belongs to.
    pub name: &'static str,
    /// Its shape, outermost first.
    pub shape: Vec<usize>,
    /// How its elements are kept: f32 or f16.
    pub dtype: DType,
    /// The value of its elements before the first token.
    pub initial: f32,
    /// Where it stands in the buffer, in cache lines.
    pub(super) lines: Range<usize>,
}

impl Slot {
    /// Number of its elements.
    pub fn n_elements(&self) -> usize {
        product(&self.shape)
    }
}

/// Saturating: a model whose state is too large is refused when it has been described.
fn product(shape: &[usize]) -> usize {
    shape.iter().fold(1, |product: usize, n| product.saturating_mul(*n))
}

/// Where the elements of a slot stand: `len` of them, from the start of a cache line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotRef {
    line: usize,
    len: usize,
    dtype: DType,
}

impl SlotRef {
    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that the elements take.
    pub(crate) fn bytes(&self) -> usize {
        self.lines().len() * size_of::<Lanes>()
    }

    /// How they are kept.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// The cache lines that hold them.
    pub(crate) fn lines(&self) -> Range<usize> {
        let lines = self.len.div_ceil(size_of::<Lanes>() * 8 / self.dtype.element_bits());
        self.line..self.line.saturating_add(lines)
    }
}

/// A named piece of a state that grows with every token: keys and values of attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Growing {
    /// The layer it belongs to.
    pub layer: usize,
    /// Heads of keys and values.
    pub n_head: usize,
    /// Values of a key, and of a value.
    pub d_head: usize,
    /// Where it stands in every page, in cache lines.
    pub(super) lines: Range<usize>,
}

/// Where the keys and values of a layer stand in a page: for each head, keys (d_head, 64 tokens),
/// then values (64 tokens, d_head).
#[derive(Clone, Copy, Debug)]
pub(crate) struct PagesRef {
    pub(super) line: usize,
    pub(super) n_head: usize,
    pub(crate) d_head: usize,
}

impl PagesRef {
    /// Elements of a head in a page.
    pub(crate) fn elements(&self) -> usize {
        2 * self.d_head * PAGE
    }

    /// Bytes that a token takes.
    pub(crate) fn bytes_per_token(&self) -> usize {
        2 * self.n_head * self.d_head * size_of::<f32>()
    }
}

/// The layout of a model's states: which slots there are, and where each stands.
#[derive(Clone, Debug, PartialEq)]
pub struct StateLayout {
    /// Pieces that grow, in pages of 64 tokens.
    growing: Vec<Growing>,
    /// Cache lines of a page.
    page_lines: usize,
    /// The most tokens, where something grows.
    context: usize,
    architecture: &'static str,
    slots: Vec<Slot>,
    lines: usize,
    /// The format of matrices.
    matrices: DType,
}

impl StateLayout {
    /// A layout without slots, whose matrices will be kept as f32 or f16.
    pub(crate) fn new(architecture: &'static str, matrices: DType) -> StateLayout {
        StateLayout {
            growing: Vec::new(),
            page_lines: 0,
            context: usize::MAX,
            architecture,
            slots: Vec::new(),
            lines: 0,
            matrices,
        }
    }

    /// Appends a slot of f32: what is small, or needs the range.
    pub(crate) fn push(
        &mut self,
        layer: usize,
        name: &'static str,
        shape: &[usize],
        initial: f32,
    ) -> SlotRef {
        self.place(layer, name, shape, DType::F32, initial)
    }

    /// Appends a matrix state, zero before the first token.
    pub(crate) fn push_matrix(
        &mut self,
        layer: usize,
        name: &'static str,
        shape: &[usize],
    ) -> SlotRef {
        self.place(layer, name, shape, self.matrices, 0.0)
    }

    /// Appends keys and values for every token, of so many heads.
    pub(crate) fn push_pages(&mut self, layer: usize, n_head: usize, d_head: usize) -> PagesRef {
        let line = self.page_lines;
        let lines = product(&[n_head, 2 * d_head, PAGE / WIDTH]);
        self.page_lines = line.saturating_add(lines);
        self.growing.push(Growing { layer, n_head, d_head, lines: line..self.page_lines });
        PagesRef { line, n_head, d_head }
    }

    /// Says how many tokens there may be, where something grows.
    pub(crate) fn bound(&mut self, context: usize) {
        self.context = self.context.min(context);
    }

    /// The pieces that grow with every token; nothing in a purely recurrent model.
    pub fn growing(&self) -> &[Growing] {
        &self.growing
    }

    /// The most tokens of a text; `None` where nothing grows, and any number goes.
    pub fn context(&self) -> Option<usize> {
        (!self.growing.is_empty()).then_some(self.context)
    }

    /// Bytes by which a state grows with every token; it takes them for 64 at a time.
    pub fn bytes_per_token(&self) -> usize {
        self.page_bytes() / PAGE
    }

    /// Bytes of the pages of so many tokens.
    pub fn growing_bytes(&self, tokens: usize) -> usize {
        tokens.div_ceil(PAGE).saturating_mul(self.page_bytes())
    }

    fn page_bytes(&self) -> usize {
        self.page_lines.saturating_mul(size_of::<Lanes>())
    }

    /// Cache lines of a page.
    pub(crate) fn page_lines(&self) -> usize {
        self.page_lines
    }

    fn place(
        &mut self,
        layer: usize,
        name: &'static str,
        shape: &[usize],
        dtype: DType,
        initial: f32,
    ) -> SlotRef {
        let place = SlotRef { line: self.lines, len: product(shape), dtype };
        let lines = place.lines();
        self.lines = lines.end;
        self.slots.push(Slot { layer, name, shape: shape.to_vec(), dtype, initial, lines });
        place
    }

    /// Name of the model's architecture.
    pub fn architecture(&self) -> &'static str {
        self.architecture
    }

    /// The slots, in the order of the buffer.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The number format of the matrix states; f32 where there are none.
    pub fn dtype(&self) -> DType {
        let half = self.slots.iter().any(|slot| slot.dtype == DType::F16);
        if half { DType::F16 } else { DType::F32 }
    }

    /// Elements in a state.
    pub fn len(&self) -> usize {
        self.slots.iter().fold(0, |sum, slot| sum.saturating_add(slot.n_elements()))
    }

    /// Whether a state has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in a state, in whole cache lines for every slot.
    pub fn bytes(&self) -> usize {
        self.lines.saturating_mul(size_of::<Lanes>())
    }

    /// Cache lines in a state.
    pub(crate) fn lines(&self) -> usize {
        self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_take_half_the_lines() {
        for (dtype, matrix_lines) in [(DType::F32, 3), (DType::F16, 2)] {
            let mut layout = StateLayout::new("test", dtype);
            let shift = layout.push(0, "shift", &[5], 0.0);
            let matrix = layout.push_matrix(0, "wkv", &[6, 6]);
            let last = layout.push(1, "shift", &[16], 0.0);
            assert_eq!((shift.lines(), matrix.lines()), (0..1, 1..1 + matrix_lines));
            assert_eq!(last.lines(), 1 + matrix_lines..2 + matrix_lines);
            assert_eq!((layout.len(), layout.bytes()), (57, (2 + matrix_lines) * 64));
            assert_eq!(layout.dtype(), dtype);
            let kept: Vec<DType> = layout.slots().iter().map(|slot| slot.dtype).collect();
            assert_eq!(kept, [DType::F32, dtype, DType::F32]);
        }
    }

    #[test]
    fn a_size_that_no_memory_has_saturates() {
        let mut layout = StateLayout::new("test", DType::F16);
        layout.push_matrix(0, "wkv", &[1 << 24, 1 << 24, 1 << 24]);
        layout.push(0, "shift", &[usize::MAX, 2], 0.0);
        assert_eq!((layout.len(), layout.bytes()), (usize::MAX, usize::MAX));
    }
}
