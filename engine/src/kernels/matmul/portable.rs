//! Portable matrix kernels, for processors without a hand-written one: eight rows of a tile in a
//! vector of the `wide` crate, which becomes SSE2, NEON or WebAssembly SIMD when the binary is
//! built.
//!
//! f32 and f16 multiply and add with two roundings, since a fused multiply-add without an
//! instruction for it is slow: they differ from the definition by [`TOLERANCE`] at most. All other
//! formats give the definition's bits. Test: `tests.rs`.

use brooklet_formats::DType;
use brooklet_formats::quant::{TILE_ROWS, VECTOR_BYTES, fp8, lmul};
use half::{bf16, f16};
use wide::{f32x8, i32x8};

use super::codes::{Codes, Int4, Int4V1, Int8, Planes};
use super::integer::STEP;
use super::misfit;
use super::product::{Output, Product, Tiles};
use super::scalar::{PAIRS, QUAD};
use crate::kernels::forms::{Activations, GROUP, Packed};
use crate::kernels::math::mul_add;
use crate::kernels::units::{Fp8Quad, Int8Group, LmulQuad, Unit, from_bf16};

/// The largest difference from the definition, as a share of `Σ abs(w x)`.
#[cfg(test)]
pub(super) const TOLERANCE: f32 = 1e-5;

/// Rows in a vector.
const LANES: usize = 8;

/// `y[c] = W x[c]`: the kernel of each format.
pub(super) fn product(tiles: Tiles<'_>, x: Activations<'_>, y: Output<'_>) {
    match (tiles.layout().dtype, x) {
        (DType::Int4V1, Activations::Int8(x)) => integer::<Int4V1>(&Product::new(tiles, x, y)),
        (DType::Int4, Activations::Int8(x)) => steps::<Int4>(&Product::new(tiles, x, y)),
        (DType::Int5, Activations::Int8(x)) => steps::<Planes<1>>(&Product::new(tiles, x, y)),
        (DType::Int6, Activations::Int8(x)) => steps::<Planes<2>>(&Product::new(tiles, x, y)),
        (DType::Int8, Activations::Int8(x)) => integer::<Int8>(&Product::new(tiles, x, y)),
        (DType::F32, Activations::F32(x)) => float(&Product::new(tiles, x, y)),
        (DType::F16, Activations::F32(x)) => half_float(&Product::new(tiles, x, y)),
        (DType::Bf16, Activations::Bf16(x)) => brain_float(&Product::new(tiles, x, y)),
        (DType::Fp8E4m3, Activations::Fp8(x)) => fp8::<false>(&Product::new(tiles, x, y)),
        (DType::Fp8E5m2, Activations::Fp8(x)) => fp8::<true>(&Product::new(tiles, x, y)),
        (DType::Lmul, Activations::Lmul(x)) => lmul(&Product::new(tiles, x, y)),
        (dtype, x) => misfit(dtype, x),
    }
}

/// Calls `rows(tile, first, c)` for every eight rows of every tile and every column, and writes
/// what it returns.
fn each(tiles: Tiles<'_>, y: &Output<'_>, rows: impl Fn(&[u8], usize, usize) -> f32x8) {
    for (t, tile) in tiles.iter().enumerate() {
        for c in 0..y.columns() {
            for first in (0..TILE_ROWS).step_by(LANES) {
                y.write(t, first, c, &rows(tile, first, c).to_array());
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

/// Column `c`, as one slice: of forms whose columns are not adjacent.
fn column<T: Unit>(x: Packed<'_, T>, c: usize) -> &[T] {
    &x.units()[c * x.stride()..][..x.stride()]
}

/// acc = acc + (Σ q·x as f32) · (w_scale · x_scale) per block: the columns that share both scales.
fn integer<K: Codes>(p: &Product<'_, Int8Group>) {
    let (tiles, x) = (p.tiles(), p.x());
    let layout = tiles.layout();
    let group_bytes = layout.group_bytes();
    let block = GROUP.min(layout.group);
    each(tiles, p.y(), |tile, first, c| {
        let mut acc = f32x8::splat(0.0);
        let groups = x.units()[c..].iter().step_by(x.stride());
        let mut x = groups.flat_map(|x| x.codes.chunks_exact(block).map(|codes| (codes, x.scale)));
        for pair in tile.chunks_exact(layout.pair_bytes()) {
            let (codes, scales) = pair.split_at(2 * group_bytes);
            for half in 0..2 {
                let w_scale = halves(&scales[2 * (TILE_ROWS * half + first)..]);
                let codes = &codes[half * group_bytes..(half + 1) * group_bytes];
                let blocks = codes.chunks_exact(group_bytes * block / layout.group);
                for (codes, (x, x_scale)) in blocks.zip(&mut x) {
                    let sum = dot::<K>(codes, &[], first, x);
                    acc += f32x8::from_i32x8(sum) * (w_scale * f32x8::splat(x_scale));
                }
            }
        }
        acc
    });
}

/// acc = (Σ q·x as f32) · (scale · x_scale) + acc, fused, per group; the row's step at the end.
fn steps<K: Codes>(p: &Product<'_, Int8Group>) {
    let (tiles, x) = (p.tiles(), p.x());
    for (t, tile) in tiles.iter().enumerate() {
        let (steps, scales) = tiles.scales(t).split_at(2 * TILE_ROWS);
        for c in 0..p.y().columns() {
            for first in (0..TILE_ROWS).step_by(LANES) {
                let mut acc = [0.0; LANES];
                let units = x.units()[c..].iter().step_by(x.stride());
                let x = units.flat_map(|x| x.codes.chunks_exact(STEP).map(|part| (part, x.scale)));
                let groups = tile.chunks_exact(K::STEP_BYTES).zip(scales.chunks_exact(TILE_ROWS));
                for ((codes, scales), (x, x_scale)) in groups.zip(x) {
                    let sum = dot::<K>(codes, tiles.values(), first, x).to_array();
                    for (lane, acc) in acc.iter_mut().enumerate() {
                        let scale = f32::from(scales[first + lane] as i8) * x_scale;
                        *acc = mul_add(sum[lane] as f32, scale, *acc);
                    }
                }
                let y = f32x8::new(acc) * halves(&steps[2 * first..]);
                p.y().write(t, first, c, &y.to_array());
            }
        }
    }
}

/// Σ q·x over whole steps.
fn dot<K: Codes>(codes: &[u8], table: &[u8], first: usize, x: &[i8]) -> i32x8 {
    let mut sum = i32x8::splat(0);
    for (step, x) in codes.chunks_exact(K::STEP_BYTES).zip(x.chunks_exact(STEP)) {
        for (q, x) in x.chunks_exact(4).enumerate() {
            let codes = quad::<K>(step, first, q);
            for (i, x) in x.iter().enumerate() {
                let byte = (codes >> (8 * i as i32)) & i32x8::splat(255);
                let values = byte.to_array().map(|code| K::value(code as u8, table));
                sum += i32x8::new(values) * i32x8::splat(i32::from(*x));
            }
        }
    }
    sum
}

/// The codes of columns 4q.. of a step, each a byte.
fn quad<K: Codes>(step: &[u8], first: usize, q: usize) -> i32x8 {
    if K::BITS == 8 {
        return lanes(&step[VECTOR_BYTES * q..], first);
    }
    let (nibbles, planes) = step.split_at(STEP / 8 * VECTOR_BYTES);
    let v = lanes(&nibbles[VECTOR_BYTES * (q / 2)..], first);
    let low = (v >> (4 * (q % 2) as i32)) & i32x8::splat(0x0f0f_0f0f);
    let planes = planes.chunks_exact(VECTOR_BYTES).take(K::BITS - 4).enumerate();
    planes.fold(low, |codes, (p, plane)| {
        let bits = (lanes(plane, first) >> (q as i32)) & i32x8::splat(0x0101_0101);
        codes | bits << (4 + p as i32)
    })
}

/// f32: one chain of multiply and add over the row.
fn float(p: &Product<'_, f32>) {
    each(p.tiles(), p.y(), |tile, first, c| {
        let mut chain = f32x8::splat(0.0);
        for (vector, x) in tile.chunks_exact(64).zip(column(p.x(), c)) {
            let w = lanes(vector, first).to_array().map(|lane| f32::from_bits(lane as u32));
            chain += f32x8::new(w) * f32x8::splat(*x);
        }
        chain
    });
}

/// f16: two chains (k mod 2) of multiply and add over the row.
fn half_float(p: &Product<'_, f32>) {
    each(p.tiles(), p.y(), |tile, first, c| {
        let mut chains = [f32x8::splat(0.0); 2];
        for (vector, x) in tile.chunks_exact(64).zip(column(p.x(), c).chunks_exact(2)) {
            let lanes = lanes(vector, first).to_array();
            for (i, chain) in chains.iter_mut().enumerate() {
                let w = lanes.map(|lane| f16::from_bits((lane >> (16 * i)) as u16).to_f32());
                *chain += f32x8::new(w) * f32x8::splat(x[i]);
            }
        }
        chains[0] + chains[1]
    });
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
    let (layout, group_bytes) = (tiles.layout(), tiles.layout().group_bytes());
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
fn fp8<const E5M2: bool>(p: &Product<'_, Fp8Quad>) {
    let (tiles, x) = (p.tiles(), p.x());
    let decode = if E5M2 { fp8::e5m2_to_f32 } else { fp8::e4m3_to_f32 };
    // As in the definition: a power of two moves from the weights to the scale.
    let shrink = f32::from_bits((127 - if E5M2 { 112 } else { 120 }) << 23);
    let factor = 1.0 / shrink / Fp8Quad::FACTOR;
    each(tiles, p.y(), |tile, first, c| {
        scaled(tiles, tile, first, factor, |codes, first_column| {
            let quads = &column(x, c)[first_column / 4..];
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
    });
}

/// acc = acc + Σ L-Mul(w, x) · scale per group, two chains.
fn lmul(p: &Product<'_, LmulQuad>) {
    let (tiles, x) = (p.tiles(), p.x());
    let bits = |v: f32| (v.to_bits() >> 16) as u16;
    each(tiles, p.y(), |tile, first, c| {
        scaled(tiles, tile, first, 1.0, |codes, first_column| {
            let quads = &column(x, c)[first_column / 4..];
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
    });
}

/// bf16: two chains over the row.
fn brain_float(p: &Product<'_, bf16>) {
    each(p.tiles(), p.y(), |tile, first, c| {
        let x = column(p.x(), c);
        let mut chains = [f32x8::splat(0.0); 2];
        for (vectors, x) in tile.chunks_exact(128).zip(x.chunks_exact(4)) {
            let lanes =
                [&vectors[..64], &vectors[64..]].map(|vector| lanes(vector, first).to_array());
            for (i, to) in PAIRS {
                let w = lanes[i / 2].map(|lane| from_bf16((lane >> (16 * (i % 2))) as u16));
                chains[to] += f32x8::new(w) * f32x8::splat(from_bf16(x[i].to_bits()));
            }
        }
        chains[0] + chains[1]
    });
}
