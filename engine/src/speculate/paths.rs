//! [`Paths`]: what several drafts guess for one pass, and which of it has been right so far.
//!
//! All paths go on behind the same token, and begin alike as long as they are right:
//!
//! ```text
//! chosen        b c │ d                 the lead is path 1 from `c` on: its row behind d
//! path 0    a → b x   y                 has the logits that were asked for
//! path 1    a → b c   d  e
//! rows      0   1 2   3 │ 4   5 6   7  8
//! ```
//!
//! Test: below, `tests/speculate.rs`.

/// Guesses of one pass.
#[derive(Default)]
pub(super) struct Paths {
    /// The first `count` are in use; memory of the others is kept.
    paths: Vec<Vec<u32>>,
    count: usize,
    /// The path that has all tokens that were right, and how many these are.
    lead: usize,
    right: usize,
}

impl Paths {
    pub(super) fn clear(&mut self) {
        (self.count, self.lead, self.right) = (0, 0, 0);
    }

    /// An empty path, to be filled, and to be taken by [`Paths::close`].
    pub(super) fn open(&mut self) -> &mut Vec<u32> {
        if self.paths.len() == self.count {
            self.paths.push(Vec::new());
        }
        let path = &mut self.paths[self.count];
        path.clear();
        path
    }

    /// Takes the path that was opened last, unless it says nothing that another does not.
    pub(super) fn close(&mut self) {
        let (taken, path) = self.paths.split_at(self.count);
        let is_new = path.first().is_some_and(|path| {
            !path.is_empty() && !taken.iter().any(|other| other.starts_with(path))
        });
        self.count += usize::from(is_new);
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        self.paths[..self.count].iter().map(Vec::as_slice)
    }

    /// Guesses of all paths.
    pub(super) fn tokens(&self) -> usize {
        self.iter().map(<[u32]>::len).sum()
    }

    /// The path that has been right for longest; empty where there is none.
    pub(super) fn lead(&self) -> &[u32] {
        if self.count == 0 { &[] } else { &self.paths[self.lead] }
    }

    /// Its number among those behind the first.
    pub(super) fn other(&self) -> Option<usize> {
        self.lead.checked_sub(1)
    }

    /// How many of its guesses were right so far.
    pub(super) fn right(&self) -> usize {
        self.right
    }

    /// The row of the logits behind `token`, where a path has it next.
    pub(super) fn follow(&mut self, token: u32) -> Option<usize> {
        let right = &self.lead()[..self.right];
        let lead = self.iter().position(|path| {
            path.get(self.right) == Some(&token) && path[..self.right] == *right
        })?;
        (self.lead, self.right) = (lead, self.right + 1);
        // Each path has a row behind the token before its first, too.
        let before: usize = self.iter().take(lead).map(|path| path.len() + 1).sum();
        Some(before + self.right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(all: &[&[u32]]) -> Paths {
        let mut paths = Paths::default();
        for path in all {
            paths.open().extend_from_slice(path);
            paths.close();
        }
        paths
    }

    #[test]
    fn the_lead_changes_where_paths_part() {
        let mut paths = paths(&[&[1, 7, 8], &[1, 2, 3, 4], &[5]]);
        assert_eq!((paths.count(), paths.tokens()), (3, 8));
        assert_eq!(paths.follow(1), Some(1));
        assert_eq!(paths.follow(2), Some(4 + 2));
        assert_eq!((paths.lead(), paths.other()), (&[1, 2, 3, 4][..], Some(0)));
        // The first path said so, too, but it has been wrong.
        assert_eq!(paths.follow(8), None);
        assert_eq!(paths.follow(3), Some(4 + 3));
        assert_eq!(paths.right(), 3);
        paths.clear();
        assert_eq!(paths.follow(1), None);
        assert!(paths.lead().is_empty());
    }

    #[test]
    fn a_path_that_says_nothing_new_is_not_taken() {
        assert_eq!(paths(&[&[1, 2], &[], &[1], &[1, 2], &[2]]).count(), 2);
    }
}
