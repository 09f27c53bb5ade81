//! Every instruction set that this processor has, and any number of threads: the same bytes.

use super::super::vectorized::on;
use super::*;
use crate::threads::Threads;

/// All instruction sets that are chosen from, as far as this processor has them.
fn archs() -> Vec<(&'static str, pulp::Arch)> {
    let mut archs = vec![("plain", pulp::Arch::Scalar)];
    #[cfg(target_arch = "x86_64")]
    {
        use pulp::x86::{V3, V4};
        archs.extend(V3::try_new().map(|simd| ("avx2", pulp::Arch::V3(simd))));
        archs.extend(V4::try_new().map(|simd| ("avx512", pulp::Arch::V4(simd))));
    }
    #[cfg(not(target_arch = "x86_64"))]
    archs.push(("the widest", pulp::Arch::new()));
    archs
}

/// Rows of `cols` weights: groups of all sizes, with outliers, zeros, and sizes that leave f16.
fn rows(n: usize, cols: usize) -> Vec<f32> {
    let mut random = 7u64;
    let mut next = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut weight = |i: usize| {
        let size = [0.02, 1.0, 3e-7, 1e-3, 40.0, 1e-30, 0.0, 0.02][i / 32 % 8];
        let x = next() * next() * size;
        if i % 97 == 5 { x * 9.0 } else { x }
    };
    (0..n * cols).map(&mut weight).collect()
}

#[test]
fn tiles_are_the_same_on_every_instruction_set() {
    for layout in layouts() {
        let rows = padded(&layout, &rows(TILE_ROWS, layout.cols));
        let mut all = archs().into_iter();
        let (_, plain) = all.next().unwrap();
        let expected = on(plain, || encode(&layout, &rows));
        for (name, arch) in all {
            let found = on(arch, || encode(&layout, &rows));
            assert!(found == expected, "{} by {}, {name}", layout.dtype, layout.group);
        }
    }
}

#[test]
fn tiles_are_the_same_by_any_number_of_threads() {
    for dtype in [DType::Int4, DType::Int6, DType::Int8, DType::Bf16] {
        let group = if dtype.has_scales() { 32 } else { 0 };
        let layout = TileLayout::new(dtype, 16 * 21 + 3, 70, group).unwrap();
        let mut rows = rows(layout.rows, layout.cols);
        let mut expected = vec![0; layout.n_tiles() * layout.encoded_bytes()];
        let tiles = rows.chunks(16 * layout.cols).zip(expected.chunks_mut(layout.encoded_bytes()));
        for (rows, out) in tiles {
            encode_tile(&layout, &padded(&layout, rows), out).unwrap();
        }
        let by = |count: usize, rows: &[f32]| {
            let mut out = vec![0xaa; expected.len()];
            let tiles = Tiles::new(&layout, rows, &mut out);
            let first = Threads::new(count).beside(|| tiles.encode(encode_tile), || "first");
            assert_eq!(first, "first");
            tiles.finish().map(|()| out)
        };
        for count in [0, 1, 2, 3, 16] {
            assert!(by(count, &rows).unwrap() == expected, "{dtype} by {count} threads");
        }
        // The first row with an error, whoever found which.
        for bad in [301, 50, 204] {
            rows[bad * layout.cols + 9] = f32::NAN;
        }
        for count in [0, 1, 2, 3, 16] {
            let error = by(count, &rows).unwrap_err();
            assert_eq!((error.row, error.col), (50, 9), "{dtype} by {count} threads");
        }
    }
}
