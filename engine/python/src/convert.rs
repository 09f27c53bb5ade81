//! `brooklet.convert()`: a checkpoint in, a `.brk` file out, with a callback and Ctrl-C.
//!
//! Not here: the way there (`conversion`). Test: `tests/test_convert.py`.

use std::path::PathBuf;

use brooklet::DType;
use brooklet_formats::convert::{ConvertOptions, Lora};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use regex_lite::Regex;

use crate::conversion::{self, Calibrate, Progress};
use crate::errors::{Failure, Result};

/// A number format by its name.
///
/// # Errors
/// There is none of that name.
pub(crate) fn dtype(name: &str) -> Result<DType> {
    let known = || DType::ALL.map(DType::name).join(", ");
    DType::parse(name).ok_or_else(|| {
        Failure::Argument(format!("number format {name:?}: expected one of {}", known()))
    })
}

/// The result of a conversion.
#[pyclass(frozen, get_all, module = "brooklet")]
pub(crate) struct Converted {
    /// The file that was written.
    file: PathBuf,
    /// Name of the architecture.
    architecture: String,
    /// The kind of checkpoint that was read.
    source_kind: &'static str,
    /// Tensors and weights written.
    tensors: usize,
    weights: u64,
    /// Bytes of the checkpoint's files, and of the file written.
    source_bytes: u64,
    target_bytes: u64,
    /// Bits of tensor data per weight, scales and padding included.
    bits_per_weight: f64,
    /// Tokens that the codes were calibrated on; 0 where matrices were only rounded.
    calibration_tokens: usize,
    /// The tokenizer in the file: "world", "huggingface", "bytes" or "none".
    tokenizer: &'static str,
    /// Notes for people.
    notes: Vec<String>,
}

#[pymethods]
impl Converted {
    fn __repr__(&self) -> String {
        format!(
            "<brooklet.Converted {}: {}, {:.2} bits per weight>",
            self.file.display(),
            self.architecture,
            self.bits_per_weight
        )
    }
}

/// Converts a checkpoint (PyTorch, safetensors, GGUF, rwkv.cpp, a Hugging Face folder) into a .brk
/// file, which appears whole or not at all.
///
/// `dtype` is the number format of the big matrices: f32, f16, bf16, int8, int6, int5, int4,
/// fp8-e4m3, fp8-e5m2 or lmul; `overrides` names others by regular expressions on tensors' names,
/// of which the last that matches counts.
///
/// The codes of int4, int5 and int6 are calibrated as those of `brooklet convert`: chosen while the
/// model runs over a text (GPTQ), which takes about the time of reading 40 texts twice. `calibrate`
/// is that text (a string or bytes, not a file's name); True takes the built-in one, or only rounds
/// where the model has no tokenizer for it (`Converted.notes` says so); False only rounds.
///
/// `columns` stores `ffn.value` of RWKV-4 to 7 by columns where it becomes int4 or int8: the same
/// text, and one sequence is written 4 to 14 % faster; prompts are read 8 % slower, and four
/// sequences or more at a time mostly lose, too.
///
/// `progress(done, total, doing)` hears how many weights are written, and of a calibration, for
/// which all weights are written as f32 first, how much of the layers is done. Where it returns
/// False (brooklet.Error) or raises, no model is left behind; of a calibration its finished
/// matrices are, in OUTPUT.unfinished, from where the next call goes on.
///
/// >>> brooklet.convert("rwkv7-0.4b.pth", "rwkv7-0.4b.brk", "int4")  # doctest: +SKIP
/// <brooklet.Converted rwkv7-0.4b.brk: rwkv7, 4.38 bits per weight>
#[pyfunction]
#[pyo3(signature = (source: "StrPath", output: "StrPath", dtype: "str" = "int8", *,
    group: "int | None" = None, overrides: "collections.abc.Mapping[str, str] | None" = None,
    tokenizer: "StrPath | None" = None,
    loras: "collections.abc.Sequence[StrPath | tuple[StrPath, float]]" = Vec::new(),
    config: "StrPath | None" = None, assume: "str | None" = None, untie: "bool" = false,
    equalize: "bool" = true, columns: "bool" = false,
    calibrate: "bool | str | bytes" = Calibrate::Auto, force: "bool" = false,
    progress: "Progress | None" = None)
    -> "Converted")]
#[allow(clippy::too_many_arguments)] // One for each option that people name.
pub(crate) fn convert(
    py: Python<'_>,
    source: PathBuf,
    output: PathBuf,
    dtype: &str,
    group: Option<usize>,
    overrides: Option<Bound<'_, PyDict>>,
    tokenizer: Option<PathBuf>,
    loras: Vec<Bound<'_, PyAny>>,
    config: Option<PathBuf>,
    assume: Option<String>,
    untie: bool,
    equalize: bool,
    columns: bool,
    calibrate: Calibrate,
    force: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<Converted> {
    let mut options = ConvertOptions::new(self::dtype(dtype)?);
    options.group = group;
    for (pattern, name) in overrides.iter().flatten() {
        let pattern = Regex::new(&pattern.extract::<String>()?)
            .map_err(|error| Failure::Argument(format!("overrides: {error}")))?;
        options.overrides.push((pattern, self::dtype(&name.extract::<String>()?)?));
    }
    for lora in loras {
        let (path, scale) = match lora.extract::<(PathBuf, f32)>() {
            Ok(scaled) => scaled,
            Err(_) => (lora.extract()?, 1.0),
        };
        options.loras.push(Lora { path, scale });
    }
    (options.tokenizer, options.config, options.assume) = (tokenizer, config, assume);
    (options.untie, options.equalize, options.columns) = (untie, equalize, columns);
    options.force = force;
    check_group(&options)?;
    let mut progress = Progress::new(progress);
    let (summary, calibration_tokens) =
        py.detach(|| conversion::calibrated(&source, &output, &options, calibrate, &mut progress))?;
    let mut notes = summary.notes;
    notes.extend(summary.tokenizer_note);
    Ok(Converted {
        file: output,
        architecture: summary.architecture,
        source_kind: summary.source_kind,
        tensors: summary.n_tensors,
        weights: summary.n_weights,
        source_bytes: summary.source_bytes,
        target_bytes: summary.target_bytes,
        bits_per_weight: summary.bits_per_weight,
        calibration_tokens,
        tokenizer: summary.tokenizer,
        notes,
    })
}

/// Checks a group against the format that is to have it.
fn check_group(options: &ConvertOptions) -> Result<()> {
    match options.group {
        Some(group) if options.dtype.has_scales() && !options.dtype.groups().contains(&group) => {
            let groups = options.dtype.groups();
            Err(Failure::Argument(format!(
                "a group of {group} columns of {}: expected one of {groups:?}",
                options.dtype
            )))
        }
        _ => Ok(()),
    }
}
