//! Portable matrix kernels, for processors without a hand-written one: eight rows of a tile in a
//! vector of the `wide` crate, which becomes SSE2, NEON or WebAssembly SIMD when the binary is
//! built.
//!
//! f32 and f16 multiply and add with two roundings, since a fused multiply-add without an
//! instruction for it is slow: they differ from the definition by [`TOLERANCE`] at most. All other
//! formats give the definition's bits. Test: `tests.rs`.

use brooklet_formats::DType;
use brooklet_formats::quant::{TILE_ROWS, fp8, lmul};
use half::f16;
use wide::{f32x8, i32x8};

use super::scalar::{PAIRS, QUAD};
use super::{Kernel, Output, Tiles};
use crate::buffers::Acts;
use crate::kernels::forms::{Fp8Quad, GROUP, from_bf16};

/// The largest difference from the definition, as a share of `Σ abs(w x)`.
#[cfg(test)]
pub(super) const TOLERANCE: f32 = 1e-5;

/// Rows in a vector.
const LANES: usize = 8;

/// The kernel of a format.
pub(super) fn kernel(dtype: DType) -> Kernel {
    match dtype {
        DType::Int4 => integer::<true>,
        DType::Int8 => integer::<false>,
        DType::F32 => float::<false>,
        DType::F16 => float::<true>,
        DType::Bf16 => bf16,
        DType::Fp8E4m3 => fp8::<false>,
        DType::Fp8E5m2 => fp8::<true>,
        DType::Lmul => lmul,
    }
}

/// Calls `rows(tile, first, c)` for every eight rows of every tile and every column, and writes
/// what it returns.
///
/// # Safety
/// As [`Kernel`].
unsafe fn each(tiles: Tiles<'_>, y: Output, rows: impl Fn(&[u8], usize, usize) -> f32x8) {
    for (t, tile) in tiles.bytes.chunks_exact(tiles.layout.tile_bytes()).enumerate() {
        for c in 0..y.columns {
            for first in (0..TILE_ROWS).step_by(LANES) {
                let out = rows(tile, first, c).to_array();
                // SAFETY: the caller may write every tile and column.
                unsafe {
                    let at = y.base.add(c * y.stride + t * TILE_ROWS + first);
                    std::slice::from_raw_parts_mut(at, LANES).copy_from_slice(&out);
                }
            }
        }
    }
}

/// The 32-bit lanes of rows `first..first + 8` of a tile's vector.
fn lanes(vector: &[u8], first: usize) -> i32x8 {
    let mut lanes = [0; LANES];
    for (lane, bytes) in lanes.iter_mut().zip(vector[4 * first..].chunks_exact(4)) {
        *lane = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    i32x8::new(lanes)
}

/// Eight f16 as f32.
fn halves(bytes: &[u8]) -> f32x8 {
    let mut values = [0.0; LANES];
    for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(2)) {
        *value = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
    }
    f32x8::new(values)
}

/// acc = acc + (Σ q·x as f32) · (w_scale · x_scale) per block: the columns that share both scales.
///
/// # Safety
/// As [`Kernel`].
unsafe fn integer<const INT4: bool>(tiles: Tiles<'_>, x: &Acts, y: Output) {
    let layout = tiles.layout;
    let (group_bytes, (groups, width)) = (layout.group_bytes(), x.int8());
    let block = GROUP.min(layout.group);
    let rows = |tile: &[u8], first: usize, c: usize| {
        let mut acc = f32x8::splat(0.0);
        let groups = groups[c..].iter().step_by(width);
        let mut x = groups.flat_map(|x| x.codes.chunks_exact(block).map(|codes| (codes, x.scale)));
        for pair in tile.chunks_exact(layout.pair_bytes()) {
            let (codes, scales) = pair.split_at(2 * group_bytes);
            for half in 0..2 {
                let w_scale = halves(&scales[2 * (TILE_ROWS * half + first)..]);
                let codes = &codes[half * group_bytes..(half + 1) * group_bytes];
                for (codes, (x, x_scale)) in
                    codes.chunks_exact(group_bytes * block / layout.group).zip(&mut x)
                {
                    let mut sum = i32x8::splat(0);
                    for (j, vector) in codes.chunks_exact(64).enumerate() {
                        let v = lanes(vector, first);
                        for i in 0..4 {
                            let byte = (v >> (8 * i as i32)) & i32x8::splat(255);
                            if INT4 {
                                let [low, high] =
                                    [8 * j + i, 8 * j + 4 + i].map(|k| i32::from(x[k]));
                                let (a, b) = (byte & i32x8::splat(15), byte >> 4);
                                sum += (a - i32x8::splat(8)) * i32x8::splat(low);
                                sum += (b - i32x8::splat(8)) * i32x8::splat(high);
                            } else {
                                let x = i32::from(x[4 * j + i]);
                                sum += (byte - i32x8::splat(128)) * i32x8::splat(x);
                            }
                        }
                    }
                    acc += f32x8::from_i32x8(sum) * (w_scale * f32x8::splat(x_scale));
                }
            }
        }
        acc
    };
    // SAFETY: passed on.
    unsafe { each(tiles, y, rows) }
}

/// One chain of multiply and add over the row for f32, two (k mod 2) for f16.
///
/// # Safety
/// As [`Kernel`].
unsafe fn float<const HALF: bool>(tiles: Tiles<'_>, x: &Acts, y: Output) {
    let rows = |tile: &[u8], first: usize, c: usize| {
        let x = &x.float[c * x.stride()..];
        let mut chains = [f32x8::splat(0.0); 2];
        if HALF {
            for (vector, x) in tile.chunks_exact(64).zip(x.chunks_exact(2)) {
                let lanes = lanes(vector, first).to_array();
                for (i, chain) in chains.iter_mut().enumerate() {
                    let w = lanes.map(|lane| f16::from_bits((lane >> (16 * i)) as u16).to_f32());
                    *chain += f32x8::new(w) * f32x8::splat(x[i]);
                }
            }
        } else {
            for (vector, x) in tile.chunks_exact(64).zip(x) {
                let w = lanes(vector, first).to_array().map(|lane| f32::from_bits(lane as u32));
                chains[0] += f32x8::new(w) * f32x8::splat(*x);
            }
        }
        chains[0] + chains[1]
    };
    // SAFETY: passed on.
    unsafe { each(tiles, y, rows) }
}

/// Calls `group(codes, first column)` for the groups of a tile in order, and adds what it returns
/// times the scales of rows `first..first + 8`, which are `factor` too small.
fn scaled(
    tiles: Tiles<'_>,
    tile: &[u8],
    first: usize,
    factor: f32,
    group: impl Fn(&[u8], usize) -> f32x8,
) -> f32x8 {
    let (layout, group_bytes) = (tiles.layout, tiles.layout.group_bytes());
    let mut acc = f32x8::splat(0.0);
    for (p, pair) in tile.chunks_exact(layout.pair_bytes()).enumerate() {
        let (codes, scales) = pair.split_at(2 * group_bytes);
        for (half, codes) in codes.chunks_exact(group_bytes).enumerate() {
            let scale = halves(&scales[2 * (TILE_ROWS * half + first)..]);
            acc += group(codes, (2 * p + half) * layout.group) * (scale * f32x8::splat(factor));
        }
    }
    acc
}

/// acc = acc + Σ(w·x) · scale per group, two chains.
///
/// # Safety
/// As [`Kernel`].
unsafe fn fp8<const E5M2: bool>(tiles: Tiles<'_>, x: &Acts, y: Output) {
    let decode = if E5M2 { fp8::e5m2_to_f32 } else { fp8::e4m3_to_f32 };
    // As in the definition: a power of two moves from the weights to the scale.
    let shrink = f32::from_bits((127 - if E5M2 { 112 } else { 120 }) << 23);
    let factor = 1.0 / shrink / Fp8Quad::FACTOR;
    let rows = |tile: &[u8], first: usize, c: usize| {
        scaled(tiles, tile, first, factor, |codes, column| {
            let quads = &x.fp8[(c * x.stride() + column) / 4..];
            let mut chains = [f32x8::splat(0.0); 2];
            for (vector, x) in codes.chunks_exact(64).zip(quads) {
                let lanes = lanes(vector, first).to_array();
                for (i, to) in QUAD {
                    let w = lanes.map(|lane| decode((lane >> (8 * i)) as u8) * shrink);
                    chains[to] += f32x8::new(w) * f32x8::splat(x.value(i));
                }
            }
            chains[0] + chains[1]
        })
    };
    // SAFETY: passed on.
    unsafe { each(tiles, y, rows) }
}

/// acc = acc + Σ L-Mul(w, x) · scale per group, two chains.
///
/// # Safety
/// As [`Kernel`].
unsafe fn lmul(tiles: Tiles<'_>, x: &Acts, y: Output) {
    let bits = |v: f32| (v.to_bits() >> 16) as u16;
    let rows = |tile: &[u8], first: usize, c: usize| {
        scaled(tiles, tile, first, 1.0, |codes, column| {
            let quads = &x.lmul[(c * x.stride() + column) / 4..];
            let mut chains = [f32x8::splat(0.0); 2];
            for (vector, x) in codes.chunks_exact(64).zip(quads) {
                let lanes = lanes(vector, first).to_array();
                for (i, to) in QUAD {
                    let x = bits(x.value(i));
                    let w = lanes.map(|lane| bits(fp8::e4m3_to_f32((lane >> (8 * i)) as u8)));
                    chains[to] += f32x8::new(w.map(|w| lmul::product_bf16(w, x)));
                }
            }
            chains[0] + chains[1]
        })
    };
    // SAFETY: passed on.
    unsafe { each(tiles, y, rows) }
}

/// Two chains over the row.
///
/// # Safety
/// As [`Kernel`].
unsafe fn bf16(tiles: Tiles<'_>, x: &Acts, y: Output) {
    let rows = |tile: &[u8], first: usize, c: usize| {
        let x = &x.bf16[c * x.stride()..];
        let mut chains = [f32x8::splat(0.0); 2];
        for (vectors, x) in tile.chunks_exact(128).zip(x.chunks_exact(4)) {
            let lanes =
                [&vectors[..64], &vectors[64..]].map(|vector| lanes(vector, first).to_array());
            for (i, to) in PAIRS {
                let w = lanes[i / 2].map(|lane| from_bf16((lane >> (16 * (i % 2))) as u16));
                chains[to] += f32x8::new(w) * f32x8::splat(from_bf16(x[i]));
            }
        }
        chains[0] + chains[1]
    };
    // SAFETY: passed on.
    unsafe { each(tiles, y, rows) }
}
