//! A draft that knows texts to their ends, and says something else now and then.

use brooklet::Result;
use brooklet::sampler::Sampler;
use brooklet::speculate::Draft;

/// Guesses what comes in the texts that it knows; of five guesses about one is wrong.
#[derive(Debug)]
pub struct Liar {
    texts: Vec<Vec<u32>>,
    seed: u32,
}

impl Liar {
    /// One that knows these texts; whoever has the same seed lies in the same places.
    pub fn new(texts: Vec<Vec<u32>>, seed: u32) -> Liar {
        Liar { texts, seed }
    }

    /// A number below `n`, by a linear congruential generator (Numerical Recipes, 7.1).
    fn random(&mut self, n: usize) -> usize {
        self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.seed >> 16) as usize % n
    }
}

impl Draft for Liar {
    fn guess(&mut self, text: &[u32], _: &Sampler, most: usize, out: &mut Vec<u32>) -> Result<()> {
        let known = self.texts.iter().position(|known| known.starts_with(text));
        let known = known.expect("only certain tokens are told");
        // More than are wanted, sometimes.
        let n = self.random(most + 2);
        for i in text.len()..text.len() + n {
            let lie = self.random(5) == 0;
            let next = self.texts[known].get(i).copied().unwrap_or(0);
            out.push(if lie { next.checked_sub(1).unwrap_or(1) } else { next });
        }
        Ok(())
    }
}
