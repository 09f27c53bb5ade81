//! Requests as JSON: types alone, with the names of OpenAI's interface
//! (<https://platform.openai.com/docs/api-reference>) and some of our own.
//!
//! Fields that nobody knows are ignored, as OpenAI's clients send many. A wrong type names its
//! field. Not here: what is done with them (`handlers`, `prepare`).

mod chat;
mod common;
mod completions;
mod embeddings;

use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) use self::chat::{Chat, Content, Message, Tool};
pub(crate) use self::common::{Common, ResponseFormat};
pub(crate) use self::completions::{Completion, Prompt};
pub(crate) use self::embeddings::Embeddings;

use crate::error::{ApiError, Result};

/// The part of a body that a type knows.
pub(crate) fn read<T: DeserializeOwned>(body: &Value) -> Result<T> {
    serde_path_to_error::deserialize(body).map_err(|error| {
        let (path, what) = (error.path().to_string(), error.inner().to_string());
        match path.as_str() {
            "." | "?" => ApiError::field("", what),
            _ => ApiError::field(&path, format!("{path}: {what}")),
        }
    })
}

/// One string, or several.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub(crate) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(crate) fn into_vec(self) -> Vec<String> {
        match self {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}
