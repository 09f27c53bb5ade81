//! Text from ids as they come: whole characters only, nothing held back longer than a character
//! needs.
//!
//! A token may end inside a character. `DecodeStream` keeps those bytes (at most three) until the
//! next token, and writes U+FFFD only for bytes that no continuation can make valid, with the same
//! result as `String::from_utf8_lossy` over the whole (Unicode 15, section 3.9, "maximal
//! subparts"). Stop strings are not here: `sampler::StopMatcher`. Tests: below, and as a property
//! over all kinds of tokenizer in `tests.rs`.

use super::{Kind, Tokenizer};

/// Room for what one token adds to a text, in bytes: more than nearly every token has, so that a
/// text that has begun allocates nothing.
pub(crate) const PIECE: usize = 256;

/// The treatment of a text's start.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(not(feature = "huggingface"), allow(dead_code))]
pub(super) enum Start {
    /// Nothing.
    Keep,
    /// The first token loses its spaces (Metaspace).
    FirstToken,
    /// The text loses up to so many leading spaces (Strip).
    Leading(usize),
}

impl Start {
    /// Takes from a token's bytes what the start of the text loses; `self` becomes what is left to
    /// do.
    pub(super) fn strip<'a>(&mut self, bytes: &'a [u8]) -> std::borrow::Cow<'a, [u8]> {
        match *self {
            Start::Keep => bytes.into(),
            Start::FirstToken => {
                *self = Start::Keep;
                bytes.iter().copied().filter(|&byte| byte != b' ').collect::<Vec<u8>>().into()
            }
            Start::Leading(most) => {
                let spaces = bytes.iter().take(most).take_while(|&&byte| byte == b' ').count();
                *self = match spaces == bytes.len() {
                    true if most > spaces => Start::Leading(most - spaces),
                    _ => Start::Keep,
                };
                bytes[spaces..].into()
            }
        }
    }
}

/// Decodes ids one by one, see [`Tokenizer::stream`].
///
/// ```
/// use brooklet::tokenizer::Tokenizer;
///
/// let mut stream = Tokenizer::bytes().stream();
/// assert_eq!(stream.push(0xc3), ""); // half of an "é"
/// assert_eq!(stream.push(0xa9), "é");
/// assert_eq!(stream.push(0xc3), "");
/// assert_eq!(stream.finish(), "\u{fffd}");
/// ```
#[derive(Clone, Debug)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    skip_special: bool,
    start: Start,
    /// Bytes of an unfinished character.
    pending: Vec<u8>,
    /// The newest piece.
    text: String,
}

impl DecodeStream {
    pub(super) fn new(tokenizer: Tokenizer) -> Self {
        let mut stream = DecodeStream {
            tokenizer,
            skip_special: false,
            start: Start::Keep,
            pending: Vec::with_capacity(PIECE),
            text: String::with_capacity(PIECE),
        };
        stream.reset();
        stream
    }

    /// Leaves special tokens out of the text.
    pub fn skip_special(mut self, skip: bool) -> Self {
        self.skip_special = skip;
        self
    }

    /// Takes one id and returns the text that it completes, often none.
    ///
    /// An id outside the vocabulary (a padding row of the head) is written as U+FFFD: a stream does
    /// not break off.
    pub fn push(&mut self, id: u32) -> &str {
        self.text.clear();
        if let Kind::HuggingFace(tokenizer) = &self.tokenizer.0
            && self.skip_special
            && tokenizer.is_special(id)
        {
            return &self.text;
        }
        match self.tokenizer.token_bytes(id) {
            Some(bytes) => {
                let bytes = self.start.strip(bytes);
                self.pending.extend_from_slice(&bytes);
                take_characters(&mut self.pending, &mut self.text);
            }
            None => {
                flush(&mut self.pending, &mut self.text);
                self.text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        &self.text
    }

    /// Ends the text: what is left of an unfinished character comes out as U+FFFD. The stream
    /// starts afresh.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        flush(&mut self.pending, &mut self.text);
        self.reset();
        &self.text
    }

    fn reset(&mut self) {
        self.pending.clear();
        self.start = match &self.tokenizer.0 {
            Kind::HuggingFace(tokenizer) => tokenizer.start(),
            _ => Start::Keep,
        };
    }
}

/// Moves all that is decided from `bytes` to `text`; an unfinished character stays.
fn take_characters(bytes: &mut Vec<u8>, text: &mut String) {
    let mut taken = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        taken += chunk.valid().len();
        let invalid = chunk.invalid();
        // Only at the very end may a prefix of a character still be completed.
        let unfinished = taken + invalid.len() == bytes.len()
            && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        if invalid.is_empty() || unfinished {
            break;
        }
        text.push(char::REPLACEMENT_CHARACTER);
        taken += invalid.len();
    }
    bytes.drain(..taken);
}

/// Moves everything; an unfinished character becomes U+FFFD.
fn flush(bytes: &mut Vec<u8>, text: &mut String) {
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    bytes.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces of a byte stream, the last one by `finish`.
    fn pieces(bytes: &[u8]) -> Vec<String> {
        let mut stream = Tokenizer::bytes().stream();
        let mut pieces: Vec<String> =
            bytes.iter().map(|&b| stream.push(u32::from(b)).to_owned()).collect();
        pieces.push(stream.finish().to_owned());
        pieces
    }

    #[test]
    fn characters_come_whole() {
        assert_eq!(pieces("a€😀".as_bytes()), ["a", "", "", "€", "", "", "", "😀", ""]);
    }

    #[test]
    fn invalid_bytes_come_as_soon_as_certain() {
        let bad = "\u{fffd}";
        assert_eq!(pieces(b"\xff"), [bad, ""]);
        assert_eq!(pieces(b"\xe2\x82"), ["", "", bad]);
        // The third byte shows that the first two are nothing; it is itself a letter.
        assert_eq!(pieces(b"\xe2\x82a"), ["", "", "\u{fffd}a", ""]);
        // No character begins with e0 80, so both are decided at once.
        assert_eq!(pieces(b"\xe0\x80"), ["", "\u{fffd}\u{fffd}", ""]);
        assert_eq!(pieces(b"\xc3\xc3\xa9"), ["", bad, "é", ""]);
    }

    #[test]
    #[cfg(feature = "world")]
    fn ids_outside_the_vocabulary_show() {
        let mut stream = Tokenizer::world().stream();
        assert_eq!(stream.push(65535), "\u{fffd}");
        let mut stream = Tokenizer::bytes().stream();
        stream.push(0xc3);
        assert_eq!(stream.push(256), "\u{fffd}\u{fffd}");
        assert_eq!(stream.push(0x41), "A");
    }
}
