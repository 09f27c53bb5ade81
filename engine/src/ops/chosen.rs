//! Operations by the tokens themselves: embeddings of n-grams, and the blocks of tokens that
//! attention sees.

use super::{List, Op, Values};
use crate::kernels::ngrams::Hashes;
use crate::state::{PagesRef, SlotRef};
use crate::tensor::Matrix;

/// [`Op::Ngrams`]: see `kernels/ngrams.rs`.
#[derive(Clone, Copy)]
pub(crate) struct NgramsOp<'m> {
    pub(crate) table: &'m Matrix,
    pub(crate) hashes: Hashes<'m>,
    /// State: the last tokens, oldest first (longest n-gram − 1).
    pub(crate) tokens: SlotRef,
    /// (heads, columns of the table)
    pub(crate) y: Values,
}

impl std::fmt::Debug for NgramsOp<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "n-grams {:?} by {:?}", self.y, self.hashes)
    }
}

/// [`Op::Best`]: the blocks with the best Σ relu(q · k), as `kernels/chosen.rs` chooses them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BestOp {
    /// (heads, d)
    pub(crate) q: Values,
    /// State: the keys of whole blocks.
    pub(crate) pages: PagesRef,
    /// Tokens of a block.
    pub(crate) size: usize,
    /// Their numbers, ascending; infinities behind them.
    pub(crate) y: Values,
}

/// Heads of n-grams, at most: a card keeps their rows in the memory of a block.
const MAX_HEADS: usize = 1024;

impl<'m> List<'m> {
    /// The buffer `name` of the table's rows of a token's n-grams.
    pub(crate) fn ngrams(
        &mut self,
        name: &'static str,
        (table, hashes, tokens): (&'m Matrix, Hashes<'m>, SlotRef),
    ) -> Values {
        let y = self.values(name, hashes.heads.len() * table.cols());
        self.ops.push(Op::Ngrams(NgramsOp { table, hashes, tokens, y }));
        y
    }

    /// The best blocks.
    pub(crate) fn best(&mut self, best: BestOp) {
        self.ops.push(Op::Best(best));
    }

    /// Why such an operation does not fit.
    pub(super) fn check_chosen(&self, op: &Op<'_>) -> Result<(), &'static str> {
        let holds = |is_so: bool, why| if is_so { Ok(()) } else { Err(why) };
        match op {
            Op::Ngrams(NgramsOp { table, hashes, tokens, y }) => {
                let (heads, orders) = (hashes.heads.len(), hashes.multipliers.len() - 1);
                holds((1..=MAX_HEADS).contains(&heads), "heads of n-grams")?;
                holds(orders > 0 && heads.is_multiple_of(orders), "lengths of n-grams")?;
                holds(tokens.len() == orders, "tokens of n-grams")?;
                let ends = hashes.heads.iter().map(|[size, first]| size + first);
                holds(ends.max().unwrap_or(0) <= table.rows() as i64, "rows of n-grams")?;
                holds(self.rows(*y) == heads * table.cols(), "embeddings of n-grams")
            }
            Op::Best(BestOp { q, pages, size, .. }) => {
                let is_whole = self.rows(*q).is_multiple_of(pages.d_head);
                holds(*size > 0 && pages.n_head() == 1 && is_whole, "queries of blocks")
            }
            _ => Ok(()),
        }
    }
}
