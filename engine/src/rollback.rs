//! [`Rollback`]: what it takes to go back to any of the last tokens, exactly.
//!
//! A recurrent state cannot be shortened: what a token did to it cannot be taken out again. So
//! copies of it are kept, of every one of the last tokens and of every eighth before, and the
//! tokens between are read again:
//!
//! ```text
//! tokens   … a b c d e f g h i j k l m n o p q r s t u v    back to l: the copy at i,
//! copies     ^               ^         ^     ^ ^ ^ ^ ^ ^    and j k l read again, in one pass
//! ```
//!
//! A pass gives the same bits however its tokens are cut (`tests/same_bits.rs`), so that the state
//! and its logits are those of before. Pages of attention are shared, not copied. Not here: who
//! asks for it (`session`, `speculate`). Test: `tests/rollback.rs`.

use std::collections::VecDeque;

use crate::state::State;

/// Of so many of the last tokens, every state is kept.
const DENSE: u64 = 8;

/// Of earlier ones, no more than so many are read again.
const SPARSE: u64 = 8;

/// Copies of a state behind some of its last tokens, and those tokens.
pub(crate) struct Rollback {
    /// The most tokens to go back.
    most: usize,
    /// The last tokens, from that behind the oldest mark on.
    tokens: VecDeque<u32>,
    /// By position; at least one, between calls.
    marks: VecDeque<Mark>,
    /// Memory for marks to come.
    spare: Vec<Mark>,
}

/// A state as it was.
pub(crate) struct Mark {
    pub(crate) state: State,
    /// The logits there; empty where they are not known.
    pub(crate) logits: Vec<f32>,
}

impl Rollback {
    /// To go back at most `most` tokens.
    pub(crate) fn new(most: usize) -> Rollback {
        let (tokens, marks) = (VecDeque::new(), VecDeque::new());
        Rollback { most, tokens, marks, spare: Vec::new() }
    }

    /// The most copies that are kept for `most` tokens.
    pub(crate) fn marks(most: usize) -> usize {
        let dense = most.min(DENSE as usize);
        // Where tokens come several at a time, the gaps of two copies together are longer than
        // that; more stand at the end, before the dense ones and before the farthest token.
        dense + (most - dense).div_ceil(SPARSE as usize / 2) + 3
    }

    /// Begins anew.
    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.spare.extend(self.marks.drain(..));
    }

    /// Whether it knows where it stands.
    pub(crate) fn has_begun(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Keeps a copy of `state`, which has read `tokens` since the last one, and of its logits.
    pub(crate) fn mark(&mut self, tokens: &[u32], state: &State, logits: Option<&[f32]>) {
        self.tokens.extend(tokens);
        let mut mark = match self.spare.pop() {
            Some(mut mark) => {
                mark.state.clone_from(state);
                mark
            }
            None => Mark { state: state.clone(), logits: Vec::new() },
        };
        mark.logits.clear();
        mark.logits.extend_from_slice(logits.unwrap_or_default());
        self.marks.push_back(mark);
        self.thin();
    }

    /// Drops the copies that nobody needs.
    fn thin(&mut self) {
        let Some(end) = self.marks.back().map(|mark| mark.state.position()) else { return };
        let farthest = end.saturating_sub(self.most as u64);
        // The newest one from which the farthest token can be reached is the first.
        while self.marks.get(1).is_some_and(|next| next.state.position() <= farthest) {
            let Some(first) = self.marks.pop_front() else { break };
            let next = self.marks.front().map_or(end, |mark| mark.state.position());
            let n = (next - first.state.position()) as usize;
            self.tokens.drain(..n.min(self.tokens.len()));
            self.spare.push(first);
        }
        let mut i = 1;
        while i + 1 < self.marks.len() {
            let [before, at, after] = [i - 1, i, i + 1].map(|i| self.marks[i].state.position());
            if at + DENSE < end && after - before <= SPARSE {
                self.spare.extend(self.marks.remove(i));
            } else {
                i += 1;
            }
        }
    }

    /// The tokens that it can go back.
    pub(crate) fn reach(&self) -> usize {
        self.tokens.len().min(self.most)
    }

    /// Forgets the last `n` tokens, which are not more than [`Rollback::reach`]: gives the copy to
    /// go on from, and the tokens behind it that are to be read again.
    pub(crate) fn back(&mut self, n: usize) -> Option<(&Mark, &[u32])> {
        let keep = self.tokens.len().checked_sub(n)?;
        self.tokens.truncate(keep);
        let first = self.marks.front()?.state.position();
        let target = first + keep as u64;
        while self.marks.len() > 1 && self.marks.back()?.state.position() > target {
            self.spare.extend(self.marks.pop_back());
        }
        // A copy without logits is no use where nothing is read again.
        if self.marks.len() > 1 {
            let last = self.marks.back()?;
            if last.state.position() == target && last.logits.is_empty() {
                self.spare.extend(self.marks.pop_back());
            }
        }
        let mark = self.marks.back()?;
        let read = (mark.state.position() - first) as usize;
        Some((mark, &self.tokens.make_contiguous()[read..]))
    }
}
