//! What is asked of a [`super::Scheduler`], and what it tells.

use crate::Result;
use crate::generate::{Ended, Limits, Piece};
use crate::prefix::Reading;
use crate::sampler::Sampler;
use crate::session::Pooling;
use crate::snapshot::Snapshot;
use crate::state::State;

/// A text that is asked for.
pub struct Request {
    /// What is read first.
    pub prompt: Vec<u32>,
    /// Lengths of beginnings of the prompt that others will share, ascending
    /// ([`crate::prefix::PrefixCache::prefill`]).
    pub borders: Vec<usize>,
    /// Where it begins, if not before the first token: a tuned state. Nothing of it is kept for
    /// others.
    pub start: Option<State>,
    /// What chooses its tokens.
    pub sampler: Sampler,
    /// When it ends, but for strings.
    pub limits: Limits<'static>,
    /// Strings that end it.
    pub stops: Vec<String>,
    /// The cache that it begins with and is kept in, by its number
    /// ([`super::Scheduler::add_cache`]). Default 0, the one that the scheduler was made with.
    pub cache: usize,
    /// Keep a copy behind the text that was written, too: it will be gone on with. Default false.
    pub keeps_answer: bool,
    /// Tell where it stands at its end ([`Event::Stands`]). Default false.
    pub tells_end: bool,
    /// Only read it, for its embedding ([`Event::Embedded`]), from its first token on. Default
    /// none.
    pub pooling: Option<Pooling>,
}

impl Request {
    /// A text behind a prompt.
    pub fn new(prompt: Vec<u32>, sampler: Sampler, limits: Limits<'static>) -> Request {
        Request {
            prompt,
            borders: Vec::new(),
            start: None,
            sampler,
            limits,
            stops: Vec::new(),
            cache: 0,
            keeps_answer: false,
            tells_end: false,
            pooling: None,
        }
    }
}

/// A text's number: those of one scheduler are all different, and ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(super) u64);

/// What happened to a text.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Its prompt has been read.
    Read(Reading),
    /// A piece is certain.
    Piece(Piece<'a>),
    /// The hidden state that it was read for, `d_model` values.
    Embedded(&'a [f32]),
    /// Where it stands at its end, if that was to be told: all tokens from the prompt on are in the
    /// tail. One that ended the text is not among them.
    Stands(Box<Snapshot>),
    /// It has ended, or failed: nothing follows.
    Ended(Result<Ended>),
}
