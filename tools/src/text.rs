//! The tokenizer that an argument names, which need not belong to a model.
//!
//! Not here: the tokenizers and a model's own words (`brooklet::Text`). Test:
//! `tests/cli/tokenize.rs`.

use std::io::Read;
use std::path::Path;

use brooklet::tokenizer::Tokenizer;
use brooklet_formats::atomic::open_regular;
use brooklet_formats::brk::BrkFile;
use brooklet_formats::convert::{tokenizer_of as tokenizer_of_checkpoint, vocabulary};

use crate::checkpoint;
use crate::failure::{Failure, Result};

/// The tokenizer of a model, of a checkpoint (its own, without converting it), or the one that
/// [`tokenizer_at`] finds.
pub(crate) fn tokenizer_of(place: &Path) -> Result<Tokenizer> {
    match checkpoint::at(place)? {
        Some(_) => {
            let (meta, section) = tokenizer_of_checkpoint(place)?;
            Ok(Tokenizer::from_meta(meta.kind.name(), &section)?)
        }
        None => tokenizer_at(place),
    }
}

/// The tokenizer that `place` names: a `.brk` model, a `tokenizer.json`, a World vocabulary, or the
/// words `world`, `bytes`.
pub(crate) fn tokenizer_at(place: &Path) -> Result<Tokenizer> {
    match place.to_str() {
        Some("world") if !place.exists() => return Ok(Tokenizer::world()),
        Some("bytes") if !place.exists() => return Ok(Tokenizer::bytes()),
        _ => {}
    }
    if place.extension().is_some_and(|extension| extension == "brk") {
        return from_model(place);
    }
    let start = first_bytes(place)?;
    if start.starts_with(&brooklet_formats::brk::MAGIC) {
        return from_model(place);
    }
    let bytes = std::fs::read(place).map_err(Failure::io("read", place.display()))?;
    let (kind, section) = vocabulary(bytes);
    let tokenizer = Tokenizer::from_meta(kind.name(), &section);
    tokenizer.map_err(|error| {
        Failure::with(
            format!("{}: {error}", place.display()),
            "give a .brk model, a tokenizer.json, a World vocabulary or the word `world`",
        )
    })
}

fn from_model(path: &Path) -> Result<Tokenizer> {
    let file = BrkFile::open(path)?;
    Ok(Tokenizer::from_meta(file.meta().tokenizer.kind.name(), &file.tokenizer_blob()?)?)
}

/// Enough of a regular file to tell what it is.
fn first_bytes(path: &Path) -> Result<Vec<u8>> {
    let (file, _) = open_regular(path)?;
    let mut start = Vec::new();
    file.take(64).read_to_end(&mut start).map_err(Failure::io("read", path.display()))?;
    Ok(start)
}
