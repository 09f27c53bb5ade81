//! A model's words: its tokenizer, the token before a text, the tokens that end one.
//!
//! The file's metadata knows best; where it is silent, the tokenizer's own idea counts. Not here:
//! the tokenizers (`tokenizer`), and chat templates, which only the command line renders. Test:
//! `tests/generate.rs`.

use crate::model::Model;
use crate::tokenizer::Tokenizer;
use crate::{EngineError, Result};

/// A tokenizer and the ids with a meaning of their own.
///
/// ```
/// use brooklet::{Text, tokenizer::Tokenizer};
///
/// let text = Text { begin: Some(0), ..Text::new(Tokenizer::bytes()) };
/// assert_eq!(text.prompt(b"Hi")?, [0, 72, 105]);
/// # Ok::<(), brooklet::EngineError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Text {
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Token before a text, if the model wants one.
    pub begin: Option<u32>,
    /// Tokens that end a text.
    pub ends: Vec<u32>,
}

impl Text {
    /// The words of a model.
    ///
    /// # Errors
    /// Its tokenizer cannot be read.
    pub fn of(model: &Model) -> Result<Text> {
        let meta = &model.meta().tokenizer;
        let mut text = Text::new(model.tokenizer()?);
        text.begin = meta.bos_id;
        if !meta.eos_ids.is_empty() {
            text.ends.clone_from(&meta.eos_ids);
        }
        Ok(text)
    }

    /// A tokenizer by itself, which may know a token that ends a text.
    pub fn new(tokenizer: Tokenizer) -> Text {
        let ends = tokenizer.eos().into_iter().collect();
        Text { tokenizer, begin: None, ends }
    }

    /// The ids of a prompt. An empty one begins as a text does: with the beginning token, or after
    /// an end.
    ///
    /// # Errors
    /// Bytes that the vocabulary cannot express; an empty prompt where no token can stand for it.
    pub fn prompt(&self, prompt: &[u8]) -> Result<Vec<u32>> {
        let mut ids: Vec<u32> = self.begin.into_iter().collect();
        if !prompt.is_empty() {
            self.tokenizer.encode_into(prompt, &mut ids)?;
        }
        if ids.is_empty() {
            ids.extend(self.ends.first());
        }
        if ids.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        Ok(ids)
    }

    /// The logits of the tokens that have a meaning here; all of them where tokens stand for no
    /// text.
    ///
    /// A model's head may have more rows than its vocabulary has tokens (padding): sampled from
    /// these, none of them is chosen.
    pub fn known<'a>(&self, logits: &'a [f32]) -> &'a [f32] {
        if !self.tokenizer.has_text() {
            return logits;
        }
        // The model's configuration may name an end that its tokenizer does not know.
        let ends = self.ends.iter().map(|&id| id as usize + 1);
        let n = ends.fold(self.tokenizer.n_vocab(), usize::max);
        &logits[..logits.len().min(n)]
    }
}
