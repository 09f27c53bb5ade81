//! The whole chain: what is chosen, how often, and that it is the same again.

use proptest::prelude::*;

use super::*;
use crate::error::EngineError;

fn sampler(n_vocab: usize, change: impl FnOnce(&mut SamplerOptions)) -> Sampler {
    let mut options = SamplerOptions { seed: Some(7), ..SamplerOptions::default() };
    change(&mut options);
    Sampler::new(options, n_vocab).expect("options in range")
}

/// How often each token comes in so many draws.
fn counts<const N: usize>(sampler: &mut Sampler, logits: [f32; N], draws: usize) -> [usize; N] {
    let mut counts = [0; N];
    for _ in 0..draws {
        counts[sampler.sample(&logits) as usize] += 1;
    }
    counts
}

/// Pearson's χ² of the counts against these probabilities, which sum to 1; tokens of probability 0
/// must not come.
fn chi_squared(counts: &[usize], probabilities: &[f64]) -> f64 {
    let draws = counts.iter().sum::<usize>() as f64;
    let mut sum = 0.0;
    for (&count, &p) in counts.iter().zip(probabilities) {
        if p == 0.0 {
            assert_eq!(count, 0);
        } else {
            sum += (count as f64 - p * draws).powi(2) / (p * draws);
        }
    }
    sum
}

#[test]
fn draws_follow_the_distribution() {
    let p = [0.4f32, 0.1, 0.25, 0.2, 0.05];
    let logits = p.map(f32::ln);
    let expected = |power: f64, keep: [bool; 5]| {
        let weights: Vec<f64> = p
            .iter()
            .zip(keep)
            .map(|(&p, keep)| if keep { f64::from(p).powf(power) } else { 0.0 })
            .collect();
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|w| w / sum).collect::<Vec<f64>>()
    };
    type Change = fn(&mut SamplerOptions);
    let hot: Change = |o| {
        (o.temperature, o.top_p, o.steps) = (2.0, 0.6, Step::TEMPERATURE_LAST.to_vec());
    };
    let cases: [(Change, f64, [bool; 5]); 9] = [
        (|_| {}, 1.0, [true; 5]),
        (|o| o.temperature = 0.5, 2.0, [true; 5]),
        (|o| o.temperature = 2.0, 0.5, [true; 5]),
        (|o| o.top_k = 3, 1.0, [true, false, true, true, false]),
        (|o| o.top_p = 0.6, 1.0, [true, false, true, false, false]),
        (|o| o.min_p = 0.2, 1.0, [true, true, true, true, false]),
        // The cut is the model's own distribution's if the temperature comes last, else wider.
        (hot, 0.5, [true, false, true, false, false]),
        (|o| (o.temperature, o.top_p) = (2.0, 0.6), 0.5, [true, false, true, true, false]),
        (|o| o.logit_bias = vec![(0, f32::NEG_INFINITY)], 1.0, [false, true, true, true, true]),
    ];
    for (change, power, keep) in cases {
        let mut sampler = sampler(5, change);
        let counts = counts(&mut sampler, logits, 20_000);
        // χ² with four degrees of freedom is above 18.5 once in a thousand.
        let chi_squared = chi_squared(&counts, &expected(power, keep));
        assert!(chi_squared < 18.5, "{:?}: {counts:?}, {chi_squared}", sampler.options());
    }
}

#[test]
fn large_vocabularies_follow_the_distribution() {
    let n_vocab = 1000;
    let logits: Vec<f32> = (0..n_vocab).map(|i| ((i * 7919) % n_vocab) as f32 / 250.0).collect();
    let weights: Vec<f64> = logits.iter().map(|&l| f64::from(l).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut sampler = sampler(n_vocab, |_| {});
    let mut counts = vec![0; n_vocab];
    (0..200_000).for_each(|_| counts[sampler.sample(&logits) as usize] += 1);
    let chi_squared = chi_squared(&counts, &weights.iter().map(|w| w / sum).collect::<Vec<f64>>());
    // 999 degrees of freedom: mean 999, standard deviation 45.
    assert!((850.0..1150.0).contains(&chi_squared), "{chi_squared}");
}

#[test]
fn greedy_takes_the_lowest_of_the_largest() {
    let mut greedy = Sampler::new(SamplerOptions::greedy(), 4).unwrap();
    assert_eq!(greedy.sample(&[1.0, 3.0, 3.0, 2.0]), 1);
    assert_eq!(greedy.sample(&[f32::NAN, -1.0, f32::NEG_INFINITY, f32::NAN]), 1);
    assert_eq!(greedy.sample(&[f32::NAN; 4]), 0);
    assert_eq!(greedy.sample(&[0.0, f32::INFINITY, f32::NAN, f32::INFINITY]), 1);
}

#[test]
fn the_chain_is_in_order() {
    // Penalty first: 4 - 3, then bias: 0 + 2, so token 1 wins.
    let mut sampler = sampler(3, |o| {
        (o.temperature, o.presence_penalty, o.logit_bias) = (0.0, 3.0, vec![(1, 2.0)]);
    });
    assert_eq!(sampler.sample(&[4.0, 0.0, 0.0]), 0);
    sampler.accept(0);
    assert_eq!(sampler.sample(&[4.0, 0.0, 0.0]), 1);
    sampler.reset();
    assert_eq!(sampler.sample(&[4.0, 0.0, 0.0]), 0);
}

/// Pinned, so that another machine, compiler or version that draws otherwise shows here.
#[test]
fn a_seed_is_a_promise() {
    let logits: Vec<f32> =
        (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as f32 / 8192.0).collect();
    let mut plain = sampler(5000, |_| {});
    let mut cut =
        sampler(5000, |o| (o.temperature, o.top_k, o.top_p, o.min_p) = (0.8, 400, 0.9, 0.05));
    let draw =
        |sampler: &mut Sampler| -> [u32; 8] { std::array::from_fn(|_| sampler.sample(&logits)) };
    assert_eq!(draw(&mut plain), [283, 864, 3587, 2139, 4820, 2333, 3621, 1652]);
    assert_eq!(draw(&mut cut), [288, 864, 3579, 2139, 4833, 2338, 3626, 1652]);
}

#[test]
fn odd_logits_do_no_harm() {
    let options: [fn(&mut SamplerOptions); 8] = [
        |_| {},
        |o| (o.typical_p, o.top_n_sigma, o.dynatemp_range) = (0.5, 1.0, 1.0),
        |o| (o.mirostat_tau, o.mirostat_eta, o.temperature) = (1e-3, 1e30, 1e-30),
        |o| (o.mirostat_tau, o.dynatemp_range, o.temperature) = (3.0, 2.0, 0.5),
        |o| {
            (o.xtc_probability, o.xtc_threshold, o.dry_multiplier) = (1.0, 0.0, 1e38);
            o.steps.reverse();
        },
        |o| (o.top_k, o.top_p, o.min_p) = (2, 0.5, 0.5),
        |o| o.temperature = 1e-40,
        |o| (o.repetition_penalty, o.frequency_penalty, o.temperature) = (1e30, -1e30, 1e30),
    ];
    for change in options {
        let mut sampler = sampler(4, change);
        sampler.accept(0);
        sampler.accept(99);
        for logits in [
            &[f32::NAN, 1.0, f32::NAN, f32::NEG_INFINITY][..],
            &[f32::NEG_INFINITY, f32::INFINITY, 0.0, f32::NAN],
            &[f32::MIN, f32::MAX, f32::NAN, f32::MIN],
        ] {
            for _ in 0..50 {
                assert_eq!(sampler.sample(logits), 1, "{logits:?} {:?}", sampler.options());
            }
        }
        assert_eq!(sampler.sample(&[f32::NAN; 4]), 0);
        assert_eq!(sampler.sample(&[]), 0);
        assert_eq!(sampler.sample(&[f32::NAN, 0.0]), 1);
        assert!(sampler.sample(&[0.0, 0.0, 0.0, 0.0, f32::INFINITY]) < 4);
    }
}

#[test]
fn options_outside_their_range_are_named() {
    type Change = fn(&mut SamplerOptions);
    let cases: [(&str, Change); 25] = [
        ("temperature", |o| o.temperature = -0.1),
        ("temperature", |o| o.temperature = f32::NAN),
        ("temperature", |o| o.temperature = f32::INFINITY),
        ("top_p", |o| o.top_p = 1.1),
        ("top_p", |o| o.top_p = f32::NAN),
        ("min_p", |o| o.min_p = -0.1),
        ("repetition_penalty", |o| o.repetition_penalty = 0.0),
        ("presence_penalty", |o| o.presence_penalty = f32::NAN),
        ("frequency_penalty", |o| o.frequency_penalty = f32::INFINITY),
        ("penalty_decay", |o| o.penalty_decay = 0.0),
        ("penalty_decay", |o| o.penalty_decay = 1.5),
        ("penalty_window", |o| o.penalty_window = usize::MAX),
        ("dry_multiplier", |o| o.dry_multiplier = -1.0),
        ("dry_base", |o| o.dry_base = 0.9),
        ("dry_window", |o| o.dry_window = 0),
        ("token id 4", |o| o.dry_breakers = vec![4]),
        ("top_n_sigma", |o| o.top_n_sigma = f32::NAN),
        ("typical_p", |o| o.typical_p = 1.1),
        ("xtc_probability", |o| o.xtc_probability = -0.1),
        ("dynatemp_exponent", |o| o.dynatemp_exponent = -1.0),
        ("mirostat_tau", |o| o.mirostat_tau = f32::INFINITY),
        ("mirostat_eta", |o| o.mirostat_eta = 0.0),
        ("steps", |o| o.steps = vec![Step::Bias, Step::Bias]),
        ("logit_bias", |o| o.logit_bias = vec![(0, f32::NAN)]),
        ("token id 4", |o| o.logit_bias = vec![(4, 1.0)]),
    ];
    for (name, change) in cases {
        let mut options = SamplerOptions::default();
        change(&mut options);
        let error = Sampler::new(options, 4).unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
    }
    let error = Sampler::new(SamplerOptions { top_p: 1.5, ..Default::default() }, 4).unwrap_err();
    assert_eq!(error.to_string(), "sampler option top_p: expected a number from 0 to 1, found 1.5");
}

#[test]
fn a_seed_is_chosen_and_shown() {
    let options = SamplerOptions { seed: None, ..SamplerOptions::default() };
    let mut first = Sampler::new(options.clone(), 100).unwrap();
    let mut again =
        Sampler::new(SamplerOptions { seed: Some(first.seed()), ..options.clone() }, 100).unwrap();
    assert_ne!(Sampler::new(options, 100).unwrap().seed(), first.seed());
    let logits = [0.0; 100];
    for _ in 0..100 {
        assert_eq!(first.sample(&logits), again.sample(&logits));
    }
}

#[test]
fn a_resumed_sampler_goes_on_as_if_never_stopped() {
    for (window, mirostat) in [(0, 0.0), (16, 0.0), (0, 2.0)] {
        let make = |seed| {
            sampler(50, |o| {
                (o.repetition_penalty, o.frequency_penalty, o.presence_penalty) = (1.2, 0.3, 0.1);
                (o.penalty_decay, o.penalty_window, o.seed) = (0.97, window, Some(seed));
                (o.dry_multiplier, o.dry_window, o.xtc_probability) = (0.4, 20, 0.5);
                (o.mirostat_tau, o.xtc_threshold) = (mirostat, 0.02);
            })
        };
        let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32 * 0.3).collect();
        let mut never_stopped = make(1);
        let step = |sampler: &mut Sampler| {
            let token = sampler.sample(&logits);
            sampler.accept(token);
            token
        };
        (0..100).for_each(|_| {
            step(&mut never_stopped);
        });
        let bytes = never_stopped.state().to_bytes();
        let mut resumed = make(2);
        resumed.restore(&SamplerState::from_bytes(&bytes).unwrap()).unwrap();
        assert_eq!(resumed.seed(), 1);
        for _ in 0..100 {
            assert_eq!(step(&mut resumed), step(&mut never_stopped));
        }
        assert_eq!(resumed.state(), never_stopped.state());
    }
}

/// A state of version 1, from before there were DRY and mirostat.
#[test]
fn older_states_are_taken_over() {
    let mut plain = sampler(50, |o| o.presence_penalty = 1.0);
    plain.accept(7);
    let bytes = plain.state().to_bytes();
    assert_eq!(bytes[8..12], [1, 0, 0, 0], "nothing new, so the older version");
    let mut newer = sampler(50, |o| {
        (o.presence_penalty, o.dry_multiplier, o.mirostat_tau) = (1.0, 1.0, 3.0);
    });
    newer.accept(1);
    newer.sample(&[0.0; 50]);
    assert_eq!(newer.state().to_bytes()[8..12], [2, 0, 0, 0]);
    newer.restore(&SamplerState::from_bytes(&bytes).unwrap()).unwrap();
    let state = newer.state();
    assert_eq!((state.dry, state.bound), (Some(Vec::new()), Some(6.0)));
    // A token of DRY's that this vocabulary has not.
    let mut large = sampler(100, |o| o.dry_multiplier = 1.0);
    large.accept(99);
    assert!(newer.restore(&large.state()).is_err());
}

#[test]
fn states_that_do_not_fit_are_refused() {
    let mut large = sampler(100, |o| o.presence_penalty = 1.0);
    large.accept(99);
    let mut small = sampler(10, |o| o.presence_penalty = 1.0);
    let before = small.state();
    assert!(matches!(small.restore(&large.state()), Err(EngineError::SamplerState { .. })));
    let mut windowed = sampler(100, |o| (o.presence_penalty, o.penalty_window) = (1.0, 8));
    assert!(windowed.restore(&large.state()).is_err());
    assert_eq!(small.state(), before);
    let mut plain = sampler(100, |_| {});
    plain.restore(&large.state()).unwrap();
    large.restore(&plain.state()).unwrap();
}

proptest! {
    #[test]
    fn top_k_1_is_greedy(logits in proptest::collection::vec(any::<f32>(), 1..50)) {
        let mut greedy = Sampler::new(SamplerOptions::greedy(), logits.len()).unwrap();
        let mut one = sampler(logits.len(), |o| o.top_k = 1);
        prop_assert_eq!(greedy.sample(&logits), one.sample(&logits));
    }

    /// The chosen token is always among those that the cuts leave.
    #[test]
    fn only_kept_tokens_come(
        logits in proptest::collection::vec(-5.0f32..5.0, 1..50),
        seed: u64,
        k in 1usize..10,
        min_p in 0.0f32..1.0,
    ) {
        let mut sampler =
            sampler(logits.len(), |o| (o.seed, o.top_k, o.min_p) = (Some(seed), k, min_p));
        let chosen = logits[sampler.sample(&logits) as usize];
        prop_assert!(logits.iter().filter(|&&logit| logit > chosen).count() < k);
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        prop_assert!((chosen - max).exp() >= min_p - 1e-6);
    }
}
