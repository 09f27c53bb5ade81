//! `brooklet.Generation`: a text as it is written, piece by piece.
//!
//! The steps are the engine's (`brooklet::generate::Writer`); here is the loop that Python drives.
//! Test: `tests/test_generate.py`.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;

use brooklet::Text;
use brooklet::generate::{Limits, Reason, Writer};
use brooklet::sampler::{LogSoftmax, Sampler, top_k};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::desk::Desk;
use crate::errors::{Failure, Result};
use crate::held::Held;
use crate::model::Opened;
use crate::sampling::Sampling;
use crate::session::Session;

/// Strings that end a text: one, or several.
#[derive(Default)]
pub(crate) struct Stops(Vec<String>);

impl<'py> FromPyObject<'_, 'py> for Stops {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Stops> {
        Ok(Stops(match value.cast::<PyString>() {
            Ok(stop) => vec![stop.extract()?],
            Err(_) => value.extract()?,
        }))
    }
}

/// What a caller wishes of a text.
pub(crate) struct Wish {
    pub(crate) tokens: usize,
    pub(crate) stops: Vec<String>,
    pub(crate) logprobs: Option<usize>,
    pub(crate) ignore_end: bool,
    pub(crate) sampling: Sampling,
    /// Checks the options when they are given, not when they are used.
    pub(crate) sampler: Sampler,
}

impl Wish {
    pub(crate) fn new(
        opened: &Opened,
        tokens: usize,
        stop: Option<Stops>,
        (logprobs, ignore_end): (Option<usize>, bool),
        sampling: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Wish> {
        let Stops(stops) = stop.unwrap_or_default();
        let sampling = Sampling::of(sampling, &opened.text)?;
        let sampler = sampling.sampler(None, opened.model.n_vocab())?;
        Ok(Wish { tokens, stops, logprobs, ignore_end, sampling, sampler })
    }
}

/// How the end of a text is called.
pub(crate) fn name(reason: Reason) -> &'static str {
    match reason {
        Reason::Length => "length",
        Reason::End => "end",
        Reason::Stop => "stop",
        Reason::Grammar => "grammar",
        _ => "cancelled",
    }
}

/// A piece of a text, as soon as it is certain.
#[pyclass(frozen, get_all, module = "brooklet")]
pub(crate) struct Piece {
    /// Whole characters, often none.
    text: String,
    /// The token just chosen; None for what comes out at the end, when nothing can follow any more.
    token: Option<u32>,
    /// Its log-probability in nats, as the model has it, before any option of sampling.
    logprob: Option<f32>,
    /// The likeliest tokens and their log-probabilities, the likeliest first; as many as were asked
    /// for.
    top: Vec<(u32, f32)>,
}

#[pymethods]
impl Piece {
    fn __str__(&self) -> &str {
        &self.text
    }

    fn __repr__(&self) -> String {
        let token = self.token.map_or("None".to_owned(), |token| token.to_string());
        format!("<brooklet.Piece {:?}, token {token}>", self.text)
    }
}

/// A text in the making.
struct Writing {
    /// What is read first.
    prompt: Option<Vec<u32>>,
    writer: Writer,
    sampler: Sampler,
    logprobs: Option<usize>,
    is_over: bool,
}

/// A text in the making: an iterator of pieces. The prompt is read when the first piece is asked
/// for.
///
/// For asyncio, `brooklet.stream(generation)` computes each piece in another thread.
#[pyclass(frozen, module = "brooklet")]
pub(crate) struct Generation {
    opened: Arc<Opened>,
    desk: Arc<Held<Desk>>,
    writing: Held<Writing>,
    seed: u64,
}

impl Generation {
    pub(crate) fn new(
        opened: &Arc<Opened>,
        desk: Arc<Held<Desk>>,
        prompt: Option<Vec<u32>>,
        text: Text,
        wish: Wish,
    ) -> Generation {
        let Wish { tokens, stops, logprobs, ignore_end, sampler, .. } = wish;
        let limits = Limits::new(tokens).stops(&stops).ignore_end(ignore_end);
        let (seed, writer) = (sampler.seed(), Writer::new(&text, &limits));
        let writing = Writing { prompt, writer, sampler, logprobs, is_over: false };
        Generation { opened: Arc::clone(opened), desk, writing: Held::new(writing), seed }
    }

    /// The next piece; the caller is without Python's lock.
    fn next(&self) -> Result<Option<Piece>> {
        let mut writing = self.writing.hold()?;
        if writing.is_over {
            return Ok(None);
        }
        let next = writing.next(&mut *self.desk.hold()?);
        // What failed does not go on.
        writing.is_over |= !matches!(next, Ok(Some(_)));
        next
    }
}

impl Writing {
    fn next(&mut self, desk: &mut Desk) -> Result<Option<Piece>> {
        if let Some(prompt) = self.prompt.take() {
            desk.prefill(&prompt)?;
        }
        let mut chosen = None;
        while self.writer.goes_on() && chosen.is_none() {
            let (logits, logprobs) = (desk.ready()?.logits(), self.logprobs);
            self.writer.choose(&mut self.sampler, logits, |piece| {
                chosen = Some(Piece::new(piece.text, piece.token, (piece.logits, logprobs)));
                Ok::<_, Failure>(ControlFlow::Continue(()))
            })?;
            let ended = self.writer.ended();
            desk.leave(ended.pending, ended.reason);
        }
        if chosen.is_some() {
            return Ok(chosen);
        }
        self.is_over = true;
        let mut rest = String::new();
        let Ok(_) = self.writer.finish(|piece| {
            rest.push_str(piece.text);
            Ok::<_, Infallible>(ControlFlow::Continue(()))
        });
        Ok((!rest.is_empty()).then(|| Piece::new(&rest, None, (&[], None))))
    }
}

impl Piece {
    /// A piece, and as much of its log-probabilities as was asked for.
    fn new(text: &str, token: Option<u32>, (logits, logprobs): (&[f32], Option<usize>)) -> Piece {
        let (mut logprob, mut top) = (None, Vec::new());
        if let (Some(token), Some(n)) = (token, logprobs) {
            let all = LogSoftmax::of(logits);
            logprob = Some(all.log_prob(logits, token));
            if n > 0 {
                let likeliest = top_k(logits, n).into_iter();
                top = likeliest.map(|(id, _)| (id, all.log_prob(logits, id))).collect();
            }
        }
        Piece { text: text.to_owned(), token, logprob, top }
    }
}

#[pymethods]
impl Generation {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Piece>> {
        Ok(py.detach(|| self.next())?)
    }

    /// Writes to the end, and gives the text that had not been given yet.
    fn text(&self, py: Python<'_>) -> PyResult<String> {
        let mut text = String::new();
        while let Some(piece) = py.detach(|| self.next())? {
            text.push_str(&piece.text);
            py.check_signals()?;
        }
        Ok(text)
    }

    /// Why the text ended: "length" (as many tokens as asked for), "end" (the model ended it),
    /// "stop" (a stop string), "grammar" (nothing can follow); None while it goes on.
    #[getter]
    fn reason(&self, py: Python<'_>) -> PyResult<Option<&'static str>> {
        self.writing.with(py, |writing| {
            let is_over = writing.is_over || !writing.writer.goes_on();
            Ok(is_over.then(|| name(writing.writer.ended().reason)))
        })
    }

    /// Tokens given so far; one that ended the text does not count.
    #[getter]
    fn tokens(&self, py: Python<'_>) -> PyResult<usize> {
        self.writing.with(py, |writing| Ok(writing.writer.ended().tokens))
    }

    /// The seed of its random numbers: the one given, or the one chosen where none was.
    #[getter]
    fn seed(&self) -> u64 {
        self.seed
    }

    /// The session that writes, which stands behind the tokens given.
    #[getter]
    fn session(&self) -> Session {
        Session::around(&self.opened, &self.desk)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let reason = self.reason(py)?.unwrap_or("goes on");
        Ok(format!("<brooklet.Generation, {} tokens, {reason}>", self.tokens(py)?))
    }
}
