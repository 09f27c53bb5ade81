//! Text to token ids and back: `Tokenizer`, one type over every vocabulary a model may carry.
//!
//! Text is bytes here: `encode` takes any, `decode` gives bytes back and loses none; whole
//! characters come out of `DecodeStream` (`stream.rs`). Kinds: RWKV World (`world.rs`), Hugging
//! Face's `tokenizer.json` (`huggingface/`), raw bytes (`bytes.rs`), and none. Chat templates are
//! not here, nor is anything that depends on a model. Tests: beside each kind; the cases of
//! `fixtures/tokenizer-*` and the properties of all kinds in `tests.rs`.

mod bytes;
#[cfg_attr(not(feature = "huggingface"), path = "without_huggingface.rs")]
mod huggingface;
mod stream;
mod trie;
mod world;
mod world_text;

#[cfg(all(test, feature = "huggingface", feature = "world"))]
mod tests;

use std::sync::Arc;

use self::huggingface::HuggingFace;
pub use self::stream::DecodeStream;
pub(crate) use self::stream::PIECE;
#[cfg(feature = "chat")]
pub(crate) use self::trie::Trie;
use self::world::World;
use crate::error::{EngineError, Result};

/// Turns text into token ids and ids into text. Cloning is cheap: the clones share one vocabulary.
///
/// ```
/// use brooklet::tokenizer::Tokenizer;
///
/// let tokenizer = Tokenizer::world();
/// let ids = tokenizer.encode("Hello, brooklet!")?;
/// assert_eq!(tokenizer.decode(&ids)?, b"Hello, brooklet!");
/// # Ok::<(), brooklet::EngineError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Tokenizer(Kind);

#[derive(Clone, Debug)]
enum Kind {
    World(Arc<World>),
    HuggingFace(Arc<HuggingFace>),
    Bytes,
    None,
}

impl Tokenizer {
    /// The RWKV World vocabulary, built in: 65529 tokens, ids from 1; id 0 ends the text.
    #[cfg(feature = "world")]
    pub fn world() -> Self {
        static WORLD: std::sync::OnceLock<Arc<World>> = std::sync::OnceLock::new();
        let world = WORLD.get_or_init(|| Arc::new(World::built_in()));
        Tokenizer(Kind::World(Arc::clone(world)))
    }

    /// A World vocabulary from its text form, `ID LITERAL LENGTH` per line, or from its packed
    /// form.
    ///
    /// # Errors
    /// A line that cannot be read, an id or a length that does not fit: says which line.
    pub fn world_from_vocab_text(text: &[u8]) -> Result<Self> {
        Ok(Tokenizer(Kind::World(Arc::new(World::from_bytes(without_mark(text))?))))
    }

    /// A `tokenizer.json` of Hugging Face's `tokenizers`: byte-pair encodings and unigram models,
    /// with the steps that `formats/SPEC.md` names.
    ///
    /// # Errors
    /// The bytes are no such file, or name a model or a step that is not supported.
    pub fn from_huggingface_json(json: &[u8]) -> Result<Self> {
        Ok(Tokenizer(Kind::HuggingFace(Arc::new(HuggingFace::from_json(without_mark(json))?))))
    }

    /// Every byte is a token, 256 in all.
    pub fn bytes() -> Self {
        Tokenizer(Kind::Bytes)
    }

    /// No vocabulary: a model of token ids only. `encode` and `decode` are errors.
    pub fn none() -> Self {
        Tokenizer(Kind::None)
    }

    /// The tokenizer that a weight file describes: `kind` is "world", "huggingface", "bytes" or
    /// "none".
    ///
    /// `blob` is the packed or text vocabulary of "world" (empty: the one built in), the JSON of
    /// "huggingface", and not read for the others.
    ///
    /// # Errors
    /// An unknown kind, or a blob that cannot be read.
    pub fn from_meta(kind: &str, blob: &[u8]) -> Result<Self> {
        match kind {
            "world" if blob.is_empty() => built_in(),
            "world" => Self::world_from_vocab_text(blob),
            "huggingface" => Self::from_huggingface_json(blob),
            "bytes" => Ok(Self::bytes()),
            "none" => Ok(Self::none()),
            other => Err(EngineError::TokenizerKind { found: other.to_owned() }),
        }
    }

    /// Whether tokens stand for text at all: `false` for [`Tokenizer::none`].
    pub fn has_text(&self) -> bool {
        !matches!(self.0, Kind::None)
    }

    /// The kind's name, as in [`Tokenizer::from_meta`].
    pub fn kind(&self) -> &'static str {
        match &self.0 {
            Kind::World(_) => "world",
            Kind::HuggingFace(_) => "huggingface",
            Kind::Bytes => "bytes",
            Kind::None => "none",
        }
    }

    /// The packed form of a World vocabulary (a third of the text's size), which
    /// [`Tokenizer::from_meta`] reads.
    pub fn world_packed(&self) -> Option<&[u8]> {
        match &self.0 {
            Kind::World(world) => Some(world.packed()),
            _ => None,
        }
    }

    /// The token ids of `text`, which may be any bytes. Nothing is added before or after them.
    ///
    /// Special tokens written out in the text become special tokens (as `tokenizers` does); World
    /// has none.
    ///
    /// # Errors
    /// Bytes that the vocabulary cannot express: invalid UTF-8 where there are no tokens for single
    /// bytes.
    pub fn encode(&self, text: impl AsRef<[u8]>) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        self.encode_into(text.as_ref(), &mut ids)?;
        Ok(ids)
    }

    /// [`Tokenizer::encode`], appending to `ids`.
    ///
    /// # Errors
    /// As `encode`; `ids` may hold a part of the text's tokens then.
    pub fn encode_into(&self, text: &[u8], ids: &mut Vec<u32>) -> Result<()> {
        self.encode_spelled(text, &[], ids)
    }

    /// [`Tokenizer::encode_into`] of a text whose special tokens that begin at one of the bytes
    /// `spelled` (in ascending order) are no tokens, but the characters of their names.
    ///
    /// # Errors
    /// As `encode_into`.
    pub fn encode_spelled(&self, text: &[u8], spelled: &[usize], ids: &mut Vec<u32>) -> Result<()> {
        self.encode_within(text, spelled, usize::MAX, ids).map(|_| ())
    }

    /// [`Tokenizer::encode_spelled`] of a text that may be longer than anybody wants: false where
    /// `ids` would have more than `most` ids in all. What it has then is worth nothing.
    ///
    /// # Errors
    /// As `encode_into`, of as much of the text as was looked at.
    pub fn encode_within(
        &self,
        text: &[u8],
        spelled: &[usize],
        most: usize,
        ids: &mut Vec<u32>,
    ) -> Result<bool> {
        match &self.0 {
            Kind::World(world) => world.encode(text, most, ids)?,
            Kind::HuggingFace(tokenizer) => tokenizer.encode(text, spelled, most, ids)?,
            Kind::Bytes if text.len() > most.saturating_sub(ids.len()) => return Ok(false),
            Kind::Bytes => bytes::encode(text, ids),
            Kind::None => return Err(EngineError::NoTokenizer),
        }
        Ok(ids.len() <= most)
    }

    /// The bytes that the tokens stand for, special tokens written out.
    ///
    /// One token's bytes need not be whole characters; use [`Tokenizer::stream`] for text as it
    /// comes.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<Vec<u8>> {
        if let Kind::HuggingFace(tokenizer) = &self.0 {
            return tokenizer.decode(ids);
        }
        let mut bytes = Vec::new();
        for &id in ids {
            bytes.extend_from_slice(self.token_bytes(id).ok_or_else(|| self.unknown(id))?);
        }
        Ok(bytes)
    }

    /// [`Tokenizer::decode`] as text, with U+FFFD for what is no UTF-8.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn decode_lossy(&self, ids: &[u32]) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.decode(ids)?).into_owned())
    }

    /// A decoder that takes one id after the other and gives text in whole characters.
    pub fn stream(&self) -> DecodeStream {
        DecodeStream::new(self.clone())
    }

    /// The bytes of one token in the middle of a text: empty for an id in no use, `None` outside
    /// the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        match &self.0 {
            Kind::World(world) => world.token_bytes(id),
            Kind::HuggingFace(tokenizer) => tokenizer.token_bytes(id),
            Kind::Bytes => bytes::token_bytes(id),
            Kind::None => None,
        }
    }

    /// The id of the token whose bytes, or for a special token whose name, are exactly `token`.
    pub fn token(&self, token: &str) -> Option<u32> {
        match &self.0 {
            Kind::World(world) => world.token(token.as_bytes()),
            Kind::HuggingFace(tokenizer) => tokenizer.token(token),
            Kind::Bytes => {
                token.as_bytes().first().filter(|_| token.len() == 1).map(|&byte| u32::from(byte))
            }
            Kind::None => None,
        }
    }

    /// One more than the largest id. A model's head may have more rows (padding), which no text
    /// leads to and [`crate::Text::known`] leaves out.
    pub fn n_vocab(&self) -> usize {
        match &self.0 {
            Kind::World(world) => world.n_vocab(),
            Kind::HuggingFace(tokenizer) => tokenizer.n_vocab(),
            Kind::Bytes => bytes::N_VOCAB,
            Kind::None => 0,
        }
    }

    /// The id that ends a text: 0 for World; for `tokenizer.json`, which does not say, the special
    /// token with one of the usual names. A model's own configuration, where it names the id, knows
    /// better.
    pub fn eos(&self) -> Option<u32> {
        match &self.0 {
            Kind::World(_) => Some(world::END_OF_TEXT),
            Kind::HuggingFace(tokenizer) => tokenizer.eos(),
            Kind::Bytes | Kind::None => None,
        }
    }

    /// The special tokens by id, with their names. World's end of text has no name and is not among
    /// them.
    pub fn special_tokens(&self) -> &[(u32, String)] {
        match &self.0 {
            Kind::HuggingFace(tokenizer) => tokenizer.special_tokens(),
            _ => &[],
        }
    }

    fn unknown(&self, id: u32) -> EngineError {
        match self.0 {
            Kind::None => EngineError::NoTokenizer,
            _ => EngineError::UnknownToken { id, n_vocab: self.n_vocab() },
        }
    }
}

/// A file's bytes without the mark of byte order that some editors put in front.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes)
}

#[cfg(feature = "world")]
fn built_in() -> Result<Tokenizer> {
    Ok(Tokenizer::world())
}

#[cfg(not(feature = "world"))]
fn built_in() -> Result<Tokenizer> {
    Err(EngineError::NotBuilt { what: "the built-in World vocabulary", feature: "world" })
}
