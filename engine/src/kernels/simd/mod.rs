//! Registers: one table of operations for each instruction set, over lanes of 32 bits.
//!
//! [`Simd`] is the head of the tables; `avx2.rs`, `avx512.rs` and `neon.rs` are its columns, a row
//! per operation. A value of a table's type (`Avx2`, `Avx512`, `Neon`) is the proof that this
//! processor has the instructions: it comes from a `detect` that asked, so that operations on
//! registers are safe to call. They are fast only in code that is compiled for the instruction set:
//! [`simd!`] compiles it so. Who uses them: matrix products (`matmul`), and through sixteen lanes
//! at a time (`vector.rs`) all that is written once over lanes. Tests: `matmul/tests.rs`,
//! `stored.rs`, `forms.rs`.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;

use half::f16;

use super::lanes::WIDTH;

/// A closure that is inlined where it is called. Only [`simd!`] makes one.
pub(crate) struct Inlined<F>(pub(crate) F);

/// Held by such a closure, which can therefore be called only once.
pub(crate) struct Once;

/// The value of an expression, compiled for an instruction set: `simd!(isa, expression)`, where
/// `isa` is an [`Isa`](super::Isa) or a value of one of the tables.
///
/// The expression and all that is inlined into it may use the wider registers. The result does not
/// depend on the instruction set, since the compiler never fuses or reorders float operations.
///
/// Code that is left out of line is compiled for the oldest processor: each intrinsic in it becomes
/// a call, and nothing is wrong but the speed. That is why `run` takes nothing but the closure that
/// this macro makes: it is marked `inline(always)`, and it gives away a value that it holds. One
/// that could be called twice would be called once through a function of the compiler's that is not
/// marked so.
macro_rules! simd {
    ($isa:expr, $value:expr) => {{
        let once = $crate::kernels::simd::Once;
        $isa.run($crate::kernels::simd::Inlined(
            #[inline(always)]
            || {
                let _given_away = { once };
                $value
            },
        ))
    }};
}
pub(crate) use simd;

/// An array of registers, by their index. (The library's `from_fn` and `map` may become functions
/// of their own, which have no instruction set.)
#[inline(always)]
pub(crate) fn registers<T: Copy, const N: usize>(f: impl Fn(usize) -> T) -> [T; N] {
    let mut all = [f(0); N];
    for (i, one) in all.iter_mut().enumerate().skip(1) {
        *one = f(i);
    }
    all
}

/// Rows of a table: `name(arguments) -> result = intrinsics;`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! operations {
    ($(
        $name:ident $(<const $n:ident: u32>)? ($($arg:ident: $in:ty),*) -> $out:ty = $value:expr;
    )*) => {$(
        #[inline(always)]
        fn $name $(<const $n: u32>)? (self, $($arg: $in),*) -> $out {
            // SAFETY: a value of this type exists only where `detect` found the instructions, and
            // that is all the intrinsics ask for: they work on registers, no row has a pointer.
            unsafe { $value }
        }
    )*};
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use operations;

/// Registers of 32-bit lanes and their operations. Lanes never mix where nothing else is said.
///
/// Floats follow IEEE 754 in round-to-nearest; integers wrap.
pub(crate) trait Simd: Copy {
    /// A register of f32.
    type F: Copy;
    /// A register of 32-bit patterns.
    type I: Copy;
    /// Lanes of a register: 16, or 8 or 4 and then two or four registers make a vector of a tile.
    const LANES: usize;

    /// The proof without asking.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn assume() -> Self;

    /// Calls `f`, compiled for the instruction set. Called by [`simd!`].
    fn run<R>(self, f: Inlined<impl FnOnce() -> R>) -> R;

    // Memory.

    /// # Safety
    /// A register's bytes can be read at `p`, aligned or not.
    unsafe fn load(self, p: *const u8) -> Self::I;
    /// `LANES` f16, as f32.
    ///
    /// # Safety
    /// They can be read at `p`, aligned or not.
    unsafe fn load_f16(self, p: *const u8) -> Self::F;
    /// `LANES` i8, as f32.
    ///
    /// # Safety
    /// They can be read at `p`.
    unsafe fn load_i8(self, p: *const u8) -> Self::F;
    /// Sixteen bytes, in every 128 bits of a register.
    ///
    /// # Safety
    /// They can be read at `p`, aligned or not.
    unsafe fn load_table(self, p: *const u8) -> Self::I;
    /// # Safety
    /// A register's bytes can be written at `p`, aligned or not.
    unsafe fn store(self, p: *mut f32, v: Self::F);
    /// Writes `LANES` f16, the nearest (ties to even) of −65504 to 65504; NaN stays NaN.
    ///
    /// # Safety
    /// They can be written at `p`.
    unsafe fn store_f16(self, p: *mut f16, v: Self::F);
    /// The low bytes of thirty-two lanes, in order.
    fn low_bytes<const N: usize>(self, v: [[Self::I; N]; 2]) -> [i8; 2 * WIDTH];
    /// Fetches a cache line into the second level, if the address exists.
    fn prefetch(self, p: *const u8);
    /// The same into the first level, where there is an instruction for it.
    #[inline(always)]
    fn prefetch_near(self, p: *const u8) {
        self.prefetch(p);
    }

    // One value in all lanes.

    fn splat(self, v: f32) -> Self::F;
    fn splat_bits(self, v: u32) -> Self::I;
    /// Two f32, which are the halves of `v`, in all pairs of lanes.
    fn splat_pair(self, v: f64) -> Self::F;

    // The same bits, the same number, the nearest integer (ties to even; of NaN one whose low byte
    // is 0).

    fn bits(self, v: Self::F) -> Self::I;
    fn float(self, v: Self::I) -> Self::F;
    fn convert(self, v: Self::I) -> Self::F;
    fn nearest(self, v: Self::F) -> Self::I;

    // Floats.

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// a · b + c, rounded once.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger; `v` where it is NaN or equal.
    fn max(self, v: Self::F, floor: Self::F) -> Self::F;
    /// Lane 2i + lane 2i+1 of `a`, then of `b`, for every i.
    fn add_pairs(self, a: Self::F, b: Self::F) -> Self::F;

    // Pairs of bf16.

    /// Whether [`Simd::dot_bf16`] takes halves below 2⁻¹²⁶ for zero.
    const FLUSHES: bool = false;
    /// c + (upper halves' product), then + (lower halves' product), the halves of a lane being
    /// bf16. Where one instruction does this, halves below 2⁻¹²⁶ count as zero.
    #[inline(always)]
    fn dot_bf16(self, a: Self::I, b: Self::I, c: Self::F) -> Self::F {
        self.dot_bf16_exact(a, b, c)
    }
    /// [`Simd::dot_bf16`] with any halves.
    #[inline(always)]
    fn dot_bf16_exact(self, a: Self::I, b: Self::I, c: Self::F) -> Self::F {
        let c = self.mul_add(self.upper(a), self.upper(b), c);
        self.mul_add(self.lower(a), self.lower(b), c)
    }
    /// The bf16 in the upper half of each lane.
    #[inline(always)]
    fn upper(self, v: Self::I) -> Self::F {
        self.float(self.mask(v, 0xffff_0000))
    }
    /// The bf16 in the lower half of each lane.
    #[inline(always)]
    fn lower(self, v: Self::I) -> Self::F {
        self.float(self.shift_left::<16>(v))
    }

    // Integers and bits.

    fn add_bits(self, a: Self::I, b: Self::I) -> Self::I;
    /// The halves of each lane on their own.
    fn add_halves(self, a: Self::I, b: Self::I) -> Self::I;
    /// The larger, as i32.
    fn max_bits(self, a: Self::I, b: Self::I) -> Self::I;
    /// The exclusive or.
    fn xor(self, a: Self::I, b: Self::I) -> Self::I;
    fn mask(self, v: Self::I, bits: u32) -> Self::I;
    fn shift_left<const N: u32>(self, v: Self::I) -> Self::I;
    /// The sign bits following.
    fn shift_right<const N: u32>(self, v: Self::I) -> Self::I;
    /// The halves of each lane on their own: shifted left.
    fn shift_halves_left<const N: u32>(self, v: Self::I) -> Self::I;
    /// The halves of each lane on their own: shifted right, their sign bits following.
    fn shift_halves_right<const N: u32>(self, v: Self::I) -> Self::I;
    /// The upper four bits of each byte, as a byte.
    fn upper_nibbles(self, v: Self::I) -> Self::I;
    /// The lower four bits of each byte.
    #[inline(always)]
    fn lower_nibbles(self, v: Self::I) -> Self::I {
        self.mask(v, 0x0f0f_0f0f)
    }
    /// Of each byte of `index`, which is below 16, that byte of the `table`
    /// ([`Simd::load_table`]).
    fn lookup(self, table: Self::I, index: Self::I) -> Self::I;
    /// [`Simd::lookup`] by the lower four bits of each byte of `v`, and by the upper four.
    #[inline(always)]
    fn lookup_nibbles(self, table: Self::I, v: Self::I) -> [Self::I; 2] {
        [self.lookup(table, self.lower_nibbles(v)), self.lookup(table, self.upper_nibbles(v))]
    }
    /// The bytes of `a` and `b` by turns, of each 128 bits: of their first halves, of their second.
    fn interleave_bytes(self, a: Self::I, b: Self::I) -> [Self::I; 2];
    /// The same of their 16-bit halves of lanes.
    fn interleave_halves(self, a: Self::I, b: Self::I) -> [Self::I; 2];
    /// Whether in any byte none of `bits` is set.
    fn any_byte_without(self, v: Self::I, bits: u8) -> bool;
    /// `v` where `test` is neither 0.0 nor −0.0, else 0.
    fn where_nonzero(self, v: Self::I, test: Self::F) -> Self::I;

    // Over all lanes.

    /// The largest, as i32.
    fn largest(self, v: Self::I) -> i32;
    /// The sum.
    fn sum(self, v: Self::I) -> i32;
}
