//! The definition of every matrix kernel: plain loops over one row at a time.
//!
//! Bytes are read as SPEC.md lays them out; the orders of summation are those of [`super`].

use brooklet_formats::DType;
use brooklet_formats::quant::{TILE_ROWS, fp8, lmul};

use super::{Kernel, Output, Tiles};
use crate::buffers::Acts;
use crate::kernels::forms::GROUP;
use crate::kernels::forms::{Fp8Quad, from_bf16};

/// The kernel of a format.
pub(super) fn kernel(dtype: DType) -> Kernel {
    match dtype {
        DType::Int4 => integer::<true>,
        DType::Int8 => integer::<false>,
        DType::Fp8E4m3 => fp8::<false>,
        DType::Fp8E5m2 => fp8::<true>,
        DType::Lmul => lmul,
        DType::F16 => f16,
        DType::Bf16 => bf16,
        DType::F32 => float,
    }
}

/// Calls `row(tile, r, c)` for every row and column and writes what it returns.
///
/// # Safety
/// As [`Kernel`].
unsafe fn each(tiles: Tiles<'_>, y: Output, row: impl Fn(&[u8], usize, usize) -> f32) {
    for (t, tile) in tiles.bytes.chunks_exact(tiles.layout.tile_bytes()).enumerate() {
        for c in 0..y.columns {
            for r in 0..TILE_ROWS {
                // SAFETY: the caller may write every tile and column.
                unsafe { *y.base.add(c * y.stride + t * TILE_ROWS + r) = row(tile, r, c) };
            }
        }
    }
}

/// The scale of row r for group `half` (0 or 1) of a pair.
fn scale(pair: &[u8], group_bytes: usize, half: usize, r: usize) -> f32 {
    let at = 2 * group_bytes + 2 * (TILE_ROWS * half + r);
    half::f16::from_le_bytes([pair[at], pair[at + 1]]).to_f32()
}

/// Calls `group(codes, scale, first column)` for the groups of row r, ascending; columns count from
/// the tile's first.
fn each_group(tiles: Tiles<'_>, tile: &[u8], r: usize, mut group: impl FnMut(&[u8], f32, usize)) {
    let g = tiles.layout.group;
    let pair_bytes = tiles.layout.pair_bytes();
    let group_bytes = (pair_bytes - 4 * TILE_ROWS) / 2;
    for (p, pair) in tile.chunks_exact(pair_bytes).enumerate() {
        for half in 0..2 {
            let codes = &pair[half * group_bytes..(half + 1) * group_bytes];
            group(codes, scale(pair, group_bytes, half, r), (2 * p + half) * g);
        }
    }
}

/// acc = acc + (Σ q·x as f32) · (w_scale · x_scale) per block: the columns that share both scales.
unsafe fn integer<const INT4: bool>(tiles: Tiles<'_>, x: &Acts, y: Output) {
    let (groups, width) = x.int8();
    let row = |tile: &[u8], r: usize, c: usize| {
        let mut acc = 0.0f32;
        each_group(tiles, tile, r, |codes, scale, first| {
            let block = GROUP.min(tiles.layout.group);
            for k in (0..tiles.layout.group).step_by(block) {
                let x = &groups[(first + k) / GROUP * width + c];
                let codes_of_x = &x.codes[(first + k) % GROUP..][..block];
                let mut isum = 0i32;
                for (i, x) in (k..k + block).zip(codes_of_x) {
                    let q = if INT4 {
                        let byte = codes[64 * (i / 8) + 4 * r + i % 4];
                        i32::from(if i % 8 < 4 { byte & 15 } else { byte >> 4 }) - 8
                    } else {
                        i32::from(codes[64 * (i / 4) + 4 * r + i % 4]) - 128
                    };
                    isum += q * i32::from(*x);
                }
                acc += isum as f32 * (scale * x.scale);
            }
        });
        acc
    };
    // SAFETY: passed on.
    unsafe { each(tiles, y, row) }
}

/// The order in which the products of four columns are added, and to which of two chains: FP8 and
/// L-Mul, bf16.
pub(super) const QUAD: [(usize, usize); 4] = [(2, 0), (3, 1), (0, 0), (1, 1)];
pub(super) const PAIRS: [(usize, usize); 4] = [(1, 0), (3, 1), (0, 0), (2, 1)];

/// acc = acc + Σ(w·x) · scale per group, two chains.
///
/// Powers of two move from the weights to the activations and the scale (see [`Fp8Quad::FACTOR`]):
/// no bit of the result depends on them unless a number leaves the range of f32.
unsafe fn fp8<const E5M2: bool>(tiles: Tiles<'_>, x: &Acts, y: Output) {
    let decode = if E5M2 { fp8::e5m2_to_f32 } else { fp8::e4m3_to_f32 };
    let shrink = f32::from_bits((127 - if E5M2 { 112 } else { 120 }) << 23);
    let row = |tile: &[u8], r: usize, c: usize| {
        let mut acc = 0.0f32;
        each_group(tiles, tile, r, |codes, scale, first| {
            let mut chain = [0.0f32; 2];
            for k in (0..tiles.layout.group).step_by(4) {
                let x = x.fp8[(c * x.stride() + first + k) / 4];
                for (i, to) in QUAD {
                    chain[to] += decode(codes[16 * k + 4 * r + i]) * shrink * x.value(i);
                }
            }
            acc += (chain[0] + chain[1]) * (scale * (1.0 / shrink / Fp8Quad::FACTOR));
        });
        acc
    };
    // SAFETY: passed on.
    unsafe { each(tiles, y, row) }
}

/// acc = acc + Σ L-Mul(w, x) · scale per group, two chains.
unsafe fn lmul(tiles: Tiles<'_>, x: &Acts, y: Output) {
    let row = |tile: &[u8], r: usize, c: usize| {
        let mut acc = 0.0f32;
        each_group(tiles, tile, r, |codes, scale, first| {
            let mut chain = [0.0f32; 2];
            for k in (0..tiles.layout.group).step_by(4) {
                let x = x.lmul[(c * x.stride() + first + k) / 4];
                for (i, to) in QUAD {
                    let w = fp8::e4m3_to_f32(codes[16 * k + 4 * r + i]);
                    let bits = |v: f32| (v.to_bits() >> 16) as u16;
                    chain[to] += lmul::product_bf16(bits(w), bits(x.value(i)));
                }
            }
            acc += (chain[0] + chain[1]) * scale;
        });
        acc
    };
    // SAFETY: passed on.
    unsafe { each(tiles, y, row) }
}

/// Two chains over the row.
unsafe fn bf16(tiles: Tiles<'_>, x: &Acts, y: Output) {
    let row = |tile: &[u8], r: usize, c: usize| {
        let mut chain = [0.0f32; 2];
        for k in (0..tiles.layout.padded_cols()).step_by(4) {
            for (i, to) in PAIRS {
                let k = k + i;
                let at = 64 * (k / 2) + 4 * r + 2 * (k % 2);
                let w = from_bf16(u16::from_le_bytes([tile[at], tile[at + 1]]));
                chain[to] += w * from_bf16(x.bf16[c * x.stride() + k]);
            }
        }
        chain[0] + chain[1]
    };
    // SAFETY: passed on.
    unsafe { each(tiles, y, row) }
}

/// Two fused chains over the row.
unsafe fn f16(tiles: Tiles<'_>, x: &Acts, y: Output) {
    let row = |tile: &[u8], r: usize, c: usize| {
        let mut chain = [0.0f32; 2];
        for k in 0..tiles.layout.padded_cols() {
            let at = 64 * (k / 2) + 4 * r + 2 * (k % 2);
            let w = half::f16::from_le_bytes([tile[at], tile[at + 1]]).to_f32();
            chain[k % 2] = w.mul_add(x.float[c * x.stride() + k], chain[k % 2]);
        }
        chain[0] + chain[1]
    };
    // SAFETY: passed on.
    unsafe { each(tiles, y, row) }
}

/// One fused chain over the row.
unsafe fn float(tiles: Tiles<'_>, x: &Acts, y: Output) {
    let row = |tile: &[u8], r: usize, c: usize| {
        let mut chain = 0.0f32;
        for k in 0..tiles.layout.padded_cols() {
            let at = 64 * k + 4 * r;
            let w = f32::from_le_bytes([tile[at], tile[at + 1], tile[at + 2], tile[at + 3]]);
            chain = w.mul_add(x.float[c * x.stride() + k], chain);
        }
        chain
    };
    // SAFETY: passed on.
    unsafe { each(tiles, y, row) }
}
