//! Conversion: a checkpoint in, a `.brk` file out.
//!
//! | module | |
//! |---|---|
//! | `families` | one table per architecture: layouts, hyper-parameters, tensors |
//! | `table` | the types that the tables are made of |
//! | `syntax` | how the text of their cells is read |
//! | `place` | a checkpoint in one of the layouts: where its names stand |
//! | `hyper` | hyper-parameters, read once and typed |
//! | `formula`, `view` | values of a cell: parts of tensors, and what happens to them |
//! | `equalize` | channels that are far larger than others, made equal before rounding |
//! | `plan` | every tensor of the file to be, and where its values come from |
//! | `options` | what people ask for, and the number format that each matrix gets by it |
//! | `recipe` | number formats of single matrices, out of a file |
//! | `mistaken` | checkpoints that are no model, named for what they are |
//! | `lora` | low-rank changes, added to the weights as they are read |
//! | `tokenizer`, `ends`, `vocabulary`, `gguf_tokenizer`, `gguf_sentencepiece`, `gguf_tokens` | the tokenizer |
//! | `provenance` | where it comes from |
//! | `importance` | llama.cpp's imatrix files, by the names of our matrices |
//! | `recode` | the number formats of a file that is written again |
//!
//! This file has the way through them, one tensor in memory at a time. All transformations of
//! weights (transposing, folding, splitting) happen here and are written in SPEC.md. Buffers are
//! appended to, everywhere from `Checkpoint::read_rows` to `BrkWriter::matrix`. Test: `tests` for
//! the language; `tests/parity_*.rs` convert every fixture.

mod byte_level;
mod ends;
mod equalize;
mod families;
mod formula;
mod gguf_sentencepiece;
mod gguf_tokenizer;
mod gguf_tokens;
mod hyper;
mod importance;
mod keys;
mod lora;
mod mistaken;
mod options;
mod place;
mod plan;
mod provenance;
mod recipe;
mod recode;
mod syntax;
mod table;
mod tiktoken;
mod tokenizer;
mod values;
mod view;
mod vocabulary;

#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::Value;

use self::equalize::Factors;
pub use self::equalize::{Equalized, equalized_copy};
use self::families::ARCHITECTURES;
pub use self::importance::importance;
pub use self::lora::Lora;
pub use self::options::ConvertOptions;
use self::place::Place;
pub use self::recipe::Recipe;
use self::table::Architecture;
pub use self::vocabulary::vocabulary;
use crate::atomic::Target;
use crate::brk::{self, BrkWriter, Meta, Provenance, TokenizerMeta};
use crate::checkpoint::Checkpoint;
use crate::threads::Threads;
use crate::{DType, FormatError};

/// How far a conversion is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Weights written.
    pub done: u64,
    /// Weights in all.
    pub total: u64,
    /// The tensor being written.
    pub tensor: &'a str,
}

/// The result of a conversion.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Name of the architecture.
    pub architecture: String,
    /// The kind of checkpoint that was read.
    pub source_kind: &'static str,
    /// Tensors written.
    pub n_tensors: usize,
    /// Weights written.
    pub n_weights: u64,
    /// Bytes of the checkpoint's files.
    pub source_bytes: u64,
    /// Bytes of the file written.
    pub target_bytes: u64,
    /// Bits of tensor data per weight, scales and padding included.
    pub bits_per_weight: f64,
    /// The tokenizer in the file: `world`, `huggingface`, `bytes` or `none`.
    pub tokenizer: &'static str,
    /// The part of the checkpoint's tokenizer that could not be carried over.
    pub tokenizer_note: Option<String>,
    /// How much was equalized; none if it was not to be.
    pub equalized: Option<Equalized>,
    /// Notes for people.
    pub notes: Vec<String>,
}

/// The architectures that a conversion may be told to take a checkpoint for.
pub fn assumable() -> Vec<&'static str> {
    let mut names: Vec<&str> = ARCHITECTURES.iter().map(|each| each.name).collect();
    names.push(FALCON);
    names
}

/// Mamba-1 with more norms, which its `model_type` alone tells.
const FALCON: &str = "falcon_mamba";

/// The architectures that the options allow, and the checkpoint taken for one of them.
fn assumed(
    checkpoint: &mut Checkpoint,
    assume: Option<&str>,
) -> Result<Vec<&'static Architecture>, FormatError> {
    let Some(name) = assume else { return Ok(ARCHITECTURES.to_vec()) };
    let family = if name == FALCON { "mamba1" } else { name };
    let found: Vec<_> = ARCHITECTURES.iter().copied().filter(|each| each.name == family).collect();
    if found.is_empty() {
        return Err(FormatError::Field {
            path: checkpoint.path().to_owned(),
            what: "the architecture that is assumed",
            expected: format!("one of {}", assumable().join(", ")),
            found: name.to_owned(),
        });
    }
    checkpoint.assume(name);
    Ok(found)
}

/// An error if the checkpoint is a folder that lacks its `config.json`, which would be missed in
/// the results; of a file alone, a note.
fn missing_config(
    source: &Path,
    place: &Place<'_>,
    title: &str,
) -> Result<Option<String>, FormatError> {
    let checkpoint = place.checkpoint;
    let says_something = |config: &Value| config.as_object().is_some_and(|keys| !keys.is_empty());
    if !place.layout.asks_config || checkpoint.config().is_some_and(says_something) {
        return Ok(None);
    }
    let path = checkpoint.folder().join("config.json");
    if source.is_dir() || source.extension().is_some_and(|extension| extension == "json") {
        return Err(FormatError::NotAModel {
            path,
            found: format!(
                "missing or empty, and the weights ({title}) do not tell all that it says"
            ),
            mend: "get that file too, or say it: --config FILE, or --assume ARCHITECTURE",
        });
    }
    Ok(Some(format!("{} is not there: taken for {title} with the usual epsilons", path.display())))
}

/// Converts the checkpoint at `source` and puts the result at `target`, whole or not at all.
///
/// `progress` is called while the source is hashed (with no tensor and nothing done) and between
/// blocks of rows; when it breaks, nothing is left behind and the error is
/// [`FormatError::Cancelled`].
///
/// # Errors
/// The source cannot be read, is of no known architecture, lacks a tensor or holds weights that are
/// not finite; the target cannot be written, belongs to the source, or is there and no `.brk` file.
pub fn convert(
    source: &Path,
    target: &Path,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Summary, FormatError> {
    let mut checkpoint = Checkpoint::open_as(source, options.config.as_deref())?;
    let architectures = assumed(&mut checkpoint, options.assume.as_deref())?;
    let loras: Result<Vec<_>, _> = options.loras.iter().map(|own| lora::open(&own.path)).collect();
    let loras = loras?;
    let mut inputs: Vec<PathBuf> = checkpoint.inputs();
    inputs.extend(loras.iter().flat_map(Checkpoint::inputs));
    inputs.extend(options.tokenizer.iter().chain(&options.config).cloned());
    inputs.extend(options.recipe.iter().map(|recipe| recipe.path().to_owned()));
    let target = Target::new(target, brk::KIND, inputs).force(options.force);
    target.check()?;
    mistaken::check(&checkpoint, options.assume.is_some())?;
    let mut notes = checkpoint.notes().to_vec();
    if checkpoint.tensors().iter().any(|tensor| mistaken::is_tuned_state(&tensor.name)) {
        notes.push(
            "the checkpoint also has a tuned state, which the model does not: \
             `brooklet state import` reads it from the same file"
                .to_owned(),
        );
    }
    for (own, lora) in options.loras.iter().zip(&loras) {
        lora::merge(&mut checkpoint, lora, own.scale)?;
    }
    let (architecture, place) = plan::recognise(&architectures, &checkpoint)?;
    notes.extend(missing_config(source, &place, architecture.title)?);
    let plan = plan::plan(architecture, place, options.untie)?;
    if let Some(recipe) = &options.recipe {
        recipe.check(plan.tensors.iter().filter(|t| t.is_matrix()).map(|t| t.name.as_str()))?;
    }
    let tokenizer = tokenizer::choose(&checkpoint, options.tokenizer.as_deref(), plan.n_vocab())?;
    let kind = tokenizer.meta.kind.name();
    let total = plan.n_weights();
    let mut done = 0;
    let mut report = |done: u64, tensor: &str| match progress(Progress { done, total, tensor }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => {
            let what = "conversion cancelled, nothing was written";
            Err(FormatError::Cancelled { path: target.path().to_owned(), what })
        }
    };
    let hashes = loras.iter().map(|lora| provenance::hash_files(lora.files(), || report(0, "")));
    let hashes = hashes.collect::<Result<Vec<_>, _>>()?;
    let meta = Meta {
        architecture: architecture.name.to_owned(),
        config: plan.config.clone(),
        tokenizer: tokenizer.meta,
        chat_template: checkpoint.chat_template(),
        provenance: Provenance {
            source_file: source.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            source_hash: provenance::hash_files(checkpoint.files(), || report(0, ""))?,
            source_format: checkpoint.kind().name().to_owned(),
            converter_version: env!("CARGO_PKG_VERSION").to_owned(),
            recipe: provenance::recipe(options, &hashes),
        },
    };
    let threads = Threads::new(options.threads);
    let factors = match options.equalize {
        true => plan.factors(architecture, options, &threads, &mut |tensor| {
            report(0, &format!("equalizing {tensor}"))
        })?,
        false => Factors::default(),
    };
    let mut writer = BrkWriter::create(&target, meta, tokenizer.section)?;
    writer.set_threads(threads);
    writer.meta_mut().provenance.recipe += &provenance::equalized(options, factors.equalized);
    for tensor in &plan.tensors {
        let name = &tensor.name;
        report(done, name)?;
        match tensor.matrix() {
            Some((rows, cols, role)) => {
                let dtype = if options.exact { DType::F32 } else { options.dtype_of(name, role) };
                let layout = options.layout_of(name, (rows, cols), dtype)?;
                writer.rows(name, layout, |range, out| {
                    done += (range.len() * cols) as u64;
                    tensor.read_rows(range.clone(), cols, out)?;
                    factors.apply(name, range, cols, out);
                    report(done, name)
                })?;
            }
            None => {
                let mut values = tensor.read()?;
                check_finite(&checkpoint, name, &values)?;
                factors.apply_plain(name, &tensor.shape(), &mut values);
                writer.plain(name, &tensor.shape(), &values)?;
                done += values.len() as u64;
            }
        }
    }
    let written = writer.finish()?;
    Ok(Summary {
        architecture: architecture.name.to_owned(),
        source_kind: checkpoint.kind().name(),
        n_tensors: written.n_tensors,
        n_weights: total,
        source_bytes: provenance::files_len(checkpoint.files())?,
        target_bytes: written.file_len,
        bits_per_weight: written.tensor_bytes as f64 * 8.0 / total.max(1) as f64,
        tokenizer: kind,
        tokenizer_note: tokenizer.note,
        equalized: options.equalize.then_some(factors.equalized),
        notes,
    })
}

/// The tokenizer that the checkpoint at `source` would be converted with: what the file's metadata
/// would say of it, and its section. No tensor is read.
///
/// # Errors
/// As [`convert`]'s, of what it reads before the first tensor.
pub fn tokenizer_of(source: &Path) -> Result<(TokenizerMeta, Vec<u8>), FormatError> {
    let checkpoint = Checkpoint::open(source)?;
    let (architecture, place) = plan::recognise(ARCHITECTURES, &checkpoint)?;
    let plan = plan::plan(architecture, place, false)?;
    let choice = tokenizer::choose(&checkpoint, None, plan.n_vocab())?;
    Ok((choice.meta, choice.section))
}

/// An error unless every value is finite.
fn check_finite(checkpoint: &Checkpoint, name: &str, values: &[f32]) -> Result<(), FormatError> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(i) => Err(FormatError::Tensor {
            path: checkpoint.path().to_owned(),
            tensor: name.to_owned(),
            what: "the values",
            expected: "finite numbers".to_owned(),
            found: format!("{} at element {i}", values[i]),
        }),
    }
}
