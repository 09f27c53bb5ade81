//! Random sequences of calls, valid and invalid: no crash, no panic, every promise of the header
//! kept.
//!
//! `BROOKLET_SEQUENCES=N` runs N of them, `BROOKLET_SEED=S` others.

#[path = "support/mod.rs"]
mod support;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn random_sequences() {
    let (first, n) = (number("BROOKLET_SEED", 1), number("BROOKLET_SEQUENCES", 300));
    for seed in first..first + n {
        let mut random = fastrand::Rng::with_seed(seed);
        let bytes: Vec<u8> = (0..random.usize(50..4000)).map(|_| random.u8(..)).collect();
        let result = std::panic::catch_unwind(|| support::sequence::run(&bytes));
        assert!(result.is_ok(), "BROOKLET_SEED={seed} BROOKLET_SEQUENCES=1 shows it again");
    }
}
