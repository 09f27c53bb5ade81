//! Calls that every operating system has in its own way: reading at a place, and which file a name
//! leads to.
//!
//! WebAssembly in a browser (`wasm32-unknown-unknown`) has no files: nothing can be opened there,
//! models come as bytes. Not here: maps of files (`brk/bytes.rs`) and memory (`zeroed.rs`). Tests:
//! below, and `atomic/tests.rs`.

use std::fs::File;
use std::io;
use std::path::Path;

/// Fills `buffer` from byte `offset` on. Where the file's own position is then differs: threads
/// that share a file read by this alone.
pub(crate) fn read_exact_at(file: &File, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        match read_at(file, offset, buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buffer = &mut buffer[n..];
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

use system::read_at;
pub(crate) use system::{number_at, number_of};

#[cfg(unix)]
mod system {
    use super::*;
    use std::fs::{Metadata, metadata};
    use std::os::unix::fs::{FileExt, MetadataExt};

    /// Device and inode.
    pub(crate) type Number = (u64, u64);

    pub(super) fn read_at(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        file.read_at(buffer, offset)
    }

    fn number(found: Metadata) -> Number {
        (found.dev(), found.ino())
    }

    /// The number of an open file, which no other file has meanwhile.
    pub(crate) fn number_of(file: &File) -> io::Result<Number> {
        file.metadata().map(number)
    }

    /// The number of the file that `path` leads to. Nothing is opened, which would wait for whoever
    /// writes to a pipe.
    pub(crate) fn number_at(path: &Path) -> io::Result<Number> {
        metadata(path).map(number)
    }
}

#[cfg(windows)]
mod system {
    use super::*;
    use same_file::Handle;
    use std::os::windows::fs::FileExt;

    /// Volume and file index; the file stays open, so that no other gets them.
    pub(crate) type Number = Handle;

    pub(super) fn read_at(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        file.seek_read(buffer, offset)
    }

    /// The number of an open file, which no other file has meanwhile.
    pub(crate) fn number_of(file: &File) -> io::Result<Number> {
        Handle::from_file(file.try_clone()?)
    }

    /// The number of the file that `path` leads to.
    pub(crate) fn number_at(path: &Path) -> io::Result<Number> {
        Handle::from_path(path)
    }
}

#[cfg(target_os = "wasi")]
mod system {
    use super::*;
    use rustix::fs::{Stat, fstat, stat};

    /// Device and inode.
    pub(crate) type Number = (u64, u64);

    pub(super) fn read_at(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::pread(file, buffer, offset)?)
    }

    fn number(found: Stat) -> Number {
        (found.st_dev, found.st_ino)
    }

    /// The number of an open file, which no other file has meanwhile.
    pub(crate) fn number_of(file: &File) -> io::Result<Number> {
        Ok(number(fstat(file)?))
    }

    /// The number of the file that `path` leads to.
    pub(crate) fn number_at(path: &Path) -> io::Result<Number> {
        Ok(number(stat(path)?))
    }
}

#[cfg(not(any(unix, windows, target_os = "wasi")))]
mod system {
    use super::*;

    /// Files have none.
    pub(crate) type Number = std::convert::Infallible;

    pub(super) fn read_at(_: &File, _: u64, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// There are no files.
    pub(crate) fn number_of(_: &File) -> io::Result<Number> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// There are no files.
    pub(crate) fn number_at(_: &Path) -> io::Result<Number> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_read_at_a_place_is_whole_or_fails() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers");
        fs::write(&path, [0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
        let file = File::open(&path).unwrap();
        let mut four = [9; 4];
        for (offset, whole) in
            [(4, true), (0, true), (5, false), (8, false), (u64::MAX >> 1, false)]
        {
            let read = read_exact_at(&file, offset, &mut four);
            assert_eq!(read.is_ok(), whole, "{offset}");
            if whole {
                assert_eq!(u64::from(four[0]), offset);
            }
        }
        read_exact_at(&file, 1 << 20, &mut []).unwrap();
    }

    #[test]
    fn a_file_has_one_number_under_all_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other, linked] = ["one", "other", "linked"].map(|name| folder.path().join(name));
        fs::write(&one, "alike").unwrap();
        fs::write(&other, "alike").unwrap();
        let number = number_at(&one).unwrap();
        assert!(number == number_of(&File::open(&one).unwrap()).unwrap());
        assert!(number == number_at(&folder.path().join(".").join("one")).unwrap());
        assert!(number != number_at(&other).unwrap());
        if fs::hard_link(&one, &linked).is_ok() {
            assert!(number == number_at(&linked).unwrap());
        } else {
            println!("SKIPPED: a second name: this file system has no hard links");
        }
        assert!(number_at(&folder.path().join("nothing")).is_err());
    }
}
