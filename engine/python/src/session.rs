//! `brooklet.Session`: one sequence of tokens.
//!
//! Not here: who may use it when (`held`), and what happens to its logits (`desk`). Tests:
//! `tests/test_session.py`, `tests/test_logits.py`.

use std::path::PathBuf;
use std::sync::Arc;

use brooklet::Snapshot;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyType};

use crate::array::FloatArray;
use crate::convert;
use crate::desk::{Desk, Setup};
use crate::generate::{Generation, Stops, Wish};
use crate::held::Held;
use crate::model::{Model, Opened};
use crate::prompt::Prompt;
use crate::score::{self, Score};
use crate::state::State;

/// A sequence of tokens, and where it stands: tokens in, logits out.
///
/// A session is for one thread at a time, whichever it is: others wait their turn. It computes
/// without Python's lock. `threads` are those that a pass uses at most (0: as the model says),
/// `chunk` the tokens of a pass while a prompt is read, `rollback` how many tokens it can go back.
/// Each session has scratch memory of its own; a State is what to keep many of. Pickles, with its
/// model as the name of a file.
///
/// >>> import brooklet
/// >>> session = brooklet.Session(brooklet.Model.open(), rollback=8)
/// >>> logits = session.prefill("Once upon a time")
/// >>> token = int(logits.argmax())
/// >>> after = session.step(token)
/// >>> session.rollback(1)
/// >>> bool((session.logits == logits).all())
/// True
#[pyclass(frozen, module = "brooklet")]
pub(crate) struct Session {
    opened: Arc<Opened>,
    desk: Arc<Held<Desk>>,
}

impl Session {
    /// A session of a model around a desk.
    pub(crate) fn around(opened: &Arc<Opened>, desk: &Arc<Held<Desk>>) -> Session {
        Session { opened: Arc::clone(opened), desk: Arc::clone(desk) }
    }

    fn made(opened: &Arc<Opened>, setup: Setup) -> Desk {
        Desk::new(&opened.model, setup)
    }
}

#[pymethods]
impl Session {
    /// A session before the first token.
    #[new]
    #[pyo3(signature = (model: "Model", *, threads: "int" = 0, chunk: "int" = 64,
        rollback: "int" = 0))]
    fn new(model: &Model, threads: usize, chunk: usize, rollback: usize) -> Session {
        let threads = if threads == 0 { model.0.origin.threads } else { threads };
        // More of them would be memory that no prompt fills.
        let setup = Setup { threads, chunk: chunk.clamp(1, 65536), rollback };
        let desk = Arc::new(Held::new(Session::made(&model.0, setup)));
        Session { opened: Arc::clone(&model.0), desk }
    }

    /// Reads a text or tokens, and gives the logits behind the last, as a view (see `logits`). A
    /// text that is the sequence's first begins as the model wants. Ctrl-C ends it between two
    /// passes: the tokens of passes that are done have been read then.
    #[pyo3(signature = (tokens: "Prompt") -> "FloatArray")]
    fn prefill<'py>(
        &self,
        py: Python<'py>,
        tokens: &Bound<'py, PyAny>,
    ) -> PyResult<FloatArray<'py>> {
        let (tokens, text) = (Prompt::of(tokens)?, &self.opened.text);
        FloatArray::logits(py, &self.desk, |desk| {
            let ids = if desk.position() == 0 { tokens.begin(text) } else { tokens.go_on(text) }?;
            desk.prefill(&ids)
        })
    }

    /// Reads one token, and gives the logits behind it, as a view (see `logits`).
    #[pyo3(signature = (token: "int") -> "FloatArray")]
    fn step<'py>(&self, py: Python<'py>, token: u32) -> PyResult<FloatArray<'py>> {
        FloatArray::logits(py, &self.desk, |desk| desk.step(token))
    }

    /// The logits behind the last token: a read-only array of f32, of shape (n_vocab), that shows
    /// the memory they were computed into, without a copy (on a card: a copy of it). It does not
    /// change when the session goes on, in this thread or another: the next pass writes elsewhere
    /// as long as somebody has the array. It keeps the session's memory alive.
    #[getter]
    fn logits<'py>(&self, py: Python<'py>) -> PyResult<FloatArray<'py>> {
        FloatArray::logits(py, &self.desk, |_| Ok(()))
    }

    /// Reads tokens one by one, and gives the logits behind each: shape (n, n_vocab).
    #[pyo3(signature = (tokens: "Prompt") -> "FloatArray")]
    fn forward<'py>(
        &self,
        py: Python<'py>,
        tokens: &Bound<'py, PyAny>,
    ) -> PyResult<FloatArray<'py>> {
        let (tokens, text) = (Prompt::of(tokens)?, &self.opened.text);
        let rows = self.desk.with(py, |desk| {
            let ids = if desk.position() == 0 { tokens.begin(text) } else { tokens.go_on(text) }?;
            desk.logits_of_each(&ids)
        })?;
        FloatArray::rows(py, rows, self.opened.model.n_vocab())
    }

    /// Goes on writing where the session stands, which is behind the text when that has ended.
    /// Arguments are those of `Model.generate`.
    #[pyo3(signature = (tokens: "int" = 256, *,
        stop: "str | collections.abc.Sequence[str] | None" = None, logprobs: "int | None" = Some(0),
        ignore_end: "bool" = false, **sampling: "Unpack[Sampling]") -> "Generation")]
    fn generate(
        &self,
        tokens: usize,
        stop: Option<Stops>,
        logprobs: Option<usize>,
        ignore_end: bool,
        sampling: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Generation> {
        let wish = Wish::new(&self.opened, tokens, stop, (logprobs, ignore_end), sampling)?;
        let (desk, text) = (Arc::clone(&self.desk), self.opened.text.clone());
        Ok(Generation::new(&self.opened, desk, None, text, wish))
    }

    /// How likely endings are behind what was read; the session stays where it is.
    #[pyo3(signature = (endings: "collections.abc.Sequence[Prompt]") -> "list[Score]")]
    fn score(&self, py: Python<'_>, endings: Vec<Bound<'_, PyAny>>) -> PyResult<Vec<Score>> {
        let endings = endings.iter().map(Prompt::of).collect::<PyResult<Vec<_>>>()?;
        score::behind(py, &self.desk, &self.opened.text, &endings)
    }

    /// Another session that stands where this one does; from there both go their own ways.
    fn fork(&self, py: Python<'_>) -> PyResult<Session> {
        let desk = self.desk.with(py, |desk| {
            let snapshot = desk.snapshot()?;
            let mut fork = Session::made(&self.opened, desk.setup);
            fork.resume(&snapshot)?;
            Ok(fork)
        })?;
        Ok(Session { opened: Arc::clone(&self.opened), desk: Arc::new(Held::new(desk)) })
    }

    /// Goes back so many tokens, exactly; at most `rollback_reach`.
    fn rollback(&self, py: Python<'_>, tokens: usize) -> PyResult<()> {
        self.desk.with(py, |desk| desk.rollback(tokens))
    }

    /// How many tokens `rollback` can go back.
    #[getter]
    fn rollback_reach(&self, py: Python<'_>) -> PyResult<usize> {
        self.desk.with(py, |desk| Ok(desk.settle()?.rollback_reach()))
    }

    /// Back to the start of a sequence.
    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        self.desk.with(py, |desk| {
            desk.reset();
            Ok(())
        })
    }

    /// Where the sequence stands, as a value.
    #[getter]
    fn state(&self, py: Python<'_>) -> PyResult<State> {
        let snapshot = self.desk.with(py, Desk::snapshot)?;
        Ok(State { opened: Arc::clone(&self.opened), snapshot })
    }

    /// Goes on from a state of the same model.
    fn resume(&self, py: Python<'_>, state: &State) -> PyResult<()> {
        self.desk.with(py, |desk| desk.resume(&state.snapshot))
    }

    /// Writes where the sequence stands to a state file (.brks), which appears whole or not at all:
    /// values as f32, which is exact, f16 or int8.
    #[pyo3(signature = (path: "StrPath", dtype: "str" = "f32") -> "None")]
    fn save(&self, py: Python<'_>, path: PathBuf, dtype: &str) -> PyResult<()> {
        let dtype = convert::dtype(dtype)?;
        self.desk.with(py, |desk| Ok(desk.snapshot()?.save(path, dtype)?))
    }

    /// Goes on from a state file of the same model.
    #[pyo3(signature = (path: "StrPath") -> "None")]
    fn load(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.desk.with(py, |desk| desk.resume(&Snapshot::load(&self.opened.model, path)?))
    }

    /// The model.
    #[getter]
    fn model(&self) -> Model {
        Model(Arc::clone(&self.opened))
    }

    /// Tokens of the sequence.
    #[getter]
    fn position(&self, py: Python<'_>) -> PyResult<u64> {
        self.desk.with(py, |desk| Ok(desk.position()))
    }

    /// Whether the logits are known: not before the first token.
    #[getter]
    fn has_logits(&self, py: Python<'_>) -> PyResult<bool> {
        self.desk.with(py, |desk| Ok(desk.settle()?.has_logits()))
    }

    /// What a pickle calls.
    #[staticmethod]
    fn _resumed(
        py: Python<'_>,
        model: &Model,
        data: &[u8],
        threads: usize,
        chunk: usize,
        rollback: usize,
    ) -> PyResult<Session> {
        let session = Session::new(model, threads, chunk, rollback);
        session
            .desk
            .with(py, |desk| desk.resume(&Snapshot::from_bytes(&session.opened.model, data)?))?;
        Ok(session)
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Pickled<'py>)> {
        let (bytes, setup) = self.desk.with(py, |desk| {
            let bytes = desk.snapshot()?.to_bytes(brooklet::DType::F32)?;
            Ok((bytes, desk.setup))
        })?;
        let resumed = PyType::new::<Session>(py).getattr("_resumed")?;
        let Setup { threads, chunk, rollback } = setup;
        Ok((resumed, (self.model(), PyBytes::new(py, &bytes), threads, chunk, rollback)))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let (name, position) = (&self.opened.model.meta().architecture, self.position(py)?);
        Ok(format!("<brooklet.Session {name}, {position} tokens>"))
    }
}

/// What a pickle of a session has.
type Pickled<'py> = (Model, Bound<'py, PyBytes>, usize, usize, usize);
