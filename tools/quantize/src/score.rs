//! Statistics of `eval`: log-softmax, nats per token, Kullback-Leibler divergence, percentiles. All
//! in f64.
//!
//! Natural logarithms throughout, so the unit is the nat. Not here: where the logits come from.
//! Test: below.

/// A row of logits, seen as the logarithms of probabilities: `log p = l - ln Σ exp l`.
pub struct LogProbs<'a> {
    logits: &'a [f32],
    /// `ln Σ exp l`; not finite if the logits are not.
    normalizer: f64,
}

impl<'a> LogProbs<'a> {
    /// The distribution of one row.
    pub fn new(logits: &'a [f32]) -> LogProbs<'a> {
        // max() skips NaN, the sum does not.
        let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = logits.iter().map(|&l| (f64::from(l) - max).exp()).sum();
        LogProbs { logits, normalizer: max + sum.ln() }
    }

    /// Whether it is a distribution at all.
    pub fn is_finite(&self) -> bool {
        self.normalizer.is_finite()
    }

    /// `ln Σ exp l`.
    pub fn normalizer(&self) -> f64 {
        self.normalizer
    }

    /// The log-probability of a token.
    pub fn of(&self, id: u32) -> f64 {
        f64::from(self.logits[id as usize]) - self.normalizer
    }

    /// The log-probabilities of all tokens.
    pub fn iter(&self) -> impl Iterator<Item = f64> {
        self.logits.iter().map(|&logit| f64::from(logit) - self.normalizer)
    }

    /// The `n` likeliest tokens (or all), the likeliest first; of equals, the lowest ids.
    pub fn likeliest(&self, n: usize) -> Vec<usize> {
        let mut best: Vec<usize> = Vec::with_capacity(n + 1);
        for (id, &logit) in self.logits.iter().enumerate() {
            if best.len() == n && best.last().is_some_and(|&last| logit <= self.logits[last]) {
                continue;
            }
            let place = best.partition_point(|&other| self.logits[other] >= logit);
            best.insert(place, id);
            best.truncate(n);
        }
        best
    }

    /// `KL(self || other) = Σ p (log p - log q)` in nats, over two rows of the same length.
    pub fn divergence_from(&self, other: &LogProbs<'_>) -> f64 {
        let rows = self.logits.iter().zip(other.logits);
        let sum: f64 = rows
            .map(|(&p, &q)| {
                let (p, q) = (f64::from(p) - self.normalizer, f64::from(q) - other.normalizer);
                // 0 log 0 = 0
                if p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - q) }
            })
            .sum();
        // Rounding can leave it a hair below zero.
        sum.max(0.0)
    }
}

/// A running mean.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mean {
    /// Of all values.
    pub sum: f64,
    /// How many.
    pub count: u64,
}

impl Mean {
    /// Takes one more value.
    pub fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    /// The mean; NaN of nothing.
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }
}

/// Half the width of the 95 % confidence interval of the mean of values that follow each other in
/// time: neighbours depend on each other, so the means of 32 stretches are what varies (method of
/// batch means); NaN of fewer values.
pub fn half_width(values: &[f64]) -> f64 {
    const STRETCHES: usize = 32;
    /// Of Student's t with 31 degrees of freedom.
    const T: f64 = 2.04;
    let each = values.len() / STRETCHES;
    if each == 0 {
        return f64::NAN;
    }
    let means: Vec<f64> = (values.chunks_exact(each).take(STRETCHES))
        .map(|part| part.iter().sum::<f64>() / each as f64)
        .collect();
    let mean = means.iter().sum::<f64>() / STRETCHES as f64;
    let squares: f64 = means.iter().map(|m| (m - mean).powi(2)).sum();
    T * (squares / (STRETCHES - 1) as f64 / STRETCHES as f64).sqrt()
}

/// The `percent`-th percentile of sorted values, interpolated linearly as NumPy does; NaN of
/// nothing.
pub fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = percent / 100.0 * last as f64;
    let (below, share) = (place.floor() as usize, place.fract());
    sorted[below] + share * (sorted[(below + 1).min(last)] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    #[test]
    fn log_probabilities_sum_to_one() {
        let logits = [1000.0, 999.0, -1000.0, f32::NEG_INFINITY];
        let p = LogProbs::new(&logits);
        assert!(p.is_finite());
        assert!(close((0..4).map(|i| p.of(i).exp()).sum(), 1.0));
        assert!(close(p.of(0) - p.of(1), 1.0));
        assert_eq!(p.likeliest(1), [0]);
        assert_eq!(p.likeliest(9), [0, 1, 2, 3]);
        assert!(p.iter().zip(0..).all(|(log_p, id)| log_p == p.of(id)));
        assert!(!LogProbs::new(&[0.0, f32::NAN]).is_finite());
        assert!(!LogProbs::new(&[0.0, f32::INFINITY]).is_finite());
        assert_eq!(LogProbs::new(&[1.0, 3.0, 3.0, 2.0, 3.0]).likeliest(2), [1, 2]);
    }

    #[test]
    fn divergence_of_two_coins() {
        let p = LogProbs::new(&[0.0, 0.0]);
        let logits = [0.0, 3.0_f32.ln()];
        let q = LogProbs::new(&logits);
        // p = (1/2, 1/2), q = (1/4, 3/4)
        let expected = 0.5 * 2.0_f64.ln() + 0.5 * (2.0_f64 / 3.0).ln();
        assert!((p.divergence_from(&q) - expected).abs() < 1e-7);
        assert_eq!(p.divergence_from(&p), 0.0);
        let certain = LogProbs::new(&[0.0, f32::NEG_INFINITY]);
        assert!(close(certain.divergence_from(&p), 2.0_f64.ln()));
    }

    #[test]
    fn percentiles_as_numpy() {
        let values: Vec<f64> = (0..=10).map(f64::from).collect();
        assert!(close(percentile(&values, 99.0), 9.9));
        assert_eq!(percentile(&values, 100.0), 10.0);
        assert_eq!(percentile(&[5.0], 99.0), 5.0);
        assert!(percentile(&[], 99.0).is_nan());
    }

    #[test]
    fn intervals_are_those_of_batch_means() {
        // Means of the 32 stretches are 0 and 1 in turn: their deviation is √(8 / 31).
        let values: Vec<f64> = (0..320).map(|i| f64::from(i / 10 % 2)).collect();
        assert!(close(half_width(&values), 2.04 * (8.0f64 / 31.0 / 32.0).sqrt()));
        assert_eq!(half_width(&[0.5; 64]), 0.0);
        assert!(half_width(&[1.0; 31]).is_nan());
    }

    #[test]
    fn means() {
        let mut mean = Mean::default();
        [1.0, 2.0, 6.0].into_iter().for_each(|value| mean.add(value));
        assert_eq!((mean.mean(), mean.count), (3.0, 3));
    }
}
