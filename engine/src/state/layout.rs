//! The layout of a model's states: named slots of f32 or f16, each on cache lines of its
//! own.
//!
//! [`StateLayout`] is what callers see of it; with a [`SlotRef`] the layers of a model find a
//! slot's elements in the states of a forward pass (`RunStates`), in the format that they are kept
//! in.

use std::ops::Range;

use brooklet_formats::DType;

use super::paged::{Group, Paged, PagesRef, Window};
use crate::kernels::kept::{self, PAGE};
use crate::kernels::lanes::Lanes;

/// The most elements accepted in a state: 4 GiB of f32.
pub(crate) const MAX_STATE: usize = 1 << 30;

/// Tokens at the beginning of a text that stay in view of a window that was asked for: without them
/// models put the weight that nothing deserves nowhere (Xiao et al. 2023, arXiv 2309.17453, §3.1).
pub(crate) const FIRST: usize = 4;

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
    /// Whether it is a matrix of what was read, to which tokens are added.
    pub is_matrix: bool,
    /// Where it stands in the buffer, in cache lines.
    pub(super) lines: Range<usize>,
}

impl Slot {
    /// Whether it begins with that cache line.
    pub(crate) fn starts_at(&self, line: usize) -> bool {
        self.lines.start == line
    }

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
    /// No elements at all.
    pub(crate) const NONE: SlotRef = SlotRef { line: 0, len: 0, dtype: DType::F32 };

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

/// How much of a text a piece of a state remembers, as memory counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it, in constant size: every [`Slot`].
    Fixed,
    /// The last tokens, and the first: constant size, once so many have come.
    Ring {
        /// How many of the last.
        tokens: usize,
        /// How many of the first.
        first: usize,
    },
    /// Every token, up to so many.
    Tokens {
        /// The most.
        most: usize,
    },
}

/// The layout of a model's states: which slots there are, and where each stands.
#[derive(Clone, Debug, PartialEq)]
pub struct StateLayout {
    /// Pieces in pages of 64 tokens.
    paged: Vec<Paged>,
    groups: Vec<Group>,
    /// The most tokens, where something grows.
    context: usize,
    /// They are bounded where nothing grows, too.
    is_bounded: bool,
    /// The window of what would grow otherwise, where one was asked for.
    window: Option<usize>,
    architecture: &'static str,
    slots: Vec<Slot>,
    lines: usize,
    /// The format that was asked for: of keys and values, and of matrices, which int8 leaves f16.
    asked: DType,
}

impl StateLayout {
    /// A layout without slots, whose matrices will be kept as f32 or f16, and keys and values so,
    /// too, or as int8 (beside matrices of f16).
    pub(crate) fn new(architecture: &'static str, asked: DType) -> StateLayout {
        StateLayout {
            paged: Vec::new(),
            groups: Vec::new(),
            context: usize::MAX,
            is_bounded: false,
            window: None,
            architecture,
            slots: Vec::new(),
            lines: 0,
            asked,
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
        self.place(layer, name, shape, (DType::F32, false), initial)
    }

    /// Appends a matrix state, zero before the first token.
    pub(crate) fn push_matrix(
        &mut self,
        layer: usize,
        name: &'static str,
        shape: &[usize],
    ) -> SlotRef {
        let dtype = if self.asked == DType::F32 { DType::F32 } else { DType::F16 };
        self.place(layer, name, shape, (dtype, true), 0.0)
    }

    /// The same, in which attention to every token becomes attention to the last `window` of them
    /// and to the first [`FIRST`].
    pub(crate) fn with_window(self, window: Option<usize>) -> StateLayout {
        StateLayout { window, ..self }
    }

    /// Appends keys and values of so many heads: of the last `window` tokens, or of every token.
    pub(crate) fn push_pages(
        &mut self,
        layer: usize,
        (n_head, d_head): (usize, usize),
        window: Option<usize>,
    ) -> PagesRef {
        let window = match (window, self.window) {
            (Some(last), _) => Window { last, first: 0 },
            (None, Some(last)) => Window { last, first: FIRST },
            (None, None) => Window::ALL,
        };
        self.place_pages(layer, (n_head, d_head), window, None)
    }

    /// Appends keys and values of so many heads, of every token, whatever window was asked for.
    pub(crate) fn push_pages_of_all(&mut self, layer: usize, heads: (usize, usize)) -> PagesRef {
        self.place_pages(layer, heads, Window::ALL, None)
    }

    /// Appends keys of blocks of so many tokens, of the whole text.
    pub(crate) fn push_block_keys(&mut self, layer: usize, d: usize, block: usize) -> PagesRef {
        self.place_pages(layer, (1, d), Window::ALL, Some(block))
    }

    fn place_pages(
        &mut self,
        layer: usize,
        (n_head, d_head): (usize, usize),
        window: Window,
        block: Option<usize>,
    ) -> PagesRef {
        let is_one = |group: &Group| group.window == window && group.block == block;
        let group = self.groups.iter().position(is_one);
        let group = group.unwrap_or_else(|| {
            self.groups.push(Group { window, block, lines: 0 });
            self.groups.len() - 1
        });
        let line = self.groups[group].lines;
        let dtype = self.asked;
        let end = line.saturating_add(product(&[n_head, kept::lines(dtype, d_head)]));
        self.groups[group].lines = end;
        let lines = line..end;
        self.paged.push(Paged { layer, n_head, d_head, dtype, window, block, group, lines });
        PagesRef { group, line, n_head, d_head, window, dtype }
    }

    /// Says how many tokens there may be, where something grows.
    pub(crate) fn bound(&mut self, context: usize) {
        self.context = self.context.min(context);
    }

    /// Says how many tokens there may be, whether something grows or not.
    pub(crate) fn bound_all(&mut self, context: usize) {
        self.bound(context);
        self.is_bounded = true;
    }

    /// The pieces that stand in pages; nothing in a purely recurrent model.
    pub fn paged(&self) -> &[Paged] {
        &self.paged
    }

    /// How much of a text a piece remembers.
    pub fn extent(&self, piece: &Paged) -> Extent {
        self.extent_of(piece.window)
    }

    fn extent_of(&self, window: Window) -> Extent {
        match window {
            Window::ALL => Extent::Tokens { most: self.context },
            Window { last: tokens, first } => Extent::Ring { tokens, first },
        }
    }

    /// The extents of pieces in pages: of how many pieces each is, and the bytes that a token takes
    /// in them.
    pub fn extents(&self) -> impl Iterator<Item = (Extent, usize, usize)> {
        self.groups.iter().enumerate().map(|(i, group)| {
            let pieces = self.paged.iter().filter(|piece| piece.group == i).count();
            (self.extent_of(group.window), pieces, group.bytes_per_token())
        })
    }

    /// The window that was asked for in place of attention to every token.
    pub fn window(&self) -> Option<usize> {
        self.window
    }

    /// The most tokens of a text; `None` where any number goes.
    pub fn context(&self) -> Option<usize> {
        (self.is_bounded || self.growing().next().is_some()).then_some(self.context)
    }

    /// The most tokens of a text that memory can count.
    pub(crate) fn limit(&self) -> usize {
        self.context().unwrap_or(usize::MAX / 4)
    }

    fn growing(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(|group| !group.window.is_ring())
    }

    /// Bytes by which a state grows with every token; it takes them for 64 at a time.
    pub fn bytes_per_token(&self) -> usize {
        self.growing().map(Group::bytes_per_token).fold(0, usize::saturating_add)
    }

    /// Bytes of the pages of so many tokens, where a state grows with them.
    pub fn growing_bytes(&self, tokens: usize) -> usize {
        let bytes =
            |group: &Group| group.entries(tokens).div_ceil(PAGE).saturating_mul(group.page_bytes());
        self.growing().map(bytes).fold(0, usize::saturating_add)
    }

    /// Whether a state has keys and values of tokens.
    #[cfg(any(feature = "cuda", feature = "interpreter"))]
    pub(crate) fn has_pages(&self) -> bool {
        !self.groups.is_empty()
    }

    /// How many kinds of pages there are.
    #[cfg(feature = "cuda")]
    pub(crate) fn kinds(&self) -> usize {
        self.groups.len()
    }

    /// Whether a layer sees a window: its pages hold 64 tokens of a pass beside those it sees.
    #[cfg(any(feature = "cuda", feature = "interpreter"))]
    pub(crate) fn has_rings(&self) -> bool {
        self.groups.iter().any(|group| group.window.is_ring())
    }

    /// The kinds of pages.
    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    fn place(
        &mut self,
        layer: usize,
        name: &'static str,
        shape: &[usize],
        (dtype, is_matrix): (DType, bool),
        initial: f32,
    ) -> SlotRef {
        let place = SlotRef { line: self.lines, len: product(shape), dtype };
        let lines = place.lines();
        self.lines = lines.end;
        let shape = shape.to_vec();
        self.slots.push(Slot { layer, name, shape, dtype, initial, is_matrix, lines });
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

    /// The smallest number format in it: that of keys and values, or of matrix states; f32 where
    /// there are none.
    pub fn dtype(&self) -> DType {
        let slots = self.slots.iter().map(|slot| slot.dtype);
        let all = slots.chain(self.paged.iter().map(|piece| piece.dtype));
        all.min_by_key(|dtype| dtype.element_bits()).unwrap_or(DType::F32)
    }

    /// Elements in a state.
    pub fn len(&self) -> usize {
        self.slots.iter().fold(0, |sum, slot| sum.saturating_add(slot.n_elements()))
    }

    /// Whether a state has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in a state, but for what grows: of every slot in whole cache lines, and of the pages
    /// of windows, which are taken as tokens come.
    pub fn bytes(&self) -> usize {
        let rings = self.groups.iter().filter(|group| group.window.is_ring());
        let rings = rings.map(|group| group.window.pages().saturating_mul(group.page_bytes()));
        rings.fold(self.lines.saturating_mul(size_of::<Lanes>()), usize::saturating_add)
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
