//! Calibrated quantization: number formats whose codes are chosen while the model runs.
//!
//! | module | |
//! |---|---|
//! | `requantize` | the way through: a `.brk` file in, another out |
//! | `exact` | a checkpoint in: a `.brk` file of exact weights on the way |
//! | `calibrate` | layer after layer: inputs observed, matrices encoded, outputs passed on |
//! | `equal` | the weights equalized, in a file beside the target |
//! | `inputs` | the inputs of products, as the engine's observer gets them |
//! | `gram` | their second moments, and the factor of those |
//! | `codes` | codes of a matrix: search, weighted search, or these: |
//! | `gptq`, `descent` | columns that make up for the errors of others |
//! | `importance` | columns weighed as an imatrix file says, where no text is read |
//! | `making` | tiles in the making |
//! | `matrix` | one matrix: methods tried, judged on texts held out |
//! | `product` | products of f32 matrices |
//! | `budget` | number formats by a budget |
//! | `plan` | a choice of formats, and as a recipe |
//! | `items`, `measure`, `knapsack` | what shares a format, what formats cost, the choice |
//! | `score` | statistics of distributions: log-softmax, KL |
//! | `stretch` | files for longer texts than their models were trained on |
//! | `text` | texts to calibrate on |
//! | `side` | finished matrices beside the target, for a conversion that was stopped |
//!
//! The result does not depend on the number of threads. It may differ between processors, as sums
//! of f32 do. Not here: codecs (`brooklet_formats::quant`), which format a matrix gets
//! (`brooklet_formats::convert`), running layers (`brooklet::layerwise`). Tests: `tests/`.

#![deny(unsafe_code)]

mod budget;
mod calibrate;
mod codes;
mod descent;
mod equal;
mod exact;
mod gptq;
mod gram;
mod importance;
mod inputs;
mod items;
mod knapsack;
mod making;
mod matrix;
mod measure;
mod plan;
mod product;
mod requantize;
pub mod score;
mod side;
mod stretch;
mod text;

use std::path::PathBuf;

use brooklet::EngineError;
use brooklet_formats::{DType, FormatError};

pub use budget::{Budget, PlanOptions, plan};
pub use exact::{Exact, inputs};
pub use matrix::{Outcome, Verdict};
pub use plan::{Chosen, Plan};
pub use requantize::{
    Calibration, Method, OnProgress, Options, Progress, Summary, is_calibrated, made_by, requantize,
};
pub use stretch::{Stretch, Stretched, THRESHOLD, stretch};
pub use text::{BUILT_IN, MIN_TOKENS, Text};

/// Result of this crate's functions.
pub type Result<T, E = QuantizeError> = std::result::Result<T, E>;

/// Why a file could not be quantized.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The model cannot run.
    #[error(transparent)]
    Engine(EngineError),
    /// A model that takes ids alone.
    #[error("{}: without a tokenizer there is no text to calibrate on", file.display())]
    NoTokenizer {
        /// The file.
        file: PathBuf,
    },
    /// A text that says too little.
    #[error("the calibration text has {found} tokens; {least} are needed, and 32768 are better")]
    ShortText {
        /// Its tokens.
        found: usize,
        /// The least.
        least: usize,
    },
    /// A text that repeats itself.
    #[error(
        "the calibration text says nothing: of its {tokens} tokens, {different} different ones, \
         one stands there {most} times"
    )]
    EmptyText {
        /// Its tokens.
        tokens: usize,
        /// Different ones.
        different: usize,
        /// How often the most frequent stands there.
        most: usize,
    },
    /// A matrix that has lost too much already.
    #[error(
        "{}: {tensor} is {found} there: weights that were rounded once are not worth calibrating",
        file.display()
    )]
    Rounded {
        /// The file.
        file: PathBuf,
        /// The matrix.
        tensor: String,
        /// Its number format.
        found: DType,
    },
    /// A model without Mamba's steps.
    #[error("{}: no layer is a Mamba, whose steps could be left out", file.display())]
    NoMamba {
        /// The file.
        file: PathBuf,
    },
    /// A budget that no choice of formats keeps.
    #[error("{}: {asked} cannot be kept: {least} is the least that is possible", file.display())]
    Budget {
        /// The file.
        file: PathBuf,
        /// The budget.
        asked: String,
        /// The least that is possible.
        least: String,
    },
    /// Logits that are no numbers.
    #[error("{}: its logits are not finite", file.display())]
    NotFinite {
        /// The file.
        file: PathBuf,
    },
    /// The system refuses threads.
    #[error("cannot start threads: {0}")]
    Threads(String),
}

impl QuantizeError {
    /// Whether there is no text to calibrate on, or too little in it: rounded it could be.
    pub fn is_of_text(&self) -> bool {
        matches!(
            self,
            QuantizeError::NoTokenizer { .. }
                | QuantizeError::ShortText { .. }
                | QuantizeError::EmptyText { .. }
        )
    }
}

impl From<EngineError> for QuantizeError {
    fn from(error: EngineError) -> QuantizeError {
        match error {
            EngineError::File(error) => QuantizeError::Format(error),
            error => QuantizeError::Engine(error),
        }
    }
}
