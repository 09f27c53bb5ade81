//! [`PrefixCache`]: texts that begin as earlier ones did are read from where they part.
//!
//! A Transformer keeps keys and values of every token and cuts them off where a text changes. A
//! recurrent state cannot be cut, but it is small: copies of it are kept along the texts that were
//! read, at every so many tokens, where texts parted before, and at their ends. Whatever comes next
//! begins with the copy that stands deepest in it:
//!
//! ```text
//! kept     S ────────── a ────────── b ──── c        S, a, b, c, d: copies of the state
//!                            └───────────── d
//! request  S ────────── a ─────×···················  × parts from both behind a
//!            reused       replayed    computed
//! ```
//!
//! The tokens between the copy and the parting are read a second time, and a copy is kept at the
//! parting: where texts part once they will part again. A pass gives the same bits however its
//! tokens are cut, so that what follows is what it would be without the cache.
//!
//! Memory is bounded, and so is the folder where copies may be kept, too, for the next process
//! ([`PrefixCache::with_folder`]). The oldest go first, those between ends before those at ends.
//!
//! | module | |
//! |---|---|
//! | `tree` | the texts, and the copies along them |
//! | `folder` | the same on disk |
//! | `writer` | the thread that writes it |
//!
//! Test: `tests/prefix.rs`.

mod folder;
mod tree;
mod writer;

use std::path::Path;

use crate::engine::Want;
use crate::model::Model;
use crate::session::Session;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::{EngineError, Result};

use self::folder::Folder;
use self::tree::{Found, Tree};

/// Tokens between two copies, unless another number is asked for.
pub const DEFAULT_INTERVAL: usize = 512;

/// What became of a text's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Tokens that a copy of the state had read.
    pub reused: usize,
    /// Tokens that were known, but are behind the last copy: read again.
    pub replayed: usize,
    /// Tokens that were new.
    pub computed: usize,
}

impl Reading {
    /// All tokens that the state has read.
    pub fn tokens(&self) -> usize {
        self.reused + self.replayed + self.computed
    }
}

/// States along the texts that one model has read from one beginning.
///
/// ```
/// use brooklet::prefix::PrefixCache;
/// use brooklet::{EngineOptions, Model, Session};
///
/// let model = Model::open("../models/rwkv7-nano-int8.brk")?;
/// let mut session = Session::new(&model, &EngineOptions::default());
/// let mut cache = PrefixCache::new(&model, 64 << 20);
/// cache.prefill(&mut session, &[1, 2, 3, 4], &[], |_| true)?;
/// let reading = cache.prefill(&mut session, &[1, 2, 3, 4, 5], &[], |_| true)?;
/// assert_eq!((reading.reused, reading.computed), (4, 1));
/// # Ok::<(), brooklet::EngineError>(())
/// ```
pub struct PrefixCache {
    /// Before the first token of every text.
    start: State,
    tree: Tree,
    interval: usize,
    folder: Option<Folder>,
}

impl PrefixCache {
    /// A cache of up to `bytes` of memory, for texts that begin before the first token.
    pub fn new(model: &Model, bytes: usize) -> PrefixCache {
        PrefixCache::behind(model.new_state(), bytes)
    }

    /// The same for texts that begin behind `start`: a tuned state, say.
    pub fn behind(start: State, bytes: usize) -> PrefixCache {
        let tree = Tree::new(bytes);
        PrefixCache { start, tree, interval: DEFAULT_INTERVAL, folder: None }
    }

    /// Keeps a copy every `tokens` tokens; 0 keeps none but at ends and partings.
    pub fn every(mut self, tokens: usize) -> PrefixCache {
        self.interval = tokens;
        self
    }

    /// Keeps copies in a folder, too, which is made if need be: up to `bytes`, in f32 state files
    /// (`.brks`) that hold their text's tokens. Several processes may share it, and several models;
    /// files of others are left alone. What cannot be written or is damaged is as if it were not
    /// there. A thread writes them, so that no text waits for the disk; what waits is bounded
    /// (64 MB), and is written before the cache goes away ([`PrefixCache::flush`]).
    ///
    /// # Errors
    /// The folder cannot be made; texts of this cache do not begin before the first token; or keys
    /// and values are kept in 8 bits, which a file does not give back to the bit.
    pub fn with_folder(mut self, model: &Model, folder: &Path, bytes: u64) -> Result<PrefixCache> {
        if self.start != model.new_state() {
            return Err(EngineError::PrefixFolder {
                folder: folder.to_owned(),
                why: "only texts that begin before the first token are kept in files".to_owned(),
            });
        }
        self.folder = Some(Folder::new(model, folder, bytes)?);
        Ok(self)
    }

    /// Memory that is taken by what is kept.
    pub fn bytes(&self) -> usize {
        self.tree.bytes()
    }

    /// Waits until all copies are in the folder that are to be there.
    pub fn flush(&self) {
        if let Some(folder) = &self.folder {
            folder.flush();
        }
    }

    /// Forgets everything but what is in the folder.
    pub fn clear(&mut self) {
        self.tree.clear();
    }

    /// Reads `tokens` from their beginning, whatever the session has read before, and has the
    /// logits behind the last: [`Session::prefill`] behind [`Session::reset`], without what is
    /// known. `borders` are lengths of beginnings that others will share, ascending: the end of
    /// instructions, of turns. `progress(tokens that the state has read)` is called between passes;
    /// when it gives false, the logits are not there ([`Session::has_logits`]), and the tokens of
    /// [`Reading`] are fewer.
    ///
    /// # Errors
    /// No tokens, one outside the vocabulary, a session of another model; or a device failed.
    pub fn prefill(
        &mut self,
        session: &mut Session,
        tokens: &[u32],
        borders: &[usize],
        mut progress: impl FnMut(usize) -> bool,
    ) -> Result<Reading> {
        if tokens.is_empty() {
            return Err(EngineError::NoTokens);
        }
        let (snapshot, known) = self.begin(session.model(), tokens);
        session.resume(&snapshot)?;
        let mut at = known.reused;
        let mut goes_on = true;
        while goes_on && at < tokens.len() {
            let end = self.next_copy(&known, at, tokens.len(), borders);
            let want = if end == tokens.len() { Want::Last } else { Want::None };
            let (base, mut read) = (at, 0);
            session.read(&tokens[at..end], want, |_, n, _| {
                read = n;
                goes_on = progress(base + n);
                Ok(goes_on)
            })?;
            at += read;
            session.state().fetch()?;
            let is_end = at == tokens.len() || borders.binary_search(&at).is_ok();
            self.insert(&tokens[..at], &session.snapshot(), is_end || at == known.common);
        }
        Ok(known.reading(at))
    }

    /// Keeps a copy of where the session stands, which has read these tokens from their beginning:
    /// behind an answer, whose next question will come with it.
    ///
    /// # Errors
    /// A card has lost the session's state.
    pub fn keep(&mut self, session: &Session, tokens: &[u32]) -> Result<()> {
        session.state().fetch()?;
        self.insert(tokens, &session.snapshot(), true);
        Ok(())
    }

    /// The deepest copy of `tokens`, or the start, and what is known of them.
    pub(crate) fn begin(&mut self, model: &Model, tokens: &[u32]) -> (Snapshot, Known) {
        let found = self.tree.find(tokens);
        let Found { reused, common, .. } = found;
        let loaded = self.folder.as_ref().and_then(|folder| folder.find(model, tokens, reused));
        if let Some(snapshot) = loaded {
            let n = snapshot.tail.len();
            // It is the next one's, too.
            self.tree.insert(&tokens[..n], &snapshot, true);
            let snapshot = Snapshot { tail: Vec::new(), unread: 0, ..snapshot };
            return (snapshot, Known { reused: n, common: self.common(tokens, common.max(n)) });
        }
        let common = self.common(tokens, common);
        match found.node.and_then(|node| self.tree.take(node)) {
            Some(snapshot) => (snapshot, Known { reused, common }),
            None => (Snapshot::new(self.start.clone()), Known { reused: 0, common }),
        }
    }

    /// How many tokens have been read before, by this process or another one; `known` of them by
    /// this one.
    fn common(&mut self, tokens: &[u32], known: usize) -> usize {
        let folder = self.folder.as_mut().filter(|_| known < tokens.len());
        folder.map_or(known, |folder| known.max(folder.common(tokens, known)))
    }

    /// Where the next copy is to be kept, behind `at` tokens of `all`.
    pub(crate) fn next_copy(
        &self,
        known: &Known,
        at: usize,
        all: usize,
        borders: &[usize],
    ) -> usize {
        let regular = (at + 1).checked_next_multiple_of(self.interval).unwrap_or(all);
        let border = borders.iter().copied().find(|border| *border > at).unwrap_or(all);
        let parting = if known.common > at { known.common } else { all };
        regular.min(border).min(parting).min(all)
    }

    /// Whether a copy is kept behind so many tokens of every text.
    pub(crate) fn is_regular(&self, at: usize) -> bool {
        self.interval > 0 && at.is_multiple_of(self.interval)
    }

    /// Keeps a copy that has read `tokens`; at the end of a text, or between.
    pub(crate) fn insert(&mut self, tokens: &[u32], copy: &Snapshot, is_end: bool) {
        let n = tokens.len() as u64;
        if n == 0 || copy.state.position() != self.start.position().saturating_add(n) {
            return;
        }
        if let Some(folder) = &mut self.folder {
            folder.insert(tokens, copy);
        }
        self.tree.insert(tokens, copy, is_end);
    }
}

/// What is known of a text before it is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// Tokens that a copy has read.
    pub(crate) reused: usize,
    /// Tokens that were read before.
    pub(crate) common: usize,
}

impl Known {
    /// What became of the first `n` tokens.
    pub(crate) fn reading(&self, n: usize) -> Reading {
        let replayed = self.common.clamp(self.reused, n) - self.reused;
        Reading { reused: self.reused, replayed, computed: n - self.reused - replayed }
    }
}
