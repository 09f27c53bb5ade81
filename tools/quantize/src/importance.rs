//! The importance of columns out of an imatrix file, for matrices that are rounded by search.
//!
//! It is that of the model's own inputs. Where channels were equalized, a matrix' columns were
//! multiplied and its inputs divided by powers of two: so is the importance, by their squares. Not
//! here: whose entry is whose (`brooklet_formats::convert`). Test: below, and `tests/`.

use std::collections::HashMap;

use brooklet_formats::brk::BrkFile;
use brooklet_formats::checkpoint::Imatrix;
use brooklet_formats::convert::importance;
use brooklet_formats::quant::decode_row;

use crate::Result;

/// By the names of matrices, the importance of their columns; for experts one after the other.
#[derive(Default)]
pub(crate) struct Importance(HashMap<String, Vec<f32>>);

impl Importance {
    /// That of the matrices of `file`, or of `equal`, which is the same equalized.
    pub(crate) fn of(file: &BrkFile, equal: Option<&BrkFile>, imatrix: &Imatrix) -> Result<Self> {
        let mut matrices = importance(file, imatrix)?;
        for (name, values) in &mut matrices {
            let Some(layout) = file.require(name)?.info.tile_layout() else { continue };
            let (rows, cols) = (layout.rows, layout.cols);
            let n = values.len() / cols;
            let Some(equal) = equal else { continue };
            let tensors = [file.require(name)?, equal.require(name)?];
            for (i, values) in values.chunks_exact_mut(cols).enumerate() {
                let rows = (i * rows / n..(i + 1) * rows / n).map(|row| {
                    tensors.each_ref().map(|tensor| {
                        let mut decoded = vec![0.0; cols];
                        decode_row(&layout, &tensor.bytes, row, &mut decoded);
                        decoded
                    })
                });
                for (value, factor) in values.iter_mut().zip(factors(cols, rows)) {
                    *value /= factor * factor;
                }
            }
        }
        Ok(Importance(matrices))
    }

    /// That of the matrix `name`, if the file has it.
    pub(crate) fn get(&self, name: &str) -> Option<&[f32]> {
        self.0.get(name).map(|values| &**values)
    }
}

/// The factors of columns, up to a common one, between rows before and after they and the columns
/// were multiplied. That of a column of zeros is 1.
fn factors(cols: usize, rows: impl Iterator<Item = [Vec<f32>; 2]>) -> Vec<f32> {
    let mut factors: Vec<Option<f32>> = vec![None; cols];
    for [before, after] in rows {
        let ratio = |c: usize| (before[c] != 0.0 && after[c] != 0.0).then(|| after[c] / before[c]);
        // The row's own factor, by a column whose factor is known; the first row's may be any.
        let known = (0..cols).find_map(|c| Some(ratio(c)? / factors[c]?));
        let is_first = factors.iter().all(Option::is_none);
        let Some(own) = known.or(is_first.then_some(1.0)) else { continue };
        for (c, factor) in factors.iter_mut().enumerate() {
            *factor = factor.or_else(|| Some(ratio(c)? / own));
        }
        if factors.iter().all(Option::is_some) {
            break;
        }
    }
    factors.into_iter().map(|factor| factor.unwrap_or(1.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_of_columns_are_found_behind_those_of_rows_and_zeros() {
        let before = [[1.0, 0.0, 3.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 5.0, 7.0, 0.0]];
        let (rows, columns) = ([2.0, 0.5, 8.0], [4.0, 0.25, 1.0, 2.0]);
        let pairs = before.iter().zip(rows).map(|(row, by)| {
            let after = row.iter().zip(columns).map(|(w, column)| w * by * column).collect();
            [row.to_vec(), after]
        });
        // The first row's own factor stays in them.
        assert_eq!(factors(4, pairs), [8.0, 0.5, 2.0, 1.0]);
    }
}
