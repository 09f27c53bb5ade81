//! The integer dot product by `vpdpbusd`, which multiplies four unsigned operands by four signed
//! activations in every lane and adds them all. Who has it: `avx512.rs`, `avx_vnni.rs`.

use super::codes::Codes;
use super::integer::{column, in_one_register, quad};
use crate::kernels::simd::{Simd, registers};

/// Registers with the instruction.
pub(super) trait Vnni: Simd {
    /// Each lane's sum + its four operands · its four activations.
    fn vpdpbusd(self, sum: Self::I, operands: Self::I, x: Self::I) -> Self::I;

    /// The same sum, of which what stands before this call is computed before what stands behind
    /// it: the compiler would rather finish the sums of two columns, which wait for themselves,
    /// before it begins the next ones, since that takes fewer registers.
    fn in_order(self, sum: Self::I) -> Self::I;
}

/// [`Dot::dot`](super::integer::Dot::dot).
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn dot<S: Vnni, K: Codes, const R: usize, const C: usize>(
    s: S,
    table: S::I,
    codes: *const u8,
    x: *const i8,
    sums: &mut [[S::I; R]; C],
) {
    // The other columns are at fixed distances, which instructions contain: an array of pointers
    // would be computed in one wide register, and go through memory to the others.
    let x = in_one_register(x);
    // Few columns take two sums each, since a sum waits four to six cycles for itself.
    let mut odd = [[s.splat_bits(0); R]; C];
    // Four calls and no loop: its counter would be an index in every instruction that reads
    // activations (see `in_one_register`).
    // SAFETY: a step is four times eight columns: promised (Safety).
    unsafe {
        eight_columns::<S, K, R, C>(s, 0, table, codes, x, sums, &mut odd);
        eight_columns::<S, K, R, C>(s, 1, table, codes, x, sums, &mut odd);
        eight_columns::<S, K, R, C>(s, 2, table, codes, x, sums, &mut odd);
        eight_columns::<S, K, R, C>(s, 3, table, codes, x, sums, &mut odd);
    }
    if two_sums(C, R) {
        for (sum, odd) in sums.as_flattened_mut().iter_mut().zip(odd.as_flattened()) {
            *sum = s.add_bits(*sum, *odd);
        }
    }
}

/// Whether `C` columns of `R` registers of rows are so few that each takes two sums.
const fn two_sums(columns: usize, rows: usize) -> bool {
    columns * rows < 4
}

/// Quarter `j` of [`dot`]: columns 8j.. of the step. The second quad goes to `odd`, where there are
/// two sums.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn eight_columns<S: Vnni, K: Codes, const R: usize, const C: usize>(
    s: S,
    j: usize,
    table: S::I,
    codes: *const u8,
    x: *const i8,
    sums: &mut [[S::I; R]; C],
    odd: &mut [[S::I; R]; C],
) {
    let w: [_; R] = registers(
        #[inline(always)]
        // SAFETY: a step of codes can be read, of `R` registers of rows: promised (Safety).
        |r| unsafe { K::operands(s, table, codes.add(4 * S::LANES * r), j) },
    );
    // All columns with the one quad, then all with the other: a product waits as long for the sum
    // before it.
    for i in 0..2 {
        let sums = if two_sums(C, R) && i == 1 { &mut *odd } else { &mut *sums };
        for (c, sums) in sums.iter_mut().enumerate() {
            // SAFETY: quad 2j + i of a step's eight can be read: promised (Safety).
            let x = unsafe { quad(s, column(x, c), 2 * j + i) };
            for (sum, w) in sums.iter_mut().zip(&w) {
                *sum = s.vpdpbusd(*sum, w[i], x);
                if C > 1 {
                    *sum = s.in_order(*sum);
                }
            }
        }
    }
}
