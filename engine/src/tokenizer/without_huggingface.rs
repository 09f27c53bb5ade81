//! The stand-in for `huggingface/` in builds without the feature `huggingface`: no such tokenizer
//! can be made.
//!
//! The type has no values, so that the rest of the tokenizer needs no conditions. Not here:
//! anything that runs, but the refusal. Test: the builds with fewer features in `.ci/run`.

use super::stream::Start;
use crate::error::{EngineError, Result};

/// A loaded `tokenizer.json`: there is none.
#[derive(Debug)]
pub(super) enum HuggingFace {}

impl HuggingFace {
    pub(super) fn from_json(_: &[u8]) -> Result<Self> {
        Err(EngineError::NotBuilt { what: "a tokenizer.json", feature: "huggingface" })
    }

    pub(super) fn n_vocab(&self) -> usize {
        match *self {}
    }

    pub(super) fn special_tokens(&self) -> &[(u32, String)] {
        match *self {}
    }

    pub(super) fn is_special(&self, _: u32) -> bool {
        match *self {}
    }

    pub(super) fn eos(&self) -> Option<u32> {
        match *self {}
    }

    pub(super) fn token(&self, _: &str) -> Option<u32> {
        match *self {}
    }

    pub(super) fn token_bytes(&self, _: u32) -> Option<&[u8]> {
        match *self {}
    }

    pub(super) fn start(&self) -> Start {
        match *self {}
    }

    pub(super) fn encode(&self, _: &[u8], _: &[usize], _: usize, _: &mut Vec<u32>) -> Result<()> {
        match *self {}
    }

    pub(super) fn decode(&self, _: &[u32]) -> Result<Vec<u8>> {
        match *self {}
    }
}
