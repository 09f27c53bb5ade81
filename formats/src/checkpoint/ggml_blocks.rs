//! ggml's quantized blocks, decoded to f32: bit-exact against the `gguf` package.
//!
//! Here: one function per block type, its layout in the doc comment; `d` and `m` are f16, numbers
//! are little-endian, `q[i]` is the code of element `i`. Not here: types with grids (`ggml_grids`),
//! encoding (we write `.brk` only), ids and sizes (`dtype`). Used for GGUF and for rwkv.cpp files
//! of version 101, which share these layouts. Source: ggml/src/ggml-common.h and ggml-quants.c of
//! llama.cpp. Test: at the end of this file.

use super::dtype::SourceDType as T;
use super::ggml_grids::{self as grids, half};

/// Decodes whole blocks: `out.len()` must be `bytes.len() / block_bytes * block_len`.
/// Types without blocks leave `out` as it is.
pub(super) fn dequantize(dtype: T, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        T::Q4_0 => each(bytes, out, q4_0),
        T::Q4_1 => each(bytes, out, q4_1),
        T::Q5_0 => each(bytes, out, q5_0),
        T::Q5_1 => each(bytes, out, q5_1),
        T::Q8_0 => each(bytes, out, q8_0),
        T::Q2K => each(bytes, out, q2_k),
        T::Q3K => each(bytes, out, q3_k),
        T::Q4K => each(bytes, out, q4_k),
        T::Q5K => each(bytes, out, q5_k),
        T::Q6K => each(bytes, out, q6_k),
        T::Iq4Nl => each(bytes, out, iq4_nl),
        T::Iq4Xs => each(bytes, out, iq4_xs),
        T::Iq1S => each(bytes, out, grids::iq1_s),
        T::Iq1M => each(bytes, out, grids::iq1_m),
        T::Iq2Xxs => each(bytes, out, grids::iq2_xxs),
        T::Iq2Xs => each(bytes, out, grids::iq2_xs),
        T::Iq2S => each(bytes, out, grids::iq2_s),
        T::Iq3Xxs => each(bytes, out, grids::iq3_xxs),
        T::Iq3S => each(bytes, out, grids::iq3_s),
        T::Tq1_0 => each(bytes, out, tq1_0),
        T::Tq2_0 => each(bytes, out, tq2_0),
        T::Mxfp4 => each(bytes, out, mxfp4),
        T::Nvfp4 => each(bytes, out, nvfp4),
        _ => {}
    }
}

fn each<const B: usize, const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: fn(&[u8; B], &mut [f32; N]),
) {
    for (block, values) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode(block, values);
    }
}

/// Calls `put(i, code)` for 32 codes in 16 bytes: low nibbles are elements 0..16, high nibbles
/// 16..32.
fn nibbles(bytes: &[u8], mut put: impl FnMut(usize, u8)) {
    for (i, &byte) in bytes.iter().enumerate() {
        put(i, byte & 15);
        put(i + 16, byte >> 4);
    }
}

/// `[d][16 nibble pairs]`: `x = d · (q − 8)`.
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    nibbles(&block[2..], |i, q| out[i] = d * f32::from(q as i8 - 8));
}

/// `[d][m][16 nibble pairs]`: `x = d · q + m`.
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    nibbles(&block[4..], |i, q| out[i] = d * f32::from(q) + m);
}

/// Bit `i` of the 32 at byte `at`, as the fifth bit of a code.
fn fifth_bit(block: &[u8], at: usize, i: usize) -> u8 {
    (block[at + i / 8] >> (i % 8) & 1) << 4
}

/// `[d][32 fifth bits][16 nibble pairs]`: `x = d · (q − 16)`.
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half(block, 0);
    nibbles(&block[6..], |i, q| out[i] = d * f32::from((q | fifth_bit(block, 2, i)) as i8 - 16));
}

/// `[d][m][32 fifth bits][16 nibble pairs]`: `x = d · q + m`.
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    nibbles(&block[8..], |i, q| out[i] = d * f32::from(q | fifth_bit(block, 4, i)) + m);
}

/// `[d][32 × i8]`: `x = d · q`.
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (x, &q) in out.iter_mut().zip(&block[2..]) {
        *x = d * f32::from(q as i8);
    }
}

/// `[16 × (4-bit scale, 4-bit minimum)][64 bytes of 2-bit codes][d][m]`, per 16 elements
/// `x = (d · scale) · q − m · minimum`. In each half of 128 elements, element `32·s + l` is bits
/// `2s..` of byte `l`.
fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let (d, m) = (half(block, 80), half(block, 82));
    for (i, x) in out.iter_mut().enumerate() {
        let scale = scales[i / 16];
        let q = codes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        *x = d * f32::from(scale & 15) * f32::from(q) - m * f32::from(scale >> 4);
    }
}

/// `[32 bytes of third bits][64 bytes of 2-bit codes][12 bytes of 16 6-bit scales][d]`, per 16
/// elements `x = d · (scale − 32) · (q − 4)`. Low codes as in [`q2_k`]; the third bit of element
/// `32·s + l` is bit `s` of byte `l`.
fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (high, codes, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(block, 108);
    let scale = |i: usize| {
        let low = packed[i % 8] >> (i / 8 * 4) & 15;
        let top = packed[8 + i % 4] >> (i / 4 * 2) & 3;
        d * f32::from((low | top << 4) as i8 - 32)
    };
    for (i, x) in out.iter_mut().enumerate() {
        let low = codes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        let third = high[i % 32] >> (i / 32) & 1;
        *x = scale(i / 16) * f32::from((low | third << 2) as i8 - 4);
    }
}

/// The 6-bit scale and minimum of sub-block `j` (of eight) from the 12 packed bytes of Q4_K and
/// Q5_K.
fn scale_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

/// `[d][m][12 bytes of scales and minima][128 bytes of nibbles]`, per 32 elements
/// `x = (d · scale) · q − m · minimum`. Of 64 elements, low nibbles are the first 32, high nibbles
/// the others.
fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, m) = (half(block, 0), half(block, 2));
    let (packed, codes) = (&block[4..16], &block[16..]);
    for (j, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_min(packed, j);
        let (scale, minimum) = (d * scale, m * minimum);
        for (x, byte) in values.iter_mut().zip(&codes[j / 2 * 32..]) {
            *x = scale * f32::from(byte >> (j % 2 * 4) & 15) - minimum;
        }
    }
}

/// As [`q4_k`], with 32 bytes of fifth bits before the nibbles: bit `j` of byte `l` is for element
/// `32·j + l`.
fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, m) = (half(block, 0), half(block, 2));
    let (packed, high, codes) = (&block[4..16], &block[16..48], &block[48..]);
    for (j, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_min(packed, j);
        let (scale, minimum) = (d * scale, m * minimum);
        for ((x, byte), high) in values.iter_mut().zip(&codes[j / 2 * 32..]).zip(high) {
            let q = byte >> (j % 2 * 4) & 15 | (high >> j & 1) << 4;
            *x = scale * f32::from(q) - minimum;
        }
    }
}

/// `[128 bytes of low nibbles][64 bytes of high bit pairs][16 × i8 scale][d]`, per 16 elements
/// `x = (d · scale) · (q − 32)`. In each half of 128 elements, element `32·s + l` takes the nibble
/// `s / 2` of byte `32·(s % 2) + l` and bits `2s..` of byte `l`.
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(block, 208);
    for (i, x) in out.iter_mut().enumerate() {
        let (part, s, l) = (i / 128, i % 128 / 32, i % 32);
        let nibble = low[part * 64 + s % 2 * 32 + l] >> (s / 2 * 4) & 15;
        let top = high[part * 32 + l] >> (s * 2) & 3;
        *x = d * f32::from(scales[i / 16] as i8) * f32::from((nibble | top << 4) as i8 - 32);
    }
}

/// The 16 values of the non-linear 4-bit types.
const IQ4_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// `[d][16 nibble pairs]`: `x = d · IQ4_VALUES[q]`.
fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    nibbles(&block[2..], |i, q| out[i] = d * f32::from(IQ4_VALUES[usize::from(q)]));
}

/// `[d][8 × 2 high bits][8 × 4 low bits][128 bytes of nibbles]`, per 32 elements (nibbles as in
/// [`q4_0`]) `x = d · (scale − 32) · IQ4_VALUES[q]`.
fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = half(block, 0);
    let top = u16::from_le_bytes([block[2], block[3]]);
    for (j, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = block[4 + j / 2] >> (j % 2 * 4) & 15;
        let scale = d * f32::from((low | ((top >> (2 * j) & 3) as u8) << 4) as i8 - 32);
        nibbles(&block[8 + 16 * j..24 + 16 * j], |i, q| {
            values[i] = scale * f32::from(IQ4_VALUES[usize::from(q)])
        });
    }
}

/// Twice the values of E2M1.
pub(super) const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `[e][16 nibble pairs]`: `x = 2^(e − 128) · E2M1_DOUBLED[q]`.
fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    let e = u32::from(block[0]);
    // 2^-128 and 2^-127 are subnormal.
    let scale = f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 });
    nibbles(&block[1..], |i, q| out[i] = scale * f32::from(E2M1_DOUBLED[usize::from(q)]));
}

/// `[4 × e4m3 without sign][4 × 8 nibble pairs]`, per 16 elements (low nibbles the first eight)
/// `x = e4m3 / 2 · E2M1_DOUBLED[q]`. The code of NaN stands for zero.
fn nvfp4(block: &[u8; 36], out: &mut [f32; 64]) {
    for (part, values) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (e, m) = (block[part] >> 3 & 15, f32::from(block[part] & 7));
        let scale = match (block[part], e) {
            (0x7f, _) => 0.0,
            (_, 0) => m * f32::exp2(-9.0),
            _ => (1.0 + m / 8.0) * f32::exp2(f32::from(e) - 7.0),
        };
        for (i, byte) in block[4 + 8 * part..][..8].iter().enumerate() {
            values[i] = scale * 0.5 * f32::from(E2M1_DOUBLED[usize::from(byte & 15)]);
            values[i + 8] = scale * 0.5 * f32::from(E2M1_DOUBLED[usize::from(byte >> 4)]);
        }
    }
}

/// `[48 bytes of five ternary digits][4 bytes of four][d]`: `x = d · (q − 1)`. A byte is a fraction
/// of 256 whose digits to the base of three are codes, the first the highest. Digit `s` of the
/// first 32 bytes makes elements `32·s..`, that of the next 16 `160 + 16·s..`, of the last four
/// `240 + 4·s..`.
fn tq1_0(block: &[u8; 54], out: &mut [f32; 256]) {
    let d = half(block, 52);
    let mut x = out.iter_mut();
    for (bytes, digits) in [(&block[..32], 5), (&block[32..48], 5), (&block[48..52], 4)] {
        for s in 0..digits {
            for (byte, x) in bytes.iter().zip(&mut x) {
                let fraction = byte.wrapping_mul(3u8.pow(s));
                let q = ((u16::from(fraction) * 3) >> 8) as i8;
                *x = d * f32::from(q - 1);
            }
        }
    }
}

/// `[64 bytes of 2-bit codes][d]`: `x = d · (q − 1)`. Codes as in [`q2_k`].
fn tq2_0(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = half(block, 64);
    for (i, x) in out.iter_mut().enumerate() {
        let q = block[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        *x = d * f32::from(q as i8 - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::npz_at;
    use super::*;

    /// Every type that the gguf package decodes, bit for bit, with every point of every grid.
    #[test]
    fn blocks_decode_as_the_gguf_package_decodes_them() {
        let table =
            npz_at(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/ggml-blocks.npz").as_ref());
        let mut checked = 0;
        for dtype in (0..64).filter_map(|id| T::from_ggml(id).ok()) {
            let Some(bytes) = table.get(&format!("{dtype}_bytes")) else { continue };
            let expected = table[&format!("{dtype}_dequant")].f32();
            let mut out = Vec::new();
            super::super::decode::decode(dtype, &bytes.bytes, &mut out);
            assert_eq!(out.len(), expected.len(), "{dtype}");
            for (i, (a, b)) in out.iter().zip(&expected).enumerate() {
                assert_eq!(a.to_bits(), b.to_bits(), "{dtype} element {i}: {a} {b}");
            }
            checked += 1;
        }
        assert_eq!((checked, 2 * checked), (24, table.len()), "all of them");
    }
}
