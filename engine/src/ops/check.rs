//! Whether a list fits together: buffers, weights and states have the sizes that operations want.
//!
//! A list that does not fit, by a bug of ours or for sizes that no device takes, is found here,
//! before a device trusts it. Test: below, and every list in `tests/operations.rs`.

use super::formula::{DEPTH, STEPS, TERMS, Term};
use super::{DecayOp, DeltaOp, Formula, HeadsOp, List, NormOp, OfHead, Op, Values};
use crate::kernels::lanes::WIDTH;

/// The first operation that does not fit, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misfit {
    /// Its number.
    pub(crate) op: usize,
    pub(crate) why: &'static str,
}

/// `Err(why)` unless it holds.
fn holds(is_so: bool, why: &'static str) -> Result<(), &'static str> {
    if is_so { Ok(()) } else { Err(why) }
}

impl List<'_> {
    /// Checks every operation.
    pub(crate) fn check(&self) -> Result<(), Misfit> {
        let misfit = |(op, checked): (usize, Result<(), &'static str>)| {
            checked.map_err(|why| Misfit { op, why })
        };
        self.ops.iter().map(|op| self.check_op(op)).enumerate().try_for_each(misfit)
    }

    fn check_op(&self, op: &Op<'_>) -> Result<(), &'static str> {
        let rows = |values: Values| self.values[values.0].rows;
        match op {
            Op::Embed { table, y } => holds(table.cols() <= rows(*y), "a token's row"),
            Op::Gather { x, y } => holds(rows(*x) == rows(*y), "columns of one size"),
            Op::Map { f, y } | Op::Fold { f, y } => self.check_formula(f, rows(*y)),
            Op::Sum { f, over, y } => {
                holds(*over > 0, "elements of a sum")?;
                self.check_formula(f, rows(*y) * over)
            }
            Op::Norm { x, norm, over, y } => {
                let n = rows(*x);
                let weights = match norm {
                    NormOp::Layer { weight, bias, .. } => weight.len() == n && bias.len() == n,
                    NormOp::Rms { weight, .. } => weight.len() == n || weight.len() == *over,
                };
                holds(weights && rows(*y) == n, "weights of a norm")?;
                holds(*over > 0 && n.is_multiple_of(*over), "groups of a norm")
            }
            Op::Pack { f, y } => self.check_formula(f, self.inputs[y.0].rows),
            Op::Project { w, x, y } => {
                let n = rows(*y);
                holds(n == w.rows() || n == w.rows().next_multiple_of(WIDTH), "a product's rows")?;
                let is_one = self.inputs[x.0].each.is_none();
                holds(is_one && self.inputs[x.0].rows == w.cols(), "a product's columns")?;
                holds(self.inputs[x.0].forms | w.forms() == self.inputs[x.0].forms, "a form")
            }
            Op::Keep { x, state } => holds(rows(*x) == state.len(), "what a state keeps"),
            Op::Conv(conv) => {
                let (all, n, taps) = (rows(conv.y), conv.bias.len(), conv.n_tap());
                let groups = conv.seen.map_or(1, rows);
                holds(n.is_multiple_of(WIDTH) && all == groups * n, "a convolution's channels")?;
                holds(taps > 0 && conv.taps.len() == taps * n, "a convolution's taps")?;
                holds(conv.window.len() == (taps - 1) * all, "a convolution's window")
            }
            Op::Heads(heads) => self.check_heads(heads),
            Op::Scan(scan) => {
                let n = rows(scan.x);
                holds(n.is_multiple_of(WIDTH) && rows(scan.delta_y) == n, "a scan's channels")?;
                holds(scan.a.len() == n * scan.d_state && scan.d.len() == n, "a scan's weights")?;
                holds(scan.state.len() == n * scan.d_state, "a scan's state")?;
                holds(
                    scan.d_head > 0 && rows(scan.b_c).is_multiple_of(2 * scan.d_state),
                    "a scan's B and C",
                )
            }
            Op::Average(average) => {
                let n = rows(average.y);
                holds(rows(average.k) == n && rows(average.v) == n, "an average's inputs")?;
                holds(
                    average.decay.len() == n && average.bonus.len() == n,
                    "an average's weights",
                )?;
                holds(average.state.iter().all(|s| s.len() == n), "an average's state")
            }
            Op::Turn(_) | Op::Remember(_) | Op::Attend(_) => self.check_attention(op),
            Op::Exact(_) | Op::Choose(_) | Op::Experts(_) => self.check_experts(op),
            Op::Place(_) | Op::Blocks(_) => self.check_place(op),
            Op::Slots(slots) => self.check_slots(slots),
            Op::Spin(spin) => self.check_spin(spin),
            Op::Levels(levels) => self.check_levels(levels),
            Op::Spread(spread) => self.check_spread(spread),
            Op::Mesa(mesa) => self.check_mesa(mesa),
            Op::Cells(cells) => self.check_cells(cells),
            Op::Ngrams(_) | Op::Best(_) => self.check_chosen(op),
            Op::Past(_) | Op::HeadConvs(_) => self.check_past(op),
        }
    }

    /// Whether every element of `n` has its terms.
    fn check_formula(&self, f: &Formula<'_>, n: usize) -> Result<(), &'static str> {
        holds(f.depth().is_some_and(|depth| depth <= DEPTH), "a formula's stack")?;
        holds(f.terms().count() <= TERMS && f.steps().len() <= STEPS, "a formula's length")?;
        f.terms().try_for_each(|term| match term {
            Term::Values { from, first, each } => holds(
                each > 0 && first + n.div_ceil(each) <= self.values[from.0].rows,
                "a formula's buffer",
            ),
            Term::Weights { from, each } => {
                holds(each > 0 && n.div_ceil(each) <= from.len(), "a formula's weights")
            }
            Term::Before { from, state } => holds(
                n <= self.values[from.0].rows && n <= state.len(),
                "a formula's column before",
            ),
            Term::Number(_) => Ok(()),
        })
    }

    fn check_heads(&self, heads: &HeadsOp<'_>) -> Result<(), &'static str> {
        let HeadsOp { n_head, n_key, n_value, steps, .. } = *heads;
        holds(steps > 0, "steps of heads")?;
        let rows = |values: Values| match self.values[values.0].rows / steps {
            // Steps begin with tiles.
            own if steps == 1 || own.is_multiple_of(WIDTH) => own,
            _ => 0,
        };
        let fits = |of: OfHead, n: usize| {
            holds(of.share > 0 && of.at(n_head - 1) + n <= rows(of.from), "a head's input")
        };
        holds(n_head > 0 && heads.state.len() == n_head * n_key * n_value, "heads' state")?;
        let width = if steps == 1 { rows(heads.y) } else { n_head * n_value };
        holds(width == n_head * n_value && rows(heads.y) >= width, "heads' values")?;
        let is_seen = |(seen, each): (Values, usize)| {
            steps == 1 && each > 0 && n_head.div_ceil(each) <= rows(seen)
        };
        holds(heads.seen.is_none_or(is_seen), "what heads see")?;
        holds(heads.bonus.is_none_or(|bonus| bonus.len() == n_head * n_key), "heads' bonus")?;
        fits(heads.r, n_key)?;
        fits(heads.k, n_key)?;
        fits(heads.v, n_value)?;
        holds(heads.scale.is_none_or(|scale| rows(scale) >= n_head), "heads' scale")?;
        match heads.decay {
            DecayOp::PerHead(decay) => holds(rows(decay) >= n_head, "heads' decay")?,
            DecayOp::PerKey(decay) => fits(decay, n_key)?,
        }
        match heads.delta {
            None => Ok(()),
            Some(DeltaOp::General { a, b }) => fits(a, n_key).and(fits(b, n_key)),
            Some(DeltaOp::Rule { factor }) => holds(rows(factor) >= n_head, "heads' factor"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{of, rows};
    use super::*;

    #[test]
    fn what_does_not_fit_is_found() {
        let mut list = List::default();
        let (x, y) = (list.values("x", 8), list.values("y", 4));
        list.map(y, of(x));
        assert_eq!(list.check(), Ok(()));
        list.map(y, rows(x, 5));
        assert_eq!(list.check(), Err(Misfit { op: 1, why: "a formula's buffer" }));
        let mut list = List::default();
        let y = list.values("y", 4);
        let f = || Formula::from(1.0);
        list.map(y, f() + (f() + (f() + (f() + f()))));
        assert_eq!(list.check(), Err(Misfit { op: 0, why: "a formula's stack" }));
        let mut list = List::default();
        let x = list.values("x", 8);
        let weight = &[1.0; 8];
        list.norm(x, x, NormOp::Rms { weight, eps: 0.1 }, 3);
        assert_eq!(list.check(), Err(Misfit { op: 0, why: "groups of a norm" }));
    }
}
