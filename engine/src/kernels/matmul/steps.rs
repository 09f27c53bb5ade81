//! The integer formats with steps on registers: exact dot products of 32 columns, a scale of 8 bits
//! for each, the row's step at the end.
//!
//! ```text
//! for each group of 32 columns:                    scale[row], x_scale[column]
//!     sum = −bias · Σx + operands · x              exact integers: `Dot::dot`
//!     acc = sum · (scale · x_scale) + acc          one fused multiply-add
//! y = acc · step
//! ```
//!
//! Groups are half as long as those of activations, so that scales come twice as often as in
//! `integer.rs`: the fused addition is what they cost. Codes and scales are two streams, each read
//! in order. `scalar.rs` is the definition.

use super::codes::Codes;
use super::integer::{Dot, STEP, begin, column};
use super::walk::{Task, in_order};
use crate::kernels::simd::registers;
use crate::kernels::units::Int8Group;

/// Overwrites the results of `R` registers of rows and `C` columns.
#[inline(always)]
pub(super) fn block<S: Dot, K: Codes, const R: usize, const C: usize>(
    s: S,
    task: &Task<'_, Int8Group, R, C>,
) {
    let activations = task.product().x();
    let mut x = activations.as_ptr().wrapping_add(task.column());
    let (mut codes, sheet) = (task.codes::<S>(), task.sheet::<S>());
    // SAFETY: the sheet begins with the values of codes: `Tiles::new` has seen its length.
    let table = s.mask(unsafe { s.load_table(sheet.table) }, 0x3f3f_3f3f);
    let mut scales = sheet.scales;
    let mut acc = task.begin(s);
    for pair in 0..task.shape.pairs {
        task.fetch(s, pair * task.lines..(pair + 1) * task.lines);
        if in_order::<S>(C) && sheet.ahead > 0 {
            s.prefetch(scales.wrapping_add(sheet.ahead));
        }
        for half in 0..2 {
            // SAFETY: there are `pairs` pairs of groups in the tile and on the sheet, and
            // activations for all of them in each of the task's columns: `Product::new` has
            // compared them. A group of activations has starts of both halves first.
            unsafe {
                let starts = (&raw const (*x).starts).cast::<i32>().add(half);
                let mut sums = [[begin::<S, K>(s, &*starts); R]; C];
                for (c, sums) in sums.iter_mut().enumerate().skip(1) {
                    *sums = [begin::<S, K>(s, &*column(starts, c)); R];
                }
                let codes_of_x = (&raw const (*x).codes).cast::<i8>().add(STEP * half);
                s.dot::<K, R, C>(table, codes, codes_of_x, &mut sums);
                let scale: [S::F; R] = registers(
                    #[inline(always)]
                    |r| s.load_i8(scales.add(S::LANES * r)),
                );
                for (c, (acc, sums)) in acc.iter_mut().zip(&sums).enumerate() {
                    let x_scale = s.spread_float(&(*x.add(c)).scale);
                    for ((acc, sum), scale) in acc.iter_mut().zip(sums).zip(scale) {
                        *acc = s.mul_add(s.convert(*sum), s.mul(scale, x_scale), *acc);
                    }
                }
            }
            codes = codes.wrapping_add(K::STEP_BYTES);
            scales = scales.wrapping_add(brooklet_formats::quant::TILE_ROWS);
        }
        x = x.wrapping_add(activations.stride());
    }
    // SAFETY: the sheet has 16 steps of each tile, of which `R` registers are the task's.
    let step: [S::F; R] = registers(
        #[inline(always)]
        |r| unsafe { s.load_f16(sheet.steps.add(2 * S::LANES * r)) },
    );
    let is_last = task.product().inputs().is_last;
    for (c, acc) in acc.iter().enumerate() {
        for (r, acc) in acc.iter().enumerate() {
            task.store(s, r, c, if is_last { s.mul(*acc, step[r]) } else { *acc });
        }
    }
}
