//! Conversions as Python drives them: a callback hears how far one is, Ctrl-C ends it, and codes
//! are calibrated where that is asked for.
//!
//! Not here: the conversion (`brooklet_formats::convert`), calibration (`brooklet_quantize`). Test:
//! `tests/test_convert.py`.

use std::iter;
use std::ops::ControlFlow;
use std::path::Path;

use brooklet_formats::convert::{ConvertOptions, Summary, convert};
use brooklet_quantize::{Calibration, Exact, Method, Options, Text};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyString};

use crate::errors::{Failure, Result};
use crate::interrupt::Watch;

/// A callback of Python's that hears how far a conversion is.
pub(crate) struct Progress {
    callback: Option<Py<PyAny>>,
    watch: Watch,
    /// What the callback raised.
    raised: Option<PyErr>,
    asked_to_stop: bool,
}

impl Progress {
    pub(crate) fn new(callback: Option<Py<PyAny>>) -> Progress {
        Progress { callback, watch: Watch::new(), raised: None, asked_to_stop: false }
    }

    /// Says how far it is. Whether to go on.
    fn goes_on(&mut self, done: u64, total: u64, doing: &str) -> ControlFlow<()> {
        if let Some(callback) = &self.callback {
            let said = Python::attach(|py| {
                let said = callback.call1(py, (done, total, doing))?;
                let said = said.bind(py);
                Ok(said.is_none() || said.is_truthy()?)
            });
            match said {
                Ok(true) => {}
                Ok(false) => self.asked_to_stop = true,
                Err(error) => self.raised = Some(error),
            }
        }
        match self.raised.is_none() && !self.asked_to_stop && self.watch.goes_on() {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }

    /// The result of a work that this may have ended: what the callback raised, or a signal's
    /// handler, comes first.
    fn end<T>(&mut self, done: Result<T>) -> Result<T> {
        if let Some(error) = self.raised.take() {
            return Err(error.into());
        }
        let interrupted = std::mem::replace(&mut self.watch, Watch::new()).end();
        // A work that was whole before it heard of a signal stays.
        done.map_err(|error| interrupted.err().unwrap_or(error))
    }
}

/// Converts, without Python's lock: matrices are rounded.
///
/// # Errors
/// The conversion's, the callback's, or an interruption.
pub(crate) fn rounded(
    source: &Path,
    target: &Path,
    options: &ConvertOptions,
    progress: &mut Progress,
) -> Result<Summary> {
    let done = convert(source, target, options, &mut |step| {
        progress.goes_on(step.done, step.total, step.tensor)
    });
    progress.end(done.map_err(Failure::from))
}

/// The text that codes are calibrated on.
pub(crate) enum Calibrate {
    /// None: they are rounded.
    Off,
    /// The built-in one, where the model has a tokenizer for it.
    Auto,
    /// This one.
    On(Vec<u8>),
}

impl<'py> FromPyObject<'_, 'py> for Calibrate {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Calibrate> {
        if let Ok(asked) = value.cast::<PyBool>() {
            return Ok(if asked.is_true() { Calibrate::Auto } else { Calibrate::Off });
        }
        if let Ok(text) = value.cast::<PyString>() {
            return Ok(Calibrate::On(text.to_cow()?.into_owned().into_bytes()));
        }
        match value.cast::<PyBytes>() {
            Ok(text) => Ok(Calibrate::On(text.as_bytes().to_vec())),
            Err(_) if value.is_none() => Ok(Calibrate::Off),
            Err(_) => Err(PyTypeError::new_err("calibrate: expected True, False or a text")),
        }
    }
}

/// Converts, without Python's lock, with calibrated codes where a format has such. The tokens that
/// they were calibrated on, too.
///
/// # Errors
/// The conversion's, the callback's, or an interruption.
pub(crate) fn calibrated(
    source: &Path,
    target: &Path,
    options: &ConvertOptions,
    calibrate: Calibrate,
    progress: &mut Progress,
) -> Result<(Summary, usize)> {
    let mut formats = iter::once(options.dtype).chain(options.overrides.iter().map(|o| o.1));
    let is_auto = matches!(calibrate, Calibrate::Auto);
    let text = match calibrate {
        _ if !formats.any(brooklet_quantize::is_calibrated) => None,
        Calibrate::Off => None,
        Calibrate::Auto => Some(Text::BuiltIn),
        Calibrate::On(text) => Some(Text::Own(text)),
    };
    let Some(text) = text else {
        return Ok((rounded(source, target, options, progress)?, 0));
    };
    let inputs = brooklet_quantize::inputs(source, options)?;
    let exact = Exact::make(source, target, options, &inputs, &mut |step| {
        progress.goes_on(step.done, step.total, step.tensor)
    });
    let exact = progress.end(exact.map_err(Failure::from))?;
    let recipe = brooklet_quantize::made_by(options, if is_auto { "builtin" } else { "text" });
    // Equalized there: once is enough.
    let formats = ConvertOptions { equalize: false, ..options.clone() };
    let calibration = Some(Calibration { method: Method::Gptq, text });
    let wish = Options { formats, calibration, imatrix: None, threads: 0, inputs, recipe };
    let mut quantize = |wish: &Options| {
        exact
            .quantize(target, wish, &mut |step| progress.goes_on(step.done, step.total, step.doing))
    };
    let mut done = quantize(&wish);
    let mut note = None;
    if let Err(error) = &done
        && error.is_of_text()
        && is_auto
    {
        note = Some(format!("not calibrated: {error}"));
        done = quantize(&Options { calibration: None, ..wish });
    }
    let (mut summary, how) = progress.end(done.map_err(Failure::from))?;
    summary.notes.extend(note);
    Ok((summary, how.tokens))
}
