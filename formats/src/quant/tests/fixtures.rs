//! FP8 and L-Mul, bit for bit against `tests/fixtures/number-formats` (its README says who made
//! it).

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

use super::*;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/number-formats").join(name)
}

/// Rows of a comma-separated table, without its first line.
fn csv(name: &str) -> Vec<Vec<f64>> {
    let text = fs::read_to_string(fixture(name)).unwrap();
    let number = |field: &str| field.parse().unwrap_or(f64::NAN);
    text.lines().skip(1).map(|line| line.split(',').map(number).collect()).collect()
}

/// The elements of one array of an `.npz`, as bytes.
fn npz(name: &str, array: &str) -> Vec<u8> {
    let mut archive = zip::ZipArchive::new(File::open(fixture(name)).unwrap()).unwrap();
    let mut npy = Vec::new();
    archive.by_name(&format!("{array}.npy")).unwrap().read_to_end(&mut npy).unwrap();
    let header = usize::from(u16::from_le_bytes([npy[8], npy[9]]));
    npy.split_off(10 + header)
}

#[test]
fn every_fp8_code_has_its_value() {
    let table = csv("code_tables.csv");
    assert_eq!(table.len(), 256);
    for (code, row) in table.iter().enumerate() {
        let code = code as u8;
        for (value, expected) in
            [(fp8::e4m3_to_f32(code), row[1]), (fp8::e5m2_to_f32(code), row[2])]
        {
            if expected.is_nan() {
                assert!(value.is_nan(), "{code:#x}");
            } else {
                // The table has eight digits, which tell f32 values apart.
                assert_eq!(value.to_bits(), (expected as f32).to_bits(), "{code:#x}");
            }
        }
    }
}

#[test]
fn fp8_rounds_as_torch_and_as_exact_rationals() {
    let x: Vec<f32> = npz("roundings.npz", "x")
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&bytes| f32::from_le_bytes(bytes))
        .collect();
    assert_eq!(x.len(), 5743);
    type Column = (&'static str, fn(f32) -> u8);
    let columns: [Column; 4] = [
        ("e4m3fn_torch", fp8::e4m3_from_f32_overflowing),
        ("e4m3fn_saturating", fp8::e4m3_from_f32),
        ("e5m2_torch", fp8::e5m2_from_f32_overflowing),
        ("e5m2_saturating", fp8::e5m2_from_f32),
    ];
    for (column, round) in columns {
        for (&x, expected) in x.iter().zip(npz("roundings.npz", column)) {
            assert_eq!(round(x), expected, "{column} of {x} ({:#010x})", x.to_bits());
        }
    }
}

#[test]
fn lmul_is_the_formula_and_the_adder() {
    let table = csv("lmul.csv");
    assert_eq!(table.len(), 4016);
    for row in table {
        let [m, x, y, formula, adder, _exact] = row[..] else { panic!("six columns") };
        assert_eq!(lmul::lmul_formula(m as u32, x, y), formula, "formula, m = {m}, {x} and {y}");
        assert_eq!(lmul::lmul_adder(m as u32, x, y), adder, "adder, m = {m}, {x} and {y}");
    }
}

#[test]
fn the_product_of_the_lmul_format_is_the_adder_with_seven_bits() {
    let bf16 = |x: f32| half::bf16::from_f32(x).to_bits();
    for code in 0..=255u8 {
        let w = fp8::e4m3_to_f32(code);
        if w.is_nan() {
            continue;
        }
        assert_eq!(half::bf16::from_f32(w).to_f32(), w, "bf16 holds every code");
        for x in [-3.7, -1.0, -1e-3, 0.0, 0.1, 1.0, 1.99, 255.5, 1e20] {
            let rounded = f64::from(half::bf16::from_f32(x).to_f32());
            let expected = lmul::lmul_adder(7, w.into(), rounded) as f32;
            assert_eq!(lmul::product_bf16(bf16(w), bf16(x)), expected, "{w} times {x}");
        }
    }
    let largest = half::bf16::MAX.to_f32();
    assert_eq!(lmul::product_bf16(bf16(448.0), bf16(-1e38)), -largest);
    assert_eq!(lmul::product_bf16(bf16(2f32.powi(-9)), bf16(-1e-37)).to_bits(), 0x8000_0000);
    assert_eq!(lmul::product_bf16(bf16(1.0), 0), 0.0);
    // 1 + 0 + 0 + 2^-4
    assert_eq!(lmul::product_bf16(bf16(1.0), bf16(1.0)), 1.0625);
}
