//! Matrix products over tiles: `y[c] = W x[c]` for any number of columns c, for each number format
//! and instruction set. One contract serves decoding (one column) and prompts (many).
//!
//! # The story of a product
//!
//! A matrix lies in the file as *tiles* of 16 rows by all of k, one behind the other. A tile is a
//! row of *vectors* of 64 bytes, one cache line each: 16 lanes of 32 bits, lane r belonging to row
//! r. A lane holds a few consecutive k of its row: four codes of 8 bits, two halves, one f32; of
//! int4 eight, four in the lower halves of its bytes and the next four in the upper ones. So a
//! register holds the same few k of many rows, and no sum ever crosses lanes.
//!
//! Formats with scales share one among a *group* of 32, 64 or 128 k. Groups come in *pairs*: the
//! codes of both, then one vector with the 16 scales of the first and the 16 of the second. Formats
//! with steps have their scales on a *sheet* behind all tiles instead.
//!
//! ```text
//!            k →
//!  W    ┌────────────────────────┬────────────────────────┬──────     a tile: 16 rows, all of k
//!  rows │ pair                   │ pair                   │
//!   ↓   │ group    group    s s  │ group    group    s s  │           a pair: codes, codes, scales
//!       └────────────────────────┴────────────────────────┴──────
//!       ┌───┬───┬───┬───┬ ─ ─ ─                                       a group: vectors of codes
//!       │▒▒▒│   │   │   │               one register of rows (here: all 16) of one vector …
//!       └─┬─┴───┴───┴───┴ ─ ─ ─
//!         │ ×                           … meets the same few k of each column of a block
//!       ┌─┴─┬───┬───┬───┬ ─ ─ ─
//!  x[0] │▒▒▒│   │   │   │
//!  x[1] │▒▒▒│   │   │   │               C columns at once, as many as there are registers for sums
//!  x[2] │▒▒▒│   │   │   │
//!       └───┴───┴───┴───┴ ─ ─ ─
//! ```
//!
//! The walk (`walk.rs`) reads the matrix once, in memory order; a tile's columns are taken a few at
//! a time, while it is in the cache:
//!
//! ```text
//! for each tile:                                                     16 rows
//!     for the next C columns:                                        12, 8, 5, 4, 3, 2, 1
//!         for the next R registers of rows:                          all 16 rows, or some of them
//!             block:                                                 a `Task` of `R` by `C` sums
//!                 for each pair, and for each of its groups:         `integer.rs`, `steps.rs`, …
//!                     for each step:                                 some vectors of codes
//!                         C · R sums += codes · x                    `Dot::dot`, `Float::step`
//!                     accumulators += sums · scales
//!                 y[rows, columns] = accumulators
//! ```
//!
//! Codes and scales stream by once per C columns; sums and accumulators stay in registers. Why a
//! block is as large as it is: an instruction that adds to a sum waits some cycles for the one
//! before it, so there must be enough independent sums (R · C), and they must fit the registers.
//! One column (decoding) waits for memory and not for sums: it takes all rows of a vector at once,
//! so that every cache line is read once, and fetches ahead.
//!
//! Who does what: [`product`](self::product) checks lengths once and is the proof of all pointers;
//! [`walk`](self::walk) cuts it; `integer.rs`, `steps.rs` and `float.rs` (for
//! many columns of f16 `widened.rs`) are the loop over k, over any registers; `codes.rs` and
//! `float8.rs` say what codes stand for; `avx512.rs`, `avx_vnni.rs`, `avx2.rs` and
//! `neon.rs` say how an instruction set multiplies; their operations on registers are in
//! [`simd`](super::simd).
//!
//! # What is computed
//!
//! It does not depend on how many columns or tiles a call gets:
//! * `int8`, `int4-v1`: per row, blocks of columns that share both scales, ascending:
//!   `acc = acc + (isum as f32) · (w_scale · x_scale)` where `isum` is the exact integer dot
//!   product. Every instruction set gives the same bits.
//! * `int4`, `int5`, `int6`: per row, groups of 32 columns, ascending, one fused multiply-add each:
//!   `acc = (isum as f32) · (scale · x_scale) + acc`; the result is `acc · step`. The same bits.
//! * `fp8-*`, `lmul`: activations are rounded to bf16 (products are exact then). Per row and weight
//!   group, two chains of additions: of each four columns, chain 0 takes 2, then 0; chain 1 takes
//!   3, then 1. `acc = acc + (c0 + c1) · scale`.
//! * `bf16`: activations are rounded to bf16. Per row, two chains: of each four columns, chain 0
//!   takes 1, then 0; chain 1 takes 3, then 2. The result is `c0 + c1`. Numbers below 2⁻¹²⁶ may
//!   count as zero, in FP8 products below 2⁻⁸⁶.
//! * `f16`: per row, two chains (k mod 2) of fused multiply-adds, then `c0 + c1`; `f32`: one chain.
//!
//! (The order inside four columns is that of the instruction `vdpbf16ps`.)
//!
//! `scalar.rs` is the definition; tests hold every other file to the same bits (f32 and f16 without
//! a fused multiply-add: to the tolerance stated in `portable.rs`).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx_vnni;
mod by_columns;
mod codes;
mod columns;
mod float;
mod float8;
mod integer;
mod live;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_dot;
mod portable;
mod product;
mod put;
mod scalar;
mod steps;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod vnni;
mod walk;
mod widened;

use brooklet_formats::DType;

use super::forms::{Activations, Form};
use super::isa::{Isa, Set};
use super::units::Int8Group;
pub(crate) use by_columns::{by_columns, room};
use codes::{Codes, Int4, Int4V1, Int8, Planes};
pub(crate) use columns::Columns;
use columns::{ColumnProduct, InColumns};
use float::{Bf16, F16, F32, Float};
use float8::{Fp8, Lmul};
#[cfg(all(target_arch = "aarch64", feature = "bench"))]
pub(super) use neon_dot::sdot;
use product::Product;
pub(crate) use product::{Output, Tiles};
use put::{Fetch, Put};

/// The form of activations that a format's kernels read.
pub(crate) fn form(dtype: DType) -> Form {
    match dtype {
        DType::Int8 | DType::Int4V1 | DType::Int4 | DType::Int5 | DType::Int6 => Form::Int8,
        DType::Fp8E4m3 | DType::Fp8E5m2 => Form::Fp8,
        DType::Lmul => Form::Lmul,
        DType::Bf16 => Form::Bf16,
        DType::F16 | DType::F32 => Form::F32,
    }
}

/// `y[c] = W x[c]` for the tiles and columns of `y`: overwrites them.
///
/// # Panics
/// Lengths or forms do not fit: a bug in the model that calls it.
pub(crate) fn matmul(isa: Isa, tiles: Tiles<'_>, x: Activations<'_>, y: Output<'_>) {
    match isa.set() {
        Set::Scalar => scalar::product(tiles, x, y),
        Set::Portable => portable::product(tiles, x, y),
        #[cfg(target_arch = "x86_64")]
        Set::Avx2(s) => on_registers(s, tiles, x, y),
        #[cfg(target_arch = "x86_64")]
        Set::AvxVnni(s) => on_registers(s, tiles, x, y),
        #[cfg(target_arch = "x86_64")]
        Set::Avx512(s) => on_registers(s, tiles, x, y),
        #[cfg(target_arch = "aarch64")]
        Set::Neon(s) => on_registers(s, tiles, x, y),
        #[cfg(target_arch = "aarch64")]
        Set::NeonDotprod(s) => on_registers(s, tiles, x, y),
        #[cfg(target_arch = "aarch64")]
        Set::NeonI8mm(s) => on_registers(s, tiles, x, y),
    }
}

/// How an instruction set multiplies: which block sizes, and with which of its extensions.
trait Kernels: Copy {
    /// A product of integer codes.
    fn integer_product<K: Codes>(self, product: &Product<'_, Int8Group>);
    /// A product of floats, of which a row has `N` chains.
    fn float_product<E: Float<N>, const N: usize>(self, product: &Product<'_, E::X>);
    /// A product of integer codes in columns, for a few columns of activations.
    fn few_columns<K: InColumns>(self, product: &ColumnProduct<'_>);
    /// Puts tiles of columns together.
    fn put_together<K: InColumns>(self, put: Put<'_>);
    /// Fetches the `i`-th of `n` shares of columns.
    fn fetch(self, next: &Fetch<'_>, i: usize, n: usize);
}

/// The table of formats.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn on_registers(set: impl Kernels, tiles: Tiles<'_>, x: Activations<'_>, y: Output<'_>) {
    use Activations as X;
    match (tiles.layout().dtype, x) {
        (DType::Int4V1, X::Int8(x)) => set.integer_product::<Int4V1>(&Product::new(tiles, x, y)),
        (DType::Int4, X::Int8(x)) => set.integer_product::<Int4>(&Product::new(tiles, x, y)),
        (DType::Int5, X::Int8(x)) => set.integer_product::<Planes<1>>(&Product::new(tiles, x, y)),
        (DType::Int6, X::Int8(x)) => set.integer_product::<Planes<2>>(&Product::new(tiles, x, y)),
        (DType::Int8, X::Int8(x)) => set.integer_product::<Int8>(&Product::new(tiles, x, y)),
        (DType::F32, X::F32(x)) => set.float_product::<F32, 1>(&Product::new(tiles, x, y)),
        (DType::F16, X::F32(x)) => set.float_product::<F16, 2>(&Product::new(tiles, x, y)),
        (DType::Bf16, X::Bf16(x)) => set.float_product::<Bf16, 2>(&Product::new(tiles, x, y)),
        (DType::Fp8E4m3, X::Fp8(x)) => {
            set.float_product::<Fp8<false>, 2>(&Product::new(tiles, x, y))
        }
        (DType::Fp8E5m2, X::Fp8(x)) => {
            set.float_product::<Fp8<true>, 2>(&Product::new(tiles, x, y))
        }
        (DType::Lmul, X::Lmul(x)) => set.float_product::<Lmul, 2>(&Product::new(tiles, x, y)),
        (dtype, x) => misfit(dtype, x),
    }
}

/// Activations in a form that no kernel of the format reads: a bug in the model.
#[cold]
fn misfit(dtype: DType, x: Activations<'_>) -> ! {
    panic!("{dtype} weights read {:?} activations, not {:?}", form(dtype), x.form())
}

/// Whether a format's kernel gives the bits of the definition; if not, `portable.rs` says how close
/// it comes.
#[cfg(test)]
fn bit_exact(isa: Isa, dtype: DType) -> bool {
    isa != Isa::portable() || !matches!(dtype, DType::F32 | DType::F16)
}
