//! The model's side of a conversation: it reads what is new, and answers.
//!
//! Each turn feeds the model only what it has not read yet. Where a conversation does not go on
//! from there (a message was undone, a template changes earlier turns), the nearest of the kept
//! states is where reading begins. Not here: the conversation (`talk`), and where an answer goes
//! (`screen`). Test: `tests/cli/chat.rs`, `tests/cli/chat_commands.rs`.

use std::time::{Duration, Instant};

use brooklet::chat::{ChatTemplate, Message, RenderOptions};
use brooklet::generate::{Limits, Reason};
use brooklet::sampler::Sampler;
use brooklet::speculate::Speculation;
use brooklet::{Model, Session, Snapshot, Text};

use super::Args;
use super::marks::{Marks, Read};
use crate::failure::Result;
use crate::generate::{Generated, generate};
use crate::interrupt::Watch;
use crate::run::prefill;
use crate::sampling::SamplerArgs;
use crate::saved::StateArgs;

/// A model that takes part in a conversation.
pub(crate) struct Speaker {
    template: ChatTemplate,
    text: Text,
    /// Texts that end an answer.
    stops: Vec<String>,
    session: Session,
    sampler: Sampler,
    speculation: Option<Speculation>,
    /// The words that the session has read.
    read: Read,
    marks: Marks,
    /// Where a conversation begins: nothing read, or a state that was given.
    start: Snapshot,
    pub(crate) last: Pace,
    pub(crate) total: Pace,
}

/// Tokens, and the time that they took.
#[derive(Clone, Copy, Default)]
pub(crate) struct Pace {
    /// Tokens that a state had read already.
    pub(crate) kept: u64,
    /// Tokens read.
    pub(crate) read: usize,
    pub(crate) reading: Duration,
    /// Tokens written.
    pub(crate) written: usize,
    pub(crate) writing: Duration,
}

impl Pace {
    /// Tokens per second of reading and of writing.
    pub(crate) fn rates(&self) -> (f64, f64) {
        let rate = |n: usize, time: Duration| n as f64 / time.as_secs_f64().max(1e-9);
        (rate(self.read, self.reading), rate(self.written, self.writing))
    }

    fn add(&mut self, other: &Pace) {
        self.kept += other.kept;
        self.read += other.read;
        self.reading += other.reading;
        self.written += other.written;
        self.writing += other.writing;
    }
}

impl Speaker {
    /// One that has read nothing but `start`, a state without a conversation.
    pub(crate) fn new(
        model: &Model,
        args: &Args,
        start: Option<Snapshot>,
        quiet: bool,
    ) -> Result<Speaker> {
        let mut text = Text::of(model)?;
        let template = match args.plain {
            true => ChatTemplate::plain(text.clone()),
            false => ChatTemplate::of(model)?,
        };
        let ends = template.ends();
        text.ends = ends.tokens;
        let sampler = args.settings.sampler.sampler(&text, model.n_vocab())?;
        let mut speaker = Speaker {
            template,
            text,
            stops: ends.stops.into_iter().chain(args.stop.iter().cloned()).collect(),
            session: Session::new(model, &args.engine.options(model, args.guess.rows())?),
            sampler,
            speculation: args.guess.open(model, &args.engine, quiet)?,
            read: Read::default(),
            marks: Marks::default(),
            start: start.unwrap_or_else(|| Snapshot::new(model.new_state())),
            last: Pace::default(),
            total: Pace::default(),
        };
        args.horizon.apply(&mut speaker.session)?;
        speaker.forget()?;
        Ok(speaker)
    }

    /// The seed of its random numbers.
    pub(crate) fn seed(&self) -> u64 {
        self.sampler.seed()
    }

    /// Chooses tokens with these options from now on. The random numbers go on, unless a seed is
    /// given; penalties remember what was said where that still means something.
    pub(crate) fn set_sampler(&mut self, args: &SamplerArgs, seed: Option<u64>) -> Result {
        let mut sampler = args.sampler(&self.text, self.session.model().n_vocab())?;
        let state = self.sampler.state();
        if sampler.restore(&state).is_err() {
            sampler.reseed(state.seed());
        }
        if let Some(seed) = seed {
            sampler.reseed(seed);
        }
        self.sampler = sampler;
        Ok(())
    }

    /// Where it stands: its state, and the words that it has read.
    pub(crate) fn stand(&self) -> (Snapshot, &Read) {
        (Snapshot { sampler: Some(self.sampler.state()), ..self.session.snapshot() }, &self.read)
    }

    /// Goes on from where another one stood; `seed`, if it is another, starts its random numbers
    /// afresh.
    pub(crate) fn resume(&mut self, saved: Snapshot, read: Read, seed: Option<u64>) -> Result {
        self.begin_anew(&saved, seed)?;
        self.session.resume(&Snapshot { unread: 0, ..saved })?;
        self.read = read;
        Ok(())
    }

    /// Takes another one's random numbers and penalties over, and forgets what it has read.
    pub(crate) fn begin_anew(&mut self, saved: &Snapshot, seed: Option<u64>) -> Result {
        StateArgs::restore(&mut self.sampler, saved, seed)?;
        self.marks = Marks::default();
        self.start = Snapshot::new(self.session.model().new_state());
        self.forget()
    }

    /// Takes another one's random numbers and penalties over.
    pub(crate) fn resume_sampler(&mut self, saved: &Snapshot, seed: Option<u64>) -> Result {
        StateArgs::restore(&mut self.sampler, saved, seed)
    }

    /// Tokens that its state has read, and bytes of it.
    pub(crate) fn size(&self) -> (u64, usize) {
        let (state, layout) = (self.session.state(), self.session.model().state_layout());
        let tokens = usize::try_from(state.position()).unwrap_or(usize::MAX);
        (state.position(), layout.bytes().saturating_add(layout.growing_bytes(tokens)))
    }

    /// The kept states: how many, and their bytes.
    pub(crate) fn marks(&self) -> (usize, usize) {
        (self.marks.len(), self.marks.bytes())
    }

    /// Back to where conversations begin.
    fn forget(&mut self) -> Result {
        self.session.set_state(self.start.state.clone())?;
        self.read = Read { pending: self.start.unread().to_vec(), ..Read::default() };
        Ok(())
    }

    /// Reads what is new of a conversation; tells whether the answer will begin within reasoning.
    pub(crate) fn read(
        &mut self,
        messages: &[Message],
        watch: &Watch,
        quiet: bool,
    ) -> Result<bool> {
        self.last = Pace::default();
        let start = Instant::now();
        if let Err(failure) = self.read_on(messages, watch, quiet) {
            // Nobody knows how much of it was read.
            self.forget()?;
            return Err(failure);
        }
        self.last.reading = start.elapsed();
        self.keep();
        Ok(self.begins_thinking())
    }

    /// Answers what was read, with so many tokens at most; each piece of the answer goes to `emit`.
    pub(crate) fn answer(
        &mut self,
        tokens: usize,
        watch: &Watch,
        emit: impl FnMut(&str) -> Result,
    ) -> Result<Generated> {
        self.sampler.restart_grammar();
        let limits = Limits::new(tokens).stops(&self.stops);
        if let Some(speculation) = &mut self.speculation {
            speculation.begin(&self.read.tokens);
        }
        let choose = (&mut self.sampler, self.speculation.as_mut());
        let start = Instant::now();
        let text = (&self.text, None);
        let done = generate(&mut self.session, choose, text, &limits, watch, emit)?;
        self.last.writing = start.elapsed();
        self.last.written = done.ids.len();
        self.total.add(&self.last);
        self.read.text.extend(self.text.tokenizer.decode(&done.ids).unwrap_or_default());
        // The last of them is still to be read, and comes again as pending.
        let unread = usize::from(done.reason != Reason::End);
        let read = done.ids.len().saturating_sub(unread);
        self.read.tokens.extend(&done.ids[..read]);
        self.read.pending =
            done.pending.into_iter().filter(|_| done.reason != Reason::End).collect();
        self.keep();
        Ok(done)
    }

    /// Whether the text that was read opens reasoning that the model is to go on with.
    fn begins_thinking(&self) -> bool {
        // Where the closing tag is left out of texts, nobody would see it close.
        let is_seen = |tag: &str| {
            !self.text.tokenizer.special_tokens().iter().any(|(_, name)| name.as_str() == tag)
        };
        self.read.text.trim_ascii_end().ends_with(b"<think>") && is_seen("</think>")
    }

    fn keep(&mut self) {
        let sampler = self.sampler.state();
        self.marks.keep(&self.read, &self.session, sampler);
    }

    /// Lets the session read what is new of the conversation.
    fn read_on(&mut self, messages: &[Message], watch: &Watch, quiet: bool) -> Result {
        let stop = || watch.requested();
        let whole = self.template.rendered(messages, &RenderOptions::default().stop(&stop))?;
        let here = self.read.begins(&whole).then_some(self.read.text.len());
        match self.marks.nearest(&whole) {
            Some(mark) if here.is_none_or(|here| mark.read.text.len() > here) => {
                self.session.resume(&mark.snapshot)?;
                self.read = mark.read.clone();
                if let Some(then) = &mark.snapshot.sampler {
                    // Other options since then may refuse what penalties remembered: they go on.
                    let _ = self.sampler.restore(&then.with_generator_of(&self.sampler.state()));
                }
            }
            _ if here.is_some() => {}
            _ => self.forget()?,
        }
        let mut ids = self.unread(&whole)?;
        if ids.is_empty() && !self.session.has_logits() {
            self.forget()?;
            ids = self.unread(&whole)?;
        }
        self.last.kept = self.session.state().position();
        self.last.read = ids.len();
        if !ids.is_empty() || !self.session.has_logits() {
            prefill(&mut self.session, &ids, watch, quiet)?;
        }
        self.read.spelled = whole.spelled_before(usize::MAX).to_vec();
        self.read.text = whole.into_text().into_bytes();
        self.read.tokens.extend(&ids);
        Ok(())
    }

    /// The tokens of a conversation that the session has not read.
    fn unread(&mut self, whole: &brooklet::chat::Rendered) -> Result<Vec<u32>> {
        let mut ids = std::mem::take(&mut self.read.pending);
        self.template.encode_rendered(whole, self.read.text.len(), &mut ids)?;
        Ok(ids)
    }
}
