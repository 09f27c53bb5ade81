//! NumPy's `.npy`: the header of a little-endian f32 matrix, and writing one to a file that appears
//! whole or not at all.
//!
//! Source: NumPy's `format.py`, version 1.0 (magic, version, header length, a Python literal padded
//! to 64 bytes). Test: below, and `tests/cli/logits.rs` reads the result.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use brooklet_formats::atomic::{AtomicFile, Kind, Target};

use crate::failure::{Failure, Result};
use crate::input;

/// How such a file is told.
pub(crate) const KIND: Kind = Kind { name: ".npy", magic: b"\x93NUMPY" };

/// Everything before the values of a matrix of `rows` times `cols` f32.
fn header(rows: usize, cols: usize) -> Vec<u8> {
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    let unpadded = 10 + text.len() + 1;
    let padding = unpadded.next_multiple_of(64) - unpadded;
    let length = (text.len() + padding + 1) as u16;
    let mut header = [KIND.magic, &[1, 0]].concat();
    header.extend(length.to_le_bytes());
    header.extend(text.bytes());
    header.extend(std::iter::repeat_n(b' ', padding));
    header.push(b'\n');
    header
}

/// Fails where [`NpyWriter::create`] would refuse to write.
pub(crate) fn check(target: &Target) -> Result {
    if is_stream(target.path()) { Ok(()) } else { Ok(target.check()?) }
}

/// Whether a pipe or a device that takes bytes as they come is there: a terminal, `/dev/null`. A
/// disk is not.
#[cfg(unix)]
fn is_stream(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|found| {
        let kind = found.file_type();
        kind.is_fifo() || kind.is_char_device()
    })
}

/// Whether a pipe or a device is there.
#[cfg(not(unix))]
fn is_stream(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// Writes a matrix row by row.
pub(crate) struct NpyWriter {
    target: PathBuf,
    out: Out,
}

/// Where the bytes go.
enum Out {
    /// Beside the target until all is there.
    Beside(Box<AtomicFile>),
    /// A device or a pipe, which cannot be replaced.
    Direct(BufWriter<File>),
}

impl NpyWriter {
    /// Starts a file of `rows` times `cols`.
    pub(crate) fn create(target: &Target, rows: usize, cols: usize) -> Result<NpyWriter> {
        let path = target.path();
        let out = if is_stream(path) {
            let file = input::open(path, File::options().write(true));
            let file = file.map_err(Failure::io("write", path.display()))?;
            Out::Direct(BufWriter::with_capacity(1 << 20, file))
        } else {
            Out::Beside(Box::new(AtomicFile::create(target)?))
        };
        let mut writer = NpyWriter { target: path.to_owned(), out };
        writer.write(&header(rows, cols))?;
        Ok(writer)
    }

    /// Appends a row.
    pub(crate) fn row(&mut self, values: &[f32]) -> Result {
        if cfg!(target_endian = "little") {
            return self.write(bytemuck::cast_slice(values));
        }
        values.iter().try_for_each(|value| self.write(&value.to_le_bytes()))
    }

    /// Puts the file in its place.
    pub(crate) fn finish(self) -> Result {
        match self.out {
            Out::Direct(mut file) => {
                file.flush().map_err(Failure::io("write", self.target.display()))
            }
            Out::Beside(file) => Ok(file.publish(&[])?),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result {
        match &mut self.out {
            Out::Direct(file) => {
                file.write_all(bytes).map_err(Failure::io("write", self.target.display()))
            }
            Out::Beside(file) => Ok(file.write(bytes)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_end_at_a_multiple_of_64() {
        for (rows, cols) in [(0, 1), (1, 65536), (1_000_000, 50280)] {
            let header = header(rows, cols);
            assert_eq!(header.len() % 64, 0);
            assert_eq!(usize::from(u16::from_le_bytes([header[8], header[9]])), header.len() - 10);
            assert_eq!(header.last(), Some(&b'\n'));
            let text = String::from_utf8_lossy(&header[10..]);
            assert!(text.contains(&format!("'shape': ({rows}, {cols})")), "{text}");
        }
    }
}
