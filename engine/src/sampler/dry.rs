//! DRY ("don't repeat yourself"): lowers the tokens that would lengthen a repetition.
//!
//! A token v that came before gets the length n of the longest run of tokens that stood before it
//! then and stands at the end of the text now; from `allowed` on, `l ← l - multiplier ·
//! base^(n - allowed)`. No run goes across a breaker, and breakers themselves are not lowered.
//! Source: p-e-w's definition in text-generation-webui (pull request 5677). The lengths are found
//! in linear time by the Z-algorithm over the text read backwards (Gusfield 1997, section 1.4), as
//! in koboldcpp and llama.cpp. Tests: below, against the definition.

use super::SamplerOptions;

/// The last tokens, and what DRY does with them. Allocates in `new` only.
#[derive(Clone, Debug)]
pub(super) struct Dry {
    multiplier: f32,
    base: f64,
    allowed: usize,
    window: usize,
    /// Ascending.
    breakers: Vec<u32>,
    /// The last tokens in a ring, the newest before `next`. `(window)` at most
    ring: Vec<u32>,
    next: usize,
    /// Scratch: the text backwards, and how much of its start stands at each place. `(window)`
    backwards: Vec<u32>,
    lengths: Vec<u32>,
    /// Scratch: the longest run before each token, 0 between two calls. `(n_vocab)`
    longest: Vec<u32>,
}

impl Dry {
    /// `None` where it is off.
    pub(super) fn new(options: &SamplerOptions, n_vocab: usize) -> Option<Dry> {
        if options.dry_multiplier == 0.0 {
            return None;
        }
        let mut breakers = options.dry_breakers.clone();
        breakers.sort_unstable();
        let window = options.dry_window;
        Some(Dry {
            multiplier: options.dry_multiplier,
            base: f64::from(options.dry_base),
            allowed: options.dry_allowed_length,
            window,
            breakers,
            ring: Vec::with_capacity(window),
            next: 0,
            backwards: Vec::with_capacity(window),
            lengths: Vec::with_capacity(window),
            longest: vec![0; n_vocab],
        })
    }

    /// Takes in one token, which must be below n_vocab.
    pub(super) fn accept(&mut self, token: u32) {
        if self.ring.len() < self.window {
            self.ring.push(token);
        } else {
            self.ring[self.next] = token;
            self.next = (self.next + 1) % self.window;
        }
    }

    /// The last tokens, the newest last.
    pub(super) fn tokens(&self) -> impl Iterator<Item = u32> + '_ {
        let (newer, older) = self.ring.split_at(self.next);
        older.iter().chain(newer).copied()
    }

    /// Forgets all tokens.
    pub(super) fn reset(&mut self) {
        self.ring.clear();
        self.next = 0;
    }

    /// Lowers the logits (those there are).
    pub(super) fn apply(&mut self, logits: &mut [f32]) {
        let mut backwards = std::mem::take(&mut self.backwards);
        backwards.clear();
        backwards.extend(self.tokens());
        backwards.reverse();
        let longest_run =
            backwards.iter().position(|token| self.is_breaker(*token)).unwrap_or(backwards.len());
        if longest_run >= self.allowed.max(1) {
            self.measure(&backwards, longest_run);
            for (token, &length) in backwards.iter().zip(&self.lengths[1..]) {
                let longest = &mut self.longest[*token as usize];
                *longest = (*longest).max(length);
            }
            for &token in &backwards {
                let n = std::mem::take(&mut self.longest[token as usize]) as usize;
                if n > 0 && n >= self.allowed && !self.is_breaker(token) {
                    let penalty = self.multiplier * power(self.base, n - self.allowed);
                    if let Some(logit) = logits.get_mut(token as usize) {
                        *logit -= penalty.min(f32::MAX);
                    }
                }
            }
        }
        self.backwards = backwards;
    }

    /// `lengths[i]`: how many tokens `text` and `text[i..]` have in common at their start, up to
    /// `most`.
    fn measure(&mut self, text: &[u32], most: usize) {
        let lengths = &mut self.lengths;
        lengths.clear();
        lengths.push(0);
        // text[from..to] is as the text's start, and no known match goes further.
        let (mut from, mut to) = (0, 0);
        for i in 1..text.len() {
            let known = if i < to { (lengths[i - from] as usize).min(to - i) } else { 0 };
            let more = text[known..most].iter().zip(&text[i + known..]);
            let length = known + more.take_while(|(a, b)| a == b).count();
            if i + length > to {
                (from, to) = (i, i + length);
            }
            lengths.push(length as u32);
        }
    }

    fn is_breaker(&self, token: u32) -> bool {
        self.breakers.binary_search(&token).is_ok()
    }
}

/// `base^n` for a base from 1 up, by squaring.
fn power(base: f64, mut n: usize) -> f32 {
    let (mut power, mut square) = (1.0f64, base);
    while n > 0 {
        if n % 2 == 1 {
            power *= square;
        }
        square *= square;
        n /= 2;
    }
    power as f32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dry(change: impl FnOnce(&mut SamplerOptions)) -> Dry {
        let mut options = SamplerOptions { dry_multiplier: 1.0, ..SamplerOptions::default() };
        change(&mut options);
        Dry::new(&options, 8).expect("it is on")
    }

    fn lowered(dry: &mut Dry, text: &[u32]) -> [f32; 8] {
        dry.reset();
        text.iter().for_each(|token| dry.accept(*token));
        let mut logits = [0.0; 8];
        dry.apply(&mut logits);
        logits
    }

    /// Runs compared token by token, for every place of the text.
    fn by_definition(options: &SamplerOptions, text: &[u32]) -> [f32; 8] {
        let text = &text[text.len().saturating_sub(options.dry_window)..];
        let is_breaker = |token: &u32| options.dry_breakers.contains(token);
        let mut runs = [0usize; 8];
        for next in 1..text.len() {
            let pairs = text[..next].iter().rev().zip(text.iter().rev());
            let run = pairs.take_while(|(a, b)| a == b && !is_breaker(b)).count();
            let longest = &mut runs[text[next] as usize];
            *longest = (*longest).max(run);
        }
        std::array::from_fn(|token| {
            let n = runs[token];
            if n == 0 || n < options.dry_allowed_length || is_breaker(&(token as u32)) {
                return 0.0;
            }
            let power = f64::from(options.dry_base).powi((n - options.dry_allowed_length) as i32);
            -options.dry_multiplier * power as f32
        })
    }

    #[test]
    fn by_hand() {
        let mut two = dry(|_| {});
        // 1 2 stood before, with 3 behind: a run of two, as many as are allowed.
        assert_eq!(lowered(&mut two, &[1, 2, 3, 4, 1, 2])[3], -1.0);
        // One more: base¹.
        assert_eq!(lowered(&mut two, &[0, 1, 2, 3, 4, 0, 1, 2])[3], -1.75);
        // A run of one is allowed.
        assert_eq!(lowered(&mut two, &[2, 3, 4, 2]), [0.0; 8]);
        assert_eq!(lowered(&mut two, &[]), [0.0; 8]);
        // Across 2, a breaker, no run goes.
        let mut broken = dry(|o| o.dry_breakers = vec![2, 7]);
        assert_eq!(lowered(&mut broken, &[0, 1, 2, 3, 4, 0, 1, 2]), [0.0; 8]);
        // A window that begins behind the first 1 2.
        let mut short = dry(|o| o.dry_window = 4);
        assert_eq!(lowered(&mut short, &[1, 2, 3, 4, 1, 2]), [0.0; 8]);
        // A power that no f32 holds.
        let mut huge = dry(|o| (o.dry_base, o.dry_allowed_length) = (1e30, 1));
        assert_eq!(lowered(&mut huge, &[1; 20])[1], f32::MIN);
    }

    proptest! {
        #[test]
        fn as_by_its_definition(
            text in proptest::collection::vec(0u32..5, 0..80),
            allowed in 0usize..5,
            window in 1usize..60,
            breakers in proptest::collection::vec(0u32..8, 0..2),
        ) {
            let options = SamplerOptions {
                dry_multiplier: 0.7,
                dry_base: 1.25,
                dry_allowed_length: allowed,
                dry_window: window,
                dry_breakers: breakers,
                ..SamplerOptions::default()
            };
            let mut dry = Dry::new(&options, 8).expect("it is on");
            let (found, expected) = (lowered(&mut dry, &text), by_definition(&options, &text));
            for (found, expected) in found.into_iter().zip(expected) {
                prop_assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{found}");
            }
        }
    }
}
