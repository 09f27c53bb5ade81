//! [`CheckpointKind`]: where a checkpoint comes from.

use std::fmt;

/// Where a checkpoint comes from, which decides what its names mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckpointKind {
    /// A `.safetensors` file without a `config.json` beside it.
    Safetensors,
    /// A PyTorch archive without a `config.json` beside it: BlinkDL's `.pth`.
    Pickle,
    /// Weights with a Hugging Face `config.json`.
    HuggingFace,
    /// Weights with the `config.json` of the `mamba_ssm` package (`ssm_cfg`).
    StateSpaces,
    /// llama.cpp's GGUF.
    Gguf,
    /// rwkv.cpp's `.bin`.
    RwkvCpp,
}

impl CheckpointKind {
    /// The name that people read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Pickle => "PyTorch",
            Self::HuggingFace => "Hugging Face",
            Self::StateSpaces => "state-spaces",
            Self::Gguf => "GGUF",
            Self::RwkvCpp => "rwkv.cpp",
        }
    }
}

impl fmt::Display for CheckpointKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
