//! Reading a file that an argument names, which may be a pipe: `-f <(command)`.
//!
//! Opening never waits: a named pipe that nobody writes to is an empty file. What is read has a
//! bound, since a device (`/dev/zero`) has no end. Not here: models,
//! states and checkpoints, which are regular files. Test: `tests/cli/places.rs`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Read};
use std::path::Path;

use crate::failure::{Failure, Result};
use crate::units;

/// The path of the file on standard input, if it may be one: an input that has no name.
pub(crate) fn standard() -> Option<&'static Path> {
    cfg!(unix).then_some(Path::new("/dev/stdin"))
}

/// Most bytes of a text or of token ids: what is read is kept in memory.
const MAX_FILE: u64 = 4 << 30;
/// Most bytes out of a pipe or a device, which may never end.
const MAX_STREAM: u64 = 256 << 20;

/// All bytes of a file or of a pipe.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let file = open(path, OpenOptions::new().read(true));
    let file = file.map_err(Failure::io("read", path.display()))?;
    let is_file = file.metadata().is_ok_and(|found| found.is_file());
    read_all(file, path, if is_file { MAX_FILE } else { MAX_STREAM })
}

/// The lines of a file, or of standard input (`-`), in UTF-8, but for empty ones.
pub(crate) fn lines(path: &Path) -> Result<Vec<String>> {
    let lines = text(path)?;
    Ok(lines.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// The text in a file, or on standard input (`-`), in UTF-8, less one line feed at its end.
pub(crate) fn text(path: &Path) -> Result<String> {
    let bytes = if path == Path::new("-") { read_stdin()? } else { read(path)? };
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::with(
            format!("{}: byte {at} begins no character of UTF-8", path.display()),
            "save the file as UTF-8",
        )
    })?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// Everything that comes through standard input.
pub(crate) fn read_stdin() -> Result<Vec<u8>> {
    read_all(std::io::stdin().lock(), Path::new("standard input"), MAX_STREAM)
}

/// A line of standard input with its end, in place of what is in `line`; nothing at the end.
pub(crate) fn read_line(input: impl BufRead, line: &mut Vec<u8>) -> Result {
    line.clear();
    let read = input.take(MAX_STREAM + 1).read_until(b'\n', line);
    read.map_err(Failure::io("read", "standard input"))?;
    check_len(line, Path::new("a line of standard input"), MAX_STREAM)
}

fn read_all(input: impl Read, path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = input.take(most + 1).read_to_end(&mut bytes);
    read.map_err(Failure::io("read", path.display()))?;
    check_len(&bytes, path, most)?;
    Ok(bytes)
}

fn check_len(bytes: &[u8], path: &Path, most: u64) -> Result {
    if bytes.len() as u64 <= most {
        return Ok(());
    }
    let what = format!("{} has more than {}", path.display(), units::bytes(most));
    Err(Failure::with(what, "give a shorter text, as a file"))
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
