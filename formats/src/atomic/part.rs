//! The file under construction: `.NAME.PROCESS-N.part` beside its target.
//!
//! Here: making one, taking over the permissions of what it replaces, and removing those of runs
//! that were killed. Not here: what may be replaced (`target`). Whoever writes a part holds an
//! exclusive lock on it, which the system ends together with the process. A part that can be locked
//! has no writer any more, and only who holds its lock removes it. Where a file system has no
//! locks, nothing is removed. Tests: `tests`.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, TryLockError};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempPath;

use super::place::folder_of;
use crate::platform::{number_at, number_of};

/// An empty, locked file in the folder of `real`, which vanishes when its path is dropped. With
/// `private`, only this user may read it.
pub(super) fn create(real: &Path, private: bool) -> io::Result<(File, TempPath)> {
    let name = real.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
    // Numbered, not random: no generator, whose seeding leaves memory that leak checkers see in
    // programs that link us.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if private {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    #[cfg(not(unix))]
    let _ = private;
    loop {
        let mut own = OsString::from(".");
        own.push(name);
        own.push(format!(".{}-{}.part", process(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let own = folder_of(real).join(own);
        let file = match options.open(&own) {
            Ok(file) => file,
            // Left by a process of the same number that was killed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        };
        match file.try_lock() {
            // Between its making and its locking somebody may have taken it for a dead one.
            Err(TryLockError::WouldBlock) => {}
            Ok(()) if is_at(&file, &own) == Some(false) => {}
            Ok(()) | Err(TryLockError::Error(_)) => {
                return Ok((file, TempPath::try_from_path(own)?));
            }
        }
    }
}

/// Renames a finished part to `real`, at once or not at all.
///
/// Windows refuses while somebody has the old file open. Another run that looks at it, and a virus
/// scanner, are done soon; who runs the model that it holds is not, and that is an error.
pub(super) fn put(mut part: TempPath, real: &Path) -> io::Result<()> {
    let mut tries = if cfg!(windows) { 100 } else { 1 };
    loop {
        let refused = match part.persist(real) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        tries -= 1;
        if tries == 0 || refused.error.kind() != io::ErrorKind::PermissionDenied {
            return Err(refused.error);
        }
        part = refused.path;
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The number of this process; WebAssembly has none.
fn process() -> u32 {
    if cfg!(target_family = "wasm") { 0 } else { std::process::id() }
}

/// Removes the parts of `real` that nobody writes any more. Whatever goes wrong, they stay.
pub(super) fn sweep(real: &Path) {
    let Some(name) = real.file_name() else { return };
    let Ok(entries) = fs::read_dir(folder_of(real)) else { return };
    for entry in entries.flatten() {
        if is_part_of(&entry.file_name(), name)
            && entry.file_type().is_ok_and(|kind| kind.is_file())
        {
            remove_dead(&entry.path());
        }
    }
}

fn remove_dead(path: &Path) {
    let Ok(file) = File::options().read(true).write(true).open(path) else { return };
    // It may have become the target since, or another part of that name.
    if file.try_lock().is_ok() && is_at(&file, path) == Some(true) {
        let _ = fs::remove_file(path);
    }
}

/// Whether `entry` is `.NAME.PROCESS-N.part`.
fn is_part_of(entry: &OsStr, name: &OsStr) -> bool {
    let number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let numbers = entry
        .as_encoded_bytes()
        .strip_prefix(b".")
        .and_then(|rest| rest.strip_prefix(name.as_encoded_bytes()))
        .and_then(|rest| rest.strip_prefix(b"."))
        .and_then(|rest| rest.strip_suffix(b".part"));
    numbers.is_some_and(|numbers| match numbers.iter().position(|byte| *byte == b'-') {
        Some(dash) => number(&numbers[..dash]) && number(&numbers[dash + 1..]),
        None => false,
    })
}

/// Whether `path` is a name of the open file, and no link to it; nothing where the system does not
/// say.
fn is_at(file: &File, path: &Path) -> Option<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => return Some(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(false),
        _ => {}
    }
    Some(number_of(file).ok()? == number_at(path).ok()?)
}

/// Gives `file` the owner, where this user may, and the permissions of what it replaces. One that
/// the system refuses to change stays as private as it was made.
#[cfg(unix)]
pub(super) fn take_after(file: &File, old: &Metadata) {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    let Ok(new) = file.metadata() else { return };
    let mut mode = old.mode() & 0o7777;
    if (new.uid(), new.gid()) != (old.uid(), old.gid())
        && fchown(file, Some(old.uid()), Some(old.gid())).is_err()
    {
        // Another owner's programs must not run as this one.
        mode &= 0o1777;
        if new.gid() != old.gid() && fchown(file, None, Some(old.gid())).is_err() {
            // The group is another one, which gets no more than everybody does.
            mode &= 0o1707 | (mode & 0o007) << 3;
        }
    }
    let _ = file.set_permissions(fs::Permissions::from_mode(mode));
}

/// Files have no such permissions here.
#[cfg(not(unix))]
pub(super) fn take_after(_: &File, _: &Metadata) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_by_their_names() {
        let is = |entry: &str| is_part_of(OsStr::new(entry), OsStr::new("m.brk"));
        assert!(is(".m.brk.1-0.part") && is(".m.brk.4194304-17.part"));
        for other in [
            "m.brk",
            ".m.brk.part",
            ".m.brk.1.part",
            ".m.brk.1-.part",
            ".m.brk.-1.part",
            ".m.brk.1-0-2.part",
            ".m.brk.1-0.part~",
            ".m.brk.x.1-0.part",
            ".n.brk.1-0.part",
            "m.brk.1-0.part",
        ] {
            assert!(!is(other), "{other}");
        }
        assert!(!is_part_of(OsStr::new(".m.brk.1-0.part"), OsStr::new("m")));
    }
}
