//! The engine thread: it owns the scheduler, begins jobs, runs passes, and tells what happens.
//!
//! Nothing here waits for a client. Between two passes new jobs begin and those end that nobody
//! waits for: their client has left, does not read, or their time is over. Not here: who asks
//! (`handlers`), what a text costs (`brooklet::schedule`).

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use brooklet::generate::{Ended, Reason};
use brooklet::schedule::{Event, Request, Scheduler, Ticket};
use brooklet::{EngineError, Text};

use crate::error::ApiError;
use crate::jobs::{Command, End, Job, MOST_UNREAD, UNREAD, What};
use crate::metrics::Metrics;
use crate::tokens::TokenInfo;

/// A job that has begun.
struct Active {
    job: Job,
    /// Which texts have ended.
    done: Vec<bool>,
    /// For each group, the number of its first text while the others wait for it.
    leaders: Vec<Option<usize>>,
    /// When the last token of each text came, and how many there are.
    last: Vec<Option<Instant>>,
    written: Vec<usize>,
    /// Since when its client has too much left to read.
    stalled: Option<Instant>,
}

/// The thread's work.
pub(crate) struct Worker<'a> {
    scheduler: Scheduler<'a>,
    text: &'a Text,
    commands: Receiver<Command>,
    metrics: Arc<Metrics>,
    /// How long a client may leave too much unread.
    patience: Duration,
    jobs: HashMap<u64, Active>,
    /// The job and the place in it of each text.
    texts: HashMap<Ticket, (u64, usize)>,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(
        scheduler: Scheduler<'a>,
        text: &'a Text,
        commands: Receiver<Command>,
        metrics: Arc<Metrics>,
        patience: Duration,
    ) -> Worker<'a> {
        let (jobs, texts) = (HashMap::new(), HashMap::new());
        Worker { scheduler, text, commands, metrics, patience, jobs, texts }
    }

    /// Works until nobody can ask any more, or the server says so.
    pub(crate) fn run(mut self) {
        while self.listen().is_continue() {
            self.end_those_whose_time_is_over();
            if !self.scheduler.is_empty() {
                self.pass();
            }
            self.count();
        }
        let ids: Vec<u64> = self.jobs.keys().copied().collect();
        ids.into_iter().for_each(|id| self.fail(id, &ApiError::stopping()));
    }

    /// Takes what was asked meanwhile; waits for it where there is nothing else to do.
    fn listen(&mut self) -> ControlFlow<()> {
        if self.scheduler.is_empty() {
            match self.commands.recv() {
                Ok(command) => self.obey(command)?,
                Err(_) => return ControlFlow::Break(()),
            }
        }
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.obey(command)?,
                Err(TryRecvError::Empty) => return ControlFlow::Continue(()),
                Err(TryRecvError::Disconnected) => return ControlFlow::Break(()),
            }
        }
    }

    fn obey(&mut self, command: Command) -> ControlFlow<()> {
        match command {
            Command::Begin(job) => self.begin(*job),
            Command::Leave => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    fn begin(&mut self, job: Job) {
        let id = job.id;
        let groups: Vec<usize> = job.groups.iter().map(VecDeque::len).collect();
        let open = groups.iter().sum();
        let mut active = Active {
            job,
            done: vec![false; open],
            leaders: vec![None; groups.len()],
            last: vec![None; open],
            written: vec![0; open],
            stalled: None,
        };
        let (mut first, mut leaders) = (0, Vec::new());
        for (group, n) in groups.into_iter().enumerate() {
            if let Some(request) = active.job.groups[group].pop_front() {
                active.leaders[group] = Some(first);
                leaders.push((first, request));
            }
            first += n;
        }
        self.jobs.insert(id, active);
        leaders.into_iter().for_each(|(index, request)| self.submit(id, index, request));
    }

    fn submit(&mut self, id: u64, index: usize, request: Request) {
        match self.scheduler.submit(request) {
            Ok(ticket) => {
                self.texts.insert(ticket, (id, index));
            }
            Err(error) => {
                self.ended(id, index, Err(ApiError::engine("prompt", &error)));
                self.follow(id, index);
            }
        }
    }

    /// Begins the other texts of a group whose first one has read their prompt.
    fn follow(&mut self, id: u64, index: usize) {
        let Some(active) = self.jobs.get_mut(&id) else { return };
        let Some(group) = active.leaders.iter().position(|leader| *leader == Some(index)) else {
            return;
        };
        active.leaders[group] = None;
        let others = std::mem::take(&mut active.job.groups[group]);
        for (i, request) in others.into_iter().enumerate() {
            self.submit(id, index + 1 + i, request);
        }
    }

    /// One pass, and what came of it.
    fn pass(&mut self) {
        let Worker { scheduler, text, metrics, jobs, texts, .. } = self;
        // Nothing is submitted, and no job ends, while the scheduler works.
        let (mut follow, mut ended) = (Vec::new(), Vec::new());
        scheduler.step(|ticket, event| {
            let Some((id, index)) = texts.get(&ticket).copied() else {
                return ControlFlow::Break(());
            };
            let Some(active) = jobs.get_mut(&id) else { return ControlFlow::Break(()) };
            let what = match event {
                Event::Read(reading) => {
                    follow.push((id, index));
                    metrics.read.fetch_add((reading.computed + reading.replayed) as u64, Relaxed);
                    metrics.replayed.fetch_add(reading.replayed as u64, Relaxed);
                    metrics.reused.fetch_add(reading.reused as u64, Relaxed);
                    What::Read(reading)
                }
                Event::Piece(piece) => {
                    active.token(index, piece.token.is_some(), metrics);
                    let top = active.job.logprobs;
                    let token = top.and_then(|top| TokenInfo::of(&piece, text, top));
                    if piece.text.is_empty() && token.is_none() {
                        return ControlFlow::Continue(());
                    }
                    What::Piece { text: piece.text.to_owned(), token }
                }
                Event::Embedded(vector) => What::Embedded(vector.to_vec()),
                Event::Stands(snapshot) => What::Stands(snapshot),
                Event::Ended(done) => {
                    texts.remove(&ticket);
                    ended.push((id, index, end(done, active.written[index])));
                    return ControlFlow::Continue(());
                }
                _ => return ControlFlow::Continue(()),
            };
            match active.job.outbox.tell(index, what) {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
        self.metrics.passes.fetch_add(1, Relaxed);
        for (id, index) in follow {
            self.follow(id, index);
        }
        for (id, index, done) in ended {
            self.ended(id, index, done);
            // A prompt that could not be read fails for the others, too.
            self.follow(id, index);
        }
    }

    /// A text has ended; with the last one of its job, the job has.
    fn ended(&mut self, id: u64, index: usize, done: Result<End, ApiError>) {
        let Some(active) = self.jobs.get_mut(&id) else { return };
        if done.as_ref().is_ok_and(|end| end.reason == Reason::Cancelled) {
            self.metrics.cancelled.fetch_add(1, Relaxed);
        }
        active.job.outbox.tell(index, What::Ended(done));
        active.done[index] = true;
        if active.done.iter().all(|done| *done) {
            self.jobs.remove(&id);
        }
    }

    /// Forgets a job that nobody waits for.
    fn cancel(&mut self, id: u64) {
        if self.jobs.remove(&id).is_some() {
            self.metrics.cancelled.fetch_add(1, Relaxed);
            self.drop_texts(id);
        }
    }

    /// Ends a job with an error.
    fn fail(&mut self, id: u64, error: &ApiError) {
        let Some(active) = self.jobs.remove(&id) else { return };
        for (index, _) in active.done.iter().enumerate().filter(|(_, done)| !**done) {
            active.job.outbox.tell(index, What::Ended(Err(error.clone())));
        }
        self.drop_texts(id);
    }

    fn drop_texts(&mut self, id: u64) {
        let scheduler = &mut self.scheduler;
        self.texts.retain(|ticket, (of, _)| {
            let stays = *of != id;
            if !stays {
                scheduler.cancel(*ticket);
            }
            stays
        });
    }

    fn end_those_whose_time_is_over(&mut self) {
        let now = Instant::now();
        let (mut late, mut left) = (Vec::new(), Vec::new());
        for (id, active) in &mut self.jobs {
            let unread = active.job.outbox.unread();
            active.stalled = (unread > UNREAD).then(|| active.stalled.unwrap_or(now));
            let is_lost = active.stalled.is_some_and(|since| now - since > self.patience)
                || unread > MOST_UNREAD;
            if is_lost || active.job.outbox.is_closed() {
                left.push(*id);
            } else if now > active.job.deadline {
                late.push(*id);
            }
        }
        late.into_iter().for_each(|id| self.fail(id, &ApiError::timeout()));
        left.into_iter().for_each(|id| self.cancel(id));
    }

    fn count(&self) {
        let running = self.scheduler.running();
        self.metrics.running.store(running, Relaxed);
        let all: usize = self.jobs.values().map(Active::open).sum();
        self.metrics.waiting.store(all.saturating_sub(running), Relaxed);
        let bytes = self.scheduler.caches().iter().map(|cache| cache.bytes()).sum();
        self.metrics.cache_bytes.store(bytes, Relaxed);
        let guessed = self.scheduler.guessed();
        self.metrics.guesses.store(guessed.guesses as u64, Relaxed);
        self.metrics.right.store(guessed.right as u64, Relaxed);
    }
}

impl Active {
    /// Texts that have not ended.
    fn open(&self) -> usize {
        self.done.iter().filter(|done| !**done).count()
    }

    /// A token of a text has come.
    fn token(&mut self, index: usize, is_token: bool, metrics: &Metrics) {
        if !is_token {
            return;
        }
        let now = Instant::now();
        metrics.written.fetch_add(1, Relaxed);
        self.written[index] += 1;
        match self.last[index].replace(now) {
            Some(last) => metrics.gap.add(now - last),
            None => metrics.first.add(now - self.job.came),
        }
    }
}

/// How a text ended. One that has `written` tokens and finds no room for more is as long as it can
/// be: that is no failure.
fn end(done: brooklet::Result<Ended>, written: usize) -> Result<End, ApiError> {
    match done {
        Ok(ended) => Ok(End { reason: ended.reason, tokens: ended.tokens }),
        Err(EngineError::Context { .. }) if written > 0 => {
            Ok(End { reason: Reason::Length, tokens: written })
        }
        Err(error) => Err(ApiError::engine("prompt", &error)),
    }
}
