//! A file that appears whole or not at all: written beside its target, synced, renamed.
//!
//! Here: [`AtomicFile`], which every writer of a file uses, and [`open_regular`], which every
//! reader of one uses. What may be replaced is [`Target`]'s to say. Not here: what is in the files.
//! A file that is dropped before [`AtomicFile::publish`] leaves nothing behind and an older target
//! as it was; what a killed run leaves, the next one of the same target removes (`part`). Source:
//! `SPEC.md`, "What a writer must". Tests: `tests`, `brk/tests.rs`, `state_file/tests.rs`.

mod part;
mod place;
mod target;

#[cfg(test)]
mod tests;

use std::fs::{File, Metadata};
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

use tempfile::TempPath;

pub(crate) use self::place::folder_of;
pub use self::place::open_regular;
pub use self::target::{Kind, NO_INPUTS, Target};

use crate::FormatError;

/// Bytes of a write, and what its place in the file is a multiple of: a huge page. A file system
/// that can (XFS, ext4 since Linux 6.16) then keeps the file's pages in memory as huge ones, and
/// maps them as such.
const BLOCK: usize = 2 << 20;

/// A file under construction.
///
/// Its permissions are those of what it replaces, and so is its owner where the system allows that;
/// without anything to replace, they are as for any new file. (Access lists are not kept.)
#[derive(Debug)]
pub struct AtomicFile {
    target: Target,
    /// The path of the target itself, through links.
    real: PathBuf,
    /// The file that it replaces.
    old: Option<Metadata>,
    /// Where `file` is until it is published; removed when dropped, while `file` is still locked.
    temporary: TempPath,
    file: File,
    /// The bytes that are not written yet, less than [`BLOCK`]; it starts at a multiple of that in
    /// the file.
    block: Vec<u8>,
}

impl AtomicFile {
    /// Starts a file that will replace `target`, and removes what killed runs left of it.
    ///
    /// # Errors
    /// As [`Target::check`]; or the folder does not exist or cannot be written to.
    pub fn create(target: &Target) -> Result<Self, FormatError> {
        let real = target.resolve()?;
        let old = target.look(&real)?;
        part::sweep(&real);
        let (file, temporary) =
            part::create(&real, old.is_some()).map_err(FormatError::io("create", &real))?;
        Ok(Self { target: target.clone(), real, old, temporary, file, block: Vec::new() })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// The system refuses: the disk is full, say.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), FormatError> {
        while self.block.len() + bytes.len() >= BLOCK {
            let (now, later) = bytes.split_at(BLOCK - self.block.len());
            self.block.extend_from_slice(now);
            self.file.write_all(&self.block).map_err(FormatError::io("write", &self.real))?;
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
    /// The system refuses, or something has come to the target's place that must not be replaced;
    /// it is as it was then.
    pub fn publish(self, head: &[u8]) -> Result<(), FormatError> {
        let Self { target, real, old, temporary, mut file, block } = self;
        let written = |error| FormatError::io("write", &real)(error);
        file.write_all(&block).map_err(written)?;
        file.seek(SeekFrom::Start(0)).map_err(written)?;
        file.write_all(head).map_err(written)?;
        // Hours may have passed since the target was looked at.
        if let Some(old) = target.look(&real)?.or(old) {
            part::take_after(&file, &old);
        }
        file.sync_all().map_err(written)?;
        part::put(temporary, &real).map_err(written)?;
        // Not earlier: while it is open it is locked, and nobody removes it.
        drop(file);
        // The rename itself is lasting once the folder is on the disk; Windows has no such call.
        if cfg!(unix) {
            File::open(folder_of(&real)).and_then(|folder| folder.sync_all()).map_err(written)?;
        }
        Ok(())
    }
}
