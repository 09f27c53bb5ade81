//! The codes of integer formats: how what is stored becomes operands of a dot product of 8 bits.
//!
//! A new format of at most 8 bits with a table or a formula for its values is one more [`Codes`]
//! (and a row in the tables of `mod.rs`). Not here: scales (`integer.rs`, `steps.rs`), and the dot
//! products, which each instruction set does its own way.

use brooklet_formats::quant::{TILE_ROWS, VECTOR_BYTES, fine};

use super::integer::STEP;
use crate::kernels::simd::Simd;

/// An integer format.
///
/// An *operand* is a value plus [`Codes::BIAS`], a number of 0 to 2 · BIAS − 1. Products with
/// operands are too large by BIAS · Σx, so sums begin at −BIAS · Σx.
pub(super) trait Codes {
    /// Bits of a code: 8, or 4 and as many planes of one bit as there are more.
    const BITS: usize;

    /// 8, 16, 32, 64 or 128.
    const BIAS: i32;

    /// Whether scales have 8 bits and stand under steps (`steps.rs`); f16 otherwise (`integer.rs`).
    const HAS_STEPS: bool;

    /// Whether values stand in a table.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    const HAS_TABLE: bool = false;

    /// The value of a stored code; `table` is the file's.
    fn value(code: u8, table: &[u8]) -> i32;

    /// The operands of columns 8j.. (four, then the next four) of one register of rows; `step` is
    /// where its first vector of a [`STEP`] begins. `table` is the file's, in every 128 bits.
    ///
    /// # Safety
    /// Registers can be read there, [`VECTOR_BYTES`] apart, of all vectors of the step.
    unsafe fn operands<S: Simd>(s: S, table: S::I, step: *const u8, j: usize) -> [S::I; 2];

    /// Whether an operand, taken for a signed byte, is what it is.
    const SIGNED: bool = Self::BIAS < 128;

    /// How many products with activations fit a signed sum of 16 bits.
    const PRODUCTS_IN_16_BITS: usize = 32767 / (127 * (2 * Self::BIAS as usize - 1));

    /// Bytes of 16 rows by a [`STEP`] of columns.
    const STEP_BYTES: usize = TILE_ROWS * STEP * Self::BITS / 8;
}

/// The code of row `r` and column `c` of a [`STEP`].
pub(super) fn code<K: Codes>(step: &[u8], r: usize, c: usize) -> u8 {
    let at = 4 * r + c % 4;
    if K::BITS == 8 {
        return step[c / 4 * VECTOR_BYTES + at];
    }
    let (nibbles, planes) = step.split_at(STEP / 8 * VECTOR_BYTES);
    let low = nibbles[c / 8 * VECTOR_BYTES + at] >> (c % 8 / 4 * 4) & 15;
    let planes = planes.chunks_exact(VECTOR_BYTES).take(K::BITS - 4).enumerate();
    planes.fold(low, |code, (p, plane)| code | (plane[at] >> (c / 4) & 1) << (4 + p))
}

/// The lower four bits of columns 8j.., each code a byte.
///
/// # Safety
/// As [`Codes::operands`].
#[inline(always)]
unsafe fn nibbles<S: Simd>(s: S, step: *const u8, j: usize) -> [S::I; 2] {
    // SAFETY: the step's vectors can be read: promised (Safety).
    let v = unsafe { s.load(step.add(VECTOR_BYTES * j)) };
    [s.lower_nibbles(v), s.upper_nibbles(v)]
}

/// [`nibbles`] with the bits of `PLANES` planes above.
///
/// # Safety
/// As [`Codes::operands`].
#[inline(always)]
unsafe fn with_planes<S: Simd, const PLANES: usize>(s: S, step: *const u8, j: usize) -> [S::I; 2] {
    // SAFETY: the step's vectors can be read: promised (Safety).
    // Its planes follow the nibbles.
    unsafe {
        let [mut low, mut high] = nibbles(s, step, j);
        for p in 0..PLANES {
            let plane = s.load(step.add(STEP / 8 * VECTOR_BYTES + VECTOR_BYTES * p));
            low = s.xor(low, bit(s, plane, 2 * j, 4 + p));
            high = s.xor(high, bit(s, plane, 2 * j + 1, 4 + p));
        }
        [low, high]
    }
}

/// Bit `from` of each byte as bit `to`, all other bits 0.
#[inline(always)]
fn bit<S: Simd>(s: S, v: S::I, from: usize, to: usize) -> S::I {
    // The shifts may cross bytes: of what they bring in, the mask lets nothing through.
    let moved = match (from, to) {
        (0, 4) | (1, 5) => s.shift_left::<4>(v),
        (1, 4) | (2, 5) => s.shift_left::<3>(v),
        (2, 4) | (3, 5) => s.shift_left::<2>(v),
        (3, 4) | (4, 5) => s.shift_left::<1>(v),
        (4, 4) | (5, 5) => v,
        (5, 4) | (6, 5) => s.shift_halves_right::<1>(v),
        (6, 4) | (7, 5) => s.shift_halves_right::<2>(v),
        (7, 4) => s.shift_halves_right::<3>(v),
        _ => s.shift_left::<5>(v),
    };
    s.mask(moved, 0x0101_0101 << to)
}

/// `int4-v1`: the value plus 8.
pub(super) struct Int4V1;

impl Codes for Int4V1 {
    const BITS: usize = 4;
    const BIAS: i32 = 8;
    const HAS_STEPS: bool = false;

    #[inline(always)]
    fn value(code: u8, _: &[u8]) -> i32 {
        i32::from(code) - 8
    }

    #[inline(always)]
    unsafe fn operands<S: Simd>(s: S, _: S::I, step: *const u8, j: usize) -> [S::I; 2] {
        // SAFETY: the step's vectors can be read: promised (`Codes::operands`).
        unsafe { nibbles(s, step, j) }
    }
}

/// `int8`: the value plus 128.
pub(super) struct Int8;

impl Codes for Int8 {
    const BITS: usize = 8;
    const BIAS: i32 = 128;
    const HAS_STEPS: bool = false;

    #[inline(always)]
    fn value(code: u8, _: &[u8]) -> i32 {
        i32::from(code) - 128
    }

    #[inline(always)]
    unsafe fn operands<S: Simd>(s: S, _: S::I, step: *const u8, j: usize) -> [S::I; 2] {
        // SAFETY: the step's vectors can be read: promised (`Codes::operands`).
        unsafe {
            let codes = step.add(2 * VECTOR_BYTES * j);
            [s.load(codes), s.load(codes.add(VECTOR_BYTES))]
        }
    }
}

/// `int4`: the place of the value in a table, which has it plus 32.
pub(super) struct Int4;

impl Codes for Int4 {
    const BITS: usize = 4;
    const BIAS: i32 = fine::TABLE_BIAS;
    const HAS_STEPS: bool = true;
    const HAS_TABLE: bool = true;

    #[inline(always)]
    fn value(code: u8, table: &[u8]) -> i32 {
        i32::from(table[usize::from(code)] & 63) - Self::BIAS
    }

    #[inline(always)]
    unsafe fn operands<S: Simd>(s: S, table: S::I, step: *const u8, j: usize) -> [S::I; 2] {
        // SAFETY: the step's vectors can be read: promised (`Codes::operands`).
        s.lookup_nibbles(table, unsafe { s.load(step.add(VECTOR_BYTES * j)) })
    }
}

/// `int5` and `int6`: the value plus 16 or 32, its bits above the fourth in planes.
pub(super) struct Planes<const PLANES: usize>;

impl<const PLANES: usize> Codes for Planes<PLANES> {
    const BITS: usize = 4 + PLANES;
    const BIAS: i32 = 8 << PLANES;
    const HAS_STEPS: bool = true;

    #[inline(always)]
    fn value(code: u8, _: &[u8]) -> i32 {
        i32::from(code) - Self::BIAS
    }

    #[inline(always)]
    unsafe fn operands<S: Simd>(s: S, _: S::I, step: *const u8, j: usize) -> [S::I; 2] {
        // SAFETY: the step's vectors can be read: promised (`Codes::operands`).
        unsafe { with_planes::<S, PLANES>(s, step, j) }
    }
}
