//! Speculation: the next tokens are guessed, and one pass finds out which guesses were right
//! (Leviathan et al. 2023, arXiv 2211.17192).
//!
//! A pass over five tokens reads the weights as often as one over one does, so that guesses cost
//! little where weights are what takes time. Whoever samples does not see any of it: they ask for
//! the logits behind the token that they chose, and get what plain decoding gives, to the bit.
//! Where the token is what was guessed, its logits are there already:
//!
//! ```text
//! chosen   a          b      c      x               y …
//! pass     a b c d                  c' x y z
//! logits   A B C      B      C      X Y Z           Y …
//! ```
//!
//! Here `d` was wrong, and so is what the state has read; a recurrent state cannot be shortened.
//! The next pass begins with a copy of it from before the first, and with the tokens that were
//! right (`c'` stands for `a b c`). So the text is that of plain decoding with the same seed, not
//! only distributed like it: a token is always drawn from the model's own logits. A guess of
//! another model is drawn with the same random number (`model`), which makes the two agree about as
//! often as the best rule for accepting would.
//!
//! Where several guess ([`Speculation::beside`]), one pass reads what each of them says, with a
//! state for each, and the text goes on in whichever has the token that was chosen (the selection
//! of several drafts of Sun et al. 2023, SpecTr, arXiv 2310.15141, under the same random numbers).
//!
//! | module | |
//! |---|---|
//! | `paths` | guesses of one pass: which are still right, where their logits are |
//! | `lookup` | guesses what followed the last tokens before, in the text itself |
//! | `model` | guesses what a smaller model would write |
//! | `pace` | how many guesses pay, by what passes took and how many were right |
//!
//! Test: `tests/speculate.rs`.

mod lookup;
mod model;
mod pace;
mod paths;

use std::time::Instant;

use crate::Result;
use crate::sampler::Sampler;
use crate::session::Session;
use crate::state::State;

pub use self::lookup::Lookup;
pub use self::model::DraftModel;
pub(crate) use self::pace::Pace;
use self::paths::Paths;

/// The most guesses of a pass.
pub const MAX_GUESSES: usize = 15;

/// Someone who guesses what comes next.
pub trait Draft: Send {
    /// Appends up to `most` tokens to `guesses` that may follow `text`, which has grown since the
    /// last call, or is another one. `sampler` is what chooses the text's tokens, as it stands now.
    ///
    /// # Errors
    /// A model that guesses failed.
    fn guess(
        &mut self,
        text: &[u32],
        sampler: &Sampler,
        most: usize,
        guesses: &mut Vec<u32>,
    ) -> Result<()>;
}

/// What came of guessing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guessed {
    /// Tokens that logits were asked behind.
    pub tokens: usize,
    /// Passes of the model.
    pub passes: usize,
    /// Guesses made.
    pub guesses: usize,
    /// Those that were right.
    pub right: usize,
}

/// Guesses for one session, and where they stand.
///
/// ```
/// use brooklet::sampler::{Sampler, SamplerOptions};
/// use brooklet::speculate::{Lookup, Speculation};
/// use brooklet::{EngineOptions, Model, Session};
///
/// let model = Model::open("../models/rwkv7-nano-int8.brk")?;
/// let options = EngineOptions::new().logits(1 + 4);
/// let mut session = Session::new(&model, &options);
/// let mut sampler = Sampler::new(SamplerOptions::greedy(), model.n_vocab())?;
/// let mut speculation = Speculation::new(Lookup::new(), 4);
/// let prompt = [1, 2, 3, 1, 2, 3, 1];
/// session.prefill(&prompt)?;
/// speculation.begin(&prompt);
/// for _ in 0..20 {
///     let token = sampler.sample(session.logits());
///     sampler.accept(token);
///     speculation.step(&mut session, token, &sampler)?;
/// }
/// speculation.settle(&mut session)?; // now the session stands behind the last token
/// # Ok::<(), brooklet::EngineError>(())
/// ```
pub struct Speculation {
    drafts: Vec<Box<dyn Draft>>,
    pace: Pace,
    /// The most guesses of a path.
    most: usize,
    /// All tokens, the last one that logits were asked behind included.
    text: Vec<u32>,
    /// The session's state before the last pass with guesses.
    base: Option<State>,
    /// States of the paths behind the first, which is the session's.
    others: Vec<State>,
    /// Whether the session has read the next two.
    is_read: bool,
    /// Tokens at the end of the text, but for guesses that were right.
    unread: Vec<u32>,
    paths: Paths,
    guessed: Guessed,
}

impl Speculation {
    /// Guesses by `draft`, up to `most` at a time ([`MAX_GUESSES`] at most). The session's engine
    /// gives logits for so many tokens and one more at once, or fewer are made.
    pub fn new(draft: impl Draft + 'static, most: usize) -> Speculation {
        Speculation::beside(vec![Box::new(draft)], most)
    }

    /// Guesses of several drafts, whose paths are read in the same pass: each takes a state, and
    /// rows of logits as one alone does. Where they do not fit a pass together, the first that
    /// guesses anything is heard.
    pub fn beside(drafts: Vec<Box<dyn Draft>>, most: usize) -> Speculation {
        Speculation {
            drafts,
            pace: Pace::default(),
            most: most.min(MAX_GUESSES),
            text: Vec::new(),
            base: None,
            others: Vec::new(),
            is_read: false,
            unread: Vec::new(),
            paths: Paths::default(),
            guessed: Guessed::default(),
        }
    }

    /// Takes the drafts of `other` over, so that their paths are read in the same passes.
    pub fn append(&mut self, other: &mut Speculation) {
        self.drafts.append(&mut other.drafts);
    }

    /// As many guesses as can be made each time, whether that pays or not.
    pub fn always(mut self) -> Speculation {
        self.pace = Pace::always();
        self
    }

    /// Begins with these tokens, the last that the session has read (all of them, or as many as
    /// guesses shall be made of).
    pub fn begin(&mut self, text: &[u32]) {
        self.text.clear();
        self.text.extend_from_slice(text);
        self.unread.clear();
        self.paths.clear();
        self.is_read = false;
    }

    /// What came of it since it was made.
    pub fn guessed(&self) -> Guessed {
        self.guessed
    }

    /// The logits after `token`, which follows all that was asked for before, as
    /// [`Session::step`] gives them. Between [`Speculation::begin`] and [`Speculation::settle`]
    /// nothing else may be done with the session.
    ///
    /// # Errors
    /// The token is outside the vocabulary or does not fit the model's context, or a device or the
    /// draft failed.
    pub fn step<'s>(
        &mut self,
        session: &'s mut Session,
        token: u32,
        sampler: &Sampler,
    ) -> Result<&'s [f32]> {
        if let Some(row) = self.paths.follow(token) {
            self.guessed.right += 1;
            session.show(row);
        } else {
            self.pace.passed(self.paths.right(), self.paths.lead().len());
            self.take_back(session)?;
            self.unread.push(token);
            let read = self.read(session, token, sampler);
            if read.is_err() {
                // As if it had not been asked for.
                self.paths.clear();
                self.unread.pop();
            }
            read?;
            self.is_read = true;
        }
        self.text.push(token);
        self.guessed.tokens += 1;
        Ok(session.logits())
    }

    /// Guesses what follows `token`, and reads it, and what else is unread, in one pass.
    fn read(&mut self, session: &mut Session, token: u32, sampler: &Sampler) -> Result<()> {
        self.guess(session, token, sampler)?;
        let guesses = self.paths.tokens();
        if guesses > 0 {
            session.state().fetch()?;
            let now = session.state();
            match &mut self.base {
                Some(base) => base.clone_from(now),
                None => self.base = Some(now.clone()),
            }
            let others = self.paths.count().saturating_sub(1);
            self.others.resize_with(others.max(self.others.len()), || now.clone());
            self.others[..others].iter_mut().for_each(|other| other.clone_from(now));
        }
        let start = Instant::now();
        session.read_ahead(&self.unread, self.paths.iter(), &mut self.others)?;
        let columns = self.paths.count().max(1) * self.unread.len() + guesses;
        self.pace.read(columns, guesses, start.elapsed());
        self.guessed.passes += 1;
        self.guessed.guesses += guesses;
        Ok(())
    }

    /// Guesses what follows `token`.
    fn guess(&mut self, session: &Session, token: u32, sampler: &Sampler) -> Result<()> {
        let (unread, drafts) = (self.unread.len(), self.drafts.len().max(1));
        // Several paths read the unread tokens each for themselves; few of them, or one path.
        let together = session.room(unread, drafts);
        let count = if unread <= 1 && together > 0 { drafts } else { 1 };
        let room = if count > 1 { together } else { session.room(unread, 1) };
        let most = self.pace.guesses((unread, count), self.most.min(room));
        if most == 0 {
            return Ok(());
        }
        let start = Instant::now();
        self.text.push(token);
        let guessed = self.drafts.iter_mut().try_for_each(|draft| {
            if self.paths.count() == count {
                return Ok(());
            }
            let path = self.paths.open();
            draft.guess(&self.text, sampler, most, path)?;
            // Those that the grammar forbids would be wrong.
            path.truncate(most);
            path.truncate(sampler.allowed(path));
            self.paths.close();
            Ok(())
        });
        self.text.pop();
        self.pace.guessed(most, start.elapsed());
        guessed
    }

    /// The session's state as it is behind tokens that are certain; those behind it are unread.
    fn take_back(&mut self, session: &mut Session) -> Result<()> {
        if self.is_read {
            let (lead, right) = (self.paths.lead(), self.paths.right());
            match &mut self.base {
                Some(base) if right < lead.len() => {
                    session.put_back(base);
                    self.unread.extend_from_slice(&lead[..right]);
                }
                _ => {
                    if let Some(other) = self.paths.other() {
                        session.go_on_with(&mut self.others[other]);
                    }
                    self.unread.extend_from_slice(lead);
                    session.mark(&self.unread)?;
                    self.unread.clear();
                }
            }
        }
        self.paths.clear();
        self.is_read = false;
        Ok(())
    }

    /// Lets the session stand behind the last token that [`Speculation::step`] was asked for, with
    /// its logits.
    ///
    /// # Errors
    /// A device failed.
    pub fn settle(&mut self, session: &mut Session) -> Result<()> {
        self.take_back(session)?;
        if !self.unread.is_empty() {
            session.prefill(&self.unread)?;
        }
        self.unread.clear();
        Ok(())
    }
}
