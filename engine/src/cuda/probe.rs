//! A card's own limits, as its figures are set beside them: reading its memory, multiply-adds of
//! 8-bit integers on its tensor cores.
//!
//! Kernels are in `probe.cu`, timed by the card's clock. Whether the work was done is checked
//! against sums. Medians are the caller's. Test: below, visibly skipped where there is no card.

use std::sync::Arc;

use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUevent_flags};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, LaunchConfig, PushKernelArg,
    result,
};
use cudarc::nvrtc::Ptx;

use super::card::{context, failed};
use crate::{EngineError, Result};

/// The kernel that reads, for all cards.
const PTX: &str = include_str!("probe.ptx");
/// Both, for cards of capability 8 and newer ones.
const PTX_80: &str = include_str!("probe.sm_80.ptx");

/// The buffer that is read: much larger than what any card keeps near.
const BUFFER: usize = 2 << 30;
/// Smaller ones have to be this many times what it keeps near, so that memory is what is read.
const TIMES_NEAR: usize = 8;
/// Every byte of it.
const BYTE: u8 = 1;
/// Readings of it in a launch, beside which the launch's own time is nothing.
const TIMES: u64 = 4;
/// Blocks and threads that read, for each multiprocessor.
const READ: (u32, u32) = (2, 1024);
/// The same of those that multiply, and the rounds of each.
const MULTIPLY: (u32, u32) = (1, 512);
const ROUNDS: u32 = 1 << 14;
/// Operations of a warp's round: two for each multiply-add of 16 × 32 by 32 × 8 in eight chains.
const PER_ROUND: u64 = 2 * 16 * 8 * 32 * 8;

/// Measures a card. Takes memory of it from the first reading on.
#[derive(Debug)]
pub struct CardProbe {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    read: CudaFunction,
    /// None where the card has no such instruction.
    multiply: Option<CudaFunction>,
    multiprocessors: u32,
    /// Bytes that it keeps near.
    near: usize,
    buffer: Option<CudaSlice<u8>>,
}

impl CardProbe {
    /// A probe of card `number`.
    ///
    /// # Errors
    /// There is no driver, no such card, or the driver does not take the kernels.
    pub fn new(number: usize) -> Result<CardProbe> {
        let context = context(number)?;
        let stream = context.new_stream().map_err(failed("opening the card"))?;
        let attribute = |of| context.attribute(of).map_err(failed("looking at the card"));
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let blocks = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let near = attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?;
        let module = context.load_module(Ptx::from_src(if major >= 8 { PTX_80 } else { PTX }));
        let module = module.map_err(failed("compiling kernels for the card"))?;
        let function =
            |name| module.load_function(name).map_err(failed("compiling kernels for the card"));
        Ok(CardProbe {
            read: function("read_all")?,
            multiply: if major >= 8 { Some(function("multiply")?) } else { None },
            multiprocessors: blocks as u32,
            near: near as usize,
            buffer: None,
            context,
            stream,
        })
    }

    /// Free bytes of its memory.
    ///
    /// # Errors
    /// The card does not say.
    pub fn free(&self) -> Result<usize> {
        self.context.mem_get_info().map(|(free, _)| free).map_err(failed("looking at its memory"))
    }

    /// Bytes that it reads in a second. `None` where it has no memory for a buffer that says so.
    ///
    /// # Errors
    /// The card failed, or read something else.
    pub fn read(&mut self) -> Result<Option<f64>> {
        if self.buffer.is_none() {
            self.buffer = self.new_buffer()?;
        }
        let Some(buffer) = &self.buffer else { return Ok(None) };
        let first = buffer.device_ptr(&self.stream).0;
        let n = (buffer.len() / 16) as u64;
        let (seconds, sums) = self.timed(&self.read, READ, &[first, n, TIMES])?;
        let sum = sums.iter().fold(0, |sum: u32, part| sum.wrapping_add(*part));
        let words = 4 * TIMES * n;
        check(sum == u32::from_ne_bytes([BYTE; 4]).wrapping_mul(words as u32))?;
        Ok(Some(4.0 * words as f64 / seconds))
    }

    /// Operations on 8-bit integers (a multiply-add is two) that its tensor cores do in a second.
    /// `None` where it has not the instruction that our products use.
    ///
    /// # Errors
    /// The card failed, or found something else.
    pub fn multiply(&self) -> Result<Option<f64>> {
        let Some(multiply) = &self.multiply else { return Ok(None) };
        let (seconds, rests) = self.timed(multiply, MULTIPLY, &[u64::from(ROUNDS)])?;
        check(rests.iter().all(|rest| *rest == 0))?;
        let warps = u64::from(self.multiprocessors * MULTIPLY.0 * MULTIPLY.1 / 32);
        Ok(Some((warps * u64::from(ROUNDS) * PER_ROUND) as f64 / seconds))
    }

    /// The buffer, filled; none where there is no memory for one that is large enough.
    fn new_buffer(&self) -> Result<Option<CudaSlice<u8>>> {
        let size = BUFFER.min(self.free()? / 2) / 16 * 16;
        if size == 0 || size < TIMES_NEAR * self.near {
            return Ok(None);
        }
        // SAFETY: it is filled at once, and on the stream that it was taken on.
        unsafe {
            let buffer = self.stream.alloc::<u8>(size).map_err(failed("taking memory"))?;
            let first = buffer.device_ptr(&self.stream).0;
            let filled = result::memset_d8_async(first, BYTE, size, self.stream.cu_stream());
            filled.map_err(failed("filling memory"))?;
            Ok(Some(buffer))
        }
    }

    /// Runs a kernel on so many blocks of each multiprocessor and so many threads: seconds by the
    /// card's clock, and the word that each thread leaves.
    fn timed(
        &self,
        kernel: &CudaFunction,
        (blocks, threads): (u32, u32),
        arguments: &[u64],
    ) -> Result<(f64, Vec<u32>)> {
        let failed = failed("measuring the card");
        let blocks = blocks * self.multiprocessors;
        let mut words = vec![u32::MAX; (blocks * threads) as usize];
        let mut out = self.stream.alloc_zeros::<u32>(words.len()).map_err(&failed)?;
        self.stream.memcpy_htod(&words, &mut out).map_err(&failed)?;
        let config = LaunchConfig {
            grid_dim: (blocks, 1, 1),
            block_dim: (threads, 1, 1),
            shared_mem_bytes: 0,
        };
        let mut launch = self.stream.launch_builder(kernel);
        launch.record_kernel_launch(CUevent_flags::CU_EVENT_DEFAULT);
        for argument in arguments {
            launch.arg(argument);
        }
        launch.arg(&mut out);
        // SAFETY: the arguments are those of the kernels in `probe.cu`, which read what the caller
        // holds, and write a word for each thread.
        let events = unsafe { launch.launch(config) }.map_err(&failed)?;
        let (begun, done) = events.ok_or(EngineError::NoDriver)?;
        let seconds = f64::from(begun.elapsed_ms(&done).map_err(&failed)?) / 1e3;
        self.stream.memcpy_dtoh(&out, &mut words).map_err(&failed)?;
        self.stream.synchronize().map_err(&failed)?;
        Ok((seconds, words))
    }
}

/// A fast wrong answer is no answer.
fn check(is_right: bool) -> Result<()> {
    if is_right {
        return Ok(());
    }
    Err(EngineError::Card {
        what: "measuring the card",
        reason: "its sums are wrong".to_owned(),
        mend: "--device cpu does without the card",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::cards;

    #[test]
    fn a_card_reads_and_multiplies_as_fast_as_any() {
        let Some(card) = cards().ok().and_then(|cards| cards.into_iter().next()) else {
            println!("skipped: no card");
            return;
        };
        let mut probe = CardProbe::new(card.number).unwrap();
        for _ in 0..2 {
            // From the slowest that there are to some years ahead.
            let read = probe.read().unwrap();
            assert!(read.is_none_or(|rate| (1e10..5e13).contains(&rate)), "{read:?}");
            let multiplied = probe.multiply().unwrap();
            assert_eq!(multiplied.is_some(), card.capability.0 >= 8);
            assert!(multiplied.is_none_or(|rate| (1e12..1e17).contains(&rate)), "{multiplied:?}");
        }
    }

    #[test]
    fn without_a_card_that_is_what_it_says() {
        if cards().is_ok_and(|cards| !cards.is_empty()) {
            println!("skipped: there is a card");
            return;
        }
        assert!(matches!(
            CardProbe::new(0),
            Err(EngineError::NoDriver | EngineError::NoCard { .. })
        ));
    }
}
