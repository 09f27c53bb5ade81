//! The operation of heads with a state for each level (`kernels/recurrence/levels.rs`).

use super::{List, OfHead, Op, Values};
use crate::state::SlotRef;

/// [`Op::Levels`]: log-linear attention. Its weights depend on a token's position in the text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LevelsOp {
    pub(crate) n_head: usize,
    pub(crate) n_key: usize,
    pub(crate) n_value: usize,
    pub(crate) n_level: usize,
    /// State: (n_head, n_level, n_key, n_value).
    pub(crate) state: SlotRef,
    /// (n_key) of a head each.
    pub(crate) r: OfHead,
    pub(crate) k: OfHead,
    /// (n_value) of a head.
    pub(crate) v: OfHead,
    /// The factor of a head's value, and of its states (n_head).
    pub(crate) scale: Values,
    pub(crate) decay: Values,
    /// (n_head, n_level)
    pub(crate) weights: Values,
    /// (n_head, n_value)
    pub(crate) y: Values,
}

impl<'m> List<'m> {
    /// Heads with levels.
    pub(crate) fn levels(&mut self, levels: LevelsOp) {
        self.ops.push(Op::Levels(levels));
    }

    /// Whether there are such heads.
    #[cfg(feature = "cuda")]
    pub(crate) fn has_levels(&self) -> bool {
        self.ops.iter().any(|op| matches!(op, Op::Levels(_)))
    }

    /// Why it does not fit.
    pub(super) fn check_levels(&self, levels: &LevelsOp) -> Result<(), &'static str> {
        let LevelsOp { n_head, n_key, n_value, n_level, .. } = *levels;
        let holds = |is_so: bool, why| if is_so { Ok(()) } else { Err(why) };
        let fits =
            |of: OfHead, n: usize| of.share > 0 && of.at(n_head - 1) + n <= self.rows(of.from);
        let n = n_head * n_key * n_value * n_level;
        holds(n > 0 && levels.state.len() == n, "a state of levels")?;
        holds(fits(levels.r, n_key) && fits(levels.k, n_key), "keys of levels")?;
        holds(fits(levels.v, n_value), "values of levels")?;
        let numbers = [levels.scale, levels.decay];
        holds(numbers.iter().all(|x| self.rows(*x) == n_head), "factors of levels")?;
        holds(self.rows(levels.weights) >= n_head * n_level, "weights of levels")?;
        holds(self.rows(levels.y) == n_head * n_value, "what levels read")
    }
}
