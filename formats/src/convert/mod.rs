//! Conversion: a checkpoint in, a `.brk` file out.
//!
//! A *family* (one file beside this one, one row in `FAMILIES`) recognises its checkpoints by names
//! and shapes and makes a `Plan`: hyper-parameters, and for every tensor of the file where its
//! values come from and what role it plays. The role and the user's wishes choose the number
//! format; this file does the rest, one tensor in memory at a time. All transformations of weights
//! (transposing, folding, splitting) happen here and are written in SPEC.md. Test:
//! `tests/parity_*.rs` convert every fixture.

mod cell;
mod gguf_tokenizer;
mod mamba;
mod mamba1;
mod mamba2;
mod plan;
mod rwkv;
mod rwkv4;
mod rwkv5;
mod rwkv6;
mod rwkv7;
mod tokenizer;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use regex_lite::Regex;

use self::plan::{Content, Plan, Role};
use crate::brk::{BrkWriter, Meta, Provenance};
use crate::checkpoint::Checkpoint;
use crate::{DType, FormatError};

/// A row of the table of families.
struct Family {
    /// Whether the checkpoint's names are this family's.
    recognises: fn(&Checkpoint) -> bool,
    /// What to write.
    plan: for<'a> fn(&'a Checkpoint) -> Result<Plan<'a>, FormatError>,
}

/// Every family that can be converted.
const FAMILIES: &[Family] = &[
    Family { recognises: rwkv7::recognises, plan: rwkv7::plan },
    Family { recognises: rwkv6::recognises, plan: rwkv6::plan },
    Family { recognises: rwkv5::recognises, plan: rwkv5::plan },
    Family { recognises: rwkv4::recognises, plan: rwkv4::plan },
    Family { recognises: mamba1::recognises, plan: mamba1::plan },
    Family { recognises: mamba2::recognises, plan: mamba2::plan },
];

/// What a conversion is asked for.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// The number format of the big matrices; low-rank adapters and an untied embedding go no lower
    /// than int8.
    pub dtype: DType,
    /// Columns per scale; `None` is the format's own choice.
    pub group: Option<usize>,
    /// Number formats of single matrices, by a pattern on their names; the last one that matches
    /// wins.
    pub overrides: Vec<(Regex, DType)>,
    /// A tokenizer (`tokenizer.json` or a World vocabulary) instead of the checkpoint's.
    pub tokenizer: Option<PathBuf>,
}

impl ConvertOptions {
    /// Everything in `dtype`, with the checkpoint's tokenizer.
    pub fn new(dtype: DType) -> Self {
        Self { dtype, group: None, overrides: Vec::new(), tokenizer: None }
    }

    /// Columns per scale of a matrix: what was asked for, else the format's own choice, or less
    /// where that would pad a narrow matrix (columns are padded to two groups).
    pub fn group_of(&self, dtype: DType, cols: usize) -> usize {
        let default = dtype.default_group();
        match self.group {
            _ if !dtype.has_scales() => 0,
            Some(group) => group,
            None => [default, 64]
                .into_iter()
                .find(|g| *g <= default && cols.is_multiple_of(2 * g))
                .unwrap_or(32),
        }
    }

    /// The number format of the matrix `name`.
    fn dtype_of(&self, name: &str, role: Role) -> DType {
        let chosen = self.overrides.iter().rev().find(|(pattern, _)| pattern.is_match(name));
        let floor = |dtype: DType| if dtype.element_bits() < 8 { DType::Int8 } else { dtype };
        match (chosen, role) {
            (Some((_, dtype)), _) => *dtype,
            (None, Role::Big) => self.dtype,
            (None, Role::Adapter | Role::Embedding) => floor(self.dtype),
        }
    }
}

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

/// What a conversion wrote.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Name of the architecture.
    pub architecture: String,
    /// What kind of checkpoint was read.
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
    /// What could not be carried over of the checkpoint's tokenizer.
    pub tokenizer_note: Option<String>,
}

/// Converts the checkpoint at `source` and puts the result at `target`, whole or not at all.
///
/// `progress` is called while the source is hashed (with no tensor and nothing done) and between
/// blocks of rows; when it breaks, nothing is left behind and the error is
/// [`FormatError::Cancelled`].
///
/// # Errors
/// The source cannot be read, is of no known architecture, lacks a tensor or holds weights that are
/// not finite; the target cannot be written.
pub fn convert(
    source: &Path,
    target: &Path,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Summary, FormatError> {
    let checkpoint = Checkpoint::open(source)?;
    let family = FAMILIES
        .iter()
        .find(|family| (family.recognises)(&checkpoint))
        .ok_or_else(|| plan::unknown_architecture(&checkpoint))?;
    let plan = (family.plan)(&checkpoint)?;
    let tokenizer = tokenizer::choose(&checkpoint, options.tokenizer.as_deref(), plan.n_vocab())?;
    let kind = tokenizer.meta.kind.name();
    let total = plan.n_weights();
    let mut done = 0;
    let mut report = |done: u64, tensor: &str| match progress(Progress { done, total, tensor }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => {
            let what = "conversion cancelled, nothing was written";
            Err(FormatError::Cancelled { path: target.to_owned(), what })
        }
    };
    let meta = Meta {
        architecture: plan.architecture.to_owned(),
        config: plan.config.clone(),
        tokenizer: tokenizer.meta,
        chat_template: checkpoint.chat_template(),
        provenance: Provenance {
            source_file: source.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            source_hash: plan::hash_files(checkpoint.files(), || report(0, ""))?,
            source_format: checkpoint.kind().name().to_owned(),
            converter_version: env!("CARGO_PKG_VERSION").to_owned(),
            recipe: recipe(options),
        },
    };
    let mut writer = BrkWriter::create(target, meta, tokenizer.section)?;
    for tensor in &plan.tensors {
        let name = &tensor.name;
        report(done, name)?;
        match &tensor.content {
            Content::Matrix { rows, cols, role, read } => {
                let dtype = options.dtype_of(name, *role);
                let group = options.group_of(dtype, *cols);
                writer.matrix(name, *rows, *cols, dtype, group, |range, out| {
                    done += (range.len() * cols) as u64;
                    read(range, out)?;
                    report(done, name)
                })?;
            }
            Content::Plain { shape, read } => {
                let values = read()?;
                plan::check_finite(&checkpoint, name, &values)?;
                writer.plain(name, shape, &values)?;
                done += values.len() as u64;
            }
        }
    }
    let written = writer.finish()?;
    Ok(Summary {
        architecture: plan.architecture.to_owned(),
        source_kind: checkpoint.kind().name(),
        n_tensors: written.n_tensors,
        n_weights: total,
        source_bytes: plan::files_len(checkpoint.files())?,
        target_bytes: written.file_len,
        bits_per_weight: written.tensor_bytes as f64 * 8.0 / total.max(1) as f64,
        tokenizer: kind,
        tokenizer_note: tokenizer.note,
    })
}

/// What was asked for, for the file's provenance.
fn recipe(options: &ConvertOptions) -> String {
    let mut recipe = format!("--type {}", options.dtype.name());
    if let Some(group) = options.group {
        recipe += &format!(" --group {group}");
    }
    for (pattern, dtype) in &options.overrides {
        recipe += &format!(" --override '{}={}'", pattern.as_str(), dtype.name());
    }
    recipe
}
