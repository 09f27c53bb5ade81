//! [`Pace`]: how many guesses pay.
//!
//! With a chance `a` that a guess is right, `k` guesses give `1 + a + … + a^k` tokens a pass on
//! average (Leviathan et al. 2023, eq. 1). What a pass over so many tokens takes, and a guess, is
//! measured as it goes. The number is chosen that gives the most tokens in a second; where that is
//! none, a try is made now and then. Times decide how fast a text comes, never which. Test: below.

use std::time::Duration;

use super::MAX_GUESSES;

/// Columns of a pass that are told apart.
const COLUMNS: usize = 4 * MAX_GUESSES;

/// The part of a new measurement in a mean.
const NEWEST: f64 = 0.1;

/// The part of a pass that each further column is taken to cost before it was measured.
const COLUMN: f64 = 0.12;

/// Passes between two tries where guesses do not pay.
const TRY: usize = 48;

/// Passes with guesses after which it is seen whether they have paid.
const TRIAL: usize = 8;

/// The part of the time without guesses that those with guesses may take.
const PAYS: f64 = 0.97;

/// Guesses of a try.
const TRIED: usize = 3;

/// What was measured.
#[derive(Debug)]
pub(crate) struct Pace {
    is_always: bool,
    /// Seconds of a pass by its number of columns; 0 is not known.
    passes: [f64; COLUMNS + 1],
    /// Seconds of a guess.
    guess: f64,
    /// The chance that a guess is right.
    chance: f64,
    /// Passes without guesses, one after the other.
    without: usize,
    /// Passes with guesses in this trial, and what they took and gave.
    trial: Trial,
    /// Passes until guesses are made again.
    paused: usize,
}

/// Some passes with guesses.
#[derive(Debug, Default)]
struct Trial {
    passes: usize,
    seconds: f64,
    tokens: usize,
    /// The last pass was one of them.
    is_open: bool,
}

impl Default for Pace {
    fn default() -> Pace {
        let passes = [0.0; COLUMNS + 1];
        Pace {
            is_always: false,
            passes,
            guess: 0.0,
            chance: 0.7,
            without: 0,
            trial: Trial::default(),
            paused: 0,
        }
    }
}

impl Pace {
    /// Guesses whether they pay or not.
    pub(crate) fn always() -> Pace {
        Pace { is_always: true, ..Pace::default() }
    }

    /// Of the last pass's guesses, `made` one behind the other, the first so many were right.
    pub(crate) fn passed(&mut self, right: usize, made: usize) {
        // Those behind the first wrong one say nothing.
        for i in 0..made.min(right + 1) {
            let was = if i < right { 1.0 } else { 0.0 };
            self.chance += NEWEST * (was - self.chance);
        }
        if self.trial.is_open {
            self.trial.passes += 1;
            self.trial.tokens += right + 1;
            self.trial.is_open = false;
        }
        // The formula says what should pay; this is what did.
        if self.trial.passes >= TRIAL {
            let Trial { seconds, tokens, .. } = std::mem::take(&mut self.trial);
            let is_known = self.passes[1] > 0.0;
            if is_known && seconds > PAYS * self.passes[1] * tokens as f64 {
                self.paused = TRY;
            }
        }
    }

    /// How many guesses to make for each of so many paths, `most` at most, in a pass that reads
    /// `columns` others for each.
    pub(crate) fn guesses(&mut self, (columns, paths): (usize, usize), most: usize) -> usize {
        let most = most.min((COLUMNS / paths).saturating_sub(columns));
        let chosen = match self.is_always {
            true if columns > 2 * MAX_GUESSES => 0,
            true => most,
            // Nothing can be said before the time of a pass without guesses is known.
            false if self.passes[1] == 0.0 && columns == 1 => 0,
            false if self.paused > 0 => {
                self.paused -= 1;
                0
            }
            false => self.best((columns, paths), most),
        };
        self.without = if chosen == 0 { self.without + 1 } else { 0 };
        match chosen {
            0 if self.without.is_multiple_of(TRY) && self.paused == 0 && !self.is_always => {
                most.min(TRIED)
            }
            _ => chosen,
        }
    }

    fn best(&self, (columns, paths): (usize, usize), most: usize) -> usize {
        let rate = |k: usize| {
            let tokens: f64 = (0..=k).map(|i| self.chance.powi(i as i32)).sum();
            // Tokens that stay unread are read again, until all guesses of a pass are right or none
            // was made: the more there are, the less is left of the next pass.
            let again = if k == 0 { 0.0 } else { (1.0 - self.chance.powi(k as i32)) * COLUMN };
            let again = again * columns as f64 * self.seconds(1);
            // Without guesses there is one path.
            let all = if k == 0 { columns } else { paths * (columns + k) };
            tokens / (self.seconds(all) + k as f64 * self.guess + again)
        };
        let mut best = 0;
        for k in 1..=most {
            if rate(k) > 1.02 * rate(best) {
                best = k;
            }
        }
        best
    }

    /// Seconds of a pass of so many columns: measured, or between what was measured.
    fn seconds(&self, columns: usize) -> f64 {
        let known = |i: &usize| self.passes[*i] > 0.0;
        if known(&columns) {
            return self.passes[columns];
        }
        let below = (1..columns).rev().find(known);
        let above = (columns + 1..=COLUMNS).find(known);
        match (below, above) {
            (Some(a), Some(b)) => {
                let part = (columns - a) as f64 / (b - a) as f64;
                self.passes[a] + part * (self.passes[b] - self.passes[a])
            }
            (Some(a), None) => {
                let one = self.passes[a] / (1.0 + COLUMN * (a - 1) as f64);
                self.passes[a] + COLUMN * one * (columns - a) as f64
            }
            (None, Some(b)) => {
                let one = self.passes[b] / (1.0 + COLUMN * (b - 1) as f64);
                one * (1.0 + COLUMN * (columns - 1) as f64)
            }
            (None, None) => 1.0 + COLUMN * (columns - 1) as f64,
        }
    }

    /// `n` guesses took so long.
    pub(crate) fn guessed(&mut self, n: usize, took: Duration) {
        let each = took.as_secs_f64() / n as f64;
        self.trial.seconds += took.as_secs_f64();
        self.guess = mean(self.guess, each);
    }

    /// Makes no guesses for a while: whoever makes them failed.
    pub(crate) fn pause(&mut self) {
        self.paused = TRY;
    }

    /// A pass of so many columns, of which so many were guesses, took so long.
    pub(crate) fn read(&mut self, columns: usize, guesses: usize, took: Duration) {
        // One that reads again what was read with wrong guesses is theirs, too.
        if guesses > 0 || columns > 1 {
            self.trial.seconds += took.as_secs_f64();
            self.trial.is_open = true;
        }
        if let Some(seconds) = self.passes.get_mut(columns) {
            *seconds = mean(*seconds, took.as_secs_f64());
        }
    }
}

/// The mean with one more in it; the first is the mean.
fn mean(mean: f64, next: f64) -> f64 {
    if mean == 0.0 { next } else { mean + NEWEST * (next - mean) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes of `seconds(columns)`, of whose guesses each is right with that chance, as many
    /// tokens as asked for: the guesses of each pass.
    fn run(seconds: impl Fn(usize) -> f64, chance: f64, tokens: usize) -> Vec<usize> {
        let (mut pace, mut rng) = (Pace::default(), fastrand::Rng::with_seed(1));
        let (mut chosen, mut written) = (Vec::new(), 0);
        while written < tokens {
            let k = pace.guesses((1, 1), MAX_GUESSES);
            chosen.push(k);
            pace.read(1 + k, k, Duration::from_secs_f64(seconds(1 + k)));
            let right = (0..k).take_while(|_| rng.f64() < chance).count();
            pace.passed(right, k);
            written += right + 1;
        }
        chosen
    }

    #[test]
    fn guesses_are_made_where_they_pay() {
        // A pass over many tokens costs little more, and most guesses are right.
        let chosen = run(|columns| 1.0 + 0.05 * (columns - 1) as f64, 0.9, 2000);
        let late = &chosen[chosen.len() / 2..];
        assert!(late.iter().sum::<usize>() > 5 * late.len(), "{late:?}");
        // Few are right: one or two of them at a time, if any.
        let chosen = run(|columns| 1.0 + 0.05 * (columns - 1) as f64, 0.3, 2000);
        let late = &chosen[chosen.len() / 2..];
        assert!(late.iter().sum::<usize>() < 3 * late.len(), "{late:?}");
        // A token costs as much in a pass of many: nothing is to be won, and little is tried.
        for chance in [0.1, 0.5] {
            let chosen = run(|columns| columns as f64, chance, 2000);
            let tried = chosen.iter().filter(|k| **k > 0).count();
            assert!(tried * 20 < chosen.len(), "{tried} of {}", chosen.len());
            // But it is tried: things may change.
            assert!(tried > 5);
        }
    }
}
