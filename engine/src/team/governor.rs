//! How many members of a team work: fewer while more do not pay.
//!
//! On a busy machine the pieces of a member that the system took away have to be waited for. As
//! long as waiting stays a small part of the time nothing is tried. Else the governor tries, for
//! short bursts, the next smaller and the next greater number of members, and goes where more work
//! is done per time; while that changes nothing the bursts become rare. Work on one column and on
//! many is judged apart, since one may wait for memory where the other computes.
//!
//! It has no clock of its own: it is told how long passes took. Test: below, on a simulated
//! machine.

use std::time::Duration;

/// Columns from which work counts as a prompt's.
const MANY_COLUMNS: usize = 4;
/// The share of the time that may be lost waiting before anything is tried.
const LOST: f64 = 0.1;
/// How long a burst is at least, in time and passes.
const BURST: Duration = Duration::from_millis(10);
const BURST_PASSES: u32 = 2;
/// Time between bursts, at first and at most.
const FIRST: Duration = Duration::from_millis(30);
const LAST: Duration = Duration::from_secs(1);
/// How much better another number must be.
const BETTER: f64 = 1.08;

/// Decides how many members do the stages of a pass.
pub(crate) struct Governor {
    /// Numbers of members, the most first, down to 1.
    levels: Vec<usize>,
    /// For few columns, and for many.
    judges: [Judge; 2],
    /// Columns of the pass that is under way.
    columns: usize,
}

impl Governor {
    /// For up to `members` members.
    pub(crate) fn new(members: usize) -> Governor {
        let halves = std::iter::successors(Some(members), |n| (*n > 1).then(|| n / 2));
        let mut levels: Vec<usize> = halves.collect();
        // One processor that others use should not cost half of many.
        if members > 3 {
            levels.insert(1, members - 1);
        }
        let judges = [Judge::new(levels.len()), Judge::new(levels.len())];
        Governor { levels, judges, columns: 0 }
    }

    /// Before a pass: how many members may work.
    pub(crate) fn begin(&mut self, columns: usize) -> usize {
        self.columns = columns;
        let level = self.judge().level();
        self.levels[level]
    }

    /// After the pass: it `took` so long, of which the leader lost some waiting.
    pub(crate) fn end(&mut self, took: Duration, lost: Duration) {
        if self.levels.len() > 1 {
            let columns = self.columns as f64;
            self.judge().add(columns, took.as_secs_f64(), lost.as_secs_f64());
        }
    }

    fn judge(&mut self) -> &mut Judge {
        &mut self.judges[usize::from(self.columns >= MANY_COLUMNS)]
    }
}

/// The measurements of one kind of work.
struct Judge {
    /// Work per second at each level, the newest burst counting half.
    rates: Vec<Option<f64>>,
    /// The level to work at.
    best: usize,
    /// The level that is being tried.
    trial: Option<usize>,
    /// Whether the last trial was of the level above.
    upwards: bool,
    /// Time until the next trial.
    pause: Duration,
    /// This burst's, or this pause's.
    passes: u32,
    work: f64,
    took: f64,
    lost: f64,
}

impl Judge {
    fn new(levels: usize) -> Judge {
        Judge {
            rates: vec![None; levels],
            best: 0,
            trial: None,
            upwards: false,
            pause: FIRST,
            passes: 0,
            work: 0.0,
            took: 0.0,
            lost: 0.0,
        }
    }

    fn level(&self) -> usize {
        self.trial.unwrap_or(self.best)
    }

    fn add(&mut self, work: f64, took: f64, lost: f64) {
        self.passes += 1;
        self.work += work;
        self.took += took;
        self.lost += lost;
        let least = if self.trial.is_some() { BURST } else { self.pause };
        if self.took < least.as_secs_f64() || self.passes < BURST_PASSES {
            return;
        }
        let rate = self.work / self.took;
        let level = self.level();
        let rate = self.rates[level].map_or(rate, |before| (before + rate) / 2.0);
        self.rates[level] = Some(rate);
        let suspicious = self.lost > LOST * self.took || self.best > 0;
        match self.trial.take() {
            Some(level) => self.decide(level, rate),
            None if suspicious => self.trial = self.neighbour(),
            None => self.pause = FIRST,
        }
        (self.passes, self.work, self.took, self.lost) = (0, 0.0, 0.0, 0.0);
    }

    /// After a burst at `level`.
    fn decide(&mut self, level: usize, rate: f64) {
        let now = self.rates[self.best].unwrap_or(0.0);
        if rate > BETTER * now {
            self.best = level;
            self.pause = FIRST;
        } else {
            self.pause = (self.pause * 2).min(LAST);
        }
    }

    /// The level to try next: the one above and the one below the best in turn.
    fn neighbour(&mut self) -> Option<usize> {
        self.upwards = !self.upwards;
        let (fewer, more) = (self.best + 1, self.best.checked_sub(1));
        let fewer = (fewer < self.rates.len()).then_some(fewer);
        if self.upwards { more.or(fewer) } else { fewer.or(more) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes for `seconds` on a machine where `n` members take `time(n)` a pass and lose a share
    /// of it; how many passes went to each number of members.
    fn simulate(
        governor: &mut Governor,
        seconds: f64,
        columns: usize,
        machine: impl Fn(usize) -> (f64, f64),
    ) -> Vec<usize> {
        let (mut passes, mut now) = (vec![0; 65], 0.0);
        while now < seconds {
            let members = governor.begin(columns);
            let (time, lost) = machine(members);
            governor.end(Duration::from_secs_f64(time), Duration::from_secs_f64(time * lost));
            passes[members] += 1;
            now += time;
        }
        passes
    }

    #[test]
    fn nothing_is_tried_on_a_quiet_machine() {
        let mut governor = Governor::new(8);
        let passes = simulate(&mut governor, 10.0, 1, |n| (0.008 / n as f64, 0.05));
        assert_eq!(passes[8], passes.iter().sum::<usize>());
    }

    #[test]
    fn one_works_where_two_are_slower_and_two_again_when_the_others_have_gone() {
        let mut governor = Governor::new(2);
        let busy = |n| if n == 2 { (0.01, 0.8) } else { (0.002, 0.0) };
        let passes = simulate(&mut governor, 2.0, 1, busy);
        assert!(passes[1] > 20 * passes[2], "{} alone, {} by two", passes[1], passes[2]);
        let quiet = |n| if n == 2 { (0.001, 0.02) } else { (0.002, 0.0) };
        let passes = simulate(&mut governor, 5.0, 1, quiet);
        assert!(passes[2] > 2 * passes[1], "{} alone, {} by two", passes[1], passes[2]);
    }

    #[test]
    fn bursts_become_rare_where_they_change_nothing() {
        let mut governor = Governor::new(2);
        let passes = simulate(&mut governor, 20.0, 64, |n| (0.002 / n as f64, 0.2));
        assert!(passes[2] > 100 * passes[1], "{} alone, {} by two", passes[1], passes[2]);
    }

    #[test]
    fn one_column_and_many_are_judged_apart() {
        let mut governor = Governor::new(2);
        let busy = |n| if n == 2 { (0.01, 0.8) } else { (0.002, 0.0) };
        simulate(&mut governor, 2.0, 1, busy);
        assert_eq!(governor.begin(64), 2);
        assert_eq!(governor.begin(1), 1);
    }

    #[test]
    fn many_members_lose_one_before_they_lose_half() {
        let mut governor = Governor::new(16);
        let busy = |n: usize| if n == 16 { (0.002, 0.5) } else { (0.016 / n as f64, 0.05) };
        let passes = simulate(&mut governor, 5.0, 1, busy);
        let most = passes.iter().enumerate().max_by_key(|(_, passes)| **passes).map(|(n, _)| n);
        assert_eq!(most, Some(15));
    }
}
