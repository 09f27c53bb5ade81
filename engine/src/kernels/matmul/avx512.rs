//! AVX-512 matrix kernels: one 64-byte vector holds the same few columns of all 16 rows of a tile.
//!
//! Integer formats: `vpdpbusd` multiplies unsigned weight codes by signed activation quads broadcast from memory; the
//! accumulators start at −bias · Σx, so that no sign is ever fixed up. A 16 × 32 int4 tile block costs, per column, 8
//! `vpdpbusd` and 4 float operations, and once for all columns 4 loads and 12 bit operations.

use std::arch::x86_64::*;

use brooklet_formats::DType;
use brooklet_formats::quant::TILE_ROWS;

use super::{Kernel, Output, Tiles};
use crate::kernels::acts::{Acts, GROUP};

/// The kernel of a format.
pub(super) fn kernel(dtype: DType) -> Kernel {
    match dtype {
        DType::Int4 => int4,
        DType::Int8 => int8,
        _ => super::scalar::kernel(dtype),
    }
}

/// # Safety
/// As [`Kernel`].
unsafe fn int4(tiles: Tiles<'_>, x: &Acts, y: Output) {
    // SAFETY: passed on.
    unsafe { integer::<true>(tiles, x, y) }
}

/// # Safety
/// As [`Kernel`].
unsafe fn int8(tiles: Tiles<'_>, x: &Acts, y: Output) {
    // SAFETY: passed on.
    unsafe { integer::<false>(tiles, x, y) }
}

/// Walks the tiles; for each, takes the columns in blocks that fit the registers.
///
/// # Safety
/// As [`Kernel`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn integer<const INT4: bool>(tiles: Tiles<'_>, x: &Acts, y: Output) {
    for (t, tile) in tiles.bytes.chunks_exact(tiles.layout.tile_bytes()).enumerate() {
        let mut c = 0;
        while c < y.columns {
            // SAFETY: the tile and columns c.. up to the block's width exist; the outputs are ours.
            unsafe {
                let out = y.base.add(c * y.stride + t * TILE_ROWS);
                c += match y.columns - c {
                    1 => integer_block::<INT4, 1>(tiles, tile, x, c, out, y.stride),
                    2 | 3 => integer_block::<INT4, 2>(tiles, tile, x, c, out, y.stride),
                    4..8 => integer_block::<INT4, 4>(tiles, tile, x, c, out, y.stride),
                    _ => integer_block::<INT4, 8>(tiles, tile, x, c, out, y.stride),
                };
            }
        }
    }
}

/// One tile by `C` columns from column `first`; returns `C`.
///
/// # Safety
/// As [`Kernel`], for this tile and these columns, `out` being the first output.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn integer_block<const INT4: bool, const C: usize>(
    tiles: Tiles<'_>,
    tile: &[u8],
    x: &Acts,
    first: usize,
    out: *mut f32,
    out_stride: usize,
) -> usize {
    let stride = x.stride();
    let group = tiles.layout.group;
    let group_bytes = group * TILE_ROWS / if INT4 { 2 } else { 1 };
    let bias = if INT4 { -8 } else { -128 };
    let nibble = _mm512_set1_epi8(15);
    let mut acc = [_mm512_setzero_ps(); C];
    // SAFETY: offsets stay within the tile (pairs × pair_bytes), the activations' padded columns and their scales.
    unsafe {
        let mut codes = tile.as_ptr();
        let mut xs: [*const i8; C] = std::array::from_fn(|c| x.codes.as_ptr().add((first + c) * stride));
        let mut at = first * stride / GROUP;
        for _ in 0..tiles.layout.n_pairs() {
            let scales = codes.add(2 * group_bytes);
            for half in 0..2 {
                let w_scale = _mm512_cvtph_ps(_mm256_load_si256(scales.add(32 * half).cast()));
                for _ in 0..group / GROUP {
                    // Two chains for one column, to hide the latency of the dot product; one each for more.
                    let mut even = [_mm512_setzero_si512(); C];
                    let mut odd = [_mm512_setzero_si512(); C];
                    for (c, even) in even.iter_mut().enumerate() {
                        *even = _mm512_set1_epi32(bias * *x.sums.as_ptr().add(at + c * (stride / GROUP)));
                    }
                    for j in 0..4 {
                        let (lo, hi) = if INT4 {
                            let v = _mm512_load_si512(codes.add(64 * j).cast());
                            (_mm512_and_si512(v, nibble), _mm512_and_si512(_mm512_srli_epi16::<4>(v), nibble))
                        } else {
                            (
                                _mm512_load_si512(codes.add(128 * j).cast()),
                                _mm512_load_si512(codes.add(128 * j + 64).cast()),
                            )
                        };
                        for c in 0..C {
                            let quad = |i: usize| {
                                _mm512_set1_epi32(xs[c].add(8 * j + i).cast::<i32>().read_unaligned())
                            };
                            even[c] = _mm512_dpbusd_epi32(even[c], lo, quad(0));
                            if C == 1 {
                                odd[c] = _mm512_dpbusd_epi32(odd[c], hi, quad(4));
                            } else {
                                even[c] = _mm512_dpbusd_epi32(even[c], hi, quad(4));
                            }
                        }
                    }
                    for c in 0..C {
                        let isum = if C == 1 { _mm512_add_epi32(even[c], odd[c]) } else { even[c] };
                        let x_scale = _mm512_set1_ps(*x.scales.as_ptr().add(at + c * (stride / GROUP)));
                        let scale = _mm512_mul_ps(w_scale, x_scale);
                        acc[c] = _mm512_add_ps(acc[c], _mm512_mul_ps(_mm512_cvtepi32_ps(isum), scale));
                        xs[c] = xs[c].add(GROUP);
                    }
                    at += 1;
                    codes = codes.add(if INT4 { 256 } else { 512 });
                }
            }
            codes = codes.add(4 * TILE_ROWS);
        }
        for (c, acc) in acc.iter().enumerate() {
            _mm512_storeu_ps(out.add(c * out_stride), *acc);
        }
    }
    C
}
