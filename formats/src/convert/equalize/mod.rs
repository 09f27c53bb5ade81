//! Equalization: channels between two tensors multiplied in the first and divided in the second,
//! before anything is rounded, so that no channel's weights are far larger than its neighbours'.
//!
//! Released models have channels of 40 to 96 times the usual size, in whose groups small numbers
//! of bits leave nothing of the others. Factors are powers of two: logits of an f32 file stay the
//! same bits. They come from the weights alone, without any text.
//!
//! | module | |
//! |---|---|
//! | `pair` | which tensors go together, and which of their elements are one channel |
//! | `balance` | the factors of a layer |
//! | `tensor` | a tensor as it is before |
//! | `copy` | a `.brk` file with its tensors multiplied |
//!
//! Which pairs an architecture has is written in `families`. Sources: Nagel et al. 2019 (Data-free
//! quantization, arXiv 1906.04721), whose equalization this is; Xiao et al. 2022 (SmoothQuant,
//! arXiv 2211.10438), for norms. Test: `tests/equalize.rs`.

mod balance;
mod copy;
mod pair;
mod tensor;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use serde_json::{Map, Value};

use self::balance::balance;
pub use self::copy::equalized_copy;
use self::pair::Axis;
pub(super) use self::pair::Pair;
pub(super) use self::tensor::Tensor;
use self::tensor::{dims, place};
use crate::threads::Threads;
use crate::{DType, FormatError};

/// How much was equalized.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Equalized {
    /// Pairs of tensors of which a channel was multiplied: each layer has its own.
    pub pairs: usize,
    /// The largest factor, or the inverse of the smallest.
    pub largest: f32,
}

/// The factors of all tensors.
#[derive(Default)]
pub(super) struct Factors {
    tensors: HashMap<String, [Option<Side>; 2]>,
    pub(super) equalized: Equalized,
}

/// Factors of the rows of a tensor, or of its columns: powers of 2^exponent.
struct Side {
    exponents: Arc<[i8]>,
    axis: Axis,
    power: i32,
}

impl Side {
    fn factor(&self, row: usize, i: usize) -> f32 {
        let exponent = self.axis.channel(row, i).map_or(0, |i| i32::from(self.exponents[i]));
        // At most 2^±(2 · 10).
        f32::from_bits(((127 + self.power * exponent) as u32) << 23)
    }
}

impl Factors {
    /// The factors of `tensors`, of a model with these pairs and hyper-parameters. `each`
    /// is called between blocks of rows with a tensor's name, and its failure ends it.
    pub(super) fn find(
        pairs: &[&[Pair]],
        config: &Map<String, Value>,
        tensors: &[Tensor<'_>],
        threads: &Threads,
        each: &mut dyn FnMut(&str) -> Result<(), FormatError>,
    ) -> Result<Factors, FormatError> {
        let mut factors = Factors::default();
        if !tensors.iter().any(|tensor| tensor.target.is_some_and(DType::has_scales)) {
            return Ok(factors);
        }
        let mut layers: BTreeMap<Option<usize>, BTreeMap<&str, &Tensor<'_>>> = BTreeMap::new();
        for tensor in tensors {
            let in_layer = tensor.name.strip_prefix("layers.").and_then(|rest| {
                let (layer, name) = rest.split_once('.')?;
                Some((Some(layer.parse().ok()?), name))
            });
            let (layer, name) = in_layer.unwrap_or((None, tensor.name));
            layers.entry(layer).or_default().insert(name, tensor);
        }
        for tensors in layers.values() {
            for tie in balance(pairs, tensors, config, threads, each)? {
                let Some(exponents) = tie.exponents() else { continue };
                let largest = exponents.iter().map(|e| e.unsigned_abs()).max().unwrap_or(0);
                let Equalized { pairs: n, largest: before } = &mut factors.equalized;
                *n += 1;
                *before = before.max(f32::from(largest).exp2());
                let exponents: Arc<[i8]> = exponents.into();
                let sides = [(tie.first, 1), (tie.second, -tie.power)];
                for (i, (members, power)) in sides.into_iter().enumerate() {
                    for tensor in members {
                        let (exponents, axis) = (exponents.clone(), tie.axes[i]);
                        let own = factors.tensors.entry(tensor.name.to_owned()).or_default();
                        own[i] = Some(Side { exponents, axis, power });
                    }
                }
            }
        }
        Ok(factors)
    }

    /// Whether any tensor changes.
    pub(super) fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Whether the tensor changes.
    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Multiplies rows of a matrix.
    pub(super) fn apply(&self, name: &str, rows: Range<usize>, cols: usize, values: &mut [f32]) {
        let Some([of_rows, of_cols]) = self.tensors.get(name) else { return };
        let (mut of_col, mut until) = (vec![1.0; cols], 0);
        for (row, values) in rows.zip(values.chunks_exact_mut(cols)) {
            if let Some(side) = of_cols.as_ref().filter(|_| row >= until) {
                until = row.saturating_add(side.axis.rows_alike(row));
                let factors = (0..cols).map(|col| side.factor(row, col));
                of_col.iter_mut().zip(factors).for_each(|(to, factor)| *to = factor);
            }
            let factor = of_rows.as_ref().map_or(1.0, |side| side.factor(0, row));
            // Both are powers of two: in which order does not matter.
            values.iter_mut().zip(&of_col).for_each(|(v, of_col)| *v *= factor * of_col);
        }
    }

    /// Multiplies a vector or a small tensor.
    pub(super) fn apply_plain(&self, name: &str, shape: &[usize], values: &mut [f32]) {
        let Some([of_rows, of_cols]) = self.tensors.get(name) else { return };
        let (rows, cols) = dims(shape);
        for (row, col) in (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))) {
            let of_row = of_rows.as_ref().map_or(1.0, |side| side.factor(0, row));
            let of_col = of_cols.as_ref().map_or(1.0, |side| side.factor(row, col));
            values[place(shape, row, col)] *= of_row * of_col;
        }
    }
}
