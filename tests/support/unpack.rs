//! Fixtures that lie in an archive beside the others, unpacked once, below `target`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// `path`, whose second part names the archive `NAME.tar` in the folder that its first names, if
/// that is in `shared`.
///
/// # Panics
/// The archive cannot be unpacked.
pub(crate) fn unpacked(shared: &Path, path: &str) -> Option<PathBuf> {
    let (kind, rest) = path.split_once('/')?;
    let name = rest.split('/').next()?;
    let archive = shared.join(kind).join(format!("{name}.tar"));
    let len = archive.metadata().ok()?.len();
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").join(kind);
    let folder = all.join(format!("{name}-{len}"));
    if !folder.is_dir() {
        // Tests run side by side: whoever comes last finds it there.
        std::fs::create_dir_all(&all).expect("a folder");
        let temp = tempfile::tempdir_in(&all).expect("a temporary folder");
        let mut tar = Command::new("tar");
        tar.arg("-xf").arg(&archive).arg("-C").arg(temp.path());
        assert!(tar.status().expect("tar runs").success(), "{}", archive.display());
        let moved = std::fs::rename(temp.path().join(name), &folder);
        assert!(moved.is_ok() || folder.is_dir(), "{}", folder.display());
    }
    let found = folder.join(rest.strip_prefix(name)?.trim_start_matches('/'));
    found.exists().then_some(found)
}
