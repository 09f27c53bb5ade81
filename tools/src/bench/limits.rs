//! The machine's limits, measured now: reading memory, multiply-adds of int8, bf16 and f32, on one
//! thread and on several.
//!
//! Other tenants of a machine move these figures, so `bench` takes them between its timed runs. The
//! instructions are the engine's (`brooklet::bench::limits`); threads and clock are here. Test:
//! `tests/cli/bench.rs`.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use brooklet::Isa;
use brooklet::bench::limits;
use brooklet_formats::zeroed::Zeroed;
use serde::Serialize;

use super::measure::median;
use crate::failure::{Failure, Result};
use crate::memory;

/// The buffer to read, much larger than any cache, unless memory is short.
const BUFFER: u64 = 512 << 20;
/// A timed run of multiply-adds takes at least this long.
const LEAST: Duration = Duration::from_millis(4);

/// Readings of one quantity on some number of threads.
#[derive(Clone, Debug, Default)]
struct Readings {
    read: Vec<f64>,
    int8: Vec<f64>,
    bf16: Vec<f64>,
    f32: Vec<f64>,
}

/// Medians. `None` where the instruction set has no such instruction.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Limits {
    pub(super) threads: usize,
    /// Bytes read from memory, GB/s.
    pub(super) read_gbps: f64,
    /// Dot products of 8-bit integers, billions of multiply-adds per second.
    pub(super) int8_gmacs: Option<f64>,
    /// Dot products of bf16 pairs, billions of multiply-adds per second.
    pub(super) bf16_gmacs: Option<f64>,
    /// Fused multiply-adds of f32, billions per second.
    pub(super) f32_gmacs: Option<f64>,
}

/// Takes readings.
pub(super) struct Probe {
    isa: Isa,
    threads: usize,
    buffer: Zeroed<u8>,
    readings: Readings,
}

impl Probe {
    /// A probe of `threads` threads. Its buffer, in huge pages where the system has them, takes
    /// memory from the first reading on.
    ///
    /// # Errors
    /// The system refuses the buffer.
    pub(super) fn new(isa: Isa, threads: usize) -> Result<Probe> {
        let size = memory::available().map_or(BUFFER, |available| BUFFER.min(available / 4));
        let buffer = Zeroed::try_new(size as usize)
            .map_err(|error| Failure::new(format!("no memory to measure its speed: {error}")))?;
        Ok(Probe { isa, threads, buffer, readings: Readings::default() })
    }

    /// The same buffer for another number of threads.
    pub(super) fn with_threads(self, threads: usize) -> Probe {
        Probe { threads, readings: Readings::default(), ..self }
    }

    /// Takes one reading of everything.
    pub(super) fn take(&mut self) {
        if self.readings.read.is_empty() {
            self.buffer.fill(1);
        }
        let isa = self.isa;
        let part = self.buffer.len().div_ceil(self.threads).max(1);
        let parts: Vec<&[u8]> = self.buffer.chunks(part).collect();
        let time = together(&parts, |bytes| {
            black_box(limits::read(isa, bytes));
        });
        self.readings.read.push(self.buffer.len() as f64 / time.as_secs_f64() / 1e9);
        self.readings
            .int8
            .extend(peak(self.threads, |rounds| limits::int8_multiply_adds(isa, rounds)));
        self.readings
            .bf16
            .extend(peak(self.threads, |rounds| limits::bf16_multiply_adds(isa, rounds)));
        self.readings
            .f32
            .extend(peak(self.threads, |rounds| limits::f32_multiply_adds(isa, rounds)));
    }

    /// The medians so far.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            threads: self.threads,
            read_gbps: median(&self.readings.read).unwrap_or(0.0),
            int8_gmacs: median(&self.readings.int8),
            bf16_gmacs: median(&self.readings.bf16),
            f32_gmacs: median(&self.readings.f32),
        }
    }
}

/// Billions of operations per second of `work`, which does some number of rounds and says how many
/// operations that was.
fn peak(threads: usize, work: impl Fn(usize) -> usize + Sync) -> Option<f64> {
    let mut rounds = 1 << 12;
    loop {
        let start = Instant::now();
        if work(rounds) == 0 {
            return None;
        }
        if start.elapsed() >= LEAST / 2 {
            break;
        }
        rounds *= 2;
    }
    let operations = work(2 * rounds);
    let time = together(&vec![(); threads], |()| {
        black_box(work(2 * rounds));
    });
    Some((operations * threads) as f64 / time.as_secs_f64() / 1e9)
}

/// Does `work` on every item, each on a thread of its own, all starting at once; the time until the
/// last is done.
fn together<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) -> Duration {
    let (start, work) = (Barrier::new(items.len()), &work);
    let run = |item: &T| {
        start.wait();
        let begun = Instant::now();
        work(item);
        (begun, Instant::now())
    };
    let spans: Vec<(Instant, Instant)> = std::thread::scope(|scope| {
        let rest: Vec<_> = items.iter().skip(1).map(|item| scope.spawn(|| run(item))).collect();
        let first = items.first().map(run);
        first.into_iter().chain(rest.into_iter().filter_map(|thread| thread.join().ok())).collect()
    });
    let begun = spans.iter().map(|span| span.0).min();
    let done = spans.iter().map(|span| span.1).max();
    begun.zip(done).map_or(Duration::ZERO, |(begun, done)| done - begun)
}
