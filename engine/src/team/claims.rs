//! The meeting point of a team: the leader opens a stage, its pieces are claimed, the leader waits
//! until all are done.
//!
//! Every member has a *range* of the stage's pieces, one word in a cache line of its own:
//!
//! ```text
//!      63                        25  24  23        12  11         0
//!     | stage: counts up           | P | next piece  | end       |
//! ```
//!
//! A member claims the first piece of its own range until none is left, then the last piece of the
//! others' (what a member streams through stays in order, and in its cache). Claiming is one
//! compare-and-swap on the whole word, which names the stage: a member that the system took away
//! and that comes back late finds another stage there, and claims nothing. So nobody ever waits for
//! a member that has claimed nothing, and the leader alone can do everything. The word is the
//! signal, too: a member waits until its own names a new stage. P says that it sleeps, and the
//! leader, which swaps the word, then wakes it.
//!
//! `left` counts pieces that are not done. The leader subtracts its own at the end; the highest bit
//! says that it sleeps, and whoever finishes the last piece wakes it.
//!
//! Both waits spin for a bounded time ([`Patience`]), then sleep. Sleeping is what
//! a busy machine wants: a thread that waited asleep has processor time to its credit, and runs at
//! once when the piece it waited for is done, at the same time as the others.
//!
//! `tests/claims.rs` compiles this file against the model checker `loom`, which tries every
//! interleaving.

use super::sync::{AtomicU64, AtomicUsize, Bell, Ordering, Patience, park};

/// The most pieces of a stage: what 12 bits hold, and more than any stage is cut into.
const PIECE_BITS: u32 = 12;
const PIECE_MASK: u64 = (1 << PIECE_BITS) - 1;
/// The member sleeps.
const ASLEEP: u64 = 1 << (2 * PIECE_BITS);
/// One stage further.
const STAGE: u64 = ASLEEP << 1;
/// Instead of a range: leave.
const EXIT: u64 = u64::MAX;
/// In `left`: the leader sleeps.
const LEADER_ASLEEP: usize = 1 << (usize::BITS - 1);

/// One cache line to itself, so that spinning on it disturbs nothing else.
#[repr(align(128))]
struct Line<T>(T);

/// The ranges that members wait for and claim from.
pub(crate) struct Claims {
    /// The members' ranges, the leader's first.
    ranges: Vec<Line<AtomicU64>>,
    left: Line<AtomicUsize>,
    /// Wakes the leader. (A handle on its thread would be an allocation, and of a thread that is
    /// not ours.)
    bell: Bell,
}

/// The number of a stage, as words carry it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stage(u64);

impl Stage {
    fn of(word: u64) -> Stage {
        Stage(word & !(STAGE - 1))
    }

    /// The range of these pieces.
    fn range(self, next: usize, end: usize) -> u64 {
        self.0 | ((next as u64) << PIECE_BITS) | end as u64
    }
}

/// The pieces that `word` leaves to claim.
fn pieces(word: u64) -> (usize, usize) {
    (((word >> PIECE_BITS) & PIECE_MASK) as usize, (word & PIECE_MASK) as usize)
}

impl Claims {
    /// For a leader and `members - 1` workers.
    pub(crate) fn new(members: usize) -> Claims {
        Claims {
            ranges: (0..members).map(|_| Line(AtomicU64::new(0))).collect(),
            left: Line(AtomicUsize::new(0)),
            bell: Bell::default(),
        }
    }

    /// The leader: opens the stage after `stage`, of `pieces` pieces, for the first `members`
    /// members. `wake` is called for those that sleep.
    ///
    /// They see all that the leader wrote before; it may not call this again before
    /// [`Claims::join`].
    pub(crate) fn open(
        &self,
        stage: &mut Stage,
        members: usize,
        pieces: usize,
        wake: impl Fn(usize),
    ) {
        debug_assert!(pieces <= PIECE_MASK as usize);
        // Stages are counted modulo 2³⁹, less the count that would look like `EXIT`.
        *stage = Stage(match stage.0.wrapping_add(STAGE) {
            last if last == !(STAGE - 1) => STAGE,
            next => next,
        });
        self.left.0.store(pieces, Ordering::Relaxed);
        let bound = |member: usize| pieces * member / members;
        for member in (0..members).rev() {
            let range = stage.range(bound(member), bound(member + 1));
            let before = self.ranges[member].0.swap(range, Ordering::AcqRel);
            if before & ASLEEP != 0 {
                wake(member);
            }
        }
    }

    /// A member: the next piece of `stage` to do. None: there is none left, or the stage is over.
    pub(crate) fn claim(&self, member: usize, stage: Stage) -> Option<usize> {
        self.claim_from(member, stage, |next, end| (next, next + 1, end)).or_else(|| {
            let others = (member + 1..self.ranges.len()).chain(0..member);
            others.into_iter().find_map(|other| {
                self.claim_from(other, stage, |next, end| (end - 1, next, end - 1))
            })
        })
    }

    /// A piece of the range of `member`; `take` says which, and what range is left.
    fn claim_from(
        &self,
        member: usize,
        stage: Stage,
        take: impl Fn(usize, usize) -> (usize, usize, usize),
    ) -> Option<usize> {
        let range = &self.ranges[member].0;
        let mut word = range.load(Ordering::Relaxed);
        loop {
            let (next, end) = pieces(word);
            if Stage::of(word) != stage || next >= end {
                return None;
            }
            let (piece, next, end) = take(next, end);
            let less = stage.range(next, end) | word & ASLEEP;
            // Acquire: a claim alone shows what the leader wrote before it opened the stage.
            match range.compare_exchange_weak(word, less, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(piece),
                Err(found) => word = found,
            }
        }
    }

    /// A worker: a piece it claimed is done.
    pub(crate) fn done(&self) {
        let before = self.left.0.fetch_sub(1, Ordering::AcqRel);
        if before == LEADER_ASLEEP | 1 {
            self.bell.ring();
        }
    }

    /// The leader: has done `own` pieces itself; waits until all are, and sees what others wrote.
    pub(crate) fn join(&self, own: usize, patience: &mut Patience) {
        self.left.0.fetch_sub(own, Ordering::AcqRel);
        let mut wait = patience.wait();
        while self.left.0.load(Ordering::Acquire) != 0 {
            if wait.is_long() {
                self.sleep_until_done();
                break;
            }
            wait.spin();
        }
        patience.learn(wait);
    }

    fn sleep_until_done(&self) {
        self.left.0.fetch_or(LEADER_ASLEEP, Ordering::AcqRel);
        self.bell.wait_while(|| self.left.0.load(Ordering::Acquire) & !LEADER_ASLEEP != 0);
    }

    /// The leader: tells all workers to leave; `wake` is called for those that sleep.
    pub(crate) fn close(&self, wake: impl Fn(usize)) {
        for (member, range) in self.ranges.iter().enumerate().skip(1) {
            if range.0.swap(EXIT, Ordering::AcqRel) & ASLEEP != 0 {
                wake(member);
            }
        }
    }

    /// A worker: waits for a stage after `seen`. None: it has to leave.
    pub(crate) fn wait(
        &self,
        member: usize,
        seen: Stage,
        patience: &mut Patience,
    ) -> Option<Stage> {
        let range = &self.ranges[member].0;
        let mut wait = patience.wait();
        let stage = loop {
            let word = range.load(Ordering::Acquire);
            if Stage::of(word) != seen {
                break word;
            }
            if wait.is_long() {
                // Only if no stage has come meanwhile: then the leader finds the flag.
                let asleep = word | ASLEEP;
                let set = Ordering::AcqRel;
                if range.compare_exchange(word, asleep, set, Ordering::Relaxed).is_ok() {
                    break self.sleep_until_open(member, seen);
                }
            }
            wait.spin();
        };
        patience.learn(wait);
        (stage != EXIT).then_some(Stage::of(stage))
    }

    fn sleep_until_open(&self, member: usize, seen: Stage) -> u64 {
        loop {
            park();
            let word = self.ranges[member].0.load(Ordering::Acquire);
            if Stage::of(word) != seen {
                return word;
            }
        }
    }
}
