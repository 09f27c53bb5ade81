//! Reading ahead: passes over tokens of which the last are guesses, for `speculate`.
//!
//! Test: `tests/speculate.rs`.

use super::{Session, read_chunks};
use crate::Result;
use crate::engine::{Run, Want};
use crate::state::State;

impl Session {
    /// Has the logits behind guess number `row` of the last pass, which was right.
    pub(crate) fn show(&mut self, row: usize) {
        self.row = row;
    }

    /// The most guesses of a path that fit a pass, of so many paths behind so many tokens each.
    pub(crate) fn room(&self, tokens: usize, paths: usize) -> usize {
        if self.keeper.is_some() {
            return 0;
        }
        let left = self.state.layout().limit() as u64;
        let left = left.saturating_sub(self.state.position()).saturating_sub(tokens as u64);
        let columns = (self.engine.chunk() / paths).saturating_sub(tokens);
        let rows = (self.engine.max_logits() / paths).saturating_sub(1);
        columns.min(rows).min(usize::try_from(left).unwrap_or(usize::MAX))
    }

    /// Reads tokens, and behind them guesses: the logits are those behind the last that is none
    /// ([`Session::show`] has the others, path by path). The session's state goes along the first
    /// path, `others` along those behind it. Whether guesses were right says [`Session::mark`], or
    /// [`Session::put_back`].
    pub(crate) fn read_ahead<'p>(
        &mut self,
        tokens: &[u32],
        paths: impl Iterator<Item = &'p [u32]>,
        others: &mut [State],
    ) -> Result<()> {
        self.begin_rollback()?;
        let whole: Vec<Vec<u32>> = paths.map(|path| [tokens, path].concat()).collect();
        let want = |tokens: &[u32], all: &[u32]| Want::Tail(all.len() - tokens.len() + 1);
        match &whole[..] {
            [] => {
                let Session { engine, state, keeper, .. } = self;
                read_chunks((engine, state, keeper), tokens, Want::Last, |_| Ok(true))?;
            }
            [all] => {
                let Session { engine, state, keeper, .. } = self;
                read_chunks((engine, state, keeper), all, want(tokens, all), |_| Ok(true))?;
            }
            all => {
                let states = std::iter::once(&mut self.state).chain(others);
                let runs = states.zip(all).map(|(state, all)| Run {
                    state,
                    tokens: all,
                    want: want(tokens, all),
                });
                self.engine.forward(&mut runs.collect::<Vec<_>>())?;
            }
        }
        (self.current, self.row) = (true, 0);
        Ok(())
    }

    /// The state is another one that the last pass has read; the logits stay where they are.
    pub(crate) fn go_on_with(&mut self, state: &mut State) {
        std::mem::swap(&mut self.state, state);
    }

    /// The state is what it was before the last pass.
    pub(crate) fn put_back(&mut self, state: &mut State) {
        std::mem::swap(&mut self.state, state);
        (self.current, self.row) = (false, 0);
    }
}
