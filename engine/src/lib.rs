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
//! | `horizon` | states kept fresh past the length that a model was trained on |
//! | `prefix` | what earlier texts began with is not read again |
//! | `schedule` | many texts at a time, which come and go |
//! | `score` | how likely endings are, embeddings |
//! | `kernels` | the arithmetic, per number format and instruction set |
//! | `team`, `stage` | threads and how a pass is cut into stages |
//! | `ops` | what a model computes as a list of operations, for devices |
//! | `buffers` | panels of f32 and activations in the forms that matrices read |
//! | `tokenizer`, `text`, `grammar`, `sampler`, `generate`, `pieces` | text in, text out |
//! | [`chat`] | conversations in: chat templates, and where an answer ends |
//!
//! Cargo features, all on by default but `cuda` and `grammar`; an embedder takes what it needs with
//! `default-features = false`:
//!
//! | feature | what it adds |
//! |---|---|
//! | `chat` | chat templates ([`chat::ChatTemplate`]): messages to tokens |
//! | `convert` | RWKV states tuned elsewhere, from their checkpoints ([`State::from_tuned`]) |
//! | `huggingface` | models with a `tokenizer.json` (Mamba, most others), about 0.4 MB |
//! | `world` | the RWKV World vocabulary, built in (374 KB); not for files with their own |
//! | `cuda` | NVIDIA's cards ([`Device`]); needs their driver at run time, nothing to build; off |
//! | `grammar` | texts that a JSON schema, a regular expression or a Lark grammar allows |
//! | `threads` | more than one thread; without it everything runs on the caller's |
//!
//! ```no_run
//! use brooklet::generate::Limits;
//! use brooklet::sampler::{Sampler, SamplerOptions};
//! use brooklet::{EngineError, EngineOptions, Model, Pieces, Session, Text};
//!
//! fn main() -> Result<(), EngineError> {
//!     let model = Model::open("rwkv7-0.4b.brk")?;          // maps the file: milliseconds, no copy
//!     let text = Text::of(&model)?;                        // its tokenizer, its ends of text
//!     let mut session = Session::new(&model, &EngineOptions::new());
//!     let mut sampler = Sampler::new(SamplerOptions::new().top_p(0.9), model.n_vocab())?;
//!     session.prefill(&text.prompt(b"Once upon a time")?)?;
//!     for piece in Pieces::new(&mut session, &mut sampler, &text, Limits::new(100)) {
//!         print!("{}", piece?.text);                      // whole characters, until the text ends
//!     }
//!     Ok(())
//! }
//! ```

#![deny(unsafe_code)]

/// Methods of options that set the field of their name and give the options back.
macro_rules! setters {
    ($($name:ident: $type:ty),* $(,)?) => {$(
        #[doc = concat!("Sets [`", stringify!($name), "`](#structfield.", stringify!($name), ").")]
        #[must_use]
        pub fn $name(mut self, $name: $type) -> Self {
            self.$name = $name;
            self
        }
    )*};
}

/// The same for fields that may be `None`: they take a value, or an `Option` of one.
macro_rules! optional_setters {
    ($($name:ident: $type:ty),* $(,)?) => {$(
        #[doc = concat!("Sets [`", stringify!($name), "`](#structfield.", stringify!($name), ").")]
        #[must_use]
        pub fn $name(mut self, $name: impl Into<Option<$type>>) -> Self {
            self.$name = $name.into();
            self
        }
    )*};
}

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod buffers;
#[cfg(feature = "chat")]
pub mod chat;
pub mod coding;
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
mod cuda;
mod device;
mod engine;
pub mod error;
pub mod generate;
#[cfg_attr(not(feature = "grammar"), path = "grammar/without.rs")]
mod grammar;
pub mod horizon;
#[allow(unsafe_code)]
mod kernels;
pub mod layerwise;
mod model;
mod ops;
mod pieces;
pub mod prefix;
mod rollback;
pub mod sampler;
pub mod schedule;
pub mod score;
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
pub use engine::{DEFAULT_CHUNK, Engine, EngineOptions, Logits, Run, Want};
pub use error::{EngineError, Result};
pub use grammar::Grammar;
#[cfg(feature = "grammar")]
pub use grammar::Syntax;
pub use kernels::{Isa, IsaError};
pub use model::{Model, ModelOptions};
pub use pieces::{Pieces, Written};
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
