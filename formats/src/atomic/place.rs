//! Where files are: the folder of a path, and regular files opened for reading. Test: `tests`.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::FormatError;

/// The folder that a file is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Opens a regular file and tells its length. Anything else (a folder, a device, a pipe without a
/// writer, whose opening would wait) is an error at once.
///
/// # Errors
/// The file is missing, not readable, or not regular.
pub fn open_regular(path: &Path) -> Result<(File, u64), FormatError> {
    let found = fs::metadata(path).map_err(FormatError::io("open", path))?;
    if !found.is_file() {
        let source = io::Error::other("not a regular file");
        return Err(FormatError::Io { action: "open", path: path.to_owned(), source });
    }
    let file = File::open(path).map_err(FormatError::io("open", path))?;
    let len = file.metadata().map_err(FormatError::io("open", path))?.len();
    Ok((file, len))
}
