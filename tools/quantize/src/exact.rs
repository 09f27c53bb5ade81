//! [`Exact`]: a checkpoint on its way to calibrated codes, which are made from a `.brk` file: its
//! weights as f32 in a file beside the target, which is gone in the end, however that comes.
//!
//! Not here: the conversion (`brooklet_formats::convert`), the codes (`requantize`), words for
//! people. Tests: `tests/cli/requantize.rs` of the command line, `test_convert.py` of the Python
//! package.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use brooklet_formats::FormatError;
use brooklet_formats::atomic::Target;
use brooklet_formats::brk;
use brooklet_formats::checkpoint::Checkpoint;
use brooklet_formats::convert::{self, ConvertOptions, convert};
use tempfile::TempPath;

use crate::{OnProgress, Options, Result, Summary, requantize};

/// A checkpoint with all weights as f32, beside the target for a while.
#[derive(Debug)]
pub struct Exact {
    /// Removed when this is dropped.
    file: TempPath,
    summary: convert::Summary,
}

/// All files that a conversion reads, and must not overwrite.
///
/// # Errors
/// The checkpoint cannot be read.
pub fn inputs(source: &Path, options: &ConvertOptions) -> Result<Vec<PathBuf>, FormatError> {
    let mut inputs = Checkpoint::open_as(source, options.config.as_deref())?.inputs();
    inputs.extend(options.loras.iter().map(|lora| lora.path.clone()));
    inputs.extend(options.tokenizer.iter().chain(&options.config).cloned());
    Ok(inputs)
}

impl Exact {
    /// Converts the checkpoint at `source` to `TARGET.exact`. `inputs` are never replaced.
    ///
    /// # Errors
    /// Those of a conversion to `target`, which is not written yet.
    pub fn make(
        source: &Path,
        target: &Path,
        options: &ConvertOptions,
        inputs: &[PathBuf],
        progress: &mut dyn FnMut(convert::Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Exact, FormatError> {
        // Before the long work.
        Target::new(target, brk::KIND, inputs).force(options.force).check()?;
        let mut name = target.as_os_str().to_owned();
        name.push(".exact");
        let path = PathBuf::from(name);
        let all = ConvertOptions { exact: true, force: false, ..options.clone() };
        let summary = convert(source, &path, &all, progress)?;
        let file = TempPath::try_from_path(&path).map_err(FormatError::io("find", &path))?;
        Ok(Exact { file, summary })
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Quantizes it to `target`. The first summary is that of the whole conversion.
    ///
    /// # Errors
    /// Those of [`requantize`].
    pub fn quantize<'a>(
        &self,
        target: &Path,
        options: &Options,
        progress: &'a mut OnProgress<'a>,
    ) -> Result<(convert::Summary, Summary)> {
        let done = requantize(&self.file, target, options, progress)?;
        let is_equalized_here = options.formats.equalize;
        let summary = convert::Summary {
            n_tensors: done.n_tensors,
            target_bytes: done.target_bytes,
            bits_per_weight: done.bits_per_weight,
            equalized: if is_equalized_here { done.equalized } else { self.summary.equalized },
            ..self.summary.clone()
        };
        Ok((summary, done))
    }
}
