//! Passes of one token that follow each other without the host: the card chooses the next token
//! itself (`choose.cu`), and keeps the state as it was, so that there is a way back.
//!
//! Not here: the passes (`run.rs`), when that may be (`generate.rs`). Test: below and
//! `tests/alone.rs`, visibly skipped where there is no card.

use std::sync::Arc;

use cudarc::driver::sys::CUfunction_attribute;
use cudarc::driver::{CudaFunction, CudaSlice, LaunchConfig, PushKernelArg, result};
use cudarc::nvrtc::Ptx;

use super::card::{Card, failed};
use crate::Result;
use crate::sampler::{Draw, Rule};

/// The kernels, compiled ahead.
const PTX: &str = include_str!("choose.ptx");
/// Their threads: one block.
const THREADS: u32 = 1024;
/// Bytes of a block's own memory that a draw takes at most (`struct Room` in `draw.cuh`).
const ROOM: u32 = 53 << 10;

/// Where a pass stands on the card: its first logits, itself, and the count of blocks that have
/// arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passed {
    pub(super) logits: u64,
    pub(super) pass: u64,
    pub(super) arrived: u64,
}

/// The kernels that choose, and their memory there.
pub(super) struct Alone {
    card: Arc<Card>,
    choose: CudaFunction,
    draw: CudaFunction,
    /// The tokens that were chosen.
    chosen: CudaSlice<u8>,
    /// Candidates of a draw, and how many there may be.
    space: CudaSlice<u8>,
    n_vocab: usize,
    /// The state's lines as they were before.
    before: CudaSlice<u8>,
}

/// Bytes of so many candidates: ids, weights, sums of 64 of them.
fn space_bytes(n: usize) -> usize {
    8 * n + 8 * n.div_ceil(64)
}

impl Alone {
    /// For so many tokens at a time, each of so many, and states of so many bytes.
    ///
    /// # Errors
    /// The card has no memory for them, or does not take the kernels.
    pub(super) fn new(
        card: &Arc<Card>,
        (tokens, n_vocab): (usize, usize),
        state_bytes: usize,
    ) -> Result<Alone> {
        let failed = failed("compiling kernels for the card");
        let module = card.context.load_module(Ptx::from_src(PTX)).map_err(&failed)?;
        let function = |name| module.load_function(name).map_err(&failed);
        let draw = function("draw_one")?;
        let room = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        draw.set_attribute(room, ROOM as i32).map_err(&failed)?;
        Ok(Alone {
            card: Arc::clone(card),
            choose: function("choose")?,
            draw,
            chosen: card.zeroed(4 * tokens)?,
            space: card.zeroed(space_bytes(n_vocab))?,
            n_vocab,
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
    pub(super) fn choose(&self, i: usize, rule: &Rule<'_>, passed: Passed) -> Result<()> {
        assert!(i < self.tokens() && rule.among <= self.n_vocab);
        let (n, chosen) = (rule.among as u32, self.card.address(&self.chosen) + 4 * i as u64);
        let (kernel, room) =
            if rule.draw.is_some() { (&self.draw, ROOM) } else { (&self.choose, 0) };
        let config = LaunchConfig {
            grid_dim: (1, 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: room,
        };
        let (space, share) = (self.card.address(&self.space), rule.share(i));
        let mut launch = self.card.stream.launch_builder(kernel);
        launch.arg(&passed.logits).arg(&n).arg(&passed.pass).arg(&passed.arrived).arg(&chosen);
        if let Some(draw) = &rule.draw {
            let Draw { temperature, later, at_least, top_k, top_p, min_p, steps } = draw;
            launch.arg(&space).arg(&share).arg(temperature).arg(later).arg(at_least);
            launch.arg(top_k).arg(top_p).arg(min_p).arg(steps);
        }
        // SAFETY: the arguments are those of the kernels in `choose.cu`; pass and logits are the
        // caller's, who holds them; logits, candidates and places of tokens: asserted above.
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
    use crate::sampler::{NOTHING, Sampler, SamplerOptions, Step};

    /// Logits as unlike as can be: steep, flat, with equal ones, some of them no numbers.
    fn logits(n: usize, seed: u64) -> Vec<f32> {
        let mut random = fastrand::Rng::with_seed(seed);
        let spread = [0.1, 1.0, 4.0, 30.0][random.usize(..4)];
        let step = [0.0, 0.25, 3.0][random.usize(..3)];
        let mut logit = || {
            let x = spread * (0..12).map(|_| random.f32() - 0.5).sum::<f32>();
            if step > 0.0 { (x / step).round() * step } else { x }
        };
        let mut logits: Vec<f32> = (0..n).map(|_| logit()).collect();
        for odd in [f32::NAN, f32::NEG_INFINITY, -0.0, 0.0] {
            (0..random.usize(..5)).for_each(|_| logits[random.usize(..n)] = odd);
        }
        logits
    }

    /// Samplers of all kinds that a card knows.
    fn options(seed: u64) -> SamplerOptions {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut of = |values: [f32; 4]| values[random.usize(..4)];
        let options = SamplerOptions::new()
            .temperature(of([1.0, 0.7, 1.5, 0.0]))
            .top_k(of([0.0, 1.0, 40.0, 3000.0]) as usize)
            .top_p(of([1.0, 0.0, 0.5, 0.95]))
            .min_p(of([0.0, 0.0, 0.05, 1.0]))
            .seed(seed);
        match random.usize(..3) {
            0 => options.steps(Step::TEMPERATURE_LAST),
            1 => options.steps(&[Step::MinP, Step::Temperature, Step::TopP, Step::TopK]),
            _ => options,
        }
    }

    #[test]
    fn a_card_chooses_what_the_sampler_does() {
        if !cards().is_ok_and(|cards| !cards.is_empty()) {
            println!("skipped: no card");
            return;
        }
        let card = Arc::new(Card::open(0).unwrap());
        let alone = Alone::new(&card, (4, 151_937), 64).unwrap();
        let sizes = [1, 3, 4, 31, 64, 65, 1000, 4095, 65_536, 151_937];
        let mut cases: Vec<Vec<f32>> =
            sizes.into_iter().flat_map(|n| (0..40).map(move |seed| logits(n, seed))).collect();
        cases.push(vec![f32::NEG_INFINITY; 5000]);
        cases.push(vec![f32::NAN; 5000]);
        cases.push(vec![1.0; 65_536]);
        cases.push([vec![f32::NAN; 4999], vec![f32::INFINITY; 2]].concat());
        for (seed, logits) in cases.iter().enumerate() {
            let there = card.copied(bytemuck::cast_slice(logits)).unwrap();
            // A pass whose token stands behind its head.
            let mut pass = vec![7u8; HEAD + 16];
            let mut pass_there = card.zeroed(pass.len()).unwrap();
            let first = card.address(&pass_there);
            pass[16..24].copy_from_slice(&(first + HEAD as u64).to_ne_bytes());
            card.stream.memcpy_htod(&pass, &mut pass_there).unwrap();
            let passed = Passed { logits: card.address(&there), pass: first, arrived: first + 96 };
            for seed in [0, 1000].map(|more| seed as u64 + more) {
                let sampler = Sampler::new(options(seed), logits.len()).unwrap();
                let rule = sampler.rule(logits.len()).expect("a rule");
                let mut chosen = [9; 4];
                for i in 0..4 {
                    alone.choose(i, &rule, passed).unwrap();
                }
                alone.read(&mut chosen).unwrap();
                let expected = [0, 1, 2, 3].map(|i| rule.choose(i, logits));
                assert_eq!(chosen, expected, "{} logits, {rule:?}", logits.len());
                // The pass that it becomes.
                card.stream.memcpy_dtoh(&pass_there, &mut pass).unwrap();
                card.stream.synchronize().unwrap();
                let token = if expected[3] == NOTHING { 0 } else { expected[3] };
                assert_eq!(pass[HEAD..HEAD + 4], token.to_ne_bytes());
                assert_eq!(pass[96..104], [0, 0, 0, 0, 7, 7, 7, 7]);
            }
        }
    }

    #[test]
    fn a_card_puts_a_state_back() {
        if !cards().is_ok_and(|cards| !cards.is_empty()) {
            println!("skipped: no card");
            return;
        }
        let card = Arc::new(Card::open(0).unwrap());
        let alone = Alone::new(&card, (1, 8), 64).unwrap();
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
