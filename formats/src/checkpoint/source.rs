//! Reading a foreign file by position: nothing is mapped, nothing is read twice into memory.
//!
//! Here: [`SourceFile`] (an open file that knows its path and length), [`Fields`] (little-endian
//! header fields, each bounds-checked) and [`Blob`] (the bytes of one tensor storage, plain or
//! deflated). Not here: what the bytes mean. Positioned reads instead of a map keep the resident
//! memory of a conversion at the rows in flight, and a file that shrinks under us is an error, not
//! a signal. Test: at the end of this file; every reader beside it.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::read::DeflateDecoder;

use crate::FormatError;
use crate::atomic::open_regular;
use crate::platform::read_exact_at;

/// An open file of a checkpoint.
#[derive(Debug)]
pub(crate) struct SourceFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl SourceFile {
    /// Opens `path` for reading. A folder, a device or a pipe is an error.
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>, FormatError> {
        let (file, len) = open_regular(path)?;
        Ok(Arc::new(Self { path: path.to_owned(), file, len }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes when the file was opened.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buffer` from byte `offset` on; `what` names the part in the error.
    pub(crate) fn read_at(
        &self,
        offset: u64,
        buffer: &mut [u8],
        what: &'static str,
    ) -> Result<(), FormatError> {
        self.check(offset, buffer.len() as u64, what)?;
        read_exact_at(&self.file, offset, buffer).map_err(FormatError::io("read", &self.path))
    }

    /// Checks that `len` bytes from `offset` on lie inside the file.
    pub(crate) fn check(
        &self,
        offset: u64,
        len: u64,
        what: &'static str,
    ) -> Result<(), FormatError> {
        if offset.checked_add(len).is_some_and(|end| end <= self.len) {
            return Ok(());
        }
        let found = self.len.saturating_sub(offset);
        Err(FormatError::Truncated { path: self.path.clone(), what, offset, expected: len, found })
    }

    /// The first bytes of the file, at most `n`.
    pub(crate) fn head(&self, n: usize) -> Result<Vec<u8>, FormatError> {
        let n = self.len.min(n as u64);
        let mut head = vec![0; n as usize];
        self.read_at(0, &mut head, "the first bytes")?;
        Ok(head)
    }

    /// A stream over bytes `start..end`, with its own position.
    pub(crate) fn stream(self: &Arc<Self>, start: u64, end: u64) -> Stream {
        Stream { file: Arc::clone(self), start, end, position: start }
    }

    /// A [`FormatError::Field`] of this file.
    pub(crate) fn field(
        &self,
        what: &'static str,
        expected: impl Display,
        found: impl Display,
    ) -> FormatError {
        FormatError::Field {
            path: self.path.clone(),
            what,
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    /// A [`FormatError::Tensor`] of this file.
    pub(crate) fn tensor(
        &self,
        tensor: &str,
        what: &'static str,
        expected: impl Display,
        found: impl Display,
    ) -> FormatError {
        FormatError::Tensor {
            path: self.path.clone(),
            tensor: tensor.to_owned(),
            what,
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}

/// A part of a [`SourceFile`] as a stream that can seek.
#[derive(Debug)]
pub(crate) struct Stream {
    file: Arc<SourceFile>,
    start: u64,
    end: u64,
    position: u64,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.end.saturating_sub(self.position).min(buffer.len() as u64) as usize;
        read_exact_at(&self.file.file, self.position, &mut buffer[..n])?;
        self.position += n as u64;
        Ok(n)
    }
}

impl Seek for Stream {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(n) => self.start.checked_add(n),
            SeekFrom::End(n) => self.end.checked_add_signed(n),
            SeekFrom::Current(n) => self.position.checked_add_signed(n),
        };
        match target {
            Some(position) if position >= self.start => {
                self.position = position;
                Ok(position - self.start)
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

/// Little-endian fields of a header, read forward. Every length is checked against the file before
/// memory is taken for it.
pub(crate) struct Fields {
    file: Arc<SourceFile>,
    stream: BufReader<Stream>,
    position: u64,
}

impl Fields {
    /// Starts at byte `offset` of `file`.
    pub(crate) fn new(file: &Arc<SourceFile>, offset: u64) -> Self {
        let mut stream = file.stream(0, file.len());
        stream.position = offset;
        Self {
            file: Arc::clone(file),
            stream: BufReader::with_capacity(1 << 16, stream),
            position: offset,
        }
    }

    /// Byte offset of the next field.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes between here and the end of the file.
    pub(crate) fn remaining(&self) -> u64 {
        self.file.len().saturating_sub(self.position)
    }

    /// The next `n` bytes.
    pub(crate) fn bytes(&mut self, n: u64, what: &'static str) -> Result<Vec<u8>, FormatError> {
        self.file.check(self.position, n, what)?;
        let failed = |kind| FormatError::io("read", &self.file.path)(io::Error::from(kind));
        let len = usize::try_from(n).map_err(|_| failed(io::ErrorKind::OutOfMemory))?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| failed(io::ErrorKind::OutOfMemory))?;
        bytes.resize(len, 0);
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// The next `n` bytes as text; what is not UTF-8 becomes U+FFFD.
    pub(crate) fn text(&mut self, n: u64, what: &'static str) -> Result<String, FormatError> {
        let bytes = self.bytes(n, what)?;
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], FormatError> {
        self.file.check(self.position, N as u64, what)?;
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, FormatError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, FormatError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Steps over `n` bytes, which must be there.
    pub(crate) fn skip(&mut self, n: u64, what: &'static str) -> Result<(), FormatError> {
        self.file.check(self.position, n, what)?;
        // `check` bounds n by the file's length, which fits i64.
        self.stream.seek_relative(n as i64).map_err(FormatError::io("read", self.file.path()))?;
        self.position += n;
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), FormatError> {
        self.stream.read_exact(buffer).map_err(FormatError::io("read", self.file.path()))?;
        self.position += buffer.len() as u64;
        Ok(())
    }
}

/// The bytes behind one or several tensors: a range of a file, or a deflated zip entry.
#[derive(Clone, Debug)]
pub(crate) enum Blob {
    /// Bytes `offset..offset + len` of the file.
    Plain { file: Arc<SourceFile>, offset: u64, len: u64 },
    /// A deflated entry, `len` bytes when inflated.
    Deflated(Arc<Deflated>),
}

/// A deflated range of a file. The running decoder is kept, so that reading forward costs one pass
/// over the entry; going back starts over, or, in a long one, inflates it once more into a
/// temporary file. Never more than the decoder's window is in memory.
#[derive(Debug)]
pub(crate) struct Deflated {
    file: Arc<SourceFile>,
    start: u64,
    end: u64,
    len: u64,
    inflated: Mutex<Inflated>,
}

/// How far an entry has been inflated.
#[derive(Debug)]
enum Inflated {
    Not,
    UpTo(u64, Box<DeflateDecoder<BufReader<Stream>>>),
    Whole(File),
}

/// Entries up to this length are inflated again for each step back.
const SPOOLED_MIN: u64 = 1 << 20;

impl Blob {
    /// The whole file.
    pub(crate) fn whole(file: &Arc<SourceFile>) -> Self {
        Self::Plain { file: Arc::clone(file), offset: 0, len: file.len() }
    }

    /// A deflated entry in bytes `start..end` of `file`, which inflates to `len` bytes.
    pub(crate) fn deflated(file: &Arc<SourceFile>, start: u64, end: u64, len: u64) -> Self {
        let inflated = Mutex::new(Inflated::Not);
        Self::Deflated(Arc::new(Deflated { file: Arc::clone(file), start, end, len, inflated }))
    }

    /// The file that holds the bytes.
    pub(crate) fn file(&self) -> &Arc<SourceFile> {
        match self {
            Self::Plain { file, .. } => file,
            Self::Deflated(entry) => &entry.file,
        }
    }

    /// Length in bytes, inflated.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Plain { len, .. } => *len,
            Self::Deflated(entry) => entry.len,
        }
    }

    /// Fills `buffer` from byte `at` of the blob on.
    pub(crate) fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<(), FormatError> {
        match self {
            Self::Plain { file, offset, len } => {
                if at.checked_add(buffer.len() as u64).is_none_or(|end| end > *len) {
                    return Err(truncated(file, at, buffer.len() as u64, *len));
                }
                file.read_at(offset + at, buffer, "tensor data")
            }
            Self::Deflated(entry) => entry.read_at(at, buffer),
        }
    }
}

impl Deflated {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<(), FormatError> {
        if at.checked_add(buffer.len() as u64).is_none_or(|end| end > self.len) {
            return Err(truncated(&self.file, at, buffer.len() as u64, self.len));
        }
        let mut slot = self.inflated.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = || BufReader::new(self.file.stream(self.start, self.end));
        let fresh = || Box::new(DeflateDecoder::new(stream()));
        let (mut position, mut decoder) = match mem::replace(&mut *slot, Inflated::Not) {
            Inflated::UpTo(position, decoder) if position <= at => (position, decoder),
            Inflated::UpTo(..) if self.len > SPOOLED_MIN => {
                let spooled = self.spool(&mut *fresh());
                *slot =
                    Inflated::Whole(spooled.map_err(FormatError::io("inflate", &self.file.path))?);
                return self.read_spooled(&slot, at, buffer);
            }
            Inflated::Whole(file) => {
                *slot = Inflated::Whole(file);
                return self.read_spooled(&slot, at, buffer);
            }
            Inflated::UpTo(..) | Inflated::Not => (0, fresh()),
        };
        let skipped = io::copy(&mut (&mut *decoder).take(at - position), &mut io::sink());
        position += skipped.map_err(FormatError::io("inflate", self.file.path()))?;
        if position != at {
            return Err(truncated(&self.file, at, buffer.len() as u64, position));
        }
        decoder.read_exact(buffer).map_err(FormatError::io("inflate", self.file.path()))?;
        *slot = Inflated::UpTo(at + buffer.len() as u64, decoder);
        Ok(())
    }

    /// The whole entry in a file that vanishes with the program.
    fn spool(&self, decoder: &mut impl Read) -> io::Result<File> {
        let mut file = tempfile::tempfile()?;
        io::copy(&mut decoder.take(self.len), &mut file)?;
        Ok(file)
    }

    fn read_spooled(&self, slot: &Inflated, at: u64, buffer: &mut [u8]) -> Result<(), FormatError> {
        let Inflated::Whole(file) = slot else { return Ok(()) };
        read_exact_at(file, at, buffer).map_err(FormatError::io("inflate", &self.file.path))
    }
}

fn truncated(file: &SourceFile, offset: u64, expected: u64, len: u64) -> FormatError {
    let (path, found) = (file.path.clone(), len.saturating_sub(offset));
    FormatError::Truncated { path, what: "tensor data", offset, expected, found }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file_of(bytes: &[u8]) -> (tempfile::NamedTempFile, Arc<SourceFile>) {
        let mut temporary = tempfile::NamedTempFile::new().unwrap();
        temporary.write_all(bytes).unwrap();
        let file = SourceFile::open(temporary.path()).unwrap();
        (temporary, file)
    }

    #[test]
    fn fields_stop_at_the_end_of_the_file() {
        let (_keep, file) = file_of(&[1, 0, 0, 0, b'a', b'b', 0xff, 9]);
        let mut fields = Fields::new(&file, 0);
        assert_eq!(fields.u32("count").unwrap(), 1);
        assert_eq!(fields.text(3, "name").unwrap(), "ab\u{fffd}");
        assert!(matches!(
            fields.u64("offset"),
            Err(FormatError::Truncated { offset: 7, found: 1, .. })
        ));
        assert!(fields.bytes(u64::MAX, "name").is_err());
        fields.skip(1, "rest").unwrap();
        assert_eq!((fields.position(), fields.remaining()), (8, 0));
        assert!(fields.skip(1, "rest").is_err());
    }

    #[test]
    fn a_deflated_blob_reads_like_a_plain_one() {
        let plain: Vec<u8> = (0..100_000u32).map(|i| ((i.wrapping_mul(i)) >> 7) as u8).collect();
        let mut encoder =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&plain).unwrap();
        let packed = encoder.finish().unwrap();
        let (_keep, file) = file_of(&packed);
        let blob = Blob::deflated(&file, 0, packed.len() as u64, plain.len() as u64);
        for (at, n) in [(0, 10), (10, 1000), (70_000, 30_000), (5, 99_995), (100_000, 0)] {
            let mut bytes = vec![0; n];
            blob.read_at(at as u64, &mut bytes).unwrap();
            assert_eq!(bytes, plain[at..at + n], "{at} {n}");
        }
        assert!(blob.read_at(99_999, &mut [0; 2]).is_err());
        // A long one, back and forth.
        let long: Vec<u8> = plain.iter().cycle().take(1_300_000).copied().collect();
        let mut encoder =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&long).unwrap();
        let bytes = encoder.finish().unwrap();
        let (_keep_long, file_long) = file_of(&bytes);
        let blob_long = Blob::deflated(&file_long, 0, bytes.len() as u64, long.len() as u64);
        for at in [1_200_000, 0, 700_000, 10, 1_299_990] {
            let mut bytes = [0; 10];
            blob_long.read_at(at as u64, &mut bytes).unwrap();
            assert_eq!(bytes, long[at..at + 10], "{at}");
        }
        let longer = Blob::deflated(&file, 0, packed.len() as u64, 200_000);
        assert!(longer.read_at(99_999, &mut [0; 2]).is_err());
        assert!(longer.read_at(150_000, &mut [0; 2]).is_err());
    }
}
