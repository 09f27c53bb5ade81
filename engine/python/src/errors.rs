//! Failures, and the exceptions that they become (`python/brooklet/_errors.py`).
//!
//! The words are the engine's. A class stands for what a caller can do about it. Test:
//! `tests/test_errors.py`.

use brooklet::EngineError;
use brooklet_formats::FormatError;
use brooklet_quantize::QuantizeError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// Result of whatever runs without Python's lock.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why something could not be done.
pub(crate) enum Failure {
    /// The engine says why.
    Engine(EngineError),
    /// An argument that makes no sense, in words.
    Argument(String),
    /// A checkpoint's place in the cache, in words.
    File(String),
    /// A calibration that failed, in words.
    Calibration(String),
    /// A thread uses what it is using already: from a signal handler, or a callback.
    Busy,
    /// An exception that came through: Ctrl-C, or a callback's.
    Python(PyErr),
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        Failure::Engine(error)
    }
}

impl From<FormatError> for Failure {
    fn from(error: FormatError) -> Failure {
        Failure::Engine(EngineError::File(error))
    }
}

impl From<QuantizeError> for Failure {
    fn from(error: QuantizeError) -> Failure {
        match error {
            QuantizeError::Format(error) => error.into(),
            QuantizeError::Engine(error) => error.into(),
            error if error.is_of_text() => {
                Failure::Argument(format!("{error}; calibrate=False only rounds"))
            }
            error => Failure::Calibration(error.to_string()),
        }
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Failure {
        Failure::Python(error)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> PyErr {
        let (class, words) = match failure {
            Failure::Python(error) => return error,
            Failure::Engine(error) => (class_of(&error), error.to_string()),
            Failure::Argument(words) => ("OptionError", words),
            Failure::File(words) => ("FileError", words),
            Failure::Calibration(words) => ("Error", words),
            Failure::Busy => {
                ("StateError", "it is in use by this very thread, which waits for it".to_owned())
            }
        };
        Python::attach(|py| match named(py, class) {
            Ok(class) => PyErr::from_type(class, (words,)),
            Err(error) => error,
        })
    }
}

/// The exception of an error.
fn class_of(error: &EngineError) -> &'static str {
    use EngineError as E;
    match error {
        E::File(_)
        | E::Architecture { .. }
        | E::Config { .. }
        | E::MissingTensor { .. }
        | E::Shape { .. }
        | E::StateSize { .. }
        | E::ForeignStateFile { .. }
        | E::PrefixFolder { .. }
        | E::TokenizerKind { .. }
        | E::TokenizerJson { .. }
        | E::WorldVocabulary { .. } => "FileError",
        E::NotListed { .. }
        | E::NoDriver
        | E::NoCard { .. }
        | E::Card { .. }
        | E::CardMemory { .. }
        | E::LostState { .. }
        | E::Isa(_) => "DeviceError",
        E::Context { .. } | E::NoMemory { .. } => "ContextError",
        E::NoLogits
        | E::ForeignState { .. }
        | E::StateFormat { .. }
        | E::StateWindow { .. }
        | E::Rollback { .. }
        | E::SamplerState { .. } => "StateError",
        E::SamplerOption { .. }
        | E::SamplerStep { .. }
        | E::NotOneToken { .. }
        | E::Grammar { .. }
        | E::NoStateFormat { .. }
        | E::NoKeys { .. }
        | E::NoWindow { .. } => "OptionError",
        E::NoTokens
        | E::UnknownToken { .. }
        | E::EmptyPrompt
        | E::NoTokenizer
        | E::Encode { .. }
        | E::NotUtf8 { .. }
        | E::NoTokenForByte { .. } => "TokenError",
        E::ChatTemplate { .. } | E::ChatTemplateName { .. } => "TemplateError",
        _ => "Error",
    }
}

/// An exception's class by its name.
fn named<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyType>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let import = || PyModule::import(py, "brooklet._errors").map(Bound::unbind);
    let class = MODULE.get_or_try_init(py, import)?.bind(py).getattr(name)?;
    class.cast_into::<PyType>().map_err(|_| PyRuntimeError::new_err("no such exception"))
}
