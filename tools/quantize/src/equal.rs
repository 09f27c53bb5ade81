//! The file that is quantized, equalized: a copy beside the target, which the model runs from and
//! whose weights are rounded. It is removed in the end, however that comes.
//!
//! Not here: the factors (`brooklet_formats::convert`). Test: `tests/`.

use std::path::PathBuf;

use brooklet_formats::FormatError;
use brooklet_formats::atomic::Target;
use brooklet_formats::brk::BrkFile;
use brooklet_formats::convert::{ConvertOptions, Equalized, equalized_copy};

use tempfile::TempPath;

use crate::requantize::Reporter;
use crate::{QuantizeError, Result};

/// The copy.
pub(crate) struct Equal {
    pub(crate) file: BrkFile,
    pub(crate) equalized: Equalized,
    /// Added to what the file says of its making.
    pub(crate) recipe: String,
    // Behind the file, which has it mapped until it is dropped.
    _path: TempPath,
}

impl Equal {
    /// The copy of `file` beside `target`; none where nothing is to be equalized.
    pub(crate) fn of(
        file: &BrkFile,
        target: &Target,
        formats: &ConvertOptions,
        report: &mut Reporter<'_>,
    ) -> Result<Option<Self>> {
        let mut name = target.path().as_os_str().to_owned();
        name.push(".equal");
        let path = PathBuf::from(name);
        report.stage(0, "equalizing".to_owned())?;
        let found = equalized_copy(file, &path, formats, &mut |_| {
            report.at(0.0).map_err(|error| match error {
                QuantizeError::Format(error) => error,
                _ => FormatError::Cancelled { path: target.path().to_owned(), what: "stopped" },
            })
        });
        let Some(equalized) = found? else { return Ok(None) };
        let Equalized { pairs, largest } = equalized;
        let recipe = format!(" (equalized {pairs} pairs, largest factor {largest})");
        let found = TempPath::try_from_path(&path);
        let path = found.map_err(FormatError::io("find", &path))?;
        let file = BrkFile::open(&path)?;
        Ok(Some(Equal { file, equalized, recipe, _path: path }))
    }
}
