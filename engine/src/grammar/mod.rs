//! Grammars: texts that may be written, as a JSON schema, a regular expression or a Lark grammar.
//!
//! A [`Grammar`] knows which tokens can follow; [`Sampler::constrain`](crate::sampler::Sampler)
//! forbids all others before any step of its own. The work is that of the crate `llguidance`
//! (Earley's algorithm over lexemes by derivatives of regular expressions); here stand the
//! vocabularies of ours as it wants them, and limits for grammars that nobody checked. Test:
//! `tests/grammar.rs`.

use std::fmt;
use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{
    InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv,
};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{EngineError, Result};
use crate::tokenizer::Tokenizer;

/// The longest source of a grammar, in bytes.
const LONGEST: usize = 1 << 20;

/// The most characters of the parser's words.
const SHORT: usize = 400;

/// How a grammar is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Syntax {
    /// A JSON schema: texts are JSON documents that it allows, without line feeds and indentation.
    JsonSchema,
    /// A regular expression, which matches the whole text.
    Regex,
    /// Lark's grammars, as llguidance understands them, with the rule `start`.
    Lark,
}

/// A grammar, and how far a text is in it. Cloning is cheap but not free.
#[derive(Clone)]
pub struct Grammar {
    start: Matcher,
    now: Matcher,
    ends: Arc<[u32]>,
    /// A hash of its source.
    print: u64,
    /// The tokens of the text so far.
    taken: Vec<u32>,
    /// A token that ends texts was taken.
    is_over: bool,
    /// The tokens that can follow; none before they were asked for.
    mask: Option<SimpleVob>,
    failure: Option<String>,
}

impl Grammar {
    /// A grammar over the tokens of `tokenizer`, of which `ends` end a text where the grammar lets
    /// it end. (`Text::grammar` knows both.)
    ///
    /// # Errors
    /// A source that is no grammar or asks for too much, in words; a tokenizer without text.
    pub fn new(
        syntax: Syntax,
        source: &str,
        tokenizer: &Tokenizer,
        ends: &[u32],
    ) -> Result<Grammar> {
        if source.len() > LONGEST {
            return Err(failed(format!("{} bytes: expected {LONGEST} at most", source.len())));
        }
        if !tokenizer.has_text() {
            return Err(EngineError::NoTokenizer);
        }
        let grammar = match syntax {
            Syntax::Regex => TopLevelGrammar::from_regex(source),
            Syntax::Lark => TopLevelGrammar::from_lark(source.to_owned()),
            Syntax::JsonSchema => {
                let schema = serde_json::from_str(source);
                let schema = schema.map_err(|error| failed(format!("no JSON schema: {error}")))?;
                TopLevelGrammar::from_json_schema(compact(schema))
            }
        };
        let print = xxh3_64(format!("{syntax:?} {source}").as_bytes());
        let words: TokEnv = Arc::new(Words(words(tokenizer, ends)));
        let caps = InferenceCapabilities::default();
        let mut factory = ParserFactory::new(&words, caps, &[]).map_err(failed)?;
        factory.quiet();
        *factory.limits_mut() = limits();
        let start = Matcher::new(factory.create_parser(grammar));
        match start.get_error() {
            Some(error) => Err(failed(error)),
            None => Ok(Grammar {
                now: start.deep_clone(),
                start,
                ends: ends.into(),
                print,
                taken: Vec::new(),
                is_over: false,
                mask: None,
                failure: None,
            }),
        }
    }

    /// Back to the start of a text.
    pub fn reset(&mut self) {
        self.now = self.start.deep_clone();
        self.taken.clear();
        (self.is_over, self.mask, self.failure) = (false, None, None);
    }

    /// Whether nothing can follow any more but the end of the text.
    pub fn is_over(&self) -> bool {
        self.is_over || self.now.is_stopped()
    }

    /// Takes a token that was chosen. One that cannot follow is a failure, see [`Grammar::check`].
    pub fn accept(&mut self, token: u32) {
        self.mask = None;
        self.taken.push(token);
        if self.ends.contains(&token) {
            self.is_over = true;
        } else if self.is_over() {
            self.fail("nothing can follow".to_owned());
        } else if let Err(error) = self.now.consume_token(token) {
            self.fail(error.to_string());
        }
    }

    /// Where the text stands in it: which grammar it is, and the tokens so far.
    pub(crate) fn position(&self) -> (u64, &[u32]) {
        (self.print, &self.taken)
    }

    /// As it stands behind `tokens` of another text.
    pub(crate) fn behind(&self, tokens: &[u32]) -> Result<Grammar> {
        let mut there = self.clone();
        there.reset();
        tokens.iter().for_each(|token| there.accept(*token));
        there.check()?;
        Ok(there)
    }

    /// How many of `tokens` can follow, one behind the other.
    pub fn allowed(&self, tokens: &[u32]) -> usize {
        if self.is_over() {
            return 0;
        }
        let ahead = tokens.iter().take_while(|token| !self.ends.contains(token)).count();
        self.now.clone().validate_tokens(&tokens[..ahead]).unwrap_or(0)
    }

    /// Forbids what cannot follow: its logits become -∞.
    pub fn forbid(&mut self, logits: &mut [f32]) {
        let mask = match self.mask.take() {
            None if self.is_over() => SimpleVob::alloc(logits.len()),
            None => self.now.compute_mask().unwrap_or_else(|error| {
                self.fail(error.to_string());
                SimpleVob::alloc(logits.len())
            }),
            Some(mask) => mask,
        };
        let can_end = self.is_over() || self.ends.first().is_some_and(|id| has(&mask, *id));
        for (id, logit) in (0..).zip(&mut *logits) {
            let is_end = self.ends.contains(&id);
            if !(is_end && can_end || !is_end && has(&mask, id)) {
                *logit = f32::NEG_INFINITY;
            }
        }
        self.mask = Some(mask);
    }

    /// What went wrong in this text, if anything did.
    ///
    /// # Errors
    /// A token was taken that cannot follow (the model holds none for possible that can), or the
    /// grammar asks for more work than its limits allow.
    pub fn check(&self) -> Result<()> {
        self.failure.as_ref().map_or(Ok(()), |reason| Err(failed(reason)))
    }

    fn fail(&mut self, reason: String) {
        self.failure.get_or_insert(reason);
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").field("is_over", &self.is_over()).finish_non_exhaustive()
    }
}

/// The parser's words, of which a source that is repeated in them may be long.
fn failed(reason: impl fmt::Display) -> EngineError {
    let reason = reason.to_string().replace("<non-verbose/>", "");
    let words: Vec<char> = reason.trim().chars().collect();
    let text = |part: &[char]| part.iter().collect::<String>();
    let reason = match words.len() {
        0..=SHORT => text(&words),
        n => format!("{} … {}", text(&words[..SHORT / 2]), text(&words[n - SHORT / 2..])),
    };
    EngineError::Grammar { reason }
}

/// A schema whose JSON is written without needless blanks: small models begin lines without end
/// where any blank may follow. What the schema itself says of them (`x-guidance`) counts.
fn compact(mut schema: Value) -> Value {
    let blanks = json!({
        "whitespace_flexible": false, "item_separator": ", ?", "key_separator": ": ?",
    });
    if let Some(object) = schema.as_object_mut() {
        object.entry("x-guidance").or_insert(blanks);
    }
    schema
}

fn has(mask: &SimpleVob, id: u32) -> bool {
    (id as usize) < mask.len() && mask.is_allowed(id)
}

/// Bounds on work and memory: a tenth of a second for a token's mask, some 50 MB of lexer states.
fn limits() -> ParserLimits {
    ParserLimits {
        max_lexer_states: 32_768,
        // Fails in words for people, not with the parser's insides.
        verbose_errors: false,
        precompute_large_lexemes: false,
        ..ParserLimits::default()
    }
}

/// The vocabulary as a trie. Tokens with a meaning of their own stand for no text: those that end
/// one, and special ones.
fn words(tokenizer: &Tokenizer, ends: &[u32]) -> TokTrie {
    let n = ends.iter().map(|id| *id as usize + 1).fold(tokenizer.n_vocab(), usize::max);
    let mut words: Vec<Vec<u8>> =
        (0..n as u32).map(|id| tokenizer.token_bytes(id).unwrap_or_default().to_vec()).collect();
    for (id, _) in tokenizer.special_tokens() {
        words.get_mut(*id as usize).into_iter().for_each(Vec::clear);
    }
    for id in ends {
        words.get_mut(*id as usize).into_iter().for_each(Vec::clear);
    }
    // Where nothing ends a text, a token that no model has.
    let end = ends.first().copied().unwrap_or_else(|| {
        words.push(Vec::new());
        n as u32
    });
    TokTrie::from(&TokRxInfo::new(words.len() as u32, end), &words)
}

/// The vocabulary. Any split of a text into tokens will do: the model chooses.
struct Words(TokTrie);

impl TokenizerEnv for Words {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, text: &[u8]) -> Vec<TokenId> {
        self.0.greedy_tokenize(text)
    }

    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}
