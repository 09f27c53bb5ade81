//! The builder of a list, and the list itself.
//!
//! Buffers have names, and whoever asks for a name again gets the same buffer: layers share them,
//! as they share a pass's scratch. Not here: what is computed (`model`), whether it fits (`check`).

use std::collections::HashMap;

use super::{AverageOp, ConvOp, Formula, HeadsOp, Inputs, NormOp, Op, Positional, ScanOp, Values};
use crate::kernels::forms::Forms;
use crate::state::SlotRef;
use crate::tensor::Matrix;

/// A buffer of a list.
#[derive(Clone, Debug)]
pub(super) struct Buffer {
    pub(super) name: &'static str,
    /// Values of a column, without what pads it to whole tiles.
    pub(super) rows: usize,
    /// Of activations: the forms in which they are read.
    pub(super) forms: Forms,
    /// Of activations of several experts: those of each, without what pads them.
    pub(super) each: Option<usize>,
}

/// The operations of a model, over the buffers that they name.
#[derive(Debug, Default)]
pub(crate) struct List<'m> {
    pub(super) values: Vec<Buffer>,
    pub(super) inputs: Vec<Buffer>,
    pub(super) ops: Vec<Op<'m>>,
    names: HashMap<(&'static str, bool, usize), usize>,
    /// The operation with which each layer begins.
    pub(super) layers: Vec<usize>,
    x: Option<Values>,
    logits: Option<Values>,
    /// Where layers read the residual stream, if it is no longer there.
    before: Option<Values>,
    /// Buffers of what depends on nothing but a token's position.
    pub(crate) positional: Vec<(Values, Positional)>,
}

impl<'m> List<'m> {
    fn buffer(&mut self, name: &'static str, is_inputs: bool, rows: usize) -> usize {
        let buffers = if is_inputs { &mut self.inputs } else { &mut self.values };
        *self.names.entry((name, is_inputs, rows)).or_insert_with(|| {
            buffers.push(Buffer { name, rows, forms: Forms::default(), each: None });
            buffers.len() - 1
        })
    }

    /// A buffer that nobody else gets.
    pub(super) fn own_values(&mut self, name: &'static str, rows: usize) -> Values {
        self.values.push(Buffer { name, rows, forms: Forms::default(), each: None });
        Values(self.values.len() - 1)
    }

    /// The buffer `name` of `rows` values.
    pub(crate) fn values(&mut self, name: &'static str, rows: usize) -> Values {
        Values(self.buffer(name, false, rows))
    }

    /// The buffer `name` of `k` activations.
    pub(crate) fn inputs(&mut self, name: &'static str, k: usize) -> Inputs {
        Inputs(self.buffer(name, true, k))
    }

    /// Values of a column of `y`.
    pub(crate) fn rows(&self, y: Values) -> usize {
        self.values[y.0].rows
    }

    /// Activations of a column of `x`.
    pub(crate) fn k(&self, x: Inputs) -> usize {
        self.inputs[x.0].rows
    }

    /// The operations, in their order.
    #[cfg(feature = "cuda")]
    pub(crate) fn ops(&self) -> &[Op<'m>] {
        &self.ops
    }

    /// Every buffer.
    #[cfg(feature = "cuda")]
    pub(crate) fn all_values(&self) -> impl Iterator<Item = Values> {
        (0..self.values.len()).map(Values)
    }

    /// Every buffer of activations, and the forms in which it is read.
    #[cfg(feature = "cuda")]
    pub(crate) fn all_inputs(&self) -> impl Iterator<Item = (Inputs, Forms)> {
        self.inputs.iter().enumerate().map(|(i, buffer)| (Inputs(i), buffer.forms))
    }

    /// Values from a column of `y` to the next: with what pads it to whole tiles.
    #[cfg(feature = "cuda")]
    pub(crate) fn stride(&self, y: Values) -> usize {
        self.rows(y).next_multiple_of(crate::kernels::lanes::WIDTH)
    }

    /// The residual stream.
    ///
    /// # Panics
    /// There is none yet: a bug in the trunk.
    pub(crate) fn x(&self) -> Values {
        self.x.expect("the trunk embeds before layers write their lists")
    }

    /// The residual stream as the next part reads it: itself, or what it was.
    pub(crate) fn stream(&self) -> Values {
        self.before.unwrap_or_else(|| self.x())
    }

    /// The embedding, which layers that read it keep beside the residual stream.
    pub(crate) fn embedding(&mut self) -> Values {
        self.values("embedding", self.rows(self.x()))
    }

    /// A copy of the residual stream as it is now.
    pub(crate) fn copy_stream(&mut self) -> Values {
        let x = self.x();
        let before = self.values("residual before", self.rows(x));
        self.map(before, super::of(x));
        before
    }

    /// The parts that `write` writes read `stream` as the residual stream.
    pub(crate) fn reading<R>(&mut self, stream: Values, write: impl FnOnce(&mut Self) -> R) -> R {
        let outer = self.before.replace(stream);
        let written = write(self);
        self.before = outer;
        written
    }

    /// The logits of the columns that were wanted.
    ///
    /// # Panics
    /// There are none yet: a bug in the trunk.
    pub(crate) fn logits(&self) -> Values {
        self.logits.expect("the trunk ends a list with logits")
    }

    /// x = the embedding of the column's token, in a stream of `width` values.
    pub(crate) fn embed(&mut self, table: &'m Matrix, width: usize) {
        let y = self.values("residual", width);
        self.x = Some(y);
        self.ops.push(Op::Embed { table, y });
    }

    /// The operations from here on are those of another layer.
    pub(crate) fn layer(&mut self) {
        self.layers.push(self.ops.len());
    }

    /// y = the columns of x whose logits are wanted. From here on, columns are these.
    pub(crate) fn gather(&mut self, x: Values) -> Values {
        let y = self.values("wanted", self.rows(x));
        self.ops.push(Op::Gather { x, y });
        y
    }

    /// `y` is where the logits stand.
    pub(crate) fn end(&mut self, y: Values) {
        self.logits = Some(y);
    }

    /// y = f, element by element; y may stand in f.
    pub(crate) fn map(&mut self, y: Values, f: impl Into<Formula<'m>>) {
        self.ops.push(Op::Map { f: f.into(), y });
    }

    /// The sums of f over every `over` elements, in a buffer called `name`; `n` elements in all.
    pub(crate) fn sum(
        &mut self,
        name: &'static str,
        f: impl Into<Formula<'m>>,
        (n, over): (usize, usize),
    ) -> Values {
        let y = self.values(name, n / over);
        self.ops.push(Op::Sum { f: f.into(), over, y });
        y
    }

    /// y = norm(x) over every `over` elements; y may be x.
    pub(crate) fn norm(&mut self, y: Values, x: Values, norm: NormOp<'m>, over: usize) {
        self.ops.push(Op::Norm { x, norm, over, y });
    }

    /// The activations `name`, of `k` elements that f gives.
    pub(crate) fn pack(
        &mut self,
        name: &'static str,
        k: usize,
        f: impl Into<Formula<'m>>,
    ) -> Inputs {
        let y = self.inputs(name, k);
        self.ops.push(Op::Pack { f: f.into(), y });
        y
    }

    /// y = W x, in a buffer called `name`.
    pub(crate) fn project(&mut self, name: &'static str, w: &'m Matrix, x: Inputs) -> Values {
        let y = self.values(name, w.rows());
        self.project_to(y, w, x);
        y
    }

    /// y = W x.
    pub(crate) fn project_to(&mut self, y: Values, w: &'m Matrix, x: Inputs) {
        let forms = &mut self.inputs[x.0].forms;
        *forms = *forms | w.forms();
        self.ops.push(Op::Project { w, x, y });
    }

    /// The state keeps the last column of x.
    pub(crate) fn keep(&mut self, x: Values, state: SlotRef) {
        self.ops.push(Op::Keep { x, state });
    }

    /// `y` = its convolution.
    pub(crate) fn conv(&mut self, conv: ConvOp<'m>) {
        self.ops.push(Op::Conv(conv));
    }

    /// The recurrence of heads.
    pub(crate) fn heads(&mut self, heads: HeadsOp<'m>) {
        self.ops.push(Op::Heads(heads));
    }

    /// Mamba-1's scan.
    pub(crate) fn scan(&mut self, scan: ScanOp<'m>) {
        self.ops.push(Op::Scan(scan));
    }

    /// RWKV-4's average.
    pub(crate) fn average(&mut self, average: AverageOp<'m>) {
        self.ops.push(Op::Average(average));
    }
}
