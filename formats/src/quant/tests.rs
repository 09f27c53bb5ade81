//! Every codec against the specification: positions of bytes, fixture tables, error bounds.

use half::f16;
use proptest::prelude::*;

use super::*;
use crate::FormatError;

mod bounds;
mod columns;
mod fixtures;
#[cfg(feature = "convert")]
mod isas;

/// Layouts of every format and group, with rows and columns that are not multiples of anything.
fn layouts() -> Vec<TileLayout> {
    let mut layouts = Vec::new();
    for dtype in DType::ALL {
        layouts.extend(
            dtype.groups().iter().map(|&group| TileLayout::new(dtype, 21, 300, group).unwrap()),
        );
    }
    layouts
}

/// Deterministic values in −1..1, never 0.
fn weights(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + 13) % 1999) as f32 / 1000.0 - 0.9995).collect()
}

/// Sixteen padded rows whose used part is `weights`.
fn padded(layout: &TileLayout, weights: &[f32]) -> Vec<f32> {
    let mut rows = vec![0.0; layout.tile_floats()];
    for (row, w) in rows.chunks_mut(layout.padded_cols()).zip(weights.chunks(layout.cols)) {
        row[..w.len()].copy_from_slice(w);
    }
    rows
}

fn encode(layout: &TileLayout, rows: &[f32]) -> Vec<u8> {
    let mut tile = vec![0xaa; layout.encoded_bytes()];
    encode_tile(layout, rows, &mut tile).unwrap();
    tile
}

/// The tile as the first of its matrix, decoded.
fn decode(layout: &TileLayout, tile: &[u8]) -> Vec<f32> {
    let mut matrix = vec![0; layout.total_bytes()];
    place_tile(layout, tile, 0, &mut matrix);
    let mut decoded = vec![f32::NAN; layout.tile_floats()];
    decode_tile(layout, &matrix, 0, &mut decoded);
    decoded
}

/// Where the specification puts the code of `(row, col)` in a tile: byte, shift, width in bits (of
/// codes of 5 and 6 bits the lower four).
fn position(layout: &TileLayout, row: usize, col: usize) -> (usize, usize, usize) {
    let pair = layout.pair_bytes() * (col / layout.pair_cols());
    let group = |bytes: usize| bytes * (col % layout.pair_cols() / layout.group);
    let bits = layout.dtype.element_bits();
    match bits {
        32 => (pair + 64 * (col % 16) + 4 * row, 0, bits),
        16 => (pair + 64 * (col % 32 / 2) + 4 * row + 2 * (col % 2), 0, bits),
        8 => {
            let c = col % layout.group;
            (pair + group(16 * layout.group) + 64 * (c / 4) + 4 * row + c % 4, 0, bits)
        }
        _ => {
            let c = col % layout.group;
            let byte = 64 * (c / 8) + 4 * row + c % 4;
            (pair + group(layout.group_bytes()) + byte, if c % 8 < 4 { 0 } else { 4 }, 4)
        }
    }
}

/// The value that the specification gives to `(row, col)`.
fn value(layout: &TileLayout, tile: &[u8], row: usize, col: usize) -> f32 {
    let (byte, shift, bits) = position(layout, row, col);
    let field = |n: usize| (0..n).fold(0u32, |v, i| v | u32::from(tile[byte + i]) << (8 * i));
    let mut code = field(bits.div_ceil(8)) >> shift;
    if layout.dtype.has_steps() {
        let (group, c) = (col / 32 * layout.group_bytes(), col % 32);
        code &= 15;
        for plane in 0..layout.dtype.element_bits() - 4 {
            let byte = tile[group + 256 + 64 * plane + 4 * row + c % 4];
            code |= u32::from(byte >> (c / 4) & 1) << (4 + plane);
        }
        let sheet = &tile[layout.tile_bytes()..];
        let step = f16::from_le_bytes([sheet[2 * row], sheet[2 * row + 1]]).to_f32();
        let scale = f32::from(sheet[32 + 16 * (col / 32) + row] as i8);
        let value = match layout.dtype {
            DType::Int4 => f32::from(fine::TABLE[code as usize]),
            DType::Int5 => code as f32 - 16.0,
            _ => code as f32 - 32.0,
        };
        return value * scale * step;
    }
    let scale = || {
        let pair = layout.pair_bytes() * (col / layout.pair_cols());
        let group = col % layout.pair_cols() / layout.group;
        let at = pair + layout.pair_bytes() - 64 + 32 * group + 2 * row;
        f16::from_le_bytes([tile[at], tile[at + 1]]).to_f32()
    };
    match layout.dtype {
        DType::F32 => f32::from_bits(code),
        DType::F16 => f16::from_bits(code as u16).to_f32(),
        DType::Bf16 => half::bf16::from_bits(code as u16).to_f32(),
        DType::Int8 => (code as f32 - 128.0) * scale(),
        DType::Int4V1 => ((code & 15) as f32 - 8.0) * scale(),
        DType::Int4 | DType::Int5 | DType::Int6 => unreachable!(),
        DType::Fp8E4m3 | DType::Lmul => fp8::e4m3_to_f32(code as u8) * scale(),
        DType::Fp8E5m2 => fp8::e5m2_to_f32(code as u8) * scale(),
    }
}

#[test]
fn every_code_is_where_the_specification_says() {
    for layout in layouts() {
        let rows = padded(&layout, &weights(16 * layout.cols));
        let tile = encode(&layout, &rows);
        let decoded = decode(&layout, &tile);
        for (r, (x, decoded)) in
            rows.chunks(layout.padded_cols()).zip(decoded.chunks(layout.padded_cols())).enumerate()
        {
            for (c, (&x, &y)) in x.iter().zip(decoded).enumerate() {
                assert_eq!(y, value(&layout, &tile, r, c), "{layout:?} row {r} column {c}");
                assert!((x - y).abs() < 0.13, "{layout:?} row {r} column {c}: {x} {y}");
            }
        }
    }
}

#[test]
fn padding_is_zero_in_every_format() {
    for layout in layouts() {
        let tile = encode(&layout, &vec![0.0; layout.tile_floats()]);
        if layout.dtype.has_steps() {
            assert!(decode(&layout, &tile).iter().all(|x| *x == 0.0), "{layout:?}");
            continue;
        }
        let codes = layout.pair_bytes() - if layout.dtype.has_scales() { 64 } else { 0 };
        let zero = match layout.dtype {
            DType::Int4V1 => 0x88,
            DType::Int8 => 0x80,
            _ => 0,
        };
        for pair in tile.chunks(layout.pair_bytes()) {
            assert!(pair[..codes].iter().all(|&byte| byte == zero), "{layout:?}");
            assert!(pair[codes..].iter().all(|&byte| byte == 0), "{layout:?}");
        }
    }
}

#[test]
fn a_row_is_that_row_of_its_tile() {
    for layout in layouts() {
        let w = weights(layout.rows * layout.cols);
        let mut matrix = vec![0; layout.total_bytes()];
        let mut rows = Vec::new();
        for (t, part) in w.chunks(16 * layout.cols).enumerate() {
            let tile = encode(&layout, &padded(&layout, part));
            rows.extend(decode(&layout, &tile));
            place_tile(&layout, &tile, t, &mut matrix);
        }
        for (r, row) in rows.chunks(layout.padded_cols()).take(layout.rows).enumerate() {
            let mut out = vec![f32::NAN; layout.cols];
            decode_row(&layout, &matrix, r, &mut out);
            assert_eq!(out, row[..layout.cols], "{layout:?} row {r}");
        }
    }
}

#[test]
fn sizes_follow_the_specification() {
    let sizes = |dtype, group| {
        let layout = TileLayout::new(dtype, 33, 129, group).unwrap();
        (layout.n_tiles(), layout.padded_cols(), layout.pair_bytes(), layout.total_bytes())
    };
    assert_eq!(sizes(DType::Int4V1, 32), (3, 192, 576, 3 * 3 * 576));
    assert_eq!(sizes(DType::Int4V1, 128), (3, 256, 2112, 3 * 2112));
    // Scales of a tile: 16 steps of 2 bytes, six groups of 16 bytes.
    let sheet = 64 + (3 * 128_usize).next_multiple_of(64);
    assert_eq!(sizes(DType::Int4, 32), (3, 192, 512, 3 * 3 * 512 + sheet));
    assert_eq!(sizes(DType::Int5, 32), (3, 192, 640, 3 * 3 * 640 + sheet));
    assert_eq!(sizes(DType::Int6, 32), (3, 192, 768, 3 * 3 * 768 + sheet));
    assert_eq!(sizes(DType::Int8, 64), (3, 256, 2112, 3 * 2 * 2112));
    assert_eq!(sizes(DType::Lmul, 128), (3, 256, 4160, 3 * 4160));
    assert_eq!(sizes(DType::Bf16, 0), (3, 160, 1024, 3 * 5 * 1024));
    assert_eq!(sizes(DType::F32, 0), (3, 144, 1024, 3 * 9 * 1024));
    // The example in SPEC.md: byte 341, high nibble.
    let layout = TileLayout::new(DType::Int4V1, 16, 64, 32).unwrap();
    assert_eq!(position(&layout, 5, 45), (341, 4, 4));
}

#[test]
fn impossible_layouts_are_refused() {
    for dtype in DType::ALL {
        for group in [0, 1, 31, 32, 96, 128, 256, usize::MAX] {
            let fits = match dtype {
                _ if dtype.has_steps() => group == 32,
                _ if dtype.has_scales() => [32, 128].contains(&group),
                _ => group == 0,
            };
            assert_eq!(TileLayout::new(dtype, 1, 1, group).is_ok(), fits, "{dtype} {group}");
        }
        let group = dtype.default_group();
        let max = usize::MAX;
        let huge = [0, max / 2, max - 1, max, max / 4 + 1, max / 16 + 1];
        let large = 1 << (usize::BITS * 5 / 8);
        for (rows, cols) in huge.iter().flat_map(|&n| [(n, 1), (1, n), (n, n), (n, large)]) {
            match TileLayout::new(dtype, rows, cols, group) {
                Err(FormatError::MatrixSize { .. }) => {}
                Ok(layout) => assert!(layout.total_bytes() <= isize::MAX as usize),
                Err(other) => panic!("{other}"),
            }
        }
    }
    let error = TileLayout::new(DType::Int8, 1, 1, 33).unwrap_err();
    assert_eq!(error.to_string(), "the group of int8 must be 32, 64 or 128, found 33");
    let error = TileLayout::new(DType::Int4, 1, 1, 64).unwrap_err();
    assert_eq!(error.to_string(), "the group of int4 must be 32, found 64");
}

#[test]
fn what_a_format_cannot_hold_is_an_error_with_its_place() {
    for layout in layouts() {
        let largest = match layout.dtype {
            DType::F32 => f32::MAX,
            DType::F16 => 65520.0f32.next_down(),
            DType::Bf16 => f32::from_bits(0x7f7f_7fff),
            DType::Int8 => 127.0 * 65504.0,
            DType::Int4V1 => 7.0 * 65504.0,
            DType::Int4 => 32.0 * 127.0 * 65504.0,
            DType::Int5 => 16.0 * 127.0 * 65504.0,
            DType::Int6 => 32.0 * 127.0 * 65504.0,
            DType::Fp8E4m3 | DType::Lmul => 448.0 * 65504.0,
            DType::Fp8E5m2 => 57344.0 * 65504.0,
        };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, largest.next_up()] {
            let mut rows = padded(&layout, &weights(16 * layout.cols));
            rows[7 * layout.padded_cols() + 201] = bad;
            let error =
                encode_tile(&layout, &rows, &mut vec![0; layout.encoded_bytes()]).unwrap_err();
            assert_eq!((error.row, error.col, error.dtype), (7, 201, layout.dtype));
            assert_eq!(error.value.to_bits(), bad.to_bits());
        }
        let rows = padded(&layout, &vec![-largest; 16 * layout.cols]);
        let tile = encode(&layout, &rows);
        let decoded = value(&layout, &tile, 3, 3);
        assert!((decoded / -largest - 1.0).abs() < 4e-3, "{layout:?}: {decoded}");
    }
    let error = EncodeError { dtype: DType::F16, row: 3, col: 5, value: f32::NAN, limit: 65504.0 };
    assert_eq!(
        error.to_string(),
        "the weight at row 3, column 5 is NaN, \
         expected a number of magnitude 65504 at most to store it as f16"
    );
}
