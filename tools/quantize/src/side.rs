//! The file beside the target that keeps finished matrices, so that a conversion that was stopped
//! goes on where it was.
//!
//! It begins with a magic and a key: a hash of all that the result depends on. Then matrices, each
//! with its name, what is reported of it, its bytes and a hash of all of that. What does not fit
//! its hash, and all behind it, was being written when the conversion was stopped, and is made
//! again; a file with another key begins anew. It is gone once the target is there. Not here: what
//! is in the key (`calibrate.rs`). Test: below.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use brooklet_formats::FormatError;
use brooklet_formats::zeroed::Zeroed;
use xxhash_rust::xxh3::Xxh3;

/// The first bytes.
const MAGIC: &[u8; 16] = b"brooklet quant 1";

/// Bytes before the first matrix: the magic and the key.
const HEAD: u64 = 24;

/// A name, what is reported, and the bytes of a matrix are no longer than this.
const MAX_LEN: u64 = 1 << 40;

/// Finished matrices.
#[derive(Debug)]
pub(crate) struct Side {
    path: PathBuf,
    file: File,
    /// Where the next matrix is to stand.
    end: u64,
    entries: HashMap<String, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    report: Vec<u8>,
    at: u64,
    len: usize,
}

impl Side {
    /// The file for the target at `target`, with what it has of the conversion `key`.
    ///
    /// # Errors
    /// It cannot be read or written, or a file of another kind has its name.
    pub(crate) fn open(target: &Path, key: u64) -> Result<Side, FormatError> {
        let mut name = target.as_os_str().to_owned();
        name.push(".unfinished");
        let path = PathBuf::from(name);
        let failed = |source| FormatError::Io {
            action: "keep unfinished work in",
            path: path.clone(),
            source,
        };
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(failed)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(failed(io::Error::other("another conversion is at work on it")));
        }
        let mut head = [0; HEAD as usize];
        let found = match file.read_exact(&mut head) {
            Ok(()) => Some(head),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(failed(error)),
        };
        let length = file.metadata().map_err(failed)?.len();
        // A file that is shorter than its head was being begun.
        if found.is_some_and(|head| !head.starts_with(MAGIC))
            || (found.is_none() && length > 0) && !begun(&mut file).map_err(failed)?
        {
            let source = io::Error::other("another file has this name: move it away");
            return Err(failed(source));
        }
        let mut side = Side { path: path.clone(), file, end: HEAD, entries: HashMap::new() };
        if found.is_some_and(|head| head[16..] == key.to_le_bytes()) {
            side.read(length).map_err(failed)?;
        } else {
            side.file.seek(SeekFrom::Start(0)).map_err(failed)?;
            side.file.write_all(MAGIC).map_err(failed)?;
            side.file.write_all(&key.to_le_bytes()).map_err(failed)?;
        }
        side.file.set_len(side.end).map_err(failed)?;
        Ok(side)
    }

    /// Reads which matrices there are, up to the first that is not whole.
    fn read(&mut self, length: u64) -> io::Result<()> {
        while let Some((name, entry, end)) = self.next(length)? {
            self.entries.insert(name, entry);
            self.end = end;
        }
        Ok(())
    }

    fn next(&mut self, length: u64) -> io::Result<Option<(String, Entry, u64)>> {
        self.file.seek(SeekFrom::Start(self.end))?;
        let mut hash = Xxh3::new();
        let mut lens = [0u64; 3];
        for len in &mut lens {
            let mut bytes = [0; 8];
            match self.file.read_exact(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
                read => read?,
            }
            hash.update(&bytes);
            *len = u64::from_le_bytes(bytes);
        }
        let at = self.end + 24 + lens[0].min(MAX_LEN) + lens[1].min(MAX_LEN);
        let end = at + lens[2].min(MAX_LEN) + 8;
        if lens.iter().any(|len| *len > MAX_LEN) || end > length {
            return Ok(None);
        }
        let mut parts = [const { Vec::new() }; 2];
        for (part, len) in parts.iter_mut().zip(lens) {
            (&self.file).take(len).read_to_end(part)?;
            hash.update(part);
        }
        let mut left = lens[2];
        let mut block = vec![0; 1 << 16];
        while left > 0 {
            let block = &mut block[..left.min(1 << 16) as usize];
            self.file.read_exact(block)?;
            hash.update(block);
            left -= block.len() as u64;
        }
        let mut digest = [0; 8];
        self.file.read_exact(&mut digest)?;
        let [name, report] = parts;
        let (Ok(name), true) = (String::from_utf8(name), digest == hash.digest().to_le_bytes())
        else {
            return Ok(None);
        };
        let entry = Entry { report, at, len: lens[2] as usize };
        Ok(Some((name, entry, end)))
    }

    /// Finished matrices.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What is reported of the matrix `name`, if it is finished.
    pub(crate) fn report(&self, name: &str) -> Option<&[u8]> {
        Some(&self.entries.get(name)?.report)
    }

    /// The bytes of the matrix `name`.
    ///
    /// # Errors
    /// It is not finished, or the file cannot be read.
    pub(crate) fn get(&mut self, name: &str) -> Result<Zeroed<u8>, FormatError> {
        let mut read = || -> io::Result<Zeroed<u8>> {
            let entry = self.entries.get(name).ok_or(ErrorKind::NotFound)?;
            let mut bytes = Zeroed::try_new(entry.len)?;
            self.file.seek(SeekFrom::Start(entry.at))?;
            self.file.read_exact(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(FormatError::io("read", &self.path))
    }

    /// Keeps a finished matrix.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn put(
        &mut self,
        name: &str,
        report: &[u8],
        bytes: &[u8],
    ) -> Result<(), FormatError> {
        let mut write = || -> io::Result<u64> {
            let mut hash = Xxh3::new();
            let lens =
                [name.len(), report.len(), bytes.len()].map(|len| (len as u64).to_le_bytes());
            self.file.seek(SeekFrom::Start(self.end))?;
            for part in [lens.as_flattened(), name.as_bytes(), report, bytes] {
                hash.update(part);
                self.file.write_all(part)?;
            }
            self.file.write_all(&hash.digest().to_le_bytes())?;
            Ok(self.end + 24 + (name.len() + report.len()) as u64)
        };
        let at = write().map_err(FormatError::io("write", &self.path))?;
        let entry = Entry { report: report.to_vec(), at, len: bytes.len() };
        self.end = at + bytes.len() as u64 + 8;
        self.entries.insert(name.to_owned(), entry);
        Ok(())
    }

    /// Removes the file: the target is there.
    pub(crate) fn finish(self) {
        // Where it cannot be removed it does no harm: it has a key.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether all that stands in the file is the beginning of our magic.
fn begun(file: &mut File) -> io::Result<bool> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(HEAD).read_to_end(&mut bytes)?;
    let n = bytes.len().min(MAGIC.len());
    Ok(bytes[..n] == MAGIC[..n])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_whole_is_found_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("x.brk");
        let path = folder.path().join("x.brk.unfinished");
        let mut side = Side::open(&target, 7).expect("a new file");
        side.put("one", b"first", &[1; 1000]).expect("room");
        side.put("two", b"", &[2; 70_000]).expect("room");
        assert_eq!(*side.get("two").expect("it is there"), [2; 70_000]);
        drop(side);
        let whole = std::fs::read(&path).expect("the file");
        let second = whole.len() - (24 + 3 + 70_000 + 8);
        for cut in [second, second + 1, second + 30, whole.len() - 1, whole.len()] {
            std::fs::write(&path, &whole[..cut]).expect("room");
            let mut side = Side::open(&target, 7).expect("our file");
            assert_eq!(side.report("one"), Some(&b"first"[..]));
            assert_eq!(*side.get("one").expect("it is there"), [1; 1000]);
            assert_eq!(side.report("two").is_some(), cut == whole.len());
            side.put("three", b"", &[3]).expect("room");
            drop(side);
            assert!(Side::open(&target, 7).expect("our file").report("three").is_some());
        }
        let held = Side::open(&target, 7).expect("our file");
        let error = Side::open(&target, 7).expect_err("it is held").to_string();
        assert!(error.contains("another conversion"), "{error}");
        drop(held);
        // A bit that differs ends it; so does another key; a short head begins anew.
        let mut broken = whole.clone();
        broken[100] ^= 1;
        std::fs::write(&path, &broken).expect("room");
        assert!(Side::open(&target, 7).expect("our file").report("one").is_none());
        std::fs::write(&path, &whole).expect("room");
        assert!(Side::open(&target, 8).expect("our file").report("one").is_none());
        for cut in [0, 1, 20] {
            std::fs::write(&path, &whole[..cut]).expect("room");
            Side::open(&target, 7).expect("our file").finish();
            assert!(!path.exists());
        }
        for other in [&b"a"[..], b"somebody's own text, which is longer than a head"] {
            std::fs::write(&path, other).expect("room");
            let error = Side::open(&target, 7).expect_err("not ours").to_string();
            assert!(error.contains("move it away"), "{error}");
            assert_eq!(std::fs::read(&path).expect("it is kept"), other);
        }
    }
}
