//! The error bounds that [`encode_tile`] documents, on random groups of every magnitude.

use super::*;

/// One group per lane: all magnitudes that f32 has, mixed with zeros, outliers and equal values.
fn groups() -> impl Strategy<Value = Vec<f32>> {
    let group =
        (-30..11i32, 0..4u8, prop::collection::vec(-1.0..1.0f32, 32)).prop_map(|(e, kind, x)| {
            let unit = 2f32.powi(e);
            let shaped = x.into_iter().enumerate().map(move |(i, x)| match kind {
                0 => x * unit,
                1 => x.signum() * unit,
                2 if i % 11 == 3 => x * unit * 20.0,
                2 => x * x * x * unit,
                _ if i % 2 == 0 => 0.0,
                _ => x.abs() * unit,
            });
            shaped.collect::<Vec<_>>()
        });
    prop::collection::vec(group, 16).prop_map(|rows| rows.concat())
}

/// Encodes 16 rows of 32 columns, calls `check(x, decoded, scale, absmax)` for each row.
fn each_row(dtype: DType, x: &[f32], mut check: impl FnMut(&[f32], &[f32], f32, f32)) {
    let layout = TileLayout::new(dtype, 16, 32, dtype.default_group().min(32)).unwrap();
    let tile = encode(&layout, &padded(&layout, x));
    let decoded = decode(&layout, &tile);
    for (r, (x, y)) in x.chunks(32).zip(decoded.chunks(layout.padded_cols())).enumerate() {
        let scale = if dtype.has_scales() && !dtype.has_steps() {
            let at = layout.pair_bytes() - 64 + 2 * r;
            f16::from_le_bytes([tile[at], tile[at + 1]]).to_f32()
        } else {
            1.0
        };
        check(x, &y[..32], scale, x.iter().fold(0.0, |a, x| x.abs().max(a)));
    }
}

fn squares(x: &[f32], y: impl Iterator<Item = f32>) -> f64 {
    x.iter().zip(y).map(|(&x, y)| (f64::from(x) - f64::from(y)).powi(2)).sum()
}

/// Sum of squares with that scale and the nearest codes; infinite for scales that f16 does not
/// have.
fn squares_at(x: &[f32], scale: f32) -> f64 {
    let scale = f16::from_f32(scale).to_f32();
    if scale == 0.0 || !scale.is_finite() {
        return if scale == 0.0 { squares(x, std::iter::repeat(0.0)) } else { f64::INFINITY };
    }
    squares(x, x.iter().map(|x| (x / scale).clamp(-8.0, 7.0).round_ties_even() * scale))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn floats_are_rounded_to_nearest(x in groups()) {
        for (dtype, relative, least) in [
            (DType::F32, 0.0, 0.0),
            (DType::F16, 2f32.powi(-11), 2f32.powi(-25)),
            (DType::Bf16, 2f32.powi(-8), 0.0),
        ] {
            each_row(dtype, &x, |x, y, _, _| for (x, y) in x.iter().zip(y) {
                assert!((x - y).abs() <= (relative * x.abs()).max(least), "{dtype}: {x} {y}");
            });
        }
    }

    #[test]
    fn int8_is_off_by_half_a_scale(x in groups()) {
        each_row(DType::Int8, &x, |x, y, scale, absmax| {
            assert!(scale <= absmax / 127.0 * (1.0 + 2f32.powi(-10)) + 2f32.powi(-24));
            for (x, y) in x.iter().zip(y) {
                assert!((x - y).abs() <= scale * 0.500_001, "{x} {y} {scale}");
            }
        });
    }

    #[test]
    fn fp8_is_off_by_half_a_unit_in_its_last_place(x in groups()) {
        for (dtype, largest, relative, least) in [
            (DType::Fp8E4m3, 448.0, 2f32.powi(-4), 2f32.powi(-10)),
            (DType::Lmul, 448.0, 2f32.powi(-4), 2f32.powi(-10)),
            (DType::Fp8E5m2, 57344.0, 2f32.powi(-3), 2f32.powi(-17)),
        ] {
            each_row(dtype, &x, |x, y, scale, absmax| {
                assert!(scale <= absmax / largest * (1.0 + 2f32.powi(-10)) + 2f32.powi(-24));
                for (x, y) in x.iter().zip(y) {
                    let bound = (relative * x.abs()).max(least * scale) * 1.000_001;
                    assert!((x - y).abs() <= bound, "{dtype}: {x} {y} {scale}");
                }
            });
        }
    }

    /// A row whose groups have very different sizes keeps its largest values to half of the widest
    /// gap between codes, whatever its size.
    #[test]
    fn no_value_is_off_by_more_than_a_clipped_gap(x in groups()) {
        for (dtype, share) in [(DType::Int4, 0.35), (DType::Int5, 0.25), (DType::Int6, 0.2)] {
            each_row(dtype, &x, |x, y, _, absmax| {
                // Below this f16 has no step fine enough.
                let least = 32.0 * 127.0 * 2f32.powi(-24);
                for (x, y) in x.iter().zip(y) {
                    let bound = share * absmax + least;
                    assert!((x - y).abs() <= bound, "{dtype}: {x} {y} of {absmax}");
                }
            });
        }
    }

    #[test]
    fn int4_v1_is_never_worse_than_the_plain_scale(x in groups()) {
        each_row(DType::Int4V1, &x, |x, y, _, absmax| {
            let (found, plain) = (squares(x, y.iter().copied()), squares_at(x, absmax / 7.0));
            // Sums of f32 decide between scales: a part in 10^5 of the squares themselves may be
            // lost.
            let slack = 1e-5 * squares(x, std::iter::repeat(0.0));
            assert!(found <= plain * 1.000_1 + slack, "{found} against {plain} for absmax/7");
        });
    }
}

#[test]
fn int4_v1_is_near_the_best_scale_on_the_whole() {
    // Sums of twelve uniform values: nearly normal, as trained weights are. At the second size the
    // scales are a few units of the smallest f16.
    for size in [0.01, 1e-6] {
        let uniform = weights(12 * 16 * 256);
        let x: Vec<f32> = uniform.chunks(12).map(|part| part.iter().sum::<f32>() * size).collect();
        let (mut found, mut plain, mut best) = (0.0, 0.0, 0.0);
        for x in x.chunks(16 * 32) {
            each_row(DType::Int4V1, x, |x, y, _, absmax| {
                found += squares(x, y.iter().copied());
                plain += squares_at(x, absmax / 7.0);
                let scales =
                    (0..1200).map(|i| absmax / (5.0 + 0.005 * i as f32)).flat_map(|s| [s, -s]);
                best += scales.map(|scale| squares_at(x, scale)).fold(f64::INFINITY, f64::min);
            });
        }
        assert!(found < 0.8 * plain, "{found} against {plain} for absmax/7");
        assert!(found < 1.01 * best, "{found} against {best} for the best of 2400 scales");
    }
}

/// Values of the codes of a format with steps.
fn values(dtype: DType) -> Vec<f32> {
    match dtype {
        DType::Int4 => fine::TABLE.map(f32::from).to_vec(),
        DType::Int5 => (-16..16).map(|q| q as f32).collect(),
        _ => (-32..32).map(|q| q as f32).collect(),
    }
}

#[test]
fn scales_under_steps_are_near_the_best_scale_on_the_whole() {
    let uniform = weights(12 * 16 * 128);
    let x: Vec<f32> = uniform.chunks(12).map(|part| part.iter().sum::<f32>() * 0.01).collect();
    for dtype in [DType::Int4, DType::Int5, DType::Int6] {
        let values = values(dtype);
        let nearest = |v: f32| {
            let error = |value: &&f32| (**value - v).abs();
            *values.iter().min_by(|a, b| error(a).total_cmp(&error(b))).unwrap()
        };
        let (mut found, mut best) = (0.0, 0.0);
        for x in x.chunks(16 * 32) {
            each_row(dtype, x, |x, y, _, absmax| {
                found += squares(x, y.iter().copied());
                let largest = -values[0];
                let scales = (0..400)
                    .map(|i| absmax / (largest * (0.6 + 0.002 * i as f32)))
                    .flat_map(|s| [s, -s]);
                let at = |s: f32| squares(x, x.iter().map(|x| nearest(x / s) * s));
                best += scales.map(at).fold(f64::INFINITY, f64::min);
            });
        }
        assert!(found < 1.05 * best, "{dtype}: {found} against {best} for the best of 800 scales");
    }
}
