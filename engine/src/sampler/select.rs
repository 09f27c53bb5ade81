//! The end of a prefix of tokens in the order of a key, without sorting: a radix selection by the
//! key's bits, nine or twelve at a time.
//!
//! Not here: the keys (`truncate.rs`, `cuts.rs`). Test: `truncate.rs`, against sorting.

/// Keys are below this: the bits of a float from 0 to 200.
const KEYS: u32 = 0x4348_0000;
/// Steps of the selection: buckets are the bits from `.0` on, among keys that agree in the bits
/// from `.1` on.
const STEPS: [(u32, u32); 3] = [(18, 31), (9, 18), (0, 9)];
/// Buckets of the first step; the others have 512.
pub(super) const N_BUCKET: usize = (KEYS >> STEPS[0].0) as usize + 1;

/// Number and sum of some weights.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) count: usize,
    pub(super) mass: f64,
}

impl Tally {
    pub(super) fn plus(self, other: Tally) -> Tally {
        Tally { count: self.count + other.count, mass: self.mass + other.mass }
    }

    pub(super) fn plus_one(self, weight: f32) -> Tally {
        self.plus(Tally { count: 1, mass: f64::from(weight) })
    }
}

/// The key of the last token that is needed until there is `enough`, and the tally of all keys
/// below it; `None` where all tokens together are not enough. Tokens without weight do not count.
///
/// `tokens` gives each token's key and weight, the same each time; `buckets` is scratch.
#[inline(always)]
pub(super) fn border<I: Iterator<Item = (u32, f32)>>(
    tokens: impl Fn() -> I,
    buckets: &mut [Tally],
    enough: impl Fn(Tally) -> bool,
) -> Option<(u32, Tally)> {
    let mut above = Tally::default();
    let mut prefix = 0;
    for (shift, prefix_shift) in STEPS {
        let first = if shift == STEPS[0].0 { 0 } else { prefix << (prefix_shift - shift) };
        let n_bucket = if shift == STEPS[0].0 { N_BUCKET } else { 1 << (prefix_shift - shift) };
        let buckets = &mut buckets[..n_bucket];
        buckets.fill(Tally::default());
        for (key, weight) in tokens().filter(|(_, weight)| *weight > 0.0) {
            if key >> prefix_shift == prefix {
                let bucket = &mut buckets[((key >> shift) - first) as usize];
                *bucket = bucket.plus_one(weight);
            }
        }
        let mut reached = false;
        let mut border = None;
        for (at, bucket) in buckets.iter().enumerate().filter(|(_, bucket)| bucket.count > 0) {
            if let Some(before) = border.replace(at) {
                above = above.plus(buckets[before]);
            }
            reached = enough(above.plus(*bucket));
            if reached {
                break;
            }
        }
        match border {
            // In later steps only rounding can make the sum fall short: the last bucket is meant.
            Some(at) if reached || shift != STEPS[0].0 => prefix = first + at as u32,
            _ => return None,
        }
    }
    Some((prefix, above))
}
