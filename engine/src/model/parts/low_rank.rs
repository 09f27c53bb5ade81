//! A low-rank branch: `x ↦ second · f(first · x)`, as two halves. The first is a job among a
//! stage's projections, the second belongs to the piece that owns the rows of the result.

use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::Isa;
use crate::model::Source;
use crate::ops::{Formula, Function, Inputs, List, Values};
use crate::stage::{Activation, Apply, Job};
use crate::team::Share;
use crate::tensor::{Matrix, acts_for};

/// The two matrices.
pub(crate) struct LowRank {
    /// (rank, cols)
    pub(crate) first: Matrix,
    /// (rows, rank)
    second: Matrix,
}

impl LowRank {
    /// The branch of the matrices called `names`, from `cols` values through `rank` to `rows`.
    pub(crate) fn load(
        source: &Source<'_>,
        names: [&str; 2],
        rows: usize,
        rank: usize,
        cols: usize,
    ) -> Result<LowRank> {
        let [first, second] = names;
        Ok(LowRank {
            first: source.mat(first, rank, cols)?,
            second: source.mat(second, rows, rank)?,
        })
    }

    /// Values that it gives.
    pub(crate) fn rows(&self) -> usize {
        self.second.rows()
    }

    /// Bytes that the second half reads.
    pub(crate) fn second_len(&self) -> usize {
        self.second.len()
    }

    /// out = second · f(first · x), as operations. The names are of the low-rank half, of what the
    /// second matrix reads, and of out.
    pub(crate) fn list<'m>(
        &'m self,
        list: &mut List<'m>,
        [low, hidden, out]: [&'static str; 3],
        x: Inputs,
        f: Option<Function>,
    ) -> Values {
        let hidden = self.list_first(list, [low, hidden], x, f);
        list.project(out, &self.second, hidden)
    }

    /// hidden = f(first · x), as operations.
    pub(crate) fn list_first<'m>(
        &'m self,
        list: &mut List<'m>,
        [low, hidden]: [&'static str; 2],
        x: Inputs,
        f: Option<Function>,
    ) -> Inputs {
        let low = list.project(low, &self.first, x);
        let value = match f {
            None => Formula::from(low),
            Some(f) => Formula::from(low).apply(f),
        };
        list.pack(hidden, self.first.rows(), value)
    }

    /// out = second · hidden, as an operation.
    pub(crate) fn list_second<'m>(
        &'m self,
        list: &mut List<'m>,
        out: &'static str,
        hidden: Inputs,
    ) -> Values {
        list.project(out, &self.second, hidden)
    }

    /// hidden = f(first · x).
    pub(crate) fn first<'a>(
        &'a self,
        x: &'a ActivationBuffer,
        f: Activation,
        s: &'a mut Scratch,
    ) -> Job<'a> {
        Job::prepare(&self.first, x, &mut s.low, f, &mut s.hidden)
    }

    /// out = f(second · hidden), as a job.
    pub(crate) fn second_apply<'a>(
        &'a self,
        hidden: &'a ActivationBuffer,
        out: &'a mut Panel,
        f: Apply<'a>,
    ) -> Job<'a> {
        Job::apply(&self.second, hidden, out, f)
    }

    /// y += second · hidden, as a job; `out` is workspace.
    pub(crate) fn second_add<'a>(
        &'a self,
        hidden: &'a ActivationBuffer,
        out: &'a mut Panel,
        y: &'a mut Panel,
    ) -> Job<'a> {
        Job::add(&self.second, hidden, out, y)
    }

    /// out = second · hidden, for the rows of `out`.
    pub(crate) fn second(&self, isa: Isa, hidden: &ActivationBuffer, out: &mut Share<'_, f32>) {
        self.second.matmul(isa, hidden, out);
    }
}

/// Buffers of a branch, one column per token.
pub(crate) struct Scratch {
    /// (rank)
    low: Panel,
    /// The same, as the second matrix reads it.
    pub(crate) hidden: ActivationBuffer,
    /// (rows)
    pub(crate) out: Panel,
}

impl Scratch {
    /// For the branches of one kind, each to `rows` values; there may be none.
    pub(crate) fn new<'a>(
        workspace: &Workspace,
        rows: usize,
        branches: impl Iterator<Item = &'a LowRank> + Clone,
    ) -> Scratch {
        Scratch::shared(workspace, rows, branches, [])
    }

    /// The same, where other matrices read what the second does.
    pub(crate) fn shared<'a>(
        workspace: &Workspace,
        rows: usize,
        branches: impl Iterator<Item = &'a LowRank> + Clone,
        others: impl IntoIterator<Item = &'a Matrix>,
    ) -> Scratch {
        let rank = branches.clone().map(|b| b.first.rows()).max().unwrap_or(0);
        Scratch {
            low: Panel::new(rank, workspace),
            hidden: acts_for(workspace, branches.map(|b| &b.second).chain(others)),
            out: Panel::new(rows, workspace),
        }
    }
}
