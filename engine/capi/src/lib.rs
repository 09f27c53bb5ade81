//! The C interface: what `include/brooklet.h` declares, over the crate `brooklet`.
//!
//! | module | what is there |
//! |---|---|
//! | `failure` | result codes, messages, the border that no panic crosses |
//! | `handle` | what an opaque handle is: a value, a lock that never waits, the last message |
//! | `arguments` | C's pointers, lengths and strings, checked and turned into Rust's |
//! | `options` | structs that can grow: they begin with, or come with, their size |
//! | `model`, `plan`, `tokenizer`, `sampler`, `state`, `snapshot`, `state_file` | the functions |
//! | `session`, `batch`, `generate`, `speculation`, `chat`, `prefix` | the functions |
//! | `score`, `coding`, `convert`, `log` | the functions |
//!
//! The header is made from these sources by cbindgen; `cargo test` fails when it is stale
//! (`tests/header.rs`). Conventions and thread rules that hold for all functions stand at its top
//! (`cbindgen.toml`). Tests: `tests/`.

// The names are C's, letter for letter, so that one search finds declaration and definition.
#![allow(non_camel_case_types)]
// The callers' duties are the same for every function and stand at the top of the header.
#![allow(clippy::missing_safety_doc)]

mod arguments;
mod batch;
mod chat;
mod coding;
mod convert;
mod failure;
mod generate;
mod grammar;
mod handle;
mod horizon;
mod lists;
mod log;
mod logprobs;
mod model;
mod options;
mod plan;
mod prefix;
mod rollback;
mod sampler;
mod scheduler;
mod score;
mod session;
mod snapshot;
mod speculation;
mod state;
mod state_file;
mod tokenizer;

pub use self::batch::*;
pub use self::chat::*;
pub use self::coding::*;
pub use self::convert::*;
pub use self::failure::*;
pub use self::generate::*;
pub use self::grammar::*;
pub use self::horizon::*;
pub use self::log::*;
pub use self::logprobs::*;
pub use self::model::*;
pub use self::options::*;
pub use self::plan::*;
pub use self::prefix::*;
pub use self::rollback::*;
pub use self::sampler::*;
pub use self::scheduler::*;
pub use self::score::*;
pub use self::session::*;
pub use self::snapshot::*;
pub use self::speculation::*;
pub use self::state::*;
pub use self::state_file::*;
pub use self::tokenizer::*;
