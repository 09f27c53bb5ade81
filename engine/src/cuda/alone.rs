//! Passes of one token that follow each other without the host: the card chooses the next token
//! itself (`choose.cu`), and keeps the state as it was, so that there is a way back.
//!
//! Not here: the passes (`run.rs`), when that may be (`generate.rs`). Test: below and
//! `tests/alone.rs`, visibly skipped where there is no card.

use std::sync::Arc;

use cudarc::driver::{CudaFunction, CudaSlice, LaunchConfig, PushKernelArg, result};
use cudarc::nvrtc::Ptx;

use super::card::{Card, failed};
use crate::Result;
use crate::sampler::Likeliest;

/// The kernel, compiled ahead.
const PTX: &str = include_str!("choose.ptx");
/// Its threads: one block.
const THREADS: u32 = 1024;

/// Where a pass stands on the card: its first logits, itself, and the count of blocks that have
/// arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passed {
    pub(super) logits: u64,
    pub(super) pass: u64,
    pub(super) arrived: u64,
}

/// The kernel that chooses, and its memory there.
pub(super) struct Alone {
    card: Arc<Card>,
    kernel: CudaFunction,
    /// The tokens that were chosen.
    chosen: CudaSlice<u8>,
    /// The state's lines as they were before.
    before: CudaSlice<u8>,
}

impl Alone {
    /// For so many tokens at a time, and states of so many bytes.
    ///
    /// # Errors
    /// The card has no memory for them, or does not take the kernel.
    pub(super) fn new(card: &Arc<Card>, tokens: usize, state_bytes: usize) -> Result<Alone> {
        let failed = failed("compiling kernels for the card");
        let module = card.context.load_module(Ptx::from_src(PTX)).map_err(&failed)?;
        Ok(Alone {
            card: Arc::clone(card),
            kernel: module.load_function("choose").map_err(&failed)?,
            chosen: card.zeroed(4 * tokens)?,
            before: card.zeroed(state_bytes)?,
        })
    }

    /// Tokens at a time, at most.
    pub(super) fn tokens(&self) -> usize {
        self.chosen.len() / 4
    }

    /// Keeps the lines of a state.
    pub(super) fn keep(&self, state: u64) -> Result<()> {
        self.copy(state, self.card.address(&self.before))
    }

    /// Puts the lines that were kept where they were.
    pub(super) fn put_back(&self, state: u64) -> Result<()> {
        self.copy(self.card.address(&self.before), state)
    }

    fn copy(&self, from: u64, to: u64) -> Result<()> {
        let (bytes, stream) = (self.before.len(), &self.card.stream);
        // SAFETY: both have so many bytes: a state's lines, of whose layout this was made, and the
        // place for them. Work on a card is in the order of its one stream.
        let copied = unsafe { result::memcpy_dtod_async(to, from, bytes, stream.cu_stream()) };
        copied.map_err(failed("copying a state"))
    }

    /// Chooses token `i` behind a pass, and makes it the token of that pass.
    pub(super) fn choose(&self, i: usize, rule: Likeliest, passed: Passed) -> Result<()> {
        assert!(i < self.tokens());
        let (n, chosen) = (rule.among as u32, self.card.address(&self.chosen) + 4 * i as u64);
        let config =
            LaunchConfig { grid_dim: (1, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
        let mut launch = self.card.stream.launch_builder(&self.kernel);
        launch.arg(&passed.logits).arg(&n).arg(&passed.pass).arg(&passed.arrived).arg(&chosen);
        // SAFETY: the arguments are those of `choose` in `choose.cu`; the pass and its logits are the
        // caller's, who holds them; there are as many logits as a rule looks at, and a place `i`.
        unsafe { launch.launch(config) }.map_err(failed("choosing a token")).map(drop)
    }

    /// The first tokens that were chosen, once all work is done.
    pub(super) fn read(&self, chosen: &mut [u32]) -> Result<()> {
        let (stream, from) = (&self.card.stream, self.chosen.slice(..size_of_val(chosen)));
        let out: &mut [u8] = bytemuck::cast_slice_mut(chosen);
        stream.memcpy_dtoh(&from, out).map_err(failed("reading tokens"))?;
        stream.synchronize().map_err(failed("running a pass"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::cards;
    use crate::cuda::memory::HEAD;

    /// Logits as unlike as can be, in which some are equal, NaN and infinite.
    fn logits(n: usize, seed: u64) -> Vec<f32> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut logits: Vec<f32> = (0..n).map(|_| random.u8(..) as f32 - 300.0).collect();
        for odd in [f32::NAN, f32::NEG_INFINITY, -0.0, 0.0] {
            (0..random.usize(..5)).for_each(|_| logits[random.usize(..n)] = odd);
        }
        logits
    }

    #[test]
    fn a_card_chooses_what_the_sampler_does() {
        if !cards().is_ok_and(|cards| !cards.is_empty()) {
            println!("skipped: no card");
            return;
        }
        let card = Arc::new(Card::open(0).unwrap());
        let alone = Alone::new(&card, 3, 64).unwrap();
        let mut cases: Vec<Vec<f32>> = [1, 3, 4, 31, 1000, 4095, 65_536, 151_937]
            .into_iter()
            .flat_map(|n| (0..8).map(move |seed| logits(n, seed)))
            .collect();
        cases.push(vec![f32::NEG_INFINITY; 5000]);
        cases.push(vec![f32::NAN; 5000]);
        cases.push([vec![f32::NAN; 4999], vec![f32::INFINITY; 2]].concat());
        for logits in cases {
            let there = card.copied(bytemuck::cast_slice(&logits)).unwrap();
            // A pass whose token stands behind its head.
            let mut pass = vec![7u8; HEAD + 16];
            let mut pass_there = card.zeroed(pass.len()).unwrap();
            let first = card.address(&pass_there);
            pass[16..24].copy_from_slice(&(first + HEAD as u64).to_ne_bytes());
            card.stream.memcpy_htod(&pass, &mut pass_there).unwrap();
            let passed = Passed { logits: card.address(&there), pass: first, arrived: first + 96 };
            let rule = Likeliest { among: logits.len() };
            alone.choose(1, rule, passed).unwrap();
            let mut chosen = [9; 3];
            alone.read(&mut chosen).unwrap();
            let expected = rule.of(&logits);
            assert_eq!(chosen[1], expected, "{} logits", logits.len());
            // The pass that it becomes.
            card.stream.memcpy_dtoh(&pass_there, &mut pass).unwrap();
            card.stream.synchronize().unwrap();
            assert_eq!(pass[HEAD..HEAD + 4], expected.to_ne_bytes());
            assert_eq!(pass[96..104], [0, 0, 0, 0, 7, 7, 7, 7]);
        }
    }

    #[test]
    fn a_card_puts_a_state_back() {
        if !cards().is_ok_and(|cards| !cards.is_empty()) {
            println!("skipped: no card");
            return;
        }
        let card = Arc::new(Card::open(0).unwrap());
        let alone = Alone::new(&card, 1, 64).unwrap();
        let mut state = card.copied(&[5; 64]).unwrap();
        alone.keep(card.address(&state)).unwrap();
        card.stream.memcpy_htod(&[6u8; 64], &mut state).unwrap();
        alone.put_back(card.address(&state)).unwrap();
        let mut out = [0u8; 64];
        card.stream.memcpy_dtoh(&state, &mut out).unwrap();
        card.stream.synchronize().unwrap();
        assert_eq!(out, [5; 64]);
    }
}
