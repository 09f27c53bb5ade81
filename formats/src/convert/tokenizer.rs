//! Which tokenizer a converted file carries.

use std::fs;
use std::path::Path;

use crate::FormatError;
use crate::brk::{TokenizerKind, TokenizerMeta};
use crate::checkpoint::Checkpoint;

/// Rows of the embedding of models that use the RWKV World vocabulary.
const WORLD_ROWS: usize = 65536;
/// Rows of byte-level models.
const BYTE_ROWS: usize = 256;

/// The file the user names, else the checkpoint's, else the World vocabulary or plain bytes when the number of rows says
/// so, else none. Returns the metadata and the tokenizer section.
pub(super) fn choose(
    checkpoint: &Checkpoint,
    named: Option<&Path>,
    n_vocab: usize,
) -> Result<(TokenizerMeta, Vec<u8>), FormatError> {
    let meta = |kind| TokenizerMeta { kind, ..TokenizerMeta::default() };
    if let Some(path) = named {
        let text = fs::read(path).map_err(FormatError::io("read", path))?;
        let is_json = text.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
        let kind = if is_json { TokenizerKind::HuggingFace } else { TokenizerKind::World };
        return Ok((meta(kind), text));
    }
    if let Some(json) = checkpoint.tokenizer_json() {
        return Ok((meta(TokenizerKind::HuggingFace), json));
    }
    Ok(match n_vocab {
        WORLD_ROWS => (meta(TokenizerKind::World), Vec::new()),
        BYTE_ROWS => (meta(TokenizerKind::Bytes), Vec::new()),
        _ => (meta(TokenizerKind::None), Vec::new()),
    })
}
