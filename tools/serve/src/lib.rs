//! `brooklet-serve`: one model for many, over HTTP, as OpenAI's clients ask for it, and a page to
//! talk to it.
//!
//! ```text
//! client ── connection (server) ── handler ──────── Job ──────▶ engine thread (worker)
//!                                     ▲   text to tokens           owns the Scheduler: one pass
//!                                     │   (prepare)                for all texts at a time
//!                                     └──────── Update ◀──────── a channel for each job
//! ```
//!
//! The engine thread never waits for a client: one that does not read is cancelled, one that leaves
//! is, too (`jobs`). Nothing of one key is seen by another: prefix caches and states belong to a
//! key. No request names a file.
//!
//! | module | |
//! |---|---|
//! | `options` | how a server is set up |
//! | `api` | requests and answers as JSON: types alone |
//! | `handlers` | one file for each kind of request |
//! | `prepare` | text to tokens, options of sampling, grammars |
//! | `answer` | reasoning and calls of tools are told from an answer's words |
//! | `jobs`, `worker` | the engine thread, and what goes to and from it |
//! | `states` | states by their ids |
//! | `auth`, `guard` | keys; which requests get to a handler at all |
//! | `setup` | what the engine thread begins with |
//! | `server` | connections, and how a server ends |
//! | `metrics`, `error`, `stream`, `page` | counters; failures as JSON; server-sent events; the page |
//!
//! Test: `tests/serve`, over real sockets.

#![forbid(unsafe_code)]

mod answer;
mod api;
mod auth;
mod error;
mod guard;
mod handlers;
mod jobs;
mod metrics;
mod options;
mod page;
mod prepare;
mod server;
mod setup;
mod shared;
mod states;
mod stream;
mod tokens;
mod worker;

pub use self::options::{GuessOptions, Keys, Options, PrefixOptions};
pub use self::server::{ServeError, serve};
