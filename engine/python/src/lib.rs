//! The extension module of the Python package `brooklet`.
//!
//! | module | |
//! |---|---|
//! | `model`, `opening` | a model and what is asked of it; where it comes from |
//! | `tokenizer` | its words |
//! | `session`, `desk` | a sequence for one thread at a time; the engine's session behind it |
//! | `state` | where a sequence stands, as a value |
//! | `generate`, `batch`, `completion` | texts as they are written, one and many |
//! | `sampling`, `prompt`, `chat` | arguments of Python as the engine takes them |
//! | `score` | log-probabilities and embeddings |
//! | `convert`, `conversion` | checkpoints in, models out; how far it is, calibration |
//! | `devices` | where models can run |
//! | `array` | values that NumPy shows without a copy |
//! | `held`, `interrupt` | whose turn it is; Ctrl-C |
//! | `errors` | failures as exceptions |
//!
//! Whatever computes does so without Python's lock (`held`). Classes here are thin: no model's
//! arithmetic, nothing that prints. Pure Python (`python/brooklet`): exceptions, types, Ray,
//! lm-evaluation-harness. Tests: `tests/*.py`, which `check` runs.

#![deny(unsafe_code)]

mod array;
mod batch;
mod chat;
mod completion;
mod conversion;
mod convert;
mod desk;
mod devices;
mod errors;
mod generate;
mod held;
mod interrupt;
mod model;
mod opening;
mod prompt;
mod sampling;
mod score;
mod session;
mod state;
mod tokenizer;

/// What the package `brooklet` is made of.
#[pyo3::pymodule]
mod _brooklet {
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    #[pymodule_export]
    use super::array::Values;
    #[pymodule_export]
    use super::batch::Batch;
    #[pymodule_export]
    use super::completion::Completion;
    #[pymodule_export]
    use super::convert::{Converted, convert};
    #[pymodule_export]
    use super::devices::{Device, devices};
    #[pymodule_export]
    use super::generate::{Generation, Piece};
    #[pymodule_export]
    use super::model::Model;
    #[pymodule_export]
    use super::score::Score;
    #[pymodule_export]
    use super::session::Session;
    #[pymodule_export]
    use super::state::{Slot, State};
    #[pymodule_export]
    use super::tokenizer::Tokenizer;
}
