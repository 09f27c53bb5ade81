//! Who is told of the inputs of products, and what these are.
//!
//! Not here: layers that run one by one (`layerwise.rs`). Test: `tests/layerwise.rs`.

use std::sync::Arc;

use crate::kernels::forms::Activations;

/// The one who is told of a matrix's inputs, and the matrix's name.
pub(super) struct Watch {
    pub(super) name: String,
    pub(super) observer: Arc<dyn Observer>,
}

/// Is told of the inputs of products, while layers run one by one.
pub trait Observer: Send + Sync {
    /// The columns `x` are the inputs of the matrix `name`, of its rows from `first_row` on: 0, or,
    /// where several matrices stand below each other in one tensor (experts), the first row of one
    /// of them. Called once for each column, from any thread.
    fn product(&self, name: &str, first_row: usize, x: &Inputs<'_>);
}

/// Columns that a matrix is multiplied by.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    values: &'a [f32],
    stride: usize,
    k: usize,
    columns: usize,
}

impl<'a> Inputs<'a> {
    /// The columns of `k` values each that stand side by side in `values`.
    pub(crate) fn new(values: &'a [f32], k: usize) -> Inputs<'a> {
        Inputs { values, stride: k, k, columns: values.len() / k }
    }

    /// The columns, in the order of the text.
    pub fn columns(&self) -> impl ExactSizeIterator<Item = &'a [f32]> + use<'a> {
        let Inputs { values, stride, k, columns } = *self;
        (0..columns).map(move |c| &values[c * stride..][..k])
    }
}

impl Watch {
    /// Tells of the first `columns` columns of `x`.
    pub(super) fn tell(&self, first_row: usize, x: Activations<'_>, (k, columns): (usize, usize)) {
        if let Activations::F32(x) = x {
            let inputs = Inputs { values: x.units(), stride: x.stride(), k, columns };
            self.observer.product(&self.name, first_row, &inputs);
        }
    }
}
