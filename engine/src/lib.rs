//! brooklet runs recurrent language models (RWKV, Mamba and their relatives) on small machines.
//!
//! The way of the data: [`Model`] maps a weight file; a [`Session`] turns tokens into logits and
//! owns a [`State`] of constant size; a [`sampler::Sampler`] picks the next token; a
//! [`tokenizer::Tokenizer`] turns tokens into text.
//!
//! | module | what lives there |
//! |---|---|
//! | `model` | one file per architecture, each reads like its paper |
//! | `engine` | the forward pass over a batch of runs |
//! | `layerwise` | one layer after the other over many texts, for calibration |
//! | `session`, `state` | one conversation; what it remembers, as a value and as a file |
//! | `kernels` | the arithmetic, per number format and instruction set |
//! | `team`, `stage` | threads and how a pass is cut into stages |
//! | `ops` | what a model computes as a list of operations, for devices |
//! | `buffers` | panels of f32 and activations in the forms that matrices read |
//! | `tokenizer`, `text`, `sampler`, `generate` | text in, text out |
//!
//! Cargo features, all on by default but `cuda`; an embedder takes what it needs with
//! `default-features = false`:
//!
//! | feature | what it adds |
//! |---|---|
//! | `convert` | RWKV states tuned elsewhere, from their checkpoints ([`State::from_tuned`]) |
//! | `huggingface` | models with a `tokenizer.json` (Mamba, most others), about 0.4 MB |
//! | `world` | the RWKV World vocabulary, built in (374 KB); not for files with their own |
//! | `cuda` | NVIDIA's cards ([`Device`]); needs their driver at run time, nothing to build; off |
//! | `threads` | more than one thread; without it everything runs on the caller's |
//!
//! ```no_run
//! use brooklet::sampler::{Sampler, SamplerOptions};
//! use brooklet::{EngineOptions, Model, Session};
//!
//! fn main() -> Result<(), brooklet::EngineError> {
//!     let model = Model::open("rwkv7-0.4b.brk")?;          // maps the file: milliseconds, no copy
//!     let tokenizer = model.tokenizer()?;
//!     let mut text = tokenizer.stream();                   // never splits a character
//!     let mut session = Session::new(&model, &EngineOptions::default());
//!     let mut sampler = Sampler::new(SamplerOptions::default(), model.n_vocab())?;
//!     session.prefill(&tokenizer.encode("Once upon a time")?)?;
//!     for _ in 0..100 {
//!         let token = sampler.sample(session.logits());
//!         print!("{}", text.push(token));
//!         session.step(token)?;                            // allocates nothing
//!     }
//!     Ok(())
//! }
//! ```

#![deny(unsafe_code)]

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod buffers;
pub mod coding;
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
mod cuda;
mod device;
mod engine;
pub mod error;
pub mod generate;
#[allow(unsafe_code)]
mod kernels;
pub mod layerwise;
mod model;
mod ops;
mod rollback;
pub mod sampler;
mod session;
mod snapshot;
pub mod speculate;
mod stage;
mod state;
#[allow(unsafe_code)]
mod team;
mod tensor;
mod text;
pub mod tokenizer;

pub use brooklet_formats::DType;
#[cfg(feature = "cuda")]
pub use cuda::{CardInfo, CardPlan, cards};
pub use device::Device;
pub use engine::{DEFAULT_CHUNK, Engine, EngineOptions, Run, Want};
pub use error::{EngineError, Result};
pub use kernels::{Isa, IsaError};
pub use model::{Model, ModelOptions};
pub use session::{Pooling, Session};
pub use snapshot::Snapshot;
pub use state::{Extent, Paged, Slot, State, StateLayout};
pub use tensor::TensorSpec;
pub use text::Text;

// A model serves any number of threads; a session is for one at a time, whichever it is.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    const fn owned<T: Send>() {}
    shared::<Model>();
    shared::<tokenizer::Tokenizer>();
    shared::<State>();
    owned::<Session>();
    owned::<Engine>();
    owned::<sampler::Sampler>();
};
