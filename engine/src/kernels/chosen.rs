//! Blocks of consecutive tokens that attention sees in place of all: which of them score best for a
//! token, and what that hides in a page (the choice of blocks: Yuan et al. 2025, arXiv 2502.11089,
//! §3.3; the scores: DeepSeek-V3.2, arXiv 2512.02556, eq. 1). Tokens behind the last whole block
//! are always seen. Test: below.

use brooklet_formats::DType;
use half::f16;

use super::attention::scores;
use super::columns::Columns;
use super::kept::{HeadPage, Kept, PAGE};
use super::lanes::Lanes;
use super::vector::{LaneKernel, Vector};

/// Blocks that tokens see.
pub(crate) struct Chosen<'a> {
    /// The numbers of a token's blocks, ascending; infinities behind them.
    pub(crate) blocks: Columns<'a>,
    /// Tokens of a block.
    pub(crate) size: usize,
}

impl Chosen<'_> {
    /// The tokens of page number `page` that the token of column `c` sees, `end` being the first
    /// that comes behind it: a bit for each.
    pub(super) fn of_page(&self, c: usize, end: usize, page: usize) -> u64 {
        let (start, size) = (page * PAGE, self.size);
        let first = |block: f32| (block as usize).saturating_mul(size);
        let bits = |from: usize, to: usize| -> u64 {
            let at = |token: usize| token.clamp(start, start + PAGE) - start;
            let below = |n: usize| if n < PAGE { (1u64 << n) - 1 } else { u64::MAX };
            below(at(to)) & !below(at(from))
        };
        let blocks = self.blocks.at(c);
        let before = blocks.partition_point(|block| first(*block).saturating_add(size) <= start);
        let within = blocks[before..].iter().map(|block| first(*block));
        let within = within.take_while(|first| *first < start + PAGE);
        let seen = within
            .fold(bits(end / size * size, end), |seen, first| seen | bits(first, first + size));
        seen & bits(0, end)
    }

    /// Makes the scores of what is not `seen` −∞.
    #[inline(always)]
    pub(super) fn hide(scores: &mut [f32; PAGE], seen: u64) {
        for (i, score) in scores.iter_mut().enumerate() {
            *score = if seen >> i & 1 == 1 { *score } else { f32::NEG_INFINITY };
        }
    }
}

/// The choice of a token's blocks.
pub(crate) struct Choose<'a, P> {
    /// (heads d)
    pub(crate) q: &'a [f32],
    pub(crate) d: usize,
    /// Blocks to choose among; their keys are kept one behind the other.
    pub(crate) n: usize,
    pub(crate) dtype: DType,
    /// Page number i of the keys.
    pub(crate) page: P,
    /// Workspace for the scores of the best.
    pub(crate) best: &'a mut [f32],
    /// Overwritten: their numbers, ascending; infinities behind them.
    pub(crate) blocks: &'a mut [f32],
}

impl<'p, P: Fn(usize) -> &'p [Lanes]> LaneKernel for Choose<'_, P> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        match self.dtype {
            DType::F16 => self.choose::<V, f16>(),
            DType::Int8 => self.choose::<V, i8>(),
            _ => self.choose::<V, f32>(),
        }
    }
}

impl<'p, P: Fn(usize) -> &'p [Lanes]> Choose<'_, P> {
    /// The blocks with the best Σ relu(q · k) over heads, of equals the lower number.
    #[inline(always)]
    fn choose<V: Vector, T: Kept>(self) {
        let Choose { q, d, n, page, best, blocks, .. } = self;
        let few = n.min(blocks.len());
        blocks.fill(f32::INFINITY);
        blocks[..few].iter_mut().zip(0u32..).for_each(|(block, i)| *block = i as f32);
        if n == few {
            return;
        }
        let mut heap = Heap { scores: &mut best[..few], blocks: &mut blocks[..few] };
        for at in 0..n.div_ceil(PAGE) {
            let HeadPage { keys, scales, .. } = HeadPage::<T>::new(page(at), d);
            let mut sums = [0.0; PAGE];
            for q in q.chunks_exact(d) {
                let [products] = scores::<V, T, 1, 2>(q, keys, &[]);
                for (i, (sum, product)) in sums.iter_mut().zip(products).enumerate() {
                    let product = if T::SCALED { product * scales[0][i] } else { product };
                    // What is no number counts nothing.
                    *sum += if product > 0.0 { product } else { 0.0 };
                }
            }
            for (block, score) in (at * PAGE..n).zip(sums) {
                heap.take(block, score);
            }
        }
        blocks[..few].sort_unstable_by(f32::total_cmp);
    }
}

/// The best blocks so far, the worst of them on top.
struct Heap<'a> {
    scores: &'a mut [f32],
    blocks: &'a mut [f32],
}

impl Heap<'_> {
    /// Takes the block in, if it is among the best; blocks come in ascending order.
    fn take(&mut self, block: usize, score: f32) {
        let len = self.scores.len();
        if block < len {
            self.scores[block] = score;
            if block + 1 == len {
                (0..len / 2).rev().for_each(|root| self.sink(root));
            }
        } else if score > self.scores[0] {
            (self.scores[0], self.blocks[0]) = (score, block as f32);
            self.sink(0);
        }
    }

    /// Of equals the later is worse.
    fn is_worse(&self, a: usize, b: usize) -> bool {
        let (x, y) = (self.scores[a], self.scores[b]);
        x < y || x == y && self.blocks[a] > self.blocks[b]
    }

    /// Exchanges what stands at `root` with what is worse below it.
    fn sink(&mut self, mut root: usize) {
        loop {
            let below = (2 * root + 1..2 * root + 3).filter(|i| *i < self.scores.len());
            let worst = below.fold(root, |w, i| if self.is_worse(i, w) { i } else { w });
            if worst == root {
                return;
            }
            self.scores.swap(root, worst);
            self.blocks.swap(root, worst);
            root = worst;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::kernels::kept::{self, KeysOrValues};
    use crate::kernels::recurrence::support::numbers;

    /// Against a sort of all scores, many of which are equal, for every instruction set.
    #[test]
    fn the_best_of_some_blocks() {
        let (d, heads, n) = (21, 3, 200);
        for dtype in [DType::F32, DType::F16, DType::Int8] {
            let q = numbers(heads * d, 1);
            // Every third block has the key of the one before.
            let keys = numbers(n * d, 2);
            let key = |block: usize| &keys[(block - usize::from(block % 3 == 2)) * d..][..d];
            let lines = kept::lines(dtype, d);
            let mut pages = vec![Lanes::ZERO; n.div_ceil(PAGE) * lines];
            let mut exact = vec![0.0; n * d];
            for block in 0..n {
                let page = &mut pages[block / PAGE * lines..][..lines];
                let at = (block % PAGE, KeysOrValues::Keys);
                kept::remember(Isa::scalar(), dtype, page, at, key(block));
                kept::recall(dtype, page, at, &mut exact[block * d..][..d]);
            }
            let score = |block: usize| -> f64 {
                let product = |q: &[f32]| -> f64 {
                    let products = q.iter().zip(&exact[block * d..]);
                    products.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum()
                };
                q.chunks(d).map(|q| product(q).max(0.0)).sum()
            };
            for some in [1, 2, 63, 64, 65, 130, 200] {
                for k in [1, 7, 64, 199, 200, 300] {
                    let mut sorted: Vec<usize> = (0..some).collect();
                    sorted.sort_by(|a, b| score(*b).total_cmp(&score(*a)).then(a.cmp(b)));
                    sorted.truncate(k);
                    sorted.sort_unstable();
                    let mut expected: Vec<f32> = sorted.iter().map(|block| *block as f32).collect();
                    expected.resize(k, f32::INFINITY);
                    for isa in Isa::available() {
                        let (mut best, mut blocks) = (vec![f32::NAN; k], vec![f32::NAN; k]);
                        isa.run_lanes(Choose {
                            q: &q,
                            d,
                            n: some,
                            dtype,
                            page: |i| &pages[i * lines..][..lines],
                            best: &mut best,
                            blocks: &mut blocks,
                        });
                        assert_eq!(blocks, expected, "{isa:?} {dtype} {some} {k}");
                    }
                }
            }
        }
    }

    /// Token by token, for sizes of blocks that divide a page and others.
    #[test]
    fn tokens_of_a_page() {
        for size in [1, 3, 4, 64, 100] {
            let chosen = [1.0, 2.0, 7.0, 25.0, f32::INFINITY];
            let blocks = Columns::new(&chosen, 5, 0..1, 0..5);
            for end in 1..300 {
                for page in 0..5 {
                    let found = Chosen { blocks, size }.of_page(0, end, page);
                    for i in 0..PAGE {
                        let token = page * PAGE + i;
                        let is_chosen = chosen.contains(&((token / size) as f32));
                        let is_seen = token < end && (is_chosen || token >= end / size * size);
                        assert_eq!(found >> i & 1 == 1, is_seen, "{size} {end} {token}");
                    }
                }
            }
        }
    }
}
