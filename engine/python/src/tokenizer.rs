//! `brooklet.Tokenizer`: a model's words.
//!
//! Test: `tests/test_tokenizer.py`.

use brooklet::Text;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::Failure;
use crate::prompt::{self, Prompt};

/// Text to token ids and back, as one model knows it (`model.tokenizer`).
///
/// >>> import brooklet
/// >>> tokenizer = brooklet.Model.open().tokenizer
/// >>> ids = tokenizer.encode("Once upon a time")
/// >>> tokenizer.decode(ids)
/// 'Once upon a time'
#[pyclass(frozen, module = "brooklet")]
pub(crate) struct Tokenizer(pub(crate) Text);

#[pymethods]
impl Tokenizer {
    /// The ids of a text (a string or bytes), with nothing before or after them.
    #[pyo3(signature = (text: "str | bytes") -> "list[int]")]
    fn encode(&self, text: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
        Ok(Prompt::of(text)?.go_on(&self.0)?)
    }

    /// The ids of a text as a model begins with it: behind the token that it wants before texts, if
    /// it wants one. An empty text becomes that token, or one that ends texts.
    #[pyo3(signature = (text: "str | bytes") -> "list[int]")]
    fn prompt(&self, text: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
        Ok(Prompt::of(text)?.begin(&self.0)?)
    }

    /// The text of some ids, special tokens written out; U+FFFD stands for bytes that are no UTF-8.
    #[pyo3(signature = (ids: "Tokens") -> "str")]
    fn decode(&self, ids: &Bound<'_, PyAny>) -> PyResult<String> {
        let ids = prompt::ids(ids)?;
        Ok(self.0.tokenizer.decode_lossy(&ids).map_err(Failure::from)?)
    }

    /// The bytes of some ids, of which none is lost.
    #[pyo3(signature = (ids: "Tokens") -> "bytes")]
    fn decode_bytes<'py>(&self, ids: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = self.0.tokenizer.decode(&prompt::ids(ids)?).map_err(Failure::from)?;
        Ok(PyBytes::new(ids.py(), &bytes))
    }

    /// The id of the token that is exactly this text, or the special token of this name.
    fn token(&self, text: &str) -> Option<u32> {
        self.0.tokenizer.token(text)
    }

    /// The bytes of one token in the middle of a text; None outside of the vocabulary.
    #[pyo3(signature = (id: "int") -> "bytes | None")]
    fn token_bytes<'py>(&self, py: Python<'py>, id: u32) -> Option<Bound<'py, PyBytes>> {
        self.0.tokenizer.token_bytes(id).map(|bytes| PyBytes::new(py, bytes))
    }

    /// The kind: "world", "huggingface", "bytes", or "none" where tokens stand for no text.
    #[getter]
    fn kind(&self) -> &'static str {
        self.0.tokenizer.kind()
    }

    /// One more than the largest id. A model's logits may be more: rows that no text leads to.
    #[getter]
    fn n_vocab(&self) -> usize {
        self.0.tokenizer.n_vocab()
    }

    /// The token before a text, if the model wants one.
    #[getter]
    fn begin(&self) -> Option<u32> {
        self.0.begin
    }

    /// The tokens that end a text.
    #[getter]
    fn ends(&self) -> Vec<u32> {
        self.0.ends.clone()
    }

    /// The special tokens: their names, by id.
    #[getter]
    fn special_tokens(&self) -> std::collections::BTreeMap<u32, String> {
        self.0.tokenizer.special_tokens().iter().cloned().collect()
    }

    fn __len__(&self) -> usize {
        self.0.tokenizer.n_vocab()
    }

    fn __repr__(&self) -> String {
        format!("<brooklet.Tokenizer {}, {} tokens>", self.kind(), self.n_vocab())
    }
}
