//! A text of the scheduler that is being read or written: which columns it gets, and what becomes
//! of them.

use std::ops::ControlFlow::{self, Break, Continue};

use crate::engine::{Engine, Run, Want};
use crate::generate::{Ended, Piece, Reason, Writer};
use crate::model::Model;
use crate::prefix::{Known, PrefixCache, Reading};
use crate::sampler::Sampler;
use crate::session::Pooling;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::text::Text;
use crate::{EngineError, Result};

use super::guess::Guesser;
use super::{Event, Request, Ticket};

/// A text.
pub(super) struct Job {
    pub(super) ticket: Ticket,
    /// The prompt, and what was written behind it and goes on; the state has read `at` of them.
    tokens: Vec<u32>,
    /// How many of them are the prompt.
    prompt: usize,
    borders: Vec<usize>,
    pub(super) at: usize,
    pub(super) state: State,
    /// The cache that it is kept in.
    pub(super) cache: usize,
    /// Of its beginning; nothing where it is its own.
    known: Option<Known>,
    keeps_answer: bool,
    tells_end: bool,
    pool: Option<Pool>,
    sampler: Sampler,
    writer: Writer,
}

/// An embedding in the making.
struct Pool {
    pooling: Pooling,
    hidden: Vec<f32>,
    /// Summed token by token: the same however a text is cut. `(d_model)`
    sum: Vec<f64>,
}

impl Job {
    /// A text at its beginning, or where a copy of it stands; with the logits there, if its prompt
    /// is known to the end.
    pub(super) fn new(
        ticket: Ticket,
        request: Request,
        text: &Text,
        model: &Model,
        cache: &mut PrefixCache,
    ) -> (Job, Vec<f32>) {
        let Request { prompt: tokens, borders, sampler, pooling, .. } = request;
        let pool = pooling.map(|pooling| Pool {
            pooling,
            hidden: vec![0.0; model.d_model()],
            sum: vec![0.0; model.d_model()],
        });
        let (snapshot, known) = match request.start {
            Some(state) => (Snapshot::new(state), None),
            // Of an embedding every token counts, and no logits.
            None if pool.is_some() => (Snapshot::new(model.new_state()), None),
            None => {
                let (snapshot, known) = cache.begin(model, &tokens);
                (snapshot, Some(known))
            }
        };
        let Snapshot { state, logits, .. } = snapshot;
        let job = Job {
            ticket,
            prompt: tokens.len(),
            tokens,
            borders,
            at: known.as_ref().map_or(0, |known| known.reused),
            state,
            cache: request.cache,
            known,
            keeps_answer: request.keeps_answer,
            tells_end: request.tells_end,
            pool,
            sampler,
            writer: Writer::new(text, &request.limits.stops(&request.stops)),
        };
        (job, logits)
    }

    /// Tokens of the prompt that are still to be read.
    pub(super) fn left(&self) -> usize {
        self.prompt.saturating_sub(self.at)
    }

    pub(super) fn is_reading(&self) -> bool {
        self.left() > 0
    }

    /// Where in the prompt it stops next, at the latest.
    pub(super) fn next_stop(&self, cache: &PrefixCache) -> usize {
        match &self.known {
            Some(known) => cache.next_copy(known, self.at, self.prompt, &self.borders),
            None => self.prompt,
        }
    }

    /// Tokens that the state has not read, the chosen ones among them: one behind the prompt,
    /// unless guesses were wrong.
    pub(super) fn unread(&self) -> &[u32] {
        self.tokens.get(self.at..).unwrap_or_default()
    }

    /// All tokens that are certain.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(super) fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// How many guesses may be of use to it: none while it reads, nor behind its last token.
    pub(super) fn guesses(&self) -> usize {
        if self.is_reading() || self.pool.is_some() {
            0
        } else {
            self.writer.left().saturating_sub(1)
        }
    }

    /// The logits that it wants behind its next `n` tokens.
    pub(super) fn want(&self, n: usize) -> Want {
        let is_inside = self.at + n < self.prompt || self.pool.is_some();
        if is_inside { Want::None } else { Want::Last }
    }

    /// Its part in a pass: its next `n` tokens.
    pub(super) fn run(&mut self, n: usize) -> Run<'_> {
        let want = self.want(n);
        Run { state: &mut self.state, tokens: &self.tokens[self.at..self.at + n], want }
    }

    /// The same with guesses behind its next tokens, which `ahead` begins with.
    pub(super) fn run_ahead<'b>(&'b mut self, ahead: &'b [u32], guesses: usize) -> Run<'b> {
        Run { state: &mut self.state, tokens: ahead, want: Want::Tail(1 + guesses) }
    }

    /// A prompt that is known to its end needs no pass to begin with. Breaks where the text has
    /// ended.
    pub(super) fn begins(
        &mut self,
        logits: &[f32],
        cache: &mut PrefixCache,
        emit: &mut impl FnMut(Ticket, Event<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if self.is_reading() {
            return Continue(());
        }
        self.has_read(emit);
        self.write(logits, cache, emit)
    }

    /// A pass has read its next `n` tokens, the first of which was `column` of the pass. Breaks
    /// where the text has ended.
    pub(super) fn goes_on(
        &mut self,
        n: usize,
        (engine, column): (&Engine, usize),
        logits: &[f32],
        cache: &mut PrefixCache,
        emit: &mut impl FnMut(Ticket, Event<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let was_reading = self.is_reading();
        self.at += n;
        if !was_reading {
            return self.write(logits, cache, emit);
        }
        let is_read = !self.is_reading();
        if let Some(pool) = &mut self.pool {
            let added = pool.add(engine, column..column + n, is_read);
            return match added {
                Ok(()) if !is_read => Continue(()),
                added => self.embedded(added, emit),
            };
        }
        self.keep(cache, logits);
        if !is_read {
            return Continue(());
        }
        self.has_read(emit);
        self.write(logits, cache, emit)
    }

    /// A pass has read its unread tokens, and guesses behind them. Breaks where the text has ended.
    pub(super) fn goes_ahead(
        &mut self,
        guesser: &mut Guesser,
        engine: &Engine,
        cache: &mut PrefixCache,
        emit: &mut impl FnMut(Ticket, Event<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (before, mut right) = (self.tokens.len(), 0);
        let flow = loop {
            let flow = self.choose(engine.logits(right), emit);
            if flow.is_break() || self.tokens.get(before + right) != guesser.path().get(right) {
                break flow;
            }
            right += 1;
        };
        // All were right, or the state is again what it was before the pass.
        if guesser.passed(right, &mut self.state) {
            self.at = before + right;
        }
        match flow {
            Continue(()) => Continue(()),
            Break(ended) => self.ends(ended, engine.logits(right), cache, emit),
        }
    }

    /// Tells the embedding.
    fn embedded(
        &mut self,
        added: Result<()>,
        emit: &mut impl FnMut(Ticket, Event<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.has_read(emit);
        if let (Ok(()), Some(pool)) = (&added, &mut self.pool) {
            let _ = emit(self.ticket, Event::Embedded(pool.finish(self.prompt)));
        }
        let _ = emit(self.ticket, Event::Ended(added.map(|()| self.writer.ended)));
        Break(())
    }

    /// Keeps a copy for others, where one is wanted.
    fn keep(&self, cache: &mut PrefixCache, logits: &[f32]) {
        let Some(known) = &self.known else { return };
        let is_border = self.borders.binary_search(&self.at).is_ok();
        let is_end = !self.is_reading() || is_border || self.at == known.common;
        // A state that a card has lost fails in the next pass.
        if (is_end || cache.is_regular(self.at)) && self.state.fetch().is_ok() {
            let copy = Snapshot::new(self.state.clone());
            let copy = Snapshot { logits: logits.to_vec(), ..copy };
            cache.insert(&self.tokens[..self.at], &copy, is_end);
        }
    }

    /// Keeps a copy behind the text, and tells where it stands, where that is wanted.
    fn stands(
        &self,
        ended: &Ended,
        logits: &[f32],
        cache: &mut PrefixCache,
        emit: &mut impl FnMut(Ticket, Event<'_>) -> ControlFlow<()>,
    ) {
        let keeps = self.keeps_answer && self.known.is_some() && self.at > self.prompt;
        if !(keeps || self.tells_end) || self.state.fetch().is_err() {
            return;
        }
        let mut copy = Box::new(Snapshot::new(self.state.clone()));
        if keeps {
            cache.insert(&self.tokens[..self.at], &copy, true);
        }
        if self.tells_end {
            copy.tail.clone_from(&self.tokens);
            copy.tail.extend(ended.pending.filter(|_| ended.reason != Reason::End));
            copy.unread = copy.tail.len() - self.at;
            if copy.unread == 0 {
                copy.logits = logits.to_vec();
            }
            copy.sampler = Some(self.sampler.state());
            let _ = emit(self.ticket, Event::Stands(copy));
        }
    }

    /// Tells that the prompt has been read.
    fn has_read(&self, emit: &mut impl FnMut(Ticket, Event<'_>) -> ControlFlow<()>) {
        let reading = match &self.known {
            Some(known) => known.reading(self.prompt),
            None => Reading { computed: self.prompt, ..Reading::default() },
        };
        let _ = emit(self.ticket, Event::Read(reading));
    }

    /// Chooses a token, if one is wanted. Breaks where the text has ended with it.
    fn write(
        &mut self,
        logits: &[f32],
        cache: &mut PrefixCache,
        emit: &mut impl FnMut(Ticket, Event<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        match self.choose(logits, emit) {
            Continue(()) => Continue(()),
            Break(ended) => self.ends(ended, logits, cache, emit),
        }
    }

    /// Chooses a token, if one is wanted, which is read next. Breaks with how the text has ended.
    fn choose(
        &mut self,
        logits: &[f32],
        emit: &mut impl FnMut(Ticket, Event<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<Result<Ended>> {
        let Job { ticket, sampler, writer, .. } = self;
        let mut give = |piece: Piece<'_>| Ok::<_, EngineError>(emit(*ticket, Event::Piece(piece)));
        let chosen = match writer.goes_on() {
            true => writer.choose(sampler, logits, &mut give),
            false => Ok(()),
        };
        if chosen.is_ok() && writer.goes_on() {
            self.tokens.extend(writer.ended.pending);
            return Continue(());
        }
        Break(chosen.and_then(|()| writer.finish(give)))
    }

    /// Tells how the text has ended.
    fn ends(
        &mut self,
        ended: Result<Ended>,
        logits: &[f32],
        cache: &mut PrefixCache,
        emit: &mut impl FnMut(Ticket, Event<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if let Ok(ended) = &ended {
            self.stands(ended, logits, cache, emit);
        }
        let _ = emit(self.ticket, Event::Ended(ended));
        Break(())
    }
}

impl Pool {
    /// Adds the hidden states of these columns of the last pass, where they count.
    fn add(
        &mut self,
        engine: &Engine,
        mut columns: std::ops::Range<usize>,
        is_read: bool,
    ) -> Result<()> {
        if self.pooling == Pooling::Last {
            let last = columns.end - usize::from(is_read);
            columns = last..columns.end;
        }
        for column in columns {
            engine.hidden(column, &mut self.hidden)?;
            self.sum.iter_mut().zip(&self.hidden).for_each(|(sum, h)| *sum += f64::from(*h));
        }
        Ok(())
    }

    /// The embedding of a text of `tokens` tokens.
    fn finish(&mut self, tokens: usize) -> &[f32] {
        let n = if self.pooling == Pooling::Mean { tokens } else { 1 };
        for (hidden, sum) in self.hidden.iter_mut().zip(&self.sum) {
            *hidden = (sum / n as f64) as f32;
        }
        &self.hidden
    }
}
