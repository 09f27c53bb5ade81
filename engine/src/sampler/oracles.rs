//! The formulas of all steps in plain f64, by their definitions: sorted lists of probabilities, as
//! papers write them. A sampler must leave the same tokens with the same shares.

use proptest::prelude::*;

use super::*;

/// Tokens that are left, with their logits.
type Left = Vec<(usize, f64)>;

fn softmax(left: &Left) -> Vec<f64> {
    let max = left.iter().map(|(_, l)| *l).fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = left.iter().map(|(_, l)| (l - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

fn entropy(p: &[f64]) -> f64 {
    -p.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>()
}

/// The tokens in the order of a score, until their shares sum to at least `target`.
fn until(left: &Left, score: impl Fn(f64) -> f64, target: f64) -> Left {
    let p = softmax(left);
    let mut order: Vec<usize> = (0..left.len()).collect();
    order.sort_by(|&a, &b| score(p[a]).total_cmp(&score(p[b])).then(a.cmp(&b)));
    let (mut sum, mut kept) = (0.0, Left::new());
    for at in order {
        kept.push(left[at]);
        sum += p[at];
        if sum >= target {
            break;
        }
    }
    kept.sort_by_key(|(id, _)| *id);
    kept
}

fn only(left: &Left, keep: impl Fn(usize) -> bool) -> Left {
    (0..left.len()).filter(|at| keep(*at)).map(|at| left[at]).collect()
}

/// One step by its definition; XTC always happens.
fn step(step: Step, o: &SamplerOptions, left: Left) -> Left {
    let p = softmax(&left);
    let n = left.len() as f64;
    match step {
        Step::TopNSigma if o.top_n_sigma > 0.0 => {
            let mean = left.iter().map(|(_, l)| l).sum::<f64>() / n;
            let sigma = (left.iter().map(|(_, l)| (l - mean).powi(2)).sum::<f64>() / n).sqrt();
            let max = left.iter().map(|(_, l)| *l).fold(f64::NEG_INFINITY, f64::max);
            only(&left, |at| left[at].1 >= max - f64::from(o.top_n_sigma) * sigma)
        }
        Step::TopK if o.top_k > 0 => {
            let mut sorted = left;
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
            sorted.truncate(o.top_k);
            sorted.sort_by_key(|(id, _)| *id);
            sorted
        }
        Step::Typical if o.typical_p < 1.0 => {
            let h = entropy(&p);
            until(&left, |p| (-p.ln() - h).abs(), f64::from(o.typical_p))
        }
        Step::TopP if o.top_p < 1.0 => until(&left, |p| -p, f64::from(o.top_p)),
        Step::MinP if o.min_p > 0.0 => {
            let best = p.iter().copied().fold(0.0, f64::max);
            only(&left, |at| p[at] >= f64::from(o.min_p) * best)
        }
        Step::Xtc if o.xtc_probability > 0.0 => {
            let mut tops: Vec<usize> =
                (0..left.len()).filter(|at| p[*at] >= f64::from(o.xtc_threshold)).collect();
            tops.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
            tops.pop();
            only(&left, |at| !tops.contains(&at))
        }
        Step::Temperature => {
            let (t, range) = (f64::from(o.temperature), f64::from(o.dynatemp_range));
            let part = (entropy(&p) / n.ln()).powf(f64::from(o.dynatemp_exponent));
            let t = match left.len() > 1 && range > 0.0 {
                true => (t - range).max(0.0) + (t + range - (t - range).max(0.0)) * part,
                false => t,
            };
            left.into_iter().map(|(id, l)| (id, l / t)).collect()
        }
        Step::Bias => {
            let bias = |id: usize| {
                let of = o.logit_bias.iter().filter(|(token, _)| *token as usize == id);
                of.map(|(_, bias)| f64::from(*bias)).sum::<f64>()
            };
            left.into_iter().map(|(id, l)| (id, l + bias(id))).collect()
        }
        _ => left,
    }
}

/// The shares of all tokens after all steps.
fn shares(options: &SamplerOptions, logits: &[f32]) -> Vec<f64> {
    let mut left: Left = logits.iter().map(|l| f64::from(*l)).enumerate().collect();
    for each in &options.steps {
        left = step(*each, options, left);
    }
    all(&left, logits.len())
}

fn all(left: &Left, n: usize) -> Vec<f64> {
    let mut shares = vec![0.0; n];
    left.iter().zip(softmax(left)).for_each(|((id, _), p)| shares[*id] = p);
    shares
}

/// The shares from which a sampler has just drawn.
fn drawn_from(sampler: &Sampler, n: usize) -> Vec<f64> {
    let candidates = &sampler.candidates;
    let mut shares = vec![0.0; n];
    for (&id, &weight) in candidates.ids.iter().zip(&candidates.weights) {
        shares[id as usize] = f64::from(weight) / candidates.mass();
    }
    shares
}

fn check(options: &SamplerOptions, logits: &[f32]) {
    let mut sampler = Sampler::new(options.clone(), logits.len()).expect("options in range");
    let token = sampler.sample(logits) as usize;
    let (found, expected) = (drawn_from(&sampler, logits.len()), shares(options, logits));
    for (id, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!(
            (found - expected).abs() < 1e-5,
            "{id}: {found} {expected}\n{options:?} {logits:?}"
        );
    }
    assert!(found[token] > 0.0);
}

/// Logits of ten probabilities, none of which is another's share.
fn ten() -> [f32; 10] {
    [0.31, 0.02, 0.17, 0.05, 0.003, 0.11, 0.2, 0.001, 0.09, 0.046].map(f32::ln)
}

/// An option that is on.
type Case = fn(SamplerOptions) -> SamplerOptions;

const CASES: [Case; 22] = [
    |o| o.top_n_sigma(0.5),
    |o| o.top_n_sigma(1.0),
    |o| o.top_n_sigma(2.5),
    |o| o.typical_p(0.2),
    |o| o.typical_p(0.5),
    |o| o.typical_p(0.9),
    |o| o.typical_p(0.0),
    |o| o.xtc_probability(1.0).xtc_threshold(0.1),
    |o| o.xtc_probability(1.0).xtc_threshold(0.15),
    |o| o.xtc_probability(1.0).xtc_threshold(0.3),
    |o| o.xtc_probability(1.0).xtc_threshold(0.0),
    |o| o.xtc_probability(1.0).xtc_threshold(0.51),
    |o| o.dynatemp_range(0.5),
    |o| o.temperature(0.4).dynatemp_range(1.0).dynatemp_exponent(0.5),
    |o| o.temperature(1.5).dynatemp_range(0.7).dynatemp_exponent(2.0),
    |o| o.temperature(1.5).dynatemp_range(0.7).dynatemp_exponent(0.0),
    |o| o.top_p(0.55).temperature(1.7),
    |o| o.min_p(0.3).temperature(0.6),
    |o| o.top_k(4).typical_p(0.6).top_p(0.9).min_p(0.05),
    |o| o.top_n_sigma(1.2).xtc_probability(1.0).temperature(2.0),
    |o| o.typical_p(0.8).min_p(0.4).temperature(1.3),
    |o| o.logit_bias([(2, 1.5), (0, -2.0)]).top_k(3).temperature(1.2),
];

#[test]
fn each_step_is_its_formula() {
    for case in CASES {
        for order in [Step::TEMPERATURE_FIRST, Step::TEMPERATURE_LAST] {
            let options = case(SamplerOptions::new()).seed(3).steps(order);
            check(&options, &ten());
        }
    }
}

/// Tokens that are left, by hand.
#[test]
fn kept_tokens_by_hand() {
    let kept = |case: Case, p: &[f32]| -> Vec<u32> {
        let logits: Vec<f32> = p.iter().map(|p| p.ln()).collect();
        let options = case(SamplerOptions::new()).seed(3);
        let mut sampler = Sampler::new(options, p.len()).expect("options in range");
        sampler.sample(&logits);
        sampler.candidates.ids.clone()
    };
    let four = [0.1f32, 0.4, 0.2, 0.3];
    // H = 1.28: surprises 2.30 0.92 1.61 1.20, so 3 is nearest, then 2, 1, 0.
    assert_eq!(kept(|o| o.typical_p(0.25), &four), [3]);
    assert_eq!(kept(|o| o.typical_p(0.45), &four), [2, 3]);
    assert_eq!(kept(|o| o.typical_p(0.6), &four), [1, 2, 3]);
    // Three of a fifth or more: the least likely of them stays.
    assert_eq!(kept(|o| o.xtc_probability(1.0).xtc_threshold(0.19), &four), [0, 2]);
    assert_eq!(kept(|o| o.xtc_probability(1.0).xtc_threshold(0.39), &four), [0, 1, 2, 3]);
    // Of equal ones the last.
    assert_eq!(kept(|o| o.xtc_probability(1.0).xtc_threshold(0.2), &[0.25; 4]), [3]);
    // Logits 0 and ln 9: σ is half of their distance.
    assert_eq!(kept(|o| o.top_n_sigma(1.9), &[0.1, 0.9]), [1]);
    assert_eq!(kept(|o| o.top_n_sigma(2.1), &[0.1, 0.9]), [0, 1]);
    // Min-p counts from the best that is left.
    let both: Case = |o| o.xtc_probability(1.0).xtc_threshold(0.25).min_p(0.6);
    assert_eq!(kept(both, &four), [3]);
    let behind: Case =
        |o| o.xtc_probability(1.0).xtc_threshold(0.25).min_p(0.6).steps(&[Step::Xtc, Step::MinP]);
    assert_eq!(kept(behind, &four), [2, 3]);
}

#[test]
fn xtc_happens_as_often_as_it_should() {
    let options = SamplerOptions::new().xtc_probability(0.3).xtc_threshold(0.4).seed(5);
    let logits = [0.55f32, 0.45].map(f32::ln);
    let mut sampler = Sampler::new(options, 2).expect("options in range");
    let n = 20_000;
    let first = (0..n).filter(|_| sampler.sample(&logits) == 0).count();
    let expected = 0.7 * f64::from(0.55f32) * f64::from(n);
    let deviation = (expected * (1.0 - expected / f64::from(n))).sqrt();
    assert!((first as f64 - expected).abs() < 3.3 * deviation, "{first} {expected}");
}

/// The bound and the tokens that it leaves, step by step.
#[test]
fn mirostat_follows_its_formula() {
    for (tau, eta) in [(3.0f32, 0.1f32), (1.0, 0.3), (0.2, 1.0)] {
        let options = SamplerOptions::new().mirostat_tau(tau).mirostat_eta(eta).temperature(0.9);
        // Cuts that mirostat replaces.
        let options = options.top_k(1).top_p(0.1).min_p(0.9).seed(11);
        let mut sampler = Sampler::new(options, 10).expect("options in range");
        let mut bound = 2.0 * f64::from(tau);
        for round in 0..200 {
            let logits: Vec<f32> = (0..10).map(|i| ten()[(i * 3 + round) % 10] * 1.5).collect();
            let left: Left =
                logits.iter().map(|l| f64::from(*l) / f64::from(0.9f32)).enumerate().collect();
            let p = softmax(&left);
            let kept = only(&left, |at| -p[at].log2() <= bound);
            let kept = if kept.is_empty() { until(&left, |p| -p, 0.0) } else { kept };
            let expected = all(&kept, 10);
            let token = sampler.sample(&logits) as usize;
            for (found, expected) in drawn_from(&sampler, 10).iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-5, "{tau} {round}");
            }
            bound -= f64::from(eta) * (-expected[token].log2() - f64::from(tau));
            let found = sampler.mirostat.as_ref().expect("it is on").bound;
            assert!((found - bound).abs() < 1e-4, "{tau} {round}: {found} {bound}");
        }
        sampler.reset();
        assert_eq!(sampler.mirostat.as_ref().expect("it is on").bound, 2.0 * f64::from(tau));
    }
}

/// Steps that change logits come last and act on tokens that are left.
#[test]
fn orders_matter() {
    let logits = [0.0, 1.0, 2.0, 3.0];
    let draws = |names: &str, change: Case| -> Vec<u32> {
        let steps = Step::list(names).expect("steps");
        let options = change(SamplerOptions::new()).steps(&steps).seed(1);
        let mut sampler = Sampler::new(options, 4).expect("options in range");
        let mut drawn: Vec<u32> = (0..200).map(|_| sampler.sample(&logits)).collect();
        drawn.sort_unstable();
        drawn.dedup();
        drawn
    };
    let biased: Case = |o| o.logit_bias([(0, 3.0), (3, -10.0)]).top_k(2);
    // 0 wins by its bias, or is cut before.
    assert_eq!(draws("bias;top-k", biased), [0, 2]);
    assert_eq!(draws("top-k;bias", biased), [2]);
    assert_eq!(draws("top-k", biased), [2, 3]);
    // Greedy behind a cut: the best of the two, by its bias.
    assert_eq!(
        draws("top-k;bias;temperature", |o| o.logit_bias([(3, -5.0)]).top_k(2).temperature(0.0)),
        [2]
    );
    // A step that is not there is off.
    assert_eq!(draws("bias", |o| o.temperature(0.0).logit_bias([(3, -100.0)])), [0, 1, 2]);
    // The temperature first, then a bias by what it left: 3/0.1 - 10 is 20 still, as 2/0.1 is.
    let late: Case = |o| o.temperature(0.1).logit_bias([(3, -10.0)]);
    assert_eq!(draws("temperature;bias", late), [2, 3]);
    assert_eq!(draws("bias;temperature", late), [2]);
    for order in
        ["top-k;temperature;bias;top-p", "temperature;bias;typical", "bias;min-p;temperature"]
    {
        let steps = Step::list(order).expect("steps");
        let options = SamplerOptions::new().temperature(1.4).logit_bias([(1, 0.7), (5, -0.4)]);
        let options = options.top_k(7).top_p(0.8).typical_p(0.7).min_p(0.1).seed(2).steps(&steps);
        check(&options, &ten());
    }
}

proptest! {
    #[test]
    fn any_logits(
        steps in proptest::collection::vec(-400i32..400, 2..60),
        case in 0..CASES.len(),
        last: bool,
    ) {
        // Distinct logits, far enough apart that rounding decides nothing.
        let mut logits: Vec<f32> = steps.iter().map(|step| *step as f32 / 40.0).collect();
        logits.sort_by(f32::total_cmp);
        logits.dedup();
        prop_assume!(logits.len() > 10);
        logits.reverse();
        let order = if last { Step::TEMPERATURE_LAST } else { Step::TEMPERATURE_FIRST };
        let options = CASES[case](SamplerOptions::new()).seed(3).steps(order);
        // Where a border is met by a hair, either side is right.
        let near = |delta: f32| {
            let mut moved = options.clone();
            moved.top_p *= 1.0 - delta;
            moved.typical_p *= 1.0 - delta;
            moved.min_p *= 1.0 + delta;
            moved.top_n_sigma *= 1.0 + delta;
            moved.xtc_threshold *= 1.0 + delta;
            shares(&moved, &logits).iter().map(|p| *p > 0.0).collect::<Vec<bool>>()
        };
        prop_assume!(near(1e-4) == near(-1e-4));
        check(&options, &logits);
    }
}
