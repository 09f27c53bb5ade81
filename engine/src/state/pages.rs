//! [`Pages`]: what is kept of single tokens, 64 of them at a time: keys and values of attention.
//!
//! A page holds 64 tokens of all layers with one window. Where every token stays, pages are added;
//! where a window moves on, the page whose tokens nobody sees any more is the next. Forks share
//! pages; whoever writes to one that others have, too, copies it before. Not here: who reads and
//! writes them in a forward pass (`runs`). Tests: below, `tests/state.rs`.

use std::sync::Arc;

use super::paged::{Group, Paged};
#[cfg(feature = "cuda")]
use super::storage::Remote;
use super::storage::Storage;
#[cfg(feature = "cuda")]
use crate::EngineError;
use crate::Result;
use crate::kernels::Isa;
use crate::kernels::kept::{self, KeysOrValues, PAGE};
use crate::kernels::lanes::Lanes;

/// The pages of one state, of each kind.
#[derive(Debug)]
pub(crate) struct Pages(Vec<Vec<Arc<Storage>>>);

impl Clone for Pages {
    /// Shares them.
    fn clone(&self) -> Pages {
        Pages(self.0.clone())
    }

    fn clone_from(&mut self, source: &Pages) {
        self.0.clone_from(&source.0);
    }
}

impl Pages {
    /// None yet, of so many kinds.
    pub(super) fn new(groups: usize) -> Pages {
        Pages(vec![Vec::new(); groups])
    }

    pub(super) fn clear(&mut self) {
        self.0.iter_mut().for_each(Vec::clear);
    }

    /// Makes sure that the tokens from `start` to `end` have pages that nobody else has.
    ///
    /// # Errors
    /// There is no memory for them.
    pub(super) fn reserve(&mut self, start: usize, end: usize, groups: &[Group]) -> Result<()> {
        for (pages, group) in self.0.iter_mut().zip(groups) {
            // A ring comes round: more pages than it has are the same again.
            let (start, end) = (group.entries(start), group.entries(end));
            for at in (start / PAGE..end.div_ceil(PAGE)).take(group.window.pages()) {
                let at = group.window.place(at);
                while pages.len() <= at {
                    pages.push(Arc::new(Storage::try_new(group.lines)?));
                }
                // Pages that were taken ahead of their tokens are shared by a fork, too, and those
                // of a ring hold tokens that are seen until the last one is overwritten.
                if Arc::strong_count(&pages[at]) > 1 {
                    let mut copy = Storage::try_new(group.lines)?;
                    copy.clone_from(&pages[at]);
                    pages[at] = Arc::new(copy);
                }
            }
        }
        Ok(())
    }

    /// Every page, by where it stands, with its bytes: pages of the same place are shared.
    pub(super) fn places(&self) -> impl Iterator<Item = (usize, usize)> {
        self.0.iter().flatten().map(|page| page.place())
    }

    /// How many pages there are of each kind.
    pub(super) fn counts(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(Vec::len)
    }

    /// Every page, kind after kind: its first line, how many it has, and whether nobody else has
    /// it, so that it may be written to.
    pub(super) fn bases(&mut self) -> impl Iterator<Item = (*mut Lanes, usize, bool)> {
        self.0.iter_mut().flatten().map(|page| match Arc::get_mut(page) {
            Some(page) => {
                let lines = page.lines_mut();
                (lines.as_mut_ptr(), lines.len(), true)
            }
            None => {
                let lines = page.lines();
                (lines.as_ptr().cast_mut(), lines.len(), false)
            }
        })
    }

    /// Copies the newest lines here, where they are not.
    ///
    /// # Errors
    /// Some are lost.
    pub(super) fn fetch(&self) -> Result<()> {
        self.0.iter().flatten().try_for_each(|page| page.fetch())
    }

    /// The same without a copy.
    ///
    /// # Errors
    /// Some are known to be lost.
    pub(super) fn check(&self) -> Result<()> {
        self.0.iter().flatten().try_for_each(|page| page.check())
    }

    /// A device has failed in a pass that may have written to the pages that nobody else has.
    #[cfg(feature = "cuda")]
    pub(super) fn lose(&mut self, error: &EngineError) {
        self.0.iter_mut().flatten().filter_map(Arc::get_mut).for_each(|page| page.lose(error));
    }

    /// Where every page stands on device `number`, kind after kind. Those that a pass writes to are
    /// this state's own ([`Pages::reserve`]); forks share the others there, too.
    ///
    /// # Errors
    /// As of [`Storage::moved`].
    #[cfg(feature = "cuda")]
    pub(super) fn moved(
        &mut self,
        number: usize,
        make: impl Fn(usize) -> Result<Box<dyn Remote>>,
        places: &mut Vec<u64>,
    ) -> Result<()> {
        for page in self.0.iter_mut().flatten() {
            let place = match (page.stands(number), Arc::get_mut(page)) {
                (_, Some(page)) => page.moved(number, &make)?,
                (Some(place), None) => place,
                // A fork's page that is not there: this state gets its own.
                (None, None) => {
                    *page = Arc::new(page.as_ref().clone());
                    Arc::make_mut(page).moved(number, &make)?
                }
            };
            places.push(place);
        }
        Ok(())
    }

    /// (head, token, values of it) of the tokens that are kept of `position`.
    pub(super) fn get(&self, of: &Paged, position: usize, part: KeysOrValues) -> Vec<f32> {
        let kept = of.n_kept(position);
        let mut all = vec![0.0; of.n_head * kept * of.d_head];
        let mut each = all.chunks_exact_mut(of.d_head);
        for head in 0..of.n_head {
            for (token, x) in of.kept(position).zip(&mut each) {
                let page = &self.0[of.group][of.window.place(token / PAGE)];
                kept::recall(of.dtype, &page.lines()[of.head(head)], (token % PAGE, part), x);
            }
        }
        all
    }

    /// Overwrites what [`Pages::get`] gives.
    pub(super) fn set(&mut self, of: &Paged, position: usize, part: KeysOrValues, values: &[f32]) {
        assert_eq!(values.len(), of.n_head * of.n_kept(position) * of.d_head);
        let mut each = values.chunks_exact(of.d_head);
        for head in 0..of.n_head {
            for (token, x) in of.kept(position).zip(&mut each) {
                let page = &mut self.0[of.group][of.window.place(token / PAGE)];
                let page = &mut Arc::make_mut(page).lines_mut()[of.head(head)];
                kept::remember(Isa::portable(), of.dtype, page, (token % PAGE, part), x);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateLayout;
    use crate::state::layout::FIRST;
    use brooklet_formats::DType;

    #[test]
    fn forks_share_pages_until_they_write() {
        let mut layout = StateLayout::new("test", DType::F32);
        layout.push_pages(0, (2, 16), None);
        layout.push_pages(3, (1, 32), None);
        assert_eq!(layout.bytes_per_token(), (2 * 2 * 16 + 2 * 32) * 4);
        let of = layout.paged()[1].clone();
        let mut pages = Pages::new(1);
        pages.reserve(0, 100, layout.groups()).unwrap();
        let values: Vec<f32> = (0..3200).map(|i| i as f32).collect();
        pages.set(&of, 100, KeysOrValues::Keys, &values);
        pages.set(&of, 100, KeysOrValues::Values, &values);
        assert_eq!(pages.get(&of, 100, KeysOrValues::Keys), values);

        let mut fork = pages.clone();
        fork.reserve(100, 130, layout.groups()).unwrap();
        assert_eq!((pages.0[0].len(), fork.0[0].len()), (2, 3));
        let is_shared = |a: &Pages, b: &Pages, i: usize| Arc::ptr_eq(&a.0[0][i], &b.0[0][i]);
        assert!(is_shared(&pages, &fork, 0), "a full page is shared");
        assert!(!is_shared(&pages, &fork, 1), "one with room is not, once it is written");
        assert_eq!(fork.get(&of, 100, KeysOrValues::Values), values);
        // Pages taken ahead belong to both until one of them writes there.
        pages.reserve(100, 250, layout.groups()).unwrap();
        let mut fork = pages.clone();
        fork.reserve(100, 250, layout.groups()).unwrap();
        assert!((1..4).all(|i| !is_shared(&pages, &fork, i)));
        assert_eq!(fork.get(&layout.paged()[0], 100, KeysOrValues::Keys), vec![0.0; 3200]);
    }

    /// One entry for every few tokens, once all of them have come, in pages of their own.
    #[test]
    fn blocks_of_tokens_have_pages_of_their_own() {
        let mut layout = StateLayout::new("test", DType::F32).with_window(Some(70));
        layout.push_pages_of_all(0, (2, 16));
        layout.push_block_keys(0, 16, 3);
        assert_eq!(layout.bytes_per_token(), 4 * 2 * 2 * 16 + 4 * 2 * 16 / 3);
        let of = layout.paged()[1].clone();
        let mut pages = Pages::new(2);
        for (start, end, counts) in
            [(0, 2, [1, 0]), (2, 3, [1, 1]), (3, 194, [4, 1]), (194, 195, [4, 2])]
        {
            pages.reserve(start, end, layout.groups()).unwrap();
            assert_eq!(pages.counts().collect::<Vec<_>>(), counts, "{end}");
        }
        let values: Vec<f32> = (0..65 * 16).map(|i| i as f32).collect();
        pages.set(&of, 197, KeysOrValues::Keys, &values);
        assert_eq!(pages.get(&of, 195, KeysOrValues::Keys), values);
        assert_eq!(pages.get(&of, 194, KeysOrValues::Keys), values[..64 * 16]);
    }

    /// Token after token, in forks that go on by turns: what a ring keeps is the last tokens and
    /// the first, of every text its own, in a number of pages that does not grow.
    #[test]
    fn rings_keep_the_last_tokens_in_constant_memory() {
        let mut layout = StateLayout::new("test", DType::F32).with_window(Some(70));
        layout.push_pages(0, (1, 16), Some(9));
        layout.push_pages(1, (1, 16), None);
        assert_eq!((layout.context(), layout.bytes_per_token()), (None, 0));
        let page = 2 * 16 * PAGE * size_of::<f32>();
        assert_eq!(layout.bytes(), (2 + (3 + 1)) * page);
        let key = |text: usize, token: usize| (1000 * text + token) as f32;
        let mut texts = vec![Pages::new(2)];
        let write = |texts: &mut Vec<Pages>, token: usize| {
            for (text, pages) in texts.iter_mut().enumerate() {
                pages.reserve(token, token + 1, layout.groups()).unwrap();
                for of in layout.paged() {
                    let page = &mut pages.0[of.group][of.window.place(token / PAGE)];
                    let page = Arc::get_mut(page).expect("its own").lines_mut();
                    let mut x = [0.0; 16];
                    x[3] = key(text, token);
                    let at = (token % PAGE, KeysOrValues::Keys);
                    kept::remember(Isa::portable(), of.dtype, &mut page[of.head(0)], at, &x);
                }
            }
        };
        (0..130).for_each(|token| write(&mut texts, token));
        texts.push(texts[0].clone());
        (130..400).for_each(|token| write(&mut texts, token));
        for (text, pages) in texts.iter().enumerate() {
            for (of, first) in layout.paged().iter().zip([0, FIRST]) {
                let keys = pages.get(of, 400, KeysOrValues::Keys);
                let found: Vec<f32> = keys.iter().skip(3).step_by(16).copied().collect();
                let last = if first == 0 { 391..400 } else { 330..400 };
                let tokens = (0..first).map(|token| key(0, token));
                let expected: Vec<f32> = tokens.chain(last.map(|token| key(text, token))).collect();
                assert_eq!(found, expected, "text {text}");
            }
            assert_eq!(pages.counts().collect::<Vec<_>>(), [2, 4]);
        }
    }
}
