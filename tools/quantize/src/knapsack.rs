//! The choice among sizes: of each item one choice, so that all of them together fit, and lose
//! least.
//!
//! That is the multiple-choice knapsack, solved by dynamic programming over units of bytes
//! (Kellerer, Pferschy, Pisinger: Knapsack Problems, 2004, chapter 11). Losses are added up, which
//! HAWQ-V3 (Yao et al. 2020, arXiv 2011.10680) does for number formats too. Where sizes are no
//! multiples of a unit they count as the next one, so that a limit is never passed. Of equal
//! losses the smaller size is taken, of equal sizes the choice that stands first. Test: below.

/// One way to keep an item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Choice {
    pub(crate) bytes: u64,
    /// Finite, not negative.
    pub(crate) loss: f64,
}

/// The bound of all items together.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    /// Bytes, with the least loss.
    Bytes(u64),
    /// Loss, with the fewest bytes.
    Loss(f64),
}

/// Units between the smallest and the largest size of all items together, and cells of the table
/// (a byte each).
const MAX_UNITS: u64 = 1 << 17;
const MAX_CELLS: u64 = 1 << 26;

/// The number of each item's choice; `None` if no choice keeps the limit. An item has 1 to 255
/// choices.
pub(crate) fn solve(items: &[Vec<Choice>], limit: Limit) -> Option<Vec<usize>> {
    let least = |item: &Vec<Choice>| item.iter().map(|c| c.bytes).min().unwrap_or(0);
    let most = |item: &Vec<Choice>| item.iter().map(|c| c.bytes).max().unwrap_or(0);
    let floor: u64 = items.iter().map(least).sum();
    let ceiling: u64 = items.iter().map(most).sum();
    let room = match limit {
        Limit::Bytes(bytes) => bytes.min(ceiling).checked_sub(floor)?,
        Limit::Loss(_) => ceiling - floor,
    };
    let above = |item: &Vec<Choice>, choice: &Choice| choice.bytes - least(item);
    let sizes = items.iter().flat_map(|item| item.iter().map(move |choice| above(item, choice)));
    let divisor = sizes.fold(0, gcd).max(1);
    let units = MAX_UNITS.min(MAX_CELLS / (items.len() as u64 + 1)).max(1);
    // A multiple of the divisor, so that sizes which fit exactly do.
    let unit = room.div_ceil(units).max(1).next_multiple_of(divisor);
    let n = (room / unit) as usize + 1;
    // The least loss of the items so far with at most so many units, and the last one's choice.
    let mut losses = vec![0.0; n];
    let mut taken = vec![u8::MAX; items.len() * n];
    for (item, taken) in items.iter().zip(taken.chunks_exact_mut(n)) {
        let mut next = vec![f64::INFINITY; n];
        let mut order: Vec<usize> = (0..item.len()).collect();
        order.sort_by_key(|&i| item[i].bytes);
        for i in order {
            let size = above(item, &item[i]).div_ceil(unit) as usize;
            for at in size..n {
                let loss = losses[at - size] + item[i].loss;
                if loss < next[at] {
                    next[at] = loss;
                    taken[at] = i as u8;
                }
            }
        }
        losses = next;
    }
    let mut at = match limit {
        Limit::Bytes(_) => n - 1,
        Limit::Loss(most) => losses.iter().position(|loss| *loss <= most)?,
    };
    let mut chosen = vec![0; items.len()];
    for (i, item) in items.iter().enumerate().rev() {
        chosen[i] = usize::from(taken[i * n + at]);
        at -= above(item, item.get(chosen[i])?).div_ceil(unit) as usize;
    }
    Some(chosen)
}

/// The greatest common divisor; of 0 and n, n.
fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (bytes, loss) of these choices together.
    fn sum(items: &[Vec<Choice>], chosen: &[usize]) -> (u64, f64) {
        let each = items.iter().zip(chosen).map(|(item, i)| item[*i]);
        each.fold((0, 0.0), |(bytes, loss), choice| (bytes + choice.bytes, loss + choice.loss))
    }

    /// Every way to choose.
    fn all(items: &[Vec<Choice>]) -> Vec<Vec<usize>> {
        items.iter().fold(vec![vec![]], |ways, item| {
            let more = |way: &Vec<usize>| {
                let with = |i| way.iter().copied().chain([i]).collect();
                (0..item.len()).map(with).collect::<Vec<Vec<usize>>>()
            };
            ways.iter().flat_map(more).collect()
        })
    }

    #[test]
    fn as_good_as_every_way_tried() {
        let mut rng = fastrand::Rng::with_seed(5);
        for round in 0..300 {
            let step = rng.u64(1..200);
            let n = rng.usize(1..6);
            let item = |rng: &mut fastrand::Rng| {
                let choice = |rng: &mut fastrand::Rng| Choice {
                    bytes: step * rng.u64(1..40),
                    loss: f64::from(rng.u32(0..50)),
                };
                (0..rng.usize(1..5)).map(|_| choice(rng)).collect::<Vec<_>>()
            };
            let items: Vec<Vec<Choice>> = (0..n).map(|_| item(&mut rng)).collect();
            let sums: Vec<(u64, f64)> = all(&items).iter().map(|way| sum(&items, way)).collect();
            let bytes = rng.u64(0..step * 120);
            let best = sums.iter().filter(|(own, _)| *own <= bytes).map(|(_, loss)| *loss);
            let best = best.fold(f64::INFINITY, f64::min);
            match solve(&items, Limit::Bytes(bytes)) {
                Some(chosen) => {
                    let (own, loss) = sum(&items, &chosen);
                    assert!(own <= bytes, "round {round}");
                    assert_eq!(loss, best, "round {round}");
                }
                None => assert_eq!(best, f64::INFINITY, "round {round}"),
            }
            let loss = f64::from(rng.u32(0..120));
            let best = sums.iter().filter(|(_, own)| *own <= loss).map(|(bytes, _)| *bytes).min();
            let found = solve(&items, Limit::Loss(loss)).map(|chosen| sum(&items, &chosen));
            assert!(found.is_none_or(|(_, own)| own <= loss), "round {round}");
            assert_eq!(found.map(|(bytes, _)| bytes), best, "round {round}");
        }
    }

    #[test]
    fn large_ones_keep_their_limit_and_lose_little_to_units() {
        let mut rng = fastrand::Rng::with_seed(6);
        let item = |_| {
            let (weights, loss) = (rng.u64(1 << 20..1 << 26), rng.f64());
            let each = [(4, 1.0), (5, 0.3), (6, 0.08), (8, 0.01)];
            each.map(|(bits, part)| Choice { bytes: weights * bits / 8 + 13, loss: loss * part })
                .to_vec()
        };
        let items: Vec<Vec<Choice>> = (0..600).map(item).collect();
        let floor: u64 = items.iter().map(|item| item[0].bytes).sum();
        let limit = floor + floor / 4;
        let chosen = solve(&items, Limit::Bytes(limit)).expect("there is room");
        let (bytes, loss) = sum(&items, &chosen);
        assert!(bytes <= limit && bytes > limit - limit / 500, "{bytes} of {limit}");
        // The other way round it gives no more.
        let back = solve(&items, Limit::Loss(loss)).expect("it is possible");
        assert!(sum(&items, &back).0 <= bytes + bytes / 500);
        assert_eq!(chosen, solve(&items, Limit::Bytes(limit)).expect("there is room"));
    }

    #[test]
    fn of_equals_the_first() {
        let same = vec![Choice { bytes: 7, loss: 1.0 }; 3];
        let items = [same.clone(), same];
        assert_eq!(solve(&items, Limit::Bytes(14)), Some(vec![0, 0]));
        assert_eq!(solve(&items, Limit::Bytes(13)), None);
        assert_eq!(solve(&items, Limit::Loss(1.9)), None);
        assert_eq!(solve(&[], Limit::Bytes(0)), Some(vec![]));
    }
}
