//! Where this program keeps what it can make again: the cache folder, and folders for one run.
//!
//! Not here: what is kept there (`model`, `bench::synthetic`). Test: `tests/cli/checkpoints.rs`.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// The cache folder.
pub(crate) fn folder() -> Result<PathBuf> {
    brooklet_cached::folder()
        .ok_or_else(|| Failure::with("there is no cache folder", "set XDG_CACHE_HOME"))
}

/// Does what need not be done again as long as `key` is the same: a file in the folder `name` of
/// the cache says that it was. Without a key, or a cache, it is done every time.
pub(crate) fn once<E>(
    name: &str,
    key: Option<u64>,
    action: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    let Some((key, cache)) = key.zip(folder().ok()) else { return action() };
    once_in(&cache.join(name), key, action)
}

fn once_in<E>(folder: &Path, key: u64, action: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    let place = folder.join(format!("{key:016x}"));
    if !place.exists() {
        action()?;
        // Where it cannot be written down it is done again.
        let _ = fs::create_dir_all(folder).and_then(|()| File::create(place));
    }
    Ok(())
}

/// Start of the names of folders for one run.
const PREFIX: &str = "brooklet-no-cache-";
/// The file whose lock says that the run is alive.
const LOCK: &str = "lock";

/// A folder that only this user may read, gone with its handle. One that a killed run left is
/// removed when the next one is made.
pub(crate) struct Scratch {
    folder: PathBuf,
    /// Locked until the folder is gone.
    _lock: File,
}

impl Scratch {
    /// Makes one among the system's temporary files.
    pub(crate) fn new() -> Result<Scratch> {
        let parent = temporary_files()?;
        let scratch =
            Self::within(&parent).map_err(Failure::io("create a folder in", parent.display()))?;
        sweep(&parent, &scratch.folder);
        Ok(scratch)
    }

    fn within(parent: &Path) -> io::Result<Scratch> {
        // Modes of folders are a Unix thing.
        #[cfg_attr(not(unix), allow(unused_mut))]
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        let process = if cfg!(target_family = "wasm") { 0 } else { std::process::id() };
        let mut number = 0;
        loop {
            let folder = parent.join(format!("{PREFIX}{process}-{number}"));
            number += 1;
            match builder.create(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            let lock = File::create_new(folder.join(LOCK))?;
            // Between the making and the locking another run may have taken it for a dead one.
            // Where there are no locks, nobody removes anything.
            let taken = matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock));
            if !taken && folder.join(LOCK).exists() {
                return Ok(Scratch { folder, _lock: lock });
            }
        }
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Removes the folders that runs of the owner of `own` left when they were killed.
fn sweep(parent: &Path, own: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default();
        if path == own
            || !name.as_encoded_bytes().starts_with(PREFIX.as_bytes())
            || !has_one_owner(&path, own)
        {
            continue;
        }
        let lock = File::options().write(true).open(path.join(LOCK));
        if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Whether both are folders, not links to some, of one user.
#[cfg(unix)]
fn has_one_owner(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let owner = |path| {
        fs::symlink_metadata(path).ok().filter(fs::Metadata::is_dir).map(|found| found.uid())
    };
    owner(a).is_some_and(|uid| owner(b) == Some(uid))
}

/// Whether it is a folder; the system's temporary files are one user's own here.
#[cfg(not(unix))]
fn has_one_owner(a: &Path, _: &Path) -> bool {
    fs::symlink_metadata(a).is_ok_and(|found| found.is_dir())
}

/// The system's folder of temporary files.
#[cfg(not(target_family = "wasm"))]
fn temporary_files() -> Result<PathBuf> {
    Ok(std::env::temp_dir())
}

/// The folder that the environment names: WebAssembly has none of its own.
#[cfg(target_family = "wasm")]
fn temporary_files() -> Result<PathBuf> {
    let named = std::env::var_os("TMPDIR").map(PathBuf::from);
    named.ok_or_else(|| Failure::with("there is no folder of temporary files", "set TMPDIR"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_for_a_key_is_not_done_again() {
        let scratch = Scratch::new().expect("there are temporary files");
        let folder = scratch.path().join("verified");
        let mut times = 0;
        let mut run = |key, result: Result<(), u8>| {
            let counted = || {
                times += 1;
                result
            };
            once_in(&folder, key, counted)
        };
        assert_eq!(run(1, Err(7)), Err(7), "what failed was not done");
        assert_eq!([run(1, Ok(())), run(1, Err(7)), run(2, Ok(()))], [Ok(()); 3]);
        assert_eq!(times, 3);
    }
}
