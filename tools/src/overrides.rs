//! `--override RE=TYPE`: number formats of single matrices, and what was most likely not meant by
//! them. Test: `tests/cli/convert.rs`.

use std::path::Path;

use brooklet::tokenizer::Tokenizer;
use brooklet_formats::DType;
use brooklet_formats::brk::BrkFile;
use regex_lite::Regex;

use crate::{args, output};

/// Says what was most likely not meant: patterns that no tensor's name matches, a tokenizer that is
/// too large.
pub(crate) fn note_doubts(
    target: &Path,
    overrides: &[(Regex, DType)],
    tokenizer: Option<&Tokenizer>,
) {
    let Ok(file) = BrkFile::open(target) else { return };
    for (pattern, dtype) in overrides {
        if !file.tensors().iter().any(|tensor| pattern.is_match(&tensor.name)) {
            output::note(&format!(
                "brooklet: note: --override '{pattern}={dtype}' matches no tensor"
            ));
        }
    }
    let rows = file.tensor("embed").and_then(|embed| embed.info.shape.first().copied());
    if let (Some(rows), Some(tokens)) = (rows, tokenizer.map(Tokenizer::n_vocab))
        && tokens > rows
    {
        output::note(&format!(
            "brooklet: note: the tokenizer has {tokens} tokens, the model only {rows}"
        ));
    }
}

/// `RE=TYPE`; the pattern may contain `=` itself.
pub(crate) fn parse_override(text: &str) -> Result<(Regex, DType), String> {
    let (pattern, dtype) = text.rsplit_once('=').ok_or("expected RE=TYPE, such as 'head=int8'")?;
    let regex = Regex::new(pattern).map_err(|error| error.to_string())?;
    Ok((regex, args::dtype(dtype)?))
}
