//! [`Logits`]: the memory that rows of logits stand in, as a value.
//!
//! For callers who show logits to somebody else without a copy (another language's arrays): the
//! engine goes on in other memory, and what is shown stays. Not here: computing them. Test:
//! `tests/sessions.rs`.

use crate::buffers::{Panel, Workspace};

/// Rows of logits, as many as an engine has. Their address does not change when this is moved.
pub struct Logits(pub(super) Panel);

impl Logits {
    /// `rows` rows of `n_vocab` values, all zero.
    pub(super) fn new(n_vocab: usize, rows: usize) -> Logits {
        Logits(Panel::new(n_vocab, &Workspace::new(rows)))
    }

    /// Row `i`: `n_vocab` values.
    ///
    /// # Panics
    /// There are not so many rows.
    pub fn row(&self, i: usize) -> &[f32] {
        self.0.column(i)
    }
}
