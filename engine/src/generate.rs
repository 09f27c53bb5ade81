//! The loop that writes text: sample, decode, look for a reason to stop, step.
//!
//! The command line and the C interface share it. Not here: reading the prompt, and where the text
//! goes. Between two tokens nothing is allocated (`tests/allocations.rs`). Test:
//! `tests/generate.rs`.

use std::ops::ControlFlow;

use crate::engine::{Engine, Run, Want};
use crate::sampler::{NOTHING, Sampler, StopMatcher};
use crate::session::Session;
use crate::speculate::Speculation;
use crate::state::State;
use crate::text::Text;
use crate::tokenizer::DecodeStream;
use crate::{EngineError, Result};

/// When to stop. The default is no token at all.
///
/// ```
/// use brooklet::generate::Limits;
///
/// let stops = ["\n".to_owned()];
/// let limits = Limits::new(100).stops(&stops);
/// assert_eq!(limits.tokens, 100);
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Limits<'a> {
    /// Tokens at most.
    pub tokens: usize,
    /// Strings that end the text; they are not part of it.
    pub stops: &'a [String],
    /// Go on after a token that ends a text.
    pub ignore_end: bool,
    /// The last tokens of a text that this one goes on with, so that it may begin inside a
    /// character.
    pub tail: &'a [u32],
    /// The text will be gone on with: what is left of an unfinished character is not given, it
    /// comes with the rest.
    pub goes_on: bool,
    /// Pieces may come without logits: a card chooses tokens by itself then, several before it is
    /// asked, where the sampler has no more than a temperature, top-k, top-p and min-p. The text is
    /// the same.
    pub without_logits: bool,
}

/// Tokens that a device chooses before it is asked.
const ALONE: usize = 8;

impl<'a> Limits<'a> {
    /// So many tokens at most; other limits are set one after the other.
    pub fn new(tokens: usize) -> Self {
        Limits { tokens, ..Limits::default() }
    }

    setters! { tokens: usize, stops: &'a [String], ignore_end: bool, goes_on: bool }
    setters! { tail: &'a [u32], without_logits: bool }
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// As many tokens as asked for.
    Length,
    /// The model ended it.
    End,
    /// A stop string.
    Stop,
    /// The caller wanted no more.
    Cancelled,
    /// The sampler's grammar lets nothing follow.
    Grammar,
}

/// A piece given to the caller as soon as it is certain.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Piece<'a> {
    /// The token just chosen; none for what comes out at the end, when nothing can follow any more.
    pub token: Option<u32>,
    /// Whole characters, often none.
    pub text: &'a str,
    /// The model's logits from which the token was chosen, as they were before any option of the
    /// sampler ([`crate::sampler::log_softmax`]); empty where no token is, or where none were wanted
    /// ([`Limits::without_logits`]).
    pub logits: &'a [f32],
}

/// How a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Why.
    pub reason: Reason,
    /// Tokens given to the caller; one that ended the text does not count.
    pub tokens: usize,
    /// The last token sampled, which the session has not read yet.
    pub pending: Option<u32>,
}

/// Continues from the logits of `session`, and gives every piece of text to `emit` as soon as it is
/// certain. Only tokens that `text` knows are chosen ([`Text::known`]), and of those only what the
/// sampler's grammar allows, if it has one.
///
/// When `emit` breaks, no further token is chosen; text that was held back for an unfinished
/// character or a possible stop string is still given. The error type is the caller's, so that
/// `emit` can fail in its own way.
///
/// # Errors
/// The failure of `emit`, the session's, or the grammar's ([`Sampler::check`]).
pub fn generate<E: From<EngineError>>(
    session: &mut Session,
    sampler: &mut Sampler,
    text: &Text,
    limits: &Limits<'_>,
    emit: impl FnMut(Piece<'_>) -> Result<ControlFlow<()>, E>,
) -> Result<Ended, E> {
    generate_with(session, sampler, None, text, limits, emit)
}

/// [`generate`] that guesses what comes next, if `speculation` is there and was told what the
/// session has read ([`Speculation::begin`]): the same text, in fewer passes where guesses are
/// right.
///
/// # Errors
/// As [`generate`]'s.
pub fn generate_with<E: From<EngineError>>(
    session: &mut Session,
    sampler: &mut Sampler,
    mut speculation: Option<&mut Speculation>,
    text: &Text,
    limits: &Limits<'_>,
    emit: impl FnMut(Piece<'_>) -> Result<ControlFlow<()>, E>,
) -> Result<Ended, E> {
    let ended = write(session, sampler, speculation.as_deref_mut(), text, limits, emit);
    // However it ended, the session stands behind the last token that was read.
    let settled = speculation.map_or(Ok(()), |speculation| speculation.settle(session));
    let ended = ended?;
    settled?;
    Ok(ended)
}

fn write<E: From<EngineError>>(
    session: &mut Session,
    sampler: &mut Sampler,
    mut speculation: Option<&mut Speculation>,
    text: &Text,
    limits: &Limits<'_>,
    mut emit: impl FnMut(Piece<'_>) -> Result<ControlFlow<()>, E>,
) -> Result<Ended, E> {
    let mut writer = Writer::new(text, limits);
    while writer.goes_on() {
        if let Some(token) = writer.ended.pending {
            match &mut speculation {
                Some(speculation) => _ = speculation.step(session, token, sampler)?,
                None if writer.alone(session, sampler, token, &mut emit)? => continue,
                None => _ = session.step(token)?,
            }
        }
        writer.choose(sampler, session.logits(), &mut emit)?;
    }
    writer.finish(emit)
}

/// Continues one text in several ways at a time, whose states all stand behind it: `logits` are
/// those after it, and each sampler has a text of its own. The texts are those of [`generate`] with
/// the same samplers; a pass reads the weights once for all of them. `emit` gets the number of a
/// text with each piece, and ends that text where it breaks.
///
/// # Errors
/// The failure of `emit`, or the engine's; it was made for fewer tokens or rows of logits than
/// there are texts.
///
/// # Panics
/// There are not as many states as samplers.
pub fn generate_many<E: From<EngineError>>(
    engine: &mut Engine,
    (states, logits): (&mut [State], &[f32]),
    samplers: &mut [Sampler],
    text: &Text,
    limits: &Limits<'_>,
    mut emit: impl FnMut(usize, Piece<'_>) -> Result<ControlFlow<()>, E>,
) -> Result<Vec<Ended>, E> {
    assert_eq!(states.len(), samplers.len(), "a state for each text");
    let mut writers: Vec<Writer> = states.iter().map(|_| Writer::new(text, limits)).collect();
    for (i, (writer, sampler)) in writers.iter_mut().zip(&mut *samplers).enumerate() {
        if writer.goes_on() {
            writer.choose(sampler, logits, |piece| emit(i, piece))?;
        }
    }
    loop {
        let tokens: Vec<Option<u32>> = writers.iter().map(Writer::unread).collect();
        let going = states.iter_mut().zip(&tokens);
        let mut runs: Vec<Run<'_>> = going
            .filter_map(|(state, token)| {
                Some(Run { state, tokens: token.as_slice(), want: Want::Last })
                    .filter(|_| token.is_some())
            })
            .collect();
        if runs.is_empty() {
            break;
        }
        engine.forward(&mut runs)?;
        let going = writers.iter_mut().zip(&mut *samplers).enumerate();
        let going = going.filter(|(i, _)| tokens[*i].is_some());
        for (row, (i, (writer, sampler))) in going.enumerate() {
            writer.choose(sampler, engine.logits(row), |piece| emit(i, piece))?;
        }
    }
    let ended = writers.iter_mut().enumerate();
    ended.map(|(i, writer)| writer.finish(|piece| emit(i, piece))).collect()
}

/// A text in the making, without the session that reads it and the sampler that chooses: a step of
/// [`generate`] for callers who keep all three, and whose loop is elsewhere (an iterator of another
/// language).
///
/// ```
/// use brooklet::generate::{Limits, Writer};
/// use brooklet::sampler::{Sampler, SamplerOptions};
/// use brooklet::{EngineError, EngineOptions, Model, Session, Text};
/// use std::ops::ControlFlow;
///
/// let model = Model::open("../models/rwkv7-nano-int8.brk")?;
/// let text = Text::of(&model)?;
/// let mut session = Session::new(&model, &EngineOptions::new());
/// let mut sampler = Sampler::new(SamplerOptions::greedy(), model.n_vocab())?;
/// session.prefill(&text.prompt(b"Once upon a time")?)?;
/// let mut writer = Writer::new(&text, &Limits::new(8));
/// let mut written = String::new();
/// while writer.goes_on() {
///     if let Some(token) = writer.ended().pending {
///         session.step(token)?;
///     }
///     writer.choose(&mut sampler, session.logits(), |piece| {
///         written.push_str(piece.text);
///         Ok::<_, EngineError>(ControlFlow::Continue(()))
///     })?;
/// }
/// assert_eq!(writer.ended().tokens, 8);
/// # Ok::<(), EngineError>(())
/// ```
pub struct Writer {
    text: Text,
    /// But for strings and the tail, which belong to the caller.
    limits: Limits<'static>,
    stream: DecodeStream,
    stops: StopMatcher,
    pub(crate) ended: Ended,
    is_done: bool,
}

impl Writer {
    /// Begins a text in these words, which are cloned.
    pub fn new(text: &Text, limits: &Limits<'_>) -> Writer {
        let mut stream = text.tokenizer.stream().skip_special(true);
        for token in limits.tail {
            stream.push(*token);
        }
        let stops = StopMatcher::new(limits.stops.iter().cloned());
        let ended = Ended { reason: Reason::Length, tokens: 0, pending: None };
        let Limits { tokens, ignore_end, goes_on, without_logits, .. } = *limits;
        let limits = Limits { tokens, ignore_end, goes_on, without_logits, ..Limits::default() };
        Writer { text: text.clone(), limits, stream, stops, ended, is_done: false }
    }

    /// How the text ended, or would if it ended now.
    pub fn ended(&self) -> Ended {
        self.ended
    }

    /// Whether another token is to be chosen, behind the pending one.
    pub fn goes_on(&self) -> bool {
        self.left() > 0
    }

    /// Tokens that are still to be chosen, at most.
    pub(crate) fn left(&self) -> usize {
        if self.is_done { 0 } else { self.limits.tokens.saturating_sub(self.ended.tokens) }
    }

    /// The pending token, if another one is to be chosen behind it.
    fn unread(&self) -> Option<u32> {
        self.ended.pending.filter(|_| self.goes_on())
    }

    /// Chooses a token from the logits behind the pending one, and gives its piece, unless the
    /// token ends the text.
    ///
    /// # Errors
    /// The failure of `emit`, or the grammar's ([`Sampler::check`]).
    pub fn choose<E: From<EngineError>>(
        &mut self,
        sampler: &mut Sampler,
        logits: &[f32],
        emit: impl FnMut(Piece<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        if sampler.is_over() {
            (self.ended.reason, self.is_done) = (Reason::Grammar, true);
            return Ok(());
        }
        let token = sampler.sample(self.text.known(logits));
        self.put(token, sampler, logits, emit)
    }

    /// Lets the device read `token` and choose those behind it by itself, and gives their pieces.
    /// `false` where it needs the host between two tokens: nothing has happened then.
    fn alone<E: From<EngineError>>(
        &mut self,
        session: &mut Session,
        sampler: &mut Sampler,
        token: u32,
        mut emit: impl FnMut(Piece<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<bool, E> {
        let n = ALONE.min(self.left());
        if n < 2 || !self.limits.without_logits {
            return Ok(false);
        }
        let known = self.text.n_known(session.model().n_vocab());
        let Some(rule) = sampler.rule(known) else { return Ok(false) };
        // Those that are read, and the last that is chosen.
        let mut tokens = [token; ALONE + 1];
        if !session.alone(token, &rule, &mut tokens[1..=n])? {
            return Ok(false);
        }
        let (mut used, mut put) = (0, Ok(()));
        for token in &tokens[1..=n] {
            used += 1;
            let is_one = *token != NOTHING;
            if is_one {
                sampler.drew();
            }
            put = self.put(if is_one { *token } else { 0 }, sampler, &[], &mut emit);
            // Behind none random numbers are others.
            if put.is_err() || !self.goes_on() || !is_one {
                break;
            }
        }
        // However the text ended, the session stands behind the last token that was read.
        session.read_no_more_than(&tokens[..n], used)?;
        put.map(|()| true)
    }

    /// Takes a token that was chosen from `logits`, and gives its piece, unless it ends the text.
    fn put<E: From<EngineError>>(
        &mut self,
        token: u32,
        sampler: &mut Sampler,
        logits: &[f32],
        mut emit: impl FnMut(Piece<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        let Writer { text, limits, stream, stops, ended, is_done } = self;
        sampler.accept(token);
        sampler.check()?;
        ended.pending = Some(token);
        // A grammar's text ends where the grammar and the model say so, whoever ignores ends.
        let is_end = text.ends.contains(&token);
        if is_end && (!limits.ignore_end || sampler.grammar().is_some()) {
            (ended.reason, *is_done) = (Reason::End, true);
            return Ok(());
        }
        ended.tokens += 1;
        let passed = stops.push(if text.tokenizer.has_text() { stream.push(token) } else { "" });
        let stop = passed.stop.is_some();
        let flow = emit(Piece { token: Some(token), text: passed.text, logits })?;
        if stop {
            (ended.reason, *is_done) = (Reason::Stop, true);
        } else if flow.is_break() {
            (ended.reason, *is_done) = (Reason::Cancelled, true);
        } else if sampler.is_over() {
            (ended.reason, *is_done) = (Reason::Grammar, true);
        }
        Ok(())
    }

    /// Gives the rest: held back by an unfinished character, then by the search for stop strings.
    ///
    /// # Errors
    /// The failure of `emit`.
    pub fn finish<E>(
        &mut self,
        mut emit: impl FnMut(Piece<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<Ended, E> {
        if self.ended.reason == Reason::Stop {
            return Ok(self.ended);
        }
        let unfinished = if self.limits.goes_on { "" } else { self.stream.finish() };
        let held = [self.stops.push(unfinished).text.to_owned(), self.stops.finish().to_owned()];
        for held in held.iter().filter(|held| !held.is_empty()) {
            let _ = emit(Piece { token: None, text: held, logits: &[] })?;
        }
        Ok(self.ended)
    }
}
