//! The operation of cells whose tokens pass a matrix one by one (`kernels/recurrence/cells.rs`).

use super::{Inputs, List, Op, Values};
use crate::state::SlotRef;
use crate::tensor::Matrix;

/// [`Op::Cells`]: LSTM where something is kept beside what the cells give, else GRU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CellsOp<'m> {
    /// (gates d, d), of the token before.
    pub(crate) w: &'m Matrix,
    /// (gates d), or more
    pub(crate) bias: Option<&'m [f32]>,
    /// Gates of the input (gates d), or more.
    pub(crate) x: Values,
    /// What the matrix reads (d), and its product (gates d): workspace.
    pub(crate) input: Inputs,
    pub(crate) before: Values,
    /// State: what the cells gave last, and what they keep (d).
    pub(crate) hidden: SlotRef,
    pub(crate) kept: Option<SlotRef>,
    /// (d)
    pub(crate) y: Values,
}

impl CellsOp<'_> {
    /// Gates of a cell.
    pub(crate) fn gates(&self) -> usize {
        if self.kept.is_some() { 4 } else { 3 }
    }
}

impl<'m> List<'m> {
    /// The buffer `name` of what cells give, whose matrix of the token before is `w`.
    pub(crate) fn cells(
        &mut self,
        name: &'static str,
        (w, bias): (&'m Matrix, Option<&'m [f32]>),
        x: Values,
        (hidden, kept): (SlotRef, Option<SlotRef>),
    ) -> Values {
        let (y, before) = (self.values(name, w.cols()), self.values("cells before", w.rows()));
        let input = self.inputs("cells hidden", w.cols());
        let forms = &mut self.inputs[input.0].forms;
        *forms = *forms | w.forms();
        self.ops.push(Op::Cells(CellsOp { w, bias, x, input, before, hidden, kept, y }));
        y
    }

    /// Why it does not fit.
    pub(super) fn check_cells(&self, cells: &CellsOp<'_>) -> Result<(), &'static str> {
        let (rows, d) = (cells.w.rows(), cells.w.cols());
        let holds = |is_so: bool, why| if is_so { Ok(()) } else { Err(why) };
        holds(rows == cells.gates() * d && self.rows(cells.y) == d, "gates of cells")?;
        holds(rows <= self.rows(cells.x) && rows == self.rows(cells.before), "inputs of cells")?;
        holds(cells.bias.is_none_or(|bias| rows <= bias.len()), "biases of cells")?;
        let is_state = |slot: SlotRef| slot.len() == d;
        holds(is_state(cells.hidden) && cells.kept.is_none_or(is_state), "states of cells")?;
        let input = &self.inputs[cells.input.0];
        holds(input.rows == d && input.forms | cells.w.forms() == input.forms, "a form")
    }
}
