//! What runs: models, kernels, state, sampler, tokenizer, threads.

pub mod error;
pub mod tokenizer;

pub use error::{EngineError, Result};
