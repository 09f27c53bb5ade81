//! `brooklet.Batch`: many texts at a time, of which each pass reads the weights once.
//!
//! Not here: the passes (`brooklet::schedule`), what becomes of one text (`completion`). Test:
//! `tests/test_batch.py`.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use brooklet::generate::{Ended, Limits};
use brooklet::prefix::PrefixCache;
use brooklet::schedule::{Event, Request, Scheduler, Ticket};
use brooklet::{EngineError, EngineOptions};
use pyo3::prelude::*;
use pyo3::types::PyIterator;

use crate::completion::{Completion, Job};
use crate::errors::{Failure, Result};
use crate::generate::{Wish, name};
use crate::held::Held;
use crate::interrupt::Watch;
use crate::model::Opened;
use crate::prompt::Prompt;

/// How a batch is worked off.
pub(crate) struct How {
    pub(crate) parallel: usize,
    pub(crate) ordered: bool,
    pub(crate) keep_errors: bool,
    pub(crate) cache: usize,
}

/// Where seeds come from.
pub(crate) enum Seeds {
    /// Each prompt gets one of its own.
    New,
    /// The first prompt's, and the numbers behind it.
    From(u64),
    /// One for each prompt.
    Each(Py<PyIterator>),
}

impl Seeds {
    pub(crate) fn of(seed: Option<&Bound<'_, PyAny>>) -> PyResult<Seeds> {
        match seed {
            None => Ok(Seeds::New),
            Some(seed) => match seed.extract::<u64>() {
                Ok(seed) => Ok(Seeds::From(seed)),
                Err(_) => Ok(Seeds::Each(seed.try_iter()?.unbind())),
            },
        }
    }

    fn next(&self, py: Python<'_>, index: usize) -> PyResult<Option<u64>> {
        match self {
            Seeds::New => Ok(None),
            Seeds::From(seed) => Ok(Some(seed.wrapping_add(index as u64))),
            Seeds::Each(seeds) => match seeds.bind(py).clone().next() {
                Some(seed) => Ok(Some(seed?.extract()?)),
                None => {
                    Err(Failure::Argument(format!("there is no seed for prompt {index}")).into())
                }
            },
        }
    }
}

/// What came of a prompt.
type Outcome = Result<Job, (Job, Failure)>;

/// All that a batch is made of.
struct Work {
    prompts: Option<Py<PyIterator>>,
    seeds: Seeds,
    wish: Wish,
    how: How,
    scheduler: Scheduler<'static>,
    jobs: HashMap<Ticket, Job>,
    /// Prompts taken.
    taken: usize,
    /// Outcomes that nobody has got yet, by prompt, with the reason of the end.
    done: BTreeMap<usize, (Outcome, &'static str)>,
    /// The prompt whose outcome is the next, where they are ordered.
    next: usize,
}

/// Texts behind many prompts in the making: an iterator of completions.
#[pyclass(frozen, module = "brooklet")]
pub(crate) struct Batch {
    opened: Arc<Opened>,
    work: Held<Work>,
}

impl Batch {
    pub(crate) fn new(
        opened: &Arc<Opened>,
        prompts: Bound<'_, PyIterator>,
        seeds: Seeds,
        wish: Wish,
        how: How,
    ) -> PyResult<Batch> {
        if !(1..=1024).contains(&how.parallel) {
            let words = format!("parallel={}: expected 1 to 1024 texts at a time", how.parallel);
            return Err(Failure::Argument(words).into());
        }
        let options = EngineOptions::new().threads(opened.origin.threads);
        let cache = PrefixCache::new(&opened.model, how.cache);
        let (model, text) = (&opened.model, opened.text.clone());
        let work = Work {
            prompts: Some(prompts.unbind()),
            seeds,
            wish,
            scheduler: Scheduler::owning(model, text, &options, how.parallel, cache),
            how,
            jobs: HashMap::new(),
            taken: 0,
            done: BTreeMap::new(),
            next: 0,
        };
        Ok(Batch { opened: Arc::clone(opened), work: Held::new(work) })
    }
}

#[pymethods]
impl Batch {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Completion>> {
        let (outcome, reason, keep_errors) = match self.work.with(py, |work| {
            let outcome = work.next(&self.opened)?;
            Ok(outcome.map(|(outcome, reason)| (outcome, reason, work.how.keep_errors)))
        })? {
            Some(outcome) => outcome,
            None => return Ok(None),
        };
        match outcome {
            Ok(job) => Ok(Some(job.completion(reason, None))),
            Err((job, failure)) => {
                let error = PyErr::from(failure);
                if !keep_errors {
                    return Err(error);
                }
                let error = error.into_value(py).into_any();
                Ok(Some(job.completion("error", Some(error))))
            }
        }
    }
}

impl Work {
    /// The next outcome; none where all prompts are done.
    fn next(&mut self, opened: &Opened) -> Result<Option<(Outcome, &'static str)>> {
        let mut watch = Watch::new();
        loop {
            if let Some(outcome) = self.ready() {
                return Ok(Some(outcome));
            }
            // One long text holds those behind it back, and what is done waits: up to a bound.
            let waiting = self.how.parallel * 16;
            while self.prompts.is_some() && self.scheduler.has_room() && self.done.len() < waiting {
                self.take(opened)?;
            }
            if self.scheduler.is_empty() && self.done.is_empty() {
                return Ok(None);
            }
            self.step();
            if !watch.goes_on() {
                watch.end()?;
                watch = Watch::new();
            }
        }
    }

    /// An outcome whose turn it is.
    fn ready(&mut self) -> Option<(Outcome, &'static str)> {
        let (&index, _) = self.done.first_key_value()?;
        if self.how.ordered && index != self.next {
            return None;
        }
        self.next += 1;
        self.done.remove(&index)
    }

    /// Takes the next prompt. One that cannot be read fails for itself; what the iterator of
    /// prompts raises ends it.
    fn take(&mut self, opened: &Opened) -> Result<()> {
        let Some(prompts) = &self.prompts else { return Ok(()) };
        let index = self.taken;
        let next = Python::attach(|py| -> PyResult<_> {
            let Some(prompt) = prompts.bind(py).clone().next() else { return Ok(None) };
            let prompt = prompt?;
            let seed = self.seeds.next(py, index)?;
            Ok(Some((Prompt::of(&prompt), seed)))
        });
        let (prompt, seed) = match next {
            Ok(Some(next)) => next,
            ended => {
                self.prompts = None;
                return ended.map(|_| ()).map_err(Failure::from);
            }
        };
        self.taken += 1;
        let job = Job { index, seed: seed.unwrap_or_default(), ..Job::default() };
        let begun = prompt.map_err(Failure::from).and_then(|prompt| {
            let ids = prompt.begin(&opened.text)?;
            let sampler = self.wish.sampling.sampler(seed, opened.model.n_vocab())?;
            let seed = sampler.seed();
            let limits = Limits::new(self.wish.tokens).ignore_end(self.wish.ignore_end);
            let mut request = Request::new(ids, sampler, limits);
            request.stops.clone_from(&self.wish.stops);
            Ok((self.scheduler.submit(request)?, seed))
        });
        match begun {
            Ok((ticket, seed)) => drop(self.jobs.insert(ticket, Job { seed, ..job })),
            Err(failure) => drop(self.done.insert(index, (Err((job, failure)), "error"))),
        }
        Ok(())
    }

    /// One pass.
    fn step(&mut self) {
        let Work { scheduler, jobs, done, wish, .. } = self;
        scheduler.step(|ticket, event| {
            match event {
                Event::Read(reading) => {
                    jobs.entry(ticket).and_modify(|job| job.reading = reading);
                }
                Event::Piece(piece) => {
                    let logprobs = wish.logprobs.is_some();
                    jobs.entry(ticket).and_modify(|job| job.take(&piece, logprobs));
                }
                Event::Ended(ended) => {
                    if let Some(job) = jobs.remove(&ticket) {
                        done.insert(job.index, outcome(job, ended));
                    }
                }
                _ => {}
            }
            ControlFlow::Continue(())
        });
    }
}

/// What came of a text.
fn outcome(job: Job, ended: Result<Ended, EngineError>) -> (Outcome, &'static str) {
    match ended {
        Ok(ended) => (Ok(job), name(ended.reason)),
        Err(error) => (Err((job, error.into())), "error"),
    }
}
