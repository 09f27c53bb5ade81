//! Penalties on tokens that were there before: what is remembered, and what it does to the logits.
//!
//! `c(v)` is how often token `v` came, each time weighing `decay^age`, where the newest token has
//! age 0. Over the last `window` tokens, or over all of them when the window is 0 (memory stays
//! constant either way). Sources: repetition, Keskar et al. 2019 (CTRL, arXiv 1909.05858) section
//! 4.1, in the form of Hugging Face that also multiplies negative logits; presence and frequency,
//! OpenAI's API; decay, `alpha_decay` in BlinkDL's `rwkv/utils.py`. Tests: below.

use super::SamplerOptions;

/// The tokens so far, as far as penalties need them. Allocates in `new` only.
#[derive(Clone, Debug)]
pub(super) struct History {
    window: usize,
    decay: f32,
    repetition: f32,
    presence: f32,
    frequency: f32,
    /// The last tokens in a ring, the newest before `next`; empty where the window is 0.
    ring: Vec<u32>,
    next: usize,
    /// c(v); 0 for tokens that did not come. With a window, only filled while penalties are
    /// applied. `(n_vocab)`
    counts: Vec<f32>,
    /// The tokens with c(v) > 0, in the order of their first coming.
    seen: Vec<u32>,
}

impl History {
    /// `None` where no penalty is on, so that nothing has to be remembered.
    pub(super) fn new(options: &SamplerOptions, n_vocab: usize) -> Option<Self> {
        let on = options.repetition_penalty != 1.0
            || options.presence_penalty != 0.0
            || options.frequency_penalty != 0.0;
        on.then(|| History {
            window: options.penalty_window,
            decay: options.penalty_decay,
            repetition: options.repetition_penalty,
            presence: options.presence_penalty,
            frequency: options.frequency_penalty,
            ring: Vec::with_capacity(options.penalty_window),
            next: 0,
            counts: vec![0.0; n_vocab],
            seen: Vec::with_capacity(n_vocab),
        })
    }

    /// Takes in one token, which must be below n_vocab.
    pub(super) fn accept(&mut self, token: u32) {
        if self.window == 0 {
            if self.decay != 1.0 {
                for &id in &self.seen {
                    let count = &mut self.counts[id as usize];
                    // A token that came stays one that came, and subnormal numbers are slow.
                    *count = (*count * self.decay).max(f32::MIN_POSITIVE);
                }
            }
            self.add(token, 1.0);
        } else if self.ring.len() < self.window {
            self.ring.push(token);
        } else {
            self.ring[self.next] = token;
            self.next = (self.next + 1) % self.window;
        }
    }

    /// Changes the logits of all tokens that came (those there are), in this order:
    /// `l ← l/θ if l > 0 else l·θ`, then `l ← l - (presence + frequency · c)`.
    pub(super) fn apply(&mut self, logits: &mut [f32]) {
        if self.window != 0 {
            let mut weight = 1.0;
            for back in 0..self.ring.len() {
                self.add(self.token_back(back), weight);
                weight = (weight * self.decay).max(f32::MIN_POSITIVE);
            }
        }
        for &id in &self.seen {
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            let repeated =
                if *logit > 0.0 { *logit / self.repetition } else { *logit * self.repetition };
            *logit = repeated - (self.presence + self.frequency * self.counts[id as usize]);
        }
        if self.window != 0 {
            self.forget();
        }
    }

    /// Forgets all tokens.
    pub(super) fn reset(&mut self) {
        self.ring.clear();
        self.next = 0;
        self.forget();
    }

    /// The tokens seen, to be saved.
    pub(super) fn save(&self) -> SavedHistory {
        if self.window == 0 {
            SavedHistory::All(self.seen.iter().map(|&id| (id, self.counts[id as usize])).collect())
        } else {
            SavedHistory::Window(
                (0..self.ring.len()).rev().map(|back| self.token_back(back)).collect(),
            )
        }
    }

    /// Takes over what was saved, whose tokens must be below n_vocab. A window of another length
    /// keeps what both have; `false` where only totals were saved and a window is wanted.
    pub(super) fn restore(&mut self, saved: &SavedHistory) -> bool {
        if self.window != 0 && matches!(saved, SavedHistory::All(_)) {
            return false;
        }
        self.reset();
        match saved {
            SavedHistory::Off => {}
            SavedHistory::Window(tokens) => tokens.iter().for_each(|&token| self.accept(token)),
            SavedHistory::All(counts) => counts.iter().for_each(|&(id, count)| self.add(id, count)),
        }
        true
    }

    /// The token of that age: 0 is the newest. Must be younger than the ring is long.
    fn token_back(&self, back: usize) -> u32 {
        let len = self.ring.len();
        self.ring[(self.next + len - 1 - back) % len]
    }

    fn add(&mut self, token: u32, weight: f32) {
        let count = &mut self.counts[token as usize];
        if *count == 0.0 {
            self.seen.push(token);
        }
        *count += weight;
    }

    fn forget(&mut self) {
        for &id in &self.seen {
            self.counts[id as usize] = 0.0;
        }
        self.seen.clear();
    }
}

/// A history as it is saved.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum SavedHistory {
    /// No penalty was on.
    Off,
    /// The last tokens, the newest last.
    Window(Vec<u32>),
    /// c(v) of every token that came.
    All(Vec<(u32, f32)>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(change: impl FnOnce(&mut SamplerOptions)) -> History {
        let mut options = SamplerOptions::default();
        change(&mut options);
        History::new(&options, 4).expect("a penalty is on")
    }

    fn accept(history: &mut History, tokens: &[u32]) {
        tokens.iter().for_each(|&token| history.accept(token));
    }

    fn penalized(history: &mut History, logits: [f32; 4]) -> [f32; 4] {
        let mut logits = logits;
        history.apply(&mut logits);
        logits
    }

    #[test]
    fn nothing_on_remembers_nothing() {
        assert!(History::new(&SamplerOptions::default(), 4).is_none());
    }

    #[test]
    fn each_penalty_by_hand() {
        let mut repetition = history(|o| o.repetition_penalty = 2.0);
        accept(&mut repetition, &[0, 1, 1, 2]);
        assert_eq!(penalized(&mut repetition, [4.0, -4.0, 0.0, 4.0]), [2.0, -8.0, 0.0, 4.0]);
        let mut presence = history(|o| o.presence_penalty = 0.5);
        accept(&mut presence, &[0, 1, 1]);
        assert_eq!(penalized(&mut presence, [1.0; 4]), [0.5, 0.5, 1.0, 1.0]);
        let mut frequency = history(|o| o.frequency_penalty = 0.5);
        accept(&mut frequency, &[0, 1, 1]);
        assert_eq!(penalized(&mut frequency, [1.0; 4]), [0.5, 0.0, 1.0, 1.0]);
        // All three: 4/2 - 0.25 - 0.5·2.
        let mut all = history(|o| {
            (o.repetition_penalty, o.presence_penalty, o.frequency_penalty) = (2.0, 0.25, 0.5)
        });
        accept(&mut all, &[3, 3]);
        assert_eq!(penalized(&mut all, [1.0, 1.0, 1.0, 4.0]), [1.0, 1.0, 1.0, 0.75]);
    }

    #[test]
    fn decay_weighs_by_age() {
        for window in [0, 8] {
            let mut history = history(|o| {
                (o.frequency_penalty, o.penalty_decay, o.penalty_window) = (1.0, 0.5, window)
            });
            // c(0) = 0.5² + 1, c(1) = 0.5.
            accept(&mut history, &[0, 1, 0]);
            assert_eq!(penalized(&mut history, [0.0; 4]), [-1.25, -0.5, 0.0, 0.0]);
            assert_eq!(
                penalized(&mut history, [0.0; 4]),
                [-1.25, -0.5, 0.0, 0.0],
                "applying changes nothing"
            );
        }
    }

    #[test]
    fn what_came_long_ago_still_came() {
        let mut history = history(|o| (o.presence_penalty, o.penalty_decay) = (1.0, 0.1));
        history.accept(0);
        (0..1000).for_each(|_| history.accept(1));
        assert_eq!(penalized(&mut history, [0.0; 4]), [-1.0, -1.0, 0.0, 0.0]);
        history.accept(0);
        assert_eq!(history.seen, [0, 1]);
    }

    #[test]
    fn the_window_forgets() {
        let mut history = history(|o| (o.frequency_penalty, o.penalty_window) = (1.0, 3));
        accept(&mut history, &[0, 0, 1, 2, 2]);
        assert_eq!(penalized(&mut history, [0.0; 4]), [0.0, -1.0, -2.0, 0.0]);
        history.reset();
        assert_eq!(penalized(&mut history, [0.0; 4]), [0.0; 4]);
    }

    #[test]
    fn saved_and_restored_alike() {
        for window in [0, 3] {
            let make = || {
                history(|o| {
                    (o.frequency_penalty, o.penalty_decay, o.penalty_window) = (1.0, 0.7, window)
                })
            };
            let (mut first, mut second) = (make(), make());
            accept(&mut first, &[0, 1, 2, 2, 3]);
            second.accept(3);
            assert!(second.restore(&first.save()));
            for token in [1, 1, 0, 2] {
                assert_eq!(penalized(&mut first, [0.3; 4]), penalized(&mut second, [0.3; 4]));
                first.accept(token);
                second.accept(token);
            }
        }
    }

    #[test]
    fn windows_of_other_lengths() {
        let make = |window| history(|o| (o.frequency_penalty, o.penalty_window) = (1.0, window));
        let mut five = make(5);
        accept(&mut five, &[0, 1, 2, 2, 3]);
        let mut two = make(2);
        assert!(two.restore(&five.save()));
        assert_eq!(penalized(&mut two, [0.0; 4]), [0.0, 0.0, -1.0, -1.0]);
        let mut all = make(0);
        assert!(all.restore(&five.save()));
        assert_eq!(penalized(&mut all, [0.0; 4]), [-1.0, -1.0, -2.0, -1.0]);
        assert!(!two.restore(&all.save()));
    }
}
