//! Where the bytes of an open file live: a memory map, an aligned buffer, or static memory.
//!
//! Here: [`Bytes`], a cheap view that keeps its memory alive, and the one `unsafe` call of this
//! crate, the map. Not here: what the bytes mean. The promise for a mapped file that changes:
//! `SPEC.md`, "Mapping". Tests: `brk/tests.rs`.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use log::warn;

use super::header::ALIGN;
use crate::FormatError;
use crate::atomic::open_regular;
use crate::platform::read_exact_at;
use crate::zeroed::Zeroed;

/// The memory behind a file.
enum Memory {
    Map(memmap2::Mmap),
    Owned(Zeroed<u8>),
    Static(&'static [u8]),
}

/// A range of an open file's bytes. Cloning is cheap; the memory lives as long as any view of it.
///
/// Views of whole tensors start at a multiple of 64 bytes.
#[derive(Clone)]
pub struct Bytes {
    memory: Arc<Memory>,
    range: Range<usize>,
}

impl Bytes {
    /// The bytes of a file: mapped (no byte is read yet), or read into an aligned buffer.
    pub(crate) fn open(path: &Path, mmap: bool) -> Result<Self, FormatError> {
        Self::part(path, &open_regular(path)?.0, 0, None, mmap)
    }

    /// `len` bytes of an open file from `offset` on, or all from there; `name` is what messages
    /// call it.
    pub(super) fn part(
        name: &Path,
        file: &File,
        offset: u64,
        len: Option<u64>,
        mmap: bool,
    ) -> Result<Self, FormatError> {
        let metadata = file.metadata().map_err(FormatError::io("open", name))?;
        if !metadata.is_file() {
            let source = io::Error::other("not a regular file");
            return Err(FormatError::Io { action: "open", path: name.to_owned(), source });
        }
        let rest = metadata.len().saturating_sub(offset);
        let part = len.unwrap_or(rest);
        if part > rest || offset > metadata.len() {
            let (path, what) = (name.to_owned(), "the file");
            return Err(FormatError::Truncated { path, what, offset, expected: part, found: rest });
        }
        let len = usize::try_from(part)
            .ok()
            .filter(|&len| isize::try_from(len).is_ok())
            .ok_or_else(|| FormatError::TooLarge { path: name.to_owned(), len: part })?;
        // An empty file cannot be mapped; a buffer of nothing gets the right error message.
        let mut mapped = None;
        if mmap && len > 0 {
            if offset.is_multiple_of(ALIGN) {
                mapped = map(file, offset, len)
                    .map(|map| Self::new(Memory::Map(map)))
                    .inspect_err(|error| {
                        warn!("{}: not mapped ({error}), read instead", name.display())
                    })
                    .ok();
            } else {
                warn!(
                    "{}: starts at byte {offset}, no multiple of {ALIGN}: read instead of mapped",
                    name.display()
                );
            }
        }
        mapped.map_or_else(
            || Self::read(file, offset, len).map_err(FormatError::io("read", name)),
            Ok,
        )
    }

    /// Reads `len` bytes of a file from `offset` on into an aligned buffer.
    fn read(file: &File, offset: u64, len: usize) -> io::Result<Self> {
        let mut memory = Zeroed::try_new(len)?;
        read_exact_at(file, offset, &mut memory)?;
        Ok(Self::new(Memory::Owned(memory)))
    }

    /// Takes bytes of the caller; they are copied once if they do not start at a multiple of 64.
    pub(super) fn from_memory(bytes: Cow<'static, [u8]>) -> io::Result<Self> {
        Ok(match bytes {
            Cow::Borrowed(bytes) if bytes.as_ptr().addr().is_multiple_of(64) => {
                Self::new(Memory::Static(bytes))
            }
            bytes => {
                let mut memory = Zeroed::try_new(bytes.len())?;
                memory.copy_from_slice(&bytes);
                Self::new(Memory::Owned(memory))
            }
        })
    }

    /// Where the map begins, and its length; none where the memory is no map, or these bytes are a
    /// part of it.
    pub(super) fn mapped(&self) -> Option<(NonNull<u8>, usize)> {
        match &*self.memory {
            Memory::Map(map) if self.range == (0..map.len()) => {
                Some((NonNull::from(&**map).cast(), map.len()))
            }
            _ => None,
        }
    }

    /// Whether the memory is a map or the caller's.
    pub(super) fn is_shared(&self) -> bool {
        !matches!(*self.memory, Memory::Owned(..))
    }

    fn new(memory: Memory) -> Self {
        let range = 0..memory.len();
        Self { memory: Arc::new(memory), range }
    }

    /// A part of these bytes; panics if it is not inside them.
    pub(super) fn slice(&self, part: Range<usize>) -> Self {
        assert!(part.start <= part.end && part.end <= self.range.len());
        let range = self.range.start + part.start..self.range.start + part.end;
        Self { memory: Arc::clone(&self.memory), range }
    }

    /// Asks the system to start reading a mapped file; does nothing elsewhere.
    pub(super) fn prefetch(&self) {
        #[cfg(unix)]
        if let Memory::Map(map) = &*self.memory {
            // Only advice: a refusal changes nothing but the time of the first use.
            let _ = map.advise_range(memmap2::Advice::WillNeed, self.range.start, self.range.len());
        }
    }
}

impl From<Zeroed<u8>> for Bytes {
    /// Memory that is in no file.
    fn from(memory: Zeroed<u8>) -> Self {
        Self::new(Memory::Owned(memory))
    }
}

impl Default for Bytes {
    /// None.
    fn default() -> Self {
        Self::new(Memory::Static(&[]))
    }
}

impl Memory {
    fn len(&self) -> usize {
        match self {
            Self::Map(map) => map.len(),
            Self::Owned(memory) => memory.len(),
            Self::Static(bytes) => bytes.len(),
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let bytes: &[u8] = match &*self.memory {
            Memory::Map(map) => map,
            Memory::Owned(memory) => memory,
            Memory::Static(bytes) => bytes,
        };
        &bytes[self.range.clone()]
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({:?})", self.range)
    }
}

#[allow(unsafe_code)]
fn map(file: &File, offset: u64, len: usize) -> io::Result<memmap2::Mmap> {
    // Every bit pattern is a valid u8, and everything read from the bytes is checked as from any
    // file. SAFETY: the map is private and read-only. That nobody changes or shortens the file
    // meanwhile is the caller's duty (`BrkFile::open`, SPEC.md, "Mapping"); our own writer never
    // changes a file, it renames a new one.
    let map = unsafe { memmap2::MmapOptions::new().offset(offset).len(len).map(file) }?;
    // Only advice: a refusal changes nothing but speed.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}
