//! [`Pieces`]: a text as it is written, as an iterator.
//!
//! The loop of `generate` turned inside out, for callers who would rather have `for` than a
//! callback. Not here: guesses, and several texts at once. Test: `tests/generate.rs`.

use std::convert::Infallible;
use std::ops::ControlFlow;

use crate::Result;
use crate::generate::{Ended, Limits, Writer};
use crate::sampler::Sampler;
use crate::session::Session;
use crate::text::Text;

/// A text in the making: each item is a token that was chosen, with the characters that it
/// completes; the last may be what was held back. The text is that of
/// [`generate`](crate::generate::generate).
///
/// ```
/// use brooklet::generate::Limits;
/// use brooklet::sampler::{Sampler, SamplerOptions};
/// use brooklet::{EngineOptions, Model, Pieces, Session, Text};
///
/// let model = Model::open("../models/rwkv7-nano-int8.brk")?;
/// let text = Text::of(&model)?;
/// let mut session = Session::new(&model, &EngineOptions::new());
/// let mut sampler = Sampler::new(SamplerOptions::greedy(), model.n_vocab())?;
/// session.prefill(&text.prompt(b"Once upon a time")?)?;
/// for piece in Pieces::new(&mut session, &mut sampler, &text, Limits::new(8)) {
///     print!("{}", piece?.text);
/// }
/// # Ok::<(), brooklet::EngineError>(())
/// ```
pub struct Pieces<'a> {
    session: &'a mut Session,
    sampler: &'a mut Sampler,
    writer: Writer,
    is_over: bool,
}

/// One item of [`Pieces`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// The token just chosen; none for what comes out at the end.
    pub token: Option<u32>,
    /// Whole characters, often none.
    pub text: String,
}

impl<'a> Pieces<'a> {
    /// Continues from the logits of `session`, which stands behind a prompt.
    pub fn new(
        session: &'a mut Session,
        sampler: &'a mut Sampler,
        text: &'a Text,
        limits: Limits<'a>,
    ) -> Pieces<'a> {
        Pieces { session, sampler, writer: Writer::new(text, &limits), is_over: false }
    }

    /// How the text ended, or would if it ended now.
    pub fn ended(&self) -> Ended {
        self.writer.ended
    }

    /// The next token's piece; `None` where it ended the text.
    fn one(&mut self) -> Result<Option<Written>> {
        if let Some(token) = self.writer.ended.pending {
            self.session.step(token)?;
        }
        let mut written = None;
        self.writer.choose(self.sampler, self.session.logits(), |piece| {
            written = Some(Written { token: piece.token, text: piece.text.to_owned() });
            Ok::<_, crate::EngineError>(ControlFlow::Continue(()))
        })?;
        Ok(written)
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Written>;

    fn next(&mut self) -> Option<Result<Written>> {
        if self.is_over {
            return None;
        }
        while self.writer.goes_on() {
            match self.one() {
                Ok(None) => {}
                Ok(Some(written)) => return Some(Ok(written)),
                Err(error) => {
                    self.is_over = true;
                    return Some(Err(error));
                }
            }
        }
        self.is_over = true;
        let mut rest = String::new();
        let Ok(_) = self.writer.finish(|piece| {
            rest.push_str(piece.text);
            Ok::<_, Infallible>(ControlFlow::Continue(()))
        });
        (!rest.is_empty()).then_some(Ok(Written { token: None, text: rest }))
    }
}
