//! Matrix products over tiles: `y[c] = W x[c]` for any number of columns c, for each number format
//! and instruction set.
//!
//! One contract ([`Kernel`]) serves decoding (one column) and prompts (many): a kernel walks
//! consecutive tiles of 16 rows in memory order, and for each tile a few columns at a time. What is
//! computed does not depend on how many columns or tiles a call gets:
//! * `int4`, `int8`: per row, blocks of columns that share both scales, ascending:
//!   `acc = acc + (isum as f32) · (w_scale · x_scale)` where `isum` is the exact integer dot
//!   product. Every instruction set gives the same bits.
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
mod float;
mod integer;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_dot;
mod portable;
mod scalar;
mod simd;
#[cfg(test)]
mod tests;

use brooklet_formats::DType;
use brooklet_formats::quant::{TILE_ROWS, TileLayout};

use super::isa::Isa;
use crate::buffers::Acts;
use crate::kernels::forms::Forms;
use crate::team::Part;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon_dot::sdot;

/// Consecutive tiles of one matrix.
#[derive(Clone, Copy)]
pub(crate) struct Tiles<'a> {
    /// The geometry of the matrix.
    pub(crate) layout: &'a TileLayout,
    /// Whole tiles; 64-byte aligned.
    pub(crate) bytes: &'a [u8],
}

/// Where results go: row r of tile t of column c is written at `base + c · stride + 16 t + r`.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    pub(crate) base: *mut f32,
    pub(crate) stride: usize,
    pub(crate) columns: usize,
}

/// A matrix kernel: overwrites the outputs of all tiles and columns.
///
/// # Safety
/// * The processor has the kernel's instruction set.
/// * `tiles.bytes` is a whole number of tiles of `tiles.layout`, 64-byte aligned.
/// * `x` has the form the format reads, at least `y.columns` columns, and a stride of at least the
///   padded columns.
/// * All outputs that `y` describes may be written, and by nobody else.
pub(crate) type Kernel = unsafe fn(tiles: Tiles<'_>, x: &Acts, y: Output);

/// The form of activations that a format's kernels read.
pub(crate) fn forms(dtype: DType) -> Forms {
    match dtype {
        DType::Int4 | DType::Int8 => Forms { int8: true, ..Forms::default() },
        DType::Fp8E4m3 | DType::Fp8E5m2 => Forms { fp8: true, ..Forms::default() },
        DType::Lmul => Forms { lmul: true, ..Forms::default() },
        DType::Bf16 => Forms { bf16: true, ..Forms::default() },
        DType::F16 | DType::F32 => Forms { float: true, ..Forms::default() },
    }
}

/// The kernel for a format on an instruction set: the dispatch table.
fn kernel(isa: Isa, dtype: DType) -> Kernel {
    match isa {
        Isa::Scalar => scalar::kernel(dtype),
        Isa::Portable => portable::kernel(dtype),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::kernel(dtype),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => avx_vnni::kernel(dtype),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::kernel(dtype),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => neon::kernel(isa, dtype),
    }
}

/// Whether a format's kernel gives the bits of the definition; if not, `portable.rs` says how close
/// it comes.
#[cfg(test)]
fn bit_exact(isa: Isa, dtype: DType) -> bool {
    isa != Isa::Portable || !matches!(dtype, DType::F32 | DType::F16)
}

/// `y[c] = W x[c]` for the rows and columns of `y`, which lie on tiles of the matrix `bytes` (its
/// first tile is row 0).
///
/// # Panics
/// Lengths or forms do not fit: a bug in the model that calls it.
pub(crate) fn matmul(isa: Isa, layout: &TileLayout, bytes: &[u8], x: &Acts, y: &mut Part<'_, f32>) {
    let (base, stride, tiles) = y.tiles();
    let columns = y.columns().len();
    if tiles == 0 || columns == 0 {
        return;
    }
    let first = y.rows().start / TILE_ROWS;
    let size = layout.tile_bytes();
    let bytes = &bytes[first * size..(first + tiles) * size];
    assert_eq!(x.k(), layout.cols);
    assert!(layout.padded_cols() <= x.stride() && columns <= x.columns());
    assert_eq!(x.forms() | forms(layout.dtype), x.forms());
    assert!(!x.forms().int8 || columns <= x.int8().1);
    assert_eq!(bytes.as_ptr() as usize % 64, 0);
    // SAFETY: the instruction set was detected; bytes, activations and alignment were just checked;
    // the part owns its tiles' outputs in every column (`Part::tiles` checks that they end within
    // the stride).
    unsafe {
        kernel(isa, layout.dtype)(Tiles { layout, bytes }, x, Output { base, stride, columns })
    }
}
