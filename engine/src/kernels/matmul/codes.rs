//! The codes of integer formats: how what is stored becomes operands of a dot product of 8 bits.
//!
//! A new format of at most 8 bits with a table or a formula for its values is one more [`Codes`]
//! (and a row in the tables of `mod.rs`). Not here: scales, which all of them share (`walk.rs`),
//! and the dot products, which each instruction set does its own way (`integer.rs`).

use brooklet_formats::quant::VECTOR_BYTES;

use crate::kernels::simd::Simd;

/// An integer format.
///
/// An *operand* is a value plus [`Codes::BIAS`]: a number of 0 to 15, or of 0 to 255. Products with
/// operands are too large by BIAS · Σx, so sums begin at −BIAS · Σx.
pub(super) trait Codes {
    /// Codes in a byte. Two stand for columns that are four apart: the lower four bits first.
    const PER_BYTE: usize;

    /// 8 (operands of 0 to 15) or 128 (operands of 0 to 255).
    const BIAS: i32;

    /// The value of a stored code.
    fn value(code: u8) -> i32;

    /// The operands of eight columns (four, then the next four) of one register of rows; `codes` is
    /// where they begin: one vector of the tile, or two.
    ///
    /// # Safety
    /// A register can be read there, and of one code in a byte another [`VECTOR_BYTES`] further.
    unsafe fn operands<S: Simd>(s: S, codes: *const u8) -> [S::I; 2];

    /// Whether operands are below 16.
    const SMALL: bool = Self::BIAS == 8;

    /// Bytes of 16 rows by eight columns.
    const OCTET_BYTES: usize = 2 * VECTOR_BYTES / Self::PER_BYTE;
}

/// Codes of 4 bits: the value plus 8.
pub(super) struct Int4;

impl Codes for Int4 {
    const PER_BYTE: usize = 2;
    const BIAS: i32 = 8;

    #[inline(always)]
    fn value(code: u8) -> i32 {
        i32::from(code) - 8
    }

    #[inline(always)]
    unsafe fn operands<S: Simd>(s: S, codes: *const u8) -> [S::I; 2] {
        // SAFETY: a register can be read there: promised (`Codes::operands`).
        let v = unsafe { s.load(codes) };
        [s.lower_nibbles(v), s.upper_nibbles(v)]
    }
}

/// Codes of 8 bits: the value plus 128.
pub(super) struct Int8;

impl Codes for Int8 {
    const PER_BYTE: usize = 1;
    const BIAS: i32 = 128;

    #[inline(always)]
    fn value(code: u8) -> i32 {
        i32::from(code) - 128
    }

    #[inline(always)]
    unsafe fn operands<S: Simd>(s: S, codes: *const u8) -> [S::I; 2] {
        // SAFETY: a register can be read there, and of one code in a byte another a vector further:
        // promised (`Codes::operands`).
        unsafe { [s.load(codes), s.load(codes.add(VECTOR_BYTES))] }
    }
}
