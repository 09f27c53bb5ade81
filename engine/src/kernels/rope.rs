//! Rotary positions (Su et al. 2021, arXiv 2104.09864, §3.2): pairs (i, i + n) of a head's
//! channels turn by angles that grow with the token's position. Test: below,
//! `tests/parity_hybrid.rs`.

use std::f64::consts::TAU;

use super::math::sin_cos;

/// cos, then sin, of every pair's angle at `position`; `frequencies` has one for each pair.
pub(crate) fn angles(frequencies: &[f32], position: usize, angles: &mut [f32]) {
    let (cos, sin) = angles.split_at_mut(frequencies.len());
    for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(frequencies) {
        (*sin, *cos) = sin_cos(position as f64 * f64::from(*frequency));
    }
}

/// Turns the first pairs of `x`, as many as there are `angles`; the other channels stand still.
pub(crate) fn turn(x: &mut [f32], angles: &[f32]) {
    let pairs = angles.len() / 2;
    let (cos, sin) = angles.split_at(pairs);
    let (a, b) = x[..2 * pairs].split_at_mut(pairs);
    for ((a, b), (cos, sin)) in a.iter_mut().zip(b).zip(cos.iter().zip(sin)) {
        (*a, *b) = turned([*a, *b], [*cos, *sin]);
    }
}

/// A pair, turned.
#[inline(always)]
pub(crate) fn turned([a, b]: [f32; 2], [cos, sin]: [f32; 2]) -> (f32, f32) {
    (a * cos - b * sin, b * cos + a * sin)
}

/// An angle that has grown by so much, between 0 and 2π.
pub(crate) fn grown(angle: f32, by: f32) -> f32 {
    let next = f64::from(angle) + f64::from(by);
    (next - TAU * (next / TAU).floor()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_turn_by_their_angles() {
        let mut of = [0.0; 4];
        angles(&[1.0, 0.0], 3, &mut of);
        let (sin, cos) = 3.0f64.sin_cos();
        assert!((f64::from(of[0]) - cos).abs() < 1e-7 && (f64::from(of[2]) - sin).abs() < 1e-7);
        assert_eq!((of[1], of[3]), (1.0, 0.0));
        let mut x = [1.0, 5.0, 0.0, 7.0, 9.0];
        turn(&mut x, &of);
        assert_eq!(x, [of[0], 5.0, of[2], 7.0, 9.0]);
    }
}
