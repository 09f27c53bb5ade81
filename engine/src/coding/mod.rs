//! Lossless compression of texts by a model's own predictions: a token that the model expects costs
//! little (Shannon 1948; arithmetic coding: Witten, Neal & Cleary 1987).
//!
//! Whoever unpacks must have the same distributions, to the bit. With int4 to int8, logits have the
//! same bits on every processor, for any number of threads, and whether tokens come one by one or
//! in chunks; with f32 and f16 other instruction sets may not unpack, and find it damaged. The rest
//! is integers and IEEE arithmetic in a fixed order. So a text that was packed in chunks on one
//! machine is unpacked token by token on another.
//!
//! | module | |
//! |---|---|
//! | `frequencies` | logits as whole numbers that sum to a power of two |
//! | `range` | the range coder |
//! | `header` | what stands before the code: the model, how it ran, the text's length and checksum |
//!
//! Test: `tests/coding.rs`.

mod frequencies;
mod header;
mod range;

use xxhash_rust::xxh3::xxh3_64;

use self::frequencies::Frequencies;
pub use self::header::{ArchiveInfo, MAGIC};
use self::range::{Decoder, Encoder};
use crate::engine::{Engine, EngineOptions, Run, Want};
use crate::model::Model;
use crate::state::State;
use crate::text::Text;
use crate::{EngineError, Result};

/// Packs `text`: a header, and the code of its tokens. `options.logits` are taken to be as many as
/// `options.chunk`. `progress(tokens done, tokens)` is called between chunks and stops the work
/// when it returns false: [`None`] then.
///
/// `clear_every` tokens the model forgets what it has read; 0 is never, which a model with a
/// bounded context can only do within that.
///
/// # Errors
/// The model has no tokenizer, or one that does not keep this text; the text does not fit its
/// context; logits are not finite.
pub fn compress(
    model: &Model,
    options: &EngineOptions,
    text: &[u8],
    clear_every: u64,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Option<Vec<u8>>> {
    let words = Text::of(model)?;
    let ids = words.tokenizer.encode(text)?;
    let again = words.tokenizer.decode(&ids)?;
    if again != text {
        let same = again.iter().zip(text).take_while(|(a, b)| a == b).count();
        return Err(EngineError::ChangedText { at: same });
    }
    let n_vocab = model.n_vocab();
    if let Some(&id) = ids.iter().find(|id| **id as usize >= n_vocab) {
        return Err(EngineError::UnknownToken { id, n_vocab });
    }
    let info = ArchiveInfo {
        fingerprint: model.fingerprint(),
        state: model.state_layout().dtype(),
        window: model.state_layout().window().unwrap_or(0) as u64,
        start: first_token(&words),
        clear_every,
        tokens: ids.len() as u64,
        length: text.len() as u64,
        checksum: xxh3_64(text),
    };
    let options = EngineOptions { logits: options.chunk, ..options.clone() };
    let (mut engine, mut state) = (Engine::new(model, &options), model.new_state());
    let mut encoder = Encoder::new(info.to_bytes());
    let mut frequencies = Frequencies::new(n_vocab);
    let (mut read, mut done) = (Vec::new(), 0);
    for part in ids.chunks(part_of(clear_every)) {
        state.reset();
        // Each token is predicted behind those before it, the first behind the one that begins.
        for (i, next) in part.chunks(engine.chunk()).enumerate() {
            if !progress(done, info.tokens) {
                return Ok(None);
            }
            let at = i * engine.chunk();
            read.clear();
            read.extend(if at == 0 { Some(info.start) } else { part.get(at - 1).copied() });
            read.extend_from_slice(&next[..next.len() - 1]);
            engine.forward(&mut [Run { state: &mut state, tokens: &read, want: Want::All }])?;
            for (row, token) in next.iter().enumerate() {
                frequencies.set(engine.logits(row))?;
                encoder.encode(frequencies.range_of(*token));
            }
            done += next.len() as u64;
        }
    }
    progress(done, info.tokens);
    Ok(Some(encoder.finish()))
}

/// Unpacks what [`compress`] has packed with the same model. `progress` as there.
///
/// # Errors
/// The bytes are none of [`compress`]'s, were packed with another model, or with one that ran
/// otherwise, or are damaged.
pub fn decompress(
    model: &Model,
    options: &EngineOptions,
    archive: &[u8],
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Option<Vec<u8>>> {
    let (info, code) = ArchiveInfo::read(archive)?;
    info.check(model)?;
    let words = Text::of(model)?;
    let (mut engine, mut state) = (Engine::new(model, options), model.new_state());
    let mut decoder = Decoder::new(code);
    let mut frequencies = Frequencies::new(model.n_vocab());
    let mut ids: Vec<u32> = Vec::new();
    let part = part_of(info.clear_every) as u64;
    for i in 0..info.tokens {
        if i % PROGRESS == 0 && !progress(i, info.tokens) {
            return Ok(None);
        }
        let before = match ids.last() {
            Some(id) if i % part != 0 => *id,
            _ => {
                state.reset();
                info.start
            }
        };
        step(&mut engine, &mut state, before)?;
        frequencies.set(engine.logits(0))?;
        let token = decoder.decode(|at| frequencies.token_at(at))?;
        ids.push(token);
    }
    progress(info.tokens, info.tokens);
    let text = words.tokenizer.decode(&ids).map_err(|_| EngineError::DamagedArchive)?;
    if text.len() as u64 != info.length || xxh3_64(&text) != info.checksum {
        return Err(EngineError::DamagedArchive);
    }
    Ok(Some(text))
}

/// Tokens between two calls of a progress function.
const PROGRESS: u64 = 16;

fn step(engine: &mut Engine, state: &mut State, token: u32) -> Result<()> {
    engine.forward(&mut [Run { state, tokens: &[token], want: Want::Last }])
}

/// Tokens from one empty state to the next.
fn part_of(clear_every: u64) -> usize {
    match usize::try_from(clear_every) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(n) => n,
    }
}

/// The token that a text begins behind: the one that begins texts, or ends the one before.
fn first_token(words: &Text) -> u32 {
    words.begin.or_else(|| words.ends.first().copied()).unwrap_or(0)
}
