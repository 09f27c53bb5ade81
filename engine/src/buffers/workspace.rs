//! The workspace of a forward pass: makes its buffers for a number of columns, and counts the
//! bytes that they take.
//!
//! A plan ([`Workspace::plan`]) counts the same bytes and allocates none of them, so that memory is
//! known before it is taken. Test: `tests/cli/inspect.rs` of the command line, and below.

use std::cell::Cell;

use brooklet_formats::zeroed::Zeroed;
use bytemuck::Pod;

/// Columns that buffers are to have.
pub(crate) struct Workspace {
    columns: usize,
    /// Bytes of the buffers so far.
    bytes: Cell<usize>,
    /// Whether buffers stay empty.
    plan: bool,
}

impl Workspace {
    /// A workspace for `columns` columns.
    pub(crate) fn new(columns: usize) -> Workspace {
        Workspace { columns, bytes: Cell::new(0), plan: false }
    }

    /// The same on paper: its buffers are empty and must not be used.
    pub(crate) fn plan(columns: usize) -> Workspace {
        Workspace { plan: true, ..Workspace::new(columns) }
    }

    /// Number of columns.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// A buffer of `per_column` elements for each column, all zero.
    pub(crate) fn zeroed<T: Pod>(&self, per_column: usize) -> Zeroed<T> {
        // Saturating: a plan may be of what no memory holds.
        let n = per_column.saturating_mul(self.columns);
        self.bytes.set(self.bytes.get().saturating_add(n.saturating_mul(size_of::<T>())));
        Zeroed::new(if self.plan { 0 } else { n })
    }

    /// What `make` makes for `times` as many columns.
    pub(crate) fn times<T>(&self, times: usize, make: impl FnOnce(&Workspace) -> T) -> T {
        let columns = self.columns.saturating_mul(times);
        let wider = Workspace { columns, bytes: Cell::new(0), plan: self.plan };
        let made = make(&wider);
        self.bytes.set(self.bytes.get().saturating_add(wider.bytes()));
        made
    }

    /// An empty list that takes one element for each column without growing.
    pub(crate) fn list<T>(&self) -> Vec<T> {
        self.bytes.set(self.bytes.get() + self.columns * size_of::<T>());
        Vec::with_capacity(if self.plan { 0 } else { self.columns })
    }

    /// Bytes of all buffers made here.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_counts_what_is_not_there() {
        for (workspace, len) in [(Workspace::new(3), 30), (Workspace::plan(3), 0)] {
            assert_eq!(workspace.zeroed::<f32>(10).len(), len);
            assert!(workspace.zeroed::<u8>(0).is_empty());
            assert_eq!(workspace.bytes(), 120);
            let wider = workspace.times(2, |wider| wider.zeroed::<u8>(5));
            assert_eq!((wider.len(), workspace.bytes()), (len, 150));
        }
    }
}
