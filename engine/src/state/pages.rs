//! [`Pages`]: what grows with every token of a text, 64 tokens at a time: keys and values of
//! attention.
//!
//! A page holds 64 tokens of all layers. Forks share full pages; whoever writes to one that others
//! have, too, copies it before. Not here: who reads and writes them in a forward pass (`runs`).
//! Tests: below, `tests/state.rs`.

use std::sync::Arc;

use brooklet_formats::zeroed::Zeroed;
use bytemuck::{cast_slice, cast_slice_mut};

use super::layout::Growing;
use crate::kernels::attention::PAGE;
use crate::kernels::lanes::Lanes;
use crate::{EngineError, Result};

/// The pages of one state, the oldest tokens first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pages(Vec<Arc<Zeroed<Lanes>>>);

/// One of the two that a token leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeysOrValues {
    Keys,
    Values,
}

impl Pages {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Makes sure that the tokens from `start` to `end` have pages, each of `lines`, that nobody
    /// else has.
    ///
    /// # Errors
    /// There is no memory for them.
    pub(super) fn reserve(&mut self, start: usize, end: usize, lines: usize) -> Result<()> {
        let page = || {
            let bytes = lines.saturating_mul(size_of::<Lanes>());
            Zeroed::try_new(lines).map_err(|_| EngineError::NoMemory { bytes })
        };
        // Pages that were taken ahead of their tokens are shared by a fork, too.
        let written = self.0.iter_mut().take(end.div_ceil(PAGE)).skip(start / PAGE);
        for shared in written.filter(|page| Arc::strong_count(page) > 1) {
            let mut copy = page()?;
            copy.copy_from_slice(shared);
            *shared = Arc::new(copy);
        }
        while self.0.len() < end.div_ceil(PAGE) {
            self.0.push(Arc::new(page()?));
        }
        Ok(())
    }

    /// Every page: its first line, how many it has, and whether nobody else has it, so that it may
    /// be written to.
    pub(super) fn bases(&mut self) -> impl Iterator<Item = (*mut Lanes, usize, bool)> {
        self.0.iter_mut().map(|page| match Arc::get_mut(page) {
            Some(page) => (page.as_mut_ptr(), page.len(), true),
            None => (page.as_ptr().cast_mut(), page.len(), false),
        })
    }

    /// (head, token, values of it) of the first `tokens`.
    pub(super) fn get(&self, of: &Growing, tokens: usize, part: KeysOrValues) -> Vec<f32> {
        let mut all = Vec::with_capacity(of.n_head * tokens * of.d_head);
        for head in 0..of.n_head {
            for token in 0..tokens {
                let page: &[f32] = cast_slice(&self.0[token / PAGE][of.lines.clone()]);
                all.extend((0..of.d_head).map(|i| page[index(of, head, token, i, part)]));
            }
        }
        all
    }

    /// Overwrites what [`Pages::get`] gives.
    pub(super) fn set(&mut self, of: &Growing, tokens: usize, part: KeysOrValues, values: &[f32]) {
        assert_eq!(values.len(), of.n_head * tokens * of.d_head);
        let mut values = values.iter();
        for head in 0..of.n_head {
            for token in 0..tokens {
                let page = Arc::make_mut(&mut self.0[token / PAGE]);
                let page: &mut [f32] = cast_slice_mut(&mut page[of.lines.clone()]);
                for (i, value) in (0..of.d_head).zip(&mut values) {
                    page[index(of, head, token, i, part)] = *value;
                }
            }
        }
    }
}

/// Where value `i` of a token's key, or value, stands in a page's lines.
fn index(of: &Growing, head: usize, token: usize, i: usize, part: KeysOrValues) -> usize {
    let (token, base) = (token % PAGE, head * 2 * of.d_head * PAGE);
    base + match part {
        KeysOrValues::Keys => i * PAGE + token,
        KeysOrValues::Values => (PAGE + token) * of.d_head + i,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateLayout;
    use brooklet_formats::DType;

    #[test]
    fn forks_share_pages_until_they_write() {
        let mut layout = StateLayout::new("test", DType::F32);
        layout.push_pages(0, 2, 16);
        layout.push_pages(3, 1, 32);
        assert_eq!(layout.bytes_per_token(), (2 * 2 * 16 + 2 * 32) * 4);
        let of = layout.growing()[1].clone();
        let mut pages = Pages::default();
        pages.reserve(0, 100, layout.page_lines()).unwrap();
        let values: Vec<f32> = (0..3200).map(|i| i as f32).collect();
        pages.set(&of, 100, KeysOrValues::Keys, &values);
        pages.set(&of, 100, KeysOrValues::Values, &values);
        assert_eq!(pages.get(&of, 100, KeysOrValues::Keys), values);

        let mut fork = pages.clone();
        fork.reserve(100, 130, layout.page_lines()).unwrap();
        assert_eq!((pages.0.len(), fork.0.len()), (2, 3));
        assert!(Arc::ptr_eq(&pages.0[0], &fork.0[0]), "a full page is shared");
        assert!(!Arc::ptr_eq(&pages.0[1], &fork.0[1]), "one with room is not, once it is written");
        assert_eq!(fork.get(&of, 100, KeysOrValues::Values), values);
        // Pages taken ahead belong to both until one of them writes there.
        pages.reserve(100, 250, layout.page_lines()).unwrap();
        let mut fork = pages.clone();
        fork.reserve(100, 250, layout.page_lines()).unwrap();
        assert!((1..4).all(|i| !Arc::ptr_eq(&pages.0[i], &fork.0[i])));
        assert_eq!(fork.get(&layout.growing()[0], 100, KeysOrValues::Keys), vec![0.0; 3200]);
    }
}
