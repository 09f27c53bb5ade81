//! The numbers of foreign tensors as f32.
//!
//! Here: plain numbers, also two to a byte. Not here: ggml's blocks (`ggml_blocks`), where bytes
//! lie (`tensor`). Test: at the end of this file and `ggml_blocks`.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::dtype::SourceDType::{self, self as T};
use super::ggml_blocks::{self as blocks, E2M1_DOUBLED};
use crate::quant::fp8::{e4m3_to_f32, e5m2_to_f32};

/// Appends the numbers in `bytes`, whole blocks of `dtype`, to `out` as f32: exact for every format
/// but F64 (rounded to nearest even). Of integers only I8, U8 and U4 have numbers, as codes; others
/// must have been refused before: they append zeros.
pub(crate) fn decode(dtype: SourceDType, bytes: &[u8], out: &mut Vec<f32>) {
    let start = out.len();
    match dtype {
        T::F64 => out.extend(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32)),
        T::F32 => out.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
        T::F16 => {
            // By slices, so that `half` may use the CPU's own conversion.
            for run in bytes.chunks(512) {
                let mut halves = [f16::ZERO; 256];
                let n = run.len() / 2;
                for (half, b) in halves.iter_mut().zip(run.as_chunks().0) {
                    *half = f16::from_le_bytes(*b);
                }
                let at = out.len();
                out.resize(at + n, 0.0);
                halves[..n].convert_to_f32_slice(&mut out[at..]);
            }
        }
        T::Bf16 => out.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
        T::F8E4m3 => out.extend(bytes.iter().map(|&b| e4m3_to_f32(b))),
        T::F8E5m2 => out.extend(bytes.iter().map(|&b| e5m2_to_f32(b))),
        T::F8E8m0 => out.extend(bytes.iter().map(|&b| e8m0_to_f32(b))),
        T::I8 => out.extend(bytes.iter().map(|&b| f32::from(b as i8))),
        T::U8 => out.extend(bytes.iter().map(|&b| f32::from(b))),
        T::U4 => out.extend(bytes.iter().flat_map(|&b| [b & 15, b >> 4]).map(f32::from)),
        T::F4 => {
            let value = |code: u8| {
                let size = f32::from(E2M1_DOUBLED[usize::from(code & 7)]) * 0.5;
                if code & 8 == 0 { size } else { -size }
            };
            out.extend(bytes.iter().flat_map(|&b| [b & 15, b >> 4]).map(value));
        }
        _ => {
            let n_block = bytes.len() / dtype.block_bytes();
            out.resize(start + n_block * dtype.block_len(), 0.0);
            blocks::dequantize(dtype, bytes, &mut out[start..]);
        }
    }
}

/// `2^(code − 127)`, NaN for the last code (OCP MX specification 1.0, 5.4.1).
fn e8m0_to_f32(code: u8) -> f32 {
    match code {
        // 2^-127 is subnormal.
        0 => f32::from_bits(0x0040_0000),
        0xff => f32::NAN,
        _ => f32::from_bits(u32::from(code) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(dtype: SourceDType, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![7.0];
        decode(dtype, bytes, &mut out);
        out.split_off(1)
    }

    #[test]
    fn plain_numbers() {
        assert_eq!(decoded(T::F64, &(-0.1f64).to_le_bytes()), [-0.1]);
        assert_eq!(decoded(T::F32, &1.5f32.to_le_bytes()), [1.5]);
        let halves: Vec<f32> = (0..700).map(|i| i as f32 / 8.0 - 3.0).collect();
        let bytes: Vec<u8> = halves.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        assert_eq!(decoded(T::F16, &bytes), halves);
        assert_eq!(decoded(T::Bf16, &[0x80, 0x3f, 0xc0, 0xbf]), [1.0, -1.5]);
        assert_eq!(
            decoded(T::F8E4m3, &[0x00, 0x01, 0x08, 0x38, 0xfe]),
            [0.0, 2f32.powi(-9), 2f32.powi(-6), 1.0, -448.0]
        );
        assert!(decoded(T::F8E4m3, &[0x7f])[0].is_nan());
        assert_eq!(
            decoded(T::F8E5m2, &[0x01, 0x3c, 0xfb, 0x7c]),
            [2f32.powi(-16), 1.0, -57344.0, f32::INFINITY]
        );
    }

    #[test]
    fn every_code_of_e2m1_and_e8m0() {
        // Sign, two bits of exponent with a bias of 1, one of mantissa; subnormal at exponent 0.
        let e2m1 = |code: u8| {
            let (exponent, mantissa) = (i32::from(code >> 1 & 3), f32::from(code & 1));
            let size = match exponent {
                0 => mantissa / 2.0,
                _ => (1.0 + mantissa / 2.0) * 2f32.powi(exponent - 1),
            };
            if code & 8 == 0 { size } else { -size }
        };
        for byte in 0..=255 {
            assert_eq!(decoded(T::F4, &[byte]), [e2m1(byte & 15), e2m1(byte >> 4)], "{byte}");
            assert_eq!(decoded(T::U4, &[byte]), [f32::from(byte & 15), f32::from(byte >> 4)]);
        }
        for code in 0..255 {
            assert_eq!(f64::from(decoded(T::F8E8m0, &[code])[0]), 2f64.powi(i32::from(code) - 127));
        }
        assert!(decoded(T::F8E8m0, &[0xff])[0].is_nan());
        assert_eq!(decoded(T::I8, &[0x80, 0xff, 0x7f]), [-128.0, -1.0, 127.0]);
        assert_eq!(decoded(T::U8, &[0x80, 0xff]), [128.0, 255.0]);
    }
}
