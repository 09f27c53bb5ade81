//! The definition of every product: plain loops over one row at a time.
//!
//! Bytes are read as SPEC.md lays them out; the orders of summation are those of [`super`].

use brooklet_formats::DType;
use brooklet_formats::quant::{TILE_ROWS, fp8, lmul};
use half::bf16;

use super::codes::{Codes, Int4, Int4V1, Int8, Planes, code};
use super::integer::STEP;
use super::misfit;
use super::product::{Output, Product, Tiles};
use crate::kernels::forms::{Activations, GROUP};
use crate::kernels::math::mul_add;
use crate::kernels::units::{Fp8Quad, Int8Group, LmulQuad, from_bf16};

/// `y[c] = W x[c]`: the kernel of each format.
pub(super) fn product(tiles: Tiles<'_>, x: Activations<'_>, y: Output<'_>) {
    match (tiles.layout().dtype, x) {
        (DType::Int4V1, Activations::Int8(x)) => integer::<Int4V1>(&Product::new(tiles, x, y)),
        (DType::Int4, Activations::Int8(x)) => steps::<Int4>(&Product::new(tiles, x, y)),
        (DType::Int5, Activations::Int8(x)) => steps::<Planes<1>>(&Product::new(tiles, x, y)),
        (DType::Int6, Activations::Int8(x)) => steps::<Planes<2>>(&Product::new(tiles, x, y)),
        (DType::Int8, Activations::Int8(x)) => integer::<Int8>(&Product::new(tiles, x, y)),
        (DType::Fp8E4m3, Activations::Fp8(x)) => fp8::<false>(&Product::new(tiles, x, y)),
        (DType::Fp8E5m2, Activations::Fp8(x)) => fp8::<true>(&Product::new(tiles, x, y)),
        (DType::Lmul, Activations::Lmul(x)) => lmul(&Product::new(tiles, x, y)),
        (DType::F16, Activations::F32(x)) => f16(&Product::new(tiles, x, y)),
        (DType::Bf16, Activations::Bf16(x)) => bf16(&Product::new(tiles, x, y)),
        (DType::F32, Activations::F32(x)) => float(&Product::new(tiles, x, y)),
        (dtype, x) => misfit(dtype, x),
    }
}

/// Calls `row(tile, r, c)` for every row and column and writes what it returns.
fn each(tiles: Tiles<'_>, y: &Output<'_>, row: impl Fn(&[u8], usize, usize) -> f32) {
    each_with_scales(tiles, y, |tile, _, r, c| row(tile, r, c));
}

/// Calls `row(tile, its part of the sheet of scales, r, c)`.
fn each_with_scales(
    tiles: Tiles<'_>,
    y: &Output<'_>,
    row: impl Fn(&[u8], &[u8], usize, usize) -> f32,
) {
    for (t, tile) in tiles.iter().enumerate() {
        for c in 0..y.columns() {
            for r in 0..TILE_ROWS {
                y.write(t, r, c, &[row(tile, tiles.scales(t), r, c)]);
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
    let g = tiles.layout().group;
    let pair_bytes = tiles.layout().pair_bytes();
    let group_bytes = (pair_bytes - 4 * TILE_ROWS) / 2;
    for (p, pair) in tile.chunks_exact(pair_bytes).enumerate() {
        for half in 0..2 {
            let codes = &pair[half * group_bytes..(half + 1) * group_bytes];
            group(codes, scale(pair, group_bytes, half, r), (2 * p + half) * g);
        }
    }
}

/// acc = acc + (Σ q·x as f32) · (w_scale · x_scale) per block: the columns that share both scales.
fn integer<K: Codes>(p: &Product<'_, Int8Group>) {
    let (tiles, x) = (p.tiles(), p.x());
    each(tiles, p.y(), |tile, r, c| {
        let mut acc = 0.0f32;
        each_group(tiles, tile, r, |codes, scale, first| {
            let block = GROUP.min(tiles.layout().group);
            for k in (0..tiles.layout().group).step_by(block) {
                let x = x.unit(c, (first + k) / GROUP);
                let mut isum = 0i32;
                for i in k..k + block {
                    let step = &codes[i / STEP * K::STEP_BYTES..];
                    let q = K::value(code::<K>(step, r, i % STEP), &[]);
                    isum += q * i32::from(x.codes[(first + i) % GROUP]);
                }
                acc += isum as f32 * (scale * x.scale);
            }
        });
        acc
    });
}

/// acc = (Σ q·x as f32) · (scale · x_scale) + acc, fused, per group; the row's step at the end.
fn steps<K: Codes>(p: &Product<'_, Int8Group>) {
    let (tiles, x) = (p.tiles(), p.x());
    each_with_scales(tiles, p.y(), |tile, sheet, r, c| {
        let (steps, scales) = sheet.split_at(2 * TILE_ROWS);
        let mut acc = 0.0f32;
        let groups = tile.chunks_exact(K::STEP_BYTES).zip(scales.chunks_exact(TILE_ROWS));
        for (g, (codes, scales)) in groups.enumerate() {
            let x = x.unit(c, g * STEP / GROUP);
            let mut isum = 0i32;
            for i in 0..STEP {
                let q = K::value(code::<K>(codes, r, i), tiles.values());
                isum += q * i32::from(x.codes[(g * STEP + i) % GROUP]);
            }
            let scale = f32::from(i8::from_le_bytes([scales[r]]));
            acc = mul_add(isum as f32, scale * x.scale, acc);
        }
        acc * half::f16::from_le_bytes([steps[2 * r], steps[2 * r + 1]]).to_f32()
    });
}

/// The order in which the products of four columns are added, and to which of two chains: FP8 and
/// L-Mul, bf16.
pub(super) const QUAD: [(usize, usize); 4] = [(2, 0), (3, 1), (0, 0), (1, 1)];
pub(super) const PAIRS: [(usize, usize); 4] = [(1, 0), (3, 1), (0, 0), (2, 1)];

/// acc = acc + Σ(w·x) · scale per group, two chains.
///
/// Powers of two move from the weights to the activations and the scale (see [`Fp8Quad::FACTOR`]):
/// no bit of the result depends on them unless a number leaves the range of f32.
fn fp8<const E5M2: bool>(p: &Product<'_, Fp8Quad>) {
    let (tiles, x) = (p.tiles(), p.x());
    let decode = if E5M2 { fp8::e5m2_to_f32 } else { fp8::e4m3_to_f32 };
    let shrink = f32::from_bits((127 - if E5M2 { 112 } else { 120 }) << 23);
    each(tiles, p.y(), |tile, r, c| {
        let mut acc = 0.0f32;
        each_group(tiles, tile, r, |codes, scale, first| {
            let mut chain = [0.0f32; 2];
            for k in (0..tiles.layout().group).step_by(4) {
                let x = x.unit(c, (first + k) / 4);
                for (i, to) in QUAD {
                    chain[to] += decode(codes[16 * k + 4 * r + i]) * shrink * x.value(i);
                }
            }
            acc += (chain[0] + chain[1]) * (scale * (1.0 / shrink / Fp8Quad::FACTOR));
        });
        acc
    });
}

/// acc = acc + Σ L-Mul(w, x) · scale per group, two chains.
fn lmul(p: &Product<'_, LmulQuad>) {
    let (tiles, x) = (p.tiles(), p.x());
    each(tiles, p.y(), |tile, r, c| {
        let mut acc = 0.0f32;
        each_group(tiles, tile, r, |codes, scale, first| {
            let mut chain = [0.0f32; 2];
            for k in (0..tiles.layout().group).step_by(4) {
                let x = x.unit(c, (first + k) / 4);
                for (i, to) in QUAD {
                    let w = fp8::e4m3_to_f32(codes[16 * k + 4 * r + i]);
                    let bits = |v: f32| (v.to_bits() >> 16) as u16;
                    chain[to] += lmul::product_bf16(bits(w), bits(x.value(i)));
                }
            }
            acc += (chain[0] + chain[1]) * scale;
        });
        acc
    });
}

/// Two chains over the row.
fn bf16(p: &Product<'_, bf16>) {
    let (tiles, x) = (p.tiles(), p.x());
    each(tiles, p.y(), |tile, r, c| {
        let mut chain = [0.0f32; 2];
        for k in (0..tiles.layout().padded_cols()).step_by(4) {
            for (i, to) in PAIRS {
                let k = k + i;
                let at = 64 * (k / 2) + 4 * r + 2 * (k % 2);
                let w = from_bf16(u16::from_le_bytes([tile[at], tile[at + 1]]));
                chain[to] += w * from_bf16(x.unit(c, k).to_bits());
            }
        }
        chain[0] + chain[1]
    });
}

/// Two fused chains over the row.
fn f16(p: &Product<'_, f32>) {
    let (tiles, x) = (p.tiles(), p.x());
    each(tiles, p.y(), |tile, r, c| {
        let mut chain = [0.0f32; 2];
        for k in 0..tiles.layout().padded_cols() {
            let at = 64 * (k / 2) + 4 * r + 2 * (k % 2);
            let w = half::f16::from_le_bytes([tile[at], tile[at + 1]]).to_f32();
            chain[k % 2] = mul_add(w, *x.unit(c, k), chain[k % 2]);
        }
        chain[0] + chain[1]
    });
}

/// One fused chain over the row.
fn float(p: &Product<'_, f32>) {
    let (tiles, x) = (p.tiles(), p.x());
    each(tiles, p.y(), |tile, r, c| {
        let mut chain = 0.0f32;
        for k in 0..tiles.layout().padded_cols() {
            let at = 64 * k + 4 * r;
            let w = f32::from_le_bytes([tile[at], tile[at + 1], tile[at + 2], tile[at + 3]]);
            chain = mul_add(w, *x.unit(c, k), chain);
        }
        chain
    });
}
