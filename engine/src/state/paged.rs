//! Pieces of a state in pages of 64 tokens: keys and values of attention, of which tokens each has
//! them, and where they stand in a page. Not here: the pages (`pages`), who has which pieces
//! (`layout`).

use std::ops::Range;

use brooklet_formats::DType;

use crate::kernels::kept::{self, KeysOrValues, PAGE};
use crate::kernels::lanes::Lanes;

/// A named piece of a state that stands in pages of 64 tokens: keys and values of attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Paged {
    /// The layer it belongs to.
    pub layer: usize,
    /// Heads of keys and values.
    pub n_head: usize,
    /// Values of a key, and of a value.
    pub d_head: usize,
    /// How they are kept: f32, f16, or int8 with a scale for each token's key and value.
    pub dtype: DType,
    /// Which tokens it holds.
    pub(crate) window: Window,
    /// Keys are those of whole blocks of so many tokens, and there are no values.
    pub(super) block: Option<usize>,
    /// Which pages it stands in: pieces with one window share them.
    pub(super) group: usize,
    /// Where it stands in each of them, in cache lines.
    pub(super) lines: Range<usize>,
}

impl Paged {
    /// The tokens, or the blocks, that are remembered of `position`.
    pub(super) fn kept(&self, position: usize) -> impl Iterator<Item = usize> {
        self.window.kept(entries(self.block, position))
    }

    /// How many those are.
    pub(crate) fn n_kept(&self, position: usize) -> usize {
        self.window.n_kept(entries(self.block, position))
    }

    /// What is kept of each, and the names of these in a file.
    pub(crate) fn parts(&self) -> &'static [(&'static str, KeysOrValues)] {
        match self.block {
            Some(_) => &[("block_keys", KeysOrValues::Keys)],
            None => &[("keys", KeysOrValues::Keys), ("values", KeysOrValues::Values)],
        }
    }

    /// Where head `head` stands in a page, in cache lines.
    pub(super) fn head(&self, head: usize) -> Range<usize> {
        let each = kept::lines(self.dtype, self.d_head);
        let at = self.lines.start + head * each;
        at..at + each
    }
}

/// The tokens that a layer of attention sees: the last, its own among them, and the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// How many of the last; `usize::MAX` of them are all.
    pub(crate) last: usize,
    /// How many of the first, at most a page.
    pub(crate) first: usize,
}

impl Window {
    /// Every token.
    pub(crate) const ALL: Window = Window { last: usize::MAX, first: 0 };

    /// Whether pages are used again.
    pub(super) fn is_ring(self) -> bool {
        self.last != usize::MAX
    }

    /// Pages of a ring: one more than the tokens need, so that a page is written to when no token
    /// of it is seen any more.
    fn ring(self) -> usize {
        self.last.div_ceil(PAGE).saturating_add(1)
    }

    /// The most pages that are ever taken.
    pub(super) fn pages(self) -> usize {
        if self.is_ring() {
            self.ring().saturating_add(usize::from(self.first > 0))
        } else {
            usize::MAX
        }
    }

    /// Where page `page` of the text stands among those that are there. The one with the first
    /// tokens stays.
    pub(super) fn place(self, page: usize) -> usize {
        match (self.is_ring(), self.first > 0) {
            (false, _) => page,
            (true, false) => page % self.ring(),
            (true, true) => page.checked_sub(1).map_or(0, |page| 1 + page % self.ring()),
        }
    }

    /// The tokens that are remembered of `position`: some of the first, the last.
    pub(crate) fn kept(self, position: usize) -> impl Iterator<Item = usize> {
        let last = position.saturating_sub(self.last);
        (0..self.first.min(last)).chain(last..position)
    }

    /// How many those are.
    pub(crate) fn n_kept(self, position: usize) -> usize {
        position.min(self.last.saturating_add(self.first))
    }
}

/// Pages of one kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    pub(super) window: Window,
    /// Tokens of a block, where an entry is that.
    pub(super) block: Option<usize>,
    /// Cache lines of a page.
    pub(super) lines: usize,
}

impl Group {
    pub(super) fn page_bytes(&self) -> usize {
        self.lines.saturating_mul(size_of::<Lanes>())
    }

    /// Bytes that a token takes.
    pub(super) fn bytes_per_token(&self) -> usize {
        self.page_bytes() / PAGE / self.block.unwrap_or(1)
    }

    /// Tokens, or whole blocks, of so many tokens.
    pub(super) fn entries(&self, tokens: usize) -> usize {
        entries(self.block, tokens)
    }
}

fn entries(block: Option<usize>, tokens: usize) -> usize {
    tokens / block.unwrap_or(1)
}

/// Where the keys and values of a layer stand in a page, one head behind the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PagesRef {
    pub(super) group: usize,
    pub(super) line: usize,
    pub(super) n_head: usize,
    pub(crate) d_head: usize,
    pub(crate) window: Window,
    /// How they are kept.
    pub(crate) dtype: DType,
}

impl PagesRef {
    /// Heads of keys and values.
    pub(crate) fn n_head(self) -> usize {
        self.n_head
    }

    /// The kind of its pages, and the line where it begins in each of them.
    pub(crate) fn place(self) -> (usize, usize) {
        (self.group, self.line)
    }

    /// Cache lines of a head in a page.
    pub(crate) fn head_lines(&self) -> usize {
        kept::lines(self.dtype, self.d_head)
    }

    /// Bytes that a token takes.
    pub(crate) fn bytes_per_token(&self) -> usize {
        self.n_head * self.head_lines() * size_of::<Lanes>() / PAGE
    }
}
