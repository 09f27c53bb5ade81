//! A product with few rows that must be exact: the scores by which a router chooses experts, where
//! a rounded activation would change the choice.
//!
//! Weights stay f32, in blocks of sixteen rows ("Blocked tensors", SPEC.md). A row has four chains,
//! k mod 4, each of a product and a sum, ascending; the result is `(c0 + c1) + (c2 + c3)`. Every
//! instruction set gives these bits. Test: below.

use super::isa::Isa;
use super::lanes::WIDTH;
use super::vector::{LaneKernel, Vector};

/// Chains of a row.
const CHAINS: usize = 4;

/// `y = W x`, with `w` (blocks, k, 16) and 16 values of `y` for each block.
///
/// # Panics
/// Lengths do not fit: a bug in the model.
pub(crate) fn exact_rows(isa: Isa, w: &[f32], x: &[f32], y: &mut [f32]) {
    assert_eq!(w.len(), y.len() * x.len());
    assert!(y.len().is_multiple_of(WIDTH));
    isa.run_lanes(Rows { w, x, y });
}

/// [`exact_rows`].
struct Rows<'a> {
    w: &'a [f32],
    x: &'a [f32],
    y: &'a mut [f32],
}

impl LaneKernel for Rows<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Rows { w, x, y } = self;
        let block = (x.len() * WIDTH).max(1);
        for (w, y) in w.chunks_exact(block).zip(y.chunks_exact_mut(WIDTH)) {
            let mut chains = [V::splat(0.0); CHAINS];
            let (mut ws, mut xs) = (w.chunks_exact(CHAINS * WIDTH), x.chunks_exact(CHAINS));
            for (w, x) in (&mut ws).zip(&mut xs) {
                for i in 0..CHAINS {
                    let product = V::load(&w[i * WIDTH..]).mul(V::splat(x[i]));
                    chains[i] = chains[i].add(product);
                }
            }
            let rest = ws.remainder().chunks_exact(WIDTH).zip(xs.remainder());
            for (chain, (w, x)) in chains.iter_mut().zip(rest) {
                *chain = chain.add(V::load(w).mul(V::splat(*x)));
            }
            let [a, b, c, d] = chains;
            a.add(b).add(c.add(d)).store(y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_chains() {
        for (blocks, k) in [(1, 1), (2, 3), (1, 4), (3, 37), (2, 64)] {
            let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 7.0;
            let w: Vec<f32> = (0..blocks * k * WIDTH).map(value).collect();
            let x: Vec<f32> = (0..k).map(|i| value(i + 11)).collect();
            let expected = (0..blocks * WIDTH).map(|row| {
                let mut chains = [0.0f32; CHAINS];
                for (j, x) in x.iter().enumerate() {
                    chains[j % CHAINS] += w[(row / WIDTH * k + j) * WIDTH + row % WIDTH] * x;
                }
                (chains[0] + chains[1]) + (chains[2] + chains[3])
            });
            let expected: Vec<f32> = expected.collect();
            for isa in Isa::available() {
                let mut y = vec![f32::NAN; blocks * WIDTH];
                exact_rows(isa, &w, &x, &mut y);
                assert_eq!(y, expected, "{} {blocks} {k}", isa.name());
            }
        }
    }
}
