//! The sampler's pseudo-random generator: xoshiro256++, seeded by SplitMix64.
//!
//! Integer operations only, so a seed gives the same numbers on every machine. Sources: Blackman
//! and Vigna, "Scrambled linear pseudorandom number generators" (ACM TOMS 2021),
//! <https://prng.di.unimi.it/xoshiro256plusplus.c> and <https://prng.di.unimi.it/splitmix64.c>,
//! both public domain. Not for cryptography. Tests: the published sequences.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

/// xoshiro256++ 1.0.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// Fills the state with SplitMix64's output, as the authors advise.
    pub(super) fn from_seed(seed: u64) -> Self {
        let mut x = seed;
        let state = std::array::from_fn(|_| {
            x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = x;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        });
        Rng { state }
    }

    /// A generator in a saved state; `None` for the one state that never changes.
    pub(super) fn from_state(state: [u64; 4]) -> Option<Self> {
        (state != [0; 4]).then_some(Rng { state })
    }

    /// The whole state.
    pub(super) fn state(&self) -> [u64; 4] {
        self.state
    }

    /// The next 64 bits.
    pub(super) fn next(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in [0, 1), a multiple of 2⁻⁵³.
    pub(super) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// A seed that differs from run to run, from the keys with which the standard library seeds its
/// hash maps.
///
/// `wasm32-unknown-unknown` has neither a clock nor such keys: there it differs from call to call
/// alone, and who wants other texts in each run gives a seed.
pub(super) fn random_seed() -> u64 {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let has_clock = !cfg!(all(target_family = "wasm", target_os = "unknown"));
    let now = has_clock.then(SystemTime::now);
    RandomState::new().hash_one((now, CALLS.fetch_add(1, Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_sequence() {
        let mut rng = Rng::from_state([1, 2, 3, 4]).unwrap();
        let expected = [
            41943041,
            58720359,
            3588806011781223,
            3591011842654386,
            9228616714210784205,
            9973669472204895162,
            14011001112246962877,
            12406186145184390807,
            15849039046786891736,
            10450023813501588000,
        ];
        assert_eq!(expected.map(|_| rng.next()), expected);
        // SplitMix64 from 0.
        let seeded =
            [16294208416658607535, 7960286522194355700, 487617019471545679, 17909611376780542444];
        assert_eq!(Rng::from_seed(0).state(), seeded);
        assert_eq!(Rng::from_state([0; 4]), None);
    }

    #[test]
    fn uniform_stays_inside() {
        let mut rng = Rng::from_seed(7);
        let mean = (0..100_000)
            .map(|_| rng.uniform())
            .inspect(|u| assert!((0.0..1.0).contains(u)))
            .sum::<f64>();
        assert!((mean / 100_000.0 - 0.5).abs() < 0.005);
    }

    #[test]
    fn random_seeds_differ() {
        assert_ne!(random_seed(), random_seed());
    }
}
