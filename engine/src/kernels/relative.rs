//! Scores by the distance back to a key: profiles over distances, mixed by the numbers of each
//! head of a token. Test: below.

use super::columns::Columns;
use super::kept::PAGE;
use super::math::ln;

/// The factor of a token's scores, `n` tokens being there: 1 + α ln(max(1, n / floor)).
pub(crate) fn growth((floor, alpha): (f32, f32), n: usize) -> f32 {
    let n = n as f32;
    if n > floor { 1.0 + alpha * ln(n / floor) } else { 1.0 }
}

/// What heads add to their scores.
pub(crate) struct Relative<'a> {
    /// The factors of the profiles, one column per token (heads n).
    pub(crate) mix: Columns<'a>,
    pub(crate) n: usize,
    /// (n, distances); nothing is added beyond the last.
    pub(crate) profiles: &'a [f32],
}

impl Relative<'_> {
    /// Adds to the scores of a page's keys what a head of column `c`, at `position`, has for their
    /// distances: Σ mix profile, profiles ascending. The page begins at or before the position.
    #[inline(always)]
    pub(crate) fn add(
        &self,
        (c, head): (usize, usize),
        position: usize,
        page: usize,
        scores: &mut [f32; PAGE],
    ) {
        let mix = &self.mix.at(c)[head * self.n..][..self.n];
        let distances = self.profiles.len() / mix.len().max(1);
        // The distance to the page's first key, which is the farthest of them.
        let far = position - page * PAGE;
        if distances == 0 || far >= distances + PAGE - 1 {
            return;
        }
        // Sums by ascending distance, from the page's last key on; those behind the token have
        // none.
        let mut sums = [0.0; PAGE];
        let start = (PAGE - 1).saturating_sub(far);
        let first = far + start + 1 - PAGE;
        let end = PAGE.min(start + distances - first);
        for (mix, profile) in mix.iter().zip(self.profiles.chunks_exact(distances)) {
            let profile = &profile[first..first + end - start];
            sums[start..end].iter_mut().zip(profile).for_each(|(sum, p)| *sum += mix * p);
        }
        scores.iter_mut().rev().zip(sums).for_each(|(score, sum)| *score += sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::recurrence::support::numbers;

    /// Every key of every page of a text, for few distances and for many.
    #[test]
    fn keys_get_the_sums_of_their_distances() {
        for distances in [1, 9, 63, 64, 65, 150, 300] {
            let (n, heads, tokens) = (3, 2, 200);
            let (mix, profiles) = (numbers(heads * n * tokens, 1), numbers(n * distances, 2));
            let columns = Columns::new(&mix, heads * n, 0..tokens, 0..heads * n);
            let relative = Relative { mix: columns, n, profiles: &profiles };
            for position in 0..tokens {
                for page in 0..=position / PAGE {
                    let mut scores = [0.5; PAGE];
                    relative.add((position, 1), position, page, &mut scores);
                    for (key, score) in (page * PAGE..=position).zip(scores) {
                        let at = position - key;
                        let mix = &columns.at(position)[n..];
                        let product = |i: usize| mix[i] * profiles[i * distances + at];
                        let sum: f32 = if at < distances { (0..n).map(product).sum() } else { 0.0 };
                        assert_eq!(score, 0.5 + sum, "{distances}: {position} {key}");
                    }
                }
            }
        }
    }
}
