//! A file that appears whole or not at all: written beside its target, synced, renamed.
//!
//! Here: [`AtomicFile`], which every writer of a file uses, and [`open_regular`], which every
//! reader of one uses. Not here: what is in the files. A file that is dropped before
//! [`AtomicFile::publish`] leaves nothing behind and an older target as it was. Source: `SPEC.md`,
//! "What a writer must". Tests: below, `brk/tests.rs`, `state_file/tests.rs`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempPath;

use crate::FormatError;

/// Bytes of a write, and what its place in the file is a multiple of: a huge page. A file system
/// that can (XFS, ext4 since Linux 6.16) then keeps the file's pages in memory as huge ones, and
/// maps them as such.
const BLOCK: usize = 2 << 20;

/// A file under construction.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    file: File,
    /// What is not written yet, less than [`BLOCK`]; it starts at a multiple of that in the file.
    block: Vec<u8>,
    /// Where `file` is until it is published; removed when dropped.
    temporary: TempPath,
}

impl AtomicFile {
    /// Starts a file that will replace `path`.
    ///
    /// # Errors
    /// The folder does not exist or cannot be written to; or `path` is there and is not a regular
    /// file.
    pub fn create(path: &Path) -> Result<Self, FormatError> {
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            let source = io::Error::other("it is there and is not a regular file");
            return Err(FormatError::Io { action: "replace", path: path.to_owned(), source });
        }
        let (file, temporary) = temporary_beside(path).map_err(FormatError::io("create", path))?;
        Ok(Self { path: path.to_owned(), file, block: Vec::new(), temporary })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// The system refuses: the disk is full, say.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), FormatError> {
        while self.block.len() + bytes.len() >= BLOCK {
            let (now, later) = bytes.split_at(BLOCK - self.block.len());
            self.block.extend_from_slice(now);
            self.file.write_all(&self.block).map_err(FormatError::io("write", &self.path))?;
            self.block.clear();
            bytes = later;
        }
        self.block.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes `head` over the first bytes, brings everything to the disk, and puts the file in its
    /// place.
    ///
    /// # Errors
    /// The system refuses; the target is as it was then.
    pub fn publish(self, head: &[u8]) -> Result<(), FormatError> {
        let Self { path, mut file, block, temporary } = self;
        file.write_all(&block)
            .and_then(|()| publish(file, temporary, head, &path))
            .map_err(FormatError::io("write", &path))
    }
}

/// An empty file in the folder of `path`, which vanishes when its path is dropped.
fn temporary_beside(path: &Path) -> io::Result<(File, TempPath)> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
    // Numbered, not random: no generator, whose seeding leaves memory that leak checkers see in
    // programs that link us.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let mut own = OsString::from(".");
        own.push(name);
        own.push(format!(".{}-{}.part", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let own = folder_of(path).join(own);
        match File::create_new(&own) {
            Ok(file) => return Ok((file, TempPath::try_from_path(own)?)),
            // Left by a process of the same number that was killed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn publish(mut file: File, temporary: TempPath, head: &[u8], path: &Path) -> io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    file.write_all(head)?;
    file.sync_all()?;
    drop(file);
    temporary.persist(path).map_err(|refused| refused.error)?;
    // The rename itself is lasting once the folder is on the disk; Windows has no such call.
    if cfg!(unix) {
        File::open(folder_of(path))?.sync_all()?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_many_blocks_is_whole_however_it_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let expected: Vec<u8> = (0..2 * BLOCK + 12_345).map(|i| (i % 251) as u8).collect();
        for piece in [1000, BLOCK - 1, BLOCK, BLOCK + 1, expected.len()] {
            let mut file = AtomicFile::create(&path).unwrap();
            expected.chunks(piece).for_each(|piece| file.write(piece).unwrap());
            file.publish(&expected[..64]).unwrap();
            assert!(fs::read(&path).unwrap() == expected, "in pieces of {piece}");
        }
    }
}
