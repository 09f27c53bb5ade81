//! The fuzz targets: one function each, from any bytes to no result; a panic is a finding.
//!
//! | module | targets |
//! |---|---|
//! | `weights` | [`brk`]: a weight file, and three tokens of its model; [`brks`]: a saved state |
//! | `checkpoints` | [`safetensors`], [`gguf`], [`torch`], [`rwkv_cpp`]: read, converted, run |
//! | `tokenizers` | [`huggingface`], [`world`]: the vocabulary, and texts through it |
//! | `sequences` | [`capi`]: calls of the C interface in an order that the bytes choose |
//! | `limit` | the allocator that ends the program at an absurd request |
//!
//! Not here: libFuzzer. `../fuzz_targets` calls these functions from it, `tests/corpus.rs` replays
//! the corpora without it.

mod checkpoints;
mod limit;
mod sequences;
mod tokenizers;
mod weights;

pub use self::checkpoints::{CONFIG, gguf, rwkv_cpp, safetensors, torch};
pub use self::sequences::capi;
pub use self::tokenizers::{huggingface, world};
pub use self::weights::{brk, brks};

/// A function that a fuzzer calls.
pub type Target = fn(&[u8]);

/// Every target by the name of its corpus.
pub const TARGETS: [(&str, Target); 9] = [
    ("brk", brk),
    ("brks", brks),
    ("safetensors", safetensors),
    ("gguf", gguf),
    ("torch", torch),
    ("rwkv_cpp", rwkv_cpp),
    ("huggingface", huggingface),
    ("world", world),
    ("capi", capi),
];
