//! What runs: models, kernels, state, sampler, tokenizer, threads.

pub mod error;

pub use error::{EngineError, Result};
