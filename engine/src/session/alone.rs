//! Tokens that the device chooses by itself, for `generate`.
//!
//! Test: `tests/alone.rs`.

use super::Session;
use crate::Result;
use crate::engine::Want;
use crate::sampler::Rule;

impl Session {
    /// Reads `token`, and behind it tokens that the device chooses by `rule`: one is put into each
    /// place of `chosen`, of which the last is not read. `false` where the device cannot, or where
    /// this session looks at the state behind every token: nothing has happened then.
    ///
    /// # Errors
    /// As [`Session::step`]'s.
    pub(crate) fn alone(
        &mut self,
        token: u32,
        rule: &Rule<'_>,
        chosen: &mut [u32],
    ) -> Result<bool> {
        if self.rollback.is_some() || self.keeper.is_some() {
            return Ok(false);
        }
        let went = self.engine.alone(&mut self.state, token, rule, chosen)?;
        if went {
            (self.current, self.row) = (true, 0);
        }
        Ok(went)
    }

    /// Goes back to where only the first `n` of `read` had been read, which are all that the last
    /// [`Session::alone`] has read.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn read_no_more_than(&mut self, read: &[u32], n: usize) -> Result<()> {
        if n == read.len() {
            return Ok(());
        }
        self.current = false;
        self.engine.back(&mut self.state, read.len())?;
        self.read(&read[..n], Want::Last, |_, _, _| Ok(true)).map(drop)
    }
}
