//! A model's words: its tokenizer, the token before a text, the tokens that end one.
//!
//! Both the file's metadata and the tokenizer may name a token that ends a text; each of them does.
//! Not here: the tokenizers (`tokenizer`), and chat templates (`chat`). Test:
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
        text.also_ends(&meta.eos_ids);
        Ok(text)
    }

    /// Ends texts with these tokens, too. They come first, as the file knows best which of them
    /// stands before an empty prompt.
    fn also_ends(&mut self, named: &[u32]) {
        let own = std::mem::replace(&mut self.ends, named.to_vec());
        self.ends.extend(own.into_iter().filter(|id| !named.contains(id)));
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
        self.prompt_within(prompt, usize::MAX).map(Option::unwrap_or_default)
    }

    /// [`Text::prompt`] of a text that may be longer than anybody wants: none where it has more
    /// than `most` ids, of which no more are made.
    ///
    /// # Errors
    /// As [`Text::prompt`]'s.
    pub fn prompt_within(&self, prompt: &[u8], most: usize) -> Result<Option<Vec<u32>>> {
        let mut ids: Vec<u32> = self.begin.into_iter().collect();
        if !prompt.is_empty() && !self.tokenizer.encode_within(prompt, &[], most, &mut ids)? {
            return Ok(None);
        }
        if ids.is_empty() {
            ids.extend(self.ends.first());
        }
        if ids.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        Ok(Some(ids))
    }

    /// The ids of an ending behind `beginning`, whose ids ([`Text::prompt`]) are `ids`: those that
    /// the whole text has behind them, where the beginning keeps its own; the ending's own
    /// otherwise.
    ///
    /// # Errors
    /// Bytes that the vocabulary cannot express.
    pub fn ending(&self, beginning: &[u8], ids: &[u32], ending: &[u8]) -> Result<Vec<u32>> {
        let whole = self.prompt(&[beginning, ending].concat())?;
        match whole.strip_prefix(ids) {
            Some(rest) if !rest.is_empty() => Ok(rest.to_vec()),
            _ => self.tokenizer.encode(ending),
        }
    }

    /// The tokens that stand for `text` by themselves: those of exactly this text, with and without
    /// a space before it, and a special token of this name. Ascending.
    ///
    /// A vocabulary has most words twice: at the start of a text and behind a space.
    pub fn tokens_of(&self, text: &str) -> Vec<u32> {
        let (own, named) = (text.as_bytes(), self.tokenizer.token(text));
        let is_one = |id: &u32| match self.tokenizer.token_bytes(*id) {
            _ if Some(*id) == named => true,
            None | Some([]) => false,
            _ if own.is_empty() => false,
            Some(bytes) => bytes == own || bytes.strip_prefix(b" ") == Some(own),
        };
        (0..self.tokenizer.n_vocab() as u32).filter(is_one).collect()
    }

    /// A logit bias on a text, for [`SamplerOptions::logit_bias`]: on each of
    /// [`Text::tokens_of`]; -∞ bans it.
    ///
    /// A bias on a text of several tokens would change other texts, too, and a ban could be got
    /// around by other tokens: that is refused.
    ///
    /// [`SamplerOptions::logit_bias`]: crate::sampler::SamplerOptions::logit_bias
    ///
    /// ```
    /// use brooklet::{Text, tokenizer::Tokenizer};
    ///
    /// let text = Text::new(Tokenizer::bytes());
    /// assert_eq!(text.bias("A", -2.0)?, [(65, -2.0)]);
    /// assert!(text.bias("AB", -2.0).is_err());
    /// # Ok::<(), brooklet::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// No token stands for this text.
    pub fn bias(&self, text: &str, bias: f32) -> Result<Vec<(u32, f32)>> {
        match self.tokens_of(text) {
            tokens if tokens.is_empty() => Err(self.not_one(text, "is")),
            tokens => Ok(tokens.into_iter().map(|token| (token, bias)).collect()),
        }
    }

    /// The tokens that have `text` inside them, for [`SamplerOptions::dry_breakers`].
    ///
    /// [`SamplerOptions::dry_breakers`]: crate::sampler::SamplerOptions::dry_breakers
    ///
    /// # Errors
    /// There is none.
    pub fn breakers(&self, text: &str) -> Result<Vec<u32>> {
        let own = text.as_bytes();
        let has =
            |bytes: &[u8]| !own.is_empty() && bytes.windows(own.len()).any(|part| part == own);
        let tokens: Vec<u32> = (0..self.tokenizer.n_vocab() as u32)
            .filter(|id| self.tokenizer.token_bytes(*id).is_some_and(has))
            .collect();
        if tokens.is_empty() { Err(self.not_one(text, "contains")) } else { Ok(tokens) }
    }

    fn not_one(&self, text: &str, relation: &'static str) -> EngineError {
        let tokens = self.tokenizer.encode(text).map_or(0, |tokens| tokens.len());
        EngineError::NotOneToken { text: text.to_owned(), relation, tokens }
    }

    /// A grammar of texts in these words, for [`Sampler::constrain`]: `source` is a JSON schema, a
    /// regular expression or a Lark grammar.
    ///
    /// [`Sampler::constrain`]: crate::sampler::Sampler::constrain
    ///
    /// # Errors
    /// A source that is no grammar or asks for too much, in words.
    #[cfg(feature = "grammar")]
    pub fn grammar(&self, syntax: crate::Syntax, source: &str) -> Result<crate::Grammar> {
        crate::Grammar::new(syntax, source, &self.tokenizer, &self.ends)
    }

    /// The logits of the tokens that have a meaning here; all of them where tokens stand for no
    /// text.
    ///
    /// A model's head may have more rows than its vocabulary has tokens (padding): sampled from
    /// these, none of them is chosen.
    pub fn known<'a>(&self, logits: &'a [f32]) -> &'a [f32] {
        &logits[..self.n_known(logits.len())]
    }

    /// How many of so many logits [`Text::known`] gives.
    pub(crate) fn n_known(&self, n: usize) -> usize {
        if !self.tokenizer.has_text() {
            return n;
        }
        // The model's configuration may name an end that its tokenizer does not know.
        let ends = self.ends.iter().map(|&id| id as usize + 1);
        ends.fold(self.tokenizer.n_vocab(), usize::max).min(n)
    }
}

#[cfg(all(test, feature = "world"))]
mod tests {
    use super::*;

    #[test]
    fn both_ends_count() {
        let mut text = Text::new(Tokenizer::world());
        assert_eq!(text.ends, [0]);
        text.also_ends(&[]);
        assert_eq!(text.ends, [0]);
        text.also_ends(&[261, 24]);
        assert_eq!(text.ends, [261, 24, 0]);
        text.also_ends(&[24, 0]);
        assert_eq!(text.ends, [24, 0, 261]);
    }

    #[test]
    fn endings_are_cut_where_the_beginning_keeps_its_tokens() {
        let text = Text { begin: Some(0), ..Text::new(Tokenizer::world()) };
        let ending = |beginning: &str, ending: &str| {
            let ids = text.prompt(beginning.as_bytes()).unwrap();
            let ending = text.ending(beginning.as_bytes(), &ids, ending.as_bytes()).unwrap();
            (text.tokenizer.decode_lossy(&ending).unwrap(), ending.len())
        };
        assert_eq!(ending("The sea was", " calm"), (" calm".to_owned(), 1));
        // "\n\n" is one token: behind "\n" the second line feed has its own.
        assert_eq!(ending("The sea\n", "\n"), ("\n".to_owned(), 1));
    }

    #[test]
    fn words_with_and_without_a_space() {
        let text = Text::new(Tokenizer::world());
        let tokens = text.tokens_of("the");
        let texts: Vec<_> =
            tokens.iter().filter_map(|id| text.tokenizer.token_bytes(*id)).collect();
        assert_eq!(tokens.len(), 2, "{texts:?}");
        assert!(texts.contains(&&b"the"[..]) && texts.contains(&&b" the"[..]));
        assert_eq!(text.bias("the", 2.0).unwrap(), [(tokens[0], 2.0), (tokens[1], 2.0)]);
        assert!(text.tokens_of("").is_empty());
        let error = text.bias("the captain said", 1.0).unwrap_err().to_string();
        assert!(error.contains("a text of 3 tokens"), "{error}");
        // Line feeds inside other tokens count.
        let breakers = text.breakers("\n").unwrap();
        let pair = text.tokenizer.token("\n\n").unwrap();
        assert!(breakers.contains(&pair) && breakers.len() > 2);
        assert!(text.breakers("no such text").is_err());
        assert!(text.breakers("").is_err());
    }
}
