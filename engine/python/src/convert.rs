//! `brooklet.convert()`: a checkpoint in, a `.brk` file out, with a callback and Ctrl-C.
//!
//! Not here: calibration (`brooklet convert` of the command line has it). Test:
//! `tests/test_convert.py`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use brooklet::DType;
use brooklet_formats::FormatError;
use brooklet_formats::convert::{
    ConvertOptions, Lora, Progress as Step, Summary, convert as converted,
};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use regex_lite::Regex;

use crate::errors::{Failure, Result};
use crate::interrupt::Watch;

/// A callback of Python's that hears how far a conversion is.
pub(crate) struct Progress {
    callback: Option<Py<PyAny>>,
    watch: Watch,
    /// What the callback raised, or that it wants no more.
    ended: Option<PyErr>,
    asked_to_stop: bool,
}

impl Progress {
    pub(crate) fn new(callback: Option<Py<PyAny>>) -> Progress {
        Progress { callback, watch: Watch::new(), ended: None, asked_to_stop: false }
    }

    fn goes_on(&mut self, progress: Step<'_>) -> bool {
        if let Some(callback) = &self.callback {
            let said = Python::attach(|py| {
                let said = callback.call1(py, (progress.done, progress.total, progress.tensor))?;
                let said = said.bind(py);
                Ok(said.is_none() || said.is_truthy()?)
            });
            match said {
                Ok(true) => {}
                Ok(false) => self.asked_to_stop = true,
                Err(error) => self.ended = Some(error),
            }
        }
        self.ended.is_none() && !self.asked_to_stop && self.watch.goes_on()
    }
}

/// Converts, without Python's lock. None where the callback asked to stop.
///
/// # Errors
/// The conversion's, the callback's, or an interruption.
pub(crate) fn run(
    source: &Path,
    target: &Path,
    options: &ConvertOptions,
    progress: &mut Progress,
) -> Result<Summary> {
    let done = converted(source, target, options, &mut |step| {
        if progress.goes_on(step) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    if let Some(error) = progress.ended.take() {
        return Err(error.into());
    }
    match (done, std::mem::replace(&mut progress.watch, Watch::new()).end()) {
        (Err(FormatError::Cancelled { .. }), Err(interrupted)) => Err(interrupted),
        (done, _) => Ok(done?),
    }
}

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
/// fp8-e4m3, fp8-e5m2 or lmul; `overrides` names others by regular expressions on tensors' names, of
/// which the last that matches counts. Matrices are rounded; the command line's `brooklet convert`
/// also calibrates. `progress(done, total, tensor)` hears how many weights are written; where it
/// returns False or raises, nothing is left behind (False raises brooklet.Error).
///
/// >>> brooklet.convert("rwkv7-0.4b.pth", "rwkv7-0.4b.brk", "int4")  # doctest: +SKIP
/// <brooklet.Converted rwkv7-0.4b.brk: rwkv7, 4.38 bits per weight>
#[pyfunction]
#[pyo3(signature = (source: "StrPath", output: "StrPath", dtype: "str" = "int8", *,
    group: "int | None" = None, overrides: "collections.abc.Mapping[str, str] | None" = None,
    tokenizer: "StrPath | None" = None,
    loras: "collections.abc.Sequence[StrPath | tuple[StrPath, float]]" = Vec::new(),
    config: "StrPath | None" = None, assume: "str | None" = None, untie: "bool" = false,
    equalize: "bool" = true, force: "bool" = false, progress: "Progress | None" = None)
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
    (options.untie, options.equalize, options.force) = (untie, equalize, force);
    check_group(&options)?;
    let mut progress = Progress::new(progress);
    let summary = py.detach(|| run(&source, &output, &options, &mut progress))?;
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
