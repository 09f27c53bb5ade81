//! Operations of mixtures of experts: exact scores, the choice by them, products with the matrices
//! of those that were chosen.
//!
//! A token's experts stand behind each other in its columns, in ascending order, each with so many
//! rows; activations of theirs are padded to whole pairs of groups, so that each expert finds its
//! own as if they were a column. Not here: equations (`model/parts/experts`).

use brooklet_formats::quant::MAX_GROUP;

use super::list::Buffer;
use super::{Formula, Inputs, List, Op, Values};
use crate::kernels::choice::{Choice, MAX_USED};
use crate::kernels::lanes::WIDTH;
use crate::tensor::ExpertMatrices;

/// The most experts of a layer: a card keeps their scores in the memory of a block.
const MAX_EXPERTS: usize = 2048;

/// [`Op::Exact`]: see `kernels/rows.rs`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExactOp<'m> {
    /// (blocks, k, 16)
    pub(crate) w: &'m [f32],
    /// Its first k values are read.
    pub(crate) x: Values,
    /// (blocks · 16)
    pub(crate) y: Values,
}

impl ExactOp<'_> {
    /// Values that it reads, of so many `rows` of y.
    pub(super) fn k(&self, rows: usize) -> usize {
        self.w.len().checked_div(rows).unwrap_or(0)
    }
}

/// [`Op::Choose`]: see `kernels/choice.rs`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChooseOp<'m> {
    /// Logits: of the experts and, with a bias for that, of going through none.
    pub(crate) scores: Values,
    pub(crate) n_expert: usize,
    pub(crate) choice: Choice,
    pub(crate) bias: Option<&'m [f32]>,
    pub(crate) skip_bias: Option<f32>,
    /// Numbers of the chosen experts, ascending, and their weights (n_used).
    pub(crate) chosen: Values,
    pub(crate) weights: Values,
}

impl ChooseOp<'_> {
    /// Logits among which it chooses.
    pub(crate) fn n_choice(&self) -> usize {
        self.n_expert + usize::from(self.skip_bias.is_some())
    }
}

/// [`Op::Experts`]: also products of heads, each with a matrix of its own.
#[derive(Clone, Copy)]
pub(crate) struct ExpertsOp<'m> {
    pub(crate) w: &'m ExpertMatrices,
    /// Results for a token: of those that were chosen (n_used), or of the first `n`.
    pub(crate) n: usize,
    pub(crate) chosen: Option<Values>,
    /// What all experts read, or what each does ([`List::pack_of_experts`]).
    pub(crate) x: Inputs,
    /// (n_used, rows of an expert with what pads them, which become zero)
    pub(crate) y: Values,
    /// The weights of the sum of the results (n_used), and what that is added to.
    pub(crate) sum: Option<(Values, Values)>,
}

impl std::fmt::Debug for ExpertsOp<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "experts {:?} of {:?} by {:?}", self.y, self.x, self.chosen)
    }
}

/// The activations of one of several experts, with what pads them.
pub(crate) fn padded(k: usize) -> usize {
    k.next_multiple_of(2 * MAX_GROUP)
}

impl<'m> List<'m> {
    /// y = W x, exactly, in a buffer called `name`.
    pub(crate) fn exact(
        &mut self,
        name: &'static str,
        w: &'m [f32],
        x: Values,
        rows: usize,
    ) -> Values {
        let y = self.values(name, rows);
        self.ops.push(Op::Exact(ExactOp { w, x, y }));
        y
    }

    /// Experts by their scores.
    pub(crate) fn choose(&mut self, choose: ChooseOp<'m>) {
        self.ops.push(Op::Choose(choose));
    }

    /// The activations `name` of `n` experts, `k` of each, that f gives; it has [`padded`] elements
    /// for each.
    pub(crate) fn pack_of_experts(
        &mut self,
        name: &'static str,
        (n, k): (usize, usize),
        f: impl Into<Formula<'m>>,
    ) -> Inputs {
        let y = self.pack(name, n * padded(k), f);
        self.inputs[y.0].each = Some(k);
        y
    }

    /// y = W x of every chosen expert.
    pub(crate) fn experts(&mut self, experts: ExpertsOp<'m>) {
        let forms = &mut self.inputs[experts.x.0].forms;
        *forms = *forms | experts.w.all().forms();
        self.ops.push(Op::Experts(experts));
    }

    /// Of activations of several experts those of each.
    pub(crate) fn each(&self, x: Inputs) -> Option<usize> {
        self.inputs[x.0].each
    }

    /// Why an operation of experts does not fit.
    pub(super) fn check_experts(&self, op: &Op<'_>) -> Result<(), &'static str> {
        let holds = |is_so: bool, why| if is_so { Ok(()) } else { Err(why) };
        match op {
            Op::Exact(exact) => {
                let (rows, k) = (self.rows(exact.y), exact.k(self.rows(exact.y)));
                holds(rows.is_multiple_of(WIDTH) && exact.w.len() == rows * k, "exact rows")?;
                holds(k <= self.rows(exact.x), "what exact rows read")
            }
            Op::Choose(choose) => {
                let (n, choice) = (choose.n_choice(), choose.choice);
                let n_used = choice.n_used;
                holds(n <= MAX_EXPERTS && n <= self.rows(choose.scores), "scores of experts")?;
                holds((1..=MAX_USED).contains(&n_used) && n_used <= n, "experts of a token")?;
                holds(choice.n_always < n_used, "experts that every token gets")?;
                let is_bias = |b: &[f32]| b.len() == choose.n_expert - choice.n_always;
                holds(choose.bias.is_none_or(is_bias), "a bias of experts")?;
                let chosen = [choose.chosen, choose.weights];
                holds(chosen.iter().all(|y| self.rows(*y) == n_used), "chosen experts")
            }
            Op::Experts(experts) => {
                let Buffer { rows: k, each, forms, .. } = self.inputs[experts.x.0];
                let (n, w) = (experts.n, experts.w);
                let is_n = match experts.chosen {
                    Some(chosen) => self.rows(chosen) == n,
                    None => n * w.rows().next_multiple_of(WIDTH) <= w.all().rows(),
                };
                holds(n > 0 && is_n, "chosen experts")?;
                let own = self.rows(experts.y).checked_div(n).unwrap_or(0);
                holds(self.rows(experts.y) == n * own, "rows of experts")?;
                holds(own.is_multiple_of(WIDTH) && own >= w.rows(), "rows of an expert")?;
                holds(each.unwrap_or(k) == w.all().cols(), "columns of an expert")?;
                holds(each.is_none_or(|each| k == n * padded(each)), "activations of experts")?;
                holds(forms | w.all().forms() == forms, "a form")?;
                let Some((weights, into)) = experts.sum else { return Ok(()) };
                holds(self.rows(weights) == n, "weights of experts")?;
                holds(self.rows(into) == own, "a sum of experts")
            }
            _ => Ok(()),
        }
    }
}
