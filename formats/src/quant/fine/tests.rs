//! The table by shuffles against the table by comparisons, bit for bit.

use super::search::{Table, Weights};
use super::*;

/// Groups of 32 columns and inverse scales that bring values onto every border and beside it, far
/// beyond the table, to nothing, and to no number at all.
fn groups() -> Vec<([Lanes; GROUP], Lanes)> {
    let borders = TABLE.windows(2).map(|two| (f32::from(two[0]) + f32::from(two[1])) / 2.0);
    let mut values: Vec<f32> = borders.flat_map(|b| [b, b.next_up(), b.next_down(), -b]).collect();
    values.extend([0.0, -0.0, 1e-45, -1e-40, 31.75, 32.0, -33.0, 1e9, -1e9, 3e38, -3e38, 0.3]);
    let mut groups = Vec::new();
    for inverse in [1.0, -1.0, 0.25, 3.0, 1e-30, 1e30, f32::INFINITY, f32::NAN, 1e-45, 0.0] {
        let column = |c: usize| -> Lanes {
            std::array::from_fn(|lane| values[(c * 37 + lane * 5 + c / 7) % values.len()])
        };
        groups.push((std::array::from_fn(column), [inverse; TILE_ROWS]));
    }
    let mut random = 1u64;
    let mut next = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    for e in [-145, -130, -124, -122, -60, -8, 0, 20] {
        let group = std::array::from_fn(|_| std::array::from_fn(|_| next() * 2f32.powi(e)));
        groups.push((group, std::array::from_fn(|_| next() * 60.0 * 2f32.powi(-e.max(-120)))));
    }
    groups
}

/// All that is asked of a table, as bits.
#[inline(always)]
fn asked<V: Values>(values: V, (block, inverse): &([Lanes; GROUP], Lanes)) -> Vec<u32> {
    let mut found = Vec::new();
    let weights: Vec<f32> = (0..GROUP).map(|c| (c * c % 11) as f32 * 0.37).collect();
    fn moments<V: Values>(
        values: V,
        (block, inverse): (&[Lanes], &Lanes),
        w: impl Weights,
        found: &mut Vec<u32>,
    ) {
        let (xq, qq) = values.moments(block, w, inverse);
        // Which NaN it is, nobody asks.
        let bits = |x: f32| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() };
        found.extend(xq.into_iter().chain(qq).map(bits));
    }
    moments(values, (block, inverse), Alike, &mut found);
    moments(values, (block, inverse), &weights[..], &mut found);
    let mut codes = [[0; TILE_ROWS]; GROUP];
    values.codes(block, inverse, &mut codes);
    found.extend(codes.as_flattened().iter().map(|code| u32::from(*code)));
    let absmax = block.iter().fold([0.0f32; TILE_ROWS], |all, x| {
        std::array::from_fn(|lane| all[lane].max(x[lane].abs()))
    });
    let wanted = search::search(values, block, Alike, &absmax);
    found.extend(wanted.map(f32::to_bits));
    found.extend(search::search(values, block, &weights[..], &absmax).map(f32::to_bits));
    for steps in [0.0, 1e-45, 1e-9, 0.01, 3.0] {
        let steps = [steps; TILE_ROWS];
        let chosen = search::choose(values, block, Alike, (&wanted, &steps));
        found.extend(chosen.map(|scale| scale as u32));
    }
    found
}

#[test]
fn the_codes_of_borders_are_those_below() {
    for (code, two) in TABLE.windows(2).enumerate() {
        let border = (f32::from(two[0]) + f32::from(two[1])) / 2.0;
        for (v, expected) in [(border, code), (border.next_up(), code + 1)] {
            let found = Grid(DType::Int4).nearest(&[v; TILE_ROWS]);
            assert_eq!(found.0, [expected as u8; TILE_ROWS], "{v}");
            assert_eq!(found.1, [f32::from(TABLE[expected]); TILE_ROWS], "{v}");
        }
    }
}

#[cfg(all(target_arch = "x86_64", feature = "convert"))]
#[test]
fn shuffles_find_what_comparisons_find() {
    use super::shuffles::Shuffled;
    for (i, group) in groups().iter().enumerate() {
        let expected = asked(Table, group);
        match pulp::x86::V3::try_new() {
            Some(simd) => {
                let found = simd.vectorize(|| asked(Shuffled(simd), group));
                assert!(found == expected, "group {i}, AVX2");
            }
            None => println!("SKIPPED: no AVX2"),
        }
        match pulp::x86::V4::try_new() {
            Some(simd) => {
                let found = simd.vectorize(|| asked(Shuffled(simd), group));
                assert!(found == expected, "group {i}, AVX-512");
            }
            None => println!("SKIPPED: no AVX-512"),
        }
    }
}
