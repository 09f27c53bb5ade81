//! `brooklet.Model`: weights that any number of sessions and threads share.
//!
//! Not here: where a model comes from (`opening`), and what its methods do (`session`, `generate`,
//! `batch`, `score`, `chat`). Test: `tests/test_model.py`.

use std::path::PathBuf;
use std::sync::Arc;

use brooklet::Text;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};

use crate::array::FloatArray;
use crate::batch::{self, Batch};
use crate::chat;
use crate::convert;
use crate::desk::{Desk, Setup};
use crate::errors::Failure;
use crate::generate::{Generation, Stops, Wish};
use crate::held::Held;
use crate::opening::{self, Conversion, Origin};
use crate::prompt::Prompt;
use crate::score::{self, Score, Scorer};
use crate::tokenizer::Tokenizer;

/// An opened model, and what it takes to open it again.
pub(crate) struct Opened {
    pub(crate) model: brooklet::Model,
    pub(crate) text: Text,
    pub(crate) origin: Origin,
    /// Made by the first who scores.
    pub(crate) scorer: Held<Option<Scorer>>,
}

impl Opened {
    /// A desk for one more sequence.
    pub(crate) fn desk(&self, rollback: usize) -> Desk {
        let (threads, chunk) = (self.origin.threads, brooklet::DEFAULT_CHUNK);
        Desk::new(&self.model, Setup { threads, chunk, rollback })
    }
}

/// An opened model: its weights are mapped from the file, and shared by all sessions, threads and
/// processes that use it. Pickles as the name of its file.
///
/// >>> import brooklet
/// >>> model = brooklet.Model.open()  # the small demo model that comes with the package
/// >>> model.architecture, model.n_layer
/// ('rwkv7', 6)
/// >>> text = "".join(str(piece) for piece in model.generate("Once upon a time", 20, seed=1))
#[pyclass(frozen, weakref, module = "brooklet")]
pub(crate) struct Model(pub(crate) Arc<Opened>);

#[pymethods]
impl Model {
    /// Opens a .brk file; or a checkpoint (a file, or a Hugging Face folder), which is converted
    /// once into the cache folder that the command line uses; or without a path the demo model.
    ///
    /// `dtype` is the number format that a checkpoint's matrices get (int8 by default). `device` is
    /// "cpu", "cuda", "cuda:N" or "auto". `state` is the number format of live states: f32, f16,
    /// or, for models with attention, int8. `context` bounds the tokens of a text, `window` lets
    /// layers that attend to every token attend to so many (both for models with attention alone).
    /// `mmap` False copies the file into memory. `threads` is how many of them whatever is made of
    /// the model uses at most; 0 is one per processor. `progress(done, total, tensor)` hears of a
    /// conversion.
    #[staticmethod]
    #[pyo3(signature = (path: "StrPath | None" = None, *, dtype: "str | None" = None,
        device: "str" = "cpu".to_owned(), state: "str" = "f32".to_owned(),
        context: "int | None" = None, window: "int | None" = None, mmap: "bool" = true,
        threads: "int" = 0, allow_large_state: "bool" = false, cache: "StrPath | None" = None,
        progress: "Progress | None" = None) -> "Model")]
    #[allow(clippy::too_many_arguments)] // One for each option that people name.
    fn open(
        py: Python<'_>,
        path: Option<PathBuf>,
        dtype: Option<&str>,
        device: String,
        state: String,
        context: Option<usize>,
        window: Option<usize>,
        mmap: bool,
        threads: usize,
        allow_large_state: bool,
        cache: Option<PathBuf>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Model> {
        let dtype = dtype.map(convert::dtype).transpose()?;
        let conversion = Conversion { dtype, cache, progress };
        let opened = py.detach(|| {
            let file = path.map(|path| opening::file_of(&path, conversion)).transpose()?;
            // Another process may stand in another folder.
            let file = file.map(|file| std::path::absolute(&file).unwrap_or(file));
            let origin =
                Origin { file, device, state, context, window, mmap, threads, allow_large_state };
            opening::open(origin, false)
        })?;
        Ok(Model(opened))
    }

    /// What a pickle calls: a model of these options, shared by all who unpickle it here.
    #[staticmethod]
    #[allow(clippy::too_many_arguments)] // As many as a pickle has.
    fn _reopen(
        py: Python<'_>,
        file: Option<PathBuf>,
        device: String,
        state: String,
        context: Option<usize>,
        window: Option<usize>,
        mmap: bool,
        threads: usize,
        allow_large_state: bool,
    ) -> PyResult<Model> {
        let origin =
            Origin { file, device, state, context, window, mmap, threads, allow_large_state };
        Ok(Model(py.detach(|| opening::open(origin, true))?))
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Pickled)> {
        let Origin { file, device, state, context, window, mmap, threads, allow_large_state } =
            self.0.origin.clone();
        let reopen = PyType::new::<Model>(py).getattr("_reopen")?;
        let options = (file, device, state, context, window, mmap, threads, allow_large_state);
        Ok((reopen, options))
    }

    /// The model's words.
    #[getter]
    fn tokenizer(&self) -> Tokenizer {
        Tokenizer(self.0.text.clone())
    }

    /// Its file; None for the demo model.
    #[getter]
    fn path(&self) -> Option<PathBuf> {
        self.0.origin.file.clone()
    }

    /// The name of its architecture.
    #[getter]
    fn architecture(&self) -> &str {
        &self.0.model.meta().architecture
    }

    /// Tokens in the vocabulary: the length of a row of logits.
    #[getter]
    fn n_vocab(&self) -> usize {
        self.0.model.n_vocab()
    }

    /// Width of the residual stream, and of embeddings.
    #[getter]
    fn d_model(&self) -> usize {
        self.0.model.d_model()
    }

    /// Number of layers.
    #[getter]
    fn n_layer(&self) -> usize {
        self.0.model.n_layer()
    }

    /// Where it runs: "cpu", "cuda:0", ….
    #[getter]
    fn device(&self) -> String {
        self.0.model.device().to_string()
    }

    /// A number that tells these weights from others.
    #[getter]
    fn fingerprint(&self) -> u64 {
        self.0.model.fingerprint()
    }

    /// Bytes of a new state, which grows with attention alone.
    #[getter]
    fn state_bytes(&self) -> usize {
        self.0.model.state_layout().bytes()
    }

    /// What the file says of itself: architecture, hyper-parameters, tokenizer, where it came from.
    #[getter]
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let json = serde_json::to_string(self.0.model.meta())
            .map_err(|error| Failure::File(format!("the metadata is no JSON: {error}")))?;
        let value = PyModule::import(py, "json")?.call_method1("loads", (json,))?;
        Ok(value.cast_into::<PyDict>()?)
    }

    /// Writes a text behind a prompt (a string, bytes or token ids): an iterator of pieces, each
    /// with a token, the text that it completes, and its log-probability.
    ///
    /// `tokens` bounds them, the strings in `stop` end the text and are not part of it,
    /// `ignore_end` goes on where the model would end. `logprobs` is how many of the likeliest
    /// tokens each piece names beside its own log-probability; None computes neither. Other
    /// keywords choose how tokens are sampled (`brooklet.Sampling`); the defaults are those of
    /// `brooklet run`.
    ///
    /// >>> model = brooklet.Model.open()
    /// >>> for piece in model.generate("Once upon a time", 3, temperature=0, logprobs=1):
    /// ...     assert piece.top[0] == (piece.token, piece.logprob)
    #[pyo3(signature = (prompt: "Prompt", tokens: "int" = 256, *,
        stop: "str | collections.abc.Sequence[str] | None" = None, logprobs: "int | None" = Some(0),
        ignore_end: "bool" = false, **sampling: "Unpack[Sampling]") -> "Generation")]
    fn generate(
        &self,
        prompt: &Bound<'_, PyAny>,
        tokens: usize,
        stop: Option<Stops>,
        logprobs: Option<usize>,
        ignore_end: bool,
        sampling: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Generation> {
        let prompt = Prompt::of(prompt)?.begin(&self.0.text)?;
        let wish = Wish::new(&self.0, tokens, stop, (logprobs, ignore_end), sampling)?;
        let desk = Arc::new(Held::new(self.0.desk(0)));
        Ok(Generation::new(&self.0, desk, Some(prompt), self.0.text.clone(), wish))
    }

    /// Writes the answer to a conversation: messages are dictionaries with "role" (system, user,
    /// assistant, tool) and "content"; what else they have, templates may look at. Arguments are
    /// those of `generate`; `template` are variables of the model's template (`tools`,
    /// `enable_thinking`, …).
    ///
    /// >>> talk = [{"role": "user", "content": "Hello!"}]
    /// >>> answer = brooklet.Model.open().chat(talk, 10, temperature=0).text()
    #[pyo3(signature = (messages: "Messages", tokens: "int" = 512, *,
        stop: "str | collections.abc.Sequence[str] | None" = None, logprobs: "int | None" = Some(0),
        template: "collections.abc.Mapping[str, object] | None" = None,
        **sampling: "Unpack[Sampling]") -> "Generation")]
    fn chat(
        &self,
        messages: &Bound<'_, PyAny>,
        tokens: usize,
        stop: Option<Stops>,
        logprobs: Option<usize>,
        template: Option<&Bound<'_, PyDict>>,
        sampling: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Generation> {
        let talk = chat::Talk::new(&self.0, messages, template)?;
        let mut wish = Wish::new(&self.0, tokens, stop, (logprobs, false), sampling)?;
        let mut text = self.0.text.clone();
        text.ends = talk.ends.tokens;
        wish.stops.extend(talk.ends.stops);
        let desk = Arc::new(Held::new(self.0.desk(0)));
        Ok(Generation::new(&self.0, desk, Some(talk.ids), text, wish))
    }

    /// The token ids of a conversation, for `Session.prefill`: up to where the assistant begins to
    /// speak, unless `add_generation_prompt` is False.
    #[pyo3(signature = (messages: "Messages", *, add_generation_prompt: "bool" = true,
        template: "collections.abc.Mapping[str, object] | None" = None) -> "list[int]")]
    fn encode_chat(
        &self,
        messages: &Bound<'_, PyAny>,
        add_generation_prompt: bool,
        template: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Vec<u32>> {
        Ok(chat::Talk::with(&self.0, messages, template, add_generation_prompt)?.ids)
    }

    /// Writes a text behind each of many prompts, `parallel` at a time, of which each pass reads
    /// the weights once (continuous batching): an iterator of completions, in the order of the
    /// prompts, or with `ordered=False` as they end. Prompts are taken as there is room for them,
    /// so that they may come from a generator without end. Each text is the one that `generate`
    /// writes with that seed; `seed` is the first prompt's, the next have the numbers behind it, or
    /// else a sequence.
    ///
    /// A prompt that fails raises its error in its place, and the iteration can go on behind it;
    /// with `keep_errors` it gives a completion with that error instead. `cache_mb` is memory for
    /// what prompts begin with alike, which is read once.
    ///
    /// >>> model = brooklet.Model.open()
    /// >>> both = list(model.generate_batch(["Once upon", "The sea"], 8, temperature=0))
    /// >>> [completion.index for completion in both]
    /// [0, 1]
    #[pyo3(signature = (prompts: "collections.abc.Iterable[Prompt]", tokens: "int" = 256, *,
        stop: "str | collections.abc.Sequence[str] | None" = None, logprobs: "bool" = false,
        ignore_end: "bool" = false, parallel: "int" = 8, ordered: "bool" = true,
        keep_errors: "bool" = false, cache_mb: "int" = 256,
        seed: "int | collections.abc.Iterable[int] | None" = None,
        **sampling: "Unpack[SamplingWithoutSeed]") -> "Batch")]
    #[allow(clippy::too_many_arguments)] // One for each option that people name.
    fn generate_batch(
        &self,
        prompts: &Bound<'_, PyAny>,
        tokens: usize,
        stop: Option<Stops>,
        logprobs: bool,
        ignore_end: bool,
        parallel: usize,
        ordered: bool,
        keep_errors: bool,
        cache_mb: usize,
        seed: Option<&Bound<'_, PyAny>>,
        sampling: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Batch> {
        let logprobs = logprobs.then_some(0);
        let wish = Wish::new(&self.0, tokens, stop, (logprobs, ignore_end), sampling)?;
        let how =
            batch::How { parallel, ordered, keep_errors, cache: cache_mb.saturating_mul(1 << 20) };
        Batch::new(&self.0, prompts.try_iter()?, batch::Seeds::of(seed)?, wish, how)
    }

    /// How likely endings are behind a beginning, which is read once, and not again while the next
    /// call begins alike. Beginning and endings are texts or token ids.
    ///
    /// >>> scores = brooklet.Model.open().score("The sea was", [" calm", " green"])
    /// >>> max(scores, key=lambda score: score.logprob) is not None
    /// True
    #[pyo3(signature = (prefix: "Prompt", endings: "collections.abc.Sequence[Prompt]")
        -> "list[Score]")]
    fn score(
        &self,
        py: Python<'_>,
        prefix: &Bound<'_, PyAny>,
        endings: Vec<Bound<'_, PyAny>>,
    ) -> PyResult<Vec<Score>> {
        let prefix = Prompt::of(prefix)?;
        let endings = endings.iter().map(Prompt::of).collect::<PyResult<Vec<_>>>()?;
        score::score(py, &self.0, &prefix, &endings)
    }

    /// The log-probability of each token of a text but the first, in nats: f32 of shape (n - 1).
    #[pyo3(signature = (text: "Prompt") -> "FloatArray")]
    fn logprobs<'py>(
        &self,
        py: Python<'py>,
        text: &Bound<'py, PyAny>,
    ) -> PyResult<FloatArray<'py>> {
        score::logprobs(py, &self.0, &Prompt::of(text)?.begin(&self.0.text)?)
    }

    /// Embeddings of texts: of each the hidden state behind the final norm, after its last token
    /// (`pooling="last"`) or as the mean over all ("mean"); `normalize` gives them the length 1. An
    /// array of shape (texts, d_model); of a single string (d_model).
    ///
    /// >>> model = brooklet.Model.open()
    /// >>> model.embed(["a storm at sea", "a calm"], pooling="mean").shape
    /// (2, 192)
    #[pyo3(signature = (texts: "Prompt | collections.abc.Sequence[Prompt]", *,
        pooling: "Pooling" = "last", normalize: "bool" = false) -> "FloatArray")]
    fn embed<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        pooling: &str,
        normalize: bool,
    ) -> PyResult<FloatArray<'py>> {
        score::embed(py, &self.0, texts, pooling, normalize)
    }

    fn __repr__(&self) -> String {
        let file = self.0.model.file().path();
        format!("<brooklet.Model {} {}>", self.architecture(), file.display())
    }
}

/// What a pickle of a model has.
type Pickled = (Option<PathBuf>, String, String, Option<usize>, Option<usize>, bool, usize, bool);
