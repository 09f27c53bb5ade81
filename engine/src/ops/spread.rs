//! The operation that puts what chosen experts have to their places among all.

use super::{List, Op, Values};

/// [`Op::Spread`]: of each of `n` what stands in `from` where `chosen` has its number, else 0; of
/// those behind, which every token gets, 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpreadOp {
    /// Numbers, and what each has (n_used).
    pub(crate) chosen: Values,
    pub(crate) from: Values,
    pub(crate) n: usize,
    pub(crate) y: Values,
}

impl List<'_> {
    /// What chosen experts have, in a buffer called `name` of `rows`.
    pub(crate) fn spread(
        &mut self,
        name: &'static str,
        [chosen, from]: [Values; 2],
        (n, rows): (usize, usize),
    ) -> Values {
        let y = self.values(name, rows);
        self.ops.push(Op::Spread(SpreadOp { chosen, from, n, y }));
        y
    }

    /// Why it does not fit.
    pub(super) fn check_spread(&self, spread: &SpreadOp) -> Result<(), &'static str> {
        let holds = |is_so: bool, why| if is_so { Ok(()) } else { Err(why) };
        holds(self.rows(spread.chosen) == self.rows(spread.from), "what chosen experts have")?;
        holds(spread.n <= self.rows(spread.y), "places of experts")
    }
}
