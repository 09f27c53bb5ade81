//! One file for each kind of request: it reads the body, asks the engine thread, and answers.

mod body;
mod chat;
mod completions;
mod embeddings;
mod models;
mod states;
mod tally;

pub(crate) use self::chat::chat;
pub(crate) use self::completions::completions;
pub(crate) use self::embeddings::embeddings;
pub(crate) use self::models::{health, metrics, model, models};
pub(crate) use self::states::{delete, download, fork, list, load, save, upload, upload_as};
