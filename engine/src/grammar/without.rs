//! Grammars in a build without them (the feature `grammar`): there is none.

use std::convert::Infallible;

use crate::error::Result;

/// A grammar; none can be made in this build.
#[derive(Clone, Debug)]
pub struct Grammar(Infallible);

impl Grammar {
    /// Never called.
    pub(crate) fn reset(&mut self) {
        match self.0 {}
    }

    /// Never called.
    pub(crate) fn is_over(&self) -> bool {
        match self.0 {}
    }

    /// Never called.
    pub(crate) fn accept(&mut self, _: u32) {
        match self.0 {}
    }

    /// Never called.
    pub(crate) fn position(&self) -> (u64, &[u32]) {
        match self.0 {}
    }

    /// Never called.
    pub(crate) fn behind(&self, _: &[u32]) -> Result<Grammar> {
        match self.0 {}
    }

    /// Never called.
    pub(crate) fn allowed(&self, _: &[u32]) -> usize {
        match self.0 {}
    }

    /// Never called.
    pub(crate) fn forbid(&mut self, _: &mut [f32]) {
        match self.0 {}
    }

    /// Never called.
    pub(crate) fn check(&self) -> Result<()> {
        match self.0 {}
    }
}
