//! Reading a file that an argument names, which may be a pipe: `-f <(command)`.
//!
//! Opening never waits: a named pipe that nobody writes to is an empty file. Not here: models,
//! states and checkpoints, which are regular files. Test: `tests/cli/places.rs`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use crate::failure::{Failure, Result};

/// The path of the file on standard input, if it may be one: an input that has no name.
pub(crate) fn standard() -> Option<&'static Path> {
    cfg!(unix).then_some(Path::new("/dev/stdin"))
}

/// All bytes of a file or of a pipe.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path, OpenOptions::new().read(true))
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .map_err(Failure::io("read", path.display()))?;
    Ok(bytes)
}

/// Opens a file or a pipe without waiting for whoever is at its other end; to write to a pipe,
/// somebody must be reading.
#[cfg(unix)]
pub(crate) fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use std::os::unix::fs::OpenOptionsExt;

    let file = options.custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    // Reading and writing wait as ever.
    let flags = OFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags & !OFlag::O_NONBLOCK))?;
    Ok(file)
}

/// Opens a file.
#[cfg(not(unix))]
pub(crate) fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.open(path)
}
