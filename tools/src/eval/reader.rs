//! One model that reads the text, and how far its distributions are from others'.

use std::panic::resume_unwind;
use std::thread::Builder;

use brooklet::horizon::{Horizon, Keeper};
use brooklet::{Engine, Model, Run, State, Want};

use crate::args::EngineArgs;
use crate::failure::{Failure, Result};
use brooklet_quantize::score::{LogProbs, Mean};

/// A model that reads the text, and its score so far.
pub(super) struct Reader {
    engine: Engine,
    state: State,
    /// What keeps the state fresh, where that is wanted.
    keeper: Option<Keeper>,
    /// Tokens that were read.
    position: u64,
    /// Of each token after those before it.
    pub(super) nats: Mean,
    /// The same, of the tokens at position 2ⁱ and up to the next power.
    pub(super) by_position: Vec<Mean>,
}

impl Reader {
    pub(super) fn new(
        model: &Model,
        args: &EngineArgs,
        horizon: Option<Horizon>,
    ) -> Result<Reader> {
        let engine = Engine::new(model, &args.options(model, args.chunk as usize)?);
        Ok(Reader {
            engine,
            state: model.new_state(),
            keeper: horizon.map(Keeper::new).transpose()?,
            position: 0,
            nats: Mean::default(),
            by_position: Vec::new(),
        })
    }

    /// Threads that read.
    pub(super) fn threads(&self) -> usize {
        self.engine.threads()
    }

    /// Forgets everything.
    pub(super) fn reset(&mut self) {
        self.state.reset();
        self.position = 0;
        self.keeper.iter_mut().for_each(Keeper::reset);
    }

    /// Reads `chunk` and scores the tokens that follow each of its own; `next` begins with the
    /// second. Gives the distribution after each.
    pub(super) fn read(&mut self, chunk: &[u32], next: &[u32]) -> Result<Vec<LogProbs<'_>>> {
        let position = self.position;
        if let Some(keeper) = &mut self.keeper {
            keeper.before(&mut self.engine, &mut self.state)?;
            keeper.after(chunk);
        }
        self.engine.forward(&mut [Run {
            state: &mut self.state,
            tokens: chunk,
            want: Want::All,
        }])?;
        self.position += chunk.len() as u64;
        let rows: Vec<&[f32]> = (0..chunk.len()).map(|row| self.engine.logits(row)).collect();
        let distributions = on_threads(self.engine.threads(), &rows, |row| LogProbs::new(row));
        for (row, distribution) in distributions.iter().enumerate() {
            if !distribution.is_finite() {
                let place = position + row as u64;
                return Err(Failure::with(
                    format!("the logits after token {place} are not finite"),
                    "check the file with `brooklet verify`, and the checkpoint it was made from",
                ));
            }
            if let Some(&next) = next.get(row) {
                self.nats.add(-distribution.of(next));
                add_at(&mut self.by_position, position + row as u64 + 1, -distribution.of(next));
            }
        }
        Ok(distributions)
    }
}

/// `f` of each item, in order. An item is done on one thread, so that the results do not depend on
/// how many there are.
pub(super) fn on_threads<T: Sync, R: Send>(
    threads: usize,
    items: &[T],
    f: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let run = &|part: &[T]| part.iter().map(&f).collect::<Vec<R>>();
    let mut parts = items.chunks(items.len().div_ceil(threads).max(1));
    let first = parts.next().unwrap_or_default();
    std::thread::scope(|scope| {
        // Where the system refuses a thread, this one does its part.
        let start = |part| Builder::new().spawn_scoped(scope, move || run(part)).map_err(|_| part);
        let rest: Vec<_> = parts.map(start).collect();
        let mut results = run(first);
        for part in rest {
            results.extend(match part {
                Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                Err(part) => run(part),
            });
        }
        results
    })
}

/// Adds a value to the bucket of a position, which is not 0: bucket i has those from 2ⁱ on.
fn add_at(buckets: &mut Vec<Mean>, position: u64, value: f64) {
    let bucket = position.ilog2() as usize;
    if buckets.len() <= bucket {
        buckets.resize(bucket + 1, Mean::default());
    }
    buckets[bucket].add(value);
}

/// Distances from the reference, position by position.
#[derive(Default)]
pub(super) struct Divergences {
    /// KL after each token, in the order of the text.
    pub(super) nats: Vec<f64>,
    /// Positions at which both have the same likeliest token.
    pub(super) agreed: usize,
    /// How many of the reference's five likeliest tokens are among the model's, of all positions.
    pub(super) shared: usize,
    /// KL by the number of tokens read, in buckets as [`Reader::by_position`].
    pub(super) by_position: Vec<Mean>,
}

/// How many of the likeliest tokens are compared.
pub(super) const LIKELIEST: usize = 5;

impl Divergences {
    /// `position` tokens were read before those of the rows; `threads` compare.
    pub(super) fn add(
        &mut self,
        (threads, position): (usize, usize),
        reference: &[LogProbs<'_>],
        model: &[LogProbs<'_>],
    ) {
        let pairs: Vec<_> = reference.iter().zip(model).collect();
        let compared = on_threads(threads, &pairs, |(reference, model)| {
            let (expected, found) = (reference.likeliest(LIKELIEST), model.likeliest(LIKELIEST));
            let shared = expected.iter().filter(|id| found.contains(id)).count();
            (reference.divergence_from(model), expected[0] == found[0], shared)
        });
        for (row, (nats, agreed, shared)) in compared.into_iter().enumerate() {
            self.nats.push(nats);
            self.agreed += usize::from(agreed);
            self.shared += shared;
            add_at(&mut self.by_position, (position + row) as u64 + 1, nats);
        }
    }
}
