//! What requests for texts have in common.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::OneOrMany;

/// What requests for texts have in common.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Common {
    pub(crate) max_tokens: Option<usize>,
    pub(crate) max_completion_tokens: Option<usize>,
    pub(crate) n: Option<usize>,
    pub(crate) stream: Option<bool>,
    pub(crate) stream_options: Option<StreamOptions>,
    pub(crate) stop: Option<OneOrMany>,
    /// Negative: another one each time.
    pub(crate) seed: Option<i64>,
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    /// By token ids.
    pub(crate) logit_bias: Option<BTreeMap<String, f32>>,
    pub(crate) response_format: Option<ResponseFormat>,

    // Not OpenAI's: llama.cpp's names.
    pub(crate) top_k: Option<usize>,
    pub(crate) min_p: Option<f32>,
    pub(crate) typical_p: Option<f32>,
    pub(crate) top_n_sigma: Option<f32>,
    pub(crate) xtc_probability: Option<f32>,
    pub(crate) xtc_threshold: Option<f32>,
    #[serde(alias = "repeat_penalty")]
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) dry_multiplier: Option<f32>,
    pub(crate) mirostat_tau: Option<f32>,
    pub(crate) ignore_eos: Option<bool>,
    /// A schema that the text is JSON of.
    pub(crate) json_schema: Option<Value>,
    pub(crate) regex: Option<String>,
    /// Lark.
    pub(crate) grammar: Option<String>,

    // Our own.
    /// Where the text begins.
    pub(crate) state_id: Option<String>,
    /// Whether the state at its end is kept, under a new id.
    pub(crate) keep_state: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StreamOptions {
    pub(crate) include_usage: Option<bool>,
}

/// The form of a text.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ResponseFormat {
    Text,
    JsonObject {
        /// As llama.cpp's server has it.
        #[serde(default)]
        schema: Option<Value>,
    },
    JsonSchema {
        json_schema: Schema,
    },
}

#[derive(Debug, Deserialize)]
pub(crate) struct Schema {
    pub(crate) schema: Value,
}

impl Common {
    /// Whether the client wants the text as it is written.
    pub(crate) fn streams(&self) -> bool {
        self.stream == Some(true)
    }

    /// Whether the last part of a stream says how many tokens there were.
    pub(crate) fn includes_usage(&self) -> bool {
        self.stream_options.as_ref().is_some_and(|options| options.include_usage == Some(true))
    }

    /// Whether the state at the end is kept.
    pub(crate) fn keeps_state(&self) -> bool {
        self.keep_state == Some(true)
    }
}
