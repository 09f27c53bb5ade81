//! Text to token ids and back, and text from tokens as they come.
//!
//! A tokenizer handle holds a model's words: the vocabulary and the tokens that begin and end a
//! text. A decoder is a stream with stop strings. Not here: chat templates (`chat`). Test:
//! `tests/contract/words.rs`.

use std::ffi::{c_char, c_void};

use brooklet::Text;
use brooklet::sampler::StopMatcher;
use brooklet::tokenizer::{DecodeStream, Tokenizer};

use super::arguments::{fill, out, slice, string, strings};
use super::failure::brooklet_result;
use super::handle::{Handle, Opaque, free, make, make_from, message, on, on_mut};
use super::model::brooklet_model;

/// No token: what stands where there is none.
pub const BROOKLET_NO_TOKEN: u32 = u32::MAX;

/// A vocabulary, and the tokens that begin and end a text. Never changes.
pub struct brooklet_tokenizer(Handle<Text>);

impl Opaque for brooklet_tokenizer {
    type Value = Text;
    const NAME: &'static str = "tokenizer";

    fn new(handle: Handle<Text>) -> Self {
        brooklet_tokenizer(handle)
    }

    fn handle(&self) -> &Handle<Text> {
        &self.0
    }
}

/// The tokenizer that a model carries.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_tokenizer_of_model(
    model: *const brooklet_model,
    tokenizer: *mut *mut brooklet_tokenizer,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe { make_from(model, tokenizer, |opened| Ok(Text::of(&opened.model)?)) }
}

/// A tokenizer by itself. `kind` is "world" (`bytes`: the vocabulary as text or packed; none: the
/// one built in), "huggingface" (`bytes`: a tokenizer.json), "bytes" (every byte is a token) or
/// "none". The bytes are copied.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_tokenizer_new(
    kind: *const c_char,
    bytes: *const c_void,
    length: usize,
    tokenizer: *mut *mut brooklet_tokenizer,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        make(tokenizer, || {
            let bytes = slice(bytes.cast::<u8>(), length, "bytes")?;
            Ok(Text::new(Tokenizer::from_meta(string(kind, "kind")?, bytes)?))
        })
    }
}

/// Frees a tokenizer; NULL is fine. Decoders made from it live on.
///
/// Threads: any, when no other call with this handle is running or follows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_tokenizer_free(tokenizer: *mut brooklet_tokenizer) {
    // SAFETY: the caller's promise (top of the header).
    unsafe { free(tokenizer) }
}

/// Copies the message of the last failure with this handle, as snprintf would; returns its length.
/// "" before the first.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_tokenizer_message(
    tokenizer: *const brooklet_tokenizer,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    // SAFETY: the caller's promise (top of the header).
    unsafe { message(tokenizer, buffer, capacity) }
}

/// The ids of `length` bytes of text, nothing added before or after. `n` gets their number; if that
/// is above `capacity` the result is BROOKLET_BUFFER and no id is written. A text never has more
/// ids than bytes.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_tokenizer_encode(
    tokenizer: *const brooklet_tokenizer,
    text: *const c_char,
    length: usize,
    ids: *mut u32,
    capacity: usize,
    n: *mut usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(tokenizer, |own| {
            let found = own.tokenizer.encode(slice(text.cast::<u8>(), length, "text")?)?;
            fill(&found, ids, capacity, n, "ids")
        })
    }
}

/// The ids of a prompt: as brooklet_tokenizer_encode, behind the token that begins a text where the
/// model wants one. An empty prompt becomes a token to begin with, if the model has any. Never more
/// ids than bytes and one.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_tokenizer_prompt(
    tokenizer: *const brooklet_tokenizer,
    text: *const c_char,
    length: usize,
    ids: *mut u32,
    capacity: usize,
    n: *mut usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(tokenizer, |own| {
            let found = own.prompt(slice(text.cast::<u8>(), length, "text")?)?;
            fill(&found, ids, capacity, n, "ids")
        })
    }
}

/// The bytes that `n_id` tokens stand for, special tokens written out; not ended by a zero, and
/// whole characters only where the ids are. `length` gets their number; if that is above `capacity`
/// the result is BROOKLET_BUFFER and none is written.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_tokenizer_decode(
    tokenizer: *const brooklet_tokenizer,
    ids: *const u32,
    n_id: usize,
    text: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(tokenizer, |own| {
            let bytes = own.tokenizer.decode(slice(ids, n_id, "ids")?)?;
            fill(&bytes, text.cast::<u8>(), capacity, length, "text")
        })
    }
}

/// The bytes of one token in the middle of a text, valid as long as the tokenizer: none for an id
/// in no use, and an error for one outside the vocabulary.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_tokenizer_token_bytes(
    tokenizer: *const brooklet_tokenizer,
    id: u32,
    bytes: *mut *const c_void,
    length: *mut usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header). The handle's vocabulary never changes, so
    // the bytes stay.
    unsafe {
        on(tokenizer, |own| {
            let (to, n) = (out(bytes, "bytes")?, out(length, "length")?);
            let unknown =
                || brooklet::EngineError::UnknownToken { id, n_vocab: own.tokenizer.n_vocab() };
            let token = own.tokenizer.token_bytes(id).ok_or_else(unknown)?;
            to.write(token.as_ptr().cast());
            n.write(token.len());
            Ok(())
        })
    }
}

/// The id of the token whose text, or for a special token whose name, is exactly `token`;
/// BROOKLET_NO_TOKEN if there is none.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_tokenizer_find(
    tokenizer: *const brooklet_tokenizer,
    token: *const c_char,
    id: *mut u32,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(tokenizer, |own| {
            let id = out(id, "id")?;
            id.write(own.tokenizer.token(string(token, "token")?).unwrap_or(BROOKLET_NO_TOKEN));
            Ok(())
        })
    }
}

/// One more than the largest id. The model's n_vocab may be larger (padding), which no text leads
/// to: a sampler for logits of so many tokens, or so many logits in brooklet_sampler_sample, never
/// choose one of those.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_tokenizer_n_vocab(
    tokenizer: *const brooklet_tokenizer,
    n_vocab: *mut usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(tokenizer, |own| {
            out(n_vocab, "n_vocab")?.write(own.tokenizer.n_vocab());
            Ok(())
        })
    }
}

/// The token that the model wants before a text, or BROOKLET_NO_TOKEN.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_tokenizer_begin(
    tokenizer: *const brooklet_tokenizer,
    id: *mut u32,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(tokenizer, |own| {
            out(id, "id")?.write(own.begin.unwrap_or(BROOKLET_NO_TOKEN));
            Ok(())
        })
    }
}

/// The tokens that end a text. `n` gets their number; if that is above `capacity` the result is
/// BROOKLET_BUFFER.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_tokenizer_ends(
    tokenizer: *const brooklet_tokenizer,
    ids: *mut u32,
    capacity: usize,
    n: *mut usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe { on(tokenizer, |own| fill(&own.ends, ids, capacity, n, "ids")) }
}

/// Makes text of tokens as they come: whole characters only, up to a stop string.
pub struct brooklet_decoder(Handle<Decoder>);

/// A stream, the search for stop strings, and the newest piece as C has it.
pub(crate) struct Decoder {
    stream: DecodeStream,
    stops: StopMatcher,
    pub(crate) piece: Piece,
}

/// A text with a zero behind it, in memory that is used again.
pub(crate) struct Piece(Vec<u8>);

impl Default for Piece {
    /// With room for more than nearly every token adds, so that a text that has begun allocates
    /// nothing.
    fn default() -> Self {
        Piece(Vec::with_capacity(512))
    }
}

impl Piece {
    /// Takes a text; gives where it stands and its length without the zero.
    pub(crate) fn set(&mut self, text: &str) -> (*const c_char, usize) {
        self.0.clear();
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        (self.0.as_ptr().cast(), text.len())
    }
}

impl Opaque for brooklet_decoder {
    type Value = Decoder;
    const NAME: &'static str = "decoder";

    fn new(handle: Handle<Decoder>) -> Self {
        brooklet_decoder(handle)
    }

    fn handle(&self) -> &Handle<Decoder> {
        &self.0
    }
}

/// A decoder that stops before the first of `n_stop` strings; `stops` may be NULL where there are
/// none. Special tokens are left out where `skip_special` is not 0.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_decoder_new(
    tokenizer: *const brooklet_tokenizer,
    skip_special: i32,
    stops: *const *const c_char,
    n_stop: usize,
    decoder: *mut *mut brooklet_decoder,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        make_from(tokenizer, decoder, |own| {
            Ok(Decoder {
                stream: own.tokenizer.stream().skip_special(skip_special != 0),
                stops: StopMatcher::new(strings(stops, n_stop, "stops")?),
                piece: Piece::default(),
            })
        })
    }
}

/// Takes a token. `text` and `length` get what it completes, often nothing: UTF-8 with a zero
/// behind it, valid until the next call with this decoder. `stop`, which may be NULL, gets the
/// number of the stop string that was found, or -1; after one was found no more text comes. An id
/// outside the vocabulary is written as U+FFFD.
///
/// Threads: one at a time per decoder.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_decoder_push(
    decoder: *mut brooklet_decoder,
    id: u32,
    text: *mut *const c_char,
    length: *mut usize,
    stop: *mut i32,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on_mut(decoder, |own| {
            let (to, n) = (out(text, "text")?, out(length, "length")?);
            let stop = if stop.is_null() { None } else { Some(out(stop, "stop")?) };
            let passed = own.stops.push(own.stream.push(id));
            let (pointer, len) = own.piece.set(passed.text);
            to.write(pointer);
            n.write(len);
            if let Some(stop) = stop {
                stop.write(passed.stop.map_or(-1, |i| i as i32));
            }
            Ok(())
        })
    }
}

/// Ends the text: `text` and `length` get what was held back, as brooklet_decoder_push does. The
/// decoder is as new then.
///
/// Threads: one at a time per decoder.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_decoder_finish(
    decoder: *mut brooklet_decoder,
    text: *mut *const c_char,
    length: *mut usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on_mut(decoder, |own| {
            let (to, n) = (out(text, "text")?, out(length, "length")?);
            let mut rest = own.stops.push(own.stream.finish()).text.to_owned();
            rest.push_str(own.stops.finish());
            own.stops.reset();
            let (pointer, len) = own.piece.set(&rest);
            to.write(pointer);
            n.write(len);
            Ok(())
        })
    }
}

/// Frees a decoder; NULL is fine.
///
/// Threads: any, when no other call with this handle is running or follows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_decoder_free(decoder: *mut brooklet_decoder) {
    // SAFETY: the caller's promise (top of the header).
    unsafe { free(decoder) }
}
